"""
The Gemini wire format: its URLs, how a request is read, how answers and errors look.

The path carries the model and the wish to stream; the query chooses between server-sent events and a JSON array.
Refuses what no Gemini call can be: no `contents`, the body of another API. Truth: the API reference on ai.google.dev,
google.rpc.Status and google.rpc.ErrorInfo, and the official SDK.

A resumable upload starts here, but the upload URL that Google answers with points to Google; SDKs with a base URL of
their own put that base in front and come back to `/upload/...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
from typing_extensions import override

from app.errors import AllKeysResting, BadRequest, MiddlewareError
from app.formats import gemini_interactions, gemini_state, gemini_stream, json_body, sse
from app.formats.base import (
    EMPTY_ANSWER,
    Call,
    Edits,
    Endpoint,
    Format,
    Framing,
    Json,
    Match,
    Operation,
    SessionHint,
    StreamWatcher,
    Usage,
)
from app.formats.paths import MODEL, RESOURCE_ID

_VERSION = r"/v1(?:alpha|beta)?"
_NAMED = r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}"
# What a verb is asked of. MODEL is greedy, so that the last colon of a path separates the verb.
_TARGETS = (
    f"(?:models/)+{MODEL}",
    f"(?P<model>(?:tunedModels|dynamic)/{_NAMED})",
)
_COLLECTIONS = (
    "cachedContents|files|generatedFiles|corpora|operations|batches|tunedModels|fileSearchStores|interactions"
    "|agents|environments|credentials|triggers|voices|webhooks|decisions|auth_tokens"
)
_VERBS: tuple[tuple[str, Operation, bool | None], ...] = (
    ("generateContent", Operation.GENERATE, False),
    ("streamGenerateContent", Operation.GENERATE, True),
    ("countTokens", Operation.COUNT, False),
    ("embedContent", Operation.EMBED, False),
    ("batchEmbedContents", Operation.EMBED, False),
    (
        "batchGenerateContent|asyncBatchEmbedContent|predict|predictLongRunning|fetchPredictOperation|generateAnswer"
        "|computeTokens|transferOwnership",
        Operation.OTHER,
        False,
    ),
)
_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_PARSED = (Operation.GENERATE, Operation.EMBED, Operation.COUNT)
_MODEL_IN_PATH = re.compile(rf"^({_VERSION}/)(?:(?:models/)+|(?=tunedModels/|dynamic/))(.+)(:[A-Za-z]+)$")

# google.rpc.Code by the HTTP status that our errors have.
_STATUS_NAMES = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
# Members that make an answer one, and the reason where none of them says anything.
_SAID_BY = {
    Operation.GENERATE: (("candidates", "promptFeedback"), "no_candidates"),
    Operation.COUNT: (("totalTokens",), "no_total_tokens"),
    Operation.EMBED: (("embedding", "embeddings"), "no_embedding"),
}


def with_model(path: str, model: str) -> str:
    """
    Return the path with its model replaced, where it is a call of a model's verb; else the path itself.

    path   -- decoded, as `Match.path` has it
    model  -- with or without `models/` in front, or `tunedModels/...`
    """
    match = _MODEL_IN_PATH.match(path)
    return f"{match[1]}{_resource_name(model)}{match[3]}" if match else path


def _endpoints() -> Iterator[Endpoint]:
    for target in _TARGETS:
        for verbs, operation, stream in _VERBS:
            yield _endpoint(("POST",), f"{_VERSION}/{target}:(?P<verb>{verbs})", operation, stream=stream)
    yield _endpoint(("POST",), f"{_VERSION}/interactions", Operation.GENERATE)
    yield _endpoint(
        _ALL_METHODS,
        rf"{_VERSION}/models/(?P<model>[^/]+)/operations(?:/{RESOURCE_ID})?",
        Operation.OTHER,
    )
    yield _endpoint(("GET", "HEAD"), f"{_VERSION}/models", Operation.MODELS, stream=False)
    # A verb is never part of a model's name, although names may hold colons.
    every_verb = "|".join(verbs for verbs, _, _ in _VERBS)
    one_model = rf"{_VERSION}/(?!.*:(?:{every_verb})$)(?:models/)+{MODEL}"
    yield _endpoint(("GET", "HEAD"), one_model, Operation.MODELS, stream=False)
    yield _endpoint(
        _ALL_METHODS,
        rf"(?:/upload|/download)?{_VERSION}/(?:{_COLLECTIONS})(?::[A-Za-z]+)?(?:/{RESOURCE_ID})*",
        Operation.OTHER,
    )


def _endpoint(methods: tuple[str, ...], pattern: str, operation: Operation, **more: Any) -> Endpoint:
    return Endpoint(methods, re.compile(f"^{pattern}$"), operation, **more)


class Gemini(Format):
    """`POST /v1beta/models/{model}:generateContent` and the rest of the Gemini API."""

    name = "gemini"
    family = "gemini"
    endpoints: tuple[Endpoint, ...] = tuple(_endpoints())

    # -- requests ---------------------------------------------------------------------------------

    @override
    def read(self, match: Match, headers: Mapping[str, str], query: str, body: bytes) -> Call:
        """The call; for `streamGenerateContent` its `match.endpoint.framing` is what the query asks for."""
        parameters = dict(parse_qsl(query)) if query else {}
        operation = match.endpoint.operation
        if operation not in _PARSED:
            hints = gemini_state.hints(None, headers, match.path, body)
            hints = (*(SessionHint(key, bound=True) for key in gemini_state.upload_keys(query)), *hints)
            stream = operation is Operation.OTHER and parameters.get("stream") == "true"
            return Call(match, body, None, _bare_name(match.model), stream, hints)
        json = json_body.parse_object(body)
        hints = gemini_state.hints(json, headers, match.path, body)
        if _is_interaction(match):
            model, stream = gemini_interactions.wanted(json)
            return Call(match, body, json, _bare_name(model), stream, hints)
        _check_body(match, json)
        if match.endpoint.stream and "sse" not in (parameters.get("alt"), parameters.get("$alt")):
            match = replace(match, endpoint=replace(match.endpoint, framing=Framing.JSON_ARRAY))
        return Call(match, body, json, _bare_name(match.model), bool(match.endpoint.stream), hints)

    @override
    def edit(self, call: Call, edits: Edits) -> bytes:
        """The body with the model replaced wherever it repeats the path's; the path is `with_model`'s to change."""
        if call.json is None:
            return call.body
        if _is_interaction(call.match):
            wanted = {"model": edits.model, "stream": edits.stream}
            given = {name: value for name, value in wanted.items() if value is not None}
            changed: Json = {name: value for name, value in given.items() if call.json.get(name) != value}
        else:
            changed = {} if edits.model is None else _renamed(call.json, _resource_name(edits.model))
        raw = {name: json_body.dumps(value) for name, value in changed.items()}
        return json_body.splice(call.body, raw) if raw else call.body

    @override
    def strip_bound_state(self, call: Call) -> bytes | None:
        """The body with a placeholder for every thought signature. Files and caches have no substitute."""
        return gemini_state.without_signatures(call.json, call.body) if call.json else None

    # -- answers ----------------------------------------------------------------------------------

    @override
    def check_answer(self, call: Call, body: bytes) -> tuple[Json | None, str]:
        operation = call.match.endpoint.operation
        if operation not in _PARSED:
            return None, ""
        answer, reason = _answer(body, of_one=call.stream)
        if answer is None:
            return None, reason
        if _is_interaction(call.match):
            return answer, gemini_interactions.reason_unusable(answer)
        if answer.get("error"):
            return answer, "error_in_answer"
        names, reason = _SAID_BY[operation]
        # An empty list of candidates says nothing; a count of 0 does.
        said = any(answer.get(name) not in (None, [], {}) for name in names)
        if said and operation is Operation.GENERATE and gemini_stream.is_empty(answer):
            return answer, EMPTY_ANSWER
        return answer, "" if said else reason

    @override
    def usage(self, answer: Json) -> Usage:
        if "usage" in answer:
            return gemini_interactions.usage_of(answer)
        return gemini_stream.usage_of(answer)

    @override
    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        if _is_about_interactions(call.match):
            return gemini_interactions.resource_keys(answer)
        return [*gemini_state.resource_keys(answer), *gemini_state.answer_keys(answer)]

    @override
    def header_resource_ids(self, headers: Mapping[str, str]) -> list[str]:
        return gemini_state.upload_keys(urlsplit(headers.get("x-goog-upload-url", "")).query)

    @override
    def rename_model(self, data: bytes, model: str) -> bytes:
        """`data` itself: `modelVersion` names the version that answered, which no request can choose."""
        return data

    # -- streams ----------------------------------------------------------------------------------

    @override
    def watcher(self, call: Call) -> StreamWatcher:
        if _is_about_interactions(call.match):
            return gemini_interactions.InteractionWatcher()
        several = call.json is not None and gemini_state.candidate_count(call.json) > 1
        return gemini_stream.GeminiWatcher(call.match.endpoint.framing, several=several)

    @override
    def terminator(self, call: Call) -> bytes:
        """Nothing: server-sent events of this format have none, and an array without its bracket was cut."""
        return b""

    @override
    def stream_from_answer(self, call: Call, answer: Json) -> bytes:
        return gemini_stream.stream_from_answer(answer, call.match.endpoint.framing)

    @override
    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:
        return gemini_stream.answer_from_stream(events)

    # -- errors -----------------------------------------------------------------------------------

    @override
    def error_body(self, error: MiddlewareError, request_id: str) -> Json:
        metadata = {"request_id": request_id, "code": error.code}
        if isinstance(error, AllKeysResting):
            metadata["wake_at"] = datetime.fromtimestamp(error.wake_at, UTC).isoformat(timespec="seconds")
        details: list[Json] = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": error.code.upper(),
                "domain": "ai-api-middleware",
                "metadata": metadata,
            }
        ]
        if error.retry_after_s is not None:
            delay = f"{max(0.0, error.retry_after_s):.3f}".rstrip("0").rstrip(".")
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{delay}s"})
        status = _STATUS_NAMES.get(error.status, "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL")
        return {"error": {"code": error.status, "message": error.message, "status": status, "details": details}}

    @override
    def error_event(self, call: Call | None, error: MiddlewareError, request_id: str, *, begun: bool = True) -> bytes:
        """
        The error as the last event of a stream.

        begun -- for the array form: an object has been sent already, so that a comma goes first and no bracket
        """
        data = json_body.dumps(self.error_body(error, request_id))
        if call is None or call.match.endpoint.framing is Framing.SSE:
            return sse.encode(data)
        return (b"\n,\n" if begun else b"[") + data + b"\n]"

    @override
    def is_error_body(self, body: bytes) -> bool:
        answer, _ = _answer(body, of_one=True)
        error = answer.get("error") if answer else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return False
        return isinstance(error.get("code"), int) and isinstance(error.get("status"), str)


def _is_interaction(match: Match) -> bool:
    """Whether this call makes a new interaction."""
    return match.endpoint.operation is Operation.GENERATE and _is_about_interactions(match)


def _is_about_interactions(match: Match) -> bool:
    return match.path.split("/")[2:3] == ["interactions"]


def _check_body(match: Match, json: Json) -> None:
    """Raise BadRequest where the body lacks what its verb is about."""
    if match.endpoint.operation is Operation.EMBED:
        wanted = "requests" if match.path.endswith(":batchEmbedContents") else "content"
        if not json.get(wanted):
            raise BadRequest(f"`{wanted}` is required and must not be empty.", param=wanted)
        return
    contents = gemini_state.request_contents(json)
    if contents is None and "messages" in json:
        raise BadRequest(
            "This is an OpenAI or Anthropic body: it has `messages` instead of `contents`. "
            "Send it to /v1/chat/completions or /v1/messages, or send `contents` here.",
            param="messages",
        )
    if not isinstance(contents, (list, dict)) or not contents:
        raise BadRequest("`contents` is required: a list with at least one content.", param="contents")


def _renamed(json: Json, name: str) -> Json:
    """The top-level members of the body that change when the model's resource name becomes `name`."""
    changed: Json = {}
    if isinstance(json.get("model"), str) and json["model"] != name:
        changed["model"] = name
    for wrapper in ("generateContentRequest", "generate_content_request"):
        inner = json.get(wrapper)
        if isinstance(inner, dict) and isinstance(inner.get("model"), str) and inner["model"] != name:
            changed[wrapper] = {**inner, "model": name}
    requests = json.get("requests")
    if isinstance(requests, list):
        renamed = [{**one, "model": name} if isinstance(one, dict) and "model" in one else one for one in requests]
        if renamed != requests:
            changed["requests"] = renamed
    return changed


def _bare_name(model: str | None) -> str | None:
    while model is not None and model.startswith("models/"):
        model = model.removeprefix("models/")
    return model


def _resource_name(model: str) -> str:
    return model if model.startswith(("models/", "tunedModels/", "dynamic/")) else f"models/{model}"


def _answer(body: bytes, *, of_one: bool) -> tuple[Json | None, str]:
    """The JSON object in an answer, or None and why there is none. `of_one`: also out of an array of one."""
    if not body.strip():
        return None, "empty_body"
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, "html" if body.lstrip()[:1] == b"<" else "invalid_json"
    if of_one and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return (value, "") if isinstance(value, dict) else (None, "not_an_object")
