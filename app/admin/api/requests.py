"""The log of requests: each with its attempts, so that one can see which key failed how, and why."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.errors import NotFound
from app.usage_queries import MAX_PAGE, RequestFilter

bp = Blueprint("requests", __name__, url_prefix="/requests")

DEFAULT_PAGE = 50
_WORD = http.text(256)
_TRUE_FALSE = {"true": True, "false": False}


def _status_class(name: str, value: Any) -> int:
    return int(http.choice("1xx", "2xx", "3xx", "4xx", "5xx")(name, value)[0])


def _flag(name: str, value: Any) -> bool:
    return _TRUE_FALSE[http.choice(*_TRUE_FALSE)(name, value)]


#: Query parameter -> (field of the filter, check).
_PARAMETERS: dict[str, tuple[str, http.Check]] = {
    "status": ("status_class", _status_class),
    "outcome": ("outcome", _WORD),
    "model": ("model", _WORD),
    "provider": ("provider", _WORD),
    "key_id": ("key_id", http.integer(0, http.MAX_ID)),
    "client_id": ("client_id", http.integer(0, http.MAX_ID)),
    "stream": ("stream", _flag),
    "since": ("since", http.instant),
    "until": ("until", http.instant),
    "search": ("text", _WORD),
    "before": ("before_id", http.integer(0, http.MAX_ID)),
    "limit": ("limit", http.integer(1, MAX_PAGE)),
}


@bp.get("")
def list_requests() -> Response:
    """
    `{"requests": [...], "next_before": id or null}`, newest first; `?before=` that id gives the next page.

    Filters: status (`2xx` ...), outcome, model, provider, key_id, client_id, stream, since, until, search (in the path
    and the request id), limit (at most 500).
    """
    wanted = http.parameters({name: check for name, (_, check) in _PARAMETERS.items()})
    values = {"limit": DEFAULT_PAGE} | {_PARAMETERS[name][0]: value for name, value in wanted.items()}
    page = http.services().usage_queries.list_requests(RequestFilter(**values))
    return http.answer({"requests": [_shown(row) for row in page["requests"]], "next_before": page["next_before_id"]})


@bp.get("/<identity>")
def get_request(identity: str) -> Response:
    """One request with its attempts, by the id of its row or by its request id."""
    row = http.services().usage_queries.get_request(identity)
    if row is None:
        raise NotFound("Request not found")
    return http.answer(_shown(row))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown = {**row, "started_at": row["started"]}
    del shown["started"]
    return shown
