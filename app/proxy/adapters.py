"""
The stores, in the shape in which the core asks for them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from app import formats
from app.clients import Client, Clients
from app.errors import MiddlewareError, Unauthorized
from app.limits import RequestLimiter
from app.proxy.routing import KeyCounts, Providers, Wanted, explain
from app.settings import Settings

#: Why a client key is refused, by what `Clients.refusal` says.
REFUSALS = {
    "unknown": "The API key is not a client key of this server. Ask its operator for one.",
    "inactive": "This client key is switched off. Ask the operator of this server.",
    "expired": "This client key has expired. Ask the operator of this server for a new one.",
}
_TAIL_BYTES = 10
#: For `translate`: the high four bits become 7, the high two bits become 0b10.
_VERSION = bytes(0x70 | value & 0x0F for value in range(256))
_VARIANT = bytes(0x80 | value & 0x3F for value in range(256))
#: Who counts together for the limit of requests per minute.
RATE_NAME = "proxy"


class ClientDoor:
    """
    Whether a client key is needed, and whose it is.

    mode     -- `auto`, `required` or `open`
    exposed  -- the server listens beyond this machine
    """

    def __init__(self, clients: Clients, mode: str, *, exposed: bool) -> None:
        self._clients = clients
        self._mode = mode
        self._exposed = exposed

    def version(self) -> object:
        return self._clients.version()

    def required(self) -> bool:
        if self._mode != "auto":
            return self._mode == "required"
        return self._exposed or self._clients.any_exist()

    def local_only(self) -> bool:
        return self._mode == "auto" and not self.required()

    def recognise(self, token: str) -> Client:
        client = self._clients.authenticate(token)
        if client is None:
            raise Unauthorized(REFUSALS.get(self._clients.refusal(token), REFUSALS["unknown"]))
        return client


class RequestLimits:
    """The limits on all requests together. `leave` is owed once for each `admit` that did not raise."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self._limiter = limiter

    def admit(self, wall_now: float) -> bool:
        self._limiter.check(RATE_NAME, wall_now)
        return self._limiter.enter()

    def leave(self) -> None:
        self._limiter.leave()


class ModelCache:
    """Model lists by provider and URL. At most `max_entries`: the oldest goes first."""

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[float, str, bytes]] = {}

    def get(self, key: str, now: float) -> tuple[str, bytes] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None or found[0] <= now:
                return None
            return found[1], found[2]

    def put(self, key: str, content_type: str, body: bytes, expires: float) -> None:
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = (expires, content_type, body)
            while len(self._entries) > self._max_entries:
                del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        """Forget everything: providers or keys have changed."""
        with self._lock:
            self._entries.clear()


class RequestIds:
    """
    A UUID of version 7 as 32 hexadecimal digits at each call: the time in milliseconds, then 74 random bits (RFC 9562,
    section 5.7). Ids that follow the time keep the index over them small and quick; the random part is the system's, so
    that no id can be guessed from another, and is drawn for many ids at once. Made after the fork, so that no two
    workers share what they have drawn.
    """

    AT_ONCE = 256

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._tails: list[str] = []
        self._time: tuple[int, str] = (-1, "")

    def __call__(self) -> str:
        now_ms = int(self._wall() * 1000)
        known_ms, head = self._time
        if now_ms != known_ms:
            head = f"{now_ms & 0xFFFFFFFFFFFF:012x}"
            self._time = now_ms, head
        try:
            return head + self._tails.pop()
        except IndexError:
            tails = self._draw()
            last = tails.pop()
            self._tails = tails
            return head + last

    def _draw(self) -> list[str]:
        """What follows the time: the version, 12 random bits, the variant, 62 random bits."""
        drawn = bytearray(os.urandom(_TAIL_BYTES * self.AT_ONCE))
        drawn[0::_TAIL_BYTES] = drawn[0::_TAIL_BYTES].translate(_VERSION)
        drawn[2::_TAIL_BYTES] = drawn[2::_TAIL_BYTES].translate(_VARIANT)
        return drawn.hex(" ", _TAIL_BYTES).split(" ")


class RouteExplainer:
    """What would happen to a request, for the admin API."""

    def __init__(self, providers: Callable[[], Providers], keys: KeyCounts, settings: Callable[[], Settings]) -> None:
        self._providers = providers
        self._keys = keys
        self._settings = settings

    def explain(self, model: str | None, path: str) -> dict[str, Any]:
        """The candidates with the steps that led to them. An impossible path or model is told, not raised."""
        providers, settings = self._providers(), self._settings()
        try:
            clean, query = formats.paths.normalise(path)
            prefix, clean = formats.paths.split_prefix(clean, set(providers.by_name))
            match = formats.match("POST", clean, {}, query)
        except MiddlewareError as error:
            told = {"status": error.status, "code": error.code, "message": str(error)}
            return {"path": path, "dialect": None, "candidates": [], "steps": [], "error": told}
        wanted = Wanted(
            model=match.model or model,
            dialect=match.format.name,
            provider=prefix,
            default_provider=settings.model_provider,
            default_model=settings.model_default if match.endpoint.operation == "generate" else "",
        )
        found = explain(wanted, providers, self._keys)
        return {"path": clean, "model": wanted.model, "dialect": match.format.name, **found}
