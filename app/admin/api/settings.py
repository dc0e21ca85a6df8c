"""Live settings: read, changed all or none, reset. What each may be comes from the one table in `app.settings`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import settings as actions
from app.errors import BadRequest, NotFound
from app.settings import BY_NAME, SETTINGS, InvalidSettings, Setting

bp = Blueprint("settings", __name__, url_prefix="/settings")

_TRUE_FALSE = {"true": True, "false": False}
_RESET_FIELDS: dict[str, http.Check] = {"names": http.texts(len(SETTINGS), http.text(64, min_length=1))}


@bp.get("")
def list_settings() -> Response:
    """All settings as `{name: value}`; with `?describe=true` a list that explains each."""
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
    actions.change(http.services(), changes)
    return http.answer({"success": True, "message": "Settings updated successfully", "settings": _values()})


@bp.get("/<name>")
def get_setting(name: str) -> Response:
    """`{"key", "value"}` of one setting."""
    if name not in BY_NAME:
        raise NotFound("Setting not found")
    return http.answer({"key": name, "value": _value(name)})


@bp.post("/reset")
def reset_settings() -> Response:
    """Give every setting, or those in `{"names": [...]}`, its default again, or what the environment gives it."""
    names = http.fields(http.read_object(optional=True), _RESET_FIELDS).get("names")
    if names == []:
        raise BadRequest("Send at least one name, or no `names` at all to reset every setting.", param="names")
    actions.reset(http.services(), names)
    what = "Settings" if names is None else ", ".join(dict.fromkeys(names))
    return http.answer({"success": True, "message": f"{what} reset to their defaults", "settings": _values()})


@bp.errorhandler(InvalidSettings)
def _show_faults(error: InvalidSettings) -> Response:
    """The first fault as any other error, and all of them as `faults`: `{name: sentence}`."""
    shown = http.failure(error)
    return http.answer({**shown.get_json(), "faults": error.faults}, shown.status_code)


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
        "source": http.services().live_settings.source(row.name),
        "minimum": row.minimum,
        "maximum": row.maximum,
        "choices": list(row.choices),
        "unit": row.unit,
        "group": row.group,
        "help": row.help,
        "environment": row.environment_name,
    }
