"""
Which headers cross the gateway, in both directions: allow-lists, so that an unknown header never carries a secret
across. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.providers.base import Provider
from app.proxy.events import Headers

#: Request headers of the caller that go upstream. Credentials, cookies, tracing, forwarding and tool identity headers
#: are absent on purpose.
REQUEST_ALLOWED = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "range",
        "x-goog-fieldmask",
        "x-goog-upload-command",
        "x-goog-upload-file-name",
        "x-goog-upload-header-content-length",
        "x-goog-upload-header-content-type",
        "x-goog-upload-offset",
        "x-goog-upload-protocol",
    }
)

#: Answer headers of the upstream that go to the caller. Rate-limit headers describe our key's quota, not the caller's.
ANSWER_ALLOWED = frozenset(
    {
        "accept-ranges",
        "anthropic-version",
        "content-disposition",
        "content-language",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "x-goog-upload-chunk-granularity",
        "x-goog-upload-control-url",
        "x-goog-upload-status",
        "x-goog-upload-url",
    }
)

_SINGLE = frozenset({"content-type"})

#: Where a caller may put its client key, in order. All are read; they must agree.
_CREDENTIAL_HEADERS = ("x-api-key", "authorization", "x-goog-api-key", "api-key")


def lowered(headers: Headers) -> dict[str, str]:
    """
    Headers by lower-case name; repeated ones are joined by a comma, as RFC 9110 section 5.3 allows. Of those that are
    no lists the last one counts (section 8.3 for Content-Type).
    """
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        found[lower] = f"{found[lower]},{value}" if lower in found and lower not in _SINGLE else value
    return found


def credentials(headers: Mapping[str, str], query_keys: Iterable[str]) -> list[str]:
    """Every client key that the caller sent, without scheme, duplicates removed, in order."""
    found: list[str] = []
    for name in _CREDENTIAL_HEADERS:
        value = headers.get(name)
        if value is not None:
            found.append(_without_scheme(value) if name == "authorization" else value.strip())
    found.extend(query_keys)
    return list(dict.fromkeys(token for token in found if token))


def _without_scheme(value: str) -> str:
    # Some set-up guides produce "Bearer Bearer <key>", others a bare key: both mean the key.
    value = value.strip()
    while value[:7].lower() == "bearer ":
        value = value[7:].strip()
    return "" if value.lower() == "bearer" else value


def for_upstream(
    headers: Mapping[str, str], provider: Provider, signature: Mapping[str, str], host: str, body: bytes | None
) -> Headers:
    """The complete headers of one attempt. `body` is None for methods that carry none."""
    sent: dict[str, str] = {"Host": host, "User-Agent": "ai-api-middleware", "Accept-Encoding": "identity"}
    present = {name for name in headers if name in REQUEST_ALLOWED}
    sent.update({name.title(): headers[name] for name in sorted(present)})
    sent.update({name: value for name, value in provider.kind.headers.items() if name.lower() not in present})
    extra = {name.lower() for name in provider.headers}
    sent = {name: value for name, value in sent.items() if name.lower() not in extra}
    sent.update(provider.headers)
    sent.update(signature)
    if body is not None:
        sent["Content-Length"] = str(len(body))
    return list(sent.items())


def for_client(headers: Mapping[str, str]) -> Headers:
    """What of an upstream answer's headers the caller gets."""
    return [(name.title(), value) for name, value in headers.items() if name in ANSWER_ALLOWED]
