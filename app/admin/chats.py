"""
A chat that a person put together, and the call that it is in each wire format. Pure.

Only what was asked for is sent: a knob that was left empty is not in the body. Anthropic needs a limit of tokens, so it
gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

Json = dict[str, Any]

USER, ASSISTANT = "user", "assistant"
ANTHROPIC_MAX_TOKENS: Final = 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """`role` is `user` or `assistant`."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """
    dialect      -- name of a row of `DIALECTS`
    turns        -- oldest first, the last one is the user's
    max_tokens, temperature -- None leaves them to the model
    """

    dialect: str
    model: str
    turns: tuple[Turn, ...]
    system: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A POST; the client key goes into the header `key_header`, after `key_prefix`."""

    path: str
    body: Json
    key_header: str
    key_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format as people choose it."""

    name: str
    title: str
    call: Callable[[Chat], Call]


def call_of(chat: Chat) -> Call:
    """The call that `chat` is."""
    return DIALECTS[chat.dialect].call(chat)


def given(**values: Any) -> Json:
    """Those of the values that are there: neither None nor empty text."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def _messages(chat: Chat) -> list[Json]:
    return [{"role": turn.role, "content": turn.text} for turn in chat.turns]


def _openai_chat(chat: Chat) -> Call:
    system = [{"role": "system", "content": chat.system}] if chat.system else []
    body: Json = {"model": chat.model, "messages": system + _messages(chat)}
    body |= given(max_completion_tokens=chat.max_tokens, temperature=chat.temperature)
    if chat.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Call("/v1/chat/completions", body, "Authorization", "Bearer ")


def _openai_responses(chat: Chat) -> Call:
    body: Json = {"model": chat.model, **given(instructions=chat.system), "input": _messages(chat)}
    body |= given(max_output_tokens=chat.max_tokens, temperature=chat.temperature, stream=chat.stream or None)
    return Call("/v1/responses", body, "Authorization", "Bearer ")


def _anthropic_messages(chat: Chat) -> Call:
    body: Json = {"model": chat.model, "max_tokens": chat.max_tokens or ANTHROPIC_MAX_TOKENS}
    body |= given(system=chat.system)
    body |= {"messages": _messages(chat), **given(temperature=chat.temperature, stream=chat.stream or None)}
    return Call("/v1/messages", body, "x-api-key")


def _gemini(chat: Chat) -> Call:
    verb = "streamGenerateContent?alt=sse" if chat.stream else "generateContent"
    body: Json = {"systemInstruction": {"parts": [{"text": chat.system}]}} if chat.system else {}
    body["contents"] = gemini_contents(chat)
    knobs = given(maxOutputTokens=chat.max_tokens, temperature=chat.temperature)
    if knobs:
        body["generationConfig"] = knobs
    return Call(f"/v1beta/models/{quote(chat.model, safe='/:@+')}:{verb}", body, "x-goog-api-key")


def gemini_contents(chat: Chat) -> list[Json]:
    """The turns as Gemini names them."""
    roles = {USER: "user", ASSISTANT: "model"}
    return [{"role": roles[turn.role], "parts": [{"text": turn.text}]} for turn in chat.turns]


DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai_chat", "OpenAI chat completions", _openai_chat),
        Dialect("openai_responses", "OpenAI Responses", _openai_responses),
        Dialect("anthropic_messages", "Anthropic messages", _anthropic_messages),
        Dialect("gemini", "Gemini generateContent", _gemini),
    )
}
