"""
A view of the request log as a file, row by row, so that neither the server nor the first byte waits for all of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from app.admin.api.requests import shown

MAX_ROWS: Final = 100_000
#: Rows that are handed to the server at once.
_AT_ONCE: Final = 200

Row = dict[str, Any]

_PLAIN: Final = (
    "id",
    "request_id",
    "method",
    "path",
    "dialect",
    "operation",
    "model",
    "upstream_model",
    "provider",
    "key_id",
    "client_id",
    "stream",
    "status",
    "outcome",
    "error_code",
    "duration_ms",
    "first_byte_ms",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "peer",
    "user_agent",
)
#: Spreadsheets take a cell that begins so for a formula (OWASP "CSV Injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Iterable[Row]) -> Iterator[bytes]:
    """RFC 4180, with a heading. `verdicts` has one word for each attempt."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["started_at", *_PLAIN, "attempts", "verdicts"])
    for number, row in enumerate(rows, 1):
        verdicts = " ".join(str(attempt.get("verdict", "")) for attempt in row["attempts"])
        cells = [row["started"], *(row[name] for name in _PLAIN), len(row["attempts"]), verdicts]
        writer.writerow([_cell(value) for value in cells])
        if number % _AT_ONCE == 0:
            yield _taken(buffer)
    yield _taken(buffer)


def as_json(rows: Iterable[Row]) -> Iterator[bytes]:
    """One JSON list of rows as the API shows them."""
    buffer = io.StringIO("[")
    buffer.seek(0, io.SEEK_END)
    for number, row in enumerate(rows):
        buffer.write(("," if number else "") + "\n" + json.dumps(shown(row)))
        if number % _AT_ONCE == 0:
            yield _taken(buffer)
    buffer.write("\n]\n")
    yield _taken(buffer)


#: File name ending -> (content type, how rows are written).
FORMATS: Final[dict[str, tuple[str, Callable[[Iterable[Row]], Iterator[bytes]]]]] = {
    "csv": ("text/csv", as_csv),
    "json": ("application/json", as_json),
}


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _taken(buffer: io.StringIO) -> bytes:
    data = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return data
