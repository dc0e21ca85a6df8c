"""
The shortcut for ordinary calls: what the exchange's own parts decided about one request is remembered and holds for the
next one that begins with the same bytes. Pure: instants are passed in, and nothing here moves a byte.

Only what cannot change between two requests is remembered: who may call, where a model goes, the headers for each key.
Bodies and answers are read and judged each time, by the same functions that the exchange uses. Whatever is not
ordinary is left to the exchange: `None` means that, everywhere in this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from app.errors import MiddlewareError
from app.formats.base import Call, Edits, Format, Json, Operation, Usage
from app.keys.base import KeyWanted, Lease
from app.proxy import admission, routing
from app.proxy.admission import Visitor
from app.proxy.attempts import Attempts
from app.proxy.book import Book
from app.proxy.events import RequestHead, Send
from app.proxy.gateway import Gateway
from app.proxy.headers import ANSWER_ALLOWED, for_client, header_lines
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
MAX_LINES = 4096
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
    own       -- our answer headers, split where the request id stands
    own_less  -- the same where the upstream names the request itself
    record    -- of a request that succeeded, apart from its own numbers
    shape     -- for the driver: under which it books that record
    """

    __slots__ = ("edits", "head", "key_id", "origin", "own", "own_less", "record", "shape", "value")

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
        self.routes: dict[str | None, KnownRoute] = {}


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
        found = known.routes.get(call.model)
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
        if len(known.routes) >= MAX_ROUTES:
            known.routes.clear()
        made = known.routes[call.model] = KnownRoute(route, version)
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
    if match is None or match.endpoint.operation not in _OPERATIONS or match.endpoint.stream:
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
    model = attempts.candidate.model
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
    edits = Edits(model=model) if attempts.renames else None
    own = [header_lines(outlet.own_headers(upstream)) for upstream in ([], [("Request-Id", "")])]
    around_id = (own[0].split(MADE_ID.encode()), own[1].split(MADE_ID.encode()))
    return KnownKey(lease, send, edits, around_id, record)


# -- answers --------------------------------------------------------------------------------------------

# What becomes of one line of an answer's head.
_DROP, _PASS, _FRAMING, _UNUSUAL = range(4)
_CHUNKS = -1
#: What an answer may grow to before an exchange takes it over.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: The same for a chunked one, whose end has to be looked for each time.
MAX_CHUNKED_BYTES = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 200(?: [\t\x20-\x7e]*)?")
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_KEEP_ALIVE = "keep-alive"
#: Answer headers that only the exchange understands.
_UNUSUAL_ANSWER = frozenset({"content-encoding", "trailer", "upgrade", "content-range"})


class Unusual(Exception):
    """This answer is for the exchange."""


class Answer(NamedTuple):
    """
    lines  -- the headers that the caller gets, rendered
    named  -- the upstream names the request itself
    body   -- whole, without framing
    """

    lines: bytes
    named: bool
    body: bytes


class AnswerReader:
    """
    Reads ordinary answers: status 200, one Content-Length or one chunked coding, each header once. Stricter than the
    parser that the exchange uses, so that nothing passes here that would not pass there.

    clean  -- takes secrets out; a header that holds one makes the answer unusual
    """

    def __init__(self, clean: Callable[[bytes], bytes]) -> None:
        self._clean = clean
        self._known: dict[bytes, tuple[int, bytes | int, str]] = {}

    def read(self, data: bytes) -> Answer | None:
        """The answer that `data` is, None while it is not complete. Raises Unusual."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            raise Unusual
        status, *lines = data[:end].split(b"\r\n")
        if status != b"HTTP/1.1 200 OK" and _STATUS.fullmatch(status) is None:
            raise Unusual
        known = self._known
        passed: list[Any] = []
        names: list[str] = []
        framing: list[Any] = []
        for line in lines:
            kind, value, name = known.get(line) or self._learn(line)
            if kind == _PASS:
                passed.append(value)
                names.append(name)
            elif kind == _FRAMING:
                framing.append(value)
            elif kind == _UNUSUAL:
                raise Unusual
        if len(framing) != 1 or (len(names) > 1 and len(set(names)) != len(names)):
            raise Unusual
        body = _sized(data, end + 4, framing[0]) if framing[0] >= 0 else _chunked(data, end + 4)
        return None if body is None else Answer(b"".join(passed), "request-id" in names, body)

    def _learn(self, line: bytes) -> tuple[int, bytes | int, str]:
        found = self._judge(line)
        if len(self._known) >= MAX_LINES:
            self._known.clear()
        self._known[line] = found
        return found

    def _judge(self, line: bytes) -> tuple[int, bytes | int, str]:
        match = _LINE.fullmatch(line)
        if match is None:
            return _UNUSUAL, b"", ""
        name, value = match[1].decode().lower(), match[2].decode()
        if name == "content-length":
            return (_FRAMING, int(value), name) if re.fullmatch("[0-9]{1,9}", value) else (_UNUSUAL, b"", name)
        if name == "transfer-encoding":
            return (_FRAMING if value.lower() == "chunked" else _UNUSUAL), _CHUNKS, name
        if name == "connection":
            return (_DROP if value.lower() == _KEEP_ALIVE else _UNUSUAL), b"", name
        events = name == "content-type" and value.partition(";")[0].strip().lower() == "text/event-stream"
        if events or name in _UNUSUAL_ANSWER or name.startswith("x-goog-upload"):
            return _UNUSUAL, b"", name
        if name not in ANSWER_ALLOWED:
            return _DROP, b"", name
        if self._clean(value.encode()) != value.encode():
            return _UNUSUAL, b"", name
        return _PASS, header_lines(for_client({name: value})), name


def _sized(data: bytes, start: int, length: int) -> bytes | None:
    """The body of an answer with a length."""
    missing = start + length - len(data)
    if missing < 0 or length > MAX_ANSWER_BYTES:
        raise Unusual
    return None if missing else data[start:]


def _chunked(data: bytes, start: int) -> bytes | None:
    """The body of a chunked answer without extensions and trailers. Grammar: RFC 9112 section 7.1."""
    if not data.endswith(b"\r\n0\r\n\r\n"):
        if len(data) > MAX_CHUNKED_BYTES:
            raise Unusual
        return None
    parts: list[bytes] = []
    at, end = start, len(data) - 5
    while at < end:
        size = _CHUNK_SIZE.match(data, at)
        if size is None:
            raise Unusual
        begin = size.end()
        at = begin + int(size[1], 16)
        if at == begin or data[at : at + 2] != b"\r\n":
            raise Unusual
        parts.append(data[begin:at])
        at += 2
    if at != end:
        raise Unusual
    return b"".join(parts)


@dataclass(slots=True)
class Good:
    """An answer that may go to the caller. `resource_ids`: what lives at this key from now on."""

    body: bytes
    usage: Usage
    resource_ids: list[str]


def judge(call: Call, body: bytes, edits: Edits | None) -> Good | None:
    """The same checks as `readers.PlainReader` makes, for a call that the shortcut knows."""
    form = call.match.format
    answer: Json | None
    answer, fault = form.check_answer(call, body)
    if fault or answer is None:
        return None
    usage, made = form.usage(answer), form.resource_ids(call, answer)
    if edits is not None and call.model is not None:
        body = form.rename_model(body, call.model)
    return Good(body, usage, made)
