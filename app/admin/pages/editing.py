"""Forms that change what exists: what this person changed is saved, what somebody else changed meanwhile is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.admin.pages import forms
from app.admin.pages.forms import Form
from app.errors import BadRequest, ChangedMeanwhile, Conflict

#: What saves: (changes, the values that must still be there).
Save = Callable[[Mapping[str, Any], Mapping[str, Any]], object]


def save(form: Form, was: Mapping[str, Any], store: Save) -> tuple[int, dict[str, Any]]:
    """
    Save what this person changed since `was`. Returns a status, 200 where it is done, and else what the form is to
    carry as `was` when it is shown again: with it a second save is meant, and wins.
    """
    if form.faults:
        return 422, dict(was)
    changes = forms.changes(form.values, was)
    if not changes:
        return 200, dict(was)
    try:
        store(changes, {name: was[name] for name in changes if name in was})
    except ChangedMeanwhile as error:
        form.faults.update({name: conflict(value) for name, value in error.now.items()})
        return error.status, {**was, **error.now}
    except (BadRequest, Conflict) as error:
        form.faults[error.param if error.param in form.typed else ""] = forms.plain(error, error.param or "")
        return 422 if isinstance(error, BadRequest) else error.status, dict(was)
    return 200, dict(was)


def conflict(now: object) -> str:
    """What is said at a field that somebody else has changed."""
    return f"Somebody else has changed this meanwhile, to: {said(now)}. Save again to have yours instead."


def said(value: object) -> str:
    """A value as people write it in a form."""
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {content}" for name, content in value.items())
    return str(value)
