"""
Fills the record of one request as it goes along. Pure: instants are passed in.
"""

from __future__ import annotations

from app.errors import MiddlewareError
from app.formats.base import Call, Usage
from app.proxy.admission import Visitor
from app.proxy.attempts import Attempts
from app.proxy.passing import Flow
from app.records import RequestRecord

#: More than is shown: secrets are taken out before the excerpt is cut to what the live log shows.
EXCERPT_CHARS = 2000

_OUTCOME_BY_CODE = {
    "all_keys_resting": "resting",
    "no_keys": "no_keys",
    "invalid_api_key": "refused",
    "forbidden": "refused",
    "rate_limited": "refused",
    "overloaded": "refused",
    "shutting_down": "drained",
    "internal_error": "internal_error",
}


class Book:
    """The record in the making. `close` is called exactly once."""

    def __init__(self, now: float, wall: float) -> None:
        self.record = RequestRecord(request_id="", started_at=wall)
        self._began = now

    def arrived(self, visitor: Visitor) -> None:
        record, head = self.record, visitor.head
        record.request_id = visitor.request_id
        record.method = head.method
        # The query may hold a key and is never kept.
        record.path = head.target.partition("?")[0][:1000]
        record.peer = head.peer
        record.user_agent = visitor.headers.get("user-agent", "")[:300]

    def admitted(self, visitor: Visitor) -> None:
        record = self.record
        record.dialect = visitor.dialect.name
        record.client_id = visitor.caller.id if visitor.caller is not None else None
        if visitor.match is not None:
            record.operation = visitor.match.endpoint.operation.value

    def called(self, call: Call, *, excerpt: bool) -> None:
        record = self.record
        record.model, record.stream = call.model, call.stream
        if excerpt:
            record.request_excerpt = call.body[:EXCERPT_CHARS].decode("utf-8", "replace")

    def placed(self, attempts: Attempts) -> None:
        """Where the request went in the end."""
        record = self.record
        record.attempts = attempts.records
        if attempts.records:
            record.provider, record.key_id = attempts.records[-1].provider, attempts.records[-1].key_id
            record.upstream_model = attempts.candidate.model

    def answered(self, status: int) -> None:
        self.record.status = status

    def sent(self, data: bytes, now: float, *, excerpt: bool) -> None:
        record = self.record
        if record.first_byte_ms is None:
            record.first_byte_ms = round((now - self._began) * 1000)
        record.response_bytes += len(data)
        if excerpt and len(record.response_excerpt) < EXCERPT_CHARS:
            record.response_excerpt += data[:EXCERPT_CHARS].decode("utf-8", "replace")

    def resume(self, visitor: Visitor, flow: Flow) -> None:
        """A stream of which the caller has got the beginning already."""
        self.admitted(visitor)
        self.called(flow.call, excerpt=False)
        self.record.request_bytes, self.record.response_bytes = flow.request_bytes, flow.response_bytes
        self.record.first_byte_ms = round((flow.first_at - self._began) * 1000)

    def used(self, usage: Usage) -> None:
        record = self.record
        record.input_tokens, record.output_tokens = usage.input_tokens, usage.output_tokens
        record.cached_tokens, record.cache_write_tokens = usage.cached_tokens, usage.cache_write_tokens
        record.reasoning_tokens = usage.reasoning_tokens

    def refused(self, error: MiddlewareError) -> None:
        self.record.error_code = error.code
        self.record.outcome = _OUTCOME_BY_CODE.get(
            error.code, "upstream_error" if error.status in (502, 504) else "client_error"
        )

    def relayed_error(self, status: int, reason: str) -> None:
        """The upstream's own error went to the caller."""
        self.record.error_code = reason
        self.record.outcome = "client_error" if status < 500 and status != 429 else "upstream_error"

    def close(self, outcome: str | None, now: float) -> RequestRecord:
        if outcome is not None:
            self.record.outcome = outcome
        self.record.duration_ms = round((now - self._began) * 1000)
        return self.record
