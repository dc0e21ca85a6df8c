"""
What is remembered of one request: the row, and one row for each attempt. Pure data, handed from the core to the stores.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class AttemptRecord:
    """
    number        -- from 1
    key_id        -- the upstream key, None when none was needed
    status        -- HTTP status of the upstream, 0 when no answer came
    verdict       -- `ok`, an `Action` name, or `client_gone`
    reason        -- the verdict's stable code
    wait_ms       -- time spent waiting before this attempt
    duration_ms   -- from sending to its end or failure
    """

    number: int
    provider: str
    key_id: int | None
    status: int = 0
    verdict: str = ""
    reason: str = ""
    message: str = ""
    wait_ms: int = 0
    duration_ms: int = 0


@dataclass(slots=True)
class RequestRecord:
    """
    started_at      -- Unix seconds
    outcome         -- `success`, `client_error`, `no_keys`, `resting`, `upstream_error`, `upstream_cut`, `client_gone`,
                       `drained`, `refused` (a limit or a missing client key), `internal_error`
    status          -- what the caller saw; 499 when it left before an answer
    model           -- as the caller asked; upstream_model is what was sent
    first_byte_ms   -- from the request's arrival to the first byte for the caller
    booked          -- a success of a model call: counts in the key's statistics
    """

    request_id: str
    started_at: float
    method: str = ""
    path: str = ""
    dialect: str = ""
    operation: str = ""
    model: str | None = None
    upstream_model: str | None = None
    provider: str | None = None
    key_id: int | None = None
    client_id: int | None = None
    stream: bool = False
    status: int = 0
    outcome: str = ""
    error_code: str = ""
    duration_ms: int = 0
    first_byte_ms: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    peer: str = ""
    user_agent: str = ""
    #: The beginnings of the bodies, not yet redacted; empty unless `log_request_body` or `log_response_body` is on.
    request_excerpt: str = ""
    response_excerpt: str = ""
    attempts: list[AttemptRecord] = field(default_factory=list)
