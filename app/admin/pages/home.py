"""The dashboard, `/middleware/`: how the middleware is doing."""

from __future__ import annotations

from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.overview import demonstration_answers, overview, provider_rows
from app.admin.pages.frame import show

bp = Blueprint("home", __name__)


@bp.get("/middleware")
def without_slash() -> AnyResponse:
    """The dashboard is at `/middleware/`."""
    return redirect("/middleware/", 308)


@bp.get("/middleware/")
def index() -> Response:
    """The state in words, and keys by provider and state."""
    rows = provider_rows(http.services())
    demonstration = demonstration_answers(http.services())
    return show(
        "home/index.html",
        page="dashboard",
        overview=overview(rows, demonstration),
        rows=rows,
        demonstration=demonstration,
    )
