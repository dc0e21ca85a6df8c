"""The log of requests: each with its attempts, so that one can see which key failed how, and why."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http, request_filters
from app.errors import NotFound
from app.telemetry.logs import iso_milliseconds

bp = Blueprint("requests", __name__, url_prefix="/requests")

DEFAULT_PAGE = 50


@bp.get("")
def list_requests() -> Response:
    """
    `{"requests": [...], "next_before": id or null, "searched_to": instant or null}`, newest first; `?before=` that id
    gives the next page. Where a search takes long it ends with what it has found until then: the page is shorter,
    `searched_to` says how far it came, and `?before=` goes on from there.

    Filters: status (`2xx` ... or exact), outcome, verdict (of any attempt; `failed` = any but ok), model, provider,
    dialect, key_id, key (id or part of the name, of any attempt), client_id, stream, since, until, range (`15m`, `1h`,
    `6h`, `24h`, `7d`), search (in the path and the request id), limit (at most 500). `?after=` an id gives the page
    above it.
    """
    page = http.services().usage_queries.log.page(request_filters.read(DEFAULT_PAGE))
    return http.answer(
        {
            "requests": [shown(row) for row in page.rows],
            "next_before": page.next_before_id,
            "searched_to": None if page.searched_to is None else iso_milliseconds(page.searched_to),
        }
    )


@bp.get("/<identity>")
def get_request(identity: str) -> Response:
    """One request with its attempts, by the id of its row or by its request id."""
    row = http.services().usage_queries.get_request(identity)
    if row is None:
        raise NotFound("Request not found")
    return http.answer(shown(row))


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The row as the API shows it."""
    hidden = ("started", "shape_id")  # the second says how rows are stored, not what happened
    return {**{name: value for name, value in row.items() if name not in hidden}, "started_at": row["started"]}
