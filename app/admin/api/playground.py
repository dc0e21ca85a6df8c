"""The playground: a chat in, the call out that it is in the chosen wire format, with programs that make it."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from app.admin import http
from app.admin.actions import playground as actions
from app.admin.chats import ASSISTANT, DIALECTS, USER, Call, Chat, Turn, call_of
from app.admin.snippets import snippets
from app.errors import BadRequest

bp = Blueprint("playground", __name__, url_prefix="/playground")

MAX_TURNS = 500
MAX_TEXT_CHARS = 1_000_000
MAX_BODY_BYTES = 8 * http.MIB


def _prompt(name: str, value: Any) -> str:
    """Text as it is, with spaces and line breaks at both ends: they may be what is tried out."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS or "\0" in value:
        raise http.wrong(name, f"text of at most {MAX_TEXT_CHARS} characters")
    return value.replace("\r\n", "\n")


def _turns(name: str, value: Any) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TURNS:
        raise http.wrong(name, f"a list of 1 to {MAX_TURNS} turns")
    checks = {"role": http.choice(USER, ASSISTANT), "text": _prompt}
    found = []
    for turn in value:
        if not isinstance(turn, dict):
            raise http.wrong(name, "a list of objects with `role` and `text`")
        found.append(Turn(**http.fields(turn, checks, required=("role", "text"))))
    if found[-1].role != USER:
        raise http.wrong(name, "a conversation that ends with a turn of the user")
    return tuple(found)


FIELDS: dict[str, http.Check] = {
    "dialect": http.choice(*DIALECTS),
    "model": http.text(256, min_length=1),
    "turns": _turns,
    "system": _prompt,
    "max_tokens": http.optional(http.integer(1, 10_000_000)),
    "temperature": http.optional(http.number(0, 2)),
    "stream": http.boolean,
}
REQUIRED = ("dialect", "model", "turns")


def chat_of(values: dict[str, Any]) -> Chat:
    """The chat in these fields. Raises BadRequest that names the first one that is wrong."""
    chat = Chat(**http.fields(values, FIELDS, REQUIRED))
    if not chat.turns[-1].text:
        raise BadRequest("Write a message first.", code="invalid_field", param="turns")
    return chat


def address() -> str:
    """Where this server is, as the one who asks sees it."""
    return request.host_url.rstrip("/")


@bp.post("")
def prepare() -> Response:
    """The call that a chat is: `{"path", "body", "key_header", "key_prefix", "snippets"}`. Nothing is sent."""
    chat = chat_of(http.read_object(max_bytes=MAX_BODY_BYTES))
    return http.answer({"success": True, **_shown(call_of(chat)), "snippets": snippets(chat, address())})


@bp.post("/key")
def key() -> Response:
    """`{"key"}` with which the playground calls the proxy; null while the proxy asks for none."""
    http.fields(http.read_object(optional=True), {})
    return http.answer({"success": True, "key": actions.client_key(http.services())})


def _shown(call: Call) -> dict[str, Any]:
    return {
        "method": "POST",
        "path": call.path,
        "body": call.body,
        "key_header": call.key_header,
        "key_prefix": call.key_prefix,
    }
