"""
The Anthropic Messages wire format: its URLs, how a request is read, how answers and errors look.

Refuses what no Messages call can be: no `model`, no `messages`, a `stream` that is not a boolean, the body of another
API. Everything else is the provider's to judge. Truth: the API reference on platform.claude.com and the official SDK.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from typing_extensions import override

from app.errors import AllKeysResting, BadRequest, InvalidMessages, MiddlewareError, NoKeys
from app.formats import anthropic_stream, json_body, sse
from app.formats.base import (
    EMPTY_ANSWER,
    Call,
    Edits,
    Endpoint,
    Format,
    Json,
    Match,
    Operation,
    SessionHint,
    StreamWatcher,
    Usage,
)
from app.formats.json_body import Names
from app.formats.paths import MODEL, RESOURCE_ID

_COLLECTIONS = "messages/batches|files|skills|agents|sessions|environments|vaults|memory_stores|user_profiles|tunnels"
_RESOURCE = re.compile(rf"^/v1/(?:{_COLLECTIONS})/({RESOURCE_ID})")
_SESSION_HEADERS = (
    "x-claude-code-session-id",
    "x-session-id",
    "x-claude-session-id",
    "x-claude-session",
    "x-claude-conversation-id",
    "anthropic-session-id",
)
_FILE_ID = re.compile(rb'"file_id"\s*:\s*"([^"\\]{1,200})"')
_MAX_MODEL_CHARACTERS = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_SEARCHED_BYTES = 1024 * 1024

_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    # Ours for what the provider calls 529.
    503: "overloaded_error",
    529: "overloaded_error",
    504: "timeout_error",
}
_THINKING = ("thinking", "redacted_thinking")


def _endpoint(methods: str, pattern: str, operation: Operation, **more: Any) -> Endpoint:
    return Endpoint(tuple(methods.split()), re.compile(f"^{pattern}$"), operation, **more)


class AnthropicMessages(Format):
    """`POST /v1/messages` and the rest of the Anthropic API."""

    name = "anthropic_messages"
    family = "anthropic"
    endpoints: tuple[Endpoint, ...] = (
        _endpoint("POST", "/v1/messages", Operation.GENERATE),
        _endpoint(
            "POST", "/v1/messages/stream", Operation.GENERATE, stream=True, native=False, upstream_path="/v1/messages"
        ),
        _endpoint("POST", "/v1/messages/count_tokens", Operation.COUNT, stream=False),
        _endpoint("GET HEAD", "/v1/models", Operation.MODELS, stream=False),
        _endpoint("GET HEAD", "/v1/models/" + MODEL, Operation.MODELS, stream=False),
        _endpoint("GET HEAD POST PUT PATCH DELETE", rf"/v1/(?:{_COLLECTIONS})(?:/{RESOURCE_ID})*", Operation.OTHER),
    )

    # -- requests ---------------------------------------------------------------------------------

    @override
    def read(self, match: Match, headers: Mapping[str, str], query: str, body: bytes) -> Call:
        if match.endpoint.operation not in (Operation.GENERATE, Operation.COUNT):
            hints = (*_path_hints(match.path), *_searched_file_hints(body), *_header_hints(headers))
            return Call(match, body, None, match.model, False, hints)
        names = Names(body)
        json = json_body.parse_object(body, names=names)
        model = _model(json)
        _check_messages(json)
        stream = _stream(json)
        if match.endpoint.stream is not None:
            stream = match.endpoint.stream
        return Call(match, body, json, model, stream, _hints(json, headers, names))

    @override
    def edit(self, call: Call, edits: Edits) -> bytes:
        """The body with the edits; `/v1/messages/stream` also gets the `stream: true` that its upstream path needs."""
        if call.json is None:
            return call.body
        stream = edits.stream
        if stream is None and not call.match.endpoint.native:
            stream = call.match.endpoint.stream
        replacements: dict[str, bytes] = {}
        if edits.model is not None and edits.model != call.json.get("model"):
            replacements["model"] = json_body.dumps(edits.model)
        if stream is not None and stream != call.json.get("stream", False):
            replacements["stream"] = json_body.dumps(stream)
        return json_body.splice(call.body, replacements) if replacements else call.body

    @override
    def strip_bound_state(self, call: Call) -> bytes | None:
        """
        The body without the thinking of earlier turns, or None where there is none.

        A turn that was nothing but thinking goes, and its neighbours of one role become one turn.
        """
        messages = call.json.get("messages") if call.json else None
        if not isinstance(messages, list):
            return None
        kept = [_without_thinking(message) for message in messages]
        if all(new is old for new, old in zip(kept, messages, strict=True)):
            return None
        joined = _joined([message for message in kept if message is not None])
        return json_body.splice(call.body, {"messages": json_body.dumps(joined)}) if joined else None

    # -- answers ----------------------------------------------------------------------------------

    @override
    def check_answer(self, call: Call, body: bytes) -> tuple[Json | None, str]:
        operation = call.match.endpoint.operation
        if operation not in (Operation.GENERATE, Operation.COUNT):
            return None, ""
        answer, reason = _answer(body)
        if answer is None:
            return None, reason
        if answer.get("type") == "error" or "error" in answer:
            return answer, "error_in_answer"
        if operation is Operation.COUNT:
            counted = json_body.count(answer.get("input_tokens")) is not None
            return answer, "" if counted else "no_input_tokens"
        if answer.get("type") != "message" or not isinstance(answer.get("content"), list):
            return answer, "not_a_message"
        return answer, EMPTY_ANSWER if self._is_empty(answer) else ""

    def _is_empty(self, answer: Json) -> bool:
        ended = answer.get("stop_reason") == anthropic_stream.NATURAL_END
        return ended and anthropic_stream.says_nothing(answer["content"]) and not self.usage(answer).counts_output

    @override
    def usage(self, answer: Json) -> Usage:
        return anthropic_stream.usage_of(answer.get("usage"))

    @override
    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        if call.match.endpoint.operation is Operation.GENERATE:
            return anthropic_stream.container_ids(answer)
        identifier = answer.get("id")
        if call.match.endpoint.operation is Operation.OTHER and isinstance(identifier, str) and identifier:
            return [f"res:{identifier}"]
        return []

    @override
    def rename_model(self, data: bytes, model: str) -> bytes:
        return anthropic_stream.rename_model(data, model)

    # -- streams ----------------------------------------------------------------------------------

    @override
    def watcher(self, call: Call) -> StreamWatcher:
        return anthropic_stream.AnthropicWatcher()

    @override
    def terminator(self, call: Call) -> bytes:
        return anthropic_stream.MESSAGE_STOP

    @override
    def stream_from_answer(self, call: Call, answer: Json) -> bytes:
        return anthropic_stream.stream_from_answer(answer)

    @override
    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:
        return anthropic_stream.answer_from_stream(events)

    # -- errors -----------------------------------------------------------------------------------

    @override
    def error_body(self, error: MiddlewareError, request_id: str) -> Json:
        kind = _TYPE_OF_STATUS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        if isinstance(error, NoKeys):
            # Claude Code asks again for minutes when it reads `overloaded_error`, whatever `x-should-retry` says.
            kind = "api_error"
        detail: Json = {"type": kind, "message": error.message, "code": error.code}
        if isinstance(error, AllKeysResting):
            detail["wake_at"] = datetime.fromtimestamp(error.wake_at, UTC).isoformat(timespec="seconds")
        return {"type": "error", "error": detail, "request_id": request_id}

    @override
    def error_event(self, call: Call | None, error: MiddlewareError, request_id: str, *, begun: bool = True) -> bytes:
        return sse.encode(json_body.dumps(self.error_body(error, request_id)), "error")

    @override
    def is_error_body(self, body: bytes) -> bool:
        answer, _ = _answer(body)
        error = answer.get("error") if answer and answer.get("type") == "error" else None
        return isinstance(error, dict) and isinstance(error.get("type"), str) and isinstance(error.get("message"), str)


def _model(json: Json) -> str:
    model = json.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("`model` is required: name the model as a string.", param="model")
    if len(model) > _MAX_MODEL_CHARACTERS or _CONTROL.search(model):
        raise BadRequest("`model` must be at most 256 characters, none of them a control character.", param="model")
    return model


def _check_messages(json: Json) -> None:
    messages = json.get("messages")
    if messages is None and "contents" in json:
        raise BadRequest(
            "This is a Gemini body: it has `contents` instead of `messages`. "
            "Send it to /v1beta/models/{model}:generateContent, or send `messages` here.",
            param="contents",
        )
    if not isinstance(messages, list) or not messages:
        raise InvalidMessages("`messages` must be a list with at least one message.", param="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise InvalidMessages("Each entry of `messages` must be an object with `role` and `content`.", param="messages")


def _stream(json: Json) -> bool:
    stream = json.get("stream", False)
    if not isinstance(stream, bool):
        raise BadRequest("`stream` must be true or false.", param="stream")
    return stream


def _hints(json: Json, headers: Mapping[str, str], names: Names) -> tuple[SessionHint, ...]:
    """State that only one key can read comes first, then the session that the caller named, then the user."""
    hints = [SessionHint(key, True) for key in anthropic_stream.container_ids(json)]
    if names.hold(b'"file_id"'):
        hints += [SessionHint(f"res:{identifier}", True) for identifier in dict.fromkeys(_file_ids(json))]
    hints += _header_hints(headers)
    metadata = json.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if isinstance(user, str) and user:
        hints.append(SessionHint(_digest("user", user), False))
    return tuple(hints)


def _header_hints(headers: Mapping[str, str]) -> list[SessionHint]:
    return [SessionHint(_digest("session", headers[name]), False) for name in _SESSION_HEADERS if headers.get(name)]


def _path_hints(path: str) -> list[SessionHint]:
    resource = _RESOURCE.match(path)
    return [SessionHint(f"res:{resource[1]}", True)] if resource else []


def _searched_file_hints(body: bytes) -> list[SessionHint]:
    """Files that the JSON body of a batch names. It is searched, not parsed; uploads and long bodies are left alone."""
    if body[:1] != b"{" or len(body) > _MAX_SEARCHED_BYTES:
        return []
    found = dict.fromkeys(identifier.decode(errors="replace") for identifier in _FILE_ID.findall(body))
    return [SessionHint(f"res:{identifier}", True) for identifier in found]


def _file_ids(json: Json) -> Iterator[str]:
    """Yield the `file_id` members of `system` and `messages`, at any depth."""
    pending: list[Any] = [json.get("messages"), json.get("system")]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += reversed(value)
        elif isinstance(value, dict):
            identifier = value.get("file_id")
            if isinstance(identifier, str) and identifier:
                yield identifier
            # What a tool is called with is the model's own data.
            pending += [inner for name, inner in value.items() if name != "input" and isinstance(inner, (list, dict))]


def _without_thinking(message: Any) -> Any:
    """The message itself where it holds no thinking, a copy without it, or None where nothing is left."""
    if (
        not isinstance(message, dict)
        or message.get("role") != "assistant"
        or not isinstance(message.get("content"), list)
    ):
        return message
    content = message["content"]
    kept = [block for block in content if not (isinstance(block, dict) and block.get("type") in _THINKING)]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _joined(messages: list[Json]) -> list[Json]:
    """The messages, neighbours of one role made one: the newer content goes behind the older."""
    joined: list[Json] = []
    for message in messages:
        if joined and joined[-1].get("role") == message.get("role"):
            content = _blocks(joined[-1].get("content")) + _blocks(message.get("content"))
            joined[-1] = {**joined[-1], "content": content}
        else:
            joined.append(message)
    return joined


def _blocks(content: object) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if isinstance(content, str) and content else []


def _answer(body: bytes) -> tuple[Json | None, str]:
    """The JSON object in an answer, or None and why there is none."""
    if not body.strip():
        return None, "empty_body"
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, "html" if body.lstrip()[:1] == b"<" else "invalid_json"
    return (value, "") if isinstance(value, dict) else (None, "not_an_object")


def _digest(kind: str, value: str) -> str:
    return f"{kind}:{hashlib.sha256(value.encode(errors='replace')).hexdigest()[:32]}"
