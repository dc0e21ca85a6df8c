"""
What each live setting changes, shown by the running product: `PROOFS` has one proof for each, by the setting's name.

A proof sets its setting as an administrator does and looks at what callers, upstreams or operators then see. Run with
`ignored` naming its setting, the same proof has to fail: so none of them can pass for another reason.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
import urllib3

from app.retention import Retention
from app.server import idle
from app.usage_queries import RequestFilter
from tests import canned, canned_errors
from tests.fake_provider import FakeProvider, black_hole, closed_port, hang, json_reply, stream, wait_for
from tests.gateway import Answer, RawClient
from tests.proxy.dialects import MovingClock
from tests.stage import Stage

CHAT: Final = "/v1/chat/completions"
API: Final = "/middleware/api"
#: Time limits are shortened to this, beyond what people may set, so that no test waits for seconds.
SHORT_S: Final = 0.2


@dataclasses.dataclass
class Site:
    """
    ignored     -- a setting whose changes don't arrive, to show that its proof would notice
    patience_s  -- how long a caller waits before it counts as never
    """

    stage: Stage
    time: MovingClock
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    ignored: str = ""
    patience_s: float = 10.0
    changed: set[str] = dataclasses.field(default_factory=set)

    # -- the administrator ------------------------------------------------------------------------

    def set(self, **values: Any) -> None:
        """Change settings by the admin API."""
        wanted = self._heard(values)
        if wanted:
            answer = self.stage.gateway.post(f"{API}/settings", wanted)
            assert answer.status == 200, answer.body

    def shorten(self, **values: Any) -> None:
        """Change settings of this process beyond the range that people may choose from."""
        self.stage.gateway.set(**self._heard(values))

    def _heard(self, values: dict[str, Any]) -> dict[str, Any]:
        self.changed |= set(values)
        return {name: value for name, value in values.items() if name != self.ignored}

    def see(self, path: str) -> Any:
        """What the administrator reads there."""
        self.stage.gateway.settle()
        return json.loads(self.stage.gateway.get(path).body)

    def only_keys(self, count: int, **fields: Any) -> list[str]:
        """Give the OpenAI entry these keys and no others, named `only-<number>`; returns their values."""
        keys = self.stage.gateway.services.keys
        for row in keys.list_keys():
            if row["provider"] == "openai":
                keys.delete(row["id"])
        values = [f"only-key-for-this-proof-{number:04d}" for number in range(count)]
        for number, value in enumerate(values):
            one = {name: of(number) for name, of in fields.items()}
            keys.add(value, provider="openai", name=f"only-{number}", **one)
        return values

    # -- the caller -------------------------------------------------------------------------------

    @property
    def upstream(self) -> FakeProvider:
        return self.stage.upstream

    def ask(self, method: str = "POST", path: str = CHAT, body: Any = canned.CHAT_REQUEST, **headers: str) -> Answer:
        """A call; raises urllib3's error when no answer comes in time."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        with urllib3.PoolManager(retries=False) as pool:
            answer = pool.request(
                method, self.stage.origin + path, body=data, headers=sent, timeout=self.patience_s, retries=False
            )
            return Answer(answer.status, dict(answer.headers), answer.data)

    def ask_many(self, count: int) -> list[int]:
        """So many calls, one after the other; their status codes."""
        return [self.ask().status for _ in range(count)]

    def begin(self, body: Any) -> RawClient:
        """A call whose answer is read bit by bit."""
        client = self.stage.gateway.raw()
        client.socket.settimeout(self.patience_s)
        client.post(CHAT, body)
        return client

    def serve(self) -> None:
        self.upstream.default(json_reply(canned.chat()))

    def fail(self) -> None:
        self.upstream.default(json_reply(canned_errors.OPENAI_SERVER, 500))

    def lead_to(self, origin: str) -> None:
        self.stage.gateway.services.providers.update("openai", {"base_url": origin})


Proof = Callable[[Site], None]
PROOFS: dict[str, Proof] = {}

STREAMED: Final = {**canned.CHAT_REQUEST, "stream": True}


def proves(name: str) -> Callable[[Proof], Proof]:
    """Enter a proof for the setting `name`."""

    def enter(proof: Proof) -> Proof:
        assert name not in PROOFS, f"two proofs for {name}"
        PROOFS[name] = proof
        return proof

    return enter


# -- retries and timeouts ----------------------------------------------------------------------------


@proves("max_retries")
def no_more_further_keys_than_max_retries_are_tried(here: Site) -> None:
    here.only_keys(6)
    here.fail()
    here.set(max_retries=2)
    here.ask()
    assert len(here.upstream.received) == 3


@proves("request_timeout")
def no_caller_waits_longer_than_request_timeout_for_the_first_byte(here: Site) -> None:
    here.upstream.default(hang())
    here.shorten(request_timeout=SHORT_S)
    assert here.ask().json["error"]["code"] == "upstream_timeout"


@proves("connect_timeout")
def an_address_that_never_answers_is_given_up_after_connect_timeout(here: Site) -> None:
    with black_hole() as origin:
        here.lead_to(origin)
        here.set(retry_total=0)
        here.shorten(connect_timeout=SHORT_S)
        assert here.ask().status == 502


@proves("read_timeout")
def a_silent_provider_is_left_for_the_next_key_after_read_timeout(here: Site) -> None:
    here.upstream.answers(hang())
    here.serve()
    here.shorten(read_timeout=SHORT_S)
    answer = here.ask()
    assert (answer.status, answer.headers["x-middleware-attempts"]) == (200, "2")


@proves("streaming_timeout")
def a_stream_that_falls_silent_for_streaming_timeout_is_cut(here: Site) -> None:
    words = [canned.CHAT_ROLE, canned.chat_chunk({"content": "Hello"})]
    here.upstream.default(stream(words, end="hang"))
    here.shorten(streaming_timeout=SHORT_S)
    with here.begin(STREAMED) as client:
        assert client.head()[0] == 200
        _, complete = client.rest()
    assert not complete


@proves("retry_total")
def a_provider_that_refuses_connections_is_tried_retry_total_times_more(here: Site) -> None:
    here.only_keys(6)
    here.lead_to(closed_port())
    here.set(retry_total=1)
    here.ask()
    assert len(here.stage.record()["attempts"]) == 2


@proves("retry_backoff_factor")
def the_wait_before_an_extra_try_is_retry_backoff_factor(here: Site) -> None:
    here.lead_to(closed_port())
    here.set(retry_total=1, retry_backoff_factor=0.5)
    begun = time.monotonic()
    here.ask()
    assert time.monotonic() - begun >= 0.25


@proves("heartbeat_interval")
def a_silent_stream_gets_a_blank_line_every_heartbeat_interval(here: Site) -> None:
    go_on = threading.Event()
    events = canned.chat_stream(usage=False)
    here.upstream.default(stream([*events[:2], wait_for(go_on), *events[2:]]))
    here.shorten(heartbeat_interval=SHORT_S)
    with here.begin(STREAMED) as client:
        client.until(events[1])
        try:
            assert client.until(b"\r\n4\r\n\r\n\r\n\r\n")
        finally:
            go_on.set()


# -- connections -------------------------------------------------------------------------------------


@proves("connection_pooling_enabled")
def without_pooling_each_call_has_a_connection_of_its_own(here: Site) -> None:
    here.serve()
    here.set(connection_pooling_enabled=False)
    for _ in range(3):
        here.ask()
        here.stage.gateway.quiet()
    assert here.upstream.total_connections == 3


@proves("pool_connections")
def idle_connections_are_kept_to_no_more_origins_than_pool_connections(here: Site) -> None:
    here.serve()
    here.set(pool_connections=1)
    with FakeProvider() as other:
        other.default(json_reply(canned.chat()))
        for origin in (here.upstream.origin, other.origin, here.upstream.origin):
            here.lead_to(origin)
            assert here.ask().status == 200
            here.stage.gateway.quiet()
        assert (here.upstream.total_connections, other.total_connections) == (2, 1)


@proves("pool_maxsize")
def no_more_idle_connections_than_pool_maxsize_are_kept_to_one_origin(here: Site) -> None:
    go_on = threading.Event()
    events = canned.chat_stream(usage=False)
    here.upstream.default(stream([*events[:2], wait_for(go_on), *events[2:]]))
    here.set(pool_maxsize=1)
    with here.begin(STREAMED) as one, here.begin(STREAMED) as other:
        assert here.upstream.wait_requests(2)
        go_on.set()
        assert (one.head()[0], other.head()[0]) == (200, 200)
        assert (one.rest()[1], other.rest()[1]) == (True, True)
    here.stage.gateway.quiet()
    assert until(lambda: here.upstream.open_connections == 1, here.patience_s)


@proves("keepalive_timeout")
def an_idle_connection_is_closed_after_keepalive_timeout(here: Site) -> None:
    here.monkeypatch.setattr(idle, "SWEEP_S", SHORT_S)
    here.serve()
    here.shorten(keepalive_timeout=SHORT_S)
    here.ask()
    assert here.upstream.wait_closed(0, here.patience_s)


@proves("buffer_size")
def no_more_than_buffer_size_is_read_from_a_provider_at_once(here: Site) -> None:
    asked_for: list[int] = []
    read = socket.socket.recv

    def noted(one: socket.socket, size: int, *flags: int) -> bytes:
        with suppress(OSError, IndexError):  # sockets without a port
            if one.getpeername()[1] == here.upstream.port:
                asked_for.append(size)
        return read(one, size, *flags)

    here.monkeypatch.setattr(socket.socket, "recv", noted)
    here.upstream.default(stream(canned.chat_stream(["x" * 100] * 200, usage=False)))
    here.set(buffer_size=1024)
    for _ in range(2):
        assert here.ask(body=STREAMED).status == 200
    assert max(asked_for) == 1024


@proves("max_buffered_answer")
def an_answer_larger_than_max_buffered_answer_is_passed_on_before_its_end(here: Site) -> None:
    go_on = threading.Event()
    body = json.dumps(canned.chat("x" * 200_000))
    here.upstream.default(stream([body[:150_000], wait_for(go_on), body[150_000:]], content_type="application/json"))
    here.set(max_buffered_answer=65536)
    with here.begin(canned.CHAT_REQUEST) as client:
        try:
            assert client.head()[0] == 200
        finally:
            go_on.set()


# -- models and keys ---------------------------------------------------------------------------------


@proves("model_default")
def model_default_is_sent_instead_of_the_model_asked_for(here: Site) -> None:
    here.serve()
    here.set(model_default="gpt-of-the-house")
    here.ask()
    assert here.stage.sent().json["model"] == "gpt-of-the-house"


@proves("model_provider")
def model_provider_serves_models_that_nobody_claims(here: Site) -> None:
    here.serve()
    with here.stage.provider("openai-compatible") as (name, _):
        for preferred in (name, "openai"):
            here.set(model_provider=preferred)
            answer = here.ask(body={**canned.CHAT_REQUEST, "model": "nobody-claims-this"})
            assert answer.headers["x-middleware-provider"] == preferred


@proves("model_cache_enabled")
def without_the_model_cache_each_list_is_fetched(here: Site) -> None:
    here.upstream.default(json_reply(canned.openai_models()))
    here.set(model_cache_enabled=False)
    for _ in range(6):
        here.ask("GET", "/openai/v1/models", None)
    assert len(here.upstream.received) == 6


@proves("cache_timeout")
def a_list_of_models_is_fetched_again_after_cache_timeout(here: Site) -> None:
    here.upstream.default(json_reply(canned.openai_models()))
    here.set(cache_timeout=60)

    def is_kept() -> bool:  # the change itself empties the cache, a moment later
        asked = len(here.upstream.received)
        for _ in range(3):
            here.ask("GET", "/openai/v1/models", None)
            threading.Event().wait(SHORT_S)
        return len(here.upstream.received) == asked

    assert until(is_kept, 10)
    here.time.advance(61)
    asked = len(here.upstream.received)
    here.ask("GET", "/openai/v1/models", None)
    assert len(here.upstream.received) == asked + 1


@proves("model_cache_timeout")
def a_list_of_models_that_does_not_come_is_given_up_after_model_cache_timeout(here: Site) -> None:
    here.upstream.default(hang())
    here.shorten(model_cache_timeout=SHORT_S)
    assert here.ask("GET", "/openai/v1/models", None).status >= 500


@proves("failover_strategy")
def by_priority_the_key_with_the_lowest_number_serves_alone(here: Site) -> None:
    keys = here.only_keys(3, priority=lambda number: 9 - number)
    here.serve()
    here.set(failover_strategy="priority")
    here.ask_many(3)
    assert here.upstream.keys == [keys[-1]] * 3


@proves("pool_brake_threshold")
def when_pool_brake_threshold_keys_fail_alike_no_more_are_spent(here: Site) -> None:
    here.only_keys(6)
    here.upstream.default(json_reply(canned_errors.OPENAI_BAD_KEY, 401))
    here.set(pool_brake_threshold=2)
    here.ask_many(3)
    assert len(here.upstream.received) < 6


@proves("session_ttl")
def a_conversation_is_kept_with_its_key_for_session_ttl(here: Site) -> None:
    here.only_keys(3)
    here.upstream.default(json_reply(canned.response()))
    here.set(session_ttl=60)

    def served_by() -> str | None:
        here.ask(path="/v1/responses", body={**canned.RESPONSES_REQUEST, "prompt_cache_key": "c-1"})
        return here.upstream.keys[-1]

    first = served_by()
    assert served_by() == first
    here.time.advance(61)
    assert served_by() != first


@proves("openai_include_usage")
def openai_include_usage_decides_whether_streams_are_asked_for_their_tokens(here: Site) -> None:
    here.upstream.default(stream(canned.chat_stream(usage=False)))
    here.set(openai_include_usage=False)
    here.ask(body=STREAMED)
    assert "stream_options" not in here.stage.sent().json


# -- limits ------------------------------------------------------------------------------------------


@proves("enable_rate_limiting")
def rate_limiting_counts_only_where_it_is_enabled(here: Site) -> None:
    here.serve()
    here.set(enable_rate_limiting=True, requests_per_minute=1)
    assert here.ask_many(3).count(429) == 2


@proves("requests_per_minute")
def requests_per_minute_is_what_a_client_may_send(here: Site) -> None:
    here.serve()
    here.set(enable_rate_limiting=True, requests_per_minute=3)
    assert here.ask_many(5) == [200, 200, 200, 429, 429]


@proves("rate_limiting_strategy")
def a_token_bucket_allows_a_burst_that_a_window_refuses(here: Site) -> None:
    here.serve()
    here.set(enable_rate_limiting=True, requests_per_minute=1, burst_allowance=4)
    here.set(rate_limiting_strategy="token_bucket")
    assert here.ask_many(4) == [200] * 4


@proves("burst_allowance")
def no_more_than_burst_allowance_comes_out_of_a_full_bucket_at_once(here: Site) -> None:
    here.serve()
    here.set(enable_rate_limiting=True, requests_per_minute=1, rate_limiting_strategy="token_bucket")
    here.set(burst_allowance=1)
    assert here.ask_many(6)[-2:] == [429, 429]


@proves("max_request_size")
def a_body_larger_than_max_request_size_is_refused(here: Site) -> None:
    here.serve()
    here.set(max_request_size=1024)
    big = {**canned.CHAT_REQUEST, "messages": [{"role": "user", "content": "x" * 2000}]}
    assert (here.ask().status, here.ask(body=big).status) == (200, 413)


@proves("max_concurrent_requests")
def one_request_more_than_max_concurrent_requests_is_refused(here: Site) -> None:
    go_on = threading.Event()
    events = canned.chat_stream(usage=False)
    here.upstream.answers(stream([*events[:2], wait_for(go_on), *events[2:]]))
    here.serve()
    here.set(max_concurrent_requests=1)
    with here.begin(STREAMED) as client:
        assert client.head()[0] == 200
        try:
            assert here.ask().status == 503
        finally:
            go_on.set()


@proves("blocked_user_agents")
def a_blocked_user_agent_is_refused(here: Site) -> None:
    here.serve()
    here.set(blocked_user_agents="badbot, worse")
    answers = [here.ask(User_Agent=agent).status for agent in ("Mozilla BadBot/2", "somebody else")]
    assert answers == [403, 200]


@proves("enable_cors")
def pages_of_other_origins_may_call_only_where_cors_is_enabled(here: Site) -> None:
    here.serve()
    here.set(enable_cors=True)
    assert here.ask(Origin="https://page.example").headers["access-control-allow-origin"]


@proves("cors_origins")
def only_pages_of_cors_origins_may_call(here: Site) -> None:
    here.serve()
    here.set(enable_cors=True, cors_origins="https://page.example")
    strange, known = (here.ask(Origin=origin) for origin in ("https://evil.example", "https://page.example"))
    assert known.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in strange.headers


@proves("enable_circuit_breaker")
def a_provider_that_keeps_failing_is_left_alone_where_the_breaker_is_enabled(here: Site) -> None:
    here.only_keys(2)
    here.lead_to(closed_port())
    here.set(enable_circuit_breaker=True, circuit_breaker_threshold=2)
    here.ask_many(2)
    assert here.stage.record()["attempts"] == []


@proves("circuit_breaker_threshold")
def the_breaker_opens_after_circuit_breaker_threshold_failures(here: Site) -> None:
    here.only_keys(2)
    here.lead_to(closed_port())
    here.set(enable_circuit_breaker=True, circuit_breaker_threshold=4)
    here.ask_many(3)
    assert [bool(record["attempts"]) for record in here.stage.gateway.records()[-3:]] == [True, True, False]


@proves("circuit_breaker_cooldown")
def an_open_breaker_lets_a_probe_through_after_circuit_breaker_cooldown(here: Site) -> None:
    here.only_keys(2)
    here.lead_to(closed_port())
    here.set(enable_circuit_breaker=True, circuit_breaker_threshold=2, circuit_breaker_cooldown=300)
    here.ask_many(2)
    here.time.advance(200)
    here.ask()
    assert here.stage.record()["attempts"] == []


# -- logs and records --------------------------------------------------------------------------------


@proves("enable_request_id_injection")
def answers_carry_their_request_id_unless_that_is_off(here: Site) -> None:
    here.serve()
    here.set(enable_request_id_injection=False)
    assert "x-request-id" not in here.ask().headers


@proves("enable_request_logging")
def requests_are_in_the_live_log_unless_that_is_off(here: Site) -> None:
    here.serve()
    here.set(enable_request_logging=False)
    here.ask(X_Request_ID="not-to-be-logged")
    assert not any("not-to-be-logged" in line["msg"] for line in here.see(f"{API}/logs"))


@proves("log_level")
def lines_below_log_level_are_not_written(here: Site) -> None:
    here.set(log_level="ERROR")
    logging.getLogger("app.anything").warning("to be swallowed")
    assert "to be swallowed" not in here.capsys.readouterr().err


@proves("log_request_body")
def request_bodies_are_shown_in_the_live_log_where_that_is_on(here: Site) -> None:
    here.serve()
    here.set(log_request_body=True)
    here.ask(body={**canned.CHAT_REQUEST, "user": "somebody-in-the-body"})
    assert any("somebody-in-the-body" in line["msg"] for line in here.see(f"{API}/logs"))


@proves("log_response_body")
def answers_are_shown_in_the_live_log_where_that_is_on(here: Site) -> None:
    here.upstream.default(json_reply(canned.chat("a-word-of-the-answer")))
    here.set(log_response_body=True)
    here.ask()
    assert any("a-word-of-the-answer" in line["msg"] for line in here.see(f"{API}/logs"))


@proves("enable_metrics_collection")
def requests_are_counted_for_metrics_unless_that_is_off(here: Site) -> None:
    here.serve()
    here.set(enable_metrics_collection=False)
    before = counted(here)
    here.ask_many(3)
    here.stage.gateway.settle()
    assert counted(here) == before


@proves("request_retention_days")
def requests_are_forgotten_after_request_retention_days(here: Site) -> None:
    here.serve()
    here.ask()
    here.set(request_retention_days=1)
    here.time.advance(2 * 86400)
    assert remembered(here) == 0


@proves("request_retention_rows")
def no_more_requests_than_request_retention_rows_are_remembered(here: Site) -> None:
    here.serve()
    here.set(request_retention_rows=100)
    here.ask_many(110)
    assert remembered(here) == 100


# -- what proofs share -------------------------------------------------------------------------------


def until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes so within this time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.02)
    return True


def counted(here: Site) -> float:
    """All requests that /metrics has counted."""
    lines = here.stage.gateway.get("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("middleware_requests_total{"))


def remembered(here: Site) -> int:
    """Rows that are left when old ones have been removed."""
    services = here.stage.gateway.services
    here.stage.gateway.settle()
    Retention(services.database, services.writer, services.live_settings, clock=services.clock).run_once()
    return len(services.usage_queries.list_requests(RequestFilter(limit=500))["requests"])
