"""
The live log: the last lines of what happens, for people who watch. Requests, answers and changes of key states go to
the `events` table, so that every worker shows the same lines.

Refuses to hold more than people can read: at most `MAX_ENTRIES_PER_WRITE` entries reach the table in one write, the
newest ones; older ones of that moment would be pushed out of sight anyway. Lines are made when they are written, so
that a busy server does not make lines that nobody sees. No secret, no query string, no control character
gets in, and a body is cut at `MAX_BODY_CHARS`.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, insert, select

from app.clock import Clock
from app.records import RequestRecord
from app.shapes import Entry, Shape
from app.storage.database import Database
from app.storage.schema import events
from app.storage.writer import Writer
from app.telemetry.logs import Clean, TextRedactor, iso_milliseconds, safe_text

BLUE: Final = "blue"
GREEN: Final = "green"
YELLOW: Final = "yellow"
RED: Final = "red"

#: The least time between two writes: eyes read no faster, and each write takes a core for a millisecond or two.
LINES_EVERY_S: Final = 0.25
MAX_ENTRIES_PER_WRITE: Final = 50
MAX_LINE_CHARS: Final = 1000
MAX_BODY_CHARS: Final = 500
MAX_SHOWN: Final = 1000

_KEY_COLORS: Final = {"Healthy": GREEN, "Resting": YELLOW, "Disabled": RED}

# Control characters, line separators, and the marks that turn the direction of text around.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_LINES: Final = select(events.c.id, events.c.at, events.c.color, events.c.message)
_NEWEST: Final = f"SELECT max(id) FROM {events.name}"

T = TypeVar("T")


class WriteBehind(Generic[T]):
    """
    Collects changes in memory and writes them with one job of the writer, instead of one job for each change.

    empty    -- makes a container for changes
    write    -- stores a full container; runs in the writer's transaction, and again with the same container when that
                transaction was rolled back
    every_s  -- the least time between two writes
    """

    #: A job that has not run after this time is ordered again: the writer may have dropped it.
    REORDER_AFTER_S: Final = 1.0

    def __init__(
        self,
        writer: Writer,
        empty: Callable[[], T],
        write: Callable[[Connection, T], None],
        clock: Clock,
        *,
        every_s: float = 0.0,
    ) -> None:
        self._writer, self._empty, self._write, self._clock = writer, empty, write, clock
        self._every_s = every_s
        self._taken_at = -math.inf
        self._lock = threading.Lock()
        self._pending = empty()
        self._ordered_at: float | None = None

    def change(self, change: Callable[[T], None]) -> None:
        """
        Apply `change` to the container that is written next: within a tenth of a second, or `every_s` after the last
        write. Cheap: no SQL here.
        """
        now = self._clock.monotonic()
        with self._lock:
            change(self._pending)
            due = self._ordered_at is None or now - self._ordered_at > self.REORDER_AFTER_S
            if due:
                self._ordered_at = now
            delay_s = self._taken_at + self._every_s - now
        if due:
            self._writer.later(_Job(self._take, self._write), delay_s)

    def _take(self) -> T:
        with self._lock:
            taken, self._pending, self._ordered_at = self._pending, self._empty(), None
            self._taken_at = self._clock.monotonic()
        return taken


class _Job(Generic[T]):
    """Takes what has been collected when it runs first, and keeps it in case it has to run again."""

    def __init__(self, take: Callable[[], T], write: Callable[[Connection, T], None]) -> None:
        self._take, self._write = take, write
        self._taken: list[T] = []

    def __call__(self, connection: Connection) -> None:
        if not self._taken:
            self._taken.append(self._take())
        self._write(connection, self._taken[0])


#: Unix seconds, color, message
_Line = tuple[float, str, str]


class Line(NamedTuple):
    """A line as it is stored. Ids grow in the order of writing."""

    id: int
    at: float
    color: str
    message: str


class _Request(NamedTuple):
    """A finished request; its id and the texts of its shape are redacted, the excerpts are not yet."""

    shape: Shape
    request_id: str
    started_at: float
    key_id: int | None
    duration_ms: int
    attempts: int
    request_excerpt: str = ""
    response_excerpt: str = ""


_Entries = deque[_Line | _Request | Entry]


class LiveLog:
    """Writes the lines and reads the last ones. Every method may be called from any thread; writing never blocks."""

    def __init__(self, database: Database, writer: Writer, redactor: TextRedactor, clock: Clock | None = None) -> None:
        self._database, self._redactor = database, redactor
        self._clock = clock or Clock()
        self._entries: WriteBehind[_Entries] = WriteBehind(
            writer, _no_entries, self._write, self._clock, every_s=LINES_EVERY_S
        )

    # -- writing ----------------------------------------------------------------------------------

    def add(self, message: str, color: str, at: float | None = None) -> None:
        """
        Add one line.

        color -- blue, green, yellow or red
        at    -- Unix seconds; None is now
        """
        line = (self._clock.wall() if at is None else at, color, message)
        self._entries.change(lambda entries: entries.append(line))

    def request(self, record: RequestRecord, shape: Shape, request_id: str) -> None:
        """
        Add the lines of one finished request: the request, the answer, the bodies where the record has excerpts.

        request_id -- redacted and cut
        """
        entry = _Request(
            shape,
            request_id,
            record.started_at,
            record.key_id,
            record.duration_ms,
            len(record.attempts),
            record.request_excerpt,
            record.response_excerpt,
        )
        self._entries.change(lambda entries: entries.append(entry))

    def successes(self, booked: Sequence[Entry]) -> None:
        """Add the lines of finished requests that needed one attempt each."""
        newest = booked[-MAX_ENTRIES_PER_WRITE:]
        self._entries.change(lambda entries: entries.extend(newest))

    def key_changed(self, name: str, new: str, reason: str = "") -> None:
        """Add a line about the new state of a key."""
        why = f" ({reason})" if reason else ""
        self.add(f'Key "{name}" is {new}{why}', _KEY_COLORS.get(new, BLUE))

    def _write(self, connection: Connection, entries: _Entries) -> None:
        lines: list[_Line] = []
        for entry in entries:
            lines += self._lines(entry)
        if lines:
            rows = [{"at": at, "color": color, "message": self._printable(message)} for at, color, message in lines]
            connection.execute(insert(events), rows)

    def _lines(self, entry: _Line | _Request | Entry) -> list[_Line]:
        if isinstance(entry, _Request):
            return _request_lines(entry, self._redactor.text)
        if isinstance(entry[0], Shape):
            shape, request_id, started_at, key_id, duration_ms = entry[:5]
            return _request_lines(_Request(shape, request_id, started_at, key_id, duration_ms, 1), self._redactor.text)
        return [entry]

    def _printable(self, text: str) -> str:
        # Redact first: a cut secret is no longer recognised.
        clean = text if type(text) is Clean else self._redactor.text(text)
        text = _UNPRINTABLE.sub("\ufffd", safe_text(clean))
        return text if len(text) <= MAX_LINE_CHARS else text[: MAX_LINE_CHARS - 1] + "…"

    # -- reading ----------------------------------------------------------------------------------

    def recent(self, limit: int = 50) -> list[dict[str, str]]:
        """
        The last lines, oldest first: [{"time": "2026-11-20T13:47:05.123Z", "msg", "color"}].

        limit -- at most `MAX_SHOWN`
        """
        newest = select(events.c.at, events.c.message, events.c.color).order_by(events.c.id.desc())
        with self._database.read() as connection:
            rows = connection.execute(newest.limit(max(0, min(limit, MAX_SHOWN)))).all()
        # Ids follow the order of writing; several workers write in turns, and a request is written when it ends.
        ordered = sorted(reversed(rows), key=lambda row: float(row.at))
        return [{"time": iso_milliseconds(row.at), "msg": row.message, "color": row.color} for row in ordered]

    def last(self, limit: int) -> list[Line]:
        """The last lines in the order of their ids."""
        with self._database.read() as connection:
            rows = connection.execute(_LINES.order_by(events.c.id.desc()).limit(limit)).all()
        return [Line(*row) for row in reversed(rows)]

    def after(self, line_id: int, limit: int) -> list[Line]:
        """The first lines above this id, in the order of their ids."""
        with self._database.read() as connection:
            rows = connection.execute(_LINES.where(events.c.id > line_id).order_by(events.c.id).limit(limit)).all()
        return [Line(*row) for row in rows]

    def newest_id(self) -> int:
        """The id of the last line, 0 without lines."""
        return self._database.number(_NEWEST)


def status_color(status: int, outcome: str = "success") -> str:
    """Green for an answer of 2xx that was complete, yellow for 3xx, else red."""
    if 200 <= status < 300:
        return GREEN if outcome in ("success", "") else RED
    return YELLOW if 300 <= status < 400 else RED


def _request_lines(request: _Request, clean: Callable[[str], str]) -> list[_Line]:
    shape, started_at = request.shape, request.started_at
    ended_at = started_at + request.duration_ms / 1000
    color = status_color(shape.status, shape.outcome)
    lines: list[_Line] = [(started_at, BLUE, _request_line(request))]
    if request.request_excerpt:
        lines.append((started_at, BLUE, Clean(f"Request body: {_cut(clean(request.request_excerpt))}")))
    lines.append((ended_at, color, _answer_line(request)))
    if request.response_excerpt:
        lines.append((ended_at, color, Clean(f"Response body: {_cut(clean(request.response_excerpt))}")))
    return lines


def _request_line(request: _Request) -> Clean:
    shape = request.shape
    model = f" model {shape.model}" if shape.model else ""
    stream = " stream" if shape.stream else ""
    return Clean(f"{shape.method} {shape.path}{model}{stream} ({request.request_id})")


def _answer_line(request: _Request) -> Clean:
    shape = request.shape
    parts = [f"{shape.status} {shape.outcome or 'done'} in {request.duration_ms} ms"]
    if shape.provider:
        parts.append(shape.provider)
    if request.key_id is not None:
        parts.append(f"key {request.key_id}")
    if request.attempts:
        parts.append(f"{request.attempts} attempt{'s' if request.attempts > 1 else ''}")
    if shape.error_code:
        parts.append(shape.error_code)
    return Clean(f"{', '.join(parts)} ({request.request_id})")


def _cut(body: str) -> str:
    return body if len(body) <= MAX_BODY_CHARS else body[: MAX_BODY_CHARS - 1] + "…"


def _no_entries() -> _Entries:
    return deque(maxlen=MAX_ENTRIES_PER_WRITE)
