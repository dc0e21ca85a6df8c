"""
What operations have in common, so that the files need not repeat it: tags, credentials, and the errors that a kind of
call can meet. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from app import errors
from app.formats import BY_NAME as FORMATS

Operation = dict[str, Any]
#: Alternatives, each of them a set of schemes.
Credentials = tuple[dict[str, list[str]], ...]

ADMIN_AREAS: Final = ("/middleware/api", "/api/admin")
CHANGES: Final = frozenset({"post", "put", "patch", "delete"})
_WITH_BODY: Final = frozenset({"post", "put", "patch"})
_ADMIN_READ: Final[Credentials] = ({"session": []}, {"bearer": []})
_ADMIN_CHANGE: Final[Credentials] = ({"session": [], "csrf": []}, {"bearer": []})
_PROXY: Final[Credentials] = ({"clientKey": []}, {"clientKeyAnthropic": []}, {"clientKeyGoogle": []})
_PARAMETER = re.compile(r"\{(\w+)\}")

#: Dialect -> the schema of its errors.
_ERROR_SCHEMAS: Final[Mapping[str, str]] = {
    "openai_chat": "OpenAiError",
    "anthropic_messages": "AnthropicError",
    "gemini": "GeminiError",
}
#: Errors of the proxy that every call can meet: what one is, and why it comes.
_PROXY_ERRORS: Final[tuple[tuple[str, errors.MiddlewareError], ...]] = (
    (
        "The request is not what its API takes.",
        errors.BadRequest("`model` is required: name the model as a string.", param="model"),
    ),
    (
        "The client key is missing or not valid.",
        errors.Unauthorized("The API key is not a client key of this server. Ask its operator for one."),
    ),
    ("This client key may not do that.", errors.Forbidden("This client key may not use the model 'gpt-5'.")),
    ("No provider offers this model.", errors.ModelNotFound("No provider offers the model 'gpt-6'.")),
    ("The body came too slowly.", errors.RequestTimeout("The request body came too slowly.")),
    ("The body is larger than `max_request_size`.", errors.RequestTooLarge("The body is larger than 33554432 bytes.")),
    ("The body's encoding is not understood.", errors.UnsupportedEncoding("Send the body plain or in gzip.")),
    (
        "Every key that could serve this rests, or a limit of this server is reached.",
        errors.AllKeysResting("All keys rest. Try again in 30 s.", wake_at=1795256130.0, retry_after_s=30.0),
    ),
    ("The middleware failed.", errors.MiddlewareError()),
    (
        "The provider failed or can't be reached.",
        errors.UpstreamUnreachable("The provider can't be reached with any key."),
    ),
    ("There is no usable key, or the server is too busy.", errors.NoKeys("There is no usable key for this model.")),
    ("The provider did not answer in time.", errors.UpstreamTimeout("The provider did not answer in time.")),
)
_REQUEST_ID: Final = "01a1fbf3f0eb794596637d994a30d1fc"
_JSON: Final = "application/json"


def is_admin(path: str) -> bool:
    return any(path == area or path.startswith(area + "/") for area in ADMIN_AREAS)


# -- the administration ------------------------------------------------------------------------------


def admin_operation(written: Mapping[str, Any], tag: str, name: str, method: str) -> Operation:
    """What a file says of a call of the administration, with everything that goes without saying."""
    whole: Operation = {
        "tags": [tag],
        "operationId": name,
        "security": list(_ADMIN_CHANGE if method in CHANGES else _ADMIN_READ),
        **written,
    }
    common = {
        str(status): {"$ref": f"#/components/responses/{response}"}
        for status, response in _admin_errors(written, method)
    }
    own = {str(status): response for status, response in written["responses"].items()}
    whole["responses"] = dict(sorted((common | own).items()))
    return whole


def open_operation(written: Mapping[str, Any], tag: str, name: str) -> Operation:
    """A call that everybody may make."""
    return {"tags": [tag], "operationId": name, "security": [], **written}


def _admin_errors(written: Mapping[str, Any], method: str) -> Iterator[tuple[int, str]]:
    parameters = written.get("parameters", [])
    if "requestBody" in written or any(each.get("in") == "query" for each in parameters):
        yield 400, "BadRequest"
    if written.get("security") != []:
        yield 401, "LoginRequired"
    if method in CHANGES:
        yield 403, "Forbidden"
        yield 415, "UnsupportedMediaType"
    if any("$ref" in each or each.get("in") == "path" for each in parameters):
        yield 404, "NotFound"
    if "requestBody" in written:
        yield 413, "TooLarge"
    yield 421, "Misdirected"
    yield 503, "Unavailable"


# -- the proxy ---------------------------------------------------------------------------------------


def proxy_paths(area: Mapping[str, Any]) -> dict[str, dict[str, Operation]]:
    """The addresses of one dialect, each with everything that goes without saying."""
    found: dict[str, dict[str, Operation]] = {path: dict(item) for path, item in area["paths"].items()}
    for methods, path, summary in area.get("passed_on", ()):
        for method in methods.split():
            found.setdefault(path, {})[method] = _passed_on(path, method, summary)
    for path, item in found.items():
        for method, written in item.items():
            item[method] = _proxy_operation(written, area, path, method)
    return found


def _passed_on(path: str, method: str, summary: str) -> Operation:
    verb = {"get": "", "post": "", "put": ": replace", "patch": ": change", "delete": ": delete"}[method]
    operation: Operation = {
        "summary": summary if summary.lower().startswith(verb[2:]) else summary + verb,
        "description": "Passes on as it is; the provider's own documents say what it takes and answers.",
        "responses": {"200": {"$ref": "#/components/responses/PassedOn"}},
    }
    if method in _WITH_BODY:
        operation["requestBody"] = {"$ref": "#/components/requestBodies/PassedOn"}
    names = _PARAMETER.findall(path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return operation


def _proxy_operation(written: Mapping[str, Any], area: Mapping[str, Any], path: str, method: str) -> Operation:
    own = {str(status): _with_headers(response) for status, response in written["responses"].items()}
    common = {status: {"$ref": f"#/components/responses/{name}"} for status, name in _error_names(area["dialect"])}
    return {
        "tags": [area["tag"]],
        "operationId": "_".join([method, *re.findall(r"\w+", path)]),
        "security": list(_PROXY),
        **written,
        "responses": dict(sorted((common | own).items())),
    }


def _with_headers(response: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in response:
        return response
    names = {
        "X-Request-ID": "RequestId",
        "x-middleware-provider": "Provider",
        "x-middleware-key": "Key",
        "x-middleware-attempts": "Attempts",
    }
    shown = {header: {"$ref": f"#/components/headers/{name}"} for header, name in names.items()}
    return {**response, "headers": shown}


def _error_names(dialect: str) -> Iterable[tuple[str, str]]:
    schema = _ERROR_SCHEMAS[dialect]
    return ((str(error.status), f"{schema}{error.status}") for _, error in _PROXY_ERRORS)


def proxy_error_responses() -> dict[str, dict[str, Any]]:
    """Every error of the proxy in every dialect, each as its format writes it."""
    found = {}
    for dialect, schema in _ERROR_SCHEMAS.items():
        for why, error in _PROXY_ERRORS:
            example = FORMATS[dialect].error_body(error, _REQUEST_ID)
            headers = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
            if error.should_retry is False:
                headers["x-should-retry"] = {"$ref": "#/components/headers/ShouldRetry"}
            if error.retry_after_s is not None:
                headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
            found[f"{schema}{error.status}"] = {
                "description": why,
                "headers": headers,
                "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}},
            }
    return found
