"""The page of clients: who may call the proxy, what each may use, what each used, and how the door stands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import clients as actions
from app.admin.chats import DIALECTS, Chat, Turn
from app.admin.overview import demonstration_answers
from app.admin.pages import editing, forms, once, paging
from app.admin.pages.forms import Form
from app.admin.pages.frame import done, fragment, show
from app.admin.pages.welcome import ANY_MODEL, DEMO_MODEL, good_model
from app.admin.snippets import KEY_VARIABLE, snippets
from app.errors import BadRequest
from app.providers import Provider

bp = Blueprint("clients", __name__, url_prefix="/middleware/clients")

HOME: Final = "/middleware/clients"
_EMPTY: Final[Mapping[str, Any]] = {"requests": 0, "tokens_in": 0, "tokens_out": 0, "cost": None}
_A_DAY: Final = timedelta(days=1)
#: The formats of the examples, by those that a provider must speak.
_EXAMPLES: Final = ("openai_chat", "anthropic_messages", "gemini")


# -- the list ----------------------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """How the door stands, and every client with what it used."""
    return show("clients/index.html", page="clients", **_listed())


@bp.get("/list")
def rows() -> Response:
    """The list alone, for its updates."""
    return fragment("clients/_list.html", **_listed())


def _listed() -> dict[str, Any]:
    services = http.services()
    today, month = actions.usage_of_all(services)
    query, clients = paging.query(), services.clients.list()
    page = paging.paged(
        paging.matching(clients, query, lambda row: f"{row['name']} {row['key_prefix']}"), HOME, q=query
    )
    rows = [
        _shown(row) | {"today": today.get(row["id"], _EMPTY), "month": month.get(row["id"], _EMPTY)}
        for row in page.rows
    ]
    without = None if query or page.page < page.pages else month.get(0)
    return {
        "rows": rows,
        "paged": page,
        "total": len(clients),
        "q": query,
        "address": page.address(page.page).replace(HOME, HOME + "/list", 1),
        "without": without,
        "without_today": today.get(0, _EMPTY),
        "door": _door(),
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"state": actions.state_of(row, http.services().clock.wall())}


def _door() -> dict[str, Any]:
    services = http.services()
    door = actions.door(services)
    return {
        "mode": door.mode,
        "required": door.required,
        "follows": door.follows,
        "any": services.clients.any_exist(),
        "exposed": not services.config.is_loopback,
    }


# -- one client --------------------------------------------------------------------------------------


@bp.get("/<client_id>")
def detail(client_id: str) -> Response:
    """What it may, and what it used in the last 30 days."""
    services, identity = http.services(), _identity(client_id)
    row = _shown(services.clients.get(identity))
    usage = actions.usage(services, identity)
    return show("clients/detail.html", page="clients", row=row, usage=usage, charts=_charts(usage), door=_door())


def _charts(usage: dict[str, Any]) -> dict[str, Any]:
    days = usage["days"]

    def column(name: str) -> list[Any]:
        return [day[name] for day in days]

    labels = [day["date"][5:] for day in days]
    answered = {"name": "Answered", "values": column("successes"), "level": "good"}
    failed = {"name": "Failed", "values": column("errors"), "level": "bad"}
    tokens = [{"name": "In", "values": column("tokens_in")}, {"name": "Out", "values": column("tokens_out")}]
    return {
        "requests": {"kind": "bar", "stacked": True, "labels": labels, "series": [answered, failed]},
        "tokens": {"kind": "bar", "stacked": True, "labels": labels, "series": tokens},
    }


# -- making ------------------------------------------------------------------------------------------


@bp.get("/new")
def new() -> Response:
    """The form."""
    return _form(Form(typed={"name": "", "models": "", "scopes": "", "expires_at": "", "active": "true"}))


@bp.post("/new")
def create() -> AnyResponse:
    """Make a client key; the next page shows it, once."""
    form = _read("")
    if not form.values.get("name"):
        form.faults.setdefault("name", "Give it a name: whose key, or which program's?")
    if not form.faults:
        form.values.pop("active", None)
        try:
            client_id, key = actions.create(http.services(), form.values)
        except BadRequest as error:
            forms.blame(form, error)
        else:
            response = done("Client key added.", f"{HOME}/{client_id}/key")
            once.hand_on(response, client_id, key)
            return response
    return _form(form, status=422)


@bp.get("/<client_id>/key")
def key(client_id: str) -> Response:
    """The whole key with programs that use it, the first time; then that it was shown."""
    services, identity = http.services(), _identity(client_id)
    row = services.clients.get(identity)
    token = once.taken(identity)
    address = request.host_url.rstrip("/")
    response = show(
        "clients/key.html",
        page="clients",
        row=row,
        token=token,
        address=address,
        variable=KEY_VARIABLE,
        examples=_examples(row, address) if token else [],
        door=_door(),
    )
    once.forget(response)
    return response


def _examples(row: dict[str, Any], address: str) -> list[dict[str, Any]]:
    """A first call in each format that some provider with a key speaks."""
    services = http.services()
    keyed = [entry for entry in services.providers.snapshot.ordered if entry.enabled]
    keyed = [entry for entry in keyed if services.keys.has_keys(entry.name)]
    found = []
    for dialect in _EXAMPLES:
        entries = [entry for entry in keyed if entry.speaks(dialect)]
        if entries or not keyed:
            chat = Chat(dialect, _model(row, entries), (Turn("user", "Say hello in five words."),), stream=False)
            found.append({"title": DIALECTS[dialect].title, **snippets(chat, address)})
    return found


def _model(row: dict[str, Any], entries: list[Provider]) -> str:
    """A model that the client may use and, where that is known, that one of these providers offers."""
    if not entries and demonstration_answers(http.services()):
        return DEMO_MODEL
    client = actions.caller(row)
    offers = [http.services().model_offers.known(entry) for entry in entries]
    named = [pattern for pattern in row["models"] if not set(pattern) & set("*?[")]
    offered = [name for offer in offers if offer is not None for name in offer.models if client.may_use(name)]
    found = good_model(offered)
    return found if found != ANY_MODEL or not named else named[0]


# -- changing ----------------------------------------------------------------------------------------


@bp.get("/<client_id>/edit")
def edit(client_id: str) -> Response:
    """The form with what is there."""
    row = http.services().clients.get(_identity(client_id))
    return _form(Form(typed=_typed(row)), row, _was(row))


@bp.post("/<client_id>/edit")
def update(client_id: str) -> AnyResponse:
    """Save what was changed; the client's next request meets it."""
    identity, was = _identity(client_id), forms.was()
    row = http.services().clients.get(identity)
    form = _read(_day(was.get("expires_at")))
    if form.typed["expires_at"] == _day(was.get("expires_at")) and "expires_at" in was:
        form.values["expires_at"] = was["expires_at"]  # a day says less than an instant
    if not form.typed["name"].strip():
        form.faults.setdefault("name", "A client needs a name.")
    status, was = editing.save(
        form, was, lambda changes, expected: actions.update(http.services(), identity, changes, expected)
    )
    if status == 200:
        return done(f"{form.values['name']} is saved.", f"{HOME}/{identity}")
    return _form(form, row, was, status)


@bp.post("/<client_id>/activate")
def activate(client_id: str) -> AnyResponse:
    """Let it in again."""
    row = actions.update(http.services(), _identity(client_id), {"active": True})
    return done(f"{row['name']} may call again.", f"{HOME}/{row['id']}")


@bp.post("/<client_id>/deactivate")
def deactivate(client_id: str) -> AnyResponse:
    """Refuse it from now on; it can be let in again."""
    row = actions.update(http.services(), _identity(client_id), {"active": False})
    return done(f"{row['name']} is refused from now on.", f"{HOME}/{row['id']}", level="warn")


@bp.get("/<client_id>/delete")
def ask_to_delete(client_id: str) -> Response:
    """What goes with it, and the button."""
    services = http.services()
    row = services.clients.get(_identity(client_id))
    door = _door()
    opens = door["follows"] and len(services.clients.list()) == 1
    return show("clients/delete.html", page="clients", row=row, opens=opens, door=door)


@bp.post("/<client_id>/delete")
def delete(client_id: str) -> AnyResponse:
    """Remove it for good."""
    services, identity = http.services(), _identity(client_id)
    name = services.clients.get(identity)["name"]
    actions.delete(services, identity)
    door = _door()
    if door["follows"] and not door["any"]:
        return done(f"{name} is deleted. The proxy is open again to programs on this machine.", HOME, level="warn")
    return done(f"{name} is deleted; whoever holds its key is refused.", HOME)


# -- forms -------------------------------------------------------------------------------------------


def _form(
    form: Form, row: Mapping[str, Any] | None = None, was: Mapping[str, Any] | None = None, status: int = 200
) -> Response:
    return show(
        "clients/form.html",
        page="clients",
        status=status,
        form=form,
        row=row,
        was=was or {},
        problem=form.faults.get("", ""),
        door=_door(),
        tomorrow=(datetime.fromtimestamp(http.services().clock.wall(), UTC) + _A_DAY).strftime("%Y-%m-%d"),
        action=HOME + "/new" if row is None else f"{HOME}/{row['id']}/edit",
    )


def _read(kept_day: str) -> Form:
    """
    kept_day  -- the day that the form showed: it may be over
    """
    form = forms.read(
        {
            "name": (forms.text, actions.FIELDS["name"]),
            "models": (forms.lines, actions.FIELDS["models"]),
            "scopes": (forms.lines, actions.FIELDS["scopes"]),
            "expires_at": (forms.optional(_end_of_day), actions.FIELDS["expires_at"]),
            "active": (forms.flag, actions.FIELDS["active"]),
        }
    )
    if "expires_at" in form.faults:
        form.faults["expires_at"] = "Write a day, such as 2026-12-31."
    elif form.typed["expires_at"] != kept_day and (form.values["expires_at"] or 1e12) <= http.services().clock.wall():
        form.faults["expires_at"] = "This day is over. To refuse the client now, switch it off."
    return form


def _end_of_day(text: str) -> float | str:
    """A day as browsers send it -> when it is over in UTC; what is none becomes a text that no check lets pass."""
    try:
        return (datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC) + _A_DAY).timestamp()
    except (ValueError, OverflowError):
        return "not a day"


def _day(expires_at: object) -> str:
    """The last day of a client, in UTC."""
    if not isinstance(expires_at, int | float) or not 0 < expires_at < 250_000_000_000:
        return ""
    return (datetime.fromtimestamp(expires_at, UTC) - timedelta(seconds=1)).strftime("%Y-%m-%d")


def _typed(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": row["name"],
        "models": "\n".join(row["models"]),
        "scopes": "\n".join(row["scopes"]),
        "expires_at": _day(row["expires_at"]),
        "active": "true" if row["active"] else "",
    }


def _was(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("name", "models", "scopes", "expires_at", "active")}


def _identity(client_id: str) -> int:
    return http.identity(client_id, "Client key")
