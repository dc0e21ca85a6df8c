"""
What decides about a request to the administration before anybody knows who sends it: its address, its Host, its origin.

A Host that no browser of this machine would use is refused while the server is bound to loopback, because a web page
can point its own name there (DNS rebinding). A change that another site may have made is refused by what the browser
says about it (Fetch Metadata, `Sec-Fetch-Site`, and `Origin`, RFC 6454).
"""

from __future__ import annotations

import contextlib
from typing import Final
from urllib.parse import SplitResult, urlsplit

from flask import current_app, request
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.wrappers import Response

from app.admin import http
from app.config import is_loopback
from app.errors import Forbidden, MiddlewareError

#: The areas that the guard watches, and those of them that answer in JSON.
AREAS: Final = ("/middleware", "/api/admin")
JSON_AREAS: Final = ("/middleware/api", "/api/admin")
METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: How long browsers keep a static file whose address has a mark of its content.
A_YEAR_S: Final = 365 * 86400

#: `Cache-Control` of answers without secrets that have an ETag.
REVALIDATED: Final = "private, no-cache"

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Misdirected(MiddlewareError):
    """The Host header names a site that this server is not: a web page may have pointed its own name here."""

    status, code, should_retry = 421, "misdirected_request", False


def add_headers(response: Response, *, static: bool) -> None:
    """Keep an answer out of frames and other sites, and out of caches unless it is a `static` file."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if not static:
        # What a browser may keep as long as it asks each time whether it still may says so itself.
        if response.headers.get("Cache-Control") != REVALIDATED:
            response.headers["Cache-Control"] = "no-store"
        response.vary.add("Cookie")
    elif request.args.get("v") and response.status_code in (200, 304):
        response.headers["Cache-Control"] = f"public, max-age={A_YEAR_S}, immutable"


# -- addresses ---------------------------------------------------------------------------------------


def is_watched() -> bool:
    return is_in(AREAS)


def is_in(areas: tuple[str, ...]) -> bool:
    """By the address as well as by the rule that it matched, so that no other spelling of an address slips past."""
    return within("/" + request.path.lstrip("/"), areas) or (
        request.url_rule is not None and within(request.url_rule.rule, areas)
    )


def within(path: str, areas: tuple[str, ...]) -> bool:
    return any(path == area or path.startswith(area + "/") for area in areas)


def methods_here() -> list[str]:
    adapter = current_app.create_url_adapter(request)
    found: list[str] = []
    if adapter is None:
        return found
    for method in METHODS:
        with contextlib.suppress(HTTPException):
            rule, _ = adapter.match(method=method, return_rule=True)
            found += [method] if within(rule.rule, AREAS) else []
    return found


# -- hosts and origins -------------------------------------------------------------------------------


def parts_of(address: str) -> SplitResult:
    """An address that somebody sent, taken apart; one that is none has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def check_host() -> None:
    """While the server is bound to loopback, only names of this machine may lead here."""
    config = http.services().config
    if not is_loopback(config.host) or (config.trusted_proxies > 0 and config.password is not None):
        return
    try:
        host = urlsplit("//" + request.host).hostname or ""
    except (SecurityError, ValueError):
        host = ""
    if not is_loopback(host):
        raise Misdirected("This server administers itself under localhost, 127.0.0.1 or [::1] only.")


def check_origin() -> None:
    """Raises Forbidden for a change that the browser says another site makes. Without a browser there is nothing."""
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    from_here = origin is None or _same_host(origin)
    if not (from_here if site is None else site in ("same-origin", "none")):
        raise Forbidden("Changes from pages of another origin are refused.", code="cross_origin")


def _same_host(origin: str) -> bool:
    """The scheme is left out: behind a proxy that ends TLS this server does not see it."""
    try:
        theirs, ours = urlsplit(origin), urlsplit("//" + request.host)
        default = {"https": 443, "http": 80}.get(theirs.scheme)
        if default is None or theirs.hostname is None or theirs.hostname != ours.hostname:
            return False
        return (theirs.port or default) == (ours.port or default)
    except (SecurityError, ValueError):
        return False
