"""The dashboard, `/middleware/`: how the middleware is doing, kept current while it is open."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.dashboard import RANGES, dashboard
from app.admin.pages.frame import fragment, show
from app.admin.pages.home_charts import charts, failures
from app.admin.reasons import in_words

bp = Blueprint("home", __name__)

#: Days -> (words for a choice, words in a sentence).
_RANGE_WORDS = {1: ("Today", "today"), 7: ("7 days", "in 7 days"), 30: ("30 days", "in 30 days")}


@bp.get("/middleware")
def without_slash() -> AnyResponse:
    """The dashboard is at `/middleware/`."""
    return redirect("/middleware/", 308)


@bp.get("/middleware/")
def index() -> Response:
    """The whole page; `?days=` 1, 7 or 30."""
    return show("home/index.html", page="dashboard", **_shown())


@bp.get("/middleware/dashboard")
def figures() -> Response:
    """The part that updates."""
    return fragment("home/_figures.html", **_shown())


def _shown() -> dict[str, Any]:
    wanted = http.parameters({"days": http.choice(*map(str, RANGES))})
    days = int(wanted.get("days", RANGES[0]))
    found = dashboard(http.services(), days)
    return {
        "shown": found,
        "totals": found["totals"],
        "charts": charts(found),
        "in_words": in_words,
        "failures": failures(found["totals"]),
        "days": days,
        "ranges": _RANGE_WORDS,
        "when": _RANGE_WORDS[days][1],
    }
