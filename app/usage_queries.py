"""
What the administration shows of the usage: key figures, statistics by key, day and model, and the request log
(`app.request_log`).

Reads only, with a constant number of queries whatever the number of keys. Every value is bound, never spliced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, case, func, or_, select

from app.clock import DAY_S, Clock, utc_date
from app.request_log import MAX_PAGE, RequestFilter, RequestLog
from app.shapes import MAX_INT64
from app.storage.database import Database
from app.storage.schema import daily_stats, keys, model_stats
from app.totals import read_counts

GLOBAL_DAYS: Final = 7
KEY_DAYS: Final = 30
_SLOW_MS: Final = 5000

Json = dict[str, Any]

__all__ = ["MAX_PAGE", "UNUSED", "KeyUsage", "RequestFilter", "UsageQueries", "kpi"]


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """
    kpi          -- 0 to 100
    usage_today  -- requests of the key since midnight UTC
    total_usage  -- requests of the key as far back as the statistics reach
    """

    kpi: int
    usage_today: int
    total_usage: int


#: Of a key that has not been used.
UNUSED: Final = KeyUsage(kpi=100, usage_today=0, total_usage=0)


def kpi(total: int, successes: int, total_latency_ms: int) -> int:
    """
    The score of a key's day: 70 points for its share of successes, 30 for a short average latency, none of these from
    5 s on. 100 when there were no requests.
    """
    if total <= 0:
        return 100
    average_ms = total_latency_ms / successes if successes else 0
    return int(successes / total * 70 + max(0.0, 1 - average_ms / _SLOW_MS) * 30)


class UsageQueries:
    """Answers for the admin API. Raises SQLAlchemyError when the database cannot be read."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or Clock()
        self.log = RequestLog(database, self._clock)

    # -- keys -------------------------------------------------------------------------------------

    def key_usage(self, key_ids: Collection[int] | None = None) -> dict[int, KeyUsage]:
        """
        Key id -> its figures, of all keys that were ever used; for the others see `UNUSED`. One query.

        key_ids  -- only these, at most some hundreds: that is much quicker, since it reads no other key's history
        """
        stats = daily_stats.c
        today = stats.date == utc_date(self._clock.wall())
        query = select(
            stats.key_id,
            func.sum(stats.requests).label("total"),
            _sum_where(today, stats.requests).label("requests"),
            _sum_where(today, stats.successes).label("successes"),
            _sum_where(today, stats.total_latency_ms).label("latency_ms"),
        ).group_by(stats.key_id)
        if key_ids is not None:
            query = query.where(stats.key_id.in_(sorted(key_ids)))
        return {
            int(row["key_id"]): KeyUsage(
                kpi=kpi(int(row["requests"]), int(row["successes"]), int(row["latency_ms"])),
                usage_today=int(row["requests"]),
                total_usage=int(row["total"]),
            )
            for row in self._all(query)
        }

    def key_usage_today(self) -> dict[int, KeyUsage]:
        """As `key_usage`, of the keys that were used today, with 0 for `total_usage`: no history is read."""
        stats = daily_stats.c
        query = select(stats.key_id, stats.requests, stats.successes, stats.total_latency_ms)
        return {
            int(row["key_id"]): KeyUsage(
                kpi=kpi(int(row["requests"]), int(row["successes"]), int(row["total_latency_ms"])),
                usage_today=int(row["requests"]),
                total_usage=0,
            )
            for row in self._all(query.where(stats.date == utc_date(self._clock.wall())))
        }

    def key_usage_total(self) -> dict[int, KeyUsage]:
        """As `key_usage`, with nothing but `total_usage`: half the time."""
        stats = daily_stats.c
        query = select(stats.key_id, func.sum(stats.requests).label("total")).group_by(stats.key_id)
        return {
            int(row["key_id"]): KeyUsage(kpi=100, usage_today=0, total_usage=int(row["total"]))
            for row in self._all(query)
        }

    def key_stats(self, key_id: int, days: int = KEY_DAYS) -> Json:
        """
        The last `days` days of one key, today included. All zero for a key that was not used, or that is not there.

        {total_requests, successful_requests, failed_requests, total_tokens_in, total_tokens_out, avg_latency (ms),
        model_usage: {model: n}, error_types: {code: n},
        daily_stats: [{date, total_requests, successes, errors, tokens_in, tokens_out, avg_latency}] oldest first,
        days without requests left out}
        """
        if not 0 <= key_id <= MAX_INT64:
            rows: Sequence[RowMapping] = []
        else:
            query = select(daily_stats).where(daily_stats.c.key_id == key_id, daily_stats.c.date >= self._since(days))
            rows = self._all(query.order_by(daily_stats.c.date))
        return {
            "total_requests": _total(rows, "requests"),
            "successful_requests": _total(rows, "successes"),
            "failed_requests": _total(rows, "errors"),
            "total_tokens_in": _total(rows, "tokens_in"),
            "total_tokens_out": _total(rows, "tokens_out"),
            "avg_latency": _average(_total(rows, "total_latency_ms"), _total(rows, "successes")),
            "model_usage": _counts(row["model_usage"] for row in rows),
            "error_types": _counts(row["error_codes"] for row in rows),
            "daily_stats": [_key_day(row) for row in rows],
        }

    # -- everything -------------------------------------------------------------------------------

    def global_stats(self, health_status: Mapping[str, int]) -> Json:
        """
        The last 7 days of all keys together.

        health_status -- number of keys by state, as the key manager knows it; handed on

        {historical: [{date, total_requests, total_successes, total_latency, total_tokens_in, total_tokens_out}] of
        7 days, oldest first, empty days included; health_status; error_codes_today: {code: n};
        request_distribution: [{name, usage: {model: n}}] of the 7 days, by key name; model_usage_today: {model: n}}
        """
        since, today = self._since(GLOBAL_DAYS), utc_date(self._clock.wall())
        stats = daily_stats.c
        summed = ("requests", "successes", "total_latency_ms", "tokens_in", "tokens_out")
        history = select(stats.date, *(func.sum(stats[name]).label(name) for name in summed))
        history = history.where(stats.date >= since).group_by(stats.date)
        columns = (keys.c.id, keys.c.name, stats.date, stats.error_codes, stats.model_usage)
        details = select(*columns).join(keys, keys.c.id == stats.key_id).order_by(keys.c.name, keys.c.id)
        details = details.where(stats.date >= since, or_(stats.error_codes != "{}", stats.model_usage != "{}"))
        with self._database.read() as connection:
            days = {row["date"]: row for row in connection.execute(history).mappings()}
            rows = connection.execute(details).mappings().all()
        todays = [row for row in rows if row["date"] == today]
        return {
            "historical": [_history_day(date, days.get(date)) for date in self._dates(GLOBAL_DAYS)],
            "health_status": dict(health_status),
            "error_codes_today": _counts(row["error_codes"] for row in todays),
            "request_distribution": _distribution(rows),
            "model_usage_today": _counts(row["model_usage"] for row in todays),
        }

    def token_totals(self, days: int = KEY_DAYS, key_id: int | None = None) -> list[Json]:
        """
        Tokens per day, key and model of the last `days` days, newest day first:
        [{date, key_id, key_name, provider, model, requests, tokens_in, tokens_out, cached_tokens}].
        """
        if key_id is not None and not 0 <= key_id <= MAX_INT64:
            return []
        query = select(model_stats, keys.c.name.label("key_name"), keys.c.provider)
        query = query.join(keys, keys.c.id == model_stats.c.key_id).where(model_stats.c.date >= self._since(days))
        if key_id is not None:
            query = query.where(model_stats.c.key_id == key_id)
        ordered = query.order_by(model_stats.c.date.desc(), model_stats.c.key_id, model_stats.c.model)
        return [dict(row) for row in self._all(ordered)]

    # -- the request log --------------------------------------------------------------------------

    def list_requests(self, wanted: RequestFilter | None = None) -> Json:
        """
        One page of the request log, newest first:
        {"requests": [row, with its attempts as a list and `started` in ISO 8601],
        "next_before_id": id for the next page, or None at the end}.
        """
        page = self.log.page(wanted or RequestFilter())
        return {"requests": page.rows, "next_before_id": page.next_before_id}

    def get_request(self, identity: str) -> Json | None:
        """The request with this row id or, where there is none, the newest one with this request id; None without."""
        return self.log.get(identity)

    # -- parts ------------------------------------------------------------------------------------

    def _all(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._database.read() as connection:
            return connection.execute(query).mappings().all()

    def _dates(self, days: int) -> list[str]:
        now = self._clock.wall()
        return [utc_date(now - ago * DAY_S) for ago in range(days - 1, -1, -1)]

    def _since(self, days: int) -> str:
        return utc_date(self._clock.wall() - (max(1, days) - 1) * DAY_S)


def _sum_where(condition: ColumnElement[bool], column: ColumnElement[int]) -> ColumnElement[int]:
    return func.sum(case((condition, column), else_=0))


def _total(rows: Sequence[RowMapping], name: str) -> int:
    return sum(int(row[name]) for row in rows)


def _average(total_ms: int, count: int) -> float:
    return round(total_ms / count, 1) if count else 0


def _counts(stored: Any) -> dict[str, int]:
    """The JSON count objects of several rows added up, the biggest first."""
    total: dict[str, int] = {}
    for text in stored:
        for name, count in read_counts(text).items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _key_day(row: RowMapping) -> Json:
    return {
        "date": row["date"],
        "total_requests": row["requests"],
        "successes": row["successes"],
        "errors": row["errors"],
        "tokens_in": row["tokens_in"],
        "tokens_out": row["tokens_out"],
        "avg_latency": _average(row["total_latency_ms"], row["successes"]),
    }


def _history_day(date: str, row: RowMapping | None) -> Json:
    return {
        "date": date,
        "total_requests": int(row["requests"]) if row else 0,
        "total_successes": int(row["successes"]) if row else 0,
        "total_latency": int(row["total_latency_ms"]) if row else 0,
        "total_tokens_in": int(row["tokens_in"]) if row else 0,
        "total_tokens_out": int(row["tokens_out"]) if row else 0,
    }


def _distribution(rows: Sequence[RowMapping]) -> list[Json]:
    by_key: dict[int, tuple[str, list[str]]] = {}
    for row in rows:
        by_key.setdefault(row["id"], (row["name"], []))[1].append(row["model_usage"])
    found = [{"name": name, "usage": _counts(texts)} for name, texts in by_key.values()]
    return [entry for entry in found if entry["usage"]]
