"""
Access lines: one for each finished request. What is the same for many of them is prepared once, so that a batch costs
little; the text is that of a line that the log formats by itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

from app.records import AttemptRecord, RequestRecord
from app.telemetry.logs import Clean

access_log = logging.getLogger("access")
attempt_log = logging.getLogger("attempt")

#: What stands before the request id, before the duration, before the key, before the sizes, and at the end.
AccessParts = tuple[str, str, str, str, str]

_FIELDS: Final = (
    "request_id",
    "method",
    "path",
    "status",
    "outcome",
    "error_code",
    "duration_ms",
    "first_byte_ms",
    "dialect",
    "operation",
    "model",
    "upstream_model",
    "provider",
    "key_id",
    "client_id",
    "stream",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "peer",
)
_ATTEMPT_FIELDS: Final = ("provider", "key_id", "status", "verdict", "reason", "wait_ms", "duration_ms")


def access_parts(shared: Mapping[str, Any]) -> AccessParts:
    """
    The parts of an access line that all requests of a shape have in common, for a success with one attempt.

    shared -- the columns of `request_shapes`, redacted and cut
    """
    message = json.dumps(f"{shared['method']} {shared['path']} {shared['status']}")

    def fields(*names: str) -> str:
        return "".join(
            f',"{name}":{json.dumps(shared[name])}' for name in names if shared[name] is not None and shared[name] != ""
        )

    return (
        f'","level":"info","logger":"access","message":{message},"attempts":1,"request_id":"',
        f'"{fields("method", "path", "status", "outcome", "error_code")},"duration_ms":',
        fields("dialect", "operation", "model", "upstream_model", "provider"),
        f'{fields("client_id", "stream")},"request_bytes":',
        f"{fields('peer')}}}",
    )


def log_access(columns: Mapping[str, Any], attempts: int) -> None:
    """
    Write the access line of one request.

    columns -- of `requests` and `request_shapes`, redacted and cut
    """
    if not access_log.isEnabledFor(logging.INFO):
        return
    shown: dict[str, Any] = {"attempts": attempts}
    for name in _FIELDS:
        value = columns[name]
        if value is not None and value != "":
            shown[name] = Clean(value) if isinstance(value, str) else value
    access_log.info(Clean(f"{columns['method']} {columns['path']} {columns['status']}"), extra=shown)


def log_attempts(request_id: str, record: RequestRecord) -> None:
    """One line for each attempt that failed; with debug, one for each. `request_id` is redacted and cut."""
    for attempt in record.attempts:
        log_attempt(request_id, attempt)


def log_attempt(request_id: str, attempt: AttemptRecord) -> None:
    """The line of one attempt, where it is due."""
    level = logging.DEBUG if attempt.verdict == "ok" else logging.INFO
    if attempt_log.isEnabledFor(level):
        shown = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
        message = f"attempt {attempt.number} at {attempt.provider}: {attempt.verdict}"
        attempt_log.log(level, message, extra={"request_id": Clean(request_id), **shown})
