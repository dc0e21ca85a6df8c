"""What is decided while the database is being read, or is being written meanwhile, is not undone by what was read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from app.clock import Clock
from app.errors import AllKeysResting, ModelNotFound, NoKeys
from app.keys.base import Action, Ladder, Scope, Verdict
from app.storage.schema import keys, revision

from .conftest import take, wait_until, wanted

LIMITED = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=600.0)
BRIEFLY = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=5.0)
GROWING = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", ladder=Ladder(60.0, 5.0, 3600.0))
DEAD = Verdict(Action.KEY_DEAD, Scope.KEY, "invalid_api_key")
NARROW = {
    "pair": Verdict(Action.KEY_REST, Scope.KEY_MODEL, "rate_limited", rest_s=600.0),
    "group": Verdict(Action.KEY_REST, Scope.GROUP, "rate_limited", rest_s=600.0),
    "group and model": Verdict(Action.KEY_REST, Scope.GROUP_MODEL, "rate_limited", rest_s=600.0),
    "model gone": Verdict(Action.MODEL_GONE, Scope.KEY_MODEL, "model_not_found"),
}


@contextlib.contextmanager
def when_the_pairs_are_read(do: Callable[[], object]) -> Iterator[None]:
    """Do something once, when a refresh has its view of the database and has not merged it yet."""
    todo = [do]

    def executed(_connection, _cursor, statement, *_rest) -> None:
        if statement.startswith("SELECT key_model_rests") and todo:
            todo.pop()()

    sa.event.listen(sa.Engine, "after_cursor_execute", executed)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", executed)
    assert not todo, "the pairs were not read"


class Held:
    """Holds the writer's thread inside a job: `reached` is set when it is there, and `go` lets it go on."""

    def __init__(self, worker) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        worker.writer.urgent(self)

    def __call__(self, _connection) -> None:
        self.reached.set()
        assert self.go.wait(10.0)


def refuses(worker, moment, **more: object) -> bool:
    try:
        lease = take(worker, moment, **more)
    except (AllKeysResting, NoKeys, ModelNotFound):
        return True
    worker.keys.released(lease, moment.monotonic)
    return False


def add(worker, count: int = 1) -> None:
    for number in range(count):
        worker.keys.add(f"AIza-secret-value-{number:04d}", group="project")


def fail(worker, moment, verdict: Verdict) -> None:
    worker.keys.failed(take(worker, moment), verdict, moment.monotonic, 429)


def status(worker) -> str:
    return str(worker.keys.get(1)["status"])


def stored(worker) -> dict[str, object]:
    with worker.database.read() as connection:
        return dict(connection.execute(sa.select(keys).where(keys.c.id == 1)).mappings().one())


@pytest.mark.parametrize("name", NARROW)
def test_a_rest_that_is_written_while_the_pairs_are_read_stays(worker, moment, name):
    add(worker)

    def rest() -> None:
        fail(worker, moment, NARROW[name])
        worker.written()

    with when_the_pairs_are_read(rest):
        worker.keys.refresh()
    assert refuses(worker, moment)
    worker.keys.refresh()

    assert refuses(worker, moment)


@pytest.mark.parametrize("name", NARROW)
def test_a_rest_whose_commit_is_under_way_while_the_pairs_are_read_stays(worker, moment, name):
    add(worker)
    before = Held(worker)
    assert before.reached.wait(5.0)
    fail(worker, moment, NARROW[name])
    after = Held(worker)  # in one transaction with the rest
    before.go.set()
    assert after.reached.wait(5.0)

    worker.keys.refresh()
    kept = refuses(worker, moment)
    after.go.set()
    worker.written()
    worker.keys.refresh()

    assert kept
    assert refuses(worker, moment)


def test_a_key_that_rests_while_another_workers_recovery_is_read_stays_at_rest(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    fail(worker, moment, GROWING)
    worker.written()
    other.keys.refresh()
    moment.pass_s(80.0)
    other.keys.succeeded(take(other, moment), moment.monotonic)
    other.written()

    def rest() -> None:
        fail(worker, moment, LIMITED)
        worker.written()

    with when_the_pairs_are_read(rest):
        worker.keys.refresh()
    assert refuses(worker, moment)
    worker.keys.refresh()

    assert refuses(worker, moment)
    assert stored(worker)["status"] == "Resting"


def test_a_persons_change_still_wins_over_what_is_decided_while_it_is_read(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    other.keys.update(1, {"status": "Disabled"})
    other.keys.update(1, {"status": "Healthy"})

    def die() -> None:
        fail(worker, moment, DEAD)
        worker.written()

    with when_the_pairs_are_read(die):
        worker.keys.refresh()

    assert (status(worker), stored(worker)["status"]) == ("Healthy", "Healthy")


def test_a_longer_rest_of_another_worker_is_taken_over_once_the_own_decision_is_settled(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    fail(other, moment, LIMITED)
    other.written()
    held = Held(worker)
    assert held.reached.wait(5.0)
    fail(worker, moment, BRIEFLY)
    worker.keys.refresh()
    assert worker.keys.get(1)["disabled_until"] == pytest.approx(moment.wall + 5.0, abs=0.01)
    held.go.set()
    worker.written()

    worker.keys.refresh()

    assert worker.keys.get(1)["disabled_until"] == pytest.approx(moment.wall + 600.0, abs=0.01)
    assert stored(worker)["disabled_until"] == pytest.approx(moment.wall + 600.0, abs=0.01)


def test_what_a_reading_had_to_leave_out_is_read_again_without_another_change(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    fail(other, moment, LIMITED)
    other.written()

    def rest() -> None:
        held = Held(worker)
        assert held.reached.wait(5.0)
        fail(worker, moment, BRIEFLY)
        threading.Timer(0.05, held.go.set).start()

    with when_the_pairs_are_read(rest):
        worker.keys.refresh()
    worker.written()
    with worker.database.read() as connection:
        before = connection.execute(sa.select(revision.c.value)).scalar_one()
    worker.keys.start()
    wait_until(lambda: worker.keys.get(1)["disabled_until"] == pytest.approx(moment.wall + 600.0, abs=0.01))

    with worker.database.read() as connection:
        assert connection.execute(sa.select(revision.c.value)).scalar_one() == before


def test_a_decision_that_cannot_be_written_hides_no_later_change_of_others(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    with worker.database.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE OF status ON keys BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    fail(worker, moment, LIMITED)
    worker.written()
    assert worker.writer.dropped == 1
    with worker.database.transaction() as connection:
        connection.exec_driver_sql("DROP TRIGGER refuse")
    fail(other, moment, BRIEFLY)
    other.written()

    worker.keys.refresh()

    assert worker.keys.get(1)["disabled_until"] == pytest.approx(moment.wall + 5.0, abs=0.01)


def test_a_rest_that_ends_and_begins_again_in_one_batch_is_stored_as_it_is_now(worker, moment):
    add(worker)
    held = Held(worker)
    assert held.reached.wait(5.0)
    fail(worker, moment, GROWING)
    worker.keys.heal(moment.pass_s(80.0))
    worker.keys.succeeded(take(worker, moment), moment.monotonic)
    held.go.set()
    worker.written()

    assert (stored(worker)["status"], stored(worker)["failures"]) == ("Healthy", 0)


# -- what counts as a change -------------------------------------------------------------------------------


def test_a_change_of_state_at_the_same_instant_is_seen(worker, moment):
    add(worker)
    with worker.database.transaction() as connection:
        values = {"status": "Disabled", "state_by": "person", "reason": "manual", "version": keys.c.version + 1}
        connection.execute(sa.update(keys).values(**values))
    worker.keys.refresh()

    assert refuses(worker, moment)


def test_a_renamed_key_starts_no_new_epoch_and_keeps_a_rest_of_this_worker(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    lease = take(worker, moment)
    other.keys.update(1, {"name": "Other", "note": "of another worker"})
    worker.keys.refresh()
    worker.keys.failed(lease, LIMITED, moment.monotonic, 429)
    other.keys.update(1, {"name": "Once more"})
    worker.keys.refresh()

    assert refuses(worker, moment)


def test_a_group_that_a_person_woke_elsewhere_rests_again_for_a_shorter_time(worker, moment, new_worker):
    add(worker, 2)
    other = new_worker()
    fail(worker, moment, NARROW["group"])
    worker.written()
    other.keys.refresh()
    worker.keys.wake(1)
    other.keys.refresh()
    assert not refuses(other, moment)
    fail(worker, moment, Verdict(Action.KEY_REST, Scope.GROUP, "rate_limited", rest_s=30.0))
    worker.written()
    other.keys.refresh()

    assert refuses(other, moment)


def test_a_group_that_a_person_woke_at_another_key_than_the_one_that_reported_stays_awake(worker, moment, new_worker):
    add(worker, 2)
    other = new_worker()
    fail(worker, moment, NARROW["group"])
    worker.written()
    other.keys.refresh()
    worker.keys.wake(2)

    for _ in range(2):
        for one in (worker, other):
            one.keys.refresh()
            assert not refuses(one, moment)
            one.written()


def test_no_pair_that_rests_is_served_while_the_database_is_read_all_the_time(new_worker):
    clock = Clock()
    worker = new_worker(clock)
    worker.settings.update({"pool_brake_threshold": 0})
    add(worker)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            worker.keys.refresh()

    reader = threading.Thread(target=read)
    reader.start()
    served_again = []
    try:
        for number in range(200):
            model = f"model-{number}"
            lease = worker.keys.acquire(wanted(model=model), clock.monotonic())
            worker.keys.failed(lease, NARROW["pair"], clock.monotonic(), 429)
            for _ in range(3):
                with contextlib.suppress(AllKeysResting):
                    worker.keys.released(worker.keys.acquire(wanted(model=model), clock.monotonic()), clock.monotonic())
                    served_again.append(model)
                done.wait(0.001)
    finally:
        done.set()
        reader.join()

    assert served_again == []


def test_a_conversation_that_moves_while_conversations_are_read_stays_with_its_new_key(worker):
    def owner():
        return worker.keys.owner(("gemini",), ["conversation"], 0.0)

    def move(key_id):
        worker.keys.remember("gemini", "conversation", key_id, 0.0)
        assert worker.writer.flush(10.0)

    move(1)
    todo = [lambda: move(2)]

    def executed(_connection, _cursor, statement, *_rest) -> None:
        if statement.startswith("SELECT session_keys.") and todo:
            todo.pop()()

    sa.event.listen(sa.Engine, "after_cursor_execute", executed)
    try:
        worker.keys._sessions.refresh()
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", executed)

    assert not todo, "the conversations were not read"
    assert owner() == 2
    worker.keys._sessions.refresh()
    assert owner() == 2
