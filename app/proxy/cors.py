"""
Cross-origin rules for the proxied API: off unless the operator names origins, and never with credentials. Pure.

Source: the Fetch standard, section "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Mapping

from app.proxy.events import Headers
from app.settings import Settings

_EXPOSED = "X-Request-ID, x-middleware-provider, x-middleware-key, x-middleware-attempts, Retry-After"
_MAX_AGE_S = "600"


def cors_headers(headers: Mapping[str, str], settings: Settings) -> Headers:
    """What to add to an answer for this request; empty when cross-origin calls are off or not allowed."""
    origin = headers.get("origin")
    if not settings.enable_cors or origin is None:
        return []
    allowed = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
    if "*" in allowed:
        return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", _EXPOSED)]
    if origin not in allowed:
        return [("Vary", "Origin")]
    return [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", _EXPOSED),
        ("Vary", "Origin"),
    ]


def allows(headers: Mapping[str, str], settings: Settings) -> bool:
    """Whether the page that sends this request may read the answer."""
    return any(name == "Access-Control-Allow-Origin" for name, _ in cors_headers(headers, settings))


def preflight(headers: Mapping[str, str], method: str, settings: Settings) -> Headers | None:
    """
    What a 204 for an allowed preflight has beside `cors_headers`; None for all else, which goes the usual way.
    """
    if method != "OPTIONS" or "access-control-request-method" not in headers:
        return None
    if not allows(headers, settings):
        return None
    wanted = headers.get("access-control-request-headers", "")
    return [
        ("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, HEAD"),
        ("Access-Control-Allow-Headers", wanted if wanted.isascii() and wanted.isprintable() else ""),
        ("Access-Control-Max-Age", _MAX_AGE_S),
    ]
