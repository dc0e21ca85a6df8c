"""
What becomes of an answer's body: four readers, one for each way of passing it on. Pure.

    StreamReader    events, watched as they pass; held back until the first real output, or to the end without one
    PlainReader     a body read to its end and checked before a byte of it goes out
    CollectReader   events that the caller did not ask for, put together to a plain answer
    RawReader       bytes that nobody needs to understand: files, audio

Until `committed`, a failure can still be cured by another attempt: nothing has reached the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import orjson

from app.formats import json_body
from app.formats.base import EMPTY_ANSWER, Call, Framing, Json, Mark, Operation, StreamWatcher, Usage
from app.formats.json_array import Splitter as ArraySplitter
from app.formats.sse import Splitter as EventSplitter
from app.formats.sse import data_of
from app.keys.base import Failure, Phase

#: Events that may wait for the first output, or for the end.
PATIENT = frozenset({Mark.PROLOGUE, Mark.IGNORED, Mark.USAGE_ONLY})
_EMPTY = Failure(Phase.BODY, 200, {}, b"", EMPTY_ANSWER)


class Ending(Enum):
    OPEN = "open"
    COMPLETE = "complete"
    UPSTREAM_ERROR = "upstream_error"  # an error event, already among the output
    CUT = "cut"  # the upstream stopped before the end


@dataclass(slots=True)
class Progress:
    """
    What one piece of input came to.

    out      -- bytes for the caller, in order; only ever filled once committed
    failure  -- the attempt failed before anything reached the caller
    late     -- it failed after that: too late for another attempt, but not for what is known of the key
    """

    out: list[bytes] = field(default_factory=list)
    ending: Ending = Ending.OPEN
    failure: Failure | None = None
    late: Failure | None = None


class Reader:
    """What the four have in common. `committed` turns True with the first output; `usage` is set at the end."""

    #: The caller gets a stream of chunks rather than a body of known length.
    streams = False

    def __init__(self) -> None:
        self.committed = False
        self.usage = Usage()
        self.resource_ids: list[str] = []
        #: Content type of what goes out, where it is not the upstream's own.
        self.content_type: str | None = None
        #: A checked plain answer as the upstream gave it, for the cache of model lists.
        self.body: bytes | None = None

    def feed(self, data: bytes) -> Progress:
        raise NotImplementedError

    def end(self) -> Progress:
        """The upstream's body ended cleanly."""
        raise NotImplementedError

    def release(self) -> list[bytes]:
        """Commit now, with what was held back."""
        self.committed = True
        return []


class StreamReader(Reader):
    """
    Passes events on as they came, whole ones only, so that a heartbeat or an error event never lands inside one.

    rename       -- the model name that the caller asked for, where another one was sent
    strip_usage  -- the usage chunk was our wish, not the caller's
    clean        -- takes secrets out of error events
    """

    streams = True

    def __init__(self, call: Call, *, rename: str | None, strip_usage: bool, clean: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._call = call
        self._format = call.match.format
        self._rename = rename
        self._strip_usage = strip_usage
        self._clean = clean
        self._array = call.match.endpoint.framing is Framing.JSON_ARRAY
        self._splitter: EventSplitter | ArraySplitter = ArraySplitter() if self._array else EventSplitter()
        self._watcher = self._format.watcher(call)
        self._held: list[bytes] = []
        #: An event, or a part of one, went out.
        self.begun = False
        self._bare = False  # one object stands where an array was asked for

    @property
    def finished(self) -> bool:
        """The answer is complete, whatever may still follow it."""
        return self._watcher.state.finished

    @property
    def between_events(self) -> bool:
        """Whether white space may go out now. An event that is too long to be held goes out in pieces."""
        return not self._splitter.oversized

    def feed(self, data: bytes) -> Progress:
        progress = Progress()
        for event in self._splitter.feed(data):
            self._take(event, progress)
            if progress.failure is not None or progress.ending is not Ending.OPEN:
                return progress
        if self._closed and self.finished:
            self._finish(_array_end(self._splitter.rest()), progress)
        return progress

    def end(self) -> Progress:
        progress = Progress()
        rest = self._splitter.rest()
        if not self._array and _is_whole(rest):
            # The last event came without its blank line: the end of the stream stands for it.
            self._take(rest + (b"\n" if rest.endswith(b"\n") else b"\n\n"), progress)
            if progress.failure is not None or progress.ending is not Ending.OPEN:
                return progress
        if not self.finished or (self._array and not self._closed and not self._bare):
            return self._unfinished(progress)
        if self._array:
            self._finish(_array_end(rest) if self._closed else b"]", progress)
        else:
            self._finish(b"" if self._watcher.state.terminated else self._format.terminator(self._call), progress)
        return progress

    def release(self) -> list[bytes]:
        held, self._held = self._held, []
        self.committed = True
        self.begun = self.begun or bool(held)
        return held

    @property
    def _closed(self) -> bool:
        """The array has ended."""
        return isinstance(self._splitter, ArraySplitter) and self._splitter.closed

    def _finish(self, last: bytes, progress: Progress) -> None:
        if self._watcher.state.empty and not self.committed:
            progress.failure = _EMPTY
            return
        progress.out.extend(self.release())
        progress.out.append(last)
        progress.ending = Ending.COMPLETE
        self.settle()

    def resume(self, watcher: StreamWatcher) -> None:
        """Whole events went out already, all of which `watcher` has seen."""
        self._watcher = watcher
        self.committed = self.begun = True

    def _take(self, event: bytes, progress: Progress) -> None:
        mark = self._watcher.watch(event)
        if mark is Mark.ERROR:
            self._error(event, progress)
            return
        if mark is Mark.USAGE_ONLY and self._strip_usage:
            return
        if self._rename is not None:
            event = self._format.rename_model(event, self._rename)
        if self._array and not self.begun and not self._held and event.lstrip()[:1] == b"{":
            self._bare = True
            event = b"[" + event
        if mark is Mark.TERMINATOR:
            self._finish(event, progress)
            return
        if not self.committed and (mark in PATIENT or self._watcher.state.empty):
            self._held.append(event)
            return
        if not self.committed:
            progress.out.extend(self.release())
        self.begun = True
        progress.out.append(event)

    def _error(self, event: bytes, progress: Progress) -> None:
        state = self._watcher.state
        if not self.committed:
            progress.failure = Failure(Phase.STREAM, state.error_status or 200, {}, state.error or event)
            return
        progress.out.append(self._clean(event) + (b"\n]" if self._array else b""))
        progress.ending = Ending.UPSTREAM_ERROR
        progress.late = Failure(Phase.STREAM, state.error_status or 200, {}, state.error or event)
        self.settle()

    def _unfinished(self, progress: Progress) -> Progress:
        if self.committed:
            progress.ending = Ending.CUT
            self.settle()
        else:
            progress.failure = Failure(Phase.BODY, 200, {}, b"", "incomplete")
        return progress

    def settle(self) -> None:
        """Take stock: the stream has ended, or will not go on."""
        self.usage = self._watcher.settle()
        self.resource_ids = list(self._watcher.state.resource_ids)


def _array_end(rest: bytes) -> bytes:
    """The bracket that closes an array, with the white space around it and nothing that follows."""
    end = rest.find(b"]") + 1
    behind = rest[end:]
    return rest[:end] + behind[: len(behind) - len(behind.lstrip())]


def _is_whole(event: bytes) -> bool:
    """Whether an event without its blank line has all of its data: half an event must not go out."""
    data = data_of(event).strip()
    if data == b"[DONE]":
        return True
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


class PlainReader(Reader):
    """
    A body checked before it goes out. One that grows beyond `max_bytes` is passed on unchecked from there.

    rename      -- as for StreamReader
    to_stream   -- the caller asked for a stream that the upstream did not give: make one of the answer
    """

    def __init__(self, call: Call, *, max_bytes: int, rename: str | None, to_stream: bool) -> None:
        super().__init__()
        self._call = call
        self._format = call.match.format
        self._max_bytes = max_bytes
        self._rename = rename
        self.streams = to_stream
        self.content_type = "text/event-stream" if to_stream else None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Progress:
        if self.committed:
            return Progress([data])
        self._parts.append(data)
        self._size += len(data)
        if self._size <= self._max_bytes:
            return Progress()
        return Progress(self.release())

    def release(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        self.committed = True
        self.streams = True
        self.content_type = None
        return parts

    def end(self) -> Progress:
        if self.committed:
            return Progress(ending=Ending.COMPLETE)
        body = b"".join(self._parts)
        answer, fault = self._format.check_answer(self._call, body)
        if fault:
            return Progress(failure=Failure(Phase.BODY, 200, {}, body[:65536], fault))
        return self._deliver(answer, body)

    def _deliver(self, answer: Json | None, body: bytes) -> Progress:
        self.body = body
        made = answer if answer is not None else self._made(body)
        if made is not None:
            self.resource_ids = self._format.resource_ids(self._call, made)
        if answer is not None:
            self.usage = self._format.usage(answer)
            if self.streams:
                body = self._format.stream_from_answer(self._call, answer)
        if self._rename is not None:
            body = self._format.rename_model(body, self._rename)
        self.committed = True
        return Progress([body], Ending.COMPLETE)

    def _made(self, body: bytes) -> Json | None:
        """What a call that is relayed unread has made, such as a file: later requests ask for it at the same key."""
        if self._call.match.endpoint.operation is not Operation.OTHER:
            return None
        try:
            made = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return made if isinstance(made, dict) else None


class CollectReader(Reader):
    """
    Puts an unasked-for stream together to the plain answer that the caller expects, or to the one array of it where
    the caller wanted its stream as an array.
    """

    content_type: str | None

    def __init__(self, call: Call, *, max_bytes: int, rename: str | None) -> None:
        super().__init__()
        self._call = call
        self._format = call.match.format
        self._rename = rename
        self._max_bytes = max_bytes
        self._splitter = EventSplitter()
        self._watcher = self._format.watcher(_as_events(call))
        self._events: list[bytes] = []
        self._size = 0
        self.content_type = "application/json"

    def feed(self, data: bytes) -> Progress:
        self._size += len(data)
        if self._size > self._max_bytes:
            return Progress(failure=Failure(Phase.BODY, 200, {}, b"", "too_large"))
        return self._take(self._splitter.feed(data))

    def _take(self, events: list[bytes]) -> Progress:
        for event in events:
            if self._watcher.watch(event) is Mark.ERROR:
                state = self._watcher.state
                return Progress(failure=Failure(Phase.STREAM, state.error_status or 200, {}, state.error or event))
            self._events.append(event)
            if self._watcher.state.terminated:
                return self.end()
        return Progress()

    def end(self) -> Progress:
        from_rest = self._take([rest]) if (rest := self._splitter.rest()).strip() else Progress()
        if from_rest.failure is not None or from_rest.ending is not Ending.OPEN:
            return from_rest
        answer = self._format.answer_from_stream(self._call, self._events) if self._watcher.state.finished else None
        if answer is None:
            return Progress(failure=Failure(Phase.BODY, 200, {}, b"", "incomplete"))
        if self._watcher.state.empty:
            return Progress(failure=_EMPTY)
        self.usage = self._watcher.settle()
        self.resource_ids = list(self._watcher.state.resource_ids)
        body = self._format.stream_from_answer(self._call, answer) if self._call.stream else json_body.dumps(answer)
        if self._rename is not None:
            body = self._format.rename_model(body, self._rename)
        self.committed = True
        return Progress([body], Ending.COMPLETE)


def _as_events(call: Call) -> Call:
    """The call as if it had asked for events."""
    endpoint = replace(call.match.endpoint, framing=Framing.SSE)
    return call.with_match(replace(call.match, endpoint=endpoint))


class RawReader(Reader):
    """Bytes in, bytes out. An end is an end: the framing is all there is to check."""

    streams = True

    def feed(self, data: bytes) -> Progress:
        self.committed = True
        return Progress([data])

    def end(self) -> Progress:
        self.committed = True
        return Progress(ending=Ending.COMPLETE)


def choose(
    call: Call,
    content_type: str,
    *,
    max_buffered: int,
    rename: str | None,
    strip_usage: bool,
    clean: Callable[[bytes], bytes],
) -> Reader:
    """The reader for a 2xx answer to this call."""
    kind = content_type.partition(";")[0].strip().lower()
    events = kind == "text/event-stream"
    if call.match.endpoint.operation is Operation.OTHER:
        is_json = kind == "application/json"
        return PlainReader(call, max_bytes=max_buffered, rename=None, to_stream=False) if is_json else RawReader()
    array = call.match.endpoint.framing is Framing.JSON_ARRAY
    if events and (array or not call.stream):
        return CollectReader(call, max_bytes=max_buffered, rename=rename)
    if not call.stream:
        return PlainReader(call, max_bytes=max_buffered, rename=rename, to_stream=False)
    # Some servers stream events as text/plain or name no type at all.
    if events or array or kind in ("", "text/plain", "application/octet-stream"):
        return StreamReader(call, rename=rename, strip_usage=strip_usage, clean=clean)
    return PlainReader(call, max_bytes=max_buffered, rename=rename, to_stream=True)
