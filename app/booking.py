"""
Booking successes by the batch: what `UsageStore.record` does for one request, done for many at a fraction of the cost.
Both leave the same rows, statistics, metrics, lines of the live log and access lines.

The event loop appends entries and calls `flush` when `batch` of them have come together, and `FLUSH_EVERY_S` after the
first at the latest. A flush adds up, and hands the rows to the row writer's process; it waits for nothing, unless that
process is so far behind that rows would be dropped soon. Without the process (PostgreSQL, another server, no process to
be had) the rows go to the writer's thread, and the rest stays the same.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from app.clock import HOUR_S, Clock
from app.records import RequestRecord
from app.rollups import Alike
from app.settings_store import LiveSettings
from app.shapes import MAX_REQUEST_ID_CHARS, Entry, Shape, is_plain, plain_attempt
from app.storage.database import Database
from app.storage.row_link import Batch, RowLink
from app.storage.row_writer import ROW_COLUMNS, access_lines
from app.storage.writer import Writer
from app.telemetry.access import access_log, attempt_log, log_attempt
from app.telemetry.logs import Rendered, iso_milliseconds
from app.telemetry.metrics import Metrics
from app.totals import Totals
from app.usage import SEEN_EVERY_S, UsageStore

#: How long an entry may wait for a flush.
FLUSH_EVERY_S: Final = 0.05
#: How long each flush leaves the processor to the row writer when rows are about to be dropped; less when it is not as
#: far behind, so that both find the pace that one core allows them.
MOST_YIELD_S: Final = 0.02
#: Entries booked so far that wait although nobody flushes; beyond it they are flushed where they are made.
_MOST_ENTRIES: Final = 4096

_Columns = list[tuple[Any, ...]]
# Places of the columns behind the shape.
_KEY, _DURATION, _FIRST = (ROW_COLUMNS.index(name) for name in ("key_id", "duration_ms", "first_byte_ms"))
_STARTED, _INPUT, _OUTPUT, _CACHED = (
    ROW_COLUMNS.index(name) for name in ("started_at", "input_tokens", "output_tokens", "cached_tokens")
)


class Booking:
    """
    entries  -- append here, on the event loop; the list stays the same object
    batch    -- call `flush` when there are so many entries
    running  -- plain numbers of what the loop has under way, for the gauges; the loop changes them
    noticed  -- called after `record` has added an entry, on its thread
    """

    #: A flush costs about 60 us and half a microsecond for each entry: few of them, but short ones.
    batch: Final = 256

    def __init__(
        self,
        usage: UsageStore,
        database: Database,
        writer: Writer,
        live_settings: LiveSettings,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self._usage, self._database, self._writer = usage, database, writer
        self._live_settings, self._metrics = live_settings, metrics
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._link: RowLink | None = None
        self._started = False
        self.entries: list[Entry] = []
        self.running = metrics.running
        self.noticed: Callable[[], None] | None = None

    # -- for the event loop -----------------------------------------------------------------------

    def start(self) -> None:
        """From now on somebody calls `flush`. Starts the row writer where the database is a file."""
        self._started = True
        if self._database.path is not None and self._link is None:
            link = RowLink(self._database.path, self._write_here, seen_every_s=SEEN_EVERY_S)
            self._link = link
            self._writer.accompany(link)
            link.start()

    def shape(self, record: RequestRecord) -> Shape:
        """What the record has in common with others, redacted and cut. Keep it while `epoch` stays the same."""
        return self._usage.shapes.of(record)

    @property
    def epoch(self) -> int:
        """Grows when shapes made before should be made again: a text in them may be a secret now."""
        return self._usage.shapes.epoch

    def safe_request_id(self, given: str) -> str:
        """A caller's request id as an entry takes it: redacted and cut. Ids that we made are fit as they are."""
        return self._usage.shapes.safe_request_id(given)

    def record(self, record: RequestRecord) -> None:
        """Book one finished request: by the batch where that is possible, else by itself. Never raises."""
        if not self._started or not is_bookable(record):
            self._usage.record(record)
            return
        self.entries.append(entry_of(record, self.shape(record), self.safe_request_id(record.request_id)))
        if len(self.entries) >= _MOST_ENTRIES:
            self.flush()
        elif self.noticed is not None:
            self.noticed()

    def flush(self) -> None:
        """Book all entries. Any thread may call it; it never waits for the database and never raises."""
        with self._lock:
            entries = self.entries[:]
            del self.entries[: len(entries)]
        if entries:
            usual = _usual(entries)
            if usual is None:
                entries = self._book_odd_ones(entries)
                usual = _usual(entries)
            if usual is not None:
                self._book(entries, usual)
        self._metrics.show_running()

    # -- booking ----------------------------------------------------------------------------------

    def _book(self, entries: list[Entry], columns: _Columns) -> None:
        settings = self._live_settings.current
        shapes = columns[0]
        groups = {shapes[0]: columns[1:]} if len(set(shapes)) == 1 else _by_shape(entries)
        self._usage.totals.change(lambda totals: _add(totals, groups))
        if settings.enable_metrics_collection:
            for shape, group in groups.items():
                self._count(shape, group)
        if settings.enable_request_logging:
            self._hand_over(entries, shapes, columns[1:])
            self._usage.live_log.successes(entries)
            if attempt_log.isEnabledFor(logging.DEBUG):
                for shape, request_id, _, key_id, duration_ms, *_ in entries:
                    log_attempt(request_id, plain_attempt(shape.provider, shape.status, key_id, duration_ms))

    def _count(self, shape: Shape, columns: _Columns) -> None:
        tokens_in, tokens_out = columns[_INPUT], columns[_OUTPUT]
        known = tokens_in.count(None) < len(tokens_in) or tokens_out.count(None) < len(tokens_out)
        self._metrics.observe_successes(
            shape,
            shape.provider,
            shape.model_name,
            columns[_DURATION],
            columns[_FIRST],
            (_sum(tokens_in), _sum(tokens_out)) if known else None,
        )

    def _hand_over(self, entries: list[Entry], shapes: tuple[Any, ...], columns: _Columns) -> None:
        now = self._clock.wall()
        shown = iso_milliseconds(now) if access_log.isEnabledFor(logging.INFO) else ""
        link = self._link
        if link is not None and link.usable:
            link.send(Batch(shapes, columns, now, shown))
            if crowding := link.crowding:
                time.sleep(MOST_YIELD_S * crowding)
            return
        if shown:
            _log_lines(shown, shapes, columns)
        self._usage.store_rows(entries)

    def _write_here(self, batch: Batch) -> None:
        """What the row writer can't take after all."""
        if batch.shown:
            _log_lines(batch.shown, batch.shapes, batch.columns)
        self._usage.store_rows(list(zip(batch.shapes, *batch.columns, strict=True)))

    def _book_odd_ones(self, entries: list[Entry]) -> list[Entry]:
        """Book the entries that a batch can't hold as they are one by one; returns the others."""
        usual = []
        for entry in entries:
            if _usual([entry]) is None:
                self._usage.record(_record_of(entry))
            else:
                usual.append(entry)
        return usual


# -- entries -----------------------------------------------------------------------------------------


def is_bookable(record: RequestRecord) -> bool:
    """Whether all that the record says fits into an entry and its shape."""
    return (
        record.outcome == "success" and not record.request_excerpt and not record.response_excerpt and is_plain(record)
    )


def entry_of(record: RequestRecord, shape: Shape, request_id: str) -> Entry:
    """The entry of a bookable record."""
    return (
        shape,
        request_id,
        record.started_at,
        record.key_id,
        record.duration_ms,
        record.first_byte_ms,
        record.request_bytes,
        record.response_bytes,
        record.input_tokens,
        record.output_tokens,
        record.cached_tokens,
        record.cache_write_tokens,
        record.reasoning_tokens,
    )


def _record_of(entry: Entry) -> RequestRecord:
    shape = entry[0]
    own: dict[str, Any] = dict(zip(ROW_COLUMNS, entry[1:], strict=True))
    record = RequestRecord(**own, **shape.shared())
    record.attempts = [plain_attempt(shape.provider, shape.status, record.key_id, record.duration_ms)]
    return record


def _usual(entries: list[Entry]) -> _Columns | None:
    """
    The entries as columns; None where one holds a number below 0 or above 2**32 - 1, which has to be clamped somewhere,
    or a request id that is empty or too long.
    """
    columns: _Columns = list(zip(*entries, strict=True))
    ids = columns[1]
    if not all(ids) or max(map(len, ids)) > MAX_REQUEST_ID_CHARS or max(columns[1 + _DURATION]) >= 2**31:
        return None
    for column in columns[3:]:
        try:
            array("I", column)
        except TypeError:
            if not _fits([number for number in column if number is not None]):
                return None
        except OverflowError:
            return None
    return columns


def _fits(numbers: Sequence[int]) -> bool:
    try:
        array("I", numbers)
    except OverflowError:
        return False
    return True


def _by_shape(entries: Sequence[Entry]) -> dict[Shape, _Columns]:
    groups: dict[Shape, list[Entry]] = {}
    for entry in entries:
        group = groups.get(entry[0])
        if group is None:
            groups[entry[0]] = [entry]
        else:
            group.append(entry)
    return {shape: list(zip(*group, strict=True))[1:] for shape, group in groups.items()}


# -- sums --------------------------------------------------------------------------------------------


def _add(totals: Totals, groups: Mapping[Shape, _Columns]) -> None:
    for shape, columns in groups.items():
        started = columns[_STARTED]
        first, last = min(started) // HOUR_S, max(started) // HOUR_S
        if first == last:
            _add_hour(totals.alike(shape, int(first)), shape, columns)
            continue
        for hour in {at // HOUR_S for at in started}:
            rows = [row for row in zip(*columns, strict=True) if row[_STARTED] // HOUR_S == hour]
            _add_hour(totals.alike(shape, int(hour)), shape, list(zip(*rows, strict=True)))


def _add_hour(alike: Alike, shape: Shape, columns: _Columns) -> None:
    sums, durations, firsts = alike.sums, columns[_DURATION], columns[_FIRST]
    alike.durations.update(durations)
    if shape.stream:
        alike.first_bytes.update(firsts)
        # As `latency_ms` has it: a stream has answered with its first byte.
        durations = tuple(
            whole if first is None else min(whole, first) for whole, first in zip(durations, firsts, strict=True)
        )
    counted = (_numbers(columns[place]) for place in (_INPUT, _OUTPUT, _CACHED))
    # Unrolled, and tuples rather than objects: this runs for each request.
    for key_id, duration, tokens_in, tokens_out, cached in zip(columns[_KEY], durations, *counted, strict=True):
        if key_id in sums:
            count, latency, all_in, all_out, all_cached = sums[key_id]
            sums[key_id] = (
                count + 1,
                latency + duration,
                all_in + tokens_in,
                all_out + tokens_out,
                all_cached + cached,
            )
        else:
            sums[key_id] = (1, duration, tokens_in, tokens_out, cached)


def _numbers(column: tuple[int | None, ...]) -> Sequence[int]:
    """The column with 0 where it has nothing."""
    return [number or 0 for number in column] if None in column else column  # type: ignore[return-value]


def _sum(column: tuple[int | None, ...]) -> int:
    return sum(_numbers(column))


def _log_lines(at: str, shapes: Sequence[Shape], columns: _Columns) -> None:
    lines = access_lines(at, (shape.access for shape in shapes), columns)
    access_log.info(Rendered("\n".join(lines)))
