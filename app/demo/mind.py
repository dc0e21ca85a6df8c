"""
What the demonstration says, apart from any wire format: a prompt in, a reply out. Pure.

Tokens are counted as words and signs: not what a model counts, but the same everywhere, so that sums can be checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from app.demo.keys import ECHO_MODEL, TOOLS_MODEL

Json = dict[str, Any]

MARK = "This is the demonstration upstream; no model was called."
HELP = (
    "It answers in every wire format, so that clients, streaming, tools and the rotation of keys can be tried. "
    "Add a key of a real provider to talk to a model."
)
_MAX_QUOTED = 400
_MAX_DEPTH = 6
_EMPTY_TEXT = "(nothing)"
#: What a tool's argument becomes when its schema names no value.
_EXAMPLES: Json = {"string": "demonstration", "integer": 1, "number": 1.0, "boolean": True, "null": None}


class Refusal(Exception):
    """A request that is not served. The dialects give it their own shape; `kind` picks status and code there."""

    def __init__(self, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.param = kind, message, param


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the request offers. `schema` is the JSON schema of its arguments."""

    name: str
    schema: Json


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    A request, as far as the demonstration cares.

    text         -- the last user text
    tool_result  -- what a tool answered, when that is the last thing in the conversation
    tool_choice  -- `auto`, `none`, `required`, or the name of a tool
    max_tokens   -- None = no limit
    """

    model: str
    text: str
    input_tokens: int
    stream: bool = False
    include_usage: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    tool_result: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: Json

    @property
    def written(self) -> str:
        """The arguments as a JSON string."""
        return json.dumps(self.arguments)


@dataclass(frozen=True, slots=True)
class Reply:
    """
    id         -- hex digits, for the ids of the answer
    created    -- Unix seconds
    words      -- the text, cut where a stream is cut
    call       -- a tool call instead of text
    truncated  -- `max_tokens` cut the text
    """

    id: str
    created: int
    words: tuple[str, ...]
    call: ToolCall | None
    input_tokens: int
    output_tokens: int
    truncated: bool = False

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def compose(prompt: Prompt, reply_id: str, created: int) -> Reply:
    """Return what to answer."""
    call = _call(prompt)
    if call is not None:
        return Reply(reply_id, created, (), call, prompt.input_tokens, count_tokens(call.name + call.written))
    words = split_words(_text(prompt))
    kept = words[: prompt.max_tokens] if prompt.max_tokens is not None else words
    tokens = sum(map(count_tokens, kept))
    return Reply(reply_id, created, kept, None, prompt.input_tokens, tokens, truncated=len(kept) < len(words))


def _text(prompt: Prompt) -> str:
    if prompt.tool_result is not None:
        return f"{MARK} The tool answered: {prompt.tool_result[:_MAX_QUOTED]}"
    if prompt.model == ECHO_MODEL:
        return prompt.text or _EMPTY_TEXT
    return f"{MARK} You said: {prompt.text[:_MAX_QUOTED] or _EMPTY_TEXT} -- {HELP}"


def _call(prompt: Prompt) -> ToolCall | None:
    if not prompt.tools or prompt.tool_choice == "none" or prompt.tool_result is not None:
        return None
    asked = [tool for tool in prompt.tools if tool.name == prompt.tool_choice]
    named = [tool for tool in prompt.tools if tool.name in prompt.text]
    wanted = asked or named
    if not wanted and prompt.model != TOOLS_MODEL and prompt.tool_choice != "required":
        return None
    tool = (wanted or prompt.tools)[0]
    arguments = example(tool.schema, tool.schema)
    return ToolCall(tool.name, arguments if isinstance(arguments, dict) else {})


def example(schema: Any, root: Json, depth: int = 0) -> Any:
    """Return a value that fits a JSON schema: its own example where it has one, else a plain value of its type."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return _EXAMPLES["string"]
    for name in ("const", "default", "example"):
        if name in schema:
            return schema[name]
    for name in ("enum", "examples"):
        if isinstance(schema.get(name), list) and schema[name]:
            return schema[name][0]
    if isinstance(schema.get("$ref"), str):
        return example(_resolve(schema["$ref"], root), root, depth + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list) and schema[name]:
            return example(schema[name][0], root, depth + 1)
    return _plain(schema, root, depth)


def _plain(schema: Json, root: Json, depth: int) -> Any:
    kind = _type(schema)
    if kind == "object":
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = required if isinstance(required, list) and required else list(properties)
        return {name: example(properties.get(name), root, depth + 1) for name in names if isinstance(name, str)}
    if kind == "array":
        least = schema.get("minItems")
        count = min(least, 10) if isinstance(least, int) else 1
        return [example(schema.get("items"), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number") and isinstance(schema.get("minimum"), int | float):
        return schema["minimum"]
    return _EXAMPLES.get(kind, _EXAMPLES["string"])


def _type(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if not isinstance(kind, str):
        return "object" if "properties" in schema else "string"
    return kind.lower()  # Gemini writes OBJECT, STRING ...


def _resolve(reference: str, root: Json) -> Any:
    found: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def split_words(text: str) -> tuple[str, ...]:
    """`text` in words, each with the space that follows it."""
    return tuple(re.findall(r"^\s+|\S+\s*", text))


def count_tokens(text: str) -> int:
    """Words and signs in `text`."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def texts(value: Any) -> str:
    """Every string value inside `value`, joined: what the input tokens are counted over."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join(texts(item) for item in value.values())
    if isinstance(value, list):
        return " ".join(texts(item) for item in value)
    return ""


def vector(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    digest = hashlib.shake_256(text.encode("utf-8", "replace")).digest(dimensions)
    raw = [byte / 127.5 - 1.0 for byte in digest]
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    return [number / length for number in raw]
