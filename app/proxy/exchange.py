"""
One request from its head to its record: the sans-I/O core. It is fed events and answers with commands; it holds no
socket, no clock, no thread and no SQL. Both drivers run exactly this.

    authenticate -> read -> route -> pick a key -> send -> pass the answer on -> record
"""

from __future__ import annotations

from collections.abc import Callable

from app.errors import MiddlewareError, UpstreamCut, UpstreamTimeout
from app.formats.base import Call
from app.keys.base import Failure, Phase
from app.proxy import admission, routing
from app.proxy.admission import Visitor
from app.proxy.attempts import Attempts, Next, RelayLast
from app.proxy.book import Book
from app.proxy.cors import preflight
from app.proxy.deadlines import Deadlines, Due, Pace, State
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
from app.proxy.incoming import Incoming
from app.proxy.invariants import need
from app.proxy.model_lists import ModelLists
from app.proxy.outlet import Outlet
from app.proxy.passing import Flow
from app.proxy.readers import Ending, Progress, StreamReader

#: A blank line between events: the only heartbeat that every client accepts.
HEARTBEAT = b"\r\n\r\n"


class Exchange:
    """
    Feed it; do what it says; keep its `deadline` (monotonic seconds, or None). It is over when `done` is True.

    gateway  -- what the core asks
    head     -- the request's head; its commands come from `start`
    now      -- monotonic seconds at the request's arrival
    wall     -- Unix seconds at the same instant
    visitor  -- where the head was admitted already
    """

    def __init__(
        self, gateway: Gateway, head: RequestHead, *, now: float, wall: float, visitor: Visitor | None = None
    ) -> None:
        self.deadline: float | None = None
        self.done = False
        self.call: Call | None = None
        self._gateway = gateway
        self._settings = gateway.settings()
        self._admitted = visitor is not None
        self._visitor: Visitor = visitor if visitor is not None else admission.greet(head, gateway.new_id())
        self._book = Book(now, wall)
        self._book.arrived(self._visitor)
        self._outlet = Outlet(self._visitor, self._settings, self._book)
        self._deadlines = Deadlines(self._settings, now)
        self._model_lists = ModelLists(gateway.model_cache, self._settings, self._visitor)
        self._wall_offset = wall - now
        self._now = now
        self._state = State.NEW
        self._entered = False  # counted among the requests in flight
        self._attempts: Attempts | None = None
        self._upstream_open = False
        self._resent = False
        self._incoming: Incoming | None = None

    # -- entrances --------------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """What to do about the head."""
        return self._run(self._begin, now)

    def feed(self, event: Event, now: float) -> list[Command]:
        """What to do about `event`, in order. Never raises for what a caller or an upstream did."""
        return self._run(lambda: _HANDLERS[type(event)](self, event), now)

    def resume(self, flow: Flow, head: UpstreamHead, now: float) -> list[Command]:
        """Go on with a stream that began elsewhere, of which the caller has the head and the first events."""
        return self._run(lambda: self._resume(flow, head), now)

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
        self.deadline = None if self.done else self._deadlines.next(self._state, self._pace())
        return out

    # -- the request ------------------------------------------------------------------------------

    def _begin(self) -> None:
        visitor = self._visitor
        allowed = preflight(visitor.headers, visitor.head.method, self._settings)
        if allowed is not None:
            self._outlet.whole(204, allowed, b"", self._now)
            self._over("success")
            return
        if not self._admitted:
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
        match = need(visitor.match)
        call = self.call = match.format.read(match, visitor.headers, visitor.query, body)
        self._book.called(call, excerpt=settings.log_request_body)
        self._deadlines.operation = match.endpoint.operation
        wanted = routing.wanted_by(call, visitor.provider, settings)
        route = routing.route(wanted, self._gateway.providers(), self._gateway.keys)
        admission.check_model(visitor.caller, call.model, route.candidates[0].model)
        if self._answered_from_cache(route):
            return
        self._attempts = Attempts(self._gateway, settings, visitor, call, route)
        self._outlet.attempts = self._attempts
        self._next_attempt()

    def _answered_from_cache(self, route: routing.Route) -> bool:
        provider = route.candidates[0].provider
        found = self._model_lists.get(need(self.call), provider, self._now)
        if found is None:
            return False
        self._book.record.provider = provider.name
        headers = [("Content-Type", found[0]), ("x-middleware-provider", provider.name), ("x-middleware-cache", "hit")]
        self._outlet.whole(200, headers, found[1], self._now)
        self._over("success")
        return True

    def _resume(self, flow: Flow, head: UpstreamHead) -> None:
        self.call, self._entered = flow.call, flow.admitted
        self._state, self._upstream_open = State.ANSWER, True
        attempts = self._attempts = Attempts(self._gateway, self._settings, self._visitor, flow.call, flow.route)
        attempts.resume(flow.lease, head.status, flow.began_at, flow.first_at)
        incoming = self._incoming = Incoming(head, head_only=False)
        incoming.resume(flow, self._gateway.cleaner.data)
        self._outlet.resume(head.status, attempts)
        self._book.resume(self._visitor, flow)
        self._deadlines.resume(flow.heard_at, flow.spoke_at)
        if flow.is_defective:
            raise MiddlewareError
        self._progress(incoming.feed(flow.part))

    # -- attempts ---------------------------------------------------------------------------------

    def _next_attempt(self) -> None:
        self._resent = False
        try:
            send = need(self._attempts).start(self._now)
        except RelayLast:
            self._relay_error()
        else:
            self._send(send)

    def _send(self, send: Send) -> None:
        self._incoming = None
        self._upstream_open = True
        self._state = State.HEAD
        self._deadlines.heard(self._now)
        self._outlet.out.append(send)

    def _attempt_failed(self, failure: Failure, message: str = "") -> None:
        self._close_upstream()
        decision = need(self._attempts).failed(failure, self._now, self._now + self._wall_offset, message)
        if decision.next is Next.FAIL:
            raise need(decision.error)
        if decision.next is Next.RELAY:
            self._relay_error()
        elif decision.wait_s > 0:
            self._state = State.WAIT
            self._deadlines.retry_at = self._now + decision.wait_s
        else:
            self._next_attempt()

    def _relay_error(self) -> None:
        self._outlet.relay(*need(need(self._attempts).last), self._gateway.cleaner, self._now)
        self._over(None)

    # -- what comes from the upstream ---------------------------------------------------------------

    def _on_upstream_head(self, event: UpstreamHead) -> None:
        if self._state is not State.HEAD:
            return
        attempts, call = need(self._attempts), need(self.call)
        self._deadlines.answered(self._now)
        incoming = self._incoming = Incoming(event, head_only=self._visitor.head.method == "HEAD")
        self._state = State.ERROR if incoming.refused else State.ANSWER
        rename, clean = call.model if attempts.renames else None, self._gateway.cleaner.data
        self._progress(incoming.begin(call, self._settings.max_buffered_answer, rename, attempts.adds_usage, clean))

    def _on_upstream_bytes(self, event: UpstreamBytes) -> None:
        if self._state in (State.ANSWER, State.ERROR):
            self._deadlines.heard(self._now)
            self._progress(need(self._incoming).feed(event.data))

    def _on_upstream_end(self, _event: UpstreamEnd) -> None:
        self._upstream_open = False
        self._outlet.out.append(ReleaseUpstream())
        if self._state is State.LINGER:
            self._over(None)
        elif self._state in (State.ANSWER, State.ERROR):
            self._progress(need(self._incoming).end())

    def _on_upstream_failed(self, event: UpstreamFailed) -> None:
        self._upstream_open = False
        if self._state is State.LINGER:
            self._over(None)
        elif self._state is State.HEAD:
            self._unanswered(event)
        elif self._state in (State.ANSWER, State.ERROR):
            self._progress(need(self._incoming).broken(event.error))

    def _unanswered(self, event: UpstreamFailed) -> None:
        if event.reused and not self._resent:
            # The pooled connection had died and nothing was processed: a new one, and not an attempt.
            self._resent = True
            self._send(need(self._attempts).again_fresh())
            return
        phase = Phase.SEND if event.connected else Phase.CONNECT
        self._attempt_failed(Failure(phase, 0, {}, b"", event.error), event.message)

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
            self._broke(Failure(Phase.BODY, 200, {}, b"", "upstream_cut"))
            self._cut(UpstreamCut("The provider's answer broke off before its end."), "upstream_cut")
        elif progress.ending is Ending.UPSTREAM_ERROR:
            self._broke(need(progress.late))
            self._cut(None, "upstream_error")

    def _broke(self, failure: Failure) -> None:
        """The attempt failed after its first output: the answer can't be saved, the key may be to blame."""
        need(self._attempts).broke(failure, self._now, self._now + self._wall_offset)

    def _pass_on(self, data: bytes, *, complete: bool) -> None:
        if not self._outlet.started:
            incoming = need(self._incoming)
            need(self._attempts).succeeded(incoming.status, self._now)
            known = len(data) if complete and not incoming.reader.streams else incoming.named_length()
            self._outlet.head(incoming.status, incoming.answer_headers(), known)
        if data:
            self._outlet.data(data, self._now)
            self._deadlines.spoke(self._now)

    def _complete(self) -> None:
        """The caller has everything."""
        attempts, call, incoming = need(self._attempts), need(self.call), need(self._incoming)
        reader = incoming.reader
        self._book.used(reader.usage)
        if attempts.lease is not None:
            made = reader.resource_ids + call.match.format.header_resource_ids(incoming.headers)
            for hint in [hint.key for hint in call.hints] + made:
                self._gateway.keys.remember(attempts.lease.provider, hint, attempts.lease.key_id, self._now)
        content_type = incoming.headers.get("content-type", "application/json")
        self._model_lists.keep(call, attempts.candidate.provider, content_type, reader.body, self._now)
        attempts.completed(self._now)
        self._outlet.finish()
        self._record("success")
        if self._upstream_open:
            self._deadlines.linger(self._now)
        else:
            self._over(None)

    # -- bad ends -----------------------------------------------------------------------------------

    def _fail(self, error: MiddlewareError) -> None:
        """An error of ours, before or after the first byte."""
        if self._attempts is not None:
            self._attempts.abandoned(self._now)
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
        self._settle()
        events = self._events()
        if error is not None and events is not None:
            self._outlet.error_event(self.call, error, self._now, begun=events.begun)
        self._book.record.error_code = error.code if error is not None else outcome
        self._outlet.abort()
        self._over(outcome)

    def _settle(self) -> None:
        if self._incoming is not None:
            self._incoming.settle()
            self._book.used(self._incoming.reader.usage)

    def _on_client_gone(self, _event: ClientGone) -> None:
        if self._attempts is not None:
            self._attempts.abandoned(self._now)
        self._close_upstream()
        if self._state is not State.LINGER:
            self._settle()
            if not self._outlet.started:
                self._book.answered(499)
        self._over("client_gone")

    def _on_drain(self, _event: Drain) -> None:
        error = admission.shutting_down()
        if self._state is State.LINGER:
            self._when_lingered()
        elif self._outlet.started:
            self._cut(error, "drained")
        else:
            self._fail(error)

    # -- time -----------------------------------------------------------------------------------------

    def _events(self) -> StreamReader | None:
        """The reader, where the answer is a stream of events."""
        reader = self._incoming.reader if self._incoming is not None else None
        return reader if isinstance(reader, StreamReader) else None

    def _pace(self) -> Pace:
        events = self._events()
        if events is None:
            return Pace(started=self._outlet.started)
        return Pace(started=self._outlet.started, beats=events.between_events, finished=events.finished)

    def _on_tick(self, _event: Tick) -> None:
        due = self._deadlines.due(self._state, self._now, self._pace())
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
        events = self._events()
        if events is not None and events.finished:
            self._progress(events.end())
        elif self._outlet.started:
            self._broke(Failure(Phase.BODY, 200, {}, b"", "idle_timeout"))
            self._cut(UpstreamTimeout("The provider fell silent (setting streaming_timeout)."), "upstream_cut")
        else:
            self._progress(need(self._incoming).silent())

    def _when_to_beat(self) -> None:
        if self._outlet.started:
            self._outlet.data(HEARTBEAT, self._now)
        else:
            # The prologue came, then nothing: the caller must see life before its own patience ends.
            self._pass_on(b"".join(need(self._incoming).reader.release()), complete=False)
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
