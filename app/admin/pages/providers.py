"""The page of providers: where requests may go, whether they answer there, and the forms that change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import providers as actions
from app.admin.pages import editing, forms
from app.admin.pages.forms import Form
from app.admin.pages.frame import done, fragment, is_htmx, show
from app.errors import BadRequest, Conflict
from app.model_offers import Offer
from app.providers import BY_NAME as KINDS
from app.providers import Kind

bp = Blueprint("providers", __name__, url_prefix="/middleware/providers")

HOME: Final = "/middleware/providers"
FORMATS: Final = {
    "openai_chat": "OpenAI chat",
    "openai_responses": "OpenAI Responses",
    "anthropic_messages": "Anthropic Messages",
    "gemini": "Gemini",
}
_LINE_BY_LINE: Final = "Write one on each line, as name: value."
_MODELS_HELP: Final = (
    "One pattern on each line, such as gpt-5*. A provider with patterns of its own serves these models only;"
    " empty is the kind's own."
)
_READERS: Final[Mapping[str, forms.Reader]] = {
    "name": forms.text,
    "kind": forms.text,
    "base_url": forms.text,
    "models": forms.lines,
    "headers": forms.pairs,
    "query": forms.pairs,
    "priority": forms.whole_number,
    "enabled": forms.flag,
}
_NEW: Final = {"name": "", "base_url": "", "models": "", "headers": "", "query": "", "priority": "100"}


# -- the list ----------------------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """A card for each provider."""
    return show("providers/index.html", page="providers", **_listed())


@bp.get("/list")
def cards() -> Response:
    """The cards alone, for their updates."""
    return fragment("providers/_list.html", **_listed())


def _listed() -> dict[str, Any]:
    return {"rows": [_card(row) for row in actions.listed(http.services())], "kinds": KINDS, "formats": FORMATS}


def _card(row: dict[str, Any]) -> dict[str, Any]:
    known = http.services().providers.snapshot.by_name.get(row["name"])
    offer = None if known is None else http.services().model_offers.known(known)
    trouble, needs_key = _trouble(row)
    tested = None if offer is None else _tested(row["name"], offer)
    return row | {"trouble": trouble, "needs_key": needs_key, "tested": tested}


def _trouble(row: dict[str, Any]) -> tuple[str, bool]:
    """Why no request goes to a provider that is switched on, and whether a key would mend it."""
    keys = row["keys"]
    if row["effective"] is None:
        return "This version does not know its kind, and leaves it out.", False
    if not row["effective"]["base_url"]:
        return "It has no base URL, so no request can go there.", False
    if not row["enabled"] or keys["Healthy"]:
        return "", False
    if keys["Resting"]:
        return "All its usable keys rest; requests are answered with 429 until one wakes.", False
    if keys["Disabled"]:
        return "All its keys are disabled, so no request goes there.", True
    return "It has no key, so no request goes there.", True


def _tested(name: str, offer: Offer) -> dict[str, Any]:
    return actions.tested(http.services(), name, offer) | {"asked_at": offer.asked_at}


@bp.post("/<name>/test")
def test(name: str) -> AnyResponse:
    """Ask it for its models with one of its keys; shows what came back."""
    found = _tested(name, actions.test(http.services(), name))
    if is_htmx():
        return fragment("providers/_test.html", tested=found)
    words = f"It offers {found['models']} models." if found["ok"] else found["message"]
    return done(f"{name}: {words}", f"{HOME}#provider-{name}", level="good" if found["ok"] else "bad")


@bp.post("/<name>/enable")
def enable(name: str) -> AnyResponse:
    """Let requests go there."""
    actions.update(http.services(), name, {"enabled": True})
    return done(f"{name} is switched on.", HOME)


@bp.post("/<name>/disable")
def disable(name: str) -> AnyResponse:
    """Send no request there."""
    actions.update(http.services(), name, {"enabled": False})
    return done(f"{name} is switched off: no request goes there.", HOME)


# -- adding and changing -----------------------------------------------------------------------------


@bp.get("/new")
def new() -> Response:
    """First the kind, then the form for it."""
    kind = KINDS.get(request.args.get("kind", ""))
    if kind is None:
        return show("providers/kinds.html", page="providers", kinds=[_told(each) for each in KINDS.values()])
    taken = http.services().providers.snapshot.by_name
    free = (name for name in (kind.name, *(f"{kind.name}-{number}" for number in range(2, 100))) if name not in taken)
    form = Form(typed={**_NEW, "name": next(free, ""), "kind": kind.name, "enabled": "true"})
    return _form(form, kind, chosen=[])


@bp.post("/new")
def create() -> AnyResponse:
    """Add a provider."""
    form = _read(("name", "kind", "base_url", "models", "headers", "query", "priority", "enabled"))
    if not form.faults:
        try:
            made = actions.create(http.services(), form.values)
        except (BadRequest, Conflict) as error:
            field = "name" if isinstance(error, Conflict) else error.param or ""
            form.faults[field if field in form.typed else ""] = forms.plain(error, field)
        else:
            return done(f"{made['name']} is added. It serves requests as soon as it has a key.", HOME)
    kind = KINDS.get(form.typed["kind"])
    if kind is None:
        raise BadRequest("There is no such kind of provider.", param="kind")
    return _form(form, kind, chosen=form.values.get("formats", []), status=422)


@bp.get("/<name>/edit")
def edit(name: str) -> Response:
    """The form with what is there."""
    row = http.services().providers.get(name)
    return _form(Form(typed=_typed(row)), _kind_of(row), shown=row, was=_was(row), chosen=row["formats"])


@bp.post("/<name>/edit")
def update(name: str) -> AnyResponse:
    """Save what was changed."""
    row = http.services().providers.get(name)
    form = _read(("kind", "base_url", "models", "headers", "query", "priority", "enabled"))
    status, was = editing.save(
        form,
        forms.was(),
        lambda changes, expected: actions.update(http.services(), name, changes, expected),
    )
    if status == 200:
        return done(f"{name} is saved.", HOME)
    kind = KINDS.get(form.typed["kind"], _kind_of(row))
    return _form(form, kind, shown=row, was=was, chosen=form.values.get("formats", []), status=status)


def _form(
    form: Form,
    kind: Kind,
    *,
    chosen: list[str],
    shown: dict[str, Any] | None = None,
    was: dict[str, Any] | None = None,
    status: int = 200,
) -> Response:
    return show(
        "providers/form.html",
        page="providers",
        status=status,
        form=form,
        problem=form.faults.get("", ""),
        kind=_told(kind),
        kind_choices=[(each.name, each.title) for each in KINDS.values()],
        formats=FORMATS,
        chosen=chosen,
        shown=shown,
        was=was or {},
        models_help=_MODELS_HELP,
        action=HOME + "/new" if shown is None else f"{HOME}/{shown['name']}/edit",
    )


def _read(names: tuple[str, ...]) -> Form:
    form = forms.read({name: (_READERS[name], actions.FIELDS[name]) for name in names})
    for name in ("headers", "query"):
        if name in form.faults and isinstance(forms.pairs(form.typed[name]), str):
            form.faults[name] = _LINE_BY_LINE
    form.values["formats"] = [name for name in request.form.getlist("formats") if name in FORMATS]
    return form


def _typed(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "kind": row["kind"],
        "base_url": row["base_url"],
        "models": "\n".join(row["models"]),
        "headers": "\n".join(f"{name}: {value}" for name, value in row["headers"].items()),
        "query": "\n".join(f"{name}: {value}" for name, value in row["query"].items()),
        "priority": str(row["priority"]),
        "enabled": "true" if row["enabled"] else "",
    }


def _was(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*_typed(row), "formats")}


def _kind_of(row: Mapping[str, Any]) -> Kind:
    kind = KINDS.get(row["kind"])
    if kind is None:
        raise Conflict(f"This version does not know the kind {row['kind']!r}.")
    return kind


def _told(kind: Kind) -> dict[str, Any]:
    """A kind as the forms explain it."""
    shown = ("name", "title", "about", "address", "example", "base_url", "models")
    spoken = " and ".join(FORMATS[name] for name in kind.formats)
    return {name: getattr(kind, name) for name in shown} | {"spoken": spoken}


# -- deleting ----------------------------------------------------------------------------------------


@bp.get("/<name>/delete")
def ask_to_delete(name: str) -> Response:
    """What goes with it, and the button."""
    return _deletion(name)


@bp.post("/<name>/delete")
def delete(name: str) -> AnyResponse:
    """Remove it."""
    try:
        actions.delete(http.services(), name)
    except Conflict as error:
        return _deletion(name, str(error), error.status)
    return done(f"{name} is deleted.", HOME)


def _deletion(name: str, problem: str = "", status: int = 200) -> Response:
    services = http.services()
    row = services.providers.get(name)
    aliases = [alias for alias, target in services.providers.aliases().items() if target.startswith(name + "/")]
    return show(
        "providers/delete.html",
        page="providers",
        status=status,
        row=row,
        problem=problem,
        aliases=aliases,
        key_count=sum(services.keys.states().get(name, {}).values()),
        is_default=services.live_settings.current.model_provider == name,
    )
