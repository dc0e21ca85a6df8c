"""
The core driven by hand: events in, commands out. No socket, no thread, no clock, no database: instants are numbers.
"""

from __future__ import annotations

import dataclasses
import json
import random
import socket
import threading
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import AllKeysResting, MiddlewareError, NoKeys, Overloaded, RequestTimeout
from app.keys.base import Action, KeyWanted, Lease, Verdict
from app.providers import BY_NAME, Provider
from app.proxy.events import (
    Abort,
    ClientBytes,
    ClientGone,
    ClientHead,
    CloseUpstream,
    Command,
    Drain,
    Event,
    Finish,
    Headers,
    ReadBody,
    Record,
    ReleaseUpstream,
    RequestBody,
    RequestHead,
    Send,
    Tick,
    UpstreamBytes,
    UpstreamEnd,
    UpstreamFailed,
    UpstreamHead,
)
from app.proxy.exchange import HEARTBEAT, Exchange
from app.proxy.gateway import Gateway
from app.proxy.routing import Providers
from app.records import RequestRecord
from app.settings import Settings
from tests import canned, canned_errors

JSON: Headers = [("Content-Type", "application/json")]
SSE: Headers = [("Content-Type", "text/event-stream")]
WALL = 1_790_000_000.0
ANSWER = json.dumps(canned.chat()).encode()
ROLE, WORD, *_ = canned.chat_stream()
PLAIN_BODY = json.dumps(canned.CHAT_REQUEST).encode()
STREAM_BODY = json.dumps({**canned.CHAT_REQUEST, "stream": True}).encode()


class Keys:
    """Keys 1 to `count`, the first free one each time. `log` has what was reported on them."""

    def __init__(self, count: int) -> None:
        self.ids = range(1, count + 1)
        self.resting_until: dict[int, float] = {}
        self.log: list[tuple[str, int, str]] = []
        self.leased = 0

    def has_keys(self, provider: str) -> bool:
        return provider == "openai"

    def has_any(self, provider: str) -> bool:
        return True

    def any_real(self) -> bool:
        return True

    def acquire(self, wanted: KeyWanted, now: float) -> Lease:
        free = [key for key in self.ids if key not in wanted.excluding and self.resting_until.get(key, 0) <= now]
        if not free:
            wake_at = min((until for until in self.resting_until.values() if until > now), default=None)
            if wake_at is None:
                raise NoKeys("There is no key.")
            raise AllKeysResting("All rest.", wake_at=WALL + wake_at, retry_after_s=wake_at - now)
        self.leased += 1
        return Lease(free[0], "openai", wanted.models["openai"], f"sk-{free[0]}", serial=self.leased)

    def succeeded(self, lease: Lease, now: float) -> None:
        self.log.append(("succeeded", lease.key_id, ""))

    def failed(self, lease: Lease, verdict: Verdict, now: float, http_status: int = 0) -> None:
        self.log.append(("failed", lease.key_id, verdict.reason))
        if verdict.action is Action.KEY_REST:
            self.resting_until[lease.key_id] = now + (verdict.rest_s or 5.0)

    def released(self, lease: Lease, now: float) -> None:
        self.log.append(("released", lease.key_id, ""))

    def owner(self, provider_names: Any, hints: Any, now: float) -> int | None:
        return None

    def remember(self, provider: str, hint: str, key_id: int, now: float) -> None:
        return None


class Door:
    """Everybody may come in; requests in flight are counted."""

    def __init__(self) -> None:
        self.inside = 0
        self.full = False

    def required(self) -> bool:
        return False

    def local_only(self) -> bool:
        return False

    def recognise(self, token: str) -> Any:
        raise AssertionError("no client key is required")

    def admit(self, wall_now: float) -> bool:
        if self.full:
            raise Overloaded("Too many requests at once.", retry_after_s=1)
        self.inside += 1
        return True

    def leave(self) -> None:
        self.inside -= 1


class Cleaner:
    def text(self, text: str) -> str:
        return text.replace("sk-1", "[key]")

    def data(self, data: bytes) -> bytes:
        return data.replace(b"sk-1", b"[key]")


class NoCache:
    def get(self, key: str, now: float) -> tuple[str, bytes] | None:
        return None

    def put(self, key: str, content_type: str, body: bytes, expires: float) -> None:
        return None

    def clear(self) -> None:
        return None


class Run:
    """One exchange and everything that it has ordered so far."""

    def __init__(self, body: bytes = PLAIN_BODY, *, keys: int = 2, begin: bool = True, **changes: Any) -> None:
        self.keys, self.door = Keys(keys), Door()
        self.accepting = True
        self.now = 1000.0
        self.all: list[Command] = []
        live = dataclasses.replace(
            Settings(), **{"retry_backoff_factor": 0.0, "openai_include_usage": False, **changes}
        )
        kind = BY_NAME["openai"]
        entry = Provider("openai", kind, "https://api.test/base", kind.formats, kind.models)
        gateway = Gateway(
            settings=lambda: live,
            providers=lambda: Providers.of([entry], {}, None),
            keys=self.keys,
            callers=self.door,
            limits=self.door,
            cleaner=Cleaner(),
            model_cache=NoCache(),
            accepting=lambda: self.accepting,
            new_id=lambda: "request-1",
        )
        head = RequestHead("POST", "/v1/chat/completions", [*JSON, ("Content-Length", str(len(body)))], "10.0.0.1")
        self.exchange = Exchange(gateway, head, now=self.now, wall=WALL)
        if begin:
            assert self.start() == [ReadBody(live.max_request_size)]
            self.feed(RequestBody(body))

    def start(self) -> list[Command]:
        return self._done(self.exchange.start(self.now))

    def feed(self, *events: Event, after_s: float = 0.0) -> list[Command]:
        """The commands for these events, which come `after_s` seconds after the last ones."""
        self.now += after_s
        return self._done([command for event in events for command in self.exchange.feed(event, self.now)])

    def answer(self, status: int, body: bytes, headers: Headers = JSON) -> list[Command]:
        """A whole upstream answer."""
        return self.feed(UpstreamHead(status, headers), UpstreamBytes(body), UpstreamEnd())

    def tick(self) -> list[Command]:
        """Let time pass until the exchange asked to be woken."""
        assert self.exchange.deadline is not None
        self.now = max(self.now, self.exchange.deadline)
        return self.feed(Tick())

    def refuse(self, error: MiddlewareError) -> list[Command]:
        return self._done(self.exchange.refuse(error, self.now))

    def _done(self, commands: list[Command]) -> list[Command]:
        self.all += commands
        return commands

    def only(self, kind: type) -> Any:
        [found] = [command for command in self.all if isinstance(command, kind)]
        return found

    @property
    def sends(self) -> list[Send]:
        return [command for command in self.all if isinstance(command, Send)]

    @property
    def out(self) -> bytes:
        """What the caller has got."""
        return b"".join(command.data for command in self.all if isinstance(command, ClientBytes))

    @property
    def record(self) -> RequestRecord:
        found = self.only(Record).record
        assert isinstance(found, RequestRecord)
        return found

    @property
    def wait_s(self) -> float | None:
        """Seconds until the next deadline."""
        deadline = self.exchange.deadline
        return None if deadline is None else round(deadline - self.now, 6)

    def assert_over(self, outcome: str, status: int) -> None:
        assert (self.record.outcome, self.record.status) == (outcome, status)
        assert (self.exchange.done, self.exchange.deadline, self.door.inside) == (True, None, 0)
        for event in (UpstreamEnd(), ClientGone(), Tick(), Drain(), RequestBody(b"")):
            assert self.feed(event) == []


def kinds(commands: list[Command]) -> list[type]:
    return [type(command) for command in commands]


def key_of(send: Send) -> str:
    return dict(send.headers)["Authorization"].removeprefix("Bearer ")


# -- success ----------------------------------------------------------------------------------------------


def test_a_plain_answer_is_checked_as_a_whole_and_then_passed_on() -> None:
    run = Run()
    [send] = run.sends
    assert (send.origin, send.method, send.target) == ("https://api.test", "POST", "/base/v1/chat/completions")
    assert (send.body, send.fresh, send.attempt, key_of(send)) == (PLAIN_BODY, False, 1, "sk-1")

    assert run.feed(UpstreamHead(200, JSON), after_s=0.2) == []
    assert run.feed(UpstreamBytes(ANSWER[:50]), UpstreamBytes(ANSWER[50:]), after_s=0.3) == []
    commands = run.feed(UpstreamEnd())

    assert kinds(commands) == [ReleaseUpstream, ClientHead, ClientBytes, Finish, Record]
    head = run.only(ClientHead)
    assert (head.status, head.length, run.out) == (200, len(ANSWER), ANSWER)
    assert dict(head.headers)["x-middleware-attempts"] == "1"
    assert run.keys.log == [("succeeded", 1, "")]
    run.assert_over("success", 200)
    record = run.record
    assert (record.started_at, record.duration_ms, record.first_byte_ms) == (WALL, 500, 500)
    assert [attempt.duration_ms for attempt in record.attempts] == [500]
    assert (record.input_tokens, record.output_tokens) == (canned.INPUT_TOKENS, canned.OUTPUT_TOKENS)


def test_a_stream_is_held_until_its_first_output_and_then_passes_event_by_event() -> None:
    run = Run(STREAM_BODY)
    events = canned.chat_stream(usage=False)

    assert run.feed(UpstreamHead(200, SSE)) == []
    assert run.feed(UpstreamBytes(events[0])) == []
    first = run.feed(UpstreamBytes(events[1]))
    assert kinds(first) == [ClientHead, ClientBytes]
    assert (run.only(ClientHead).length, run.out) == (None, events[0] + events[1])

    half = len(events[2]) // 2
    assert run.feed(UpstreamBytes(events[2][:half])) == []
    assert run.feed(UpstreamBytes(events[2][half:])) == [ClientBytes(events[2])]


def test_after_the_terminator_the_caller_is_done_and_the_upstream_has_a_moment_to_end() -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE))

    commands = run.feed(UpstreamBytes(b"".join(canned.chat_stream(usage=False))))

    assert kinds(commands) == [ClientHead, ClientBytes, Finish, Record]
    assert (run.exchange.done, run.wait_s) == (False, 0.25)
    assert run.feed(UpstreamEnd()) == [ReleaseUpstream()]
    run.assert_over("success", 200)


@pytest.mark.parametrize("last", [ClientGone(), Drain(), UpstreamFailed("reset", True), Tick()])
def test_nothing_that_happens_after_the_terminator_changes_the_record(last: Event) -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(b"".join(canned.chat_stream(usage=False))))

    commands = run.feed(last, after_s=0.25)

    assert set(kinds(commands)) <= {CloseUpstream}
    run.assert_over("success", 200)


# -- failover -----------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_followed_by_one_with_another_key() -> None:
    run = Run()

    commands = run.answer(500, json.dumps(canned_errors.OPENAI_SERVER).encode())

    assert kinds(commands) == [ReleaseUpstream, Send]
    assert [(send.attempt, key_of(send)) for send in run.sends] == [(1, "sk-1"), (2, "sk-2")]
    run.answer(200, ANSWER)
    assert run.out == ANSWER
    assert run.keys.log == [("failed", 1, "server_error"), ("succeeded", 2, "")]
    run.assert_over("success", 200)
    assert [(attempt.status, attempt.verdict) for attempt in run.record.attempts] == [(500, "PROVIDER"), (200, "ok")]


def test_a_broken_attempt_is_closed_before_the_next_one_is_sent() -> None:
    run = Run()

    commands = run.feed(UpstreamHead(200, JSON), UpstreamBytes(b"<html>"), UpstreamEnd())
    assert kinds(commands) == [ReleaseUpstream, Send]
    commands = run.feed(UpstreamHead(200, [("Content-Encoding", "br")]))
    assert kinds(commands)[0] is CloseUpstream


def test_the_wait_before_the_next_attempt_is_a_deadline() -> None:
    run = Run(retry_backoff_factor=0.5)

    assert run.feed(UpstreamFailed("refused", connected=False)) == []
    assert run.wait_s == 0.5
    assert run.feed(Tick(), after_s=0.4) == []
    assert kinds(run.feed(Tick(), after_s=0.1)) == [Send]
    assert run.exchange.deadline is not None


def test_what_comes_late_from_an_abandoned_attempt_is_ignored() -> None:
    run = Run(retry_backoff_factor=0.5)
    run.feed(UpstreamFailed("refused", connected=False))

    assert run.feed(UpstreamHead(200, JSON), UpstreamBytes(ANSWER)) == []
    assert kinds(run.tick()) == [Send]


def test_when_every_key_has_failed_the_last_error_goes_to_the_caller_without_secrets() -> None:
    run = Run()
    body = json.dumps(canned_errors.openai_error("the key sk-1 met an error", "server_error")).encode()

    run.answer(503, body)
    run.answer(503, body)

    assert run.only(ClientHead).status == 503
    assert run.out == body.replace(b"sk-1", b"[key]")
    run.assert_over("upstream_error", 503)


def test_the_callers_own_mistake_ends_the_matter() -> None:
    run = Run()

    run.answer(400, json.dumps(canned_errors.OPENAI_BAD_REQUEST).encode())

    assert len(run.sends) == 1
    run.assert_over("client_error", 400)


def test_when_all_keys_rest_nothing_is_sent() -> None:
    run = Run(begin=False)
    run.keys.resting_until = {1: run.now + 30, 2: run.now + 20}
    run.start()

    commands = run.feed(RequestBody(PLAIN_BODY))

    assert kinds(commands) == [ClientHead, ClientBytes, Finish, Record]
    assert dict(run.only(ClientHead).headers)["Retry-After"] == "20"
    run.assert_over("resting", 429)


def test_a_rate_limit_everywhere_is_told_as_resting_keys() -> None:
    run = Run()
    limit = json.dumps(canned_errors.OPENAI_RATE_LIMIT).encode()

    run.answer(429, limit, [*JSON, ("Retry-After", "7")])
    run.answer(429, limit, [*JSON, ("Retry-After", "9")])

    assert dict(run.only(ClientHead).headers)["Retry-After"] == "7"
    run.assert_over("resting", 429)


# -- the stale connection -------------------------------------------------------------------------------------


def test_a_stale_pooled_connection_is_replaced_and_is_no_attempt() -> None:
    run = Run()

    [again] = run.feed(UpstreamFailed("reset", connected=True, reused=True))

    assert isinstance(again, Send)
    assert (again.fresh, again.attempt, key_of(again)) == (True, 1, "sk-1")
    assert run.keys.log == []
    run.answer(200, ANSWER)
    assert len(run.record.attempts) == 1
    run.assert_over("success", 200)


def test_a_stale_connection_is_replaced_once_for_each_attempt() -> None:
    run = Run()
    stale = UpstreamFailed("reset", connected=True, reused=True)

    run.feed(stale, stale, stale)

    assert [(send.fresh, send.attempt, key_of(send)) for send in run.sends] == [
        (False, 1, "sk-1"),
        (True, 1, "sk-1"),
        (False, 2, "sk-2"),
        (True, 2, "sk-2"),
    ]


def test_a_new_connection_that_fails_is_an_attempt() -> None:
    run = Run()

    run.feed(UpstreamFailed("reset", connected=True))

    assert [send.fresh for send in run.sends] == [False, False]
    assert run.keys.log == [("failed", 1, "reset")]


# -- the commit point ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [b"", ROLE, ROLE + b": ping\n\n"])
def test_before_the_first_output_a_cut_stream_is_another_attempt(held: bytes) -> None:
    run = Run(STREAM_BODY)

    commands = run.feed(UpstreamHead(200, SSE), UpstreamBytes(held), UpstreamFailed("reset", connected=True))

    assert kinds(commands) == [Send]
    assert run.out == b""


@pytest.mark.parametrize("end", [UpstreamFailed("reset", connected=True), UpstreamEnd()])
def test_after_the_first_output_a_cut_stream_is_told_and_visibly_incomplete(end: Event) -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))

    commands = run.feed(end)

    assert kinds(commands)[-3:] == [ClientBytes, Abort, Record]
    assert len(run.sends) == 1
    assert run.out.startswith(ROLE + WORD)
    assert b"upstream_cut" in run.out
    assert b"[DONE]" not in run.out
    assert run.keys.log == [("succeeded", 1, ""), ("failed", 1, "upstream_cut")]
    run.assert_over("upstream_cut", 200)


def test_an_error_event_before_the_first_output_is_another_attempt() -> None:
    run = Run(STREAM_BODY)

    commands = run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + canned_errors.CHAT_ERROR_EVENT))

    assert kinds(commands) == [CloseUpstream, Send]
    assert run.keys.log == [("failed", 1, "server_error")]


def test_an_error_event_after_the_first_output_passes_and_ends_the_answer() -> None:
    run = Run(STREAM_BODY)

    commands = run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD + canned_errors.CHAT_ERROR_EVENT))

    assert kinds(commands) == [ClientHead, ClientBytes, CloseUpstream, Abort, Record]
    assert run.out == ROLE + WORD + canned_errors.CHAT_ERROR_EVENT
    run.assert_over("upstream_error", 200)


def test_a_plain_answer_commits_only_when_it_outgrows_the_buffer() -> None:
    run = Run(max_buffered_answer=65536)
    block = b" " * 65536

    assert run.feed(UpstreamHead(200, [*JSON, ("Content-Length", "131072")]), UpstreamBytes(block)) == []
    commands = run.feed(UpstreamBytes(block))
    assert kinds(commands) == [ClientHead, ClientBytes]
    assert (run.only(ClientHead).length, len(run.out)) == (131072, 131072)
    assert kinds(run.feed(UpstreamFailed("incomplete", connected=True))) == [Abort, Record]
    run.assert_over("upstream_cut", 200)


# -- time ---------------------------------------------------------------------------------------------------


def test_an_answer_that_does_not_begin_is_given_up_after_read_timeout() -> None:
    run = Run(read_timeout=30)
    assert run.wait_s == 30

    assert run.feed(Tick(), after_s=29.9) == []
    assert kinds(run.feed(Tick(), after_s=0.1)) == [CloseUpstream, Send]
    assert run.wait_s == 30
    run.tick()
    assert run.only(ClientHead).status == 504
    run.assert_over("upstream_error", 504)


def test_the_whole_request_is_given_up_after_request_timeout() -> None:
    run = Run(read_timeout=40, request_timeout=60)
    run.tick()
    assert run.wait_s == 20

    commands = run.tick()

    assert kinds(commands) == [CloseUpstream, ClientHead, ClientBytes, Finish, Record]
    assert b"request_timeout" in run.out
    assert run.keys.log == [("failed", 1, "first_byte_timeout"), ("released", 2, "")]
    run.assert_over("upstream_error", 504)


def test_once_an_answer_has_begun_only_silence_ends_it() -> None:
    run = Run(STREAM_BODY, request_timeout=60, streaming_timeout=50, heartbeat_interval=0)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))

    for _ in range(5):
        assert run.wait_s == 50
        assert run.feed(UpstreamBytes(WORD), after_s=49) == [ClientBytes(WORD)]
    commands = run.tick()

    assert kinds(commands) == [CloseUpstream, ClientBytes, Abort, Record]
    assert b"streaming_timeout" in run.out
    run.assert_over("upstream_cut", 200)


def test_silence_before_the_first_output_is_another_attempt() -> None:
    run = Run(STREAM_BODY, streaming_timeout=50, heartbeat_interval=0)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE))

    assert kinds(run.tick()) == [CloseUpstream, Send]
    assert run.keys.log == [("failed", 1, "idle_timeout")]


def test_a_silent_stream_gets_heartbeats_that_its_output_puts_off() -> None:
    run = Run(STREAM_BODY, heartbeat_interval=10)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))

    assert run.wait_s == 10
    assert run.tick() == [ClientBytes(HEARTBEAT)]
    assert run.feed(UpstreamBytes(WORD), after_s=9) == [ClientBytes(WORD)]
    assert run.wait_s == 10
    assert run.tick() == [ClientBytes(HEARTBEAT)]


def test_a_stream_whose_prologue_is_all_there_is_goes_out_at_the_first_heartbeat() -> None:
    run = Run(STREAM_BODY, heartbeat_interval=10)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE))

    commands = run.tick()

    assert kinds(commands) == [ClientHead, ClientBytes]
    assert run.out == ROLE
    assert run.tick() == [ClientBytes(HEARTBEAT)]


@pytest.mark.parametrize("body", [PLAIN_BODY, STREAM_BODY])
def test_before_the_status_is_known_there_is_no_heartbeat(body: bytes) -> None:
    run = Run(body, heartbeat_interval=1, read_timeout=30)

    assert run.feed(Tick(), after_s=5) == []
    assert run.wait_s == 25


def test_a_plain_answer_gets_no_heartbeat() -> None:
    run = Run(heartbeat_interval=1, streaming_timeout=30)
    run.feed(UpstreamHead(200, JSON), UpstreamBytes(b"{"))

    assert run.feed(Tick(), after_s=5) == []
    assert run.wait_s == 25


def test_a_tick_that_comes_too_early_does_nothing() -> None:
    run = Run()
    before = run.exchange.deadline

    assert run.feed(Tick(), Tick(), Tick()) == []
    assert run.exchange.deadline == before


# -- the caller leaves ----------------------------------------------------------------------------------------


def test_a_caller_that_leaves_before_its_body_is_read_costs_nothing() -> None:
    run = Run(begin=False)
    run.start()

    assert kinds(run.feed(ClientGone())) == [Record]
    assert (run.sends, run.keys.log) == ([], [])
    run.assert_over("client_gone", 499)


@pytest.mark.parametrize(
    "before",
    [(), (UpstreamHead(200, SSE),), (UpstreamHead(200, SSE), UpstreamBytes(ROLE)), (UpstreamHead(500, JSON),)],
    ids=["no answer", "head", "prologue", "error head"],
)
def test_a_caller_that_leaves_ends_the_upstream_call_and_blames_no_key(before: tuple[Event, ...]) -> None:
    run = Run(STREAM_BODY)
    run.feed(*before)

    assert kinds(run.feed(ClientGone())) == [CloseUpstream, Record]
    assert run.keys.log == [("released", 1, "")]
    assert [attempt.verdict for attempt in run.record.attempts] == ["client_gone"]
    run.assert_over("client_gone", 499)


def test_a_caller_that_leaves_in_the_middle_of_a_stream_is_booked_with_what_was_used() -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD + canned.CHAT_USAGE))

    assert kinds(run.feed(ClientGone())) == [CloseUpstream, Record]
    assert run.keys.log == [("succeeded", 1, "")]
    assert run.record.output_tokens == canned.OUTPUT_TOKENS
    assert run.record.outcome == "client_gone"


def test_a_caller_that_leaves_between_attempts_ends_the_matter() -> None:
    run = Run(retry_backoff_factor=1.0)
    run.feed(UpstreamFailed("refused", connected=False))

    assert kinds(run.feed(ClientGone())) == [Record]
    run.assert_over("client_gone", 499)


# -- shutting down and refusals ----------------------------------------------------------------------------------


def test_a_server_that_shuts_down_takes_no_new_request() -> None:
    run = Run(begin=False)
    run.accepting = False

    assert kinds(run.start()) == [ClientHead, ClientBytes, Finish, Record]
    assert run.door.inside == 0
    run.assert_over("drained", 503)


def test_a_drain_before_the_answer_is_a_503() -> None:
    run = Run()

    assert kinds(run.feed(Drain())) == [CloseUpstream, ClientHead, ClientBytes, Finish, Record]
    assert run.keys.log == [("released", 1, "")]
    run.assert_over("drained", 503)


def test_a_drain_in_the_middle_of_a_stream_ends_it_in_its_own_words() -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))

    assert kinds(run.feed(Drain())) == [CloseUpstream, ClientBytes, Abort, Record]
    assert b"shutting_down" in run.out
    run.assert_over("drained", 200)


def test_a_limit_that_is_reached_is_told_and_nothing_is_owed() -> None:
    run = Run(begin=False)
    run.door.full = True

    assert kinds(run.start()) == [ClientHead, ClientBytes, Finish, Record]
    run.assert_over("refused", 503)


def test_a_driver_may_refuse_a_slow_upload() -> None:
    run = Run(begin=False)
    run.start()

    assert kinds(run.refuse(RequestTimeout("too slow"))) == [ClientHead, ClientBytes, Finish, Record]
    run.assert_over("client_error", 408)


def test_a_defect_in_the_middle_of_an_answer_is_a_visible_cut() -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))

    assert kinds(run.refuse(MiddlewareError())) == [CloseUpstream, ClientBytes, Abort, Record]
    run.assert_over("internal_error", 200)


def test_a_body_that_is_no_request_is_refused_in_the_callers_dialect() -> None:
    run = Run(b"{")

    assert json.loads(run.out)["error"]["code"] == "invalid_json"
    assert run.sends == []
    run.assert_over("client_error", 400)


# -- purity -------------------------------------------------------------------------------------------------


def test_the_core_opens_no_socket_reads_no_clock_and_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the core did what only a driver may do")

    for owner, names in (
        (socket, ("socket", "create_connection", "getaddrinfo")),
        (threading, ("Thread",)),
        (time, ("sleep",)),
        (random, ("random",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, never)
    clocks = ("time", "monotonic", "perf_counter")
    real = {name: getattr(time, name) for name in clocks}
    for name in clocks:
        monkeypatch.setattr(time, name, never)
    try:
        run = Run(STREAM_BODY)
        run.feed(UpstreamFailed("reset", connected=True, reused=True))
        run.answer(500, b"")
        run.feed(UpstreamHead(200, SSE), UpstreamBytes(ROLE + WORD))
        run.tick()
        run.feed(UpstreamEnd())
        done, outcome = run.exchange.done, run.record.outcome
    finally:
        for name, clock in real.items():
            monkeypatch.setattr(time, name, clock)
    assert (done, outcome) == (True, "upstream_cut")


_EVENTS: dict[str, Event] = {
    "head": UpstreamHead(200, SSE),
    "json head": UpstreamHead(200, JSON),
    "error head": UpstreamHead(500, JSON),
    "limit head": UpstreamHead(429, JSON),
    "redirect": UpstreamHead(307, []),
    "no content": UpstreamHead(204, []),
    "gzip": UpstreamHead(200, [*SSE, ("Content-Encoding", "gzip")]),
    "role": UpstreamBytes(ROLE),
    "word": UpstreamBytes(WORD),
    "half": UpstreamBytes(WORD[:20]),
    "done": UpstreamBytes(canned.CHAT_FINISH + canned.DONE),
    "error event": UpstreamBytes(canned_errors.CHAT_ERROR_EVENT),
    "json": UpstreamBytes(ANSWER),
    "end": UpstreamEnd(),
    "failed": UpstreamFailed("reset", True),
    "stale": UpstreamFailed("reset", True, reused=True),
    "refused": UpstreamFailed("refused", False),
    "tick": Tick(),
    "gone": ClientGone(),
    "drain": Drain(),
}
_FROM_UPSTREAM = (UpstreamHead, UpstreamBytes, UpstreamEnd, UpstreamFailed)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([PLAIN_BODY, STREAM_BODY]),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(sorted(_EVENTS)), st.sampled_from([0.0, 0.3, 11.0, 301.0])), max_size=25),
)
@example(STREAM_BODY, 1, [("failed", 0.0), ("no content", 0.0), ("half", 0.0), ("done", 0.0)])
def test_whatever_happens_in_whatever_order_the_commands_keep_their_rules(
    body: bytes, keys: int, story: list[tuple[str, float]]
) -> None:
    run = Run(body, keys=keys)
    upstream_open = True
    for name, after_s in story:
        event = _EVENTS[name]
        if isinstance(event, _FROM_UPSTREAM) and not upstream_open:
            continue  # a driver hands on only what comes from the attempt that is under way
        upstream_open = upstream_open and not isinstance(event, UpstreamEnd | UpstreamFailed)
        for command in run.feed(event, after_s=after_s):
            if isinstance(command, Send):
                upstream_open = True
            elif isinstance(command, CloseUpstream | ReleaseUpstream):
                upstream_open = False
    run.feed(ClientGone())

    assert run.exchange.done
    assert run.door.inside == 0
    assert kinds(run.all).count(Record) == 1
    assert kinds(run.all).count(ClientHead) <= 1
    assert kinds(run.all).count(Finish) + kinds(run.all).count(Abort) <= 1
    to_caller = [kind for kind in kinds(run.all) if kind in (ClientHead, ClientBytes, Finish, Abort)]
    assert to_caller[:1] in ([], [ClientHead])
    assert not {Finish, Abort} & set(to_caller[:-1])
    log = run.keys.log
    late = [entry for at, entry in enumerate(log) if entry[0] == "failed" and ("succeeded", entry[1], "") in log[:at]]
    assert len(run.keys.log) - len(late) == run.keys.leased
    if run.record.outcome == "success":
        assert Finish in to_caller
