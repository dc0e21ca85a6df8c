"""
The settings: each with its meaning, its range, what it is and where that comes from; saved all or none.

The form says what it showed. What somebody else changed meanwhile is told, with both values, before it is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import settings as actions
from app.admin.pages import forms, words
from app.admin.pages.frame import done, is_htmx, show
from app.errors import BadRequest
from app.settings import BY_NAME, SETTINGS, InvalidSettings, Setting, Value, parse, to_text
from app.settings_store import SettingsChanged

bp = Blueprint("settings", __name__, url_prefix="/middleware/settings")

HERE: Final = "/middleware/settings"
MAX_QUERY_CHARS: Final = 200
#: Words of a name that are not written as they sound.
_SPELLED: Final = {"cors": "CORS", "id": "ID", "openai": "OpenAI", "ttl": "TTL"}
#: Units that are easier to read in larger ones.
_READABLE: Final = {"bytes": words.bytes_, "seconds": words.seconds}


@dataclass(frozen=True, slots=True)
class Line:
    """
    A setting as the page shows it.

    value   -- what is in force; `shown` what stands in the field
    source  -- `saved`, `environment` or `default`
    theirs  -- what somebody else made of it while this person changed it, in words; None where nobody did
    """

    row: Setting
    value: Value
    shown: str
    source: str
    choices: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    theirs: str | None = None

    @property
    def title(self) -> str:
        first, *rest = self.row.name.split("_")
        return " ".join([_SPELLED.get(first, first.capitalize()), *(_SPELLED.get(word, word) for word in rest)])

    @property
    def changed(self) -> bool:
        """Whether it is not as it comes."""
        return self.value != self.row.default

    @property
    def in_words(self) -> str:
        return said(self.row, self.value)

    @property
    def default_in_words(self) -> str:
        return said(self.row, self.row.default)

    @property
    def readable(self) -> str:
        """The value in larger units, where that says more."""
        return readable(self.row, self.value)

    @property
    def range(self) -> str:
        if self.row.minimum is None or self.row.maximum is None:
            return ""
        return f"{words.grouped(self.row.minimum)} to {words.grouped(self.row.maximum)}"


def readable(row: Setting, value: Value) -> str:
    """`5 min` for 300 seconds; empty where a larger unit would not help."""
    of = _READABLE.get(row.unit)
    if of is None or isinstance(value, bool | str) or value < (1024 if row.unit == "bytes" else 60):
        return ""
    return of(value)


def said(row: Setting, value: Value) -> str:
    """A value as people read it, with its unit."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return value or "empty"
    number = f"{value:,}" if isinstance(value, int) else f"{value:,g}"
    larger = readable(row, value)
    return f"{number} {row.unit}".strip() + (f" ({larger})" if larger else "")


# -- views -------------------------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """All settings, or those that are looked for."""
    return _page()


@bp.post("")
def save() -> AnyResponse:
    """Save what this person changed, all of it or nothing."""
    typed, shown = _typed(), _shown()
    wanted = {name: text for name, text in typed.items() if _differs(name, text, shown[name])}
    if not wanted:
        return done("Nothing was changed.", HERE, level="info", fragment=_page() if is_htmx() else None)
    try:
        actions.change(http.services(), wanted, {name: shown[name] for name in wanted})
    except InvalidSettings as error:
        return _page_again(wanted, shown, faults=error.faults, status=400)
    except SettingsChanged as error:
        return _page_again(wanted, shown, theirs=error.now, status=error.status)
    what = f"{words.plural(len(wanted), 'setting')} saved: {', '.join(wanted)}."
    return done(f"{what} The next request uses them.", HERE, fragment=_page() if is_htmx() else None)


@bp.get("/reset")
def confirm_reset() -> Response:
    """What a reset of one setting (`?name=`), or of all that were saved, would change."""
    return _confirmation(_names(request.args.getlist("name")))


@bp.post("/reset")
def reset() -> AnyResponse:
    """Forget what was saved for the settings that the confirmation showed."""
    names = _names(request.form.getlist("name"))
    try:
        actions.reset(http.services(), names, _shown())
    except SettingsChanged as error:
        return _confirmation(names, theirs=error.now, status=error.status)
    return done(f"{words.plural(len(names), 'setting')} reset: {', '.join(names)}.", HERE)


# -- what a form says --------------------------------------------------------------------------------


def _shown() -> dict[str, Value]:
    """What the form showed, as the values that these were. Raises BadRequest for a form that is not ours."""
    shown = {name: parse(name, value) for name, value in forms.was().items()}
    if not shown:
        raise BadRequest("This form is incomplete. Load the page again.")
    return shown


def _typed() -> dict[str, str]:
    """The text of each field that was shown; a switch that is off sends nothing."""
    kinds = {name: BY_NAME[name].kind for name in _shown()}
    return {
        name: to_text(forms.flag(request.form.get(name, ""))) if kind == "boolean" else request.form.get(name, "")
        for name, kind in kinds.items()
    }


def _differs(name: str, text: str, shown: Value) -> bool:
    try:
        return parse(name, text) != shown
    except BadRequest:
        return True


def _names(given: Sequence[str]) -> list[str]:
    """The named settings, else all that were saved. Raises BadRequest for a name that no setting has."""
    live = http.services().live_settings
    for name in given:
        if name not in BY_NAME:
            raise BadRequest(f"There is no setting named {name[:64]!r}.", param="name")
    return list(dict.fromkeys(given)) or [row.name for row in SETTINGS if live.source(row.name) == "saved"]


# -- what the page shows -----------------------------------------------------------------------------


def _page() -> Response:
    query, changed_only = request.args.get("q", "")[:MAX_QUERY_CHARS], request.args.get("changed") == "true"
    lines = [_line(row) for row in SETTINGS]
    lines = [line for line in lines if _is_found(line, query) and (line.changed or not changed_only)]
    return _show(lines, query=query, changed_only=changed_only)


def _page_again(
    wanted: Mapping[str, str],
    shown: Mapping[str, Value],
    *,
    faults: Mapping[str, str] | None = None,
    theirs: Mapping[str, Value] | None = None,
    status: int,
) -> Response:
    """
    The form as it was sent, nothing of it saved. What this person did not touch shows what is in force by now.

    wanted  -- the texts of what this person changed
    shown   -- what the form showed; still counts as seen, but for `theirs`, which this page tells
    """
    faults, theirs = faults or {}, theirs or {}
    rows = [BY_NAME[name] for name in BY_NAME if name in shown]
    lines = [_line(row, wanted.get(row.name), faults.get(row.name, ""), theirs) for row in rows]
    seen = {name: shown[name] for name in wanted if name not in theirs}
    return _show(lines, seen, faults=faults, theirs=theirs, status=status)


def _show(lines: Sequence[Line], seen: Mapping[str, Value] | None = None, **context: Any) -> Response:
    live = http.services().live_settings
    given: dict[str, Any] = {"faults": {}, "theirs": {}, "query": "", "changed_only": False, **context}
    return show(
        "settings/index.html",
        page="settings",
        groups=[(name, list(some)) for name, some in groupby(lines, key=lambda line: line.row.group)],
        was={line.row.name: line.value for line in lines} | dict(seen or {}),
        changed=sum(getattr(live.current, row.name) != row.default for row in SETTINGS),
        saved=sum(live.source(row.name) == "saved" for row in SETTINGS),
        **given,
    )


def _line(row: Setting, typed: str | None = None, fault: str = "", theirs: Mapping[str, Value] | None = None) -> Line:
    live, others = http.services().live_settings, theirs or {}
    value = getattr(live.current, row.name)
    return Line(
        row=row,
        value=value,
        shown=to_text(value) if typed is None else typed,
        source=live.source(row.name),
        choices=_choices(row, value),
        fault=_without_name(fault, row.name),
        theirs=said(row, others[row.name]) if row.name in others else None,
    )


def _choices(row: Setting, value: Value) -> tuple[tuple[str, str], ...]:
    if row.name == "model_provider":
        names = [*http.services().providers.snapshot.by_name]
        names += [str(value)] if value and value not in names else []
        return (("", "none"), *((name, name) for name in names))
    return tuple((choice, choice) for choice in row.choices)


def _is_found(line: Line, query: str) -> bool:
    haystack = f"{line.row.name} {line.title} {line.row.help} {line.row.group}".lower()
    return all(word in haystack for word in query.lower().split())


def _without_name(fault: str, name: str) -> str:
    sentence = fault.removeprefix(f"{name} ")
    return sentence[:1].upper() + sentence[1:]


def _confirmation(names: Sequence[str], theirs: Mapping[str, Value] | None = None, status: int = 200) -> Response:
    live = http.services().live_settings
    rows: list[dict[str, Any]] = []
    for name in names:
        line, after = _line(BY_NAME[name]), live.unsaved(name)
        if line.source == "saved":
            rows.append({"line": line, "after": said(line.row, after), "same": line.value == after})
    return show(
        "settings/reset.html",
        page="settings",
        status=status,
        rows=rows,
        was={row["line"].row.name: row["line"].value for row in rows},
        theirs=theirs or {},
    )
