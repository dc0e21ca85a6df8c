"""What a wire format of the demonstration must be able to do, and the readers that all of them need. Pure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from app.demo.keys import DEMO_MODELS
from app.demo.mind import Json, Prompt, Refusal, Reply

#: An event, or None where a stream waits for the next word.
Events = Iterator[bytes | None]


class Ask(NamedTuple):
    """A request: its JSON body, and the model and the verb where the path names them."""

    body: Json
    model: str | None = None
    verb: str = ""


class Dialect(ABC):
    """One wire format. Instances hold no state."""

    #: Headers that may carry the key, and the sentence that says so.
    key_headers: tuple[str, ...]
    key_hint: str
    #: Other headers without which a request is refused.
    required_headers: tuple[str, ...] = ()

    @abstractmethod
    def prompt(self, ask: Ask) -> Prompt:
        """Read a request. Raises Refusal."""

    @abstractmethod
    def answer(self, prompt: Prompt, reply: Reply) -> Json:
        """The plain answer."""

    @abstractmethod
    def events(self, prompt: Prompt, reply: Reply) -> Events:
        """The streamed answer."""

    @abstractmethod
    def error(self, refusal: Refusal) -> tuple[int, Json]:
        """Status and body of a refusal."""

    @abstractmethod
    def models(self) -> Json:
        """The list of models."""

    @abstractmethod
    def model(self, name: str) -> Json:
        """One entry of that list."""


def known_model(value: Any) -> str:
    """Return the model's name. Raises Refusal when it is missing or not one of the demonstration's."""
    if not isinstance(value, str) or not value:
        raise Refusal("bad_request", "`model` is required and must be a string.", "model")
    if value not in DEMO_MODELS:
        raise Refusal(
            "no_model", f"The demonstration has no model {value!r}. It has {', '.join(DEMO_MODELS)}.", "model"
        )
    return value


def objects(value: Any, name: str) -> list[Json]:
    """Return `value` as a list of objects that is not empty. Raises Refusal."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise Refusal("bad_request", f"`{name}` must be a list of objects that is not empty.", name)
    return value


def optional_objects(value: Any, name: str) -> list[Json]:
    """Like `objects`, but missing or empty is an empty list."""
    return objects(value, name) if value else []


def optional_count(value: Any, name: str, least: int = 1) -> int | None:
    """Return a whole number of at least `least`, or None when there is none. Raises Refusal."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refusal("bad_request", f"`{name}` must be a whole number of at least {least}.", name)
    return value


def boolean(value: Any, name: str) -> bool:
    """Return a flag; missing is False. Raises Refusal for anything but true, false and null."""
    if value is not None and not isinstance(value, bool):
        raise Refusal("bad_request", f"`{name}` must be true or false.", name)
    return bool(value)


def schema_of(value: Any) -> Json:
    """A tool's schema; anything that is not an object counts as none."""
    return value if isinstance(value, dict) else {}


def part_texts(content: Any, name: str, key: str = "text") -> str:
    """Return the text of a message's content: a string, null, or a list of parts. Raises Refusal."""
    if content is None or isinstance(content, str):
        return content or ""
    found = [part.get(key) for part in optional_objects(content, name)]
    return "\n".join(text for text in found if isinstance(text, str))


def data_event(obj: Json, newline: str = "\n") -> bytes:
    """One SSE event that only has data."""
    return f"data: {json.dumps(obj)}{newline}{newline}".encode()


def named_event(obj: Json) -> bytes:
    """One SSE event named after the object's `type`."""
    return f"event: {obj['type']}\ndata: {json.dumps(obj)}\n\n".encode()
