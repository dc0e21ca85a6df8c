"""The page of models: what providers offer, and what would happen to a request for a model."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import clients as client_actions
from app.admin.actions import models as actions
from app.admin.actions import routing
from app.admin.api.routing import DEFAULT_PATH, FIELDS
from app.admin.pages import paging
from app.admin.pages.forms import plain
from app.admin.pages.frame import done, fragment, is_htmx, show
from app.admin.pages.providers import FORMATS
from app.errors import BadRequest, NotFound
from app.price_store import PriceList

bp = Blueprint("models", __name__, url_prefix="/middleware/models")

HOME: Final = "/middleware/models"
FEW: Final = 10
#: A list that is older is asked for again when somebody looks.
STALE_S: Final = 86400.0
MAX_SUGGESTIONS: Final = 1000
_MILLION: Final = 1_000_000

#: What the route explainer asks about: name -> (words, path).
CALLS: Final = {
    "openai_chat": ("OpenAI chat completions", "/v1/chat/completions"),
    "openai_responses": ("OpenAI Responses", "/v1/responses"),
    "anthropic_messages": ("Anthropic messages", "/v1/messages"),
    "gemini": ("Gemini generateContent", "/v1beta/models/{model}:generateContent"),
    "gemini_stream": ("Gemini streamGenerateContent", "/v1beta/models/{model}:streamGenerateContent"),
    "embeddings": ("OpenAI embeddings", "/v1/embeddings"),
}


# -- what providers offer ----------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """The models of every provider, or of one, whose names have `q` in them."""
    query, provider = paging.query(), request.args.get("provider", "")
    rows = actions.offered(http.services())
    names = [row["provider"] for row in rows]
    wanted = [row for row in rows if provider in ("", row["provider"])]
    prices = http.services().prices.price_list()
    views = [_offer(row, query, prices, paged=provider == row["provider"]) for row in wanted]
    return show("models/index.html", page="models", rows=views, q=query, provider=provider, names=names)


@bp.post("/refresh")
def refresh() -> AnyResponse:
    """Ask every provider again."""
    actions.refresh(http.services())
    rows = actions.offered(http.services())
    failed = [row["provider"] for row in rows if not row["ok"] and row["asked_at"]]
    words = f"Asked {len(rows)} providers." + (f" No list came from {', '.join(failed)}." if failed else "")
    return done(words, HOME, level="warn" if failed else "good")


@bp.post("/offered/<name>")
def ask(name: str) -> AnyResponse:
    """Ask one provider; shows its part of the page."""
    actions.refresh(http.services(), name)
    row = next((row for row in actions.offered(http.services()) if row["provider"] == name), None)
    if row is None:
        raise NotFound(f"The provider {name!r} is switched off.")
    query = paging.QUERY("q", request.form.get("q", ""))
    if is_htmx():
        view = _offer(row, query, http.services().prices.price_list())
        return fragment("models/_offer.html", row=view, q=query)
    words = f"It offers {len(row['models'])} models." if row["ok"] else row["message"]
    return done(f"{name}: {words}", f"{HOME}#offer-{name}", level="good" if row["ok"] else "bad")


def _offer(row: dict[str, Any], query: str, prices: PriceList, *, paged: bool = False) -> dict[str, Any]:
    """One provider's part of the page."""
    services, provider = http.services(), row["provider"]
    called = _aliases(provider)
    found = paging.matching(row["models"], query, lambda name: " ".join([name, *called.get(name, ())]))
    page = paging.paged(found, HOME, provider=provider, q=query) if paged else None
    shown = found[:FEW] if page is None else page.rows
    stale = row["asked_at"] is None or services.clock.wall() - row["asked_at"] > STALE_S
    return row | {
        "ask_now": stale and services.keys.has_keys(provider),
        "total": len(row["models"]),
        "found": len(found),
        "shown": [_model(name, called, prices) for name in shown],
        "page": page,
    }


def _model(name: str, called: dict[str, list[str]], prices: PriceList) -> dict[str, Any]:
    return {
        "name": name,
        "aliases": called.get(name, []),
        "input": prices.cost(name, _MILLION, 0, 0),
        "output": prices.cost(name, 0, _MILLION, 0),
    }


def _aliases(provider: str) -> dict[str, list[str]]:
    """The aliases of each model of this provider."""
    found: dict[str, list[str]] = {}
    for alias, target in http.services().providers.aliases().items():
        found.setdefault(target.removeprefix(provider + "/"), []).append(alias)
    return found


def suggestions() -> list[str]:
    """Names of models for a field to choose from: those offered, with their provider, and the aliases."""
    rows = actions.offered(http.services())
    names = [f"{row['provider']}/{name}" for row in rows for name in row["models"]]
    return [*http.services().providers.aliases(), *names][:MAX_SUGGESTIONS]


# -- the route explainer -----------------------------------------------------------------------------


@bp.get("/route")
def route() -> Response:
    """The form; with a model or a path, what would happen to such a request."""
    typed = {name: request.args.get(name, "") for name in ("model", "call", "path", "client")}
    typed["call"] = typed["call"] if typed["call"] in CALLS else next(iter(CALLS))
    faults: dict[str, str] = {}
    found = _explained(typed, faults) if typed["model"] or typed["path"] else None
    services = http.services()
    clients = [("", "Anybody who may"), *((str(row["id"]), row["name"]) for row in services.clients.list())]
    return show(
        "models/route.html",
        page="models",
        status=422 if faults else 200,
        typed=typed,
        faults=faults,
        calls=[(name, words) for name, (words, _) in CALLS.items()],
        clients=clients,
        found=found,
        door=client_actions.door(services),
        strategy=services.live_settings.current.failover_strategy.replace("_", " "),
        formats=FORMATS,
        suggestions=suggestions(),
    )


def _explained(typed: dict[str, str], faults: dict[str, str]) -> dict[str, Any] | None:
    path = typed["path"] or CALLS[typed["call"]][1].replace("{model}", typed["model"]) or DEFAULT_PATH
    given = {"model": typed["model"], "path": path, "client": typed["client"]}
    wanted: dict[str, Any] = {}
    for name, value in given.items():
        try:
            if value:
                wanted[name] = FIELDS[name](name, value)
        except BadRequest as error:
            faults[name] = plain(error, name)
    if faults:
        return None
    try:
        return routing.explain(http.services(), wanted.get("model"), path, wanted.get("client"))
    except NotFound:
        faults["client"] = "There is no such client any more."
        return None
