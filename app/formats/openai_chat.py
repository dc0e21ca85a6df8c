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
from app.formats import json_body, openai, sse
from app.formats.base import Call, Edits, Json, Mark, Match, Operation, SessionHint, StreamWatcher, Usage
from app.formats.openai import OpenAiFormat, endpoint

CHAT_PATH = "/v1/chat/completions"

_DONE = b"data: [DONE]\n\n"
# A terminator is short; anything longer that holds the word is text.
_MAX_DONE_BYTES = 64
# Only events with one of these need to be parsed. Quotes inside a JSON string are escaped, so text never matches.
_SUSPICIOUS = re.compile(
    rb'"(?:error|usage)"\s*:\s*[{"]|"(?:finish_reason|thought_signature)"\s*:\s*"|"choices"\s*:\s*\[\s*\]'
)
# Accepted by Gemini in the place of a signature that was made for another project.
_SIGNATURE_PLACEHOLDER = "skip_thought_signature_validator"
_MAX_SIGNATURES = 8
_MERGED_LEVELS = 8
_NEVER_GROWING = frozenset({"role", "id", "type", "name"})


class OpenAiChat(OpenAiFormat):
    """Chat Completions and the common part of the OpenAI API."""

    name = "openai_chat"
    endpoints = (
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
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidMessages("Each of `messages` must be an object with a role.", param="messages")

    def state_hints(self, json: Json, body: bytes) -> Iterable[SessionHint]:
        if b'"thought_signature"' not in body:
            return
        for call in _tool_calls(json.get("messages")):
            if signature := _signature(call):
                yield SessionHint(openai.secret_state_hint(signature), bound=True)
                return

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
        return "" if all(isinstance(choice, dict) and part in choice for choice in choices) else "no_message"

    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        identifier = answer.get("id")
        if call.match.endpoint.operation is Operation.OTHER:
            return [openai.resource_hint(identifier)] if isinstance(identifier, str) and identifier else []
        ids = []
        if isinstance(identifier, str) and identifier and call.json is not None and call.json.get("store") is True:
            ids.append(openai.resource_hint(identifier))
        messages = [choice.get("message") for choice in _objects(answer.get("choices"))]
        return ids + _signature_hints(messages)

    # -- streams ----------------------------------------------------------------------------------

    def watcher(self, call: Call) -> StreamWatcher:
        return ChatWatcher(call)

    def terminator(self, call: Call) -> bytes:  # noqa: ARG002
        return _DONE

    def stream_from_answer(self, call: Call, answer: Json) -> bytes:
        chat = call.match.path == CHAT_PATH
        base = {name: value for name, value in answer.items() if name not in ("choices", "usage", "object")}
        base["object"] = "chat.completion.chunk" if chat else "text_completion"
        choices = _objects(answer.get("choices"))
        chunks: list[Json] = []
        for choice in choices:
            chunks += ({"choices": [part]} for part in (_deltas(choice) if chat else [choice]))
        if _wants_usage(call):
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks.append({"choices": [], "usage": answer.get("usage")})
        return b"".join(sse.encode(json_body.dumps({**base, **chunk})) for chunk in chunks) + _DONE

    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:
        answer: Json = {}
        choices: dict[int, Json] = {}
        for chunk in _chunks(events):
            if chunk.get("error"):
                return None
            if isinstance(chunk.get("usage"), dict):
                answer["usage"] = chunk["usage"]
            for name, value in chunk.items():
                if name not in ("choices", "usage"):
                    answer.setdefault(name, value)
            for choice in _objects(chunk.get("choices")):
                _add_choice(choices.setdefault(_index(choice), {}), choice)
        if not choices or not all(choice.get("finish_reason") for choice in choices.values()):
            return None
        chat = call.match.path == CHAT_PATH
        answer["object"] = "chat.completion" if chat else "text_completion"
        answer["choices"] = [_finished(index, choices[index], chat=chat) for index in sorted(choices)]
        return answer


class ChatWatcher(StreamWatcher):
    """Watches a chat stream. After the first output only suspicious events are parsed."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        wanted = (call.json or {}).get("n")
        self._choices_wanted = wanted if type(wanted) is int and wanted > 0 else 1
        self._choices_finished: set[int] = set()
        self._has_output = False
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
            self._has_output = True
            return Mark.OUTPUT
        if chunk.get("error") or (b"event" in event and sse.name_of(event) == b"error"):
            self.state.error, self.state.error_status = openai.in_band_error(chunk.get("error") or chunk)
            return Mark.ERROR
        return self._watch_chunk(chunk)

    def settle(self) -> Usage:
        self.state.usage = openai.usage_of(self._last_usage)
        return self.state.usage

    def _watch_chunk(self, chunk: Json) -> Mark:
        choices = chunk.get("choices")
        if isinstance(chunk.get("usage"), dict):
            self._last_usage = chunk["usage"]
            if choices == []:
                return Mark.USAGE_ONLY
        parts = _objects(choices)
        for hint in _signature_hints([part.get("delta") for part in parts]):
            if hint not in self.state.resource_ids:
                self.state.resource_ids.append(hint)
        ended = {_index(part) for part in parts if part.get("finish_reason")}
        if not self._has_output:
            # A chunk of another shape counts as output: it may mean something to the caller.
            self._has_output = not isinstance(choices, list) or any(_says_something(part) for part in parts)
        if ended:
            self._choices_finished |= ended
            self.state.finished = len(self._choices_finished) >= self._choices_wanted
            return Mark.FINISH
        return Mark.OUTPUT if self._has_output else Mark.PROLOGUE


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


def _says_something(choice: Json) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(value for name, value in delta.items() if name != "role")
    return bool(choice.get("text")) or not {"delta", "text"} & set(choice)


def _chunks(events: list[bytes]) -> Iterator[Json]:
    for event in events:
        chunk = openai.loads(sse.data_of(event))
        if isinstance(chunk, dict):
            yield chunk


def _deltas(choice: Json) -> list[Json]:
    """The chunks' choices that say what one plain choice says."""
    found = choice.get("message")
    message: Json = found if isinstance(found, dict) else {}
    index = _index(choice)
    opening = {
        "role": message.get("role") or "assistant",
        "content": "" if message.get("content") is not None else None,
    }
    delta = {name: value for name, value in message.items() if name != "role" and value not in (None, "", [])}
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(_objects(delta["tool_calls"]))]
    parts = [{"index": index, "delta": opening, "finish_reason": None}]
    if delta:
        parts.append({"index": index, "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": None})
    parts.append({"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"})
    return parts


def _add_choice(choice: Json, part: Json) -> None:
    """Add one chunk's part of a choice to what is known of it."""
    for name, value in part.items():
        if value is None or name == "index":
            continue
        if name == "delta" and isinstance(value, dict):
            _merge(choice.setdefault("message", {}), value)
        elif name in ("text", "logprobs"):
            _merge(choice, {name: value})
        else:
            choice[name] = value


def _merge(known: Json, delta: Json, levels: int = _MERGED_LEVELS) -> None:
    """Add a delta: texts and lists grow, objects are merged, tool calls keep apart by their index."""
    for name, value in delta.items():
        before = known.get(name)
        if name == "tool_calls":
            _merge_calls(known.setdefault("tool_calls", []), _objects(value))
        elif name not in _NEVER_GROWING and (_are(str, before, value) or _are(list, before, value)):
            known[name] = before + value
        elif isinstance(value, dict) and isinstance(before, dict) and levels:
            _merge(before, value, levels - 1)
        elif isinstance(value, dict):
            known[name] = dict(value)
        elif value is not None and not (value == "" and before):
            known[name] = value


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _merge_calls(calls: list[Json], deltas: list[Json]) -> None:
    for delta in deltas:
        index = delta.get("index")
        call = next((call for call in calls if call["index"] == index), None) if index is not None else None
        if call is None and index is None and calls and not delta.get("id"):
            call = calls[-1]  # a server that numbers nothing goes on with the call that it began last
        if call is None:
            call = {"index": len(calls) if index is None else index}
            calls.append(call)
        _merge(call, {name: value for name, value in delta.items() if name != "index"})


def _finished(index: int, choice: Json, *, chat: bool) -> Json:
    if not chat:
        return {"index": index, "text": "", "logprobs": None, **choice}
    message = {"role": "assistant", "content": None, **choice.get("message", {})}
    calls = message.get("tool_calls")
    if calls:
        ordered = sorted(calls, key=lambda call: call["index"] if isinstance(call["index"], int) else 0)
        message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in ordered]
        message["content"] = message["content"] or None
    return {"index": index, "logprobs": None, **choice, "message": message}


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _index(choice: Json) -> int:
    index = choice.get("index")
    return index if type(index) is int else 0


def _tool_calls(messages: object) -> Iterator[Json]:
    for message in _objects(messages):
        yield from _objects(message.get("tool_calls"))


def _signature(call: Json) -> str:
    """Gemini's thought signature on a tool call, as Google's compatibility layer carries it."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) and signature != _SIGNATURE_PLACEHOLDER else ""


def _signature_hints(messages: list[Any]) -> list[str]:
    signatures = [signature for call in _tool_calls(messages) if (signature := _signature(call))]
    return [openai.secret_state_hint(signature) for signature in signatures[:_MAX_SIGNATURES]]
