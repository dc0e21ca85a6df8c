"""
Every row of the truth table over HTTP: a provider of the right kind with two keys, of which the first one meets the
error. The verdict is in the record, the key's state is what the row says, and the caller sees what it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from app.clock import Clock
from app.keys.base import Action, Phase, Scope
from app.usage_queries import RequestFilter
from tests import canned
from tests.fake_provider import (
    Behavior,
    FakeProvider,
    Received,
    black_hole,
    closed_port,
    garbage_status_line,
    json_reply,
    pieces,
    reply,
    reset_before_status,
    short_content_length,
    stream,
)
from tests.gateway import Answer, Gateway
from tests.keys.verdict_case import DISABLED, RESTING, RESTING_FOR_MODEL, Case
from tests.keys.verdict_cases import CASES, WALL_NOW

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GENERATE, STREAM_GENERATE = "/v1beta/models/{}:generateContent", "/v1beta/models/{}:streamGenerateContent?alt=sse"
MODEL = "model-1"
OPENROUTER = "http://openrouter.ai"

#: Family -> kind of the entry, path of its base URL.
KINDS = {
    "gemini": ("gemini", ""),
    "openai": ("openai", ""),
    "anthropic": ("anthropic", ""),
    "azure-openai": ("azure-openai", ""),
    "azure-anthropic": ("azure-anthropic", "/anthropic"),
    "databricks": ("databricks", ""),
    "openrouter": ("openai-compatible", "/api"),
    "generic": ("openai-compatible", ""),
}
NOT_HERE = {
    "connect: dns": "a name that does not resolve asks a server beyond this machine",
    "send: first_byte_timeout": "it takes the shortest read_timeout that there is",
}
#: What the same fault is called where it comes off the wire: the row names the class, the format the exact fault.
CALLED = {
    "generic: 101": "protocol",
    "body: invalid_body": "html",
    "body: empty": "empty_body",
    "body: error_as_answer": "error_in_answer",
}
#: Rows that do not hold yet, and why.
MISSING: dict[str, str] = {}


# -- the call of a row --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    asked: dict[str, Any] | None
    event: Callable[[Any], bytes] = canned.data_event
    prologue: tuple[bytes, ...] = ()


def call_of(case: Case) -> Call:
    """A call in a format that the row's provider speaks, streamed where the error comes inside a stream."""
    if case.model is None:
        return Call("GET", "/v1/files", None)
    assert case.model == MODEL
    streamed = case.phase is Phase.STREAM
    if case.family == "gemini":
        return _gemini_call(case, streamed)
    if case.family in ("anthropic", "azure-anthropic"):
        asked = {**canned.MESSAGES_REQUEST, "model": MODEL, "stream": streamed}
        return Call("POST", MESSAGES, asked, canned.named_event, (canned.MESSAGE_START, canned.MESSAGE_PING))
    if case.family == "openai" and _is_of_responses(case.body):
        asked = {**canned.RESPONSES_REQUEST, "model": MODEL, "stream": streamed}
        return Call("POST", RESPONSES, asked, canned.named_event, tuple(canned.response_stream()[:2]))
    asked = {**canned.CHAT_REQUEST, "model": MODEL, "stream": streamed}
    return Call("POST", CHAT, asked, canned.data_event, (canned.CHAT_ROLE,))


def _gemini_call(case: Case, streamed: bool) -> Call:
    if isinstance(case.body, dict) and "event_type" in case.body:
        asked = {"model": MODEL, "input": "Hi", "stream": True}
        return Call("POST", "/v1beta/interactions", asked)
    path = STREAM_GENERATE if streamed else GENERATE
    return Call("POST", path.format(MODEL), canned.GEMINI_REQUEST)


def _is_of_responses(body: Any) -> bool:
    kind = body.get("type", "") if isinstance(body, dict) else ""
    return (
        kind == "error" or kind.startswith("response.") or (isinstance(body, dict) and body.get("status") == "failed")
    )


def good(request: Received) -> Behavior:
    """A good answer to whatever was asked."""
    if request.method == "GET":
        return json_reply({"object": "list", "data": []})
    wants_stream = "stream" in request.path or (b'"stream": true' in request.body)
    for mark, answer, events in (
        ("generateContent", canned.gemini(), canned.gemini_stream()),
        ("GenerateContent", canned.gemini(), canned.gemini_stream()),
        ("/messages", canned.message(), canned.message_stream()),
        ("/responses", canned.response(), canned.response_stream()),
        ("", canned.chat(), canned.chat_stream()),
    ):
        if mark in request.path:
            return stream(events) if wants_stream else json_reply(answer)
    raise AssertionError(request.path)


def bad(case: Case, call: Call) -> Behavior:
    """What the row says that the provider does."""
    if case.phase is Phase.SEND:
        return garbage_status_line() if case.error == "protocol" else reset_before_status()
    if case.phase is Phase.STREAM:
        return stream([*call.prologue, call.event(case.body)])
    headers = {"Content-Type": "text/html" if case.body_bytes[:1] == b"<" else "application/json", **case.headers}
    if case.error == "incomplete":
        return short_content_length(case.body_bytes)
    if case.status == 101:
        return pieces(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    return reply(case.status, headers, case.body_bytes)


# -- what has to follow -------------------------------------------------------------------------------


def is_provider_wide(case: Case) -> bool:
    return case.scope is Scope.PROVIDER


def second_key_serves(case: Case) -> bool:
    """Whether another key of the same entry can help."""
    if case.phase is Phase.CONNECT or is_provider_wide(case):
        return False
    return case.action not in (Action.CLIENT, Action.STATE)


def expected_status(case: Case) -> range:
    """What the caller sees, as a range of statuses."""
    if second_key_serves(case):
        return range(200, 201)
    if case.phase is Phase.CONNECT:
        return range(502, 503)
    if case.action is Action.KEY_REST:
        return range(429, 430)
    if case.phase is Phase.STREAM:
        return range(400, 500)
    return range(case.status, case.status + 1)


# -- the surroundings ---------------------------------------------------------------------------------


@dataclass
class Bench:
    gateway: Gateway
    upstream: FakeProvider

    @contextmanager
    def entry(self, case: Case, number: int, origin: str = "") -> Iterator[tuple[str, list[int], list[str]]]:
        """An entry for this row alone, with two keys: (its name, their ids, their values)."""
        kind, base_path = KINDS[case.family]
        origin = origin or (OPENROUTER if case.family == "openrouter" else self.upstream.origin)
        name, services = f"row-{number}", self.gateway.services
        services.providers.create({"name": name, "kind": kind, "base_url": origin + base_path})
        values = [f"upstream-key-{number:03d}-{which}" for which in ("first", "second")]
        ids = [services.keys.add(value, provider=name) for value in values]
        yield name, ids, values
        services.keys.bulk(ids, "delete")
        services.providers.delete(name)

    def ask(self, name: str, call: Call) -> Answer:
        return self.gateway.request(call.method, f"/{name}{call.path}", json_body=call.asked)

    def record(self) -> dict[str, Any]:
        """The row of the last request."""
        self.gateway.settle()
        (row,) = self.gateway.services.usage_queries.list_requests(RequestFilter(limit=1))["requests"]
        return dict(row)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # Time stands still, so that every rest is as long as the row says, to the second.
    # Far ahead of the system's clock, by which the loop wakes up: nothing is ever due.
    clock = Clock(monotonic=lambda: 1e9, wall=lambda: WALL_NOW)
    environ = {"POOL_BRAKE_THRESHOLD": "0", "CONNECT_TIMEOUT": "1"}
    folder = tmp_path_factory.mktemp("truth")
    with FakeProvider() as upstream, Gateway(folder, environ=environ, clock=clock) as gateway:
        upstream.default(good)
        yield Bench(gateway, upstream)


@pytest.fixture
def to_openrouter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted upstream plays the proxy through which that host is reached, since its name decides."""
    monkeypatch.setenv("http_proxy", bench.upstream.origin)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


# -- the rows -----------------------------------------------------------------------------------------

HERE = [(number, case) for number, case in enumerate(CASES) if case.id not in NOT_HERE]
ANSWERED = [(number, case) for number, case in HERE if case.phase is not Phase.CONNECT]
UNREACHABLE = [(number, case) for number, case in HERE if case.phase is Phase.CONNECT]


def row(number: int, case: Case) -> Any:
    missing = MISSING.get(case.id)
    marks = [pytest.mark.xfail(strict=True, reason=missing)] if missing else []
    return pytest.param(number, case, id=case.id, marks=marks)


ROWS = [row(number, case) for number, case in ANSWERED]


@pytest.mark.usefixtures("to_openrouter")
@pytest.mark.parametrize(("number", "case"), ROWS)
def test_the_row_holds_over_http(bench: Bench, number: int, case: Case) -> None:
    call = call_of(case)
    with bench.entry(case, number) as (name, ids, values):
        bench.upstream.by_key({values[0]: bad(case, call)})
        answer = bench.ask(name, call)

        record = bench.record()
        attempt = record["attempts"][0]
        assert attempt["key_id"] == ids[0]
        assert (attempt["verdict"], attempt["reason"]) == (case.action, CALLED.get(case.id, case.reason))
        assert answer.status in expected_status(case), answer.body
        assert record["status"] == answer.status
        assert_keys_used(case, record, ids)
        settles(lambda: assert_state(bench, case, name, ids))


def settles(check: Callable[[], None], longest_s: float = 2.0) -> None:
    """
    The check holds after a moment at the latest: a refresh that read the database just before a rest was written there
    forgets it, until the next one finds it.
    """
    end = time.monotonic() + longest_s
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        else:
            return


def assert_keys_used(case: Case, record: dict[str, Any], ids: list[int]) -> None:
    used = [attempt["key_id"] for attempt in record["attempts"]]
    if second_key_serves(case):
        assert used == ids
        assert record["attempts"][1]["verdict"] == "ok"
        assert record["outcome"] == "success"
    else:
        assert used == ids[:1]
        assert record["outcome"] != "success"


def assert_state(bench: Bench, case: Case, name: str, ids: list[int]) -> None:
    """The first key is in the row's state, until the row's instant; the second one is healthy."""
    keys = bench.gateway.services.keys
    first, second = (keys.get(key_id) for key_id in ids)
    if is_provider_wide(case):
        assert (first["status"], second["status"]) == ("Healthy", "Healthy")
        assert keys.usable(name, 1000.0) == 0
        return
    assert (second["status"], second["model_rests"]) == ("Healthy", [])
    rests = {rest["model"]: rest["until"] for rest in first["model_rests"]}
    if case.state == RESTING_FOR_MODEL:
        assert first["status"] == "Healthy"
        assert set(rests) == {case.model, case.named} - {None}
        assert {rest["reason"] for rest in first["model_rests"]} == {case.reason}
        for until in rests.values():
            assert_until(case, until)
        return
    assert (first["status"], rests) == (case.state, {})
    if case.state in (RESTING, DISABLED):
        assert first["reason"] == case.reason
        assert first["evidence"]["status"] == (case.status if case.phase is Phase.HEAD else first["evidence"]["status"])
    if case.state == RESTING:
        assert_until(case, first["disabled_until"])


def assert_until(case: Case, until: float) -> None:
    rest_s = case.rest_s(WALL_NOW)
    if rest_s is not None:
        assert until - WALL_NOW == pytest.approx(rest_s, abs=0.01)
        return
    assert case.ladder is not None
    spread = 0.0 if case.action is Action.MODEL_GONE else 0.2
    assert until - WALL_NOW == pytest.approx(case.ladder.wait_s(0), rel=spread + 0.001)


@contextmanager
def unreachable(case: Case) -> Iterator[str]:
    """An origin to which no connection can be made, for the row's reason."""
    if case.error == "connect_timeout":
        with black_hole() as origin:
            yield origin
    elif case.error == "tls":
        with FakeProvider(tls="valid") as stranger:  # its authority is not among those that we trust
            yield stranger.origin
    else:
        yield closed_port()


@pytest.mark.parametrize(("number", "case"), UNREACHABLE, ids=[case.id for _, case in UNREACHABLE])
def test_a_row_below_http_touches_no_key(bench: Bench, number: int, case: Case) -> None:
    with unreachable(case) as origin, bench.entry(case, number, origin) as (name, ids, _):
        answer = bench.ask(name, call_of(case))
        record = bench.record()
        assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
        assert [attempt["key_id"] for attempt in record["attempts"]] == ids
        assert {(attempt["verdict"], attempt["reason"]) for attempt in record["attempts"]} == {
            ("PROVIDER", case.reason)
        }
        assert [bench.gateway.services.keys.get(key_id)["status"] for key_id in ids] == ["Healthy", "Healthy"]


def test_every_row_is_here_or_has_a_reason_not_to_be() -> None:
    assert {case.id for case in CASES} == {case.id for _, case in HERE} | set(NOT_HERE)
    assert set(CALLED) <= {case.id for _, case in HERE}
    assert {case.family for _, case in HERE} == set(KINDS)
