"""Client keys: who may call the proxy. A whole key is in one answer only, that of its creation."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import clients as actions
from app.errors import BadRequest

bp = Blueprint("clients", __name__, url_prefix="/clients")

_INSTANTS = ("expires_at", "created_at", "last_used_at")


@bp.get("")
def list_clients() -> Response:
    """All client keys, newest first; each shows the first characters of its key only."""
    return http.answer([_shown(row) for row in http.services().clients.list()])


@bp.post("")
def create_client() -> Response:
    """Make a client key. The answer holds the whole key as `key`: it is stored hashed and never shown again."""
    values = http.fields(http.read_object(), actions.FIELDS)
    client_id, key = actions.create(http.services(), values)
    made = _shown(http.services().clients.get(client_id))
    return http.answer({"success": True, "message": "Client key added. Store it now.", **made, "key": key}, 201)


@bp.get("/<client_id>")
def get_client(client_id: str) -> Response:
    """One client key."""
    return http.answer(_shown(http.services().clients.get(_identity(client_id))))


@bp.patch("/<client_id>")
def update_client(client_id: str) -> Response:
    """Change the fields that are given; the next request of the client already meets them."""
    identity = _identity(client_id)
    changes = http.fields(http.read_object(), actions.FIELDS)
    if not changes:
        raise BadRequest("No valid data.")
    changed = actions.update(http.services(), identity, changes)
    return http.answer({"success": True, "message": "Client key updated.", **_shown(changed)})


@bp.get("/<client_id>/usage")
def client_usage(client_id: str) -> Response:
    """
    `{"client_id", "totals", "days", "models"}`: what one client used, by day (those without a request too) and by
    model; `?days=` (30, at most 366) says how far back. `cost` is in US dollars, null where a model has no price.
    """
    days = http.parameters({"days": http.integer(1, actions.MAX_DAYS)}).get("days", actions.DEFAULT_DAYS)
    identity = _identity(client_id)
    http.services().clients.get(identity)
    return http.answer({"client_id": identity, **actions.usage(http.services(), identity, days)})


@bp.delete("/<client_id>")
def delete_client(client_id: str) -> Response:
    """Remove a client key: whoever holds it is refused from now on."""
    actions.delete(http.services(), _identity(client_id))
    return http.answer({"success": True, "message": "Client key deleted."})


def _identity(client_id: str) -> int:
    return http.identity(client_id, "Client key")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: http.iso(row[name]) for name in _INSTANTS}}
