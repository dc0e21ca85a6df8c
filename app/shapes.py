"""
Shapes: what many requests have in common, made fit for storing once instead of with each request. Texts are redacted
and cut here, and nowhere else on the way of a record into rows, lines and statistics.

A shape's id follows from its content, so that every worker gives the same shape the same id without asking anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

import orjson

from app.records import AttemptRecord, RequestRecord
from app.storage.row_writer import SHAPE_COLUMNS
from app.telemetry.access import AccessParts, access_parts
from app.telemetry.logs import TextRedactor, safe_text, without_query

#: Text columns that hold words of our own, and how long they may be.
_OWN_WORDS: Final = {"method": 16, "dialect": 32, "operation": 16, "outcome": 32, "error_code": 64, "peer": 64}
#: Text columns that come from outside and may hold a secret.
_FOREIGN_WORDS: Final = {"model": 256, "upstream_model": 256, "provider": 64, "user_agent": 512}
_MAX_PATH_CHARS: Final = 2048
MAX_REQUEST_ID_CHARS: Final = 128
MAX_INT64: Final = 2**63 - 1
MAX_INT32: Final = 2**31 - 1
OK: Final = "ok"

#: Shapes kept in memory; beyond it they start afresh, which only costs time.
MAX_SHAPES: Final = 2000
#: Ids of older rows' shapes, which the migration made, are below.
_FIRST_ID: Final = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """
    The columns of `request_shapes`; see `RequestRecord`. Compared by identity, because it is looked up often.

    model_name  -- under which tokens are counted: as the provider knows it, `unknown` where none was named
    access      -- the parts of an access line that do not change
    """

    id: int
    method: str
    path: str
    dialect: str
    operation: str
    model: str | None
    upstream_model: str | None
    provider: str | None
    client_id: int | None
    stream: bool
    status: int
    outcome: str
    error_code: str
    peer: str
    user_agent: str
    model_name: str
    access: AccessParts

    def columns(self, seen_at: float) -> tuple[Any, ...]:
        """The row of `request_shapes`, in the order of `SHAPE_COLUMNS`."""
        return (*_columns_of(self), seen_at)

    def shared(self) -> dict[str, Any]:
        """The columns by their names, without the id."""
        return {name: getattr(self, name) for name in _SHARED}


_SHARED: Final = SHAPE_COLUMNS[1:-1]  # without the id, and when it was seen
#: A booked success: shape, request_id, started_at, key_id, duration_ms, first_byte_ms, request_bytes, response_bytes,
#: input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens.
Entry = tuple[
    Shape,
    str,
    float,
    int | None,
    int,
    int | None,
    int,
    int,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
]

_columns_of: Final[Callable[[Shape], tuple[Any, ...]]] = attrgetter("id", *_SHARED)
_identity_of: Final[Callable[[RequestRecord], tuple[Any, ...]]] = attrgetter(*_SHARED)


class Shapes:
    """
    Makes shapes, and remembers them. Every method may be called from any thread.

    epoch  -- grows when shapes made before should not be used any more, because the secrets have changed
    """

    def __init__(self, redactor: TextRedactor) -> None:
        self._redactor = redactor
        self._known: dict[tuple[Any, ...], Shape] = {}
        self.epoch = 0

    def of(self, record: RequestRecord) -> Shape:
        """The shape of the record; the same object while it is remembered."""
        identity = _identity_of(record)
        shape = self._known.get(identity)
        if shape is None:
            epoch = self.epoch
            shape = self._make(record)
            if len(self._known) >= MAX_SHAPES:
                self._known = {}
            # A long path or name is not worth remembering, and would make the bound meaningless.
            if epoch == self.epoch and sum(len(text) for text in identity if isinstance(text, str)) <= _MAX_PATH_CHARS:
                self._known[identity] = shape
        return shape

    def forget(self) -> None:
        """The secrets have changed: what is made from now on is redacted anew."""
        self.epoch += 1
        self._known = {}

    def safe_request_id(self, text: str) -> str:
        """A request id that a caller gave, as it may be stored and shown."""
        # Redact first: a cut secret is no longer recognised.
        return safe_text(self._redactor.text(text), MAX_REQUEST_ID_CHARS)

    def safe_message(self, text: str, max_chars: int) -> str:
        """A text from an upstream, as it may be stored and shown."""
        return safe_text(self._redactor.text(text), max_chars) if text else ""

    def _make(self, record: RequestRecord) -> Shape:
        redact = self._redactor.text
        values: dict[str, Any] = {
            "path": safe_text(redact(without_query(record.path)), _MAX_PATH_CHARS),
            "client_id": None if record.client_id is None else clamp(record.client_id, MAX_INT64),
            "stream": bool(record.stream),
            "status": clamp(record.status, MAX_INT32),
        }
        for name, max_chars in _OWN_WORDS.items():
            values[name] = safe_text(getattr(record, name), max_chars)
        for name, max_chars in _FOREIGN_WORDS.items():
            text = getattr(record, name)
            values[name] = None if text is None else safe_text(redact(text), max_chars)
        return Shape(
            id=_shape_id([values[name] for name in _SHARED]),
            **values,
            model_name=values["upstream_model"] or values["model"] or "unknown",
            access=access_parts(values),
        )


def _shape_id(columns: list[Any]) -> int:
    digest = hashlib.blake2b(orjson.dumps(columns), digest_size=8).digest()
    return _FIRST_ID + int.from_bytes(digest, "big") % _FIRST_ID


def plain_attempt(provider: str | None, status: int, key_id: int | None, duration_ms: int) -> AttemptRecord:
    """The attempt of a request that needed only one, which was ok: it need not be stored."""
    return AttemptRecord(
        number=1, provider=provider or "", key_id=key_id, status=status, verdict=OK, duration_ms=duration_ms
    )


_OF_THE_REQUEST: Final = ("provider", "key_id", "status")
_ALIKE: Final = sorted({field.name for field in fields(AttemptRecord)} - {*_OF_THE_REQUEST, "duration_ms"})
_fields_of: Final[Callable[[AttemptRecord], tuple[Any, ...]]] = attrgetter(*_OF_THE_REQUEST, *_ALIKE)
#: What `plain_attempt` says of every request alike.
_PLAIN_REST: Final = _fields_of(plain_attempt(None, 0, None, 0))[len(_OF_THE_REQUEST) :]


def is_plain(record: RequestRecord) -> bool:
    """Whether the record has one attempt, and that is what `plain_attempt` makes of the rest, give or take a ms."""
    if len(record.attempts) != 1:
        return False
    attempt = record.attempts[0]
    if abs(attempt.duration_ms - record.duration_ms) > 1:  # it was sent a moment after the request began
        return False
    return _fields_of(attempt) == (record.provider or "", record.key_id, record.status, *_PLAIN_REST)


def clamp(value: int | None, highest: int) -> int:
    """`value` between 0 and `highest`; 0 for None."""
    return 0 if value is None else max(0, min(value, highest))
