"""
First steps: a key, whether it works, who may call, and the first call. For whoever opens the pages for the first time;
each step shows whether it is done, whoever did it and wherever.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import clients, keys
from app.admin.chats import Chat, Turn
from app.admin.overview import demonstration_answers
from app.admin.pages import forms, once
from app.admin.pages.frame import done, fragment, show
from app.admin.pages.keys import usual_provider
from app.admin.pages.words import plural
from app.admin.snippets import KEY_VARIABLE, snippets
from app.context import Services
from app.errors import BadRequest, MiddlewareError, Overloaded
from app.key_tests import KeyTest
from app.usage_queries import RequestFilter

bp = Blueprint("welcome", __name__, url_prefix="/middleware/welcome")

ADDRESS: Final = "/middleware/welcome"

#: (what it is, method, path) of what clients can call.
ENDPOINTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("OpenAI chat completions", "POST", "/v1/chat/completions"),
    ("OpenAI responses", "POST", "/v1/responses"),
    ("OpenAI embeddings", "POST", "/v1/embeddings"),
    ("Anthropic messages", "POST", "/v1/messages"),
    ("Gemini generateContent", "POST", "/v1beta/models/MODEL:generateContent"),
    ("Gemini streamGenerateContent", "POST", "/v1beta/models/MODEL:streamGenerateContent?alt=sse"),
    ("List of models", "GET", "/v1/models"),
)

#: Wire format of a provider -> the dialect of the first example.
_DIALECTS: Final = {"openai": "openai_chat", "anthropic": "anthropic_messages", "gemini": "gemini"}
#: Parts of the names of cheap models that chat, the best first.
_GOOD_MODELS: Final = ("gpt-5-mini", "mini", "haiku", "flash", "small", "gpt", "claude", "gemini", "llama", "chat")
#: Parts of the names of models that do something else.
_OTHER_MODELS: Final = (
    "embed",
    "image",
    "audio",
    "tts",
    "whisper",
    "realtime",
    "moderation",
    "transcribe",
    "search",
    "vision",
)
DEMO_MODEL: Final = "demo-fast"
ANY_MODEL: Final = "YOUR-MODEL"

_KEY_FIELDS: Final = {
    "provider": (forms.text, keys.FIELDS["provider"]),
    "key": (forms.text, keys.FIELDS["key"]),
    "name": (forms.text, keys.FIELDS["name"]),
}
_CLIENT_FIELDS: Final = {"name": (forms.text, clients.FIELDS["name"])}


# -- the page ----------------------------------------------------------------------------------------


@bp.get("")
def index() -> Response:
    """The steps, and which are done."""
    return _page()


@bp.get("/first-call")
def first_call() -> Response:
    """The last step alone: whether a call has come."""
    return fragment("welcome/_call.html", call=_last_call(http.services()))


@bp.post("/key")
def add_key() -> AnyResponse:
    """Add a key, try it with its provider, and say what came of it."""
    form = forms.read(_KEY_FIELDS)
    if form.faults:
        return _page(form=form, status=422)
    values = {name: value for name, value in form.values.items() if value != ""}
    values.setdefault("name", form.values["provider"])
    services = http.services()
    try:
        key_id = keys.add(services, values)
    except BadRequest as error:
        forms.blame(form, error, otherwise="key")
        return _page(form=form, status=422)
    message, level = _tried(services, key_id, form.values["provider"])
    return done(message, ADDRESS, level=level)


@bp.post("/client")
def add_client() -> AnyResponse:
    """Make a client key. The page shows it once, with its examples."""
    form = forms.read(_CLIENT_FIELDS)
    if not form.values.get("name"):
        form.faults.setdefault("name", "Give it a name: whose key, or which program's?")
    if form.faults:
        return _page(client_form=form, status=422)
    client_id, key = clients.create(http.services(), form.values)
    answer = done("Client key made.", f"{ADDRESS}#step-2")
    once.hand_on(answer, client_id, key)
    return answer


def _page(*, status: int = 200, **context: Any) -> Response:
    services = http.services()
    real = keys.real(services)
    address = request.host_url.rstrip("/")
    chat = _first_chat(services, real)
    response = show(
        "welcome/index.html",
        page="welcome",
        status=status,
        keys=real,
        usable=any(item["status"] != "Disabled" for item in real),
        providers=[(entry.name, entry.name) for entry in services.providers.snapshot.ordered if entry.enabled],
        default_provider=usual_provider(),
        door=clients.door(services),
        clients=services.clients.list(),
        demonstration=demonstration_answers(services),
        address=address,
        chat=chat,
        examples=snippets(chat, address),
        key_variable=KEY_VARIABLE,
        endpoints=ENDPOINTS,
        call=_last_call(services),
        client_key=once.taken(),
        **({"form": forms.Form(), "client_form": forms.Form()} | context),
    )
    once.forget(response)
    return response


# -- parts -------------------------------------------------------------------------------------------


def _tried(services: Services, key_id: int, provider: str) -> tuple[str, str]:
    """What the provider says to a new key: (a sentence, the level)."""
    try:
        test = services.key_tests.test(key_id)
    except MiddlewareError as error:
        return f"Key added. It could not be tried: {error}", "warn"
    if test.ok:
        entry = services.providers.snapshot.by_name.get(provider)
        if entry is not None:
            with contextlib.suppress(Overloaded):
                services.model_offers.ask(entry)  # for the examples
        offer = f" and offers {plural(test.models, 'model')}" if test.models else ""
        return f"Key added: {provider} accepts it{offer}.", "good"
    return f"Key added, but it did not work: {_reason(test)}", "bad"


def _reason(test: KeyTest) -> str:
    said = test.message or test.reason.replace("_", " ")
    return f"{said} (status {test.status})" if test.status else said


def _first_chat(services: Services, real: list[dict[str, Any]]) -> Chat:
    """A chat that the first usable key can answer."""
    turns = (Turn("user", "Say hello in five words."),)
    first = next((item for item in real if item["status"] == "Healthy"), real[0] if real else None)
    if first is None:
        model = DEMO_MODEL if demonstration_answers(services) else ANY_MODEL
        return Chat("openai_chat", model, turns, stream=False)
    entry = services.providers.snapshot.by_name.get(first["provider"])
    offer = services.model_offers.known(entry) if entry is not None else None
    spoken = next(
        (name for name in (entry.formats if entry is not None else ()) if name.split("_")[0] in _DIALECTS), ""
    )
    dialect = _DIALECTS.get(spoken.split("_")[0], "openai_chat")
    return Chat(dialect, good_model(offer.models if offer is not None else ()), turns, stream=False)


def good_model(names: tuple[str, ...] | list[str]) -> str:
    """A cheap model that chats, by its name; `YOUR-MODEL` where none is known."""
    chats = [name for name in names if not any(part in name.lower() for part in _OTHER_MODELS)]
    ranked = ((part, name) for part in _GOOD_MODELS for name in chats if part in name.lower())
    return next((name for _, name in ranked), chats[0] if chats else ANY_MODEL)


def _last_call(services: Services) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = services.usage_queries.list_requests(RequestFilter(limit=1))["requests"]
    return found[0] if found else None
