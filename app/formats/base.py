"""
The contract of a wire format: its URLs, how a request is read, how an answer and a stream are watched, how errors look.

A format that only passes bytes through needs nothing else; translation adds to this contract, it does not change it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from app.errors import MiddlewareError

Json = dict[str, Any]

#: Reason of `check_answer`, and of the failure of a stream, where the answer ended by itself and holds nothing.
EMPTY_ANSWER = "empty_answer"


class Operation(StrEnum):
    """What a call asks for. Only GENERATE is booked as a generation."""

    GENERATE = "generate"
    EMBED = "embed"
    COUNT = "count"
    MODELS = "models"
    OTHER = "other"  # files, batches, caches, images ...: relayed, never parsed


class Framing(StrEnum):
    """How a streamed answer is cut into events."""

    SSE = "sse"
    JSON_ARRAY = "json_array"  # Gemini's streamGenerateContent without `alt=sse`


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    One URL rule that a format owns.

    pattern    -- matched against the whole decoded path; groups `model` and `verb` are understood
    stream     -- True or False where the URL decides whether the answer streams, None where the body does
    native     -- False for aliases that only we offer (the upstream path is then built from `upstream_path`)
    upstream_path -- template with `{model}`, used when `native` is False
    """

    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    operation: Operation
    stream: bool | None = None
    framing: Framing = Framing.SSE
    native: bool = True
    upstream_path: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A URL that a format recognised. `path` is the path at the dialect's own provider, decoded, starting with `/`."""

    format: Format
    endpoint: Endpoint
    path: str
    model: str | None


class Usage:
    """
    Tokens of one answer, as wire.md B.4 defines the common meaning: `input` includes cached tokens,
    `output` includes reasoning. None = not said. A plain class: one is made for each answer.
    """

    __slots__ = ("cache_write_tokens", "cached_tokens", "input_tokens", "output_tokens", "reasoning_tokens")

    def __init__(
        self,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
    ) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = cached_tokens
        self.cache_write_tokens = cache_write_tokens
        self.reasoning_tokens = reasoning_tokens

    def _values(self) -> tuple[int | None, ...]:
        written = (self.cached_tokens, self.cache_write_tokens)
        return (self.input_tokens, self.output_tokens, *written, self.reasoning_tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"Usage{self._values()}"

    @property
    def counts_output(self) -> bool:
        """Whether the answer is said to have cost output tokens, although it may show none of them."""
        return bool(self.output_tokens or self.reasoning_tokens)


@dataclass(frozen=True, slots=True)
class SessionHint:
    """
    What ties a request to an earlier one.

    key    -- an opaque string, equal for requests of one conversation
    bound  -- True when the request carries state that only the key that made it can read
    """

    key: str
    bound: bool


class Call:
    """
    A request as the core needs it: read once, the body itself untouched. Nobody changes one. A plain class: one is made
    for each request.

    body      -- the bytes as they came (after an optional gzip was undone)
    json      -- the parsed top level object, or None where the body is not JSON (uploads) or absent
    model     -- the model that the caller asked for, or None
    stream    -- whether the caller wants a stream
    hints     -- sessions this request belongs to, most specific first
    """

    __slots__ = ("body", "hints", "json", "match", "model", "stream")

    def __init__(
        self,
        match: Match,
        body: bytes,
        json: Json | None,
        model: str | None,
        stream: bool,
        hints: tuple[SessionHint, ...] = (),
    ) -> None:
        self.match = match
        self.body = body
        self.json = json
        self.model = model
        self.stream = stream
        self.hints = hints

    def with_body(self, body: bytes) -> Call:
        """The same call with another body, which says the same."""
        return Call(self.match, body, self.json, self.model, self.stream, self.hints)

    def with_match(self, match: Match) -> Call:
        """The same call at another address."""
        return Call(match, self.body, self.json, self.model, self.stream, self.hints)


@dataclass(frozen=True, slots=True)
class Edits:
    """
    The only changes made to a body that passes through. Each is a local splice: every other byte stays.

    model          -- replace the top-level `model` (formats that carry it in the body)
    stream         -- set the top-level `stream`
    include_usage  -- ask for the usage chunk of an OpenAI chat stream
    """

    model: str | None = None
    stream: bool | None = None
    include_usage: bool = False


class Mark(Enum):
    """What one event of a stream is, seen by the format."""

    PROLOGUE = "prologue"  # may be held back: nothing of the answer is in it yet
    OUTPUT = "output"
    USAGE_ONLY = "usage_only"  # OpenAI's extra usage chunk
    FINISH = "finish"  # says how the answer ended, the terminator may still follow
    TERMINATOR = "terminator"  # nothing may follow
    ERROR = "error"
    IGNORED = "ignored"  # comments, empty events


@dataclass(slots=True)
class StreamState:
    """What a `StreamWatcher` has learnt so far."""

    finished: bool = False  # a finish reason or the terminator was seen
    terminated: bool = False  # the terminator was seen
    #: A natural end was seen (nothing cut it off), but no output and no count of output tokens so far.
    empty: bool = False
    #: The in-band error as the provider's JSON body, ready for the verdict; None while there was none.
    error: bytes | None = None
    #: HTTP status that the in-band error would have had (429 for rate_limit_error and so on), 0 when unknown.
    error_status: int = 0
    usage: Usage = field(default_factory=Usage)
    #: Ids under which the caller can refer to this answer later (Responses ids), for stickiness.
    resource_ids: list[str] = field(default_factory=list)


class StreamWatcher(ABC):
    """
    Watches the events of one upstream stream. Fed with one complete event at a time, framing removed or not as
    `Framing` says (see `sse.Splitter`, `json_array.Splitter`): bytes exactly as they came, the blank line included.
    """

    def __init__(self) -> None:
        self.state = StreamState()

    @abstractmethod
    def watch(self, event: bytes) -> Mark:
        """Classify one event and update `state`. Never raises: what cannot be read is OUTPUT."""

    @abstractmethod
    def settle(self) -> Usage:
        """Usage of the whole stream; called once, at its end, complete or not."""


class Format(ABC):
    """One wire format. Instances hold no state."""

    #: Name in settings, logs and `providers.formats`: openai_chat, openai_responses, anthropic_messages, gemini.
    name: str
    #: openai, anthropic or gemini: which SDK family calls it.
    family: str
    endpoints: tuple[Endpoint, ...]

    # -- requests ---------------------------------------------------------------------------------

    @abstractmethod
    def read(self, match: Match, headers: Mapping[str, str], query: str, body: bytes) -> Call:
        """
        Return the call. Raises BadRequest, InvalidJson or InvalidMessages for what is not a request of this format.

        headers -- lower-case names. Only calls with a JSON body that we act on (GENERATE, EMBED, COUNT) are parsed.
        """

    @abstractmethod
    def edit(self, call: Call, edits: Edits) -> bytes:
        """The body with the edits spliced in; `call.body` itself when there is nothing to do."""

    def lacks_usage(self, call: Call) -> bool:  # noqa: ARG002
        """Whether this is a stream that tells its usage only on demand, and the caller did not demand it."""
        return False

    @abstractmethod
    def strip_bound_state(self, call: Call) -> bytes | None:
        """
        The body without the items that only another key can read (encrypted reasoning, thought signatures), or None
        when there is nothing to strip. Used once, after a STATE verdict.
        """

    # -- answers ----------------------------------------------------------------------------------

    @abstractmethod
    def check_answer(self, call: Call, body: bytes) -> tuple[Json | None, str]:
        """
        Judge the body of a 2xx plain answer: (parsed body, "") when it is a usable answer, (parsed or None, reason)
        when it is not: not JSON, an error object inside a 200, no answer in it, or one that ended by itself and is
        empty (EMPTY_ANSWER). For MODELS and OTHER: (None, "").
        """

    @abstractmethod
    def usage(self, answer: Json) -> Usage:
        """Tokens of a plain answer. Absurd numbers (negative, not integers, above 2**53) count as not said."""

    @abstractmethod
    def resource_ids(self, call: Call, answer: Json) -> list[str]:
        """Ids in this answer that a later request can refer to and that live at one key only."""

    def header_resource_ids(self, headers: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Like `resource_ids`, for ids that only the answer's headers (lower-case names) tell."""
        return []

    @abstractmethod
    def rename_model(self, data: bytes, model: str) -> bytes:
        """`data` (a plain body or one stream event) with the answering model's name replaced by `model`."""

    # -- streams ----------------------------------------------------------------------------------

    @abstractmethod
    def watcher(self, call: Call) -> StreamWatcher: ...

    @abstractmethod
    def terminator(self, call: Call) -> bytes:
        """What to append when a stream has finished but its terminator never came; b"" where there is none."""

    @abstractmethod
    def stream_from_answer(self, call: Call, answer: Json) -> bytes:
        """A whole stream that says what this plain answer says (an upstream that ignored `stream: true`)."""

    @abstractmethod
    def answer_from_stream(self, call: Call, events: list[bytes]) -> Json | None:
        """The plain answer that these events add up to (an upstream that streamed unasked); None if they do not."""

    # -- errors -----------------------------------------------------------------------------------

    @abstractmethod
    def error_body(self, error: MiddlewareError, request_id: str) -> Json:
        """The error in this dialect's shape; carries the code, the sentence and the request id."""

    @abstractmethod
    def error_event(self, call: Call | None, error: MiddlewareError, request_id: str, *, begun: bool = True) -> bytes:
        """
        The same as the last event of a stream (framing included).

        begun -- an event went before it, which matters where events stand in an array
        """

    @abstractmethod
    def is_error_body(self, body: bytes) -> bool:
        """Whether an upstream error body already has this dialect's shape and may go to the caller (redacted)."""
