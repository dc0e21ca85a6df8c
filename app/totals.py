"""
The statistics of keys: sums by key and day, and by key, day and model. Gathered in memory, then added to what the
database has, so that workers add up.

A key's statistics keep `requests = successes + errors`. An attempt that failed through the caller's own fault, or whose
caller went away, is neither: it says nothing about the key, so it is left out of all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Connection, RowMapping, Table, bindparam, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from app.keys.base import Action
from app.records import AttemptRecord, RequestRecord
from app.shapes import MAX_INT32, OK, Shape, clamp
from app.storage.schema import daily_stats, keys, model_stats

#: Verdicts that tell nothing about the key; the empty one is an attempt that never came to an end.
NEUTRAL_VERDICTS: Final = frozenset({"", Action.CLIENT.value, "client_gone"})
NETWORK_ERROR: Final = "599"
#: Operations whose answers are booked as generations: their tokens and models count.
BOOKED_OPERATIONS: Final = frozenset({"generate", "embed"})

#: Sums stay exact in JSON and JavaScript.
MAX_SUM: Final = 2**53 - 1
#: Distinct models, or error codes, in one key's day; the rest of that day counts as `other`.
MAX_NAMES_A_DAY: Final = 200
_ROWS_A_STATEMENT: Final = 400


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


#: key id -> requests, milliseconds until they were answered, tokens in, tokens out, tokens from a cache
KeySums = dict[int, tuple[int, int, int, int, int]]


class Tokens(NamedTuple):
    """What a provider counted."""

    input: int
    output: int
    cached: int


@dataclass(slots=True)
class Totals:
    """
    days       -- by (key id, date)
    models     -- by (key id, date, model)
    successes  -- of requests that were booked by the batch, by (shape, date): not in `days` and `models` until `settle`
    """

    days: dict[tuple[int, str], DayTotals] = field(default_factory=dict)
    models: dict[tuple[int, str, str], ModelTotals] = field(default_factory=dict)
    successes: dict[tuple[Shape, str], KeySums] = field(default_factory=dict)

    def settle(self) -> None:
        """Bring the sums of batches into `days` and `models`."""
        while self.successes:
            (shape, date), sums = self.successes.popitem()
            self.book_successes(sums, shape.operation, date, shape.model_name)

    def book(self, record: RequestRecord, shape: Shape) -> None:
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
            tokens = Tokens(
                clamp(record.input_tokens, MAX_SUM),
                clamp(record.output_tokens, MAX_SUM),
                clamp(record.cached_tokens, MAX_SUM),
            )
            if answered or tokens.input or tokens.output:
                self._book_model(record.key_id, date, shape.model_name, int(answered), tokens)

    def book_successes(self, sums: KeySums, operation: str, date: str, model: str) -> None:
        """Add requests that were alike, each answered at its first attempt."""
        for key_id, (count, latency_ms, *tokens) in sums.items():
            day = self.days.setdefault((key_id, date), DayTotals())
            day.requests += count
            day.successes += count
            day.total_latency_ms += latency_ms
            if operation in BOOKED_OPERATIONS:
                self._book_model(key_id, date, model, count, Tokens(*tokens))

    def _book_model(self, key_id: int, date: str, name: str, answered: int, tokens: Tokens) -> None:
        day = self.days.setdefault((key_id, date), DayTotals())
        day.tokens_in += tokens.input
        day.tokens_out += tokens.output
        model = self.models.setdefault((key_id, date, name), ModelTotals())
        model.tokens_in += tokens.input
        model.tokens_out += tokens.output
        model.cached_tokens += tokens.cached
        if answered:
            model.requests += answered
            _add(day.model_usage, name, answered)


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


def utc_date(at: float) -> str:
    """The day of an instant in UTC, `YYYY-MM-DD`."""
    return _date_of_day(int(at // 86400))


@lru_cache(maxsize=16)
def _date_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * 86400, UTC).strftime("%Y-%m-%d")


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = min(counts.get(name, 0) + count, MAX_SUM)


# -- sums into the database --------------------------------------------------------------------------


def write_totals(connection: Connection, totals: Totals) -> None:
    """
    Add `totals` to `daily_stats` and `model_stats`. Sums of keys that were deleted meanwhile are dropped.

    Reads, adds and writes inside the caller's transaction; the rows are locked, so that workers add up.
    """
    totals.settle()
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
