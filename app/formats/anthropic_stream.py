"""
Anthropic Messages streams: what each event means, and a plain answer and a stream turned into each other.

Refuses nothing: an event that cannot be read counts as output, so that it is passed on and never retried. Truth: the
Messages streaming page of platform.claude.com and the event types of the official SDK.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from typing_extensions import override

from app.formats import json_body, sse
from app.formats.base import Json, Mark, StreamWatcher, Usage

#: HTTP status that an error of this type has when it comes as a plain answer.
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

MESSAGE_STOP = sse.encode(b'{"type":"message_stop"}', "message_stop")

#: The `stop_reason` of an answer that came to its end by itself.
NATURAL_END = "end_turn"
# A delta names itself at once, in its `event` line or, without one, as the first member of its data.
_NAME_WITHIN_BYTES = 64
# Blocks whose input is streamed as JSON text.
_INPUT_BLOCKS = ("tool_use", "server_tool_use", "mcp_tool_use")


def usage_of(usage: object) -> Usage:
    """Return the tokens of a `usage` object, whose own `input_tokens` leaves out what the cache gave or took."""
    if not isinstance(usage, dict):
        return Usage()
    fresh = json_body.count(usage.get("input_tokens"))
    cached = json_body.count(usage.get("cache_read_input_tokens"))
    written = json_body.count(usage.get("cache_creation_input_tokens"))
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=None if fresh is None else json_body.count(fresh + (cached or 0) + (written or 0)),
        output_tokens=json_body.count(usage.get("output_tokens")),
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=json_body.count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )


def container_ids(holder: object) -> list[str]:
    """Return the hint keys of the code execution container that an answer, or a part of it, names."""
    container = holder.get("container") if isinstance(holder, dict) else None
    identifier = container.get("id") if isinstance(container, dict) else container
    return [f"res:{identifier}"] if isinstance(identifier, str) and identifier else []


class AnthropicWatcher(StreamWatcher):
    """
    Holds back `message_start`, early pings and the opening of an empty text block; ends at `message_stop`.

    Deltas after the first are recognised by their name alone: no JSON is parsed for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._natural = False
        self._usage: Json = {}

    @override
    def watch(self, event: bytes) -> Mark:
        if self._begun and event.find(b"content_block_delta", 0, _NAME_WITHIN_BYTES) >= 0:
            return Mark.OUTPUT
        data = sse.data_of(event)
        if not data.strip():
            return Mark.IGNORED
        value = _object(data)
        mark = Mark.OUTPUT if value is None else self._classify(value, data, sse.name_of(event))
        self._begun = self._begun or mark is Mark.OUTPUT or (mark is Mark.FINISH and not self._natural)
        self.state.empty = self._natural and not self._begun and not usage_of(self._usage).counts_output
        return mark

    @override
    def settle(self) -> Usage:
        self.state.usage = usage_of(self._usage)
        return self.state.usage

    def _classify(self, value: Json, data: bytes, name: bytes) -> Mark:
        kind = value.get("type")
        if kind == "error" or name == b"error" or (kind is None and "error" in value):
            self.state.error, self.state.error_status = data, _error_status(value)
            return Mark.ERROR
        if kind == "message_start":
            message = value.get("message")
            if isinstance(message, dict):
                self._learn(message, message.get("usage"))
                return Mark.OUTPUT if message.get("content") else Mark.PROLOGUE
            return Mark.PROLOGUE
        if kind == "message_delta":
            return self._message_delta(value)
        if kind == "message_stop":
            self.state.finished = self.state.terminated = True
            return Mark.TERMINATOR
        early = kind in ("ping", "content_block_stop") or _is_empty_text(value)
        return Mark.PROLOGUE if early and not self._begun else Mark.OUTPUT

    def _message_delta(self, value: Json) -> Mark:
        delta = value.get("delta")
        self._learn(delta, value.get("usage"))
        if isinstance(delta, dict) and delta.get("stop_reason"):
            self.state.finished = True
            self._natural = delta["stop_reason"] == NATURAL_END
            return Mark.FINISH
        return Mark.OUTPUT

    def _learn(self, holder: object, usage: object) -> None:
        """Note the usage (every number is cumulative: the last one counts) and the container."""
        if isinstance(usage, dict):
            self._usage.update((name, number) for name, number in usage.items() if number is not None)
        self.state.resource_ids += [key for key in container_ids(holder) if key not in self.state.resource_ids]


def stream_from_answer(answer: Json) -> bytes:
    """Return the whole stream, `message_stop` included, that says what this plain answer says."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    opening = {
        **answer,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 0},
    }
    opening.pop("stop_details", None)
    events: list[Json] = [{"type": "message_start", "message": opening}]
    for index, block in enumerate(answer.get("content") or ()):
        events += _block_events(index, block)
    ending = {name: answer.get(name) for name in ("stop_reason", "stop_sequence")}
    ending |= {name: answer[name] for name in ("stop_details", "container") if answer.get(name) is not None}
    events.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 0, **usage}})
    return b"".join(sse.encode(json_body.dumps(event), str(event["type"])) for event in events) + MESSAGE_STOP


def answer_from_stream(events: Iterable[bytes]) -> Json | None:
    """Return the message that the events add up to; None where they hold an error, or no beginning or no end."""
    assembly = _Assembly()
    for event in events:
        data = sse.data_of(event)
        if data.strip() and not assembly.add(_object(data)):
            return None
    return assembly.result()


def rename_model(data: bytes, model: str) -> bytes:
    """Return a plain message, or the event that opens a stream, with the model's name replaced; other data as it is."""
    if data.find(b"message_start", 0, _NAME_WITHIN_BYTES) >= 0:
        span = _model_span(data, ("message", "model"))
    elif data.lstrip()[:1] == b"{":
        span = _model_span(data, ("model",))
    else:
        return data
    return data[: span[0]] + json_body.dumps(model) + data[span[1] :] if span else data


class _Assembly:
    """A message put together from the events of its stream."""

    def __init__(self) -> None:
        self._message: Json | None = None
        self._blocks: dict[int, Json] = {}
        # Block -> member -> the texts that its deltas append.
        self._texts: dict[int, dict[str, list[str]]] = {}
        self._stopped = False

    def result(self) -> Json | None:
        """Return the message; None before it is complete."""
        if self._message is None or not (self._stopped or self._message.get("stop_reason")):
            return None
        return {**self._message, "content": [self._closed(index) for index in sorted(self._blocks)]}

    def add(self, value: Json | None) -> bool:
        """Take in one event. False where it cannot be part of a message."""
        kind = value.get("type") if value else None
        if value is None or kind in (None, "error"):
            return False
        if kind == "message_start" and isinstance(value.get("message"), dict):
            self._message = dict(value["message"])
        elif kind == "content_block_start" and isinstance(value.get("content_block"), dict):
            self._blocks[_index(value)] = dict(value["content_block"])
        elif kind == "content_block_delta":
            return self._add_delta(_index(value), value.get("delta"))
        elif kind == "message_delta":
            return self._add_ending(value.get("delta"), value.get("usage"))
        elif kind == "message_stop":
            self._stopped = True
        return True

    def _add_delta(self, index: int, delta: object) -> bool:
        block = self._blocks.get(index)
        if block is None or not isinstance(delta, dict):
            return False
        if delta.get("type") == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
            return True
        texts = self._texts.setdefault(index, {})
        for name, text in delta.items():
            if name != "type" and isinstance(text, str):
                texts.setdefault(name, []).append(text)
        return True

    def _add_ending(self, delta: object, usage: object) -> bool:
        if self._message is None or not isinstance(delta, dict):
            return False
        self._message.update(delta)
        if isinstance(usage, dict):
            known = self._message.get("usage")
            fresh = {name: number for name, number in usage.items() if number is not None}
            self._message["usage"] = {**known, **fresh} if isinstance(known, dict) else fresh
        return True

    def _closed(self, index: int) -> Json:
        block = dict(self._blocks[index])
        texts = {name: "".join(pieces) for name, pieces in self._texts.get(index, {}).items()}
        text = texts.pop("partial_json", "")
        if text.strip():
            # An input that max_tokens cut off is not JSON; keep what there is instead of losing the answer.
            value = _object(text.encode(errors="replace"))
            block["input"] = {"_raw": text} if value is None else value
        for name, addition in texts.items():
            block[name] = str(block.get(name) or "") + addition
        return block


def _block_events(index: int, block: Any) -> list[Json]:
    if not isinstance(block, dict):
        return []
    opening, deltas = _opened(block)
    events = [{"type": "content_block_start", "index": index, "content_block": opening}]
    events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [*events, {"type": "content_block_stop", "index": index}]


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """Return the block as it begins, and the deltas that fill it. A block of another type begins whole."""
    kind = block.get("type")
    if kind == "text":
        citations = block.get("citations")
        opening = {**block, "text": "", **({"citations": []} if citations else {})}
        deltas = [{"type": "citations_delta", "citation": citation} for citation in citations or ()]
        return opening, [{"type": "text_delta", "text": block.get("text") or ""}, *deltas]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block.get("thinking") or ""}]
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind in _INPUT_BLOCKS:
        text = json_body.dumps(block.get("input") or {}).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []


def _error_status(value: Json) -> int:
    error = value.get("error")
    if not isinstance(error, dict):
        return 0
    status = STATUS_OF_TYPE.get(str(error.get("type")), 0)
    code = str(error.get("code") or "")
    if not status and len(code) == 3 and code.isdecimal() and code >= "400":
        return int(code)  # Azure puts the status into `code`
    return status


def says_nothing(content: object) -> bool:
    """Return whether the content of a message is nothing but empty text."""
    return not content or (isinstance(content, list) and all(_is_empty_block(block) for block in content))


def _is_empty_text(value: Json) -> bool:
    """Whether this event opens a block of text, or adds nothing to it."""
    if value.get("type") == "content_block_start":
        return _is_empty_block(value.get("content_block"))
    delta = value.get("delta")
    return isinstance(delta, dict) and delta.get("type") == "text_delta" and not delta.get("text")


def _is_empty_block(block: object) -> bool:
    return (
        isinstance(block, dict) and block.get("type") == "text" and not block.get("text") and not block.get("citations")
    )


def _index(value: Json) -> int:
    index = value.get("index")
    return index if isinstance(index, int) else 0


def _model_span(data: bytes, names: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the string at this path of member names begins and ends."""
    start, end = data.find(b"{"), len(data)
    for name in names:
        found = next((member for member in json_body.members(data[start:end]) if member.name == name), None)
        if start < 0 or found is None:
            return None
        start, end = start + found.start, start + found.end
    return (start, end) if data[start : start + 1] == b'"' else None


def _object(data: bytes) -> Json | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
