"""
What an exchange gets that takes over a request from the shortcut: keys and limits that know what it has already, and
the request as the parser would have made it.
"""

from __future__ import annotations

from app.keys.base import KeyWanted, Lease, Verdict
from app.proxy.gateway import Gateway, Keys, Limits
from app.proxy.shortcut import KnownHead
from app.server.requests import Request
from app.server.uploads import EVERYBODY


class Handed:
    """The keys and the limits of a request that has a key, or a place among the running ones, already."""

    def __init__(self, gateway: Gateway, lease: Lease | None, admitted: bool | None) -> None:
        self.keys = _HandedKeys(gateway.keys, lease)
        self.limits: Limits = _HandedLimits(gateway.limits, admitted)

    def give_back(self, now: float) -> None:
        """An exchange that was refused at once took neither."""
        self.keys.give_back(now)


class _HandedKeys:
    """Another `Keys`, whose first key is the one that is there already."""

    def __init__(self, keys: Keys, lease: Lease | None) -> None:
        self._keys = keys
        self._lease = lease
        self.version = keys.version
        self.has_keys, self.has_any, self.any_real = keys.has_keys, keys.has_any, keys.any_real
        self.succeeded, self.released = keys.succeeded, keys.released
        self.owner, self.remember = keys.owner, keys.remember

    def acquire(self, wanted: KeyWanted, now: float) -> Lease:
        lease, self._lease = self._lease, None
        return lease if lease is not None else self._keys.acquire(wanted, now)

    def failed(self, lease: Lease, verdict: Verdict, now: float, http_status: int = 0) -> None:
        self._keys.failed(lease, verdict, now, http_status)

    def give_back(self, now: float) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._keys.released(lease, now)


class _HandedLimits:
    def __init__(self, limits: Limits, admitted: bool | None) -> None:
        self._limits = limits
        self._admitted = admitted

    def admit(self, wall_now: float) -> bool:
        admitted, self._admitted = self._admitted, None
        return self._limits.admit(wall_now) if admitted is None else admitted

    def leave(self) -> None:
        self._limits.leave()


def known_request(known: KnownHead, body: bytes) -> Request:
    """The request as the parser would have made it."""
    head = known.head
    request = Request()
    request.method, request.target, request.headers = head.method, head.target, head.headers
    request.append(body, EVERYBODY)
    request.complete = True
    return request
