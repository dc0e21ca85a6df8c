"""
What rotation remembers: limits, keys, groups and pools. Pure data with the few rules that keep it consistent.

A limit is one thing that can keep keys out of play: the whole key, a (key, model) pair, a group, a (group, model) pair
or a whole provider entry. Instants are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .base import Scope, Status

if TYPE_CHECKING:
    from .ring import Ring

FOREVER = math.inf
#: (key, model) pairs remembered per key. Callers choose model names, so the number has to be bounded.
MAX_PAIRS = 256
MAX_REMEMBERED_MATCHES = 512


@dataclass(slots=True, eq=False)
class Limit:
    """
    The state of one scope.

    until    -- no picks before this instant; 0.0 = open, FOREVER = disabled
    ended    -- end of the last rest, kept after the rest is over
    level    -- failures in a row: the step on the ladder
    trial    -- the next pick is a probe
    probe    -- serial of the attempt that probes, 0 when none is under way
    mark     -- serial of the youngest pick when the state changed; attempts at or before it report on an older state
    gone     -- the key does not offer the model: nothing wakes up here
    parked   -- rings that dropped a key because of this limit
    """

    scope: Scope
    key_id: int
    provider: str
    name: str
    model: str | None = None
    until: float = 0.0
    ended: float = 0.0
    level: int = 0
    trial: bool = False
    probe: int = 0
    mark: int = 0
    gone: bool = False
    reason: str = ""
    message: str = ""
    http_status: int = 0
    parked: list[tuple[Ring, KeyState]] = field(default_factory=list, repr=False)

    @property
    def status(self) -> Status:
        """A probe under way is not a rest: the key counts as healthy."""
        if self.until == FOREVER:
            return Status.DISABLED
        return Status.RESTING if self.until and not self.probe else Status.HEALTHY


@dataclass(slots=True, eq=False)
class Group:
    """Keys of one provider that share a quota. `lead_id` is the key whose report made the last rest."""

    provider: str
    name: str
    limit: Limit
    pairs: dict[str, Limit] = field(default_factory=dict)
    members: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class KeyState:
    """
    One upstream key.

    models   -- globs of the models it may serve; empty = all
    uses     -- picks since midnight UTC
    turn     -- serial of its last pick
    ticket   -- its place in the random order
    epoch    -- changes made by people
    """

    id: int
    provider: str
    value: str = field(repr=False)
    group: str = ""
    models: tuple[str, ...] = ()
    priority: int = 1
    uses: int = 0
    turn: int = 0
    ticket: float = 0.0
    epoch: int = 0
    removed: bool = False
    unauthorized: int = 0
    unauthorized_minute: int = -1
    limit: Limit = field(init=False)
    team: Group | None = None
    pairs: dict[str, Limit] = field(default_factory=dict)
    _matches: dict[str, bool] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.limit = Limit(Scope.KEY, self.id, self.provider, f"key:{self.id}")

    def serves(self, model: str | None) -> bool:
        """Whether the key's own globs allow the model."""
        if not self.models or model is None:
            return True
        known = self._matches.get(model)
        if known is None:
            if len(self._matches) >= MAX_REMEMBERED_MATCHES:
                self._matches.clear()
            known = self._matches[model] = any(fnmatchcase(model, glob) for glob in self.models)
        return known

    def blocker(self, model: str | None) -> Limit | None:
        """The limit that keeps this key from serving the model now, the widest first."""
        if self.limit.until:
            return self.limit
        if not self.pairs and self.team is None:
            return None
        for limit in self.narrow_limits(model):
            if limit.until:
                return limit
        return None

    def narrow_limits(self, model: str | None) -> Iterator[Limit]:
        """The limits besides the key's own that a pick for this model has to respect."""
        if self.team is not None:
            yield self.team.limit
            if self.team.pairs and model in self.team.pairs:
                yield self.team.pairs[model]
        if self.pairs and model in self.pairs:
            yield self.pairs[model]

    def limits(self) -> Iterator[Limit]:
        """Every limit that covers this key, except the provider's."""
        yield self.limit
        yield from self.pairs.values()
        if self.team is not None:
            yield self.team.limit
            yield from self.team.pairs.values()

    def strongest(self) -> Limit:
        """The limit that people should see as the key's state."""
        if self.limit.status is Status.HEALTHY and self.team is not None:
            return self.team.limit
        return self.limit

    def adopt(self, old: KeyState) -> None:
        """Take over the state of the key that this one replaces."""
        self.limit, self.pairs = old.limit, old.pairs
        self.unauthorized, self.unauthorized_minute = old.unauthorized, old.unauthorized_minute

    def pair(self, model: str) -> Limit | None:
        """The limit of (this key, model), made when missing; None when too many are remembered already."""
        limit = self.pairs.get(model)
        if limit is None and _has_room(self.pairs):
            limit = Limit(Scope.KEY_MODEL, self.id, self.provider, f"pair:{self.id}:{model}", model)
            self.pairs[model] = limit
        return limit


def _has_room(pairs: dict[str, Limit]) -> bool:
    """Whether one more pair may be remembered; forgets one whose rest is over to make room."""
    if len(pairs) < MAX_PAIRS:
        return True
    over = next((model for model, limit in pairs.items() if not limit.until), None)
    if over is not None:
        del pairs[over]
    return over is not None


def group_pair(team: Group, key_id: int, model: str) -> Limit | None:
    """The limit of (group, model), made when missing; None when too many are remembered already."""
    limit = team.pairs.get(model)
    if limit is None and _has_room(team.pairs):
        limit = Limit(Scope.GROUP_MODEL, key_id, team.provider, f"{team.limit.name}:{model}", model)
        team.pairs[model] = limit
    return limit


@dataclass(slots=True)
class Storm:
    """Which keys failed in the same way lately."""

    window_s: float = 10.0
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, key_id: int, now: float) -> None:
        self.seen.append((now, key_id))

    def keys(self, now: float) -> set[int]:
        """Ids of the keys within the window."""
        while self.seen and self.seen[0][0] < now - self.window_s:
            self.seen.popleft()
        return {key_id for _, key_id in self.seen}


class Outcome(StrEnum):
    """What a pick came to."""

    PICKED = "picked"
    RESTING = "resting"
    MODEL_GONE = "model_gone"
    TRIED = "tried"  # usable keys exist, but this request has tried them all
    NOT_SERVED = "not_served"  # no key's own globs allow the model
    DISABLED = "disabled"
    NO_KEYS = "no_keys"


class Pick:
    """
    The result of a pick. A plain class: one is made for each attempt.

    probes   -- names of the limits that this pick probes; other workers must not probe them meanwhile
    wake_at  -- monotonic instant of the earliest wake-up, for RESTING
    """

    __slots__ = ("key", "model", "outcome", "probes", "serial", "wake_at")

    def __init__(
        self,
        outcome: Outcome,
        key: KeyState | None = None,
        model: str | None = None,
        serial: int = 0,
        probes: tuple[str, ...] = (),
        wake_at: float = 0.0,
    ) -> None:
        self.outcome = outcome
        self.key = key
        self.model = model
        self.serial = serial
        self.probes = probes
        self.wake_at = wake_at


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change of state, for the database, the log and the metrics.

    scope     -- what changed; `key_id` is the key whose report caused it
    until     -- monotonic end of a rest; None when healthy or disabled
    failures  -- failures in a row
    gone      -- the pair is skipped because the key does not offer the model
    """

    scope: Scope
    key_id: int
    provider: str
    status: Status
    model: str | None = None
    until: float | None = None
    reason: str = ""
    message: str = ""
    http_status: int = 0
    failures: int = 0
    gone: bool = False
    alert: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """
    Live settings that rotation follows.

    brake_threshold   -- different keys within 10 s that make a storm; 0 = no brake
    breaker_threshold -- failures in a row of one provider that open its circuit; 0 = no breaker
    """

    brake_threshold: int = 5
    breaker_threshold: int = 0
    breaker_cooldown_s: float = 30.0
