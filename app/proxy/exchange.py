"""
One request from its head to its record: the sans-I/O core. It is fed events and answers with commands; it holds no
socket, no clock, no thread and no SQL. Both drivers run exactly this.

    authenticate -> read -> route -> pick a key -> send -> pass the answer on -> record
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from app.errors import MiddlewareError, UpstreamCut, UpstreamRefused, UpstreamTimeout
from app.formats.base import Call, Operation
from app.keys.base import Failure, Phase
from app.proxy import admission, routing
from app.proxy.admission import Visitor
from app.proxy.attempts import Attempts, Decision, Next, RelayLast
from app.proxy.book import Book
from app.proxy.cors import preflight
from app.proxy.deadlines import Deadlines, Due, State
from app.proxy.decoding import Decoder, DecodingFailed, decoder
from app.proxy.events import (
    ClientGone,
    CloseUpstream,
    Command,
    Drain,
    Event,
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
from app.proxy.gateway import Gateway
from app.proxy.headers import for_client, lowered
from app.proxy.model_lists import ModelLists
from app.proxy.outlet import Outlet, relayed_retry_headers
from app.proxy.readers import Ending, Progress, Reader, StreamReader, choose

#: A blank line between events: the only heartbeat that every client accepts.
HEARTBEAT = b"\r\n\r\n"
#: How much of an upstream's error body is read.
MAX_ERROR_BYTES = 64 * 1024
#: Output of one compressed answer may grow to this.
MAX_DECODED_BYTES = 1 << 30


class Exchange:
    """
    Feed it; do what it says; keep its `deadline` (monotonic seconds, or None). It is over when `done` is True.

    gateway  -- what the core asks
    head     -- the request's head; its commands come from `start`
    now      -- monotonic seconds at the request's arrival
    wall     -- Unix seconds at the same instant
    """

    def __init__(self, gateway: Gateway, head: RequestHead, *, now: float, wall: float) -> None:
        self.deadline: float | None = None
        self.done = False
        self._gateway = gateway
        self._settings = gateway.settings()
        self._visitor: Visitor = admission.greet(head, gateway.new_id())
        self._book = Book(now, wall)
        self._book.arrived(self._visitor)
        self._outlet = Outlet(self._visitor, self._settings, self._book)
        self._wall_offset = wall - now
        self._now = now
        self._state = State.NEW
        self._entered = False
        self._attempts: Attempts | None = None
        self._call: Call | None = None
        self._upstream_open = False
        self._resent = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._reader: Reader | None = None
        self._decoder: Decoder | None = None
        self._error = bytearray()
        self._last_error: tuple[int, dict[str, str], bytes] | None = None
        self._deadlines = Deadlines(self._settings, now)
        self._model_lists = ModelLists(gateway.model_cache, self._settings, self._visitor)

    # -- entrances --------------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """What to do about the head."""
        return self._run(self._begin, now)

    def feed(self, event: Event, now: float) -> list[Command]:
        """What to do about `event`, in order. Never raises for what a caller or an upstream did."""
        return self._run(lambda: _HANDLERS[type(event)](self, event), now)

    def refuse(self, error: MiddlewareError, now: float) -> list[Command]:
        """End the exchange with an error that the driver met: a slow upload, a defect of ours."""
        return self._run(lambda: self._fail(error), now)

    def _run(self, step: Callable[[], None], now: float) -> list[Command]:
        if self.done:
            return []
        self._now = now
        out: list[Command] = []
        self._outlet.out = out
        try:
            step()
        except MiddlewareError as error:
            self._fail(error)
        self.deadline = None if self.done else self._deadlines.next(self._state, **self._pace())
        return out

    # -- the request ------------------------------------------------------------------------------

    def _begin(self) -> None:
        visitor = self._visitor
        allowed = preflight(visitor.headers, visitor.head.method, self._settings)
        if allowed is not None:
            self._outlet.whole(204, allowed, b"", self._now)
            self._over("success")
            return
        admission.admit(visitor, self._gateway, self._settings)
        self._book.admitted(visitor)
        self._entered = self._gateway.limits.admit(self._now + self._wall_offset)
        if visitor.has_body:
            self._state = State.BODY
            self._outlet.out.append(ReadBody(self._settings.max_request_size))
        else:
            self._read(b"")

    def _on_body(self, event: RequestBody) -> None:
        if self._state is State.BODY:
            self._book.record.request_bytes = len(event.data)
            self._read(admission.decode_body(self._visitor, event.data, self._settings.max_request_size))

    def _read(self, body: bytes) -> None:
        visitor, settings = self._visitor, self._settings
        match = _need(visitor.match)
        call = self._call = match.format.read(match, visitor.headers, visitor.query, body)
        self._book.called(call, excerpt=settings.log_request_body)
        self._deadlines.operation = match.endpoint.operation
        admission.check_model(visitor.caller, call.model)
        wanted = routing.Wanted(
            model=call.model,
            dialect=match.format.name,
            provider=visitor.provider,
            default_provider=settings.model_provider,
            default_model=settings.model_default if match.endpoint.operation is Operation.GENERATE else "",
        )
        route = routing.route(wanted, self._gateway.providers(), self._gateway.keys)
        if self._answered_from_cache(route):
            return
        self._attempts = Attempts(self._gateway, settings, visitor, call, route)
        self._outlet.attempts = self._attempts
        self._next_attempt()

    # -- attempts ---------------------------------------------------------------------------------

    def _next_attempt(self) -> None:
        try:
            send = _need(self._attempts).start(self._now)
        except RelayLast:
            self._relay_error()
        else:
            self._send(send)

    def _send(self, send: Send) -> None:
        self._reader, self._decoder = None, None
        self._error.clear()
        self._upstream_open = True
        self._state = State.HEAD
        self._deadlines.heard(self._now)
        self._outlet.out.append(send)

    def _attempt_failed(self, failure: Failure, message: str = "") -> None:
        self._close_upstream()
        attempts = _need(self._attempts)
        self._follow(attempts.failed(failure, self._now, self._now + self._wall_offset, message))

    def _follow(self, decision: Decision) -> None:
        if decision.next is Next.FAIL:
            raise _need(decision.error)
        if decision.next is Next.RELAY:
            self._relay_error()
        elif decision.wait_s > 0:
            self._state = State.WAIT
            self._deadlines.retry_at = self._now + decision.wait_s
        else:
            self._next_attempt()

    # -- what comes from the upstream ---------------------------------------------------------------

    def _on_upstream_head(self, event: UpstreamHead) -> None:
        if self._state is not State.HEAD:
            return
        self._status, self._headers = event.status, lowered(event.headers)
        self._deadlines.heard(self._now)
        head_only = self._visitor.head.method == "HEAD"
        if not 200 <= event.status < 300:
            self._state = State.ERROR
            if event.status < 400 or head_only:
                self._error_complete()
            return
        self._state = State.ANSWER
        if head_only:
            length = self._headers.get("content-length", "")
            self._answer_began(int(length) if length.isdigit() else None)
            self._complete()
        else:
            self._open_reader()

    def _open_reader(self) -> None:
        attempts, call = _need(self._attempts), _need(self._call)
        try:
            self._decoder = decoder(self._headers.get("content-encoding", ""), MAX_DECODED_BYTES)
        except DecodingFailed:
            self._attempt_failed(Failure(Phase.BODY, self._status, {}, b"", "content_encoding"))
            return
        self._reader = choose(
            call,
            self._headers.get("content-type", ""),
            max_buffered=self._settings.max_buffered_answer,
            rename=call.model if attempts.renames else None,
            strip_usage=attempts.adds_usage,
            clean=self._gateway.cleaner.data,
        )

    def _on_upstream_bytes(self, event: UpstreamBytes) -> None:
        self._deadlines.heard(self._now)
        if self._state is State.ERROR:
            self._error += event.data
            if len(self._error) >= MAX_ERROR_BYTES:
                self._error_complete()
        elif self._state is State.ANSWER:
            try:
                data = _need(self._decoder).feed(event.data)
            except DecodingFailed:
                self._broken("content_encoding")
                return
            if data:
                self._progress(_need(self._reader).feed(data))

    def _on_upstream_end(self, _event: UpstreamEnd) -> None:
        self._upstream_open = False
        self._outlet.out.append(ReleaseUpstream())
        if self._state is State.LINGER:
            self._over(None)
        elif self._state is State.ERROR:
            self._error_complete()
        elif self._state is State.ANSWER:
            try:
                _need(self._decoder).end()
            except DecodingFailed:
                self._broken("content_encoding")
                return
            self._progress(_need(self._reader).end())

    def _on_upstream_failed(self, event: UpstreamFailed) -> None:
        self._upstream_open = False
        if self._state is State.LINGER:
            self._over(None)
        elif self._state is State.HEAD:
            self._unanswered(event)
        elif self._state is State.ERROR:
            self._error_complete()
        elif self._state is State.ANSWER and isinstance(self._reader, StreamReader):
            # A stream whose finish was seen is complete, however the connection ended.
            self._progress(self._reader.end())
        elif self._state is State.ANSWER:
            self._broken(event.error)

    def _unanswered(self, event: UpstreamFailed) -> None:
        if event.reused and not self._resent:
            # The pooled connection had died and nothing was processed: a new one, and not an attempt.
            self._resent = True
            self._send(_need(self._attempts).again_fresh())
            return
        phase = Phase.SEND if event.connected else Phase.CONNECT
        self._attempt_failed(Failure(phase, 0, {}, b"", event.error), event.message)

    def _broken(self, error: str) -> None:
        """The answer in progress can't be completed."""
        if self._outlet.started:
            self._cut(UpstreamCut("The provider's answer broke off before its end."), "upstream_cut")
        else:
            self._attempt_failed(Failure(Phase.BODY, self._status, {}, b"", error))

    # -- an upstream's error ------------------------------------------------------------------------

    def _error_complete(self) -> None:
        body = bytes(self._error[:MAX_ERROR_BYTES])
        try:
            body = decoder(self._headers.get("content-encoding", ""), MAX_ERROR_BYTES).feed(body)
        except DecodingFailed:
            body = b""
        self._last_error = (self._status, self._headers, body)
        self._attempt_failed(Failure(Phase.HEAD, self._status, self._headers, body))

    def _relay_error(self) -> None:
        """The upstream's own error, cleaned of secrets; in our words where it is not in the caller's dialect."""
        failure, verdict = _need(_need(self._attempts).last)
        status, headers, body = self._last_error or (failure.status, {}, failure.body)
        if failure.phase is not Phase.HEAD:
            status, headers, body = failure.status, {}, failure.body
        status = status if status >= 400 else 502
        self._book.relayed_error(status, verdict.reason)
        if self._visitor.dialect.is_error_body(body):
            kept = [("Content-Type", "application/json"), *relayed_retry_headers(headers)]
            self._outlet.whole(status, kept, self._gateway.cleaner.data(body), self._now)
        else:
            said = self._gateway.cleaner.text(verdict.message)
            self._outlet.error(UpstreamRefused(said, status=status), self._now)
        self._over(None)

    # -- passing the answer on ------------------------------------------------------------------------

    def _progress(self, progress: Progress) -> None:
        if progress.failure is not None:
            self._attempt_failed(progress.failure)
            return
        complete = progress.ending is Ending.COMPLETE
        if progress.out or complete:
            self._pass_on(b"".join(progress.out), complete=complete)
        if complete:
            self._complete()
        elif progress.ending is Ending.CUT:
            self._cut(UpstreamCut("The provider's stream ended before its end."), "upstream_cut")
        elif progress.ending is Ending.UPSTREAM_ERROR:
            self._cut(None, "upstream_error")

    def _pass_on(self, data: bytes, *, complete: bool) -> None:
        if not self._outlet.started:
            self._answer_began(len(data) if complete else None)
        if data:
            self._outlet.data(data, self._now)
            self._deadlines.spoke(self._now)

    def _answer_began(self, length: int | None) -> None:
        attempts, reader = _need(self._attempts), self._reader
        attempts.succeeded(self._status, self._now)
        headers = for_client(self._headers)
        if reader is not None and reader.content_type is not None:
            headers = [(name, value) for name, value in headers if name.lower() != "content-type"]
            headers.append(("Content-Type", reader.content_type))
        if reader is not None and reader.streams:
            headers += [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
            length = self._known_length(reader)
        self._outlet.head(self._status, headers, length)

    def _known_length(self, reader: Reader) -> int | None:
        """The length of bytes that pass as they are, where the upstream named one."""
        length = self._headers.get("content-length", "")
        plain = "content-encoding" not in self._headers and not isinstance(reader, StreamReader)
        return int(length) if plain and reader.content_type is None and length.isdigit() else None

    def _complete(self) -> None:
        """The caller has everything."""
        if self._reader is not None:
            self._book.used(self._reader.usage)
            self._remember(self._reader)
            provider = _need(self._attempts).candidate.provider.name
            content_type = self._headers.get("content-type", "application/json")
            self._model_lists.keep(_need(self._call), provider, content_type, self._reader.body, self._now)
        self._outlet.finish()
        self._record("success")
        if self._upstream_open:
            self._deadlines.linger(self._now)
        else:
            self._over(None)

    def _remember(self, reader: Reader) -> None:
        lease = _need(self._attempts).lease
        if lease is None:
            return
        hints = [hint.key for hint in _need(self._call).hints] + reader.resource_ids
        for hint in hints:
            self._gateway.keys.remember(lease.provider, hint, lease.key_id, self._now)

    def _answered_from_cache(self, route: routing.Route) -> bool:
        provider = route.candidates[0].provider.name
        found = self._model_lists.get(_need(self._call), provider, self._now)
        if found is None:
            return False
        self._book.record.provider = provider
        headers = [("Content-Type", found[0]), ("x-middleware-provider", provider), ("x-middleware-cache", "hit")]
        self._outlet.whole(200, headers, found[1], self._now)
        self._over("success")
        return True

    # -- bad ends -----------------------------------------------------------------------------------

    def _fail(self, error: MiddlewareError) -> None:
        """An error of ours, before or after the first byte."""
        if self._outlet.started:
            self._cut(error, "internal_error" if error.code == "internal_error" else "upstream_error")
            return
        self._close_upstream()
        self._book.refused(error)
        self._outlet.error(error, self._now)
        self._over(None)

    def _cut(self, error: MiddlewareError | None, outcome: str) -> None:
        """End an answer that has begun: in-band where it streams events, and visibly incomplete."""
        self._close_upstream()
        self._settle_cut()
        if error is not None and isinstance(self._reader, StreamReader):
            self._outlet.error_event(self._call, error, self._now)
        self._book.record.error_code = error.code if error is not None else outcome
        self._outlet.abort()
        self._over(outcome)

    def _settle_cut(self) -> None:
        if isinstance(self._reader, StreamReader):
            self._reader.settle()
            self._book.used(self._reader.usage)

    def _on_client_gone(self, _event: ClientGone) -> None:
        self._abandon()
        self._close_upstream()
        self._settle_cut()
        if self._state is not State.LINGER:
            self._book.record.status = 499
            self._over("client_gone")
        else:
            self._over(None)

    def _on_drain(self, _event: Drain) -> None:
        error = admission.shutting_down()
        self._abandon()
        if self._state is State.LINGER:
            self._close_upstream()
            self._over(None)
        elif self._outlet.started:
            self._cut(error, "drained")
        else:
            self._fail(error)

    def _abandon(self) -> None:
        if self._attempts is not None:
            self._attempts.abandoned(self._now)

    # -- time -----------------------------------------------------------------------------------------

    def _pace(self) -> dict[str, bool]:
        return {"started": self._outlet.started, "beats": isinstance(self._reader, StreamReader)}

    def _on_tick(self, _event: Tick) -> None:
        due = self._deadlines.due(self._state, self._now, **self._pace())
        if due is not None:
            _WHEN_DUE[due](self)

    def _when_lingered(self) -> None:
        self._close_upstream()
        self._over(None)

    def _when_expired(self) -> None:
        if self._attempts is not None:
            self._attempts.expired(self._now)
        raise UpstreamTimeout("The request took longer than request_timeout allows; the upstream call was cancelled.")

    def _when_no_first_byte(self) -> None:
        self._attempt_failed(Failure(Phase.SEND, 0, {}, b"", "first_byte_timeout"))

    def _when_silent(self) -> None:
        if self._outlet.started:
            self._cut(UpstreamTimeout("The provider fell silent (setting streaming_timeout)."), "upstream_cut")
        else:
            self._attempt_failed(Failure(Phase.BODY, 0, {}, b"", "idle_timeout"))

    def _when_to_beat(self) -> None:
        if self._outlet.started:
            self._outlet.data(HEARTBEAT, self._now)
            self._deadlines.spoke(self._now)
        else:
            # The prologue came, then nothing: the caller must see life before its own patience ends.
            self._pass_on(b"".join(_need(self._reader).release()), complete=False)
            self._deadlines.spoke(self._now)

    # -- the end ----------------------------------------------------------------------------------------

    def _close_upstream(self) -> None:
        if self._upstream_open:
            self._upstream_open = False
            self._outlet.out.append(CloseUpstream())

    def _record(self, outcome: str | None) -> None:
        if self._attempts is not None:
            self._book.placed(self._attempts)
        self._outlet.out.append(Record(self._book.close(outcome, self._now)))
        self._state = State.LINGER

    def _over(self, outcome: str | None) -> None:
        """The last step, whatever happened. The record goes out unless it is out already."""
        if self._state is not State.LINGER:
            self._record(outcome)
        self.done = True
        self._state = State.OVER
        if self._entered:
            self._entered = False
            self._gateway.limits.leave()


T = TypeVar("T")


def _need(value: T | None) -> T:
    """`value`, which the state machine guarantees to be there."""
    if value is None:
        raise RuntimeError("the exchange is in a state that its own rules exclude")
    return value


_HANDLERS: dict[type, Callable[..., None]] = {
    RequestBody: Exchange._on_body,
    UpstreamHead: Exchange._on_upstream_head,
    UpstreamBytes: Exchange._on_upstream_bytes,
    UpstreamEnd: Exchange._on_upstream_end,
    UpstreamFailed: Exchange._on_upstream_failed,
    ClientGone: Exchange._on_client_gone,
    Tick: Exchange._on_tick,
    Drain: Exchange._on_drain,
}

_WHEN_DUE: dict[Due, Callable[[Exchange], None]] = {
    Due.LINGERED: Exchange._when_lingered,
    Due.EXPIRED: Exchange._when_expired,
    Due.RETRY: Exchange._next_attempt,
    Due.NO_FIRST_BYTE: Exchange._when_no_first_byte,
    Due.SILENCE: Exchange._when_silent,
    Due.BEAT: Exchange._when_to_beat,
}
