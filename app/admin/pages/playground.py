"""
The playground: a chat with any model, in any of the wire formats, and what went over the wire for it.

The page's script sends the call as any caller would. Without it the form shows the same call as a command and as
programs.
"""

from __future__ import annotations

import json
from typing import Any, Final

from flask import Blueprint, Response, request

from app.admin import http
from app.admin.actions import models
from app.admin.api.playground import MAX_BODY_BYTES, address, chat_of
from app.admin.chats import DIALECTS, USER, call_of
from app.admin.overview import demonstration_answers
from app.admin.pages import forms
from app.admin.pages.frame import show
from app.admin.snippets import snippets
from app.context import Services
from app.demo import DEMO_MODELS
from app.errors import BadRequest
from app.providers import DEMO_NAME

bp = Blueprint("playground", __name__, url_prefix="/middleware/playground")

#: More would make the page slow; whoever wants another model types its name.
MAX_OFFERED: Final = 2000
DEMO_MODEL: Final = "demo-fast"


@bp.get("")
def index() -> Response:
    """The empty form; `?dialect=&model=` choose what it begins with."""
    given = {name: request.args[name] for name in ("dialect", "model") if name in request.args}
    dialect = given.get("dialect", "")
    model = given.get("model") or (DEMO_MODEL if demonstration_answers(http.services()) else "")
    return _page({"dialect": dialect if dialect in DIALECTS else "openai_chat", "model": model[:256], "stream": True})


@bp.post("")
def program() -> Response:
    """The call of this chat, as a command and as programs."""
    request.max_content_length = MAX_BODY_BYTES
    names = ("dialect", "model", "system", "max_tokens", "temperature")
    typed: dict[str, Any] = {name: request.form.get(name, "") for name in names}
    typed |= {"message": request.form.get("message", ""), "stream": forms.flag(request.form.get("stream", ""))}
    try:
        chat = chat_of(_values(typed))
    except BadRequest as error:
        fields = {"turns": "message", "text": "message"}
        name = fields.get(error.param or "", error.param or "message")
        return _page(typed, faults={name: forms.plain(error, error.param or "")}, status=error.status)
    call = call_of(chat)
    shown = {"path": call.path, "body": json.dumps(call.body, indent=2, ensure_ascii=False)}
    return _page(typed, call=shown, programs=snippets(chat, address()))


def _values(typed: dict[str, Any]) -> dict[str, Any]:
    """The form as the API would be sent it."""
    values = {name: typed[name] for name in ("dialect", "model", "system", "stream")}
    values["turns"] = [{"role": USER, "text": typed["message"].replace("\r\n", "\n")}]
    values["max_tokens"] = forms.optional(forms.whole_number)(typed["max_tokens"])
    values["temperature"] = forms.optional(forms.number)(typed["temperature"])
    return values


def _page(typed: dict[str, Any], *, status: int = 200, **context: Any) -> Response:
    given = {"faults": {}, "call": None, "programs": None, **context}
    return show(
        "playground/index.html",
        page="playground",
        status=status,
        typed=typed,
        dialects=[(dialect.name, dialect.title) for dialect in DIALECTS.values()],
        offered=_offered(http.services()),
        **given,
    )


def _offered(services: Services) -> list[dict[str, str]]:
    """Models to choose from, as {name, whose, dialects}: what providers said they offer, and the aliases."""
    snapshot = services.providers.snapshot
    found = [
        {"name": alias, "whose": f"alias of {target}", "dialects": ""} for alias, target in snapshot.aliases.items()
    ]
    if demonstration_answers(services):
        found += [{"name": name, "whose": what, "dialects": ""} for name, what in DEMO_MODELS.items()]
    for row in models.offered(services):
        if row["provider"] == DEMO_NAME:
            continue
        entry = snapshot.by_name.get(row["provider"])
        spoken = " ".join(entry.formats) if entry is not None else ""
        found += [{"name": name, "whose": row["provider"], "dialects": spoken} for name in row["models"]]
    return found[:MAX_OFFERED]
