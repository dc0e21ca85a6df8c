"""
The series that one kind of request counts in, looked up once for all requests of that kind.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import Histogram

from app.records import RequestRecord

if TYPE_CHECKING:
    from app.telemetry.metrics import Metrics

_CHAT_DIALECT: Final = "openai_chat"
#: Bounds are whole milliseconds, and so are durations: half of one keeps the rounding of the products out of it.
_HALF_MS: Final = 0.5

#: Error types of the chat metrics that follow from our error code; the others are named after the outcome.
_CHAT_ERROR_TYPES: Final[Mapping[str, str]] = {
    "invalid_json": "parse_error",
    "invalid_messages": "validation_error",
    "invalid_request": "validation_error",
}


def is_chat(dialect: str, operation: str) -> bool:
    """Whether a request belongs to the `chat_completions_*` metrics."""
    return dialect == _CHAT_DIALECT and operation == "generate"


class Labelled(Protocol):
    """What the labels of a request's series are made of: a record, or the shape of several."""

    @property
    def dialect(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def stream(self) -> bool: ...
    @property
    def outcome(self) -> str: ...
    @property
    def error_code(self) -> str: ...


class RequestSeries:
    """The children of one combination of labels, looked up once."""

    def __init__(self, metrics: Metrics, record: Labelled, error_type: str) -> None:
        dialect, status = record.dialect or "none", str(record.status)
        stream = "true" if record.stream else "false"
        self.requests = metrics.requests.labels(dialect, record.operation or "none", status, stream, record.outcome)
        self.seconds = metrics.request_seconds.labels(dialect, stream)
        self.first_token = metrics.first_token_seconds.labels(dialect) if record.stream else None
        self.stream = metrics.stream_seconds.labels(dialect) if record.stream else None
        failed = record.outcome != "success"
        self.errors = metrics.errors.labels(record.outcome) if failed else None
        chat = is_chat(record.dialect, record.operation)
        self.chat_requests = metrics.chat_requests.labels(status, stream) if chat else None
        self.chat_seconds = metrics.chat_seconds.labels(stream) if chat else None
        self.chat_errors = metrics.chat_errors.labels(error_type) if chat and failed else None

    def observe(self, record: RequestRecord) -> None:
        seconds = max(0, record.duration_ms) / 1000
        self.requests.inc()
        self.seconds.observe(seconds)
        if self.errors is not None:
            self.errors.inc()
        if self.first_token is not None and record.first_byte_ms is not None:
            self.first_token.observe(max(0, record.first_byte_ms) / 1000)
        if self.stream is not None and record.first_byte_ms is not None:
            self.stream.observe(max(0, record.duration_ms - record.first_byte_ms) / 1000)
        if self.chat_requests is not None and self.chat_seconds is not None:
            self.chat_requests.inc()
            self.chat_seconds.observe(seconds)
        if self.chat_errors is not None:
            self.chat_errors.inc()

    def observe_successes(self, durations_ms: Sequence[int], first_bytes_ms: Sequence[int | None]) -> None:
        count, ordered = len(durations_ms), sorted(durations_ms)
        self.requests.inc(count)
        _observe_all(self.seconds, ordered)
        if self.chat_requests is not None and self.chat_seconds is not None:
            self.chat_requests.inc(count)
            _observe_all(self.chat_seconds, ordered)
        if self.first_token is not None and self.stream is not None:
            begun = [
                (first, whole) for first, whole in zip(first_bytes_ms, durations_ms, strict=True) if first is not None
            ]
            _observe_all(self.first_token, sorted(first for first, _ in begun))
            _observe_all(self.stream, sorted(max(0, whole - first) for first, whole in begun))


def _observe_all(histogram: Histogram, ordered_ms: Sequence[int]) -> None:
    """
    What `observe` does with each of the numbers, for all at once. The library has no call for it: its buckets hold what
    lies above the bound before (prometheus_client 0.26, `Histogram.observe`).
    """
    if not ordered_ms:
        return
    histogram._sum.inc(sum(ordered_ms) / 1000)
    below = 0
    for bucket, bound in zip(histogram._buckets, histogram._upper_bounds, strict=True):
        upto = bisect_right(ordered_ms, bound * 1000 + _HALF_MS) if bound != math.inf else len(ordered_ms)
        if upto > below:
            bucket.inc(upto - below)
            below = upto
            if below == len(ordered_ms):
                return


def error_type_of(record: Labelled) -> str:
    """The label of a failed chat request."""
    return _CHAT_ERROR_TYPES.get(record.error_code, record.outcome)
