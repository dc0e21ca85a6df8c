"""
OpenAI Responses, with stored answers and conversations.

Truth: the API reference at platform.openai.com, sections "Responses" and "Streaming events", and the official SDK's
types. Codex CLI speaks nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from app.errors import MiddlewareError
from app.formats import json_body, openai, sse
from app.formats.base import Call, Edits, Endpoint, Json, Mark, Match, Operation, SessionHint, StreamWatcher, Usage
from app.formats.json_body import Names
from app.formats.openai import OpenAiFormat, endpoint
from app.formats.openai_responses_items import FRAME, frames_output, holds_output, item_events, type_of

_PROLOGUE = frozenset({"response.created", "response.in_progress", "response.queued"})
_COMPLETED = "response.completed"
_ENDINGS = frozenset({_COMPLETED, "response.incomplete", "response.cancelled"})
_FAILURES = frozenset({"response.failed", "error"})

# The type of an event, where it is its first member, as the API sends it.
_TYPE = re.compile(rb'data: ?\{\s*"type"\s*:\s*"([a-z0-9_.]{1,80})"')
_CREATED_ID = re.compile(rb'"response"\s*:\s*\{\s*"id"\s*:\s*"([A-Za-z0-9_\-]{1,128})"')
_TYPE_WITHIN_BYTES = 256
# An error event of ours can't know how many events went before it, and numbers have to grow.
_LAST_SEQUENCE_NUMBER = 2**31 - 1
_MAX_REASONING_HINTS = 8
# Stored under ids that only have a meaning beside the reasoning item that they came with.
_TIED_TO_REASONING = frozenset({"message", "function_call", "custom_tool_call"})

# Codes of a failed response that are the provider's doing; every other code is about the request.
_PROVIDER_CODES = frozenset(openai.ERROR_STATUS)


class OpenAiResponses(OpenAiFormat):
    """The Responses API."""

    name = "openai_responses"
    endpoints: tuple[Endpoint, ...] = (
        endpoint("POST", "/responses", Operation.GENERATE),
        # Where clients open WebSockets: matched, so that the upgrade can be refused in a way that they understand.
        endpoint("GET", "/responses"),
        endpoint("POST", "/responses/input_tokens", Operation.COUNT),
        endpoint("POST", "/responses/compact", Operation.GENERATE),
        endpoint("GET DELETE", "/responses/{id}"),
        endpoint("POST", "/responses/{id}/cancel"),
        endpoint("GET", "/responses/{id}/input_items"),
        endpoint("POST", "/conversations"),
        endpoint("GET POST DELETE", "/conversations/{id}"),
        endpoint("GET POST", "/conversations/{id}/items"),
        endpoint("GET DELETE", "/conversations/{id}/items/{item}"),
    )

    # -- requests ---------------------------------------------------------------------------------

    def check_request(self, match: Match, json: Json) -> None:
        """Nothing beyond JSON and the model: `input`, `prompt` and `previous_response_id` can replace each other."""

    def state_hints(self, json: Json, names: Names) -> Iterable[SessionHint]:
        if not names.hold(b'"encrypted_content"'):
            return
        for hint in _reasoning_hints(json.get("input")):
            yield SessionHint(hint, bound=True)
            return

    def stream_edits(self, call: Call, json: Json, edits: Edits) -> dict[str, bytes]:  # noqa: ARG002
        if edits.stream is False and json.get("stream_options") is not None:
            return {"stream_options": b"null"}
        return {}

    def strip_bound_state(self, call: Call) -> bytes | None:
        items = (call.json or {}).get("input")
        if not isinstance(items, list) or not any(type_of(item) == "reasoning" for item in items):
            return None
        kept = [_untied(item) for item in items if type_of(item) != "reasoning"]
        return json_body.splice(call.body, {"input": json_body.dumps(kept)})

    # -- answers ----------------------------------------------------------------------------------

    def missing(self, call: Call, answer: Json) -> str:
        if call.match.endpoint.operation is Operation.COUNT:
            return "" if json_body.count(answer.get("input_tokens")) is not None else "no_count"
        if answer.get("status") == "failed":
            return "error_in_answer"
        return "" if isinstance(answer.get("output"), list) else "no_output"

    def says_nothing(self, answer: Json) -> bool:
        return answer.get("status") == "completed" and not holds_output(answer)

    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        if call.match.endpoint.operation in (Operation.COUNT, Operation.MODELS):
            return []
        return _ids_of(answer, stored=_is_stored(call))

    # -- streams ----------------------------------------------------------------------------------

    def watcher(self, call: Call) -> StreamWatcher:
        return ResponsesWatcher(call)

    def terminator(self, call: Call) -> bytes:  # noqa: ARG002
        """Nothing: the last event holds the whole answer, and can't be made up."""
        return b""

    def stream_from_answer(self, call: Call, answer: Json) -> bytes:  # noqa: ARG002
        status = answer.get("status")
        ending = status if status in ("incomplete", "failed", "cancelled") else "completed"
        begun = {**answer, "status": "in_progress", "output": [], "usage": None}
        events: list[Json] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        output = answer.get("output")
        for index, item in enumerate(output if isinstance(output, list) else []):
            events += item_events(index, item)
        events.append({"type": f"response.{ending}", "response": answer})
        return b"".join(_encode(event, number) for number, event in enumerate(events))

    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:  # noqa: ARG002
        items: dict[int, Any] = {}
        answer: Json | None = None
        for event in events:
            if _type_of(event) not in _ENDINGS | _FAILURES | {"response.output_item.done"}:
                continue
            data = openai.loads(sse.data_of(event))
            if not isinstance(data, dict):
                continue
            if data.get("type") == "response.output_item.done" and "item" in data:
                items[_number(data.get("output_index"), len(items))] = data["item"]
            elif isinstance(data.get("response"), dict):
                answer = data["response"]
        # Some servers leave the output out of the last event.
        if answer is not None and not answer.get("output"):
            answer["output"] = [items[index] for index in sorted(items)]
        return answer

    # -- errors -----------------------------------------------------------------------------------

    def error_event(
        self,
        call: Call | None,
        error: MiddlewareError,
        request_id: str,
        *,
        begun: bool = True,  # noqa: ARG002
    ) -> bytes:
        """
        An `error` event, then `response.failed`, as the API does it: the SDK raises at the first, Codex reads the
        second.
        """
        fields = openai.error_fields(error, request_id)
        failed = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": 0,
            "status": "failed",
            "error": {"code": fields["code"], "message": fields["message"]},
            "incomplete_details": None,
            "model": call.model if call else None,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }
        named = {name: fields[name] for name in ("code", "message", "param")}
        return _encode({"type": "error", **named, "error": fields}, _LAST_SEQUENCE_NUMBER - 1) + _encode(
            {"type": "response.failed", "response": failed}, _LAST_SEQUENCE_NUMBER
        )


class ResponsesWatcher(StreamWatcher):
    """
    Watches a Responses stream. Events are told apart by their type; only the last one is parsed, at the end, and the
    frame of a message before its first text.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._stored = _is_stored(call)
        self._ending = b""
        self._has_output = False

    def watch(self, event: bytes) -> Mark:
        kind = _type_of(event)
        if kind in _PROLOGUE:
            created = _CREATED_ID.search(event, 0, _TYPE_WITHIN_BYTES)
            if created and self._stored and not self.state.resource_ids:
                self.state.resource_ids.append(openai.resource_hint(created[1].decode()))
            return Mark.PROLOGUE
        if kind in _ENDINGS:
            self.state.finished = self.state.terminated = True
            self._ending = event
            response = _response_of(event)
            self.state.resource_ids = _ids_of(response, stored=self._stored)
            self.state.empty = kind == _COMPLETED and not self._has_output and _is_empty(response)
            return Mark.TERMINATOR
        if kind in _FAILURES:
            return self._failed(event)
        if kind:
            self._has_output = self._has_output or kind not in FRAME or frames_output(event)
            return Mark.OUTPUT if self._has_output else Mark.PROLOGUE
        data = sse.data_of(event).strip()
        # A few servers end with the terminator of the other API.
        if not data or data == b"[DONE]":
            return Mark.IGNORED
        parsed = openai.loads(data)
        if isinstance(parsed, dict) and parsed.get("error"):
            return self._failed(event)
        self._has_output = True
        return Mark.OUTPUT

    def settle(self) -> Usage:
        self.state.usage = openai.usage_of(_response_of(self._ending).get("usage"))
        return self.state.usage

    def _failed(self, event: bytes) -> Mark:
        self._ending = event
        self.state.terminated = True
        self.state.error, self.state.error_status = _error_of(openai.loads(sse.data_of(event)))
        return Mark.ERROR


# -- reading events --------------------------------------------------------------------------------------


def _type_of(event: bytes) -> str:
    """The type of an event; "" where it has none that can be read."""
    match = _TYPE.search(event, 0, _TYPE_WITHIN_BYTES)
    if match:
        return match[1].decode()
    name = sse.name_of(event)
    if name:
        return name.decode(errors="replace")
    data = openai.loads(sse.data_of(event))
    kind = data.get("type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else ""


def _response_of(event: bytes) -> Json:
    data = openai.loads(sse.data_of(event)) if event else None
    response = data.get("response") if isinstance(data, dict) else None
    return response if isinstance(response, dict) else {}


def _is_empty(response: Json) -> bool:
    return not holds_output(response) and not openai.usage_of(response.get("usage")).counts_output


def _error_of(data: Any) -> tuple[bytes, int]:
    """The error that an `error` or a `response.failed` event tells of, and the status that it would have had."""
    if not isinstance(data, dict):
        return openai.in_band_error(None)
    response = data.get("response")
    error = response.get("error") if isinstance(response, dict) else data.get("error")
    if error is None:
        # The flat shape: the members of the error beside the event's own type.
        error = {name: data.get(name) for name in ("code", "message", "param")}
        if error["message"] is None and error["code"] is None:
            return openai.in_band_error(None)
    body, status = openai.in_band_error(error)
    code = error.get("code") if isinstance(error, dict) else None
    if not status and isinstance(code, str) and code not in _PROVIDER_CODES:
        return body, 400
    return body, status


def _reasoning_hints(items: object) -> Iterator[str]:
    for item in items if isinstance(items, list) else []:
        if type_of(item) == "reasoning" and isinstance(item.get("encrypted_content"), str):
            yield openai.secret_state_hint(item["encrypted_content"])


def _is_stored(call: Call) -> bool:
    return (call.json or {}).get("store") is not False


def _ids_of(response: Json, *, stored: bool) -> list[str]:
    conversation = response.get("conversation")
    named = (
        response.get("id") if stored else None,
        conversation.get("id") if isinstance(conversation, dict) else conversation,
    )
    ids = [openai.resource_hint(value) for value in named if isinstance(value, str) and value]
    return ids + list(_reasoning_hints(response.get("output")))[:_MAX_REASONING_HINTS]


def _number(value: object, default: int) -> int:
    return value if type(value) is int else default


def _untied(item: Any) -> Any:
    if type_of(item) not in _TIED_TO_REASONING or "id" not in item:
        return item
    return {name: value for name, value in item.items() if name != "id"}


# -- writing events --------------------------------------------------------------------------------------


def _encode(event: Json, number: int) -> bytes:
    kind = event["type"]
    ordered = {"type": kind, "sequence_number": number, **event}
    return sse.encode(json_body.dumps(ordered), kind)
