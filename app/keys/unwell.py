"""
Which keys do not serve, and why. Pure: the caller holds the lock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .base import Scope, Status
from .states import KeyState, Limit


@dataclass(frozen=True, slots=True)
class Ailment:
    """
    One reason why a key does not serve.

    model        -- the only model that it does not serve; None = all
    until        -- Unix seconds; None = until somebody enables it
    http_status  -- what the provider answered, 0 when that was not the reason
    message      -- the provider's words, redacted
    """

    key_id: int
    provider: str
    model: str | None
    until: float | None
    reason: str
    http_status: int
    message: str


@dataclass(frozen=True, slots=True)
class Unwell:
    """
    resting       -- those that wake up first
    disabled      -- those that were disabled last
    partial       -- keys that rest for one model only, those that wake up first
    partial_keys  -- how many keys rest for some model
    """

    resting: list[Ailment]
    disabled: list[Ailment]
    partial: list[Ailment]
    partial_keys: int


def find_unwell(
    keys: Iterable[KeyState],
    most: int,
    to_wall: Callable[[float | None], float | None],
    safe: Callable[[str, str], str],
) -> Unwell:
    """
    Look through the keys.

    most     -- how many of each kind are wanted
    to_wall  -- a monotonic instant as Unix seconds
    safe     -- a message without the key's value
    """
    resting: list[tuple[KeyState, Limit]] = []
    disabled: list[tuple[KeyState, Limit]] = []
    partial: list[tuple[KeyState, Limit]] = []
    for key in keys:
        limit = key.strongest()
        if limit.status is Status.RESTING:
            resting.append((key, limit))
        elif limit.status is Status.DISABLED:
            disabled.append((key, limit))
        elif key.pairs or key.team is not None:
            partial += [(key, pair) for pair in key.limits() if _rests_for_a_model(pair)]

    def told(found: tuple[KeyState, Limit]) -> Ailment:
        key, limit = found
        until = None if limit.status is Status.DISABLED else to_wall(limit.until)
        message = safe(limit.message, key.value)
        return Ailment(key.id, key.provider, limit.model, until, limit.reason, limit.http_status, message)

    return Unwell(
        [told(found) for found in heapq.nsmallest(most, resting, _by_end)],
        [told(found) for found in heapq.nlargest(most, disabled, lambda found: (found[1].mark, found[0].id))],
        [told(found) for found in heapq.nsmallest(most, partial, _by_end)],
        len({key.id for key, _ in partial}),
    )


def _by_end(found: tuple[KeyState, Limit]) -> tuple[float, int]:
    return found[1].until, found[0].id


def _rests_for_a_model(limit: Limit) -> bool:
    return limit.scope in (Scope.KEY_MODEL, Scope.GROUP_MODEL) and limit.status is Status.RESTING
