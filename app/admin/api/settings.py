"""Live settings: read, changed all or none, reset. What each may be comes from the one table in `app.settings`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.errors import BadRequest, NotFound
from app.settings import BY_NAME, SETTINGS, Setting

bp = Blueprint("settings", __name__, url_prefix="/settings")

_TRUE_FALSE = {"true": True, "false": False}


@bp.get("")
def list_settings() -> Response:
    """All settings as `{name: value}`; with `?describe=true` a list with default, range, unit, group and help."""
    wanted = http.parameters({"describe": http.choice(*_TRUE_FALSE)})
    if _TRUE_FALSE[wanted.get("describe", "false")]:
        return http.answer([_described(row) for row in SETTINGS])
    return http.answer(_values())


@bp.post("")
def update_settings() -> Response:
    """Change the settings in `{name: value, ...}`, all or none of them; answers with all values as they are now."""
    changes = http.read_object()
    if not changes:
        raise BadRequest("No settings were given. Send {name: value, ...}.")
    _check_provider(changes.get("model_provider"))
    http.services().live_settings.update(changes)
    return http.answer({"success": True, "message": "Settings updated successfully", "settings": _values()})


@bp.get("/<name>")
def get_setting(name: str) -> Response:
    """`{"key", "value"}` of one setting."""
    if name not in BY_NAME:
        raise NotFound("Setting not found")
    return http.answer({"key": name, "value": _value(name)})


@bp.post("/reset")
def reset_settings() -> Response:
    """Give every setting its default again, or the value that the environment gives it."""
    http.fields(http.read_object(optional=True), {})
    http.services().live_settings.reset()
    return http.answer({"success": True, "message": "Settings reset to their defaults", "settings": _values()})


def _check_provider(name: object) -> None:
    known = http.services().providers.snapshot.by_name
    if isinstance(name, str) and name and name not in known:
        raise BadRequest(f"model_provider must be empty or one of {', '.join(known)}.", param="model_provider")


def _value(name: str) -> Any:
    return getattr(http.services().live_settings.current, name)


def _values() -> dict[str, Any]:
    current = http.services().live_settings.current
    return {row.name: getattr(current, row.name) for row in SETTINGS}


def _described(row: Setting) -> dict[str, Any]:
    return {
        "key": row.name,
        "value": _value(row.name),
        "type": row.kind,
        "default": row.default,
        "minimum": row.minimum,
        "maximum": row.maximum,
        "choices": list(row.choices),
        "unit": row.unit,
        "group": row.group,
        "help": row.help,
        "environment": row.environment_name,
    }
