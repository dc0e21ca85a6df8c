"""
What the two OpenAI formats share: path shapes, reading a body, session hints, token counts, errors.

Truth: the API reference at platform.openai.com and the official SDK. Organization and project administration is not
offered: those calls need an administrator's key.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from app.errors import AllKeysResting, BadRequest, InvalidJson, MiddlewareError
from app.formats import json_body, sse
from app.formats.base import EMPTY_ANSWER, Call, Edits, Endpoint, Format, Json, Match, Operation, SessionHint, Usage
from app.formats.json_body import Names
from app.formats.paths import MODEL, RESOURCE_ID

MAX_MODEL_CHARACTERS = 256

#: Operations whose JSON body is read strictly because we act on it.
PARSED = frozenset({Operation.GENERATE, Operation.EMBED, Operation.COUNT})

# Request headers in which clients name their conversation.
_SESSION_HEADERS = ("x-session-id", "session_id", "session-id", "x-codex-session-id", "conversation_id")
# Members that refer to something which lives at one organization: a string, an object with an `id`, or a list of them.
_REFERENCES = (
    "previous_response_id",
    "conversation",
    "input_file_id",
    "training_file",
    "validation_file",
    "file_id",
    "file_ids",
    "assistant_id",
    "thread_id",
)
_NAMES_OF_REFERENCES = frozenset(_REFERENCES)
_NAMES_OF_SESSIONS = frozenset(_SESSION_HEADERS)
_FILE_REFERENCE = re.compile(rb'"(?:file_id|container)"\s*:\s*"([A-Za-z0-9_\-]{1,128})"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FORM_MODEL = re.compile(rb'; ?name="?model"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n')
_MAX_FILE_HINTS = 4

_ERROR_TYPES = {403: "permission_error", 429: "rate_limit_error"}

#: HTTP status that an error inside a 200 would have had, by its `code` and else by its `type`.
ERROR_STATUS: Mapping[str, int] = {
    "rate_limit_exceeded": 429,
    "slow_down": 429,
    "insufficient_quota": 429,
    "credit_balance_exhausted": 429,
    "organization_spend_limit_exceeded": 429,
    "project_spend_limit_exceeded": 429,
    "organization_usage_limit_exceeded": 429,
    "rate_limit_error": 429,
    "tokens": 429,
    "requests": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "unsupported_country_region_territory": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "api_error": 500,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "overloaded_error": 503,
    "timeout": 504,
}


# -- path shapes -----------------------------------------------------------------------------------------


def endpoint(methods: str, shape: str, operation: Operation = Operation.OTHER) -> Endpoint:
    """
    Return the rule for one path shape below `/v1`.

    methods -- separated by blanks
    shape   -- `{id}` and `{item}` are one segment, `{model}` is a model's name, a trailing `/*` any further segments
    """
    tree = shape.endswith("/*")
    pattern = re.escape(shape.removesuffix("/*")).replace(r"\{id\}", f"(?P<id>{RESOURCE_ID})")
    pattern = pattern.replace(r"\{model\}", MODEL).replace(r"\{item\}", RESOURCE_ID)
    if tree:
        pattern += f"(?:/(?P<id>{RESOURCE_ID})(?:/{RESOURCE_ID}){{0,8}})?"
    stream = None if operation is Operation.GENERATE else False
    return Endpoint(tuple(methods.split()), re.compile(f"/v1{pattern}"), operation, stream)


# -- session hints ---------------------------------------------------------------------------------------


def resource_hint(identifier: str) -> str:
    """Return the hint of something that lives at one key: the same for the answer that makes it and for its users."""
    return f"res:{identifier}"


def secret_state_hint(content: str) -> str:
    """Return the hint of state that only its maker can read, such as encrypted reasoning."""
    return f"enc:{hashlib.sha256(content.encode(errors='replace')).hexdigest()[:32]}"


def hints_of(
    match: Match, headers: Mapping[str, str], json: Json | None, body: bytes, names: Names
) -> list[SessionHint]:
    """Return what the request says about earlier ones, state that only one key can read first."""
    found: list[SessionHint] = []
    if "id" in match.endpoint.pattern.groupindex:
        path = match.endpoint.pattern.fullmatch(match.path)
        identifier = path["id"] if path else None
        if identifier:
            found.append(SessionHint(resource_hint(identifier), bound=True))
    if json is not None:
        _add_hints(found, json, body, names)
    if not _NAMES_OF_SESSIONS.isdisjoint(headers):
        named = (headers.get(name) for name in _SESSION_HEADERS)
        found += [SessionHint(f"session:{value}", bound=False) for value in named if value]
    return found


def _add_hints(found: list[SessionHint], json: Json, body: bytes, names: Names) -> None:
    if not _NAMES_OF_REFERENCES.isdisjoint(json):
        for name in _REFERENCES:
            found += [SessionHint(resource_hint(each), bound=True) for each in _identifiers(json.get(name))]
    if names.hold(b'"file_id"', b'"container"'):
        for each in list(dict.fromkeys(_FILE_REFERENCE.findall(body)))[:_MAX_FILE_HINTS]:
            found.append(SessionHint(resource_hint(each.decode()), bound=True))
    cache_key = json.get("prompt_cache_key")
    if isinstance(cache_key, str) and cache_key:
        found.append(SessionHint(f"cache:{cache_key}", bound=False))


def _identifiers(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, dict):
        yield from (item for item in [value.get("id")] if isinstance(item, str) and item)
    elif isinstance(value, list):
        yield from (item for item in value[:_MAX_FILE_HINTS] if isinstance(item, str) and item)


# -- numbers and errors ----------------------------------------------------------------------------------


def usage_of(usage: object) -> Usage:
    """Return the tokens of a `usage` object in the spelling of either API; Usage() where it is no such object."""
    if not isinstance(usage, dict):
        return Usage()
    given = _mapping(usage, "prompt_tokens_details") or _mapping(usage, "input_tokens_details")
    made = _mapping(usage, "completion_tokens_details") or _mapping(usage, "output_tokens_details")
    cached = _first_count(given, "cached_tokens", "prompt_cache_hit_tokens")
    if cached is None:  # DeepSeek puts cached tokens beside the others, as `prompt_cache_hit_tokens`
        cached = _first_count(usage, "cached_tokens", "prompt_cache_hit_tokens")
    return Usage(
        _first_count(usage, "prompt_tokens", "input_tokens"),
        _first_count(usage, "completion_tokens", "output_tokens"),
        cached,
        json_body.count(given.get("cache_write_tokens")),
        json_body.count(made.get("reasoning_tokens")),
    )


def in_band_error(error: object) -> tuple[bytes, int]:
    """Return an error met inside a 200 as a provider's JSON body, and the HTTP status that it would have had."""
    body = json_body.dumps({"error": error})
    if not isinstance(error, dict):
        return body, 500 if error is None else 0
    for name in ("code", "status", "type"):
        value = error.get(name)
        if isinstance(value, int) and 400 <= value <= 599:
            return body, value
        if isinstance(value, str) and (status := _status_named(value)):
            return body, status
    return body, 0


def error_fields(error: MiddlewareError, request_id: str) -> Json:
    """Return the members of an OpenAI `error` object; `wake_at` (ISO 8601) only while all keys rest."""
    kind = _ERROR_TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
    fields: Json = {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, AllKeysResting):
        fields["wake_at"] = datetime.fromtimestamp(error.wake_at, UTC).isoformat(timespec="seconds")
    return fields


def loads(data: bytes) -> Any:
    """Return the JSON value in `data`, or None where it is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _status_named(value: str) -> int:
    if value in ERROR_STATUS:
        return ERROR_STATUS[value]
    return int(value) if value.isascii() and value.isdigit() and 400 <= int(value[:4]) <= 599 else 0


def _mapping(value: Json, name: str) -> Json:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _first_count(value: Json, name: str, other: str) -> int | None:
    found = json_body.count(value.get(name))
    return json_body.count(value.get(other)) if found is None else found


# -- the format ------------------------------------------------------------------------------------------


class OpenAiFormat(Format):
    """What both OpenAI formats do alike. The subclass adds its checks, its stream and its state."""

    family = "openai"

    # -- requests ---------------------------------------------------------------------------------

    @abstractmethod
    def check_request(self, match: Match, json: Json) -> None:
        """Raise BadRequest or InvalidMessages for a body that can't be a request of this format."""

    @abstractmethod
    def state_hints(self, json: Json, names: Names) -> Iterable[SessionHint]:
        """Hints of the state inside the body that only one key can read."""

    def read(self, match: Match, headers: Mapping[str, str], query: str, body: bytes) -> Call:  # noqa: ARG002
        if match.endpoint.operation not in PARSED:
            return self._read_other(match, headers, body)
        names = Names(body)
        json = json_body.parse_object(body, names=names)
        self.check_request(match, json)
        # A stored prompt, referred to by an object, brings its own model.
        needs_model = match.endpoint.operation is not Operation.COUNT and not isinstance(json.get("prompt"), dict)
        model = self._model_of(json, required=needs_model)
        stream = json.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise BadRequest("`stream` must be true, false or null.", param="stream")
        hints = tuple(self.state_hints(json, names)) + tuple(hints_of(match, headers, json, body, names))
        stream = bool(stream) and match.endpoint.stream is None
        return Call(match, body, json, model, stream, hints)

    def _read_other(self, match: Match, headers: Mapping[str, str], body: bytes) -> Call:
        """Relayed as it is: the body is only looked at for the model and for resources that live at one key."""
        content_type = headers.get("content-type", "").lower()
        json: Json | None = None
        model = match.model
        if body and "json" in content_type:
            with suppress(InvalidJson):
                json = json_body.parse_object(body)
        if json is not None:
            model = self._model_of(json, required=False) or model
        elif content_type.startswith("multipart/form-data"):
            model = _form_model(body) or model
        return Call(match, body, json, model, False, tuple(hints_of(match, headers, json, body, Names(body))))

    def _model_of(self, json: Json, *, required: bool) -> str | None:
        model = json.get("model")
        if model is None and not required:
            return None
        if not isinstance(model, str) or not model:
            raise BadRequest("`model` must name a model, as a string.", param="model")
        if len(model) > MAX_MODEL_CHARACTERS or not (model.isprintable() or _CONTROL.search(model) is None):
            raise BadRequest("`model` must be at most 256 characters, none of them a control character.", param="model")
        return model

    def edit(self, call: Call, edits: Edits) -> bytes:
        if call.json is None:
            return call.body
        replacements: dict[str, bytes] = {}
        if edits.model is not None and edits.model != call.json.get("model"):
            replacements["model"] = json_body.dumps(edits.model)
        if edits.stream is not None and edits.stream != bool(call.json.get("stream")):
            replacements["stream"] = json_body.dumps(edits.stream)
        replacements |= self.stream_edits(call, call.json, edits)
        return json_body.splice(call.body, replacements) if replacements else call.body

    @abstractmethod
    def stream_edits(self, call: Call, json: Json, edits: Edits) -> dict[str, bytes]:
        """Return further members to splice in, as raw JSON."""

    # -- answers ----------------------------------------------------------------------------------

    @abstractmethod
    def missing(self, call: Call, answer: Json) -> str:
        """Say what an answer lacks to be one; "" where it lacks nothing."""

    @abstractmethod
    def says_nothing(self, answer: Json) -> bool:
        """Whether a generated answer that lacks nothing ended by itself and holds nothing."""

    def check_answer(self, call: Call, body: bytes) -> tuple[Json | None, str]:
        if call.match.endpoint.operation not in PARSED:
            return None, ""
        answer = loads(body)
        if not isinstance(answer, dict):
            return None, "invalid_json" if answer is None else "not_an_object"
        if answer.get("error"):
            return answer, "error_in_answer"
        reason = self.missing(call, answer)
        generated = call.match.endpoint.operation is Operation.GENERATE
        if generated and not reason and self.says_nothing(answer) and not self.usage(answer).counts_output:
            reason = EMPTY_ANSWER
        return answer, reason

    def usage(self, answer: Json) -> Usage:
        return usage_of(answer.get("usage"))

    def rename_model(self, data: bytes, model: str) -> bytes:
        if b'"model"' not in data:
            return data
        offset = data.find(b"{")
        span = _model_span(data[offset:]) if offset >= 0 else None
        if span is None:
            return data
        return data[: offset + span[0]] + json_body.dumps(model) + data[offset + span[1] :]

    # -- errors -----------------------------------------------------------------------------------

    def error_body(self, error: MiddlewareError, request_id: str) -> Json:
        return {"error": error_fields(error, request_id)}

    def error_event(
        self,
        call: Call | None,  # noqa: ARG002
        error: MiddlewareError,
        request_id: str,
        *,
        begun: bool = True,  # noqa: ARG002
    ) -> bytes:
        return sse.encode(json_body.dumps(self.error_body(error, request_id)))

    def is_error_body(self, body: bytes) -> bool:
        answer = loads(body)
        error = answer.get("error") if isinstance(answer, dict) else None
        return isinstance(error, dict) and isinstance(error.get("message"), str)


def _model_span(data: bytes, *, within_response: bool = False) -> tuple[int, int] | None:
    """Where the first `model` string at the top level, or inside a top-level `response`, begins and ends."""
    for member in json_body.members(data):
        if member.name == "model" and data[member.start : member.start + 1] == b'"':
            return member.start, member.end
        if member.name == "response" and not within_response:
            inner = _model_span(data[member.start : member.end], within_response=True)
            if inner:
                return member.start + inner[0], member.start + inner[1]
    return None


def _form_model(body: bytes) -> str | None:
    """The `model` field of a multipart form; refused where it is given twice with different values."""
    values = set(_FORM_MODEL.findall(body))
    if len(values) > 1:
        raise BadRequest("The form has the field 'model' twice. Send it once.", code="duplicate_key", param="model")
    return values.pop().decode(errors="replace") if values else None
