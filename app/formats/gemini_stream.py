"""
Gemini streams: what each chunk means, and a plain answer and a stream turned into each other.

Each chunk is a whole GenerateContentResponse with a part of the answer; there is no terminator. An unreadable chunk
counts as output. Truth: the reference of `models.streamGenerateContent` on ai.google.dev and the official SDK.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from typing_extensions import override

from app.formats import gemini_state, json_array, json_body, sse
from app.formats.base import Framing, Json, Mark, StreamWatcher, Usage

#: HTTP status of a google.rpc status name.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_USAGE_NAMES = ("usageMetadata", "usage_metadata")
_NATURAL_END = "STOP"
_UNSPECIFIED = ("", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")
# Members that make a chunk worth parsing after the first output. Inside text their quotes would be escaped.
_TELLING = re.compile(rb'"(?:finish_?[rR]eason|block_?[rR]eason|error|thought_?[sS]ignature)"\s*+:')
_PLAIN_CHUNK = re.compile(rb"data:|[\[, \t\r\n]*+\{")
_USAGE = re.compile(rb'"usage_?[mM]etadata"')
_JOINABLE = frozenset({"text", "thought", "thoughtSignature"})


def usage_of(answer: object) -> Usage:
    """Return the tokens of an answer or a chunk: input with tool prompts, output with thoughts."""
    usage = gemini_state.either(answer, _USAGE_NAMES) if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        input_tokens=total_of(usage, "promptTokenCount", "toolUsePromptTokenCount"),
        output_tokens=total_of(usage, "candidatesTokenCount", "thoughtsTokenCount"),
        cached_tokens=json_body.count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=json_body.count(usage.get("thoughtsTokenCount")),
    )


def total_of(usage: Json, *names: str) -> int | None:
    """Return the sum of those numbers that `usage` has, None where it has none of them."""
    known = [number for name in names if (number := json_body.count(usage.get(name))) is not None]
    return json_body.count(sum(known)) if known else None


def error_status(error: object) -> int:
    """Return the HTTP status that an `error` member stands for, 0 when it does not say."""
    if not isinstance(error, dict):
        return 0
    code = error.get("code")
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    return HTTP_STATUS.get(str(error.get("status") or code).upper(), 0)


class GeminiWatcher(StreamWatcher):
    """
    Holds back chunks without a part. Nothing terminates these streams: a finished one is complete when the upstream
    ends it, in the array form behind its closing bracket.

    A chunk after the first output is only parsed when a byte test shows that it may say more than text, or where
    several candidates were asked for, which each have an end of their own.
    """

    def __init__(self, framing: Framing, *, several: bool = False) -> None:
        super().__init__()
        self._several = several
        self._framing = framing
        self._begun = False
        self._natural: bool | None = None  # whether each end so far came by itself; None before the first
        self._counts_output = False
        self._usage_event = b""
        self._open: set[int] = set()
        self._done: set[int] = set()

    @override
    def watch(self, event: bytes) -> Mark:
        if _USAGE.search(event):
            self._usage_event = event
        if self._begun and not self._several and _PLAIN_CHUNK.match(event) and not _TELLING.search(event):
            return Mark.OUTPUT
        data = data_of(event, self._framing)
        if not data.strip():
            return Mark.IGNORED
        chunk = chunk_of(data)
        mark = self._classify(chunk, data)
        self._counts_output = self._counts_output or usage_of(chunk).counts_output
        said = mark is Mark.OUTPUT or (mark is Mark.FINISH and (not self._natural or _has_output(chunk or {})))
        self._begun = self._begun or said
        self.state.empty = self._natural is True and not self._begun and not self._counts_output
        return mark

    @override
    def settle(self) -> Usage:
        if self._usage_event:
            self.state.usage = usage_of(chunk_of(data_of(self._usage_event, self._framing)))
        return self.state.usage

    def _classify(self, chunk: Json | None, data: bytes) -> Mark:
        if chunk is None:
            return Mark.OUTPUT
        if chunk.get("error"):
            self.state.error = data.strip(b"[] \t\r\n")
            self.state.error_status = error_status(chunk["error"])
            return Mark.ERROR
        known = self.state.resource_ids
        known += [key for key in gemini_state.answer_keys(chunk) if key not in known]
        finishing = self._note_finish(chunk)
        if finishing:
            return Mark.FINISH
        return Mark.OUTPUT if self._begun or _has_output(chunk) else Mark.PROLOGUE

    def _note_finish(self, chunk: Json) -> bool:
        """Whether this chunk ends a candidate or says that the prompt was blocked."""
        finishing = _is_blocked(chunk)
        if finishing:
            self._natural = False
        for candidate in _candidates(chunk):
            self._open.add(_index(candidate))
            if _is_said(candidate.get("finishReason")):
                self._done.add(_index(candidate))
                self._natural = self._natural is not False and candidate["finishReason"] == _NATURAL_END
                finishing = True
        self.state.finished = (self.state.finished or finishing) and self._open <= self._done
        return finishing


def is_empty(answer: Json) -> bool:
    """Return whether an answer ended by itself and holds nothing, for no output tokens."""
    candidates = _candidates(answer)
    ended = bool(candidates) and all(candidate.get("finishReason") == _NATURAL_END for candidate in candidates)
    return ended and not _is_blocked(answer) and not _has_output(answer) and not usage_of(answer).counts_output


def data_of(event: bytes, framing: Framing) -> bytes:
    """Return the JSON text of one event or array piece; b"" where it has none."""
    return sse.data_of(event) if framing is Framing.SSE else json_array.object_of(event)


def chunk_of(data: bytes) -> Json | None:
    """Return the object in `data`, also out of an array of one; None where there is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None


def stream_from_answer(answer: Json, framing: Framing) -> bytes:
    """Return the whole stream, of one chunk, that says what this plain answer says."""
    data = json_body.dumps(answer)
    return sse.encode(data) if framing is Framing.SSE else b"[" + data + b"]"


def answer_from_stream(events: Iterable[bytes]) -> Json | None:
    """
    Return the answer that the chunks, of either framing, add up to; None where they hold an error or no end.

    Neighbouring texts of one kind (thought or not) become one part. All else is kept as it came; of what is repeated
    the last counts.
    """
    answer: Json = {}
    candidates: dict[int, _Candidate] = {}
    for event in events:
        framing = Framing.JSON_ARRAY if event.lstrip()[:1] in (b"[", b",", b"{", b"]") else Framing.SSE
        data = data_of(event, framing)
        if not data.strip():
            continue
        chunk = chunk_of(data)
        if chunk is None or chunk.get("error"):
            return None
        answer.update((name, value) for name, value in chunk.items() if name != "candidates")
        for candidate in _candidates(chunk):
            candidates.setdefault(_index(candidate), _Candidate()).add(candidate)
    merged = [candidates[index].result() for index in sorted(candidates)]
    complete = merged and all(_is_said(candidate.get("finishReason")) for candidate in merged)
    if not complete and not _is_blocked(answer):
        return None
    return {"candidates": merged, **answer} if merged else answer


class _Candidate:
    """One candidate put together from the chunks of its stream."""

    def __init__(self) -> None:
        self._members: Json = {}
        self._content: Json = {}
        self._parts: list[Any] = []

    def add(self, candidate: Json) -> None:
        self._members.update(candidate)
        content = candidate.get("content")
        if isinstance(content, dict):
            self._content.update(content)
            self._parts += [part for part in gemini_state.listed(content.get("parts")) if not _is_empty(part)]

    def result(self) -> Json:
        """Return the candidate, neighbouring texts of one kind joined; a signature ends the part that it signs."""
        if not self._content:
            return self._members
        joined: list[Any] = []
        texts: list[str] = []
        for part in self._parts:
            if not _is_joinable(part):
                texts = []
                joined.append(part)
            elif texts and _continues(joined[-1], part):
                texts.append(part["text"])
                joined[-1] |= {name: value for name, value in part.items() if name != "text"}
            else:
                texts = [part["text"]]
                joined.append({**part, "text": texts})
        parts = [{**part, "text": "".join(part["text"])} if _is_joined(part) else part for part in joined]
        return {**self._members, "content": {**self._content, "parts": parts}}


def _continues(last: Json, part: Json) -> bool:
    return "thoughtSignature" not in last and bool(last.get("thought")) == bool(part.get("thought"))


def _is_joined(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), list)


def _is_joinable(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.keys() <= _JOINABLE


def _has_output(chunk: Json) -> bool:
    contents = [candidate.get("content") for candidate in _candidates(chunk)]
    parts = [
        part for content in contents if isinstance(content, dict) for part in gemini_state.listed(content.get("parts"))
    ]
    return not all(_is_empty(part) for part in parts)


def _is_empty(part: Any) -> bool:
    return part in ({}, {"text": ""}, {"text": "", "thought": True})


def _is_blocked(chunk: Json) -> bool:
    """Whether the prompt was refused: then there is no candidate, and the answer is complete."""
    feedback = chunk.get("promptFeedback")
    return isinstance(feedback, dict) and _is_said(feedback.get("blockReason"))


def _candidates(chunk: Json) -> list[Json]:
    candidates = chunk.get("candidates")
    return [entry for entry in candidates if isinstance(entry, dict)] if isinstance(candidates, list) else []


def _index(candidate: Json) -> int:
    index = candidate.get("index", 0)
    return index if isinstance(index, int) else 0


def _is_said(reason: object) -> bool:
    return isinstance(reason, str) and reason not in _UNSPECIFIED
