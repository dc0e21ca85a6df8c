"""The page of aliases: names that callers may use, and the models behind them. Each is changed by itself."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import models as actions
from app.admin.pages import editing, forms, paging
from app.admin.pages.forms import Form
from app.admin.pages.frame import done, show
from app.admin.pages.models import suggestions
from app.errors import BadRequest, ChangedMeanwhile, NotFound

bp = Blueprint("aliases", __name__, url_prefix="/middleware/models/aliases")

HOME: Final = "/middleware/models/aliases"
_FIELDS: Final = {"alias": (forms.text, actions.ALIAS), "target": (forms.text, actions.TARGET)}
_PATH: Final = "/v1/chat/completions"


@bp.get("")
def index() -> Response:
    """All aliases, and the form for another."""
    return _list(Form(typed={"alias": "", "target": ""}))


@bp.post("")
def add() -> AnyResponse:
    """Add one; a name that is taken is told with what it stands for."""
    form = forms.read(_FIELDS)
    if not form.faults:
        try:
            _change({form.values["alias"]: form.values["target"]}, {form.values["alias"]: None})
        except ChangedMeanwhile as error:
            form.faults["alias"] = f"There is this alias already; it stands for {editing.said(*error.now.values())}."
        except BadRequest as error:
            form.faults["target"] = str(error)
        else:
            return done(f"{form.values['alias']} now stands for {form.values['target']}.", HOME)
    return _list(form, 422)


@bp.get("/edit")
def edit() -> Response:
    """The form for one."""
    alias, target = _one()
    return _form(alias, Form(typed={"alias": alias, "target": target}), {"alias": alias, "target": target})


@bp.post("/edit")
def update() -> AnyResponse:
    """Save another name, another target, or both."""
    alias = request.args.get("alias", "")
    form, was = forms.read(_FIELDS), forms.was()
    if form.faults:
        return _form(alias, form, was, 422)
    name, target = form.values["alias"], form.values["target"]
    expected: dict[str, str | None] = {alias: was["target"]} if "target" in was else {}
    changes: dict[str, str | None] = {name: target}
    if name != alias:
        changes[alias] = None
        expected[name] = None
    try:
        _change(changes, expected)
    except ChangedMeanwhile as error:
        if alias in error.now:
            form.faults["target"] = editing.conflict(error.now[alias])  # nothing: it was deleted
            was = {**was, "target": error.now[alias]}
        else:
            form.faults["alias"] = f"There is this alias already; it stands for {editing.said(error.now[name])}."
        return _form(alias, form, was, error.status)
    except BadRequest as error:
        form.faults["target"] = str(error)
        return _form(alias, form, was, 422)
    return done(f"{name} now stands for {target}.", HOME)


@bp.get("/delete")
def ask_to_delete() -> Response:
    """What goes with it, and the button."""
    alias, target = _one()
    return _deletion(alias, target)


@bp.post("/delete")
def delete() -> AnyResponse:
    """Remove one, as it was when this person looked at it."""
    alias, target = _one()
    was = forms.was()
    try:
        _change({alias: None}, {alias: was["target"]} if "target" in was else {})
    except ChangedMeanwhile as error:
        return _deletion(alias, target, f"Somebody else has just changed it to {target}.", error.status)
    return done(f"The alias {alias} is deleted.", HOME)


def _change(changes: dict[str, str | None], expected: dict[str, str | None]) -> None:
    actions.change_aliases(http.services(), changes, expected)


def _one() -> tuple[str, str]:
    """The alias that the address names, with its target. Raises NotFound."""
    alias = request.args.get("alias", "")
    target = http.services().providers.aliases().get(alias)
    if target is None:
        raise NotFound(f"There is no alias {alias[:80]!r}. Somebody else may have deleted it.")
    return alias, target


def _list(form: Form, status: int = 200) -> Response:
    query = paging.query() if request.method == "GET" else ""
    aliases = sorted(http.services().providers.aliases().items(), key=lambda pair: pair[0].casefold())
    page = paging.paged(paging.matching(aliases, query, " ".join), HOME, q=query)
    return show(
        "models/aliases.html",
        page="models",
        status=status,
        rows=[_row(alias, target) for alias, target in page.rows],
        paged=page,
        total=len(aliases),
        q=query,
        form=form,
        suggestions=suggestions(),
    )


def _row(alias: str, target: str) -> dict[str, Any]:
    found = http.services().routes.explain(alias, _PATH)
    error = found["error"]
    if error is not None and error["code"] == "dialect_not_spoken":  # by others than this path's format
        error = None
    leads_to = [candidate["provider"] for candidate in found["candidates"]] or ["a provider of another format"]
    return {"alias": alias, "target": target, "leads_to": leads_to, "trouble": error["message"] if error else ""}


def _form(alias: str, form: Form, was: dict[str, Any], status: int = 200) -> Response:
    context = {"alias": alias, "form": form, "was": was, "suggestions": suggestions(), "problem": ""}
    return show("models/alias.html", page="models", status=status, **context)


def _deletion(alias: str, target: str, problem: str = "", status: int = 200) -> Response:
    return show(
        "models/delete.html",
        page="models",
        status=status,
        title="Delete this alias?",
        name=alias,
        shown=f"stands for {target}.",
        words="Callers who use it get an error from then on, unless a provider has a model of this name.",
        action=f"{HOME}/delete?{urlencode({'alias': alias})}",
        back=HOME,
        was={"target": target},
        problem=problem,
    )
