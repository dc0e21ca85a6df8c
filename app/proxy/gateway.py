"""
What the core needs from the rest of the house, as protocols: the stores behind them decide in memory and never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.keys.base import KeyWanted, Lease, Verdict
from app.proxy.routing import KeyCounts, Providers
from app.settings import Settings


class Keys(KeyCounts, Protocol):
    """The upstream keys. `now` is monotonic seconds."""

    def version(self) -> int:
        """Another number whenever `has_keys`, `has_any` or `any_real` could answer anew."""
        ...

    def acquire(self, wanted: KeyWanted, now: float) -> Lease:
        """A key for one attempt. Raises AllKeysResting, NoKeys or ModelNotFound."""
        ...

    def succeeded(self, lease: Lease, now: float) -> None: ...
    def failed(self, lease: Lease, verdict: Verdict, now: float, http_status: int = 0) -> None: ...
    def released(self, lease: Lease, now: float) -> None:
        """The attempt ended without telling anything about the key."""
        ...

    def owner(self, provider_names: Iterable[str], hints: Iterable[str], now: float) -> int | None: ...
    def remember(self, provider: str, hint: str, key_id: int, now: float) -> None: ...


class Caller(Protocol):
    """A client key that was recognised."""

    @property
    def id(self) -> int: ...
    @property
    def models(self) -> Sequence[str]: ...
    @property
    def expires_at(self) -> float | None:
        """Unix seconds."""
        ...


class Callers(Protocol):
    def version(self) -> object:
        """Another object whenever a client key was added, changed or removed."""
        ...

    def required(self) -> bool:
        """Whether a request needs a client key at this moment."""
        ...

    def local_only(self) -> bool:
        """Whether no key is needed because only programs on this machine can ask."""
        ...

    def recognise(self, token: str) -> Caller:
        """The client of this key. Raises Unauthorized, saying whether it is unknown, expired or switched off."""
        ...


class Limits(Protocol):
    def admit(self, wall_now: float) -> bool:
        """
        Count one request; True when `leave` is owed. Raises RateLimited (requests per minute) or Overloaded (at once).
        """
        ...

    def leave(self) -> None:
        """An admitted request has ended."""
        ...


class Cleaner(Protocol):
    """Takes secrets out of text."""

    def version(self) -> object:
        """Another object whenever there are other secrets."""
        ...

    def text(self, text: str) -> str: ...
    def data(self, data: bytes) -> bytes: ...


class AnswerCache(Protocol):
    """Answers of model lists, by provider and URL."""

    def get(self, key: str, now: float) -> tuple[str, bytes] | None: ...
    def put(self, key: str, content_type: str, body: bytes, expires: float) -> None: ...
    def clear(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Gateway:
    """
    Everything an exchange asks. One for each worker.

    settings  -- the live settings as they are now
    accepting -- False once the server is shutting down
    """

    settings: Callable[[], Settings]
    providers: Callable[[], Providers]
    keys: Keys
    callers: Callers
    limits: Limits
    cleaner: Cleaner
    model_cache: AnswerCache
    accepting: Callable[[], bool]
    new_id: Callable[[], str]
