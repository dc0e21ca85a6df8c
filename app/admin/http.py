"""
How the administration reads requests and answers them: strict JSON in, `{"success", "error", "code"}` out.

Refuses bodies that are not declared as JSON, too large, not strict JSON (RFC 8259), nested deeper than people write,
or that hold a field nobody asked for: a misspelt or smuggled field is named, never ignored.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import IntegerConverter

from app.context import Services
from app.errors import BadRequest, InvalidJson, MiddlewareError, NotFound, RequestTooLarge

MIB = 1024 * 1024
MAX_DEPTH = 16
MAX_ID = 2**63 - 1
_YEAR_10000 = 253402300800
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")

#: A field's check: (field name, value) -> the value to use; raises BadRequest naming the field.
Check = Callable[[str, Any], Any]


class UnsupportedMediaType(BadRequest):
    """A change must be sent as JSON: a web page elsewhere cannot send that without asking first."""

    status, code = 415, "unsupported_media_type"


def services() -> Services:
    """The parts of the running middleware."""
    return cast(Services, current_app.extensions["middleware"])


# -- requests ----------------------------------------------------------------------------------------


def require_json() -> None:
    """
    Refuse a change whose body is not declared as JSON. One without any body and content type may pass.

    Raises UnsupportedMediaType.
    """
    undeclared = "Content-Type" not in request.headers
    empty = not request.content_length and "Transfer-Encoding" not in request.headers
    if request.mimetype != "application/json" and not (undeclared and empty):
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")


def read_object(*, optional: bool = False, max_bytes: int = MIB) -> dict[str, Any]:
    """
    The JSON object in the request's body.

    optional -- an empty body counts as `{}`

    Raises UnsupportedMediaType, RequestTooLarge or InvalidJson.
    """
    raw = _read_body(max_bytes)
    if optional and not raw.strip():
        return {}
    value = parse(raw)
    if not isinstance(value, dict):
        raise InvalidJson("The request body must be a JSON object.")
    return value


def read_list(*, max_bytes: int) -> list[Any]:
    """The JSON list in the request's body; raises what `read_object` raises."""
    value = parse(_read_body(max_bytes))
    if not isinstance(value, list):
        raise InvalidJson("The request body must be a JSON list.")
    return value


def _read_body(max_bytes: int) -> bytes:
    require_json()
    request.max_content_length = max_bytes
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise RequestTooLarge(f"The request body is larger than {max_bytes // MIB} MiB.") from None


def parse(raw: bytes) -> Any:
    """The JSON value in `raw`. Raises BadRequest for what is not strict JSON, or nested deeper than people write."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"The request body is not valid JSON (line {error.lineno}, column {error.colno}).") from None
    level = [value]
    for _depth in range(MAX_DEPTH):
        level = [child for container in level for child in _children(container)]
        if not level:
            break
    else:
        raise InvalidJson(f"The request body is nested deeper than {MAX_DEPTH} levels.")
    # orjson keeps the last of two; which of them was meant is not ours to guess.
    json.loads(raw, object_pairs_hook=_refuse_twice)
    return value


def _refuse_twice(members: list[tuple[str, Any]]) -> None:
    """For `json.loads`, which calls it for each object."""
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"The request body has the member '{twice[:64]}' twice. Send it once."
        raise BadRequest(message, code="duplicate_key", param=twice[:64])


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def fields(body: Mapping[str, Any], checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """
    Return the checked fields of `body`: those that were sent, no others.

    Raises BadRequest that names the unknown, missing or wrong field.
    """
    unknown = sorted(set(body) - set(checks))
    if unknown:
        names = ", ".join(f"`{name[:64]}`" for name in unknown[:10])
        known = ", ".join(f"`{name}`" for name in checks) or "none"
        raise BadRequest(f"Unknown field: {names}. Known fields: {known}.", code="unknown_field", param=unknown[0][:64])
    for name in required:
        if name not in body:
            raise BadRequest(f"The field `{name}` is missing.", code="missing_field", param=name)
    return {name: checks[name](name, value) for name, value in body.items()}


def parameters(checks: Mapping[str, Check]) -> dict[str, Any]:
    """The checked query parameters of the request. Raises BadRequest that names an unknown, repeated or wrong one."""
    for name, values in request.args.lists():
        if name in checks and len(values) > 1:
            raise BadRequest(f"The parameter `{name}` is given twice.", param=name)
    return fields({name: value for name, value in request.args.items() if value != ""}, checks)


def identity(text: str, what: str) -> int:
    """
    The id in a URL.

    what -- the noun for the message, such as "Key"

    Raises NotFound for everything that cannot be the id of a row.
    """
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID:
        return int(text)
    raise NotFound(f"{what} not found")


class RowNumber(IntegerConverter):
    """`<int:...>` in an address: the id of a row. What no database holds is no address of ours."""

    regex = "[0-9]{1,18}"


# -- checks of fields --------------------------------------------------------------------------------


def wrong(name: str, should_be: str) -> BadRequest:
    return BadRequest(f"`{name}` must be {should_be}.", code="invalid_field", param=name)


def text(max_length: int, *, min_length: int = 0, lines: bool = False) -> Check:
    """A string without control characters; `lines` allows line breaks and tabs. Spaces at both ends are cut off."""
    allowed = "\n\r\t" if lines else ""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(name, "a string")
        if any((character < " " or character == "\x7f") and character not in allowed for character in value):
            raise wrong(name, "text without control characters")
        trimmed = value.strip()
        if not min_length <= len(trimmed) <= max_length:
            raise wrong(name, f"{min_length} to {max_length} characters long")
        return trimmed

    return check


def anything(_name: str, value: Any) -> Any:
    return value


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, "true or false")
    return value


def integer(low: int, high: int) -> Check:
    """A whole number; in a query parameter its decimal digits."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, str) and request.method in ("GET", "HEAD") and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(name, f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def choice(*words: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise wrong(name, f"one of {', '.join(words)}")
        return value

    return check


def optional(inner: Check) -> Check:
    def check(name: str, value: Any) -> Any:
        return None if value is None else inner(name, value)

    return check


def texts(max_count: int, item: Check) -> Check:
    def check(name: str, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > max_count:
            raise wrong(name, f"a list of at most {max_count} strings")
        return [item(f"{name}[{index}]", element) for index, element in enumerate(value)]

    return check


def text_map(max_count: int, key: Check, item: Check) -> Check:
    def check(name: str, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or len(value) > max_count:
            raise wrong(name, f"an object of at most {max_count} strings")
        return {key(f"name in {name}", word): item(f"{name}.{word[:64]}", element) for word, element in value.items()}

    return check


def instant(name: str, value: Any) -> float:
    """Unix seconds, as a number or as an ISO 8601 date and time; without a zone it is UTC. Returns Unix seconds."""
    if isinstance(value, str):
        value = _seconds(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _YEAR_10000:
        raise wrong(name, "an instant: Unix seconds, or ISO 8601 such as 2026-11-20T13:47:05Z")
    return float(value)


def _seconds(value: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(value)
    with contextlib.suppress(ValueError):
        parsed = datetime.fromisoformat(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    return None


# -- answers -----------------------------------------------------------------------------------------


def answer(data: Any, status: int = 200) -> Response:
    """`data` as a JSON answer. Non-ASCII is escaped, so that no reader has to guess an encoding."""
    return Response(json.dumps(data, allow_nan=False) + "\n", status, mimetype="application/json")


def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC, such as `2026-11-20T13:47:05Z`; None stays None."""
    if not at:
        return None
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def failure(error: MiddlewareError) -> Response:
    """`error` in the shape of the admin API, with `Retry-After` where a wait helps."""
    body: dict[str, Any] = {"success": False, "error": str(error), "code": error.code}
    if error.param is not None:
        body["param"] = error.param
    response = answer(body, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(int(error.retry_after_s))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="middleware"'
    return response


def http_failure(error: HTTPException) -> Response:
    """An error of the HTTP layer, such as 404 or 405, in the shape of the admin API."""
    known = {404: "There is nothing at this address.", 405: "This address does not know that method."}
    name = (error.name or "error").lower().replace(" ", "_")
    status = error.code or 500
    message = known.get(status, error.description or error.name)
    response = answer({"success": False, "error": message, "code": name}, status)
    for header, value in error.get_headers(request.environ):
        if header in ("Allow", "Retry-After"):
            response.headers[header] = value
    return response
