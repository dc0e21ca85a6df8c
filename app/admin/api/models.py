"""The models that providers offer, as they last said it themselves; asking again is a call of its own."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import models as actions
from app.admin.actions import providers

bp = Blueprint("models", __name__, url_prefix="/models")

_NAME: dict[str, http.Check] = {"provider": http.text(64, min_length=1)}


@bp.get("")
def list_models() -> Response:
    """
    `{"providers": [{"provider", "kind", "ok", "message", "provider_message", "models", "listed_at", "asked_at",
    "status", "verdict", "reason", "duration_ms"}]}` for every enabled provider, asked or not: `asked_at` is null where
    nobody has asked yet. A list stays when asking again fails. `?provider=` narrows it.
    """
    wanted = http.parameters(_NAME).get("provider")
    return http.answer({"providers": _shown(wanted)})


@bp.post("/refresh")
def refresh_models() -> Response:
    """Ask all enabled providers, or the one in `{"provider"}`, for their models now; answers as the list does."""
    wanted = http.fields(http.read_object(optional=True), _NAME).get("provider")
    actions.refresh(http.services(), wanted)
    return http.answer({"success": True, "message": "Models asked for.", "providers": _shown(wanted)})


def _shown(wanted: str | None) -> list[dict[str, Any]]:
    if wanted is not None:
        providers.entry(http.services(), wanted)
    rows = actions.offered(http.services())
    return [_as_json(row) for row in rows if wanted in (None, row["provider"])]


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: http.iso(row[name]) for name in ("asked_at", "listed_at")}}
