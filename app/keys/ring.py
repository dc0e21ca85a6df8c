"""
The order of picks. A ring is a heap of the keys of one provider entry that may serve one model (or any model).

A key's rank only grows while it is used, so an entry with an old rank is corrected when it comes up; a key that a limit
keeps out of play is parked at that limit when it comes up, and comes back when the limit opens. So a pick costs
O(log n) and never scans the pool.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappush

from .base import Scope
from .states import FOREVER, Group, KeyState, Limit, Outcome, Storm

Rank = tuple[float, int]
Entry = tuple[float, int, int, KeyState]

#: Rings by model per provider entry. Models beyond share the general ring and pay for skipping.
MAX_RINGS = 200
MAX_RING_ENTRIES = 250_000

#: How long the step on the ladder of a pair is remembered after its rest.
PAIR_MEMORY_S = 86400.0

_OUTCOMES = (
    Outcome.RESTING,
    Outcome.TRIED,
    Outcome.MODEL_GONE,
    Outcome.NOT_SERVED,
    Outcome.DISABLED,
    Outcome.NO_KEYS,
)

RANKS: dict[str, Callable[[KeyState], Rank]] = {
    "round_robin": lambda key: (0, key.turn),
    "least_used": lambda key: (key.uses, key.turn),
    "priority": lambda key: (key.priority, key.turn),
    # Each key is a Poisson process of its own, so the next event belongs to each of them with equal chance.
    "random": lambda key: (key.ticket, 0),
}
DEFAULT_STRATEGY = "round_robin"


class Ring:
    """A heap of keys; `model` is None for the general ring."""

    __slots__ = ("heap", "live", "model", "rank", "strategy")

    def __init__(self, model: str | None, strategy: str, keys: Iterable[KeyState]) -> None:
        self.model = model
        self.live = True
        self.heap: list[Entry] = []
        self.arrange(strategy, keys)

    def arrange(self, strategy: str, keys: Iterable[KeyState]) -> None:
        """Fill the ring anew, in the order of this strategy."""
        self.strategy = strategy
        self.rank = RANKS.get(strategy, RANKS[DEFAULT_STRATEGY])
        self.heap = [self.entry(key) for key in keys if key.serves(self.model)]
        heapify(self.heap)

    def entry(self, key: KeyState) -> Entry:
        first, second = self.rank(key)
        return (first, second, key.id, key)

    def push(self, key: KeyState) -> None:
        heappush(self.heap, self.entry(key))


@dataclass(slots=True, eq=False)
class Pool:
    """The keys of one provider entry."""

    name: str
    keys: dict[int, KeyState] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    general: Ring = field(init=False)
    rings: dict[str, Ring] = field(default_factory=dict)
    globs: int = 0
    limit: Limit = field(init=False)
    rests: Storm = field(default_factory=Storm)
    deaths: Storm = field(default_factory=Storm)
    failures: int = 0
    #: Why nothing could be picked, per model; valid while `stamp` equals the rotation's counter of changes. The two
    #: below carry that counter themselves.
    reasons: dict[str | None, tuple[Outcome, float, bool]] = field(default_factory=dict)
    stamp: int = -1
    usable: tuple[int, int] = (-1, 0)
    enabled: tuple[int, bool] = (-1, False)

    def __post_init__(self) -> None:
        self.general = Ring(None, DEFAULT_STRATEGY, ())
        self.limit = Limit(Scope.PROVIDER, 0, self.name, f"provider:{self.name}")

    def add(self, key: KeyState) -> None:
        """Take a key in; replaces the one with the same id."""
        self.discard(key.id)
        self.keys[key.id] = key
        self.globs += bool(key.models)
        if key.group:
            team = self.groups.get(key.group)
            if team is None:
                limit = Limit(Scope.GROUP, key.id, self.name, f"group:{self.name}:{key.group}")
                team = self.groups[key.group] = Group(self.name, key.group, limit)
            team.members.add(key.id)
            key.team = team
        self.general.push(key)
        for ring in self.rings.values():
            if key.serves(ring.model):
                ring.push(key)

    def discard(self, key_id: int) -> None:
        """Forget a key. The rings drop it when it comes up."""
        key = self.keys.pop(key_id, None)
        if key is None:
            return
        key.removed = True
        self.globs -= bool(key.models)
        if key.team is not None:
            key.team.members.discard(key_id)

    def ring(self, model: str | None, strategy: str) -> Ring:
        """The ring that serves this model, in the order of this strategy."""
        ring = self.rings.get(model) if model is not None else None
        if ring is None:
            ring = self.split(model, strategy) if self.globs and model is not None else self.general
        if ring.strategy != strategy:
            ring.live = False
            ring = Ring(ring.model, strategy, self.keys.values())
            if ring.model is None:
                self.general = ring
            else:
                self.rings[ring.model] = ring
        return ring

    def split(self, model: str, strategy: str) -> Ring:
        """Give the model a ring of its own, because some keys may not serve it."""
        ring = self.rings.get(model)
        if ring is not None:
            return ring
        if len(self.rings) >= min(MAX_RINGS, MAX_RING_ENTRIES // (len(self.keys) + 1)):
            return self.general
        ring = self.rings[model] = Ring(model, strategy, self.keys.values())
        return ring

    def split_live(self, model: str) -> None:
        """Give the model a ring of its own in the present order."""
        self.split(model, self.general.strategy)

    def prune(self, now: float) -> None:
        """Forget the pairs that nobody has used long after their rest, and the rings that no pair needs any more."""
        for pairs in (*(key.pairs for key in self.keys.values()), *(team.pairs for team in self.groups.values())):
            for model in [model for model, limit in pairs.items() if _is_forgotten(limit, now)]:
                del pairs[model]
        for name in [name for name, team in self.groups.items() if not team.members and not team.limit.until]:
            del self.groups[name]
        needed = {model for key in self.keys.values() for model in key.pairs}
        needed.update(model for team in self.groups.values() for model in team.pairs)
        for model in [model for model in self.rings if model not in needed]:
            self.rings.pop(model).live = False

    def count_usable(self) -> int:
        """Keys that could be picked for some model. One that is probed counts: nothing is known against it."""
        usable = 0
        for key in self.keys.values():
            limits = (key.limit,) if key.team is None else (key.limit, key.team.limit)
            usable += all(not limit.until or limit.probe for limit in limits)
        return usable

    def find_reason(self, model: str | None) -> tuple[Outcome, float, bool]:
        """Why there is no key for the model: the outcome, the earliest wake-up, and whether a probe is under way."""
        if not self.keys:
            return Outcome.NO_KEYS, 0.0, False
        if self.limit.until:
            return Outcome.RESTING, self.limit.until, bool(self.limit.probe)
        found: set[Outcome] = set()
        wake_at, probing = FOREVER, False
        for key in self.keys.values():
            limit = key.blocker(model)
            outcome = outcome_of(key, limit, model)
            found.add(outcome)
            if limit is not None and outcome is Outcome.RESTING:
                wake_at = min(wake_at, limit.until)
                probing = probing or bool(limit.probe)
        outcome = best_outcome(found)
        return outcome, wake_at if outcome is Outcome.RESTING else 0.0, probing

    def rearrange(self) -> None:
        """Fill every ring anew, after ranks went down (a new day, a changed priority)."""
        for ring in (self.general, *self.rings.values()):
            ring.live = False
        self.general = Ring(None, self.general.strategy, self.keys.values())
        self.rings = {model: Ring(model, ring.strategy, self.keys.values()) for model, ring in self.rings.items()}


def _is_forgotten(limit: Limit, now: float) -> bool:
    return not limit.until and limit.ended < now - PAIR_MEMORY_S


def outcome_of(key: KeyState, limit: Limit | None, model: str | None) -> Outcome:
    """What keeps this key, whose blocker is `limit`, from serving the model; TRIED where nothing does."""
    if limit is not None and limit.until == FOREVER:
        return Outcome.DISABLED
    if not key.serves(model):
        return Outcome.NOT_SERVED
    if limit is None:
        return Outcome.TRIED
    return Outcome.MODEL_GONE if limit.gone else Outcome.RESTING


def best_outcome(found: Collection[Outcome]) -> Outcome:
    """The most useful of several explanations."""
    return next(outcome for outcome in _OUTCOMES if outcome in found)


def draw_ticket(key: KeyState, source: random.Random) -> None:
    """Move the key to a new place in the random order."""
    key.ticket += source.expovariate(1.0)
