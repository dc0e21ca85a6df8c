"""
Both drivers run the same core: the thread driver as a plain WSGI call, the loop driver over sockets, against the same
upstream, with the same answers, the same requests upstream and the same rows, byte for byte.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from app.clock import Clock
from tests.attacks.server import read_to_the_end, split_answer
from tests.fake_provider import FakeProvider, Step, chunk, delay, head, pieces, stream, wait_for
from tests.gateway import KEYS, Gateway, unchunk
from tests.proxy.stream_cases import CASES as STREAMS
from tests.proxy.stream_cases import StreamCase, chunks_of
from tests.server.parity_cases import CASES, CHAT_STREAMED, Case, held, post
from tests.wsgi_call import Said, call

OTHER = "the-other-request"
WALL = 1_790_000_000.0
#: Differ by nature: when, by whom, how framed.
VOLATILE = {"date", "server", "connection", "transfer-encoding"}
#: Columns of a row that tell times and numbers of rows.
TIMES = {"id", "key_id", "duration_ms", "first_byte_ms", "started", "started_at", "client_id"}
ATTEMPT_TIMES = {"key_id", "duration_ms", "wait_ms"}

#: Instants and waits: rests are of random length, and what is left of one depends on how long the test took.
WAITS = re.compile(rb'"[0-9.]+s"|20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]+(Z|[+]00:00)')

Ask = Callable[[Gateway, bytes], Said]


def by_threads(gateway: Gateway, request: bytes) -> Said:
    return call(gateway.app, request)


def by_loop(gateway: Gateway, request: bytes) -> Said:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10.0) as connection:
        connection.sendall(request)
        received = read_to_the_end(connection)
    status, headers, body = split_answer(received)
    whole = True
    if headers.get("transfer-encoding") == "chunked":
        body, whole = unchunk(body)
    elif "content-length" in headers and not request.startswith(b"HEAD "):
        whole = len(body) == int(headers["content-length"])
    return Said(status, list(headers.items()), body, whole)


DRIVERS: dict[str, Ask] = {"threads": by_threads, "loop": by_loop}


class Side:
    """One driver with its gateway, and an upstream of its own for each case."""

    def __init__(self, gateway: Gateway, ask: Ask) -> None:
        self._gateway = gateway
        self._ask = ask

    def play(self, case: Case) -> dict[str, Any]:
        """What the caller, the upstream and the books have seen of it."""
        services = self._gateway.services
        before = max((row["id"] for row in self._gateway.records()), default=0)
        with FakeProvider() as upstream, held(self._gateway, case) as ready:
            ids = []
            for provider, pattern in KEYS.items():
                services.providers.update(provider, {"base_url": upstream.origin})
                ids += [services.keys.add(pattern % number, provider=provider) for number in (1, 2)]
            said = self._talk(upstream, ready)
            rows = [row for row in self._gateway.records() if row["id"] > before and row["request_id"] != OTHER]
            keys = [key for key in services.keys.list_keys() if key["id"] in ids]
            services.keys.bulk(ids, "Healthy")  # ends the pauses of their providers too
            services.keys.bulk(ids, "delete")
            sent = [
                (one.method, one.target, one.key, one.body, sorted((n, v) for n, v in one.header_list if n != "Host"))
                for one in upstream.received
            ]
        places = {key_id: place for place, key_id in enumerate(ids)}
        return {
            "said": [_comparable(one, case, places) for one in said],
            "sent": sent,
            "rows": [_row(row, case, places) for row in rows],
            "keys": [
                (key["status"], key["reason"], key["evidence"], [rest["model"] for rest in key["model_rests"]])
                for key in keys
            ],
        }

    @contextmanager
    def serving(self, upstream: FakeProvider) -> Iterator[Gateway]:
        """The gateway, its providers led to this upstream, with one key each."""
        services, ids = self._gateway.services, []
        for provider, pattern in KEYS.items():
            services.providers.update(provider, {"base_url": upstream.origin})
            ids.append(services.keys.add(pattern % 1, provider=provider))
        try:
            yield self._gateway
        finally:
            services.keys.bulk(ids, "delete")

    def _talk(self, upstream: FakeProvider, case: Case) -> list[Said]:
        if not case.crowded:
            upstream.answers(*case.upstream)
            return [self._ask(self._gateway, case.request) for _ in range(case.times)]
        go_on = Event()
        upstream.answers(stream([wait_for(go_on), b"data: [DONE]\n\n"]), *case.upstream)
        with self._gateway.raw() as other:
            other.post("/v1/chat/completions", CHAT_STREAMED, X_Request_ID=OTHER)
            assert upstream.wait_requests(1)
            return [self._ask(self._gateway, case.request) for _ in range(case.times)]


def _comparable(said: Said, case: Case, places: dict[int, int]) -> Any:
    headers = {}
    for name, value in said.headers:
        if name.lower() not in VOLATILE:
            headers.setdefault(name.lower(), []).append(value)
    if "x-middleware-key" in headers:
        headers["x-middleware-key"] = [places.get(int(key), key) for key in headers["x-middleware-key"]]
    body = WAITS.sub(b"", said.body)
    if b"all_keys_resting" in body:
        del headers["content-length"]
        headers["retry-after"] = [int(wait) // 10 for wait in headers["retry-after"]]
    if case.made_id:
        (made,) = headers.pop("x-request-id")
        assert len(made) == 32
    return said.status, headers, body, said.whole


def _row(row: dict[str, Any], case: Case, places: dict[int, int]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in TIMES}
    kept["key"] = places.get(row["key_id"])
    kept["has_client"] = row["client_id"] is not None
    if case.made_id:
        del kept["request_id"]
    if row["outcome"] == "resting" or row["status"] == 429:
        del kept["response_bytes"]  # the wait that is told has more digits or fewer
    kept["attempts"] = [
        {name: value for name, value in attempt.items() if name not in ATTEMPT_TIMES}
        | {"key": places.get(attempt["key_id"])}
        for attempt in row["attempts"]
    ]
    return kept


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    environ = {"POOL_BRAKE_THRESHOLD": "0", "FAILOVER_STRATEGY": "priority"}
    clock = Clock(wall=lambda: WALL)
    made = {name: Gateway(tmp_path_factory.mktemp(name), environ=environ, driver=name, clock=clock) for name in DRIVERS}
    with made["threads"], made["loop"]:
        yield {name: Side(made[name], ask) for name, ask in DRIVERS.items()}


@pytest.mark.parametrize("name", CASES)
def test_both_drivers_treat_alike(name: str, sides: dict[str, Side]) -> None:
    case = CASES[name]
    threads = sides["threads"].play(case)
    loop = sides["loop"].play(case)
    assert loop == threads


# -- every boundary -----------------------------------------------------------------------------------------


def answer_of(case: StreamCase, *, streamed: bool) -> bytes:
    """The whole answer of an upstream, as bytes."""
    if not streamed:
        data = json.dumps(case.answer).encode()
        return head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))}) + data
    framed = b"".join(chunk(event) for event in case.events)
    return head(200, {"Content-Type": case.content_type, "Transfer-Encoding": "chunked"}) + framed + b"0\r\n\r\n"


def keep_alive(request: bytes) -> bytes:
    return request.replace(b"Connection: close\r\n", b"", 1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("case", STREAMS[:4], ids=str)
def test_an_answer_may_be_split_at_every_byte(case: StreamCase, streamed: bool, sides: dict[str, Side]) -> None:
    dialect = case.dialect if streamed else case.as_plain()
    whole, request = answer_of(case, streamed=streamed), post(dialect.path, dialect.request)
    expected = case.body if streamed else json.dumps(case.answer).encode()
    with FakeProvider() as upstream, sides["loop"].serving(upstream) as gateway, gateway.raw() as client:
        upstream.answers(*(pieces(whole[:cut], gap(), whole[cut:]) for cut in range(1, len(whole))))
        for cut in range(1, len(whole)):
            client.send(keep_alive(request))
            status, headers = client.head()
            body = client.exactly(int(headers["content-length"])) if not streamed else b"".join(chunks_of(client)[0])
            assert (cut, status, body) == (cut, 200, expected)
        assert len(upstream.received) == len(whole) - 1
    with FakeProvider() as upstream, sides["threads"].serving(upstream) as gateway:
        cuts = range(1, len(whole), 5)  # what reads the answer is the same code: here it is driven once more
        upstream.answers(*(pieces(whole[:cut], gap(), whole[cut:]) for cut in cuts))
        for cut in cuts:
            said = call(gateway.app, request)
            assert (cut, said.status, said.body, said.whole) == (cut, 200, expected, True)


def gap() -> Step:
    """Long enough for the reader to take what was sent before."""
    return delay(0.0005)
