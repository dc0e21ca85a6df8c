"""
HTML forms, read into the values that the admin API takes: text becomes numbers, lists and flags, and the checks of
`app.admin.http` decide what may pass, so that a form and a call meet the same rules.

Two people may edit the same thing at once: a form carries what it showed as `was`, and `changes` is what this person
changed. Stores compare the old values of these when they write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flask import request

from app.admin import http
from app.admin.http import Check
from app.errors import BadRequest, MiddlewareError
from app.keys.fields import WHAT_A_KEY_IS

#: Reads the text of a form's field; returns what the API would be sent.
Reader = Callable[[str], Any]

MAX_WAS_CHARS: Final = 200_000
#: Sentences whose words programs rely on -> what people read.
_IN_FULL: Final = {"Invalid key.": f"Invalid key. {WHAT_A_KEY_IS}"}


# -- readers -----------------------------------------------------------------------------------------


def text(value: str) -> str:
    """As it is, with the line ends of the browser made plain."""
    return value.replace("\r\n", "\n").strip()


def whole_number(value: str) -> int | str:
    """A number where it is one; else the text, which the check refuses by name."""
    stripped = value.strip().replace(",", "")
    digits = stripped.removeprefix("-")
    return int(stripped) if digits.isascii() and digits.isdigit() and len(digits) <= 19 else value


def number(value: str) -> float | str:
    """A number where it is one; else the text, which the check refuses by name."""
    try:
        return float(value.strip().replace(",", ""))
    except ValueError:
        return value


def flag(value: str) -> bool:
    """A switch: browsers send `true`, or nothing at all."""
    return value == "true"


def lines(value: str) -> list[str]:
    """One on each line, or between commas; empty ones are left out."""
    return [item for line in value.splitlines() for part in line.split(",") if (item := part.strip())]


def pairs(value: str) -> dict[str, str] | str:
    """`name: value` on each line; the text itself where a line has no colon."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, value.splitlines())):
        name, colon, content = line.partition(":")
        if not colon:
            return line
        found[name.strip()] = content.strip()
    return found


def optional(inner: Reader) -> Reader:
    """An empty field is None."""
    return lambda value: inner(value) if value.strip() else None


# -- forms -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """
    What came of a form.

    values  -- checked values by name, of the fields without a fault
    typed   -- the text of each field, to show the form again
    faults  -- a sentence for each field that is wrong
    """

    values: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def read(fields: Mapping[str, tuple[Reader, Check]]) -> Form:
    """The fields of the request's form, each read and checked; all faults at once. A missing field counts as empty."""
    form = Form()
    for name, (reader, check) in fields.items():
        form.typed[name] = request.form.get(name, "")
        try:
            form.values[name] = check(name, reader(form.typed[name]))
        except BadRequest as error:
            form.faults[name] = plain(error, name)
    return form


def plain(error: MiddlewareError, name: str = "") -> str:
    """The sentence of an error without the technical name of the field that it is shown at."""
    sentence = str(error).removeprefix(f"`{name}` ").removeprefix(f"{name} ")
    return _IN_FULL.get(sentence) or sentence[:1].upper() + sentence[1:]


def blame(form: Form, error: MiddlewareError, otherwise: str = "") -> None:
    """Say an error at the field that it is about; `otherwise` where the form has no such field (empty: above it)."""
    field = error.param if error.param in form.typed else None
    form.faults[field or otherwise] = plain(error, field or "")


# -- two people at once ------------------------------------------------------------------------------


def was() -> dict[str, Any]:
    """
    What the form showed. Empty where it does not say, or nothing that can be read.
    """
    given = request.form.get("was", "")
    if not given or len(given) > MAX_WAS_CHARS:
        return {}
    try:
        shown = http.parse(given.encode())
    except BadRequest:
        return {}
    return shown if isinstance(shown, dict) else {}


def changes(wanted: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Only what this person changed: the wanted values that differ from those that the form showed."""
    return {name: value for name, value in wanted.items() if name not in shown or shown[name] != value}
