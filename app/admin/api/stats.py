"""Statistics: all keys together, one key, and tokens by key, model and day. Days are in UTC."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.dashboard import dashboard
from app.admin.overview import health_status

bp = Blueprint("stats", __name__)

MAX_DAYS = 366
DEFAULT_DAYS = 30
#: Lists of keys that do not serve, or not every model.
_AILMENTS = ("resting", "disabled", "partial")


@bp.get("/global-stats")
def global_stats() -> Response:
    """
    The last 7 days: `{"historical", "health_status", "error_codes_today", "request_distribution",
    "model_usage_today"}`; days without a request are in it with zeros.
    """
    return http.answer(http.services().usage_queries.global_stats(health_status(http.services())))


@bp.get("/dashboard")
def dashboard_figures() -> Response:
    """What the dashboard shows; `?days=` 1 (today), 7 or 30. Instants are ISO 8601, as in all answers."""
    wanted = http.parameters({"days": http.integer(1, MAX_DAYS)})
    found = dashboard(http.services(), wanted.get("days", 1))
    unwell = {kind: [_dated(one, "until") for one in found["unwell"][kind]] for kind in _AILMENTS}
    hours = [_dated(hour, "at") for hour in found["hours"]]
    return http.answer(_dated(found, "at") | {"hours": hours, "unwell": found["unwell"] | unwell})


def _dated(shown: dict[str, Any], name: str) -> dict[str, Any]:
    return {**shown, name: http.iso(shown[name])}


@bp.get("/keys/<key_id>/stats")
def key_stats(key_id: str) -> Response:
    """The last 30 days of one key: totals, and `daily_stats` by day."""
    identity = http.identity(key_id, "Key")
    http.services().keys.get(identity)
    return http.answer(http.services().usage_queries.key_stats(identity))


@bp.get("/usage")
def usage() -> Response:
    """
    `{"days", "totals", "rows": [{"date", "key_id", "key_name", "provider", "model", "requests", "tokens_in",
    "tokens_out", "cached_tokens"}]}`, newest day first; `?days=` (30, at most 366) and `?key_id=` narrow it.
    """
    wanted = http.parameters({"days": http.integer(1, MAX_DAYS), "key_id": http.integer(0, http.MAX_ID)})
    days = wanted.get("days", DEFAULT_DAYS)
    rows = http.services().usage_queries.token_totals(days, wanted.get("key_id"))
    counted = ("requests", "tokens_in", "tokens_out", "cached_tokens")
    totals: dict[str, Any] = {name: sum(row[name] for row in rows) for name in counted}
    return http.answer({"days": days, "totals": totals, "rows": rows})
