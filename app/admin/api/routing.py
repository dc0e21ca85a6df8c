"""Explains which provider and key a request would use, and why, without sending anything."""

from __future__ import annotations

from flask import Blueprint, Response

from app.admin import http

bp = Blueprint("routing", __name__, url_prefix="/route")

DEFAULT_PATH = "/v1/chat/completions"


@bp.get("")
def explain_route() -> Response:
    """`?model=...&path=...`: the candidates in order, the steps that led to them, or the error a caller would meet."""
    wanted = http.parameters({"model": http.text(320, min_length=1), "path": http.text(2000, min_length=1)})
    path = wanted.get("path", DEFAULT_PATH)
    if not path.startswith("/"):
        raise http.wrong("path", "a path that starts with /")
    return http.answer(http.services().routes.explain(wanted.get("model"), path))
