"""Pages that bring keys in and out: pasting many, import and export as files, and showing a whole value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import keys as actions
from app.admin.actions.paste import MAX_LINES, read_paste
from app.admin.pages import forms
from app.admin.pages.forms import Form
from app.admin.pages.frame import show
from app.admin.pages.keys import HOME, back, provider_choices, usual_provider
from app.auth import confirm_password
from app.errors import BadRequest, Forbidden, MiddlewareError, RequestTooLarge

bp = Blueprint("key_transfer", __name__, url_prefix=HOME)

#: Lines of a report that a page shows; those that were not added come first.
MAX_SHOWN_LINES: Final = 1000
_READERS: Final[dict[str, tuple[forms.Reader, http.Check]]] = {
    "text": (lambda text: text, http.text(actions.MAX_IMPORT_BYTES, lines=True)),
    "name": (forms.text, actions.FIELDS["name"]),
    "provider": (forms.text, actions.FIELDS["provider"]),
    "group": (forms.text, actions.FIELDS["group"]),
    "priority": (forms.whole_number, actions.FIELDS["priority"]),
    "models": (forms.lines, actions.FIELDS["models"]),
}


# -- pasting -----------------------------------------------------------------------------------------


@bp.get("/paste")
def paste() -> Response:
    """The form for many keys."""
    empty = {"text": "", "name": "", "group": "", "priority": "1", "models": "", "provider": usual_provider()}
    return _paste_form(Form(typed=empty))


@bp.post("/paste")
def add_many() -> Response:
    """Add what was pasted, and report each line."""
    _allow_large_forms()
    form = forms.read(_READERS)
    if not form.faults:
        values = dict(form.values)
        try:
            report = actions.add_many(http.services(), read_paste(values.pop("text")), values, values.pop("name"))
        except MiddlewareError as error:
            forms.blame(form, error)
        else:
            return _report(report)
    return _paste_form(form, 422)


def _report(report: list[actions.LineReport]) -> Response:
    counts = actions.counted(report)
    troubled_first = sorted(report, key=lambda line: line.result == "added")
    return show(
        "keys/pasted.html",
        page="keys",
        counts=counts,
        words=actions.words(counts),
        lines=troubled_first[:MAX_SHOWN_LINES],
        left_out=max(0, len(report) - MAX_SHOWN_LINES),
        back=back(),
    )


def _paste_form(form: Form, status: int = 200) -> Response:
    choices = provider_choices(form.typed["provider"])
    return show(
        "keys/paste.html", page="keys", status=status, form=form, providers=choices, most=MAX_LINES, back=back()
    )


# -- files -------------------------------------------------------------------------------------------


@bp.get("/import")
def choose_file() -> Response:
    """The form for a file."""
    return show("keys/import.html", page="keys", problem="", done=None, back=back())


@bp.post("/import")
def import_file() -> Response:
    """Add the keys of an export; the page says how many."""
    _allow_large_forms()
    try:
        result = actions.import_rows(http.services(), _rows_of_file())
    except BadRequest as error:
        return show("keys/import.html", page="keys", status=422, problem=str(error), done=None, back=back())
    return show("keys/import.html", page="keys", problem="", done=result, back=back())


def _rows_of_file() -> list[Any]:
    file = request.files.get("file")
    data = file.read() if file is not None else b""
    if not data.strip():
        raise BadRequest("Choose a file first: one that an export has made.")
    try:
        rows = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        raise BadRequest("This file is no JSON. To add a list of keys, paste it instead.") from None
    if not isinstance(rows, list):
        raise BadRequest("This file is no export of keys: it must hold a list.")
    return rows


@bp.get("/export")
def choose_export() -> Response:
    """What can be had: masked values, or whole ones after the password."""
    return _export_form("")


@bp.get("/export/masked")
def export_masked() -> Response:
    """A file with all keys, values masked."""
    return _file(actions.exported(http.services(), whole=False), "keys-masked")


@bp.post("/export")
def export_whole() -> AnyResponse:
    """A file with all keys and their whole values."""
    try:
        confirm_password({"password": request.form.get("password", "")})
    except (BadRequest, Forbidden) as error:
        return _export_form("Type the password of the administration." if error.status == 400 else str(error), 422)
    return _file(actions.exported(http.services(), whole=True), "keys")


def _export_form(problem: str, status: int = 200) -> Response:
    return show("keys/export.html", page="keys", status=status, problem=problem, back=back())


def _file(rows: list[actions.Item], name: str) -> Response:
    day = datetime.fromtimestamp(http.services().clock.wall(), UTC).strftime("%Y-%m-%d")
    response = Response(json.dumps(rows, indent=2) + "\n", mimetype="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{day}.json"'
    return response


# -- one whole value ---------------------------------------------------------------------------------


@bp.get("/<int:key_id>/reveal")
def ask_to_reveal(key_id: int) -> Response:
    """Asks for the password."""
    return _reveal_form(key_id)


@bp.post("/<int:key_id>/reveal")
def reveal(key_id: int) -> Response:
    """Shows the whole value, once."""
    try:
        confirm_password({"password": request.form.get("password", "")})
        value = http.services().keys.reveal(key_id)
    except MiddlewareError as error:
        if error.status == 404:
            raise
        problem = "Type the password of the administration." if error.code == "password_required" else str(error)
        return _reveal_form(key_id, problem, 422)
    return _reveal_form(key_id, value=value)


def _reveal_form(key_id: int, problem: str = "", status: int = 200, value: str = "") -> Response:
    item = http.services().keys.get(key_id)
    return show("keys/reveal.html", page="keys", status=status, key=item, problem=problem, value=value)


# -- parts -------------------------------------------------------------------------------------------


def _allow_large_forms() -> None:
    request.max_content_length = actions.MAX_IMPORT_BYTES
    request.max_form_memory_size = actions.MAX_IMPORT_BYTES
    try:
        _ = request.form
    except RequestEntityTooLarge:
        raise RequestTooLarge(
            f"More than {actions.MAX_IMPORT_BYTES // http.MIB} MiB cannot be taken at once."
        ) from None
