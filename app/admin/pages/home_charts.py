"""The charts of the dashboard, as `ui.chart` takes them, made from what `app.admin.dashboard` answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from app.admin.pages import request_words

Json = dict[str, Any]

#: Parts of a doughnut, and models in a bar, that are told apart; the rest is one.
MOST_PARTS: Final = 6
MOST_NAME_CHARS: Final = 24

STATES: Final[Mapping[str, str]] = {"Healthy": "good", "Resting": "warn", "Disabled": "bad"}
#: A request whose answer was whole, but an error all the same.
_ANSWERED_WITH_ERROR: Final = "Answered with an error"


def charts(figures: Json) -> dict[str, Json | None]:
    """All charts by name; None for one that has nothing to show yet."""
    totals, health = figures["totals"], figures["health_status"]
    return {
        "hours": _outcome_bars([_hour(hour["at"]) for hour in figures["hours"]], figures["hours"])
        | {"instants": "hour", "instants_at": [hour["at"] for hour in figures["hours"]]},
        "dates": _outcome_bars([_day(date["date"]) for date in figures["dates"]], figures["dates"]),
        "latency": _latency(figures["hours"]),
        "health": _health(health, figures["unwell"]["partial_keys"]),
        "models": _doughnut({model["model"]: model["requests"] for model in figures["models"]}),
        "errors": _doughnut({_code(code): count for code, count in totals["error_codes"].items()}),
        "verdicts": _doughnut(_failed(totals["verdicts"])),
        "keys": _keys(figures["keys"]),
    }


def failures(totals: Json) -> list[tuple[str, str, str, int]]:
    """(outcome, its words, what it means, how many) of the requests that did not succeed, most first."""
    counts = {**totals["outcomes"]}
    answered = counts.pop("success", 0) - totals["successes"]
    words = [(name, request_words.outcome(name), count) for name, count in counts.items()]
    if answered > 0:
        words.append(("success", request_words.outcome("success")._replace(words=_ANSWERED_WITH_ERROR), answered))
    words.sort(key=lambda item: (-item[2], item[0]))
    return [(name, word.words, word.meaning, count) for name, word, count in words]


# -- bars --------------------------------------------------------------------------------------------


def _outcome_bars(labels: list[str], periods: Sequence[Json]) -> Json:
    return {
        "kind": "bar",
        "stacked": True,
        "labels": labels,
        "series": [
            {"name": "Succeeded", "values": [period["successes"] for period in periods], "level": "good"},
            {"name": "Failed", "values": [period["errors"] for period in periods], "level": "bad"},
        ],
    }


def _latency(hours: Sequence[Json]) -> Json | None:
    shown = (("Median", "latency_p50"), ("95th percentile", "latency_p95"), ("Median first token", "first_token_p50"))
    if all(hour["latency_p50"] is None for hour in hours):
        return None
    return {
        "kind": "bar",
        "unit": "ms",
        "labels": [_hour(hour["at"]) for hour in hours],
        "instants": "hour",
        "instants_at": [hour["at"] for hour in hours],
        "series": [{"name": name, "values": [_whole(hour[column]) for hour in hours]} for name, column in shown],
    }


def _keys(keys: Sequence[Json]) -> Json | None:
    if not keys:
        return None
    used: dict[str, int] = {}
    for key in keys:
        for model, count in key["models"].items():
            used[model] = used.get(model, 0) + count
    named = sorted(used, key=lambda model: (-used[model], model))[:MOST_PARTS]
    series = [{"name": _cut(model), "values": [key["models"].get(model, 0) for key in keys]} for model in named]
    rest = [key["requests"] - sum(key["models"].get(model, 0) for model in named) for key in keys]
    if any(count > 0 for count in rest):
        series.append({"name": "Other models, and failed", "values": [max(0, n) for n in rest], "level": "neutral"})
    return {"kind": "bar", "stacked": True, "labels": [_cut(key["name"]) for key in keys], "series": series}


# -- doughnuts ---------------------------------------------------------------------------------------


def _health(health: Mapping[str, int], partial: int) -> Json | None:
    """Keys by state; those that rest for one model only are healthy otherwise."""
    partial = min(partial, health["Healthy"])
    parts = [("Healthy", health["Healthy"] - partial, "good"), ("Healthy, but for a model", partial, "info")]
    parts += [(state, health[state], STATES[state]) for state in ("Resting", "Disabled")]
    shown = [part for part in parts if part[1]]
    return _round(shown) if shown else None


def _doughnut(counts: Mapping[str, int]) -> Json | None:
    ordered = [(name, count) for name, count in counts.items() if count > 0]
    ordered.sort(key=lambda item: (-item[1], item[0]))
    parts = [(_cut(name), count, "") for name, count in ordered[:MOST_PARTS]]
    rest = sum(count for _, count in ordered[MOST_PARTS:])
    if rest:
        parts.append(("others", rest, "neutral"))
    return _round(parts) if parts else None


def _round(parts: Iterable[tuple[str, int, str]]) -> Json:
    labels, values, levels = zip(*parts, strict=True)
    return {
        "kind": "doughnut",
        "labels": list(labels),
        "series": [{"name": "Number", "values": list(values), "levels": list(levels)}],
    }


# -- words -------------------------------------------------------------------------------------------


def _failed(verdicts: Mapping[str, int]) -> dict[str, int]:
    """Verdicts in words, without those on attempts that succeeded; `none` is an attempt that never ended."""
    found = {request_words.verdict(name).words: count for name, count in verdicts.items() if name not in ("ok", "none")}
    return found | ({"Never ended": verdicts["none"]} if "none" in verdicts else {})


def _code(code: str) -> str:
    return "no answer" if code == "599" else code


def _cut(name: str) -> str:
    return name if len(name) <= MOST_NAME_CHARS else name[: MOST_NAME_CHARS - 1] + "…"


def _hour(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M UTC")


def _day(date: str) -> str:
    return f"{datetime.fromisoformat(date):%d %b}".lstrip("0")


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
