"""
The statistics: sums by key and day, by key, day and model, and the rollups of all requests (`app.rollups`). Gathered in
memory, then added to what the database has, so that workers add up.

A key's statistics keep `requests = successes + errors`. An attempt that failed through the caller's own fault, or whose
caller went away, is neither: it says nothing about the key, so it is left out of all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import orjson
from sqlalchemy import Connection, RowMapping, Table, bindparam, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from app.clock import HOUR_S, utc_date
from app.counting import BOOKED_OPERATIONS, MAX_SUM, NEUTRAL_VERDICTS, Tokens, add_count, error_code, tokens_of
from app.histograms import MAX_BUCKETS
from app.records import AttemptRecord, RequestRecord
from app.rollups import Alike, ClientTotals, KeySums, PeriodTotals, Rollups
from app.shapes import MAX_INT32, OK, Shape, clamp
from app.storage.schema import client_stats, daily_stats, keys, model_stats, period_stats

#: Distinct models, or error codes, in one day of a key or a client; the rest of that day counts as `other`.
MAX_NAMES_A_DAY: Final = 200
OTHER: Final = "other"
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


_Sums = DayTotals | ModelTotals | PeriodTotals | ClientTotals


@dataclass(slots=True)
class Totals:
    """
    days       -- by (key id, date)
    models     -- by (key id, date, model)
    rollups    -- of all requests
    successes  -- requests that were booked by the batch, by (shape, hour): not in the others until `settle`
    """

    days: dict[tuple[int, str], DayTotals] = field(default_factory=dict)
    models: dict[tuple[int, str, str], ModelTotals] = field(default_factory=dict)
    rollups: Rollups = field(default_factory=Rollups)
    successes: dict[tuple[Shape, int], Alike] = field(default_factory=dict)

    def alike(self, shape: Shape, hour: int) -> Alike:
        """Where to add successes of this shape that began in this hour, counted from 1970."""
        alike = self.successes.get((shape, hour))
        if alike is None:
            alike = self.successes[shape, hour] = Alike()
        return alike

    def settle(self) -> None:
        """Bring what batches booked into all the others."""
        while self.successes:
            (shape, hour), alike = self.successes.popitem()
            self._book_successes(alike.sums, shape.operation, utc_date(hour * HOUR_S), shape.model_name)
            self.rollups.book_alike(shape, hour, alike)

    def book(self, record: RequestRecord, shape: Shape) -> None:
        """Add one finished request."""
        self.rollups.book(record, shape)
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
                add_count(day.error_codes, error_code(attempt), 1)
        if record.key_id is not None and record.operation in BOOKED_OPERATIONS:
            tokens = tokens_of(record)
            if answered or tokens.input or tokens.output:
                self._book_model(record.key_id, date, shape.model_name, int(answered), tokens)

    def _book_successes(self, sums: KeySums, operation: str, date: str, model: str) -> None:
        for key_id, (count, latency_ms, *tokens) in sums.items():
            if key_id is None:
                continue
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
            add_count(day.model_usage, name, answered)


def latency_ms(record: RequestRecord, attempt: AttemptRecord) -> int:
    """Milliseconds that the key took to answer: to the end of a plain answer, to the first byte of a stream."""
    whole = clamp(attempt.duration_ms, MAX_INT32)
    if not record.stream or record.first_byte_ms is None:
        return whole
    started_after = max(0, record.duration_ms - attempt.duration_ms)
    return max(0, min(whole, record.first_byte_ms - started_after))


# -- sums into the database --------------------------------------------------------------------------


def write_totals(connection: Connection, totals: Totals) -> None:
    """
    Add `totals` to their tables. Sums of keys that were deleted meanwhile are dropped.

    Reads, adds and writes inside the caller's transaction; the rows are locked, so that workers add up.
    """
    totals.settle()
    _merge(connection, daily_stats, totals.days)
    _merge(connection, model_stats, totals.models)
    _merge(connection, client_stats, _bounded(connection, totals.rollups.clients))
    _merge(connection, period_stats, totals.rollups.periods())


#: By what the rows of each table are told apart; where it begins with a key, rows are only made for keys that exist.
_IDENTITIES: Final[Mapping[Table, tuple[str, ...]]] = {
    daily_stats: ("key_id", "date"),
    model_stats: ("key_id", "date", "model"),
    client_stats: ("date", "client_id", "model"),
    period_stats: ("period",),
}


def _merge(connection: Connection, table: Table, totals: Mapping[Any, _Sums]) -> None:
    identity = _IDENTITIES[table]
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


def _bounded(
    connection: Connection, clients: Mapping[tuple[str, int, str], ClientTotals]
) -> dict[tuple[str, int, str], ClientTotals]:
    """The same with models summed up as `other` beyond the bound: any caller can name as many as it likes."""
    named: dict[tuple[str, int], list[str]] = {}
    for date, client_id, model in sorted(clients):
        named.setdefault((date, client_id), []).append(model)
    bounded: dict[tuple[str, int, str], ClientTotals] = {}
    for (date, client_id), models in named.items():
        known = _known_models(connection, date, client_id, models)
        for model in models:
            name = model if known is None or model in known else OTHER
            _add_up(bounded.setdefault((date, client_id, name), ClientTotals()), clients[date, client_id, model])
    return bounded


def _known_models(connection: Connection, date: str, client_id: int, models: list[str]) -> set[str] | None:
    """The models that may have rows of their own on this day of the client; None where all may."""
    of_the_day = (client_stats.c.date == date, client_stats.c.client_id == client_id)
    stored = connection.scalar(select(func.count()).select_from(client_stats).where(*of_the_day)) or 0
    if stored + len(models) <= MAX_NAMES_A_DAY:
        return None
    known = set(connection.scalars(select(client_stats.c.model).where(*of_the_day)))
    new = [model for model in models if model not in known]
    return known | set(new[: max(0, MAX_NAMES_A_DAY - len(known))])


def _add_up(to: ClientTotals, added: ClientTotals) -> None:
    for column in fields(added):
        setattr(to, column.name, getattr(to, column.name) + getattr(added, column.name))


def _rows(connection: Connection, table: Table, identity: tuple[str, ...], wanted: list[Any]) -> dict[Any, RowMapping]:
    columns = [table.c[name] for name in identity]
    # FOR UPDATE is for PostgreSQL; SQLite has one writer at a time and leaves it out.
    query = select(table).where(tuple_(*columns).in_(wanted)).order_by(*columns).with_for_update()
    return {tuple(row[name] for name in identity): row for row in connection.execute(query).mappings()}


def _insert_empty(connection: Connection, table: Table, identity: tuple[str, ...], missing: list[Any]) -> bool:
    """Make the missing rows, those of keys only for keys that exist; False when there are none to make."""
    if identity[0] == "key_id":
        ids = sorted({key[0] for key in missing})
        query = select(keys.c.id).where(keys.c.id.in_(ids)).with_for_update(read=True, key_share=True)
        alive = set(connection.execute(query).scalars())
        missing = [key for key in missing if key[0] in alive]
    rows = [dict(zip(identity, key, strict=True)) for key in missing]
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    return bool(rows)


def _change(identity: tuple[str, ...], key: tuple[Any, ...], row: RowMapping, totals: _Sums) -> dict[str, Any]:
    change = {f"old_{name}": value for name, value in zip(identity, key, strict=True)}
    for column in fields(totals):
        stored, added = row[column.name], getattr(totals, column.name)
        change[f"new_{column.name}"] = (
            _add_counts(stored, added, _most_names(column.name))
            if isinstance(added, dict)
            else min(stored + added, MAX_SUM)
        )
    return change


def _most_names(column: str) -> int:
    return MAX_BUCKETS if column in ("latencies", "first_tokens") else MAX_NAMES_A_DAY


def _add_counts(stored: str, added: Mapping[str, int], most: int) -> str:
    counts = read_counts(stored)
    for name, count in added.items():
        add_count(counts, name if name in counts or len(counts) < most else OTHER, count)
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
