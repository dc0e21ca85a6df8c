"""
A long mixed load with faults on against `python main.py`: what comes in is booked, and nothing is left behind.

    python -m tests.soak --seconds 600

The upstream fails, cuts, resets, limits and dawdles; callers read, leave, reset, send nonsense. At the end every
request that was sent is recorded or was refused as no request, memory has not grown, no descriptor is left open, and
nothing counts as in flight. Exits with 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import canned, canned_errors
from tests.fake_provider import (
    Behavior,
    FakeProvider,
    Received,
    chunked_without_end,
    close_without_answer,
    gzip_body,
    json_reply,
    reply,
    reset_before_status,
    short_content_length,
    stream,
)
from tests.gateway import RawClient
from tests.server.server import Server, wait_until

CALLERS = 8
WARM_UP_S = 4.0
#: Growth of the worker's memory between the warm-up and the end: caches and the allocator's own ways.
GROWTH_MIB = 24.0
#: Idle upstream connections live 5 s and are looked for every 5 s.
QUIET_S = 20.0
DATABASE = "database"
#: The database opens a connection where threads read at once and keeps it; each holds up to three files.
MAX_DATABASE_FILES = 45
#: Of the upstream's answers: a second of rest for a key. More of them, and nobody is served.
LIMITED_SHARE = 0.001
KEYS = tuple(f"sk-soak-key-{number:04}" for number in range(6))
ANTHROPIC_KEYS = tuple(f"sk-ant-soak-{number:04}" for number in range(3))

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
#: path -> (request, plain answer, events)
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], list[bytes]]] = {
    CHAT: (canned.CHAT_REQUEST, canned.chat(), canned.chat_stream()),
    MESSAGES: (canned.MESSAGES_REQUEST, canned.message(), canned.message_stream()),
}


class Upstream:
    """Chooses what each request meets: mostly a good answer."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, request: Received) -> Behavior:
        _, answer, events = CALLS[MESSAGES if MESSAGES in request.target else CHAT]
        streams = b'"stream": true' in request.body
        good = stream(events) if streams else json_reply(answer)
        if request.key == KEYS[0]:
            return json_reply(canned_errors.OPENAI_BAD_KEY, 401)
        if self._random.random() < LIMITED_SHARE:
            return json_reply(canned_errors.OPENAI_RATE_LIMIT, 429, {"Retry-After": "1"})
        if self._random.random() < 0.7:
            return good
        cut = self._random.randrange(len(events))
        faults = (
            json_reply(canned_errors.OPENAI_SERVER, 500),
            reply(502, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR),
            reset_before_status(),
            close_without_answer(),
            short_content_length(),
            chunked_without_end(),
            gzip_body(b"".join(events), "text/event-stream") if streams else good,
            stream(events[:cut], end="reset") if streams else good,
            stream(events[:cut], end="close") if streams else good,
            stream(events, delay_s=0.02) if streams else good,
            reply(200, {"Content-Type": "application/json"}),
        )
        return self._random.choice(faults)


@dataclass
class Tally:
    """What callers have done. `sent` are requests that must be recorded, `refused` what was no request."""

    sent: int = 0
    refused: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, *, sent: int = 0, refused: int = 0) -> None:
        with self.lock:
            self.seen[what] += 1
            self.sent += sent
            self.refused += refused


class Caller(threading.Thread):
    """Makes one call after the other, each of its own kind, until told to stop."""

    def __init__(self, port: int, tally: Tally, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self._port, self._tally, self._stop_event = port, tally, stop
        self._random = random.Random(seed)
        self.failed: BaseException | None = None

    def run(self) -> None:
        leaving = (self._leaves_at_once, self._leaves_in_the_middle, self._resets_in_the_middle)
        kinds = (*[self._reads] * 4, self._keeps, *leaving, self._sends_nonsense, self._breaks_off, self._is_slow)
        try:
            while not self._stop_event.is_set():
                with RawClient(self._port) as client:
                    client.socket.settimeout(30.0)
                    self._random.choice(kinds)(client)
        except BaseException as error:
            self.failed = error
            raise

    def _ask(self, client: RawClient) -> None:
        path = self._random.choice(tuple(CALLS))
        body = CALLS[path][0] | {"stream": self._random.random() < 0.6}
        client.post(path, body)

    def _read(self, client: RawClient) -> None:
        status, headers = client.head()
        if "content-length" in headers:
            client.exactly(int(headers["content-length"]))
        else:
            client.rest()
        self._tally.add(f"read {status}")

    def _reads(self, client: RawClient) -> None:
        self._tally.add("asked", sent=1)
        self._ask(client)
        self._read(client)

    def _keeps(self, client: RawClient) -> None:
        """Several calls on one connection; one whose answer was cut is closed by the server."""
        try:
            for _ in range(5):
                self._ask(client)
                self._tally.add("asked", sent=1)
                self._read(client)
        except (EOFError, ConnectionError):
            # What the server never read of a connection that it was closing is no request.
            self._tally.add("asked in vain", sent=-1)

    def _leaves_at_once(self, client: RawClient) -> None:
        self._tally.add("left at once", sent=1)
        self._ask(client)

    def _leaves_in_the_middle(self, client: RawClient) -> None:
        self._tally.add("left in the middle", sent=1)
        self._ask(client)
        client.take(1)

    def _resets_in_the_middle(self, client: RawClient) -> None:
        self._tally.add("reset in the middle", sent=1)
        self._ask(client)
        client.take(1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def _sends_nonsense(self, client: RawClient) -> None:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert client.head()[0] == 400
        self._tally.add("refused", refused=1)

    def _breaks_off(self, client: RawClient) -> None:
        """Half a body, then nothing: a request of which only the head came."""
        self._tally.add("broke off", sent=1)
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")

    def _is_slow(self, client: RawClient) -> None:
        self._tally.add("asked slowly", sent=1)
        self._ask(client)
        _, headers = client.head()
        length, body = headers.get("content-length"), b""
        try:
            while not (body.endswith(b"0\r\n\r\n") if length is None else len(body) == int(length)):
                body += client.take(64)
                self._stop_event.wait(0.002)
        except (EOFError, ConnectionError):
            self._tally.add("slow and cut")


@dataclass(frozen=True)
class Findings:
    """How it ended. `problems` is empty where all is well."""

    sent: int
    refused: int
    recorded: int
    growth_mib: float
    descriptors: tuple[int, int]
    in_flight: float
    seen: Counter[str]
    outcomes: Counter[str]
    problems: list[str]


def soak(folder: Path, seconds: float, *, driver: str = "loop", seed: int = 1) -> Findings:
    """Run it."""
    with FakeProvider() as upstream:
        upstream.default(Upstream(seed))
        environ = {
            "DRIVER": driver,
            "OPENAI_BASE_URL": upstream.origin,
            "ANTHROPIC_BASE_URL": upstream.origin,
            "OPENAI_API_KEYS": ",".join(KEYS),
            "ANTHROPIC_API_KEYS": ",".join(ANTHROPIC_KEYS),
            "KEEPALIVE_TIMEOUT": "5",
            "POOL_BRAKE_THRESHOLD": "0",
        }
        with Server(folder, environ=environ) as server:
            # Every row has to be there at the end, however many there are.
            settings = {"log_level": "WARNING", "request_retention_rows": 100_000_000}
            assert server.post("/middleware/api/settings", settings).status == 200
            tally = Tally()
            load(server, tally, WARM_UP_S, seed)
            quiet(server, upstream)
            memory, descriptors = resident_mib(server), open_files(server)
            load(server, tally, seconds, seed + 1)
            quiet(server, upstream)
            return findings(server, tally, memory, descriptors)


def load(server: Server, tally: Tally, seconds: float, seed: int) -> None:
    stop = threading.Event()
    callers = [Caller(server.port, tally, stop, seed * 1000 + number) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until and not any(caller.failed for caller in callers):
        threading.Event().wait(0.2)
    stop.set()
    for caller in callers:
        caller.join(40)
        if caller.failed is not None:
            sys.stderr.write(server.log()[-4000:])
            raise caller.failed
        assert not caller.is_alive(), "a caller hangs"


def quiet(server: Server, upstream: FakeProvider) -> None:
    """Wait until nothing runs and no upstream connection is kept; what stays is found by who asks next."""
    wait_until(lambda: in_flight(server) == 0 and upstream.open_connections == 0, QUIET_S, 0.2)


def findings(server: Server, tally: Tally, memory_before: float, before: Counter[str]) -> Findings:
    wait_until(lambda: len(server.outcomes()) >= tally.sent, 10.0, 0.2)
    outcomes = Counter(server.outcomes())
    recorded = outcomes.total()
    wait_until(lambda: summed_up(server) == outcomes, 10.0, 0.2)
    summed = summed_up(server)
    growth, after = resident_mib(server) - memory_before, open_files(server)
    more = after - before
    running = in_flight(server)
    log = server.log()
    checks = {
        f"{tally.sent} requests were sent and {recorded} recorded": recorded == tally.sent,
        f"the sums say {dict(summed)}": summed == outcomes,
        f"memory grew by {growth:.1f} MiB": growth <= GROWTH_MIB,
        f"more is open than before: {dict(more)}": more.total() - more[DATABASE] <= 1,
        f"{after[DATABASE]} files of the database are open": after[DATABASE] <= MAX_DATABASE_FILES,
        f"{running} requests count as in flight": running == 0,
        "a defect is in the log": "Traceback" not in log and "a callback failed" not in log,
        "no request succeeded": tally.seen["read 200"] > 0,
    }
    problems = [said for said, well in checks.items() if not well]
    files = (before.total(), after.total())
    return Findings(tally.sent, tally.refused, recorded, growth, files, running, tally.seen, outcomes, problems)


def summed_up(server: Server) -> Counter[str]:
    """The outcomes as the dashboard counts them."""
    found: dict[str, int] = server.get("/middleware/api/dashboard?days=7").json["totals"]["outcomes"]
    return Counter(found)


def in_flight(server: Server) -> float:
    found = re.search(r"^middleware_in_flight(?:\{[^}]*\})? ([0-9.e+]+)$", server.get("/metrics").body.decode(), re.M)
    assert found is not None, "the gauge is missing"
    return float(found[1])


def resident_mib(server: Server) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.workers)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def open_files(server: Server) -> Counter[str]:
    """How many descriptors the workers hold, by what they are: `socket`, `pipe`, `database`, a path."""
    found: Counter[str] = Counter()
    for pid in server.workers:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except FileNotFoundError:
                continue
            name, colon, _ = target.partition(":[")
            found[name if colon else DATABASE if ".db" in Path(target).name else target] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--driver", choices=("loop", "threads"), default="loop")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), given.seconds, driver=given.driver, seed=given.seed)
    before, after = found.descriptors
    sys.stdout.write(
        f"sent {found.sent}, recorded {found.recorded}, refused {found.refused}\n"
        f"memory {found.growth_mib:+.1f} MiB, open files {before} -> {after}, in flight {found.in_flight:.0f}\n"
        f"callers: {dict(found.seen.most_common())}\noutcomes: {dict(found.outcomes.most_common())}\n"
    )
    for problem in found.problems:
        sys.stdout.write(f"WRONG: {problem}\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
