"""The live log: the last lines, oldest first. They hold no secrets; whoever shows them shows text, never HTML."""

from __future__ import annotations

from flask import Blueprint, Response

from app.admin import http

bp = Blueprint("logs", __name__, url_prefix="/logs")

DEFAULT_LINES = 50


@bp.get("")
def list_lines() -> Response:
    """`[{"time" (ISO 8601, UTC), "msg", "color"}]`: the last 50 lines, or `?limit=` of them, at most 1000."""
    wanted = http.parameters({"limit": http.integer(1, 1000)})
    return http.answer(http.services().usage.live_log.recent(wanted.get("limit", DEFAULT_LINES)))
