"""Provider entries: where requests may go. Checks types and sizes here; what a provider may be, the store decides."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.errors import BadRequest

bp = Blueprint("providers", __name__, url_prefix="/providers")

_GLOB = http.text(256, min_length=1)

_FIELDS: dict[str, http.Check] = {
    "name": http.text(64, min_length=1),
    "kind": http.text(32, min_length=1),
    "base_url": http.text(2000),
    "formats": http.texts(16, http.text(32, min_length=1)),
    "models": http.texts(200, _GLOB),
    "headers": http.text_map(50, http.text(128, min_length=1), http.text(4000)),
    "query": http.text_map(50, http.text(128, min_length=1), http.text(2000)),
    "priority": http.integer(0, 1_000_000),
    "enabled": http.boolean,
    "effective": http.anything,  # in every answer, so that an answer can be sent back changed; it decides nothing
}


@bp.get("")
def list_providers() -> Response:
    """Every entry, by priority."""
    return http.answer(http.services().providers.list())


@bp.post("")
def create_provider() -> Response:
    """Add an entry; `name` and `kind` are needed, what is left out is the kind's own."""
    values = http.fields(http.read_object(), _FIELDS, ("name", "kind"))
    values.pop("effective", None)
    created = http.services().providers.create(values)
    return http.answer({"success": True, "message": "Provider added.", "provider": created}, 201)


@bp.get("/<name>")
def get_provider(name: str) -> Response:
    """One entry."""
    return http.answer(http.services().providers.get(name))


@bp.put("/<name>")
def update_provider(name: str) -> Response:
    """Change the fields that are given; a header whose value is sent masked keeps its value."""
    changes: dict[str, Any] = http.fields(http.read_object(), _FIELDS)
    changes.pop("effective", None)
    if not changes:
        raise BadRequest("No valid data.")
    updated = http.services().providers.update(name, changes)
    return http.answer({"success": True, "message": "Provider updated.", "provider": updated})


@bp.delete("/<name>")
def delete_provider(name: str) -> Response:
    """Remove an entry."""
    http.services().providers.delete(name)
    return http.answer({"success": True, "message": "Provider deleted."})
