"""
One list of models from several providers: an exchange made of exchanges, one for each provider that speaks the caller's
format, run one after the other. A provider that fails is left out, as long as another one answered. Pure.

With a single provider there is nothing to put together, and its answer passes as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app import formats
from app.errors import MiddlewareError
from app.formats import json_body, paths
from app.formats.base import Call, Json, Mark, Match, Operation
from app.proxy.events import (
    Abort,
    ClientBytes,
    ClientGone,
    ClientHead,
    Command,
    Drain,
    Event,
    Finish,
    Record,
    RequestHead,
)
from app.proxy.exchange import Exchange
from app.proxy.gateway import Gateway, Limits
from app.proxy.headers import lowered
from app.proxy.readers import StreamReader
from app.records import RequestRecord

#: Asked of every provider, since pages can't be put together: the largest page that each allows.
_WHOLE_LIST = {"anthropic": "limit=1000", "gemini": "pageSize=1000", "openai": ""}


def open_exchange(gateway: Gateway, head: RequestHead, *, now: float, wall: float) -> Exchange | ListExchange:
    """The exchange for this request."""
    heads = _list_heads(gateway, head)
    if len(heads) > 1:
        return ListExchange(gateway, heads, now=now, wall=wall)
    return Exchange(gateway, head, now=now, wall=wall)


def _list_heads(gateway: Gateway, head: RequestHead) -> list[RequestHead]:
    """For a list of models that several providers have: the same request to each of them."""
    if head.method != "GET" or "models" not in head.target:
        return []
    try:
        path, query = paths.normalise(head.target)
        match = formats.match("GET", path, lowered(head.headers), query)
    except MiddlewareError:
        return []
    if match.endpoint.operation is not Operation.MODELS or match.model is not None or not _is_list(match):
        return []
    query = "&".join(part for part in (query, _WHOLE_LIST[match.format.family]) if part)
    return [
        head._replace(target=f"/{entry.name}{path}?{query}".rstrip("?"))
        for entry in gateway.providers().ordered
        if entry.enabled and entry.speaks(match.format.name) and gateway.keys.has_keys(entry.name)
    ]


def _is_list(match: Match) -> bool:
    return match.path.rsplit("/", 1)[1] == "models"


class ListExchange:
    """Has the interface of Exchange. See there."""

    def __init__(self, gateway: Gateway, heads: list[RequestHead], *, now: float, wall: float) -> None:
        self.done = False
        self.call: Call | None = None
        request_id = gateway.new_id()
        self._gateway = replace(gateway, new_id=lambda: request_id)
        self._heads = heads
        self._wall_offset = wall - now
        self._began = now
        self._parts: list[tuple[ClientHead, bytes]] = []
        self._records: list[RequestRecord] = []
        self._head: ClientHead | None = None
        self._body = bytearray()
        self._inner = self._next(now)

    @property
    def deadline(self) -> float | None:
        return None if self.done else self._inner.deadline

    def start(self, now: float) -> list[Command]:
        return self._pass(self._inner.start(now), now)

    def feed(self, event: Event, now: float) -> list[Command]:
        if self.done:
            return []
        if isinstance(event, ClientGone | Drain):
            self._heads.clear()
        return self._pass(self._inner.feed(event, now), now)

    def events(self) -> StreamReader | None:
        """Never: a list is put together from whole answers."""
        return None

    def passed(self, size: int, now: float) -> None:
        """Nothing passes it by."""

    def place(self, event: bytes, mark: Mark, now: float) -> list[Command]:  # noqa: ARG002
        """Nothing passes it by."""
        return []

    def refuse(self, error: MiddlewareError, now: float) -> list[Command]:
        if self.done:
            return []
        self._heads.clear()
        return self._pass(self._inner.refuse(error, now), now)

    def _next(self, now: float) -> Exchange:
        # One request of the caller counts once, however many providers are asked.
        gateway = self._gateway if not self._records else replace(self._gateway, limits=_Uncounted())
        return Exchange(gateway, self._heads.pop(0), now=now, wall=now + self._wall_offset)

    def _pass(self, commands: list[Command], now: float) -> list[Command]:
        """What of the inner commands is for the driver; moves on to the next provider when one is through."""
        passed: list[Command] = []
        for command in commands:
            if isinstance(command, ClientHead):
                self._head, self._body = command, bytearray()
            elif isinstance(command, ClientBytes):
                self._body += command.data
            elif isinstance(command, Finish | Abort):
                if self._head is not None and isinstance(command, Finish):
                    self._parts.append((self._head, bytes(self._body)))
            elif isinstance(command, Record):
                self._records.append(command.record)
            else:
                passed.append(command)
        self.call = self._inner.call or self.call
        if not self._inner.done:
            return passed
        if self._heads:
            self._inner = self._next(now)
            return passed + self._pass(self._inner.start(now), now)
        self.done = True
        return passed + self._finish(now)

    def _finish(self, now: float) -> list[Command]:
        record = self._records[-1]
        record.attempts = [attempt for part in self._records for attempt in part.attempts]
        record.duration_ms = round((now - self._began) * 1000)
        good = [(head, found) for head, body in self._parts if head.status == 200 and (found := _read(body))]
        if not good:
            return [*self._last_part(), Record(record)]
        head, body = good[0][0], self._merged([found for _, found in good])
        record.status, record.outcome, record.error_code = 200, "success", ""
        record.response_bytes = len(body)
        return [replace(head, length=len(body)), ClientBytes(body), Finish(), Record(record)]

    def _last_part(self) -> list[Command]:
        """Nobody has a list: what the last one said."""
        if not self._parts:
            return [Abort()]
        head, body = self._parts[-1]
        return [head, ClientBytes(body), Finish()]

    def _merged(self, lists: list[Json]) -> bytes:
        family = self.call.match.format.family if self.call is not None else "openai"
        return json_body.dumps(_MERGERS[family](lists))


class _Uncounted(Limits):
    def admit(self, wall_now: float) -> bool:  # noqa: ARG002
        return False

    def leave(self) -> None:
        return None


def _read(body: bytes) -> Json | None:
    """The list in a body; None where it is something else."""
    try:
        return json_body.parse_object(body, acted_keys=())
    except MiddlewareError:
        return None


def _entries(lists: list[Json], member: str, name: str) -> list[Any]:
    """All entries, the first of each name."""
    found: dict[Any, Any] = {}
    for one in lists:
        for entry in one.get(member) or []:
            if isinstance(entry, dict):
                found.setdefault(entry.get(name), entry)
    return list(found.values())


def _openai(lists: list[Json]) -> Json:
    return {"object": "list", "data": _entries(lists, "data", "id")}


def _anthropic(lists: list[Json]) -> Json:
    data = _entries(lists, "data", "id")
    ends = [data[0]["id"], data[-1]["id"]] if data else [None, None]
    return {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


def _gemini(lists: list[Json]) -> Json:
    return {"models": _entries(lists, "models", "name")}


_MERGERS: dict[str, Callable[[list[Json]], Json]] = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}
