"""Provider entries: where requests may go. Checks types and sizes here; what a provider may be, the store decides."""

from __future__ import annotations

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import providers as actions
from app.errors import BadRequest

bp = Blueprint("providers", __name__, url_prefix="/providers")


@bp.get("")
def list_providers() -> Response:
    """Every entry, by priority, with the number of its keys in each state."""
    return http.answer(actions.listed(http.services()))


@bp.post("")
def create_provider() -> Response:
    """Add an entry; `name` and `kind` are needed, what is left out is the kind's own."""
    values = http.fields(http.read_object(), actions.FIELDS, ("name", "kind"))
    created = actions.create(http.services(), values)
    return http.answer({"success": True, "message": "Provider added.", "provider": created}, 201)


@bp.get("/<name>")
def get_provider(name: str) -> Response:
    """One entry."""
    return http.answer(http.services().providers.get(name))


@bp.put("/<name>")
def update_provider(name: str) -> Response:
    """Change the fields that are given; a header whose value is sent masked keeps its value."""
    changes = http.fields(http.read_object(), actions.FIELDS)
    if not set(changes) - actions.DERIVED:
        raise BadRequest("No valid data.")
    updated = actions.update(http.services(), name, changes)
    return http.answer({"success": True, "message": "Provider updated.", "provider": updated})


@bp.delete("/<name>")
def delete_provider(name: str) -> Response:
    """Remove an entry."""
    actions.delete(http.services(), name)
    return http.answer({"success": True, "message": "Provider deleted."})


@bp.post("/<name>/test")
def test_provider(name: str) -> Response:
    """
    Ask the provider for its list of models with one of its keys, which costs nothing: `{"ok", "status", "verdict",
    "reason", "message", "provider_message", "duration_ms", "key", "models" (how many), "sample"}`.
    """
    http.fields(http.read_object(optional=True), {})
    offer = actions.test(http.services(), name)
    return http.answer({"success": True, **actions.tested(http.services(), name, offer)})
