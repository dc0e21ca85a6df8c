"""
What the dashboard and the pages of clients show of the usage, read from sums that are small however long the request
log is: never from the log itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, func, select

from app.clock import HOUR_S, Clock, utc_date, utc_hour
from app.histograms import percentiles
from app.price_store import PriceList
from app.shapes import MAX_INT64
from app.storage.database import Database
from app.storage.schema import client_stats, daily_stats, keys, model_stats, period_stats
from app.totals import read_counts

Json = dict[str, Any]
#: How long the sums of past days are kept in memory.
PAST_KEPT_S: Final = 300.0
_SUMMED: Final = ("requests", "successes", "tokens_in", "tokens_out", "cached_tokens")
_NAMED: Final = ("outcomes", "statuses", "verdicts", "error_codes", "latencies", "first_tokens")


@dataclass(slots=True)
class Sums:
    """
    cost      -- US dollars of the models that have a price; None where none of those used has one
    unpriced  -- models that used tokens and have no price
    """

    requests: int = 0
    successes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0
    cost: float | None = None
    unpriced: set[str] = field(default_factory=set)

    def add(self, row: RowMapping, prices: PriceList) -> None:
        """Add the sums of one model."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + int(row[name]))
        if not row["tokens_in"] and not row["tokens_out"]:
            return
        tokens = (int(row[name]) for name in ("tokens_in", "tokens_out", "cached_tokens"))
        cost = prices.cost(row["model"], *tokens)
        if cost is None:
            self.unpriced.add(row["model"])
        else:
            self.cost = (self.cost or 0.0) + cost

    def as_json(self) -> Json:
        """The sums with `errors`, and `unpriced` as a list."""
        sums = {name: getattr(self, name) for name in _SUMMED}
        return sums | {
            "errors": self.requests - self.successes,
            "cost": self.cost,
            "unpriced": sorted(self.unpriced),
        }


class RollupQueries:
    """Reads only. Raises SQLAlchemyError when the database cannot be read."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or Clock()
        #: days -> (today, until when in monotonic seconds, requests by key)
        self._past: dict[int, tuple[str, float, dict[int, int]]] = {}

    # -- clients and models -----------------------------------------------------------------------

    def client_usage(self, days: int, prices: PriceList) -> dict[int, Json]:
        """
        Client id (0 = requests without a client key) -> what it used in the last `days` days, today included:
        {requests, successes, errors, tokens_in, tokens_out, cached_tokens, cost (US dollars, or None),
        unpriced: [models that used tokens and have no price]}.
        """
        stats = client_stats.c
        found = self._summed((stats.client_id, stats.model), stats.date >= self.first_date(days))
        return {client_id: sums.as_json() for client_id, sums in _by("client_id", found, prices).items()}

    def client_days(self, client_id: int, days: int, prices: PriceList) -> Json:
        """
        The last `days` days of one client: {"totals": sums as in `client_usage`, "days": [sums, "date"] oldest first,
        days without a request included, "models": [sums, "model"] most requests first}.
        """
        if not 0 <= client_id <= MAX_INT64:
            rows: Sequence[RowMapping] = []
        else:
            stats = client_stats.c
            rows = self._summed(
                (stats.date, stats.model), stats.date >= self.first_date(days), stats.client_id == client_id
            )
        by_date = _by("date", rows, prices)
        return {
            "totals": _total(rows, prices).as_json(),
            "days": [{"date": date} | by_date.get(date, Sums()).as_json() for date in self.dates(days)],
            "models": _models(rows, prices),
        }

    def models(self, days: int, prices: PriceList) -> tuple[Json, list[Json]]:
        """What all clients used together in the last `days` days: (sums, [sums and "model"] most requests first)."""
        stats = client_stats.c
        rows = self._summed((stats.model,), stats.date >= self.first_date(days))
        return _total(rows, prices).as_json(), _models(rows, prices)

    # -- hours and days -----------------------------------------------------------------------------

    def hours(self, count: int) -> list[Json]:
        """The last `count` hours, oldest first, empty ones included: {"at" (Unix seconds)} and what `summed` gives."""
        newest = self._clock.wall() // HOUR_S * HOUR_S
        begun = [newest - ago * HOUR_S for ago in range(count - 1, -1, -1)]
        rows = self._periods([utc_hour(at) for at in begun])
        return [{"at": at} | summed(rows.get(utc_hour(at))) for at in begun]

    def total(self, days: int) -> Json:
        """The last `days` days, today included, added up by `summed`."""
        return summed(*self._periods(self.dates(days)).values())

    def days(self, count: int) -> list[Json]:
        """The last `count` days, oldest first, empty ones included: [{date, requests, successes, errors}]."""
        dates = self.dates(count)
        rows = self._periods(dates)
        return [_day(date, rows.get(date)) for date in dates]

    def _periods(self, wanted: list[str]) -> dict[str, RowMapping]:
        rows = self._all(select(period_stats).where(period_stats.c.period.in_(wanted)))
        return {row["period"]: row for row in rows}

    # -- keys -------------------------------------------------------------------------------------

    def busiest_keys(self, days: int, most: int) -> tuple[list[Json], int]:
        """
        The keys with the most requests in the last `days` days, and the requests of all others:
        ([{"key_id", "name", "provider", "requests", "models": {model: n}}], n).
        """
        dates = self.dates(days)
        counts = self._requests_by_key(dates[-1])
        for key_id, count in self._requests_before_today(dates).items():
            if key_id in counts:  # a key that was deleted since has no name any more
                counts[key_id] += count
        used = ((count, key_id) for key_id, count in counts.items() if count)
        busiest = heapq.nsmallest(most, used, lambda item: (-item[0], item[1]))
        ids = [key_id for _, key_id in busiest]
        models = self._models_by_key(ids, dates[0])
        shown = {row["id"]: row for row in self._all(select(keys.c.id, keys.c.name, keys.c.provider).where(_in(ids)))}
        found = [
            {
                "key_id": key_id,
                "name": shown[key_id]["name"],
                "provider": shown[key_id]["provider"],
                "requests": count,
                "models": models.get(key_id, {}),
            }
            for count, key_id in busiest
            if key_id in shown
        ]
        return found, sum(counts.values()) - sum(key["requests"] for key in found)

    def _requests_before_today(self, dates: list[str]) -> dict[int, int]:
        """
        The sums of all days but the last one. Kept for a while: adding them up takes long where there are many keys,
        and only requests that began before midnight and end after it still change them.
        """
        if len(dates) == 1:
            return {}
        now = self._clock.monotonic()
        kept = self._past.get(len(dates))
        if kept is None or kept[0] != dates[-1] or now >= kept[1]:
            found = self._requests_by_key(dates[0], dates[-1])
            kept = self._past[len(dates)] = (dates[-1], now + PAST_KEPT_S, found)
        return kept[2]

    def _requests_by_key(self, first: str, before: str = "~") -> dict[int, int]:
        """Each key by itself: that is a few steps in the index of the statistics, however many days there are."""
        stats = daily_stats.c
        of_the_key = (stats.key_id == keys.c.id, stats.date >= first, stats.date < before)
        total = select(func.coalesce(func.sum(stats.requests), 0)).where(*of_the_key).scalar_subquery()
        with self._database.read() as connection:
            return {int(key_id): int(count) for key_id, count in connection.execute(select(keys.c.id, total))}

    def _models_by_key(self, ids: list[int], first: str) -> dict[int, dict[str, int]]:
        stats = model_stats.c
        used = select(stats.key_id, stats.model, func.sum(stats.requests).label("requests"))
        used = used.where(stats.key_id.in_(ids), stats.date >= first, stats.requests > 0)
        models: dict[int, dict[str, int]] = {}
        for row in self._all(used.group_by(stats.key_id, stats.model).order_by(stats.model)):
            models.setdefault(int(row["key_id"]), {})[row["model"]] = int(row["requests"])
        return models

    def key_names(self, ids: Collection[int]) -> dict[int, str]:
        """The names of these keys."""
        if not ids:
            return {}
        rows = self._all(select(keys.c.id, keys.c.name).where(_in(ids)))
        return {int(row["id"]): str(row["name"]) for row in rows}

    # -- parts ------------------------------------------------------------------------------------

    def first_date(self, days: int) -> str:
        """The first of the last `days` days, today included."""
        return self.dates(days)[0]

    def dates(self, days: int) -> list[str]:
        """The last `days` days, oldest first."""
        today = Date.fromisoformat(utc_date(self._clock.wall()))
        return [(today - timedelta(days=ago)).isoformat() for ago in range(max(1, days) - 1, -1, -1)]

    def _summed(self, columns: Sequence[ColumnElement[Any]], *conditions: ColumnElement[bool]) -> Sequence[RowMapping]:
        sums = (func.sum(client_stats.c[name]).label(name) for name in _SUMMED)
        return self._all(select(*columns, *sums).where(*conditions).group_by(*columns))

    def _all(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._database.read() as connection:
            return connection.execute(query).mappings().all()


def summed(*given: RowMapping | None) -> Json:
    """
    Periods added up: {requests, successes, errors, tokens_in, tokens_out, cached_tokens, outcomes, statuses, verdicts,
    error_codes: each {name: n}, most first, latency_p50, latency_p95, first_token_p50, first_token_p95 (ms, or None)}.
    """
    rows = [row for row in given if row is not None]
    found: Json = {name: sum(int(row[name]) for row in rows) for name in _SUMMED}
    found["errors"] = found["requests"] - found["successes"]
    counts = {name: _counts(row[name] for row in rows) for name in _NAMED}
    for shown, name in (("latency", "latencies"), ("first_token", "first_tokens")):
        found[f"{shown}_p50"], found[f"{shown}_p95"] = percentiles(counts.pop(name), (0.5, 0.95))
    return found | counts


def _day(date: str, row: RowMapping | None) -> Json:
    requests, successes = (int(row["requests"]), int(row["successes"])) if row is not None else (0, 0)
    return {"date": date, "requests": requests, "successes": successes, "errors": requests - successes}


def _in(ids: Collection[int]) -> ColumnElement[bool]:
    return keys.c.id.in_(sorted(ids))


def _counts(stored: Iterable[str]) -> dict[str, int]:
    total: dict[str, int] = {}
    for text in stored:
        for name, count in read_counts(text).items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _by(column: str, rows: Iterable[RowMapping], prices: PriceList) -> dict[Any, Sums]:
    found: dict[Any, Sums] = {}
    for row in rows:
        found.setdefault(row[column], Sums()).add(row, prices)
    return found


def _total(rows: Iterable[RowMapping], prices: PriceList) -> Sums:
    total = Sums()
    for row in rows:
        total.add(row, prices)
    return total


def _models(rows: Iterable[RowMapping], prices: PriceList) -> list[Json]:
    found: list[Json] = [{"model": name} | sums.as_json() for name, sums in _by("model", rows, prices).items()]
    return sorted(found, key=lambda model: (-model["requests"], model["model"]))
