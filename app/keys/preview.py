"""
What a request would find at one provider entry, without taking a key. Pure: the caller holds the lock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .ring import DEFAULT_STRATEGY, RANKS, outcome_of
from .rotation import Rotation
from .states import FOREVER, Outcome


@dataclass(frozen=True, slots=True)
class Preview:
    """
    outcome  -- PICKED, or why no key can serve
    counts   -- keys by what each of them would come to
    key_id   -- the key that is next in turn, for PICKED
    spare_id -- else the key that wakes up first, for a question on our own account; None where all are disabled
    wake_at  -- when the first key wakes up, for RESTING: monotonic seconds
    pause    -- why the whole provider entry rests; empty when it does not
    """

    provider: str
    outcome: Outcome
    counts: dict[Outcome, int]
    key_id: int | None = None
    spare_id: int | None = None
    wake_at: float | None = None
    pause: str = ""


def look(rotation: Rotation, provider: str, model: str | None, strategy: str) -> Preview:
    """What `Rotation.pick` would do with a request for this model at this provider entry alone."""
    pool = rotation.pools.get(provider)
    if pool is None or not pool.keys:
        return Preview(provider, Outcome.NO_KEYS, {})
    counts: Counter[Outcome] = Counter()
    ready, usable = [], []
    for key in pool.keys.values():
        limit = key.blocker(model)
        if key.limit.until != FOREVER:
            usable.append(key)
        if limit is None and key.serves(model):
            ready.append(key)
            counts[Outcome.PICKED] += 1
        else:
            counts[outcome_of(key, limit, model)] += 1
    pause = rotation.pause_of(provider)
    if ready and not pause:
        rank = RANKS.get(strategy, RANKS[DEFAULT_STRATEGY])
        return Preview(provider, Outcome.PICKED, dict(counts), min(ready, key=lambda key: (*rank(key), key.id)).id)
    outcome, wake_at, _ = pool.find_reason(model)
    spare = min(usable, key=lambda key: (key.limit.until, key.id)).id if usable else None
    return Preview(provider, outcome, dict(counts), None, spare, wake_at or None, pause)
