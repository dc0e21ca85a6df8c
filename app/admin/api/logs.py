"""The live log: the last lines, oldest first. They hold no secrets; whoever shows them shows text, never HTML."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.live_log import MAX_SHOWN, Line
from app.telemetry.logs import iso_milliseconds

bp = Blueprint("logs", __name__, url_prefix="/logs")

DEFAULT_LINES = 50


@bp.get("")
def list_lines() -> Response:
    """
    `[{"time" (ISO 8601, UTC), "msg", "color"}]`: the last 50 lines, or `?limit=` of them, at most 1000.

    `?after_id=` gives the next lines above that id in the order in which they were written, each with its `id`.
    """
    wanted = http.parameters({"limit": http.integer(1, MAX_SHOWN), "after_id": http.integer(0, http.MAX_ID)})
    live_log, limit = http.services().usage.live_log, wanted.get("limit", DEFAULT_LINES)
    if "after_id" in wanted:
        return http.answer([shown(line) for line in live_log.after(wanted["after_id"], limit)])
    return http.answer(live_log.recent(limit))


def shown(line: Line) -> dict[str, Any]:
    """A line with its id, as the API and the stream show it."""
    return {"id": line.id, "time": iso_milliseconds(line.at), "msg": line.message, "color": line.color}
