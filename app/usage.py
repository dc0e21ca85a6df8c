"""
What is remembered of each request: a row in `requests`, the statistics of its keys, its metrics, its lines in the live
log and one access line. Reading it back is `usage_queries`.

`record` works in memory only: rows and sums reach the database through the writer, at most a tenth of a second late.
Nothing stored holds a secret, a query string or a character that a database refuses.

A key's statistics keep `requests = successes + errors`. An attempt that failed through the caller's own fault, or whose
caller went away, is neither: it says nothing about the key, so it is left out of all three.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from sqlalchemy import Connection, RowMapping, Table, bindparam, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from app.clock import Clock
from app.keys.base import Action
from app.live_log import LiveLog, WriteBehind
from app.records import AttemptRecord, RequestRecord
from app.settings_store import LiveSettings
from app.storage.database import Database
from app.storage.schema import daily_stats, keys, model_stats, requests
from app.storage.writer import Writer
from app.telemetry.logs import Clean, TextRedactor, safe_text, without_query
from app.telemetry.metrics import Metrics

access_log = logging.getLogger("access")
attempt_log = logging.getLogger("attempt")

#: Verdicts that tell nothing about the key; the empty one is an attempt that never came to an end.
NEUTRAL_VERDICTS: Final = frozenset({"", Action.CLIENT.value, "client_gone"})
OK: Final = "ok"
NETWORK_ERROR: Final = "599"
#: Operations whose answers are booked as generations: their tokens and models count.
BOOKED_OPERATIONS: Final = frozenset({"generate", "embed"})

MAX_INT64: Final = 2**63 - 1
MAX_INT32: Final = 2**31 - 1
#: Sums stay exact in JSON and JavaScript.
MAX_SUM: Final = 2**53 - 1
MAX_MODEL_CHARS: Final = 256
MAX_MESSAGE_CHARS: Final = 500
MAX_ATTEMPTS: Final = 100
#: Distinct models, or error codes, in one key's day; the rest of that day counts as `other`.
MAX_NAMES_A_DAY: Final = 200
_ROWS_A_STATEMENT: Final = 400

#: Text columns of `requests` that hold words of our own, and how long they may be.
_OWN_WORDS: Final = {"method": 16, "dialect": 32, "operation": 16, "outcome": 32, "error_code": 64, "peer": 64}
#: Text columns that come from outside and may hold a secret.
_FOREIGN_WORDS: Final = {"request_id": 128, "model": 256, "upstream_model": 256, "provider": 64, "user_agent": 512}
_MAX_PATH_CHARS: Final = 2048
_BIG_NUMBERS: Final = (
    "key_id",
    "client_id",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_SMALL_NUMBERS: Final = ("status", "duration_ms", "first_byte_ms")


# -- sums in memory ----------------------------------------------------------------------------------


@dataclass(slots=True)
class DayTotals:
    """What one key did on one day, since the last write."""

    requests: int = 0
    successes: int = 0
    errors: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    total_latency_ms: int = 0
    error_codes: dict[str, int] = field(default_factory=dict)
    model_usage: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ModelTotals:
    """What one key did with one model on one day, since the last write."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0


@dataclass(slots=True)
class Totals:
    """
    days    -- by (key id, date)
    models  -- by (key id, date, model)
    """

    days: dict[tuple[int, str], DayTotals] = field(default_factory=dict)
    models: dict[tuple[int, str, str], ModelTotals] = field(default_factory=dict)

    def book(self, record: RequestRecord) -> None:
        """Add one finished request."""
        date = utc_date(record.started_at)
        answered = False
        for attempt in record.attempts:
            if attempt.key_id is None or attempt.verdict in NEUTRAL_VERDICTS:
                continue
            day = self.days.setdefault((attempt.key_id, date), DayTotals())
            day.requests += 1
            if attempt.verdict == OK:
                answered = True
                day.successes += 1
                day.total_latency_ms += latency_ms(record, attempt)
            else:
                day.errors += 1
                _add(day.error_codes, error_code(attempt), 1)
        if record.key_id is not None and record.operation in BOOKED_OPERATIONS:
            self._book_model(record, record.key_id, date, answered)

    def _book_model(self, record: RequestRecord, key_id: int, date: str, answered: bool) -> None:
        tokens_in, tokens_out = clamp(record.input_tokens, MAX_SUM), clamp(record.output_tokens, MAX_SUM)
        if not (answered or tokens_in or tokens_out):
            return
        name = model_name(record)
        day = self.days.setdefault((key_id, date), DayTotals())
        day.tokens_in += tokens_in
        day.tokens_out += tokens_out
        model = self.models.setdefault((key_id, date, name), ModelTotals())
        model.tokens_in += tokens_in
        model.tokens_out += tokens_out
        model.cached_tokens += clamp(record.cached_tokens, MAX_SUM)
        if answered:
            model.requests += 1
            _add(day.model_usage, name, 1)


def latency_ms(record: RequestRecord, attempt: AttemptRecord) -> int:
    """Milliseconds that the key took to answer: to the end of a plain answer, to the first byte of a stream."""
    whole = clamp(attempt.duration_ms, MAX_INT32)
    if not record.stream or record.first_byte_ms is None:
        return whole
    started_after = max(0, record.duration_ms - attempt.duration_ms)
    return max(0, min(whole, record.first_byte_ms - started_after))


def error_code(attempt: AttemptRecord) -> str:
    """The code under which a failed attempt is counted: its HTTP status, or 599 where no error status came."""
    return str(attempt.status) if 400 <= attempt.status <= 599 else NETWORK_ERROR


def model_name(record: RequestRecord) -> str:
    """The model as the provider knows it, fit for a column; `unknown` where none was named."""
    return safe_text(record.upstream_model or record.model or "", MAX_MODEL_CHARS) or "unknown"


def clamp(value: int | None, highest: int) -> int:
    """`value` between 0 and `highest`; 0 for None."""
    return 0 if value is None else max(0, min(value, highest))


def utc_date(at: float) -> str:
    """The day of an instant in UTC, `YYYY-MM-DD`."""
    return _date_of_day(int(at // 86400))


@lru_cache(maxsize=16)
def _date_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * 86400, UTC).strftime("%Y-%m-%d")


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = min(counts.get(name, 0) + count, MAX_SUM)


# -- the store ---------------------------------------------------------------------------------------


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
        self._writer, self._redactor = writer, redactor
        self._live_settings, self._metrics = live_settings, metrics
        clock = clock or Clock()
        self.live_log = live_log or LiveLog(database, writer, redactor, clock)
        self._totals: WriteBehind[Totals] = WriteBehind(writer, Totals, write_totals, clock)

    def record(self, record: RequestRecord) -> None:
        """Book one finished request. Never blocks on the database and never raises."""
        settings = self._live_settings.current
        self._totals.change(lambda totals: totals.book(record))
        if settings.enable_metrics_collection:
            self._metrics.observe(record)
        if settings.enable_request_logging:
            row = self._row(record)
            self._writer.add_row(requests, row)
            self.live_log.request(record)
            log_access(record, row)

    def key_changed(self, name: str, new: str, reason: str = "") -> None:
        """Show a change of a key's state in the live log. Never blocks and never raises."""
        self.live_log.key_changed(name, new, reason)

    def _row(self, record: RequestRecord) -> dict[str, Any]:
        redact = self._redaction_of(record)
        attempts = [_attempt(attempt, redact) for attempt in record.attempts[:MAX_ATTEMPTS]]
        row: dict[str, Any] = {
            "started_at": record.started_at,
            "stream": record.stream,
            "path": safe_text(redact(without_query(record.path)), _MAX_PATH_CHARS),
            "attempts": orjson.dumps(attempts).decode(),
        }
        for name, max_chars in _OWN_WORDS.items():
            row[name] = safe_text(getattr(record, name), max_chars)
        for name, max_chars in _FOREIGN_WORDS.items():
            text = getattr(record, name)
            # Redact first: a cut secret is no longer recognised.
            row[name] = None if text is None else safe_text(redact(text), max_chars)
        for names, highest in ((_BIG_NUMBERS, MAX_INT64), (_SMALL_NUMBERS, MAX_INT32)):
            for name in names:
                number = getattr(record, name)
                row[name] = None if number is None else clamp(number, highest)
        return row

    def _redaction_of(self, record: RequestRecord) -> Callable[[str], str]:
        """What redacts this record's texts. One look at all of them together is cheaper than one at each."""
        texts = [without_query(record.path), *(attempt.message for attempt in record.attempts)]
        texts += [getattr(record, name) or "" for name in _FOREIGN_WORDS]
        joined = "\n".join(texts)
        return self._redactor.text if self._redactor.text(joined) != joined else str


def log_access(record: RequestRecord, row: Mapping[str, Any]) -> None:
    """Write the access line of a request whose `row` is redacted and cut already."""
    if not access_log.isEnabledFor(logging.INFO):
        return
    shown: dict[str, Any] = {"attempts": len(record.attempts)}
    for name in _ACCESS_FIELDS:
        value = row[name]
        if value is not None and value != "":
            shown[name] = Clean(value) if isinstance(value, str) else value
    access_log.info(Clean(f"{row['method']} {row['path']} {row['status']}"), extra=shown)
    for attempt in record.attempts:
        _log_attempt(row["request_id"], attempt)


def _log_attempt(request_id: str, attempt: AttemptRecord) -> None:
    """One line for each attempt that failed; with debug, one for each."""
    level = logging.DEBUG if attempt.verdict == OK else logging.INFO
    if attempt_log.isEnabledFor(level):
        shown = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
        message = f"attempt {attempt.number} at {attempt.provider}: {attempt.verdict}"
        attempt_log.log(level, message, extra={"request_id": Clean(request_id), **shown})


def _attempt(attempt: AttemptRecord, redact: Callable[[str], str]) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "provider": safe_text(attempt.provider, 64),
        "key_id": attempt.key_id,
        "status": clamp(attempt.status, MAX_INT32),
        "verdict": safe_text(attempt.verdict, 32),
        "reason": safe_text(attempt.reason, 64),
        "message": safe_text(redact(attempt.message), MAX_MESSAGE_CHARS),
        "wait_ms": clamp(attempt.wait_ms, MAX_INT32),
        "duration_ms": clamp(attempt.duration_ms, MAX_INT32),
    }


_ATTEMPT_FIELDS: Final = ("provider", "key_id", "status", "verdict", "reason", "wait_ms", "duration_ms")
_ACCESS_FIELDS: Final = (
    "request_id",
    "method",
    "path",
    "status",
    "outcome",
    "error_code",
    "duration_ms",
    "first_byte_ms",
    "dialect",
    "operation",
    "model",
    "upstream_model",
    "provider",
    "key_id",
    "client_id",
    "stream",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "peer",
)


# -- sums into the database --------------------------------------------------------------------------


def write_totals(connection: Connection, totals: Totals) -> None:
    """
    Add `totals` to `daily_stats` and `model_stats`. Sums of keys that were deleted meanwhile are dropped.

    Reads, adds and writes inside the caller's transaction; the rows are locked, so that workers add up.
    """
    _merge(connection, daily_stats, ("key_id", "date"), totals.days)
    _merge(connection, model_stats, ("key_id", "date", "model"), totals.models)


def _merge(
    connection: Connection, table: Table, identity: tuple[str, ...], totals: Mapping[Any, DayTotals | ModelTotals]
) -> None:
    matching = [table.c[name] == bindparam(f"old_{name}") for name in identity]
    ordered = sorted(totals)
    for start in range(0, len(ordered), _ROWS_A_STATEMENT):
        wanted = ordered[start : start + _ROWS_A_STATEMENT]
        rows = _rows(connection, table, identity, wanted)
        missing = [key for key in wanted if key not in rows]
        if missing and _insert_empty(connection, table, identity, missing):
            rows |= _rows(connection, table, identity, missing)
        changes = [_change(identity, key, row, totals[key]) for key, row in rows.items()]
        if changes:
            columns = [column.name for column in fields(totals[wanted[0]])]
            values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in columns}
            connection.execute(update(table).where(*matching).values(values), changes)


def _rows(connection: Connection, table: Table, identity: tuple[str, ...], wanted: list[Any]) -> dict[Any, RowMapping]:
    columns = [table.c[name] for name in identity]
    # FOR UPDATE is for PostgreSQL; SQLite has one writer at a time and leaves it out.
    query = select(table).where(tuple_(*columns).in_(wanted)).order_by(*columns).with_for_update()
    return {tuple(row[name] for name in identity): row for row in connection.execute(query).mappings()}


def _insert_empty(connection: Connection, table: Table, identity: tuple[str, ...], missing: list[Any]) -> bool:
    """Make the missing rows of keys that exist; False when none of the keys does."""
    ids = sorted({key[0] for key in missing})
    query = select(keys.c.id).where(keys.c.id.in_(ids)).with_for_update(read=True, key_share=True)
    alive = set(connection.execute(query).scalars())
    rows = [dict(zip(identity, key, strict=True)) for key in missing if key[0] in alive]
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    return bool(rows)


def _change(
    identity: tuple[str, ...], key: tuple[Any, ...], row: RowMapping, totals: DayTotals | ModelTotals
) -> dict[str, Any]:
    change = {f"old_{name}": value for name, value in zip(identity, key, strict=True)}
    for column in fields(totals):
        stored, added = row[column.name], getattr(totals, column.name)
        change[f"new_{column.name}"] = (
            _add_counts(stored, added) if isinstance(added, dict) else min(stored + added, MAX_SUM)
        )
    return change


def _add_counts(stored: str, added: Mapping[str, int]) -> str:
    counts = read_counts(stored)
    for name, count in added.items():
        _add(counts, name if name in counts or len(counts) < MAX_NAMES_A_DAY else "other", count)
    return orjson.dumps(counts).decode()


def read_counts(stored: str) -> dict[str, int]:
    """The JSON object {name: count} of a stored column; what is no such object, or no count, is left out."""
    try:
        counts = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(counts, dict):
        return {}
    return {name: count for name, count in counts.items() if isinstance(count, int) and not isinstance(count, bool)}
