"""Explains which provider and key a request would use, and why, without sending anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import routing as actions

bp = Blueprint("routing", __name__, url_prefix="/route")

DEFAULT_PATH = "/v1/chat/completions"


def _path(name: str, value: Any) -> str:
    path: str = http.text(2000, min_length=1)(name, value)
    if not path.startswith("/"):
        raise http.wrong(name, "a path that starts with /")
    return path


FIELDS: Final[Mapping[str, http.Check]] = {
    "model": http.text(320, min_length=1),
    "path": _path,
    "client": http.integer(1, http.MAX_ID),
}


@bp.get("")
def explain_route() -> Response:
    """
    `?model=...&path=...&client=<id>`: the candidates in order with their keys, the steps that led to them, the key that
    is next, or the error that a caller would meet.
    """
    wanted = http.parameters(FIELDS)
    return http.answer(
        actions.explain(http.services(), wanted.get("model"), wanted.get("path", DEFAULT_PATH), wanted.get("client"))
    )
