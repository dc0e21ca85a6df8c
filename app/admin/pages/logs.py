"""The live log, `/middleware/logs`: the last lines, and new ones as they come."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Response, current_app, request

from app.admin import http
from app.admin.pages.frame import show
from app.admin.pages.line_stream import LineStream, caller_left
from app.auth import session_check
from app.errors import Overloaded
from app.lifecycle import Lifecycle

bp = Blueprint("logs", __name__, url_prefix="/middleware/logs")

SHOWN_LINES: Final = 200
RETRY_S: Final = 15
#: (color, icon, what lines of this color say) for the filter.
COLORS: Final = (
    ("blue", "arrow-right", "Requests"),
    ("green", "circle-check", "Answers"),
    ("yellow", "moon-star", "Warnings"),
    ("red", "circle-alert", "Failures"),
)
#: The request that a line is about, as `app.live_log` writes it.
_REQUEST_ID: Final = re.compile(r"\(([\w.:-]{6,128})\)$", re.ASCII)
#: Lines that end with a reason in the same brackets.
_ABOUT_A_KEY: Final = 'Key "'


@bp.get("")
def index() -> Response:
    """The last lines; scripts add those that come."""
    live_log = http.services().usage.live_log
    lines = live_log.last(SHOWN_LINES)
    return show(
        "logs/index.html",
        page="logs",
        lines=[(line, request_id(line.message)) for line in lines],
        last_id=lines[-1].id if lines else live_log.newest_id(),
        colors=COLORS,
    )


@bp.get("/stream")
def stream() -> Response:
    """Lines after `Last-Event-ID` or `?after=` as server-sent events; 503 when too many watch already."""
    if request.method == "HEAD":
        return Response(mimetype="text/event-stream")
    services = http.services()
    lifecycle: Lifecycle = current_app.extensions["middleware_lifecycle"]
    given = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    after_id = int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None
    viewer = None if lifecycle.stopping else services.live_feed.watch(after_id, lifecycle.most_watching)
    if viewer is None:
        return http.failure(
            Overloaded(
                "As many watch the live log as can. Ask for /middleware/api/logs?after_id= now and then.",
                code="too_many_viewers",
                retry_after_s=RETRY_S,
            )
        )
    lines = LineStream(
        viewer,
        services.clock,
        allowed=session_check(),
        stopping=lambda: lifecycle.stopping,
        gone=caller_left(request.environ),
    )
    response = Response(lines, mimetype="text/event-stream", direct_passthrough=True)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold lines back
    return response


def request_id(message: str) -> str:
    """The id of the request that a line is about; empty where it names none."""
    found = None if message.startswith(_ABOUT_A_KEY) else _REQUEST_ID.search(message)
    return found[1] if found else ""
