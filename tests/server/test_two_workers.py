"""Two workers on one database: exact counts, fair turns, and states that agree."""

import http.client
import json
import threading
import time
from collections import Counter

import pytest

from tests import canned
from tests.attacks.server import Server
from tests.fake_provider import FakeProvider, json_reply

BODY = json.dumps({"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]})
HEADERS = {"Content-Type": "application/json"}
SEEN_WITHIN_S = 0.25

STEADY, SHAKEN = 150, 50
THREADS, REQUESTS = 50, 20_000


def key(number):
    return f"sk-test-openai-key-{number:04d}"


def ask(connection):
    connection.request("POST", "/v1/chat/completions", BODY, HEADERS)
    answer = connection.getresponse()
    body = answer.read()
    # A refusal is told by its text, so that a failing test says what it was.
    return answer.status if answer.status == 200 else body.decode()


def one_request(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        return ask(connection)
    finally:
        connection.close()


def admin(server, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    answer = server.request(method, f"/middleware/api{path}", body=data, headers=HEADERS if data else None)
    assert answer.status < 300, answer.data
    return answer.json()


def ids(server):
    return {row["name"]: row["id"] for row in admin(server, "GET", "/keys") if row["provider"] == "openai"}


def two_workers(folder, provider, count):
    values = ",".join(key(number) for number in range(count))
    return Server(folder, WEB_CONCURRENCY="2", THREADS="60", OPENAI_BASE_URL=provider.origin, OPENAI_API_KEYS=values)


class Shaker(threading.Thread):
    """Rests, disables, deletes and adds keys among those beyond the steady ones, until told to stop."""

    def __init__(self, server, names):
        super().__init__(daemon=True)
        self.server, self.names = server, names
        self.enough, self.rounds, self.fault = threading.Event(), 0, None

    def run(self):
        try:
            while not self.enough.is_set():
                self.shake(self.names[self.rounds % len(self.names)])
                self.rounds += 1
        except (AssertionError, OSError) as fault:
            self.fault = fault

    def shake(self, key_id):
        action = ("Resting", "Healthy", "Disabled", "Healthy")[self.rounds // len(self.names) % 4]
        admin(self.server, "POST", "/keys/bulk-action", {"key_ids": [key_id], "status": action})
        added = admin(self.server, "POST", "/keys", {"key": f"sk-passing-by-{self.rounds:06d}", "provider": "openai"})
        admin(self.server, "DELETE", f"/keys/{added['id']}")


@pytest.mark.timeout(400)
def test_20000_requests_are_shared_out_evenly_while_keys_come_go_rest_and_return(tmp_path):
    with FakeProvider() as provider, two_workers(tmp_path, provider, STEADY + SHAKEN) as server:
        provider.default(json_reply(canned.chat()))
        known = ids(server)
        assert len(known) == STEADY + SHAKEN
        by_number = [known[name] for name in sorted(known, key=lambda name: int(name.split()[1]))]
        shaker = Shaker(server, by_number[STEADY:])
        shaker.start()

        statuses = Counter()
        lock = threading.Lock()

        def work():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            mine = Counter(ask(connection) for _ in range(REQUESTS // THREADS))
            connection.close()
            with lock:
                statuses.update(mine)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        shaker.enough.set()
        shaker.join(30)

        assert shaker.fault is None
        assert shaker.rounds > 10
        assert statuses == {200: REQUESTS}
        used = provider.requests_by_key
        assert sum(used.values()) == REQUESTS
        steady = [used[key(number)] for number in range(STEADY)]
        # At most 2 for each of the two workers.
        assert max(steady) - min(steady) <= 4
        shown = {row["id"]: row["total_usage"] for row in counted(server, by_number[:STEADY], sum(steady))}
        assert [shown[key_id] for key_id in by_number[:STEADY]] == steady


def counted(server, wanted, total):
    """The rows of these keys once their counters, which come at most 100 ms late, add up; or as they are after 5 s."""
    until = time.monotonic() + 5
    while True:
        rows = [row for row in admin(server, "GET", "/keys") if row["id"] in wanted]
        if sum(row["total_usage"] for row in rows) == total or time.monotonic() > until:
            return rows


def used_after(provider, server, moment, requests=60):
    """The keys that requests use which begin after `moment`, on fresh connections to whichever worker accepts."""
    while time.monotonic() < moment:
        time.sleep(0.005)
    before = len(provider.received)
    assert [one_request(server) for _ in range(requests)] == [200] * requests
    return {received.key for received in provider.received[before:]}


def test_a_key_that_a_person_disables_is_used_by_no_worker_after_250_ms(tmp_path):
    with FakeProvider() as provider, two_workers(tmp_path, provider, 3) as server:
        provider.default(json_reply(canned.chat()))
        known = ids(server)
        assert used_after(provider, server, 0) == {key(0), key(1), key(2)}

        admin(server, "PUT", f"/keys/{known['openai 1']}", {"status": "Disabled"})
        moment = time.monotonic() + SEEN_WITHIN_S

        assert used_after(provider, server, moment) == {key(1), key(2)}


def test_a_key_that_one_worker_rests_is_used_by_no_worker_after_250_ms(tmp_path):
    with FakeProvider() as provider, two_workers(tmp_path, provider, 3) as server:
        provider.default(json_reply(canned.chat()))
        limited = json_reply({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, 429, {"Retry-After": "60"})
        provider.by_key({key(0): [limited, json_reply(canned.chat())]})
        while key(0) not in {received.key for received in provider.received}:
            assert one_request(server) == 200
        moment = time.monotonic() + SEEN_WITHIN_S

        assert used_after(provider, server, moment) == {key(1), key(2)}


def test_a_changed_setting_counts_at_every_worker_after_250_ms(tmp_path):
    with FakeProvider() as provider, two_workers(tmp_path, provider, 1) as server:
        provider.default(json_reply(canned.chat()))
        admin(server, "POST", "/settings", {"blocked_user_agents": "badbot"})
        moment = time.monotonic() + SEEN_WITHIN_S
        while time.monotonic() < moment:
            time.sleep(0.005)
        answers = {
            server.request("POST", "/v1/chat/completions", body=BODY.encode(), headers={**HEADERS, **bot}).status
            for bot in [{"User-Agent": "BadBot/1.0", "Connection": "close"}] * 30
        }
        assert answers == {403}
