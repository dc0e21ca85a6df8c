"""
What people may write into a key's row, checked. Refuses values that no provider would issue: a blank, a line break or a
character beyond ASCII in a key could break out of the header that carries it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import BadRequest
from .base import Status

MIN_VALUE_CHARS = 10
MAX_VALUE_CHARS = 8192
DEFAULT_NAME = "Unnamed"
DEFAULT_PROVIDER = "gemini"
#: Fields that are columns of the same name; `key` and `status` are handled apart.
FIELDS = ("name", "note", "provider", "group", "models", "priority")
#: What a field is that nobody gave.
DEFAULTS: Mapping[str, Any] = {
    "name": DEFAULT_NAME,
    "note": "",
    "provider": DEFAULT_PROVIDER,
    "group": "",
    "models": (),
    "priority": 1,
}
_MAX_TEXT_CHARS = {"name": 200, "note": 10_000, "provider": 64, "group": 128}
_MAX_PRIORITY = 1_000_000
_MAX_MODELS = 200
_MAX_MODEL_CHARS = 256

#: What a value must be, for people.
WHAT_A_KEY_IS = f"A key has at least {MIN_VALUE_CHARS} characters, no blanks and none beyond ASCII."


def check_value(value: object) -> str:
    """A key's value without blanks around it. Raises BadRequest (`Invalid key.`)."""
    text = value.strip() if isinstance(value, str) else ""
    if not is_value(text):
        raise BadRequest("Invalid key.", code="invalid_key", param="key")
    return text


def is_value(text: str) -> bool:
    """Whether a provider might issue this as a key."""
    return MIN_VALUE_CHARS <= len(text) <= MAX_VALUE_CHARS and all("!" <= character <= "~" for character in text)


def to_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the table wants them. Raises BadRequest naming the wrong one."""
    return {name: _check_field(name, value) for name, value in fields.items()}


def _check_field(name: str, value: object) -> object:
    if name == "priority":
        if type(value) is not int or not -_MAX_PRIORITY <= value <= _MAX_PRIORITY:
            raise BadRequest("priority must be a whole number.", param=name)
        return value
    if name == "models":
        if not isinstance(value, list | tuple) or len(value) > _MAX_MODELS:
            raise BadRequest("models must be a list of model names or patterns.", param=name)
        return json.dumps([_check_text("models", glob, _MAX_MODEL_CHARS) for glob in value])
    text = _check_text(name, value, _MAX_TEXT_CHARS[name])
    if name == "provider" and not text:
        raise BadRequest("provider must be the name of a provider.", param=name)
    return text or (DEFAULT_NAME if name == "name" else "")


def _check_text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise BadRequest(f"{name} must be text of at most {most} characters.", param=name)
    return value.strip().encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def check_status(status: object) -> Status:
    if status not in (Status.HEALTHY, Status.DISABLED):
        raise BadRequest("Update failed.", code="invalid_status", param="status")
    return Status(str(status))
