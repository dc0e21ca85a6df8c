"""Many threads on one KeyManager, and several KeyManagers on one database, while people change the keys."""

from __future__ import annotations

import random
import threading
from collections import Counter

import sqlalchemy as sa

from app.clock import Clock
from app.errors import AllKeysResting, NoKeys
from app.keys.base import Action, Scope, Verdict
from app.storage.schema import keys

from .conftest import wait_until, wanted

STEADY = 100
VERDICTS = (
    Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=1.0),
    Verdict(Action.KEY_REST, Scope.KEY_MODEL, "rate_limited", rest_s=1.0),
    Verdict(Action.KEY_REST, Scope.GROUP, "rate_limited", rest_s=1.0),
    Verdict(Action.KEY_DEAD, Scope.KEY, "invalid_api_key"),
    Verdict(Action.MODEL_GONE, Scope.KEY_MODEL, "model_not_found"),
    Verdict(Action.CLIENT),
)


class Crowd:
    """Threads that take and report keys. What one of them raises fails the test: warnings are errors."""

    def __init__(self, workers, threads: int, cycles: int) -> None:
        self.clock = Clock()
        self.picked: list[Counter[int]] = [Counter() for _ in range(threads)]
        self.refused = 0
        self._threads = [
            threading.Thread(target=self._cycle, args=(workers[number % len(workers)], number, cycles))
            for number in range(threads)
        ]

    def run(self, *others) -> None:
        """Run the crowd, and `others` beside it until it has finished."""
        done = threading.Event()
        helpers = [threading.Thread(target=other, args=(done,)) for other in others]
        for thread in (*self._threads, *helpers):
            thread.start()
        for thread in self._threads:
            thread.join()
        done.set()
        for thread in helpers:
            thread.join()

    def _cycle(self, worker, number: int, cycles: int) -> None:
        source = random.Random(number)
        for _ in range(cycles):
            try:
                lease = worker.keys.acquire(wanted(), self.clock.monotonic())
            except (AllKeysResting, NoKeys):
                self.refused += 1
                continue
            self.picked[number][lease.key_id] += 1
            now = self.clock.monotonic()
            if lease.key_id > STEADY and source.random() < 0.3:
                worker.keys.failed(lease, source.choice(VERDICTS), now)
            elif source.random() < 0.1:
                worker.keys.released(lease, now)
            else:
                worker.keys.succeeded(lease, now)

    @property
    def total(self) -> Counter[int]:
        return sum(self.picked, Counter())


def people(worker):
    """Add, delete, rest, disable and enable the keys that are not steady."""

    def change(done: threading.Event) -> None:
        source = random.Random(1)
        number = 0
        while not done.is_set():
            number += 1
            others = [item["id"] for item in worker.keys.list_keys() if item["id"] > STEADY]
            chosen = source.sample(others, min(5, len(others)))
            worker.keys.bulk(chosen or [10**6], source.choice(("Resting", "Disabled", "Healthy", "delete")))
            worker.keys.add(f"AIza-new-value-{number}", group=source.choice(("", "team")))
            done.wait(0.01)

    return change


def fill(worker, count: int) -> None:
    rows = [
        {"key_value": f"AIza-value-{number:05d}", "group": "team" if number % 7 == 0 and number > STEADY else ""}
        for number in range(1, count + 1)
    ]
    assert worker.keys.import_(rows) == (count, 0)


def total_written(worker) -> dict[int, int]:
    with worker.database.read() as connection:
        rows = connection.execute(sa.select(keys.c.id, keys.c.total_requests))
        return {row.id: row.total_requests for row in rows}


def test_fifty_threads_two_hundred_keys_and_people_at_work(new_worker):
    worker = new_worker(Clock())
    worker.settings.update({"pool_brake_threshold": 0})
    fill(worker, 200)
    worker.start()
    crowd = Crowd([worker], threads=50, cycles=400)

    crowd.run(people(worker))
    worker.written()

    steady = [crowd.total[key_id] for key_id in range(1, STEADY + 1)]
    assert max(steady) - min(steady) <= 1
    assert crowd.total.total() + crowd.refused == 20_000
    written = total_written(worker)
    assert all(written[key_id] == crowd.total[key_id] for key_id in written)
    assert worker.writer.dropped == 0


def test_two_workers_share_the_keys_evenly_and_lose_no_count(new_worker):
    first, second = new_worker(Clock()), new_worker(Clock())
    first.settings.update({"pool_brake_threshold": 0})
    fill(first, 150)
    for worker in (first, second):
        worker.start()
    wait_until(lambda: second.keys.usable("gemini", Clock().monotonic()) == 150)
    crowd = Crowd([first, second], threads=16, cycles=250)

    crowd.run(people(first))
    for worker in (first, second):
        worker.written()

    per_worker = [sum(crowd.picked[start::2], Counter()) for start in (0, 1)]
    for picked in per_worker:
        steady = [picked[key_id] for key_id in range(1, STEADY + 1)]
        assert max(steady) - min(steady) <= 2
    written = total_written(first)
    assert all(written[key_id] == crowd.total[key_id] for key_id in written)
    assert crowd.total.total() + crowd.refused == 4_000
    shown = [{item["id"]: item["status"] for item in worker.keys.list_keys()} for worker in (first, second)]
    assert wait_until(lambda: _agree(first, second)) < 2.0, shown


def _agree(first, second) -> bool:
    """Whether both workers and the database say the same of every key that no clock changes."""

    def disabled(worker):
        return {item["id"] for item in worker.keys.list_keys() if item["status"] == "Disabled"}

    with first.database.read() as connection:
        stored = set(connection.execute(sa.select(keys.c.id).where(keys.c.status == "Disabled")).scalars())
    return disabled(first) == disabled(second) == stored


def test_probes_of_two_workers_never_overlap(new_worker):
    workers = [new_worker(Clock()), new_worker(Clock())]
    fill(workers[0], 1)
    for worker in workers:
        worker.start()
    wait_until(lambda: workers[1].keys.has_keys("gemini"))
    clock = Clock()
    lease = workers[0].keys.acquire(wanted(), clock.monotonic())
    workers[0].keys.failed(lease, VERDICTS[0], clock.monotonic())
    wait_until(lambda: workers[1].keys.get(1)["status"] == "Resting")
    at_once, most, lock = [0], [0], threading.Lock()

    def probe(worker, done_at: float) -> None:
        while clock.monotonic() < done_at:
            try:
                held = worker.keys.acquire(wanted(), clock.monotonic())
            except AllKeysResting:
                continue
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            with lock:
                at_once[0] -= 1
            worker.keys.released(held, clock.monotonic())

    done_at = clock.monotonic() + 2.0
    threads = [threading.Thread(target=probe, args=(workers[number % 2], done_at)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1]
