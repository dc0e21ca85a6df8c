"""
The pages that people read: `/` says what this server is, `/middleware/` how it is doing. Plain HTML, no script.

A page shows names and texts from outside as text only: the templates escape everything, and the content policy of
`app.auth` lets no inline code run.
"""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.overview import demonstration_answers, overview, provider_rows
from app.auth import register_error_handlers

pages_bp = Blueprint("pages", __name__)

#: (name, address) of the pages, in the order of the navigation.
NAVIGATION: Final[tuple[tuple[str, str], ...]] = (("Overview", "/middleware/"),)

#: (what it is, method, path) of what clients can call.
ENDPOINTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("OpenAI chat completions", "POST", "/v1/chat/completions"),
    ("OpenAI responses", "POST", "/v1/responses"),
    ("OpenAI embeddings", "POST", "/v1/embeddings"),
    ("Anthropic messages", "POST", "/v1/messages"),
    ("Gemini generateContent", "POST", "/v1beta/models/MODEL:generateContent"),
    ("Gemini streamGenerateContent", "POST", "/v1beta/models/MODEL:streamGenerateContent?alt=sse"),
    ("List of models", "GET", "/v1/models"),
)


@pages_bp.get("/")
def root() -> Response:
    """What this server is."""
    return Response(render_template("root/index.html"))


@pages_bp.get("/middleware")
def without_slash() -> AnyResponse:
    """The overview is at `/middleware/`."""
    return redirect("/middleware/", 308)


@pages_bp.get("/middleware/")
def home() -> Response:
    """The state in words, keys by provider and state, and how to send the first request."""
    rows = provider_rows(http.services())
    demonstration = demonstration_answers(http.services())
    return Response(
        render_template(
            "home/index.html",
            navigation=NAVIGATION,
            page="Overview",
            overview=overview(rows, demonstration),
            rows=rows,
            demonstration=demonstration,
            endpoints=ENDPOINTS,
            address=request.host_url.rstrip("/"),
        )
    )


register_error_handlers(pages_bp)
