"""
The five ways in which an answer streams: a request, a whole stream cut into prologue, content and tail, and what a
client reads out of the bytes that it gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tests import canned
from tests.canned_errors import ANTHROPIC_RATE_LIMIT, GEMINI_PER_MINUTE, OPENAI_RATE_LIMIT
from tests.fake_provider import Behavior, Piece, json_reply, stream
from tests.gateway import RawClient
from tests.proxy.dialects import CHAT, GEMINI, MESSAGES, Dialect, Json

#: Two, three and four bytes of UTF-8, and characters that some line readers take for the end of a line.
WORDS = ("Grüße ", "aus 東京 ", "\u2028🙂\u0085.")
HEARTBEAT = b"\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """What a client understood: the text, how the answer ended, the error that it was told."""

    text: str = ""
    finish: str = ""
    error: Json | None = None


@dataclass(frozen=True)
class StreamCase:
    """
    prologue  -- events that say nothing yet
    content   -- events with a part of the answer
    tail      -- what ends the stream
    in_band   -- a rate limit, told inside the stream
    known     -- tokens (input, output) that are known once the content has come
    """

    name: str
    dialect: Dialect
    prologue: tuple[bytes, ...]
    content: tuple[bytes, ...]
    tail: tuple[bytes, ...]
    in_band: bytes
    read: Callable[[bytes], Read]
    finish: str
    words: tuple[str, ...] = WORDS
    content_type: str = "text/event-stream"
    known: tuple[int | None, int | None] = (None, None)
    terminator: bytes = b""
    answer: Json = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def events(self) -> tuple[bytes, ...]:
        return self.prologue + self.content + self.tail

    @property
    def body(self) -> bytes:
        return b"".join(self.events)

    @property
    def is_array(self) -> bool:
        return self.content_type == "application/json"

    def streams(self, *chunks: Piece, end: str = "end") -> Behavior:
        """An upstream that sends these, or the whole stream."""
        return stream(chunks or self.events, content_type=self.content_type, end=end)

    def is_complete(self, read: Read, text: str | None = None) -> bool:
        return read == Read("".join(self.words) if text is None else text, self.finish)

    def as_plain(self) -> Dialect:
        """The same call without the wish to stream."""
        if self.dialect.provider == "gemini":
            return GEMINI
        return replace(self.dialect, request={**self.dialect.request, "stream": False}, streams=False)

    def plain_reply(self) -> Behavior:
        """An upstream that does not stream, whoever asks."""
        return json_reply(self.answer)


# -- reading ------------------------------------------------------------------------------------------


def chunks_of(client: RawClient) -> tuple[list[bytes], bool]:
    """The chunks that are still to come, one by one, and whether the final one was among them."""
    found: list[bytes] = []
    try:
        while size := int(client.until(b"\r\n"), 16):
            found.append(client.exactly(size))
            client.until(b"\r\n")
        client.until(b"\r\n")
    except (EOFError, ConnectionResetError):
        return found, False
    return found, True


def see(client: RawClient, mark: bytes) -> None:
    """Read until `mark` is among the bytes that came; they stay to be read."""
    while mark not in client._buffer:
        data = client.socket.recv(65536)
        assert data, client._buffer
        client._buffer += data


def events_of(body: bytes) -> Iterator[tuple[str, str]]:
    """(event name, data) as a client reads them: by lines, as the HTML standard says. Half an event is none."""
    name, data = "", []
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            data.append(value)


def _read_chat(body: bytes) -> Read:
    text, finish, error = "", "", None
    done = False
    for _, data in events_of(body):
        assert not done, "an event after the terminator"
        done = data == "[DONE]"
        chunk: Json = {} if done else json.loads(data)
        error = chunk.get("error") or error
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    return Read(text, finish if done else "", error)


def _read_responses(body: bytes) -> Read:
    text, finish, error = "", "", None
    for name, data in events_of(body):
        event = json.loads(data)
        assert name == event["type"]
        assert not finish, "an event after the terminator"
        if name == "response.output_text.delta":
            text += event["delta"]
        elif name == "response.failed":
            error = event["response"]["error"]
        elif name == "response.completed":
            finish = event["response"]["status"]
    return Read(text, finish, error)


def _read_messages(body: bytes) -> Read:
    text, reason, error = "", "", None
    stopped = False
    for name, data in events_of(body):
        event = json.loads(data)
        assert name == event["type"]
        assert not stopped, "an event after the terminator"
        if name == "content_block_delta":
            text += event["delta"]["text"]
        elif name == "message_delta":
            reason = event["delta"]["stop_reason"]
        elif name == "error":
            error = event["error"]
        stopped = name == "message_stop"
    return Read(text, reason if stopped else "", error)


def _read_gemini_objects(objects: list[Any]) -> Read:
    text, finish, error = "", "", None
    for found in objects:
        error = found.get("error") or error
        for candidate in found.get("candidates", ()):
            text += "".join(part["text"] for part in candidate["content"]["parts"])
            finish = candidate.get("finishReason", finish)
    return Read(text, finish, error)


def _read_gemini(body: bytes) -> Read:
    return _read_gemini_objects([json.loads(data) for _, data in events_of(body)])


def _read_array(body: bytes) -> Read:
    return _read_gemini_objects(json.loads(body))


# -- the cases ----------------------------------------------------------------------------------------


class _ArrayDialect(Dialect):
    """Its streams are JSON, not events."""

    @property
    def good(self) -> Behavior:
        return stream(self.events, content_type="application/json")


def _streamed(dialect: Dialect, name: str, **changes: Any) -> Dialect:
    return replace(dialect, name=name, streams=True, **changes)


def _fields(dialect: Dialect) -> dict[str, Any]:
    return {found.name: getattr(dialect, found.name) for found in fields(dialect)} | {"streams": True}


def _chat() -> StreamCase:
    asked = {**CHAT.request, "stream": True, "stream_options": {"include_usage": True}}
    events = canned.chat_stream(WORDS)
    return StreamCase(
        name="openai_chat",
        dialect=_streamed(CHAT, "openai_chat", request=asked, events=tuple(events)),
        prologue=tuple(events[:1]),
        content=tuple(events[1:4]),
        tail=tuple(events[4:]),
        in_band=canned.data_event(OPENAI_RATE_LIMIT),
        read=_read_chat,
        finish="stop",
        terminator=canned.DONE,
        answer=canned.chat("".join(WORDS)),
    )


def _responses() -> StreamCase:
    events = canned.response_stream(WORDS)
    error = {"code": "rate_limit_exceeded", "message": "Rate limit reached."}
    failed = {"type": "response.failed", "response": canned.response("", status="failed", output=[], error=error)}
    return StreamCase(
        name="openai_responses",
        dialect=_streamed(
            CHAT,
            "openai_responses",
            path="/v1/responses",
            request={**canned.RESPONSES_REQUEST, "stream": True},
            events=tuple(events),
        ),
        prologue=tuple(events[:4]),
        content=tuple(events[4:7]),
        tail=tuple(events[7:]),
        in_band=canned.named_event({**failed, "sequence_number": 9}),
        read=_read_responses,
        finish="completed",
        terminator=events[-1],
        answer=canned.response("".join(WORDS)),
    )


def _messages() -> StreamCase:
    events = canned.message_stream(WORDS)
    return StreamCase(
        name="anthropic_messages",
        dialect=_streamed(
            MESSAGES, "anthropic_messages", request={**MESSAGES.request, "stream": True}, events=tuple(events)
        ),
        prologue=tuple(events[:3]),
        content=tuple(events[3:6]),
        tail=tuple(events[6:]),
        in_band=canned.named_event(ANTHROPIC_RATE_LIMIT),
        read=_read_messages,
        finish="end_turn",
        known=(canned.INPUT_TOKENS, 1),
        terminator=canned.MESSAGE_STOP,
        answer=canned.message("".join(WORDS)),
    )


def _gemini_objects() -> list[Json]:
    return [
        canned.gemini(parts=[], finish=None),
        *(canned.gemini(word, finish=None) for word in WORDS),
        canned.gemini("", finish="STOP"),
    ]


def _gemini() -> StreamCase:
    events = [canned.data_event(part, newline="\r\n") for part in _gemini_objects()]
    path = GEMINI.path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    return StreamCase(
        name="gemini_sse",
        dialect=_streamed(GEMINI, "gemini_sse", path=path, events=tuple(events)),
        prologue=tuple(events[:1]),
        content=tuple(events[1:4]),
        tail=tuple(events[4:]),
        in_band=canned.data_event(GEMINI_PER_MINUTE, newline="\r\n"),
        read=_read_gemini,
        finish="STOP",
        known=(canned.INPUT_TOKENS, canned.OUTPUT_TOKENS),
        answer=canned.gemini("".join(WORDS)),
    )


def _gemini_array() -> StreamCase:
    objects = [json.dumps(part, indent=2).encode() for part in _gemini_objects()]
    pieces = (b"[" + objects[0], *(b",\r\n" + found for found in objects[1:]), b"]\n")
    path = GEMINI.path.replace(":generateContent", ":streamGenerateContent")
    return StreamCase(
        name="gemini_array",
        dialect=_ArrayDialect(**{**_fields(GEMINI), "name": "gemini_array", "path": path, "events": pieces}),
        prologue=pieces[:1],
        content=pieces[1:4],
        tail=pieces[4:],
        in_band=b",\r\n" + json.dumps(GEMINI_PER_MINUTE).encode(),
        read=_read_array,
        finish="STOP",
        content_type="application/json",
        known=(canned.INPUT_TOKENS, canned.OUTPUT_TOKENS),
        answer=canned.gemini("".join(WORDS)),
    )


CASES = (_chat(), _responses(), _messages(), _gemini(), _gemini_array())
SSE_CASES = CASES[:4]
