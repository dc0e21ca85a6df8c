"""
Every error that a caller can meet. Each one knows its HTTP status, a stable code, and whether asking again can help.

    MiddlewareError                     500 internal_error
    ├── BadRequest                      400 invalid_request
    │   ├── InvalidJson                 400 invalid_json
    │   ├── InvalidMessages             400 invalid_messages
    │   ├── DialectNotSpoken            400 dialect_not_spoken
    │   ├── UnsupportedEncoding         415 unsupported_encoding
    │   └── UpgradeRefused              426 upgrade_refused         WebSockets: clients then go on over plain HTTP
    ├── Unauthorized                    401 invalid_api_key
    ├── Forbidden                       403 forbidden
    ├── NotFound                        404 not_found
    │   └── ModelNotFound               404 model_not_found
    ├── MethodNotAllowed                405 method_not_allowed
    ├── RequestTimeout                  408 request_timeout         the client sent its body too slowly
    ├── Conflict                        409 conflict
    │   └── ChangedMeanwhile            409 conflict                two people changed the same thing
    ├── RequestTooLarge                 413 request_too_large
    ├── HeadersTooLarge                 431 headers_too_large
    ├── RateLimited                     429 rate_limited            a limit of ours, never a provider's
    ├── AllKeysResting                  429 all_keys_resting
    ├── NoKeys                          503 no_keys
    ├── Overloaded                      503 overloaded              too many requests at once, or shutting down
    └── UpstreamError                   502 upstream_error
        ├── UpstreamRefused             the upstream's status   its error, in a shape that the caller can't read
        ├── UpstreamUnreachable         502 upstream_unreachable
        ├── UpstreamTimeout             504 upstream_timeout
        └── UpstreamCut                 502 upstream_cut            a stream that ended before its end

`str(error)` is always safe to show: it holds no secret, no traceback and no upstream HTML.
The formats render these in the caller's dialect; the admin API renders them as `{"success": false, "error", "code"}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar


class MiddlewareError(Exception):
    """Base of the tree. `message` is a sentence that tells the caller what to do."""

    status: int = 500
    code: str = "internal_error"
    #: What SDKs are told in `x-should-retry`; None leaves the choice to them.
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str = "The middleware failed to handle this request.",
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class BadRequest(MiddlewareError):
    status, code, should_retry = 400, "invalid_request", False


class InvalidJson(BadRequest):
    code = "invalid_json"


class InvalidMessages(BadRequest):
    code = "invalid_messages"


class DialectNotSpoken(BadRequest):
    """The provider that serves this model does not speak the caller's wire format."""

    code = "dialect_not_spoken"


class UnsupportedEncoding(BadRequest):
    status, code = 415, "unsupported_encoding"


class UpgradeRefused(BadRequest):
    status, code = 426, "upgrade_refused"


class Unauthorized(MiddlewareError):
    status, code, should_retry = 401, "invalid_api_key", False


class Forbidden(MiddlewareError):
    status, code, should_retry = 403, "forbidden", False


class NotFound(MiddlewareError):
    status, code, should_retry = 404, "not_found", False


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(MiddlewareError):
    """`allow` are the methods that the path does have."""

    status, code, should_retry = 405, "method_not_allowed", False

    def __init__(self, message: str, *, allow: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class RequestTimeout(MiddlewareError):
    status, code = 408, "request_timeout"


class Conflict(MiddlewareError):
    status, code, should_retry = 409, "conflict", False


class ChangedMeanwhile(Conflict):
    """Somebody else has changed some of these fields. `now` has the values that are in force."""

    def __init__(self, now: Mapping[str, object]) -> None:
        names = ", ".join(name[:80] for name in now)
        super().__init__(f"Changed by somebody else meanwhile: {names}. Nothing was saved.", param=next(iter(now)))
        self.now = dict(now)


def refuse_if_changed(current: Mapping[str, object], expected: Mapping[str, object] | None) -> None:
    """Raises ChangedMeanwhile where a present value is not the expected one; what is not there is None."""
    now = {name: current.get(name) for name, value in (expected or {}).items() if current.get(name) != value}
    if now:
        raise ChangedMeanwhile(now)


class RequestTooLarge(MiddlewareError):
    status, code, should_retry = 413, "request_too_large", False


class HeadersTooLarge(MiddlewareError):
    status, code, should_retry = 431, "headers_too_large", False


class RateLimited(MiddlewareError):
    status, code = 429, "rate_limited"


class AllKeysResting(MiddlewareError):
    """Every key that could serve this request rests. `wake_at` is Unix seconds, `retry_after_s` counts from now."""

    status, code = 429, "all_keys_resting"

    def __init__(self, message: str, *, wake_at: float, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.wake_at = wake_at


class NoKeys(MiddlewareError):
    """There is no key that a wait would bring back: none was added, or all are disabled."""

    status, code, should_retry = 503, "no_keys", False


class Overloaded(MiddlewareError):
    status, code = 503, "overloaded"


class UpstreamError(MiddlewareError):
    status, code = 502, "upstream_error"


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error that is not in the caller's dialect (HTML, another shape, nothing)."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message or f"The provider answered with status {status}.")
        self.status = status


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


class UpstreamCut(UpstreamError):
    code = "upstream_cut"


class ConfigError(Exception):
    """A start-up setting is wrong. `variable` names it; the message says what would be right."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(f"{variable}: {message}")
        self.variable = variable
