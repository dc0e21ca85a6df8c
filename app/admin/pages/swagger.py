"""
The API page, `/middleware/swagger/`: every call in Swagger UI, which can send it; a plain list without JavaScript.
`/middleware/apispec.json` is the document behind both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, request

from app.admin import guard
from app.admin.openapi import document
from app.admin.pages.frame import show

bp = Blueprint("swagger", __name__)

UI = "vendor/swagger-ui-5.35.0"


class Call(NamedTuple):
    """A line of the plain list."""

    method: str
    path: str
    summary: str


@bp.get("/middleware/swagger/")
def index() -> Response:
    """The document, to read and to try out."""
    content = document(current_app).content
    return show("swagger/index.html", page="swagger", ui_folder=UI, tags=content["tags"], calls=_by_tag(content))


@bp.get("/middleware/apispec.json")
def apispec() -> Response:
    """The OpenAPI document. It changes only with the program: a browser asks whether what it has is still true."""
    made = document(current_app)
    response = Response(made.body, mimetype="application/json")
    response.set_etag(made.etag)
    response.headers["Cache-Control"] = guard.REVALIDATED
    response.make_conditional(request)
    return response


def _by_tag(content: dict[str, Any]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {tag["name"]: [] for tag in content["tags"]}
    for path, item in content["paths"].items():
        for method, operation in item.items():
            found[operation["tags"][0]].append(Call(method.upper(), path, operation["summary"]))
    return found
