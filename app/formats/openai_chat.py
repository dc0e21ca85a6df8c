"""
OpenAI Chat Completions, with everything else below `/v1` that is not the Responses API: legacy completions,
embeddings, models, files, images, audio and so on.

Truth: the API reference at platform.openai.com, sections "Chat" and "Streaming"; `reasoning_content` and `reasoning`
are the spellings of DeepSeek and OpenRouter, `extra_content.google` is Google's: ai.google.dev/gemini-api/docs/openai.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from app.errors import BadRequest, InvalidMessages
from app.formats import json_body, openai, openai_chat_assembly, sse
from app.formats.base import Call, Edits, Endpoint, Json, Mark, Match, Operation, SessionHint, StreamWatcher, Usage
from app.formats.json_body import Names
from app.formats.openai import OpenAiFormat, endpoint
from app.formats.openai_chat_assembly import index_of, objects

CHAT_PATH = "/v1/chat/completions"

_DONE = b"data: [DONE]\n\n"
# A terminator is short; anything longer that holds the word is text.
_MAX_DONE_BYTES = 64
# Only events with one of these need to be parsed. Quotes inside a JSON string are escaped, so text never matches.
_SUSPICIOUS = re.compile(
    rb'"(?:error|usage)"\s*:\s*[{"]|"(?:finish_reason|thought_signature)"\s*:\s*"|"choices"\s*:\s*\[\s*\]'
    rb'|"object"\s*:\s*"error"'
)
_NATURAL_END = "stop"
# Accepted by Gemini in the place of a signature that was made for another project.
_SIGNATURE_PLACEHOLDER = "skip_thought_signature_validator"
_MAX_SIGNATURES = 8


class OpenAiChat(OpenAiFormat):
    """Chat Completions and the common part of the OpenAI API."""

    name = "openai_chat"
    endpoints: tuple[Endpoint, ...] = (
        endpoint("POST", "/chat/completions", Operation.GENERATE),
        endpoint("POST", "/embeddings", Operation.EMBED),
        endpoint("POST", "/completions", Operation.GENERATE),
        endpoint("GET", "/models", Operation.MODELS),
        endpoint("GET", "/models/{model}", Operation.MODELS),
        endpoint("DELETE", "/models/{model}"),
        endpoint("GET", "/chat/completions"),
        endpoint("GET POST DELETE", "/chat/completions/{id}"),
        endpoint("GET", "/chat/completions/{id}/messages"),
        endpoint("POST", "/moderations"),
        endpoint("POST", "/images/generations"),
        endpoint("POST", "/images/edits"),
        endpoint("POST", "/images/variations"),
        endpoint("POST", "/audio/speech"),
        endpoint("POST", "/audio/transcriptions"),
        endpoint("POST", "/audio/translations"),
        endpoint("GET POST", "/audio/voices"),
        endpoint("GET POST DELETE", "/audio/voices/{id}"),
        endpoint("GET POST", "/audio/voice_consents"),
        endpoint("GET POST DELETE", "/audio/voice_consents/{id}"),
        endpoint("GET POST DELETE", "/files/*"),
        endpoint("POST", "/uploads/*"),
        endpoint("GET POST", "/batches/*"),
        endpoint("GET POST DELETE", "/vector_stores/*"),
        endpoint("GET POST DELETE", "/containers/*"),
        endpoint("GET POST DELETE", "/videos/*"),
        endpoint("GET POST", "/fine_tuning/jobs/*"),
        endpoint("POST", "/fine_tuning/alpha/graders/run"),
        endpoint("POST", "/fine_tuning/alpha/graders/validate"),
        endpoint("GET POST DELETE", "/evals/*"),
        endpoint("GET POST DELETE", "/assistants/*"),
        endpoint("GET POST DELETE", "/threads/*"),
        endpoint("GET POST DELETE", "/chatkit/sessions/*"),
        endpoint("GET POST DELETE", "/chatkit/threads/*"),
        endpoint("GET POST DELETE", "/skills/*"),
        endpoint("POST", "/realtime/sessions"),
        endpoint("POST", "/realtime/transcription_sessions"),
        endpoint("POST", "/realtime/client_secrets"),
        endpoint("POST", "/realtime/translations/client_secrets"),
        endpoint("POST", "/realtime/calls"),
        endpoint("POST", "/realtime/calls/{id}/accept"),
        endpoint("POST", "/realtime/calls/{id}/hangup"),
        endpoint("POST", "/realtime/calls/{id}/refer"),
        endpoint("POST", "/realtime/calls/{id}/reject"),
    )

    # -- requests ---------------------------------------------------------------------------------

    def check_request(self, match: Match, json: Json) -> None:
        if match.path != CHAT_PATH:
            return
        messages = json.get("messages")
        if messages is None and "contents" in json:
            raise BadRequest(
                "This is a Gemini body: it has `contents`. Send it to /v1beta/models/{model}:generateContent, "
                "or send `messages`.",
                param="contents",
            )
        if not isinstance(messages, list) or not messages:
            raise InvalidMessages("`messages` must be a list with at least one message.", param="messages")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise InvalidMessages("Each of `messages` must be an object with a role.", param="messages")

    def state_hints(self, json: Json, names: Names) -> Iterable[SessionHint]:
        if not names.hold(b'"thought_signature"'):
            return ()
        for call in _tool_calls(json.get("messages")):
            if signature := _signature(call):
                return (SessionHint(openai.secret_state_hint(signature), bound=True),)
        return ()

    def stream_edits(self, call: Call, json: Json, edits: Edits) -> dict[str, bytes]:
        streams = call.stream if edits.stream is None else edits.stream
        options = json.get("stream_options")
        if not streams:
            # The API refuses `stream_options` without `stream`.
            return {"stream_options": b"null"} if edits.stream is False and options is not None else {}
        if not edits.include_usage or (options is not None and not isinstance(options, dict)):
            return {}
        if options is None:
            return {"stream_options": b'{"include_usage":true}'}
        if options.get("include_usage") is True:
            return {}
        members = [member for member in json_body.members(call.body) if member.name == "stream_options"]
        raw = call.body[members[-1].start : members[-1].end]
        return {"stream_options": json_body.splice(raw, {"include_usage": b"true"})}

    def lacks_usage(self, call: Call) -> bool:
        return call.stream and not _wants_usage(call)

    def strip_bound_state(self, call: Call) -> bytes | None:
        if call.json is None or b'"thought_signature"' not in call.body:
            return None
        messages = openai.loads(json_body.dumps(call.json.get("messages")))
        signed = [item["extra_content"]["google"] for item in _tool_calls(messages) if _signature(item)]
        if not signed:
            return None
        for google in signed:
            google["thought_signature"] = _SIGNATURE_PLACEHOLDER
        return json_body.splice(call.body, {"messages": json_body.dumps(messages)})

    # -- answers ----------------------------------------------------------------------------------

    def missing(self, call: Call, answer: Json) -> str:
        if call.match.endpoint.operation is Operation.EMBED:
            return "" if isinstance(answer.get("data"), list) and answer["data"] else "no_embeddings"
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            return "no_choices"
        part = "message" if call.match.path == CHAT_PATH else "text"
        for choice in choices:
            if not isinstance(choice, dict) or part not in choice:
                return "no_message"
        return ""

    def says_nothing(self, answer: Json) -> bool:
        for choice in objects(answer.get("choices")):
            if choice.get("finish_reason") != _NATURAL_END or _says_something(choice):
                return False
        return True

    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        identifier = answer.get("id")
        if call.match.endpoint.operation is Operation.OTHER:
            return [openai.resource_hint(identifier)] if isinstance(identifier, str) and identifier else []
        ids = []
        if isinstance(identifier, str) and identifier and call.json is not None and call.json.get("store") is True:
            ids.append(openai.resource_hint(identifier))
        messages = [choice.get("message") for choice in objects(answer.get("choices"))]
        return ids + _signature_hints(messages)

    # -- streams ----------------------------------------------------------------------------------

    def watcher(self, call: Call) -> StreamWatcher:
        return ChatWatcher(call)

    def terminator(self, call: Call) -> bytes:  # noqa: ARG002
        return _DONE

    def stream_from_answer(self, call: Call, answer: Json) -> bytes:
        chunks = openai_chat_assembly.chunks_of(answer, chat=call.match.path == CHAT_PATH, usage=_wants_usage(call))
        return b"".join(sse.encode(json_body.dumps(chunk)) for chunk in chunks) + _DONE

    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:
        return openai_chat_assembly.answer_from_stream(events, chat=call.match.path == CHAT_PATH)


class ChatWatcher(StreamWatcher):
    """Watches a chat stream. After the first output only suspicious events are parsed."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        wanted = (call.json or {}).get("n")
        self._choices_wanted = wanted if type(wanted) is int and wanted > 0 else 1
        self._choices_finished: set[int] = set()
        self._has_output = False
        self._cut_off = False  # a choice ended by its length, a filter, a tool call
        self._last_usage: Any = None

    def watch(self, event: bytes) -> Mark:
        if self._has_output and event.startswith((b"data: {", b"data:{")) and _is_plain(event):
            return Mark.OUTPUT
        data = sse.data_of(event)
        if len(event) <= _MAX_DONE_BYTES and data.strip() == b"[DONE]":
            self.state.finished = self.state.terminated = True
            return Mark.TERMINATOR
        if not data.strip():
            return Mark.IGNORED
        chunk = openai.loads(data)
        if not isinstance(chunk, dict):
            self._has_output, self.state.empty = True, False
            return Mark.OUTPUT
        if _is_error(chunk) or (b"event" in event and sse.name_of(event) == b"error"):
            self.state.error, self.state.error_status = openai.in_band_error(chunk.get("error") or chunk)
            return Mark.ERROR
        mark = self._watch_chunk(chunk)
        self.state.empty = not self._has_output and self._is_empty()
        return mark

    def settle(self) -> Usage:
        self.state.usage = openai.usage_of(self._last_usage)
        return self.state.usage

    def _watch_chunk(self, chunk: Json) -> Mark:
        choices = chunk.get("choices")
        if isinstance(chunk.get("usage"), dict):
            self._last_usage = chunk["usage"]
            if choices == []:
                return Mark.USAGE_ONLY
        parts = objects(choices)
        for hint in _signature_hints([part.get("delta") for part in parts]):
            if hint not in self.state.resource_ids:
                self.state.resource_ids.append(hint)
        ended = {index_of(part): part["finish_reason"] for part in parts if part.get("finish_reason")}
        if not self._has_output:
            # A chunk of another shape counts as output: it may mean something to the caller.
            self._has_output = not isinstance(choices, list) or any(_says_something(part) for part in parts)
        if ended:
            self._choices_finished |= ended.keys()
            self._cut_off = self._cut_off or any(reason != _NATURAL_END for reason in ended.values())
            self.state.finished = len(self._choices_finished) >= self._choices_wanted
            return Mark.FINISH
        return Mark.OUTPUT if self._has_output else Mark.PROLOGUE

    def _is_empty(self) -> bool:
        """Asked while nothing was said: whether what has ended did so by itself, for no tokens."""
        ended = bool(self._choices_finished) and not self._cut_off
        return ended and not openai.usage_of(self._last_usage).counts_output


def _wants_usage(call: Call) -> bool:
    options = (call.json or {}).get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _is_plain(event: bytes) -> bool:
    """Whether this event can be nothing but a part of the answer. The byte tests spare most events the search."""
    if (
        b'"finish_reason":null' in event
        and b'"error"' not in event
        and b"thought_signature" not in event
        and (b'"usage"' not in event or b'"usage":null' in event)
    ):
        return True
    return _SUSPICIOUS.search(event) is None


def _is_error(chunk: Json) -> bool:
    """vLLM's errors are objects of their own, without an `error` member."""
    return bool(chunk.get("error")) or chunk.get("object") == "error"


def _says_something(choice: Json) -> bool:
    """Whether a choice, of a chunk or of a plain answer, holds more than its role."""
    said = choice.get("delta") or choice.get("message")
    if isinstance(said, dict):
        for name, value in said.items():  # noqa: SIM110 - a generator costs three times as much
            if value and name != "role":
                return True
        return False
    return bool(choice.get("text")) or not {"delta", "message", "text"} & set(choice)


def _tool_calls(messages: object) -> Iterator[Json]:
    for message in objects(messages):
        yield from objects(message.get("tool_calls"))


def _signature(call: Json) -> str:
    """Gemini's thought signature on a tool call, as Google's compatibility layer carries it."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) and signature != _SIGNATURE_PLACEHOLDER else ""


def _signature_hints(messages: list[Any]) -> list[str]:
    calling = [message for message in messages if isinstance(message, dict) and message.get("tool_calls")]
    if not calling:
        return []
    signatures = [signature for call in _tool_calls(calling) if (signature := _signature(call))]
    return [openai.secret_state_hint(signature) for signature in signatures[:_MAX_SIGNATURES]]
