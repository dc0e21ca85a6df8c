"""The page of one key: its state with the evidence, its figures of 30 days as charts, and its latest requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from flask import Blueprint, Response

from app.admin import http
from app.admin.pages.frame import fragment, show
from app.admin.pages.keys import HOME
from app.admin.reasons import in_words
from app.providers import DEMO_NAME
from app.request_log import RequestFilter
from app.usage_queries import KEY_DAYS, UNUSED

bp = Blueprint("key_detail", __name__, url_prefix=HOME)

MAX_SLICES: Final = 8
LATEST_REQUESTS: Final = 10

Json = dict[str, Any]


@bp.get("/<int:key_id>")
def index(key_id: int) -> Response:
    """State, figures and charts."""
    stats = http.services().usage_queries.key_stats(key_id)
    return show("keys/detail.html", page="keys", stats=stats, charts=_charts(stats), days=KEY_DAYS, **_state(key_id))


@bp.get("/<int:key_id>/state")
def state(key_id: int) -> Response:
    """The state alone, for its updates."""
    return fragment("keys/_state.html", **_state(key_id))


def _state(key_id: int) -> Json:
    key = http.services().keys.get(key_id)
    usage = http.services().usage_queries.key_usage([key_id]).get(key_id, UNUSED)
    demonstration = key["provider"] == DEMO_NAME
    return {"key": key, "usage": usage, "in_words": in_words, "demonstration": demonstration}


@bp.get("/<int:key_id>/requests")
def latest(key_id: int) -> Response:
    """Its latest requests, which the page asks for when all else is there."""
    found = http.services().usage_queries.log.page(RequestFilter(key_id=key_id, limit=LATEST_REQUESTS))
    return fragment("keys/_requests.html", rows=found.rows, searched_to=found.searched_to, key_id=key_id)


# -- charts ------------------------------------------------------------------------------------------


def _charts(stats: Json) -> list[tuple[str, str, Json]]:
    """(id, title, spec) of each chart that has something to show."""
    by_date = {day["date"]: day for day in stats["daily_stats"]}
    if not by_date:
        return []
    today = datetime.fromtimestamp(http.services().clock.wall(), UTC).date()
    dates = [(today - timedelta(days=ago)).isoformat() for ago in range(KEY_DAYS - 1, -1, -1)]
    days = [by_date.get(date) for date in dates]
    labels = [date[5:] for date in dates]

    def bars(unit: str, *series: tuple[str, str, str]) -> Json:
        return _spec("bar", labels, unit, [(name, level, _values(days, field, 0)) for name, field, level in series])

    def line(name: str, unit: str, level: str, value: Callable[[Json], float | None]) -> Json:
        return _spec("line", labels, unit, [(name, level, [None if day is None else value(day) for day in days])])

    charts = [
        ("chart-requests", "Requests a day", bars("", ("Answered", "successes", "good"), ("Failed", "errors", "bad"))),
        ("chart-success", "Answered, in percent", line("Answered", "%", "good", _success_percent)),
        (
            "chart-latency",
            "Average time of an answer, in ms",
            line("Time", "ms", "", lambda day: day["avg_latency"] or None),
        ),
        ("chart-tokens", "Tokens a day", bars("", ("In", "tokens_in", ""), ("Out", "tokens_out", ""))),
    ]
    for chart_id, title, counts in (
        ("chart-models", "Models", stats["model_usage"]),
        ("chart-errors", "Errors", stats["error_types"]),
    ):
        if counts:
            charts.append((chart_id, title, _shares(counts)))
    return [chart for chart in charts if any(any(one["values"]) for one in chart[2]["series"])]


def _spec(kind: str, labels: list[str], unit: str, series: list[tuple[str, str, list[Any]]]) -> Json:
    named = [{"name": name, "values": values} | ({"level": level} if level else {}) for name, level, values in series]
    return {"kind": kind, "stacked": kind == "bar", "labels": labels, "unit": unit, "series": named}


def _values(days: list[Json | None], field: str, otherwise: int) -> list[int]:
    return [otherwise if day is None else int(day[field]) for day in days]


def _success_percent(day: Json) -> float | None:
    total = day["total_requests"]
    return round(100 * day["successes"] / total, 1) if total else None


def _shares(counts: dict[str, int]) -> Json:
    """The biggest, and the rest together."""
    shown = list(counts.items())[:MAX_SLICES]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    if rest:
        shown.append(("others", rest))
    series = [("Requests", "", [count for _, count in shown])]
    return _spec("doughnut", [name for name, _ in shown], "", series)
