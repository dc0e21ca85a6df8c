"""
The shortcut for ordinary calls: what the exchange's own parts decided about one request is remembered and holds for the
next one that begins with the same bytes. Pure: instants are passed in, and nothing here moves a byte.

Only what cannot change between two requests is remembered: who may call, where a model goes, the headers for each key.
Bodies and answers are read and judged each time, by the same functions that the exchange uses. Whatever is not
ordinary is left to the exchange: `None` means that, everywhere in this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from app.errors import MiddlewareError
from app.formats.base import Call, Edits, Format, Json, Operation, Usage
from app.keys.base import KeyWanted, Lease
from app.proxy import admission, routing
from app.proxy.admission import Visitor
from app.proxy.answers import AnswerReader
from app.proxy.attempts import Attempts
from app.proxy.book import Book
from app.proxy.events import RequestHead, Send
from app.proxy.gateway import Gateway
from app.proxy.headers import header_lines
from app.proxy.http1 import request_bytes
from app.proxy.outlet import Outlet
from app.records import RequestRecord
from app.settings import Settings

#: Stands where a request id of ours will stand; no header can hold it.
MADE_ID = "\0"
#: How long a caller counts as recognised: its use is noted, and its expiry seen, at least this often.
RECHECK_S = 1.0
MAX_HEADS = 2048
MAX_ROUTES = 64
MAX_KEYS = 512
_OPERATIONS = frozenset({Operation.GENERATE, Operation.EMBED, Operation.COUNT})
_CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})(?=\r\n)")
#: How it is mostly written.
_LENGTH_NAME = b"\r\nContent-Length: "
MAX_LENGTH_DIGITS = 9
#: Request headers that change what HTTP does with a request.
_UNUSUAL_REQUEST = frozenset(
    {"transfer-encoding", "expect", "upgrade", "content-encoding", "connection", "te", "trailer"}
)


class KnownKey:
    """
    What one key's attempts have in common.

    lease     -- one of them; another value of the key makes this void
    origin    -- where they go
    head      -- the request's head up to the number of its Content-Length
    edits     -- what to change in the body, None where it passes as it came
    renames   -- the model goes out under another name than the caller's
    own       -- our answer headers, split where the request id stands
    own_less  -- the same where the upstream names the request itself
    record    -- of a request that succeeded, apart from its own numbers
    shape     -- for the driver: under which it books that record
    """

    __slots__ = ("edits", "head", "key_id", "origin", "own", "own_less", "record", "renames", "shape", "value")

    def __init__(
        self,
        lease: Lease,
        send: Send,
        edits: Edits | None,
        own: tuple[list[bytes], list[bytes]],
        record: RequestRecord,
    ) -> None:
        self.key_id = lease.key_id
        self.value = lease.value
        self.origin = send.origin
        self.head = request_bytes(replace(send, headers=send.headers[:-1]))[:-2] + b"Content-Length: "
        self.edits = edits
        self.renames = edits is not None and edits.model is not None
        self.own, self.own_less = own
        self.record = record
        self.shape: Any = None


class KnownRoute:
    """Where requests for one model go. Void when `version` is not the keys' own any more."""

    __slots__ = ("keys", "route", "version", "wanted")

    def __init__(self, route: routing.Route, version: int) -> None:
        self.route = route
        self.version = version
        candidates = route.candidates
        self.wanted = KeyWanted(
            tuple(candidate.provider.name for candidate in candidates),
            {candidate.provider.name: candidate.model for candidate in candidates},
        )
        self.keys: dict[int, KnownKey] = {}


#: By the model that the caller asks for.
Routes = dict[str | None, KnownRoute]


class KnownHead:
    """
    A request's head that was admitted.

    good_until       -- monotonic seconds; after it the caller is looked at again
    limited          -- requests are counted against limits
    is_chat          -- 1 where it counts as a chat completion, else 0
    """

    __slots__ = (
        "format",
        "good_until",
        "head",
        "is_chat",
        "limited",
        "match",
        "max_bytes",
        "request_id",
        "routes",
        "visitor",
    )

    def __init__(self, visitor: Visitor, settings: Settings, good_until: float) -> None:
        if visitor.match is None:
            raise ValueError("only an admitted head can be known")
        self.head: RequestHead = visitor.head
        self.visitor = visitor
        self.match = visitor.match
        self.format: Format = visitor.match.format
        self.good_until = good_until
        self.request_id = None if visitor.request_id == MADE_ID else visitor.request_id
        self.limited = settings.enable_rate_limiting or settings.max_concurrent_requests > 0
        chat = self.format.name == "openai_chat" and self.match.endpoint.operation is Operation.GENERATE
        self.is_chat = 1 if chat else 0
        self.max_bytes = settings.max_request_size
        #: For plain calls, for streams, and for streams of which we ask the usage.
        self.routes: tuple[Routes, Routes, Routes] = ({}, {}, {})


def split_length(head: bytes) -> tuple[bytes, int] | None:
    """The head without the number of its Content-Length, and that number."""
    name = head.find(_LENGTH_NAME)
    if name < 0:
        found = _CONTENT_LENGTH.search(head)
        if found is None:
            return None
        start, end = found.span(1)
    else:
        start = name + len(_LENGTH_NAME)
        end = head.find(b"\r\n", start)
    digits = head[start:end]
    if len(digits) > MAX_LENGTH_DIGITS or not digits.isdigit():
        return None
    return head[:start] + head[end:], int(digits)


class Memory:
    """What is known, as long as nothing that it was decided by has changed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._heads: dict[bytes, KnownHead] = {}
        self._once: set[bytes] = set()
        self._decided_by: tuple[object, ...] = ()
        self.answers = AnswerReader(gateway.cleaner.data)

    def refresh(self) -> bool:
        """Forget all if settings, providers, callers or secrets have changed. False when nothing may be known."""
        gateway = self._gateway
        decided_by = (gateway.settings(), gateway.providers(), gateway.callers.version(), gateway.cleaner.version())
        if any(new is not old for new, old in zip(decided_by, self._decided_by or (None,) * 4, strict=True)):
            self._decided_by = decided_by
            self._heads.clear()
            self._once.clear()
            self.answers = AnswerReader(gateway.cleaner.data)
        return gateway.accepting()

    def find(self, head: bytes, now: float) -> KnownHead | None:
        """What is known of a head whose content length was taken out."""
        known = self._heads.get(head)
        if known is None or now < known.good_until:
            return known
        del self._heads[head]
        self._once.add(head)
        return None

    def is_worth_learning(self, head: bytes) -> bool:
        """True from the second sight of a head on."""
        if head in self._once:
            return True
        if len(self._once) >= MAX_HEADS:
            self._once.clear()
        self._once.add(head)
        return False

    def learn(self, key: bytes, head: RequestHead, now: float, wall: float) -> KnownHead | None:
        """Admit `head`, and keep what that came to."""
        known = know(self._gateway, head, now, wall)
        if known is not None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[key] = known
        return known

    def route(self, known: KnownHead, call: Call) -> KnownRoute | None:
        """Where this call goes."""
        routes = known.routes[0] if not call.stream else known.routes[2 if known.format.lacks_usage(call) else 1]
        found = routes.get(call.model)
        version = self._gateway.keys.version()
        if found is not None and found.version == version:
            return found
        settings = self._gateway.settings()
        try:
            route = routing.route(
                routing.wanted_by(call, known.visitor.provider, settings), self._gateway.providers(), self._gateway.keys
            )
            admission.check_model(known.visitor.caller, call.model, route.candidates[0].model)
        except MiddlewareError:
            return None
        if len(routes) >= MAX_ROUTES:
            routes.clear()
        made = routes[call.model] = KnownRoute(route, version)
        return made

    def key(self, known: KnownHead, route: KnownRoute, call: Call, lease: Lease) -> KnownKey | None:
        """The bytes around a request that uses this key."""
        found = route.keys.get(lease.key_id)
        if found is not None and found.value is lease.value:
            return found
        made = _know_key(self._gateway, known.visitor, route.route, call, lease)
        if made is not None:
            if len(route.keys) >= MAX_KEYS:
                route.keys.clear()
            route.keys[lease.key_id] = made
        return made


def know(gateway: Gateway, head: RequestHead, now: float, wall: float) -> KnownHead | None:
    """What this head alone decides, where it begins an ordinary call."""
    settings = gateway.settings()
    if head.method != "POST" or settings.log_request_body or settings.log_response_body:
        return None
    visitor = admission.greet(head, MADE_ID)
    if not _UNUSUAL_REQUEST.isdisjoint(visitor.headers) and not _is_plain_keep_alive(visitor):
        return None
    try:
        admission.admit(visitor, gateway, settings)
    except MiddlewareError:
        return None
    match = visitor.match
    if match is None or match.endpoint.operation not in _OPERATIONS:
        return None
    good_until = now + RECHECK_S
    expires_at = visitor.caller.expires_at if visitor.caller is not None else None
    if expires_at is not None:
        good_until = min(good_until, now + expires_at - wall)
    return KnownHead(visitor, settings, good_until)


def _is_plain_keep_alive(visitor: Visitor) -> bool:
    named = {name for name in _UNUSUAL_REQUEST if name in visitor.headers}
    return named == {"connection"} and visitor.headers["connection"].strip().lower() == "keep-alive"


def _know_key(gateway: Gateway, visitor: Visitor, route: routing.Route, call: Call, lease: Lease) -> KnownKey | None:
    settings = gateway.settings()
    attempts = Attempts(gateway, settings, visitor, call, route)
    send = attempts.begin(lease, 0.0)
    if not send.headers or send.headers[-1][0] != "Content-Length":
        return None
    book = Book(0.0, 0.0)
    book.arrived(visitor)
    book.admitted(visitor)
    book.called(call, excerpt=False)
    book.placed(attempts)
    book.answered(200)
    record = book.close("success", 0.0)
    attempts.records[-1].status, attempts.records[-1].verdict = 200, "ok"
    outlet = Outlet(visitor, settings, book)
    outlet.attempts = attempts
    edits = attempts.edits if attempts.edits != Edits() else None
    own = [header_lines(outlet.own_headers(upstream)) for upstream in ([], [("Request-Id", "")])]
    around_id = (own[0].split(MADE_ID.encode()), own[1].split(MADE_ID.encode()))
    return KnownKey(lease, send, edits, around_id, record)


@dataclass(slots=True)
class Good:
    """An answer that may go to the caller. `resource_ids`: what lives at this key from now on."""

    body: bytes
    usage: Usage
    resource_ids: list[str]


def judge(call: Call, body: bytes, *, renames: bool) -> Good | None:
    """The same checks as `readers.PlainReader` makes, for a call that the shortcut knows."""
    form = call.match.format
    answer: Json | None
    answer, fault = form.check_answer(call, body)
    if fault or answer is None:
        return None
    usage, made = form.usage(answer), form.resource_ids(call, answer)
    if renames and call.model is not None:
        body = form.rename_model(body, call.model)
    return Good(body, usage, made)
