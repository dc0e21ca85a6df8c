"""
The door: what a request must be before its body is read. Pure; every refusal is a MiddlewareError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app import formats
from app.errors import (
    BadRequest,
    Forbidden,
    Overloaded,
    RequestTooLarge,
    Unauthorized,
    UnsupportedEncoding,
    UpgradeRefused,
)
from app.formats import paths
from app.formats.base import Format, Match
from app.proxy import cors
from app.proxy.decoding import DecodingFailed, decoder
from app.proxy.events import RequestHead
from app.proxy.gateway import Caller, Gateway
from app.proxy.headers import credentials, lowered
from app.settings import Settings

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
_LOCAL_HOST = re.compile(r"(localhost|[a-z0-9-]+\.localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?|")
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class Visitor:
    """
    A request at the door. Made even for requests that will be refused, so that the refusal speaks their dialect.

    headers   -- lower-case names
    dialect   -- the format to answer in: the matched one, or the best guess
    """

    head: RequestHead
    headers: Mapping[str, str]
    request_id: str
    dialect: Format
    path: str = ""
    query: str = ""
    provider: str | None = None
    match: Match | None = None
    caller: Caller | None = None

    @property
    def has_body(self) -> bool:
        return self.head.method not in _BODILESS or self.headers.get("content-length", "0") != "0"


def greet(head: RequestHead, new_id: str) -> Visitor:
    """The visitor, nothing checked yet. Never raises."""
    headers = lowered(head.headers)
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else new_id
    path, _, query = head.target.partition("?")
    dialect = formats.guess_dialect(path, headers, query)
    return Visitor(head, headers, request_id, dialect)


def admit(visitor: Visitor, gateway: Gateway, settings: Settings) -> None:
    """
    Check everything that the head tells, and fill the visitor in. Order: address, credentials, then limits, so that
    nobody without a key learns more than that. Raises MiddlewareError.
    """
    if not gateway.accepting():
        raise shutting_down()
    path, query = paths.normalise(visitor.head.target)
    names = {entry.name for entry in gateway.providers().ordered}
    visitor.provider, visitor.path = paths.split_prefix(path, names)
    visitor.query, query_keys = paths.strip_key_parameter(query)
    identify(visitor, gateway, query_keys)
    visitor.match = formats.match(visitor.head.method, visitor.path, visitor.headers, query)
    visitor.dialect = visitor.match.format
    if visitor.headers.get("upgrade", "").lower() == "websocket":
        # Clients that try a WebSocket first take 426 for "use HTTP", and any other status for trouble.
        raise UpgradeRefused("WebSockets are not offered here; send the request over plain HTTP.")
    _refuse_blocked_agents(visitor, settings)
    _refuse_large(visitor, settings.max_request_size)


def identify(visitor: Visitor, gateway: Gateway, query_keys: list[str]) -> None:
    """Find out whose client key this is. Raises Unauthorized where one is required and none is right."""
    if not gateway.callers.required():
        _refuse_web_pages(visitor, gateway)
        return
    found = credentials(visitor.headers, query_keys)
    if not found:
        raise Unauthorized(
            "No API key in the request. Send your client key as 'Authorization: Bearer <key>',"
            " 'x-api-key' or 'x-goog-api-key'."
        )
    if len(found) > 1:
        raise Unauthorized("The request carries different API keys in different places; send one.")
    visitor.caller = gateway.callers.recognise(found[0])


def check_model(caller: Caller | None, asked: str | None, sent: str | None) -> None:
    """
    Raises Forbidden where the client key may use neither the model that was asked for nor the one that it stands for
    (`provider/model`, an alias).
    """
    if caller is None or asked is None or not caller.models:
        return
    names = [name for name in (asked, sent) if name is not None]
    if not any(fnmatchcase(name, pattern) for name in names for pattern in caller.models):
        raise Forbidden(f"Your client key may not use the model {asked[:200]!r}.", param="model")


def decode_body(visitor: Visitor, data: bytes, max_bytes: int) -> bytes:
    """The body with its content encoding undone. Raises RequestTooLarge, UnsupportedEncoding or BadRequest."""
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    encoding = visitor.headers.get("content-encoding", "")
    if not encoding:
        return data
    try:
        undo = decoder(encoding, max_bytes)
    except DecodingFailed as error:
        raise UnsupportedEncoding(f"{error}; send the body plain or with gzip.") from error
    try:
        decoded = undo.feed(data)
        undo.end()
    except DecodingFailed as error:
        if "limit" in str(error):
            raise too_large(max_bytes) from error
        raise BadRequest(f"The request body can't be decompressed: {error}.", code="invalid_body") from error
    return decoded


def shutting_down() -> Overloaded:
    return Overloaded("The server is shutting down; send the request again.", code="shutting_down", retry_after_s=1)


def too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {max_bytes} bytes (setting max_request_size).")


def _refuse_web_pages(visitor: Visitor, gateway: Gateway) -> None:
    """
    Without a client key every web page that somebody opens on this machine could spend the keys: by a plain request
    across sites, or by pointing its own name at this address (DNS rebinding). Programs send no Origin.
    """
    headers = visitor.headers
    host = headers.get("host", "")
    if gateway.callers.local_only() and _LOCAL_HOST.fullmatch(host.lower()) is None:
        raise Forbidden(
            "Without client keys only this machine's own names (localhost, 127.0.0.1) lead here."
            " Make a client key to serve other names."
        )
    origin = headers.get("origin")
    if origin is None or origin.partition("://")[2] == host or cors.allows(headers, gateway.settings()):
        return
    raise Forbidden(
        "Web pages of other sites may not call this server without a client key."
        " Name the page's origin in cors_origins and set enable_cors, or make a client key."
    )


def _refuse_blocked_agents(visitor: Visitor, settings: Settings) -> None:
    agent = visitor.headers.get("user-agent", "").lower()
    blocked = (part.strip().lower() for part in settings.blocked_user_agents.split(","))
    if any(part and part in agent for part in blocked):
        raise Forbidden("This user agent is blocked (setting blocked_user_agents).")


def _refuse_large(visitor: Visitor, max_bytes: int) -> None:
    length = visitor.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise too_large(max_bytes)
