"""
What is remembered of each request: a row in `requests`, the statistics of its keys, its metrics, its lines in the live
log and one access line. Reading it back is `usage_queries`; what is cheaper by the batch is `booking`.

`record` works in memory only: rows reach the database through the writer a tenth of a second later at most, sums half a
second later.
Nothing stored holds a secret, a query string or a character that a database refuses.
"""

from __future__ import annotations

import threading
from collections import ChainMap, OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from app.clock import Clock
from app.live_log import LiveLog, WriteBehind
from app.records import AttemptRecord, RequestRecord
from app.settings_store import LiveSettings
from app.shapes import MAX_INT32, MAX_INT64, Entry, Shape, Shapes, clamp, is_plain
from app.storage.database import Database
from app.storage.row_writer import ROW_COLUMNS, SHAPE_COLUMNS
from app.storage.schema import request_shapes, requests
from app.storage.writer import Writer
from app.telemetry.access import log_access, log_attempts
from app.telemetry.logs import TextRedactor, safe_text
from app.telemetry.metrics import Metrics
from app.totals import Totals, write_totals

MAX_MESSAGE_CHARS: Final = 500
MAX_ATTEMPTS: Final = 100
#: A shape that is used says so in the database once in this time; see `Retention`.
SEEN_EVERY_S: Final = 43_200.0
#: Shapes that are known to be in the database; the one that was used first goes.
_MAX_STORED: Final = 5000
#: Under load, sums are written so often: it costs the same for one request as for thousands.
SUMS_EVERY_S: Final = 1.0
_BIG_NUMBERS: Final = (
    "key_id",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_SMALL_NUMBERS: Final = ("duration_ms", "first_byte_ms")

_ShapeRows = dict[int, tuple[Any, ...]]


class UsageStore:
    """Books requests. One for each worker; every method may be called from any thread."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        redactor: TextRedactor,
        live_settings: LiveSettings,
        metrics: Metrics,
        *,
        live_log: LiveLog | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._writer, self._live_settings, self._metrics = writer, live_settings, metrics
        self._clock = clock or Clock()
        self.shapes = Shapes(redactor)
        self.live_log = live_log or LiveLog(database, writer, redactor, self._clock)
        self.totals: WriteBehind[Totals] = WriteBehind(writer, Totals, write_totals, self._clock, every_s=SUMS_EVERY_S)
        self._new_shapes: WriteBehind[_ShapeRows] = WriteBehind(writer, dict, _write_shapes, self._clock)
        self._stored_until: OrderedDict[int, float] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, record: RequestRecord) -> None:
        """Book one finished request. Never blocks on the database and never raises."""
        settings = self._live_settings.current
        shape = self.shapes.of(record)
        self.totals.change(lambda totals: totals.book(record, shape))
        if settings.enable_metrics_collection:
            self._metrics.observe(record, shape.model_name)
        if settings.enable_request_logging:
            row = self._row(record, shape)
            self._store_shape(shape)
            self._writer.add_row(requests, row)
            request_id = row["request_id"]
            self.live_log.request(record, shape, request_id)
            log_access(ChainMap(row, shape.shared()), len(record.attempts))
            log_attempts(request_id, record)

    def store_rows(self, entries: Sequence[Entry]) -> None:
        """Hand the rows of booked successes to the writer, one by one."""
        for entry in entries:
            self._store_shape(entry[0])
            row: dict[str, Any] = {"shape_id": entry[0].id}
            row.update(zip(ROW_COLUMNS, entry[1:], strict=True))
            self._writer.add_row(requests, row)

    def key_changed(self, name: str, new: str, reason: str = "") -> None:
        """Show a change of a key's state in the live log. Never blocks and never raises."""
        self.live_log.key_changed(name, new, reason)

    def _store_shape(self, shape: Shape) -> None:
        """Order the shape to be written before the row that is handed over next, where it may not be there yet."""
        now = self._clock.wall()
        with self._lock:
            if self._stored_until.get(shape.id, 0.0) > now:
                return
            self._stored_until[shape.id] = now + SEEN_EVERY_S
            self._stored_until.move_to_end(shape.id)
            if len(self._stored_until) > _MAX_STORED:
                self._stored_until.popitem(last=False)
        columns = shape.columns(now)
        self._new_shapes.change(lambda rows: rows.__setitem__(shape.id, columns))

    def _row(self, record: RequestRecord, shape: Shape) -> dict[str, Any]:
        row: dict[str, Any] = {
            "shape_id": shape.id,
            "request_id": self.shapes.safe_request_id(record.request_id),
            "started_at": record.started_at,
            "attempts": "" if is_plain(record) else self._attempts(record),
        }
        for names, highest in ((_BIG_NUMBERS, MAX_INT64), (_SMALL_NUMBERS, MAX_INT32)):
            for name in names:
                number = getattr(record, name)
                row[name] = None if number is None else clamp(number, highest)
        return row

    def _attempts(self, record: RequestRecord) -> str:
        return orjson.dumps([self._attempt(attempt) for attempt in record.attempts[:MAX_ATTEMPTS]]).decode()

    def _attempt(self, attempt: AttemptRecord) -> dict[str, Any]:
        return {
            "number": attempt.number,
            "provider": safe_text(attempt.provider, 64),
            "key_id": attempt.key_id,
            "status": clamp(attempt.status, MAX_INT32),
            "verdict": safe_text(attempt.verdict, 32),
            "reason": safe_text(attempt.reason, 64),
            "message": self.shapes.safe_message(attempt.message, MAX_MESSAGE_CHARS),
            "wait_ms": clamp(attempt.wait_ms, MAX_INT32),
            "duration_ms": clamp(attempt.duration_ms, MAX_INT32),
        }


def _write_shapes(connection: Connection, shapes: _ShapeRows) -> None:
    if not shapes:
        return  # ordered twice because the first order was late
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(request_shapes)
    statement = statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": statement.excluded["seen_at"]})
    # In one order, so that workers that write the same shapes at once don't wait for each other in a circle.
    connection.execute(statement, [dict(zip(SHAPE_COLUMNS, shapes[id_], strict=True)) for id_ in sorted(shapes)])
