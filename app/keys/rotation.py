"""
Which key serves the next attempt, and what a verdict does to the keys. Pure: no lock, no clock, no SQL, no I/O.

Every instant is passed in, in monotonic seconds. Order is a counter of picks, never a clock: N keys and N requests use
each key once, and a key that comes back from a rest joins at the current turn. Rests end lazily: whoever asks first
after the end opens the scope, and if failures had closed it, the first pick is a probe and the rest of the callers
skip the key until the probe is reported.

The caller holds a lock around every method. Not every answer needs a change: `drain` gives what has changed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace

from .base import KeyWanted, Lease, Scope, Status, Verdict
from .ring import DEFAULT_STRATEGY, RANKS, Pool, Ring, best_outcome, draw_ticket
from .states import FOREVER, Change, KeyState, Limit, Outcome, Pick, Policy
from .verdict_effects import Effects

#: A probe whose outcome is never reported is given up after this time.
PROBE_TIMEOUT_S = 60.0
#: What callers are told to wait for the outcome of a probe, and how long another worker's probe is left alone.
PROBE_WAIT_S = 1.0
_PRUNE_INTERVAL_S = 60.0
_MAX_REMEMBERED_REASONS = 256


class Rotation:
    """Keys, their states, and the order in which they are used."""

    def __init__(self, source: random.Random | None = None, policy: Policy | None = None) -> None:
        self.source = source or random.Random()
        self.policy = policy or Policy()
        self.keys: dict[int, KeyState] = {}
        self.pools: dict[str, Pool] = {}
        self.turn = 0
        self._ticket = 0.0
        self._changes: list[Change] = []
        self.mutations = 0
        self._alarms: list[tuple[float, int, Limit]] = []
        self._alarm_count = 0
        self._probes: dict[int, tuple[Limit, ...]] = {}
        self._prune_at = 0.0
        self._effects = Effects(self)

    # -- the set of keys ------------------------------------------------------------------------------

    def put(self, key: KeyState) -> None:
        """Add a key, or replace the one with its id. It joins at the current turn."""
        self.remove(key.id)
        self._join(key)
        self.keys[key.id] = key
        pool = self.pools.get(key.provider)
        if pool is None:
            pool = self.pools[key.provider] = Pool(key.provider)
        pool.add(key)
        self.mutations += 1

    def remove(self, key_id: int) -> None:
        """Forget a key. Attempts that still hold it may report; nothing happens then."""
        key = self.keys.pop(key_id, None)
        if key is not None:
            self.pools[key.provider].discard(key_id)
            self.mutations += 1

    def new_day(self, uses: Mapping[int, int]) -> None:
        """Start counting uses anew, from these numbers per key id."""
        for key in self.keys.values():
            key.uses = uses.get(key.id, 0)
        for pool in self.pools.values():
            pool.rearrange()

    # -- picking ------------------------------------------------------------------------------------

    def pick(self, wanted: KeyWanted, strategy: str, now: float) -> Pick:
        """Choose a key; `outcome` says why there is none. Unknown strategies mean round robin."""
        if self._alarms and self._alarms[0][0] <= now:
            self._wake(now)
        if strategy not in RANKS:
            strategy = DEFAULT_STRATEGY
        if wanted.preferred is not None:
            pick = self._pick_preferred(wanted, wanted.preferred, now)
            if pick is not None:
                return pick
        for provider in wanted.providers:
            pool = self.pools.get(provider)
            if pool is None or pool.limit.until:
                continue
            model = wanted.models.get(provider)
            key = self._next(pool.ring(model, strategy), model, wanted.excluding)
            if key is not None:
                return self._take(pool, key, model, now)
        return self._explain(wanted, now)

    def _pick_preferred(self, wanted: KeyWanted, key_id: int, now: float) -> Pick | None:
        key = self.keys.get(key_id)
        if key is None or key_id in wanted.excluding or key.provider not in wanted.providers:
            return None
        pool = self.pools[key.provider]
        model = wanted.models.get(key.provider)
        if pool.limit.until or key.blocker(model) is not None or not key.serves(model):
            return None
        self._stamp(key)
        return self._take(pool, key, model, now)

    def _next(self, ring: Ring, model: str | None, excluding: frozenset[int]) -> KeyState | None:
        """The first eligible key of the ring, moved to its new place."""
        heap = ring.heap
        skipped: list[KeyState] = []
        found: KeyState | None = None
        while heap:
            first, second, _, key = heap[0]
            if key.removed:
                heappop(heap)
                continue
            if ring.rank(key) != (first, second):
                heapreplace(heap, ring.entry(key))
                continue
            limit = key.blocker(model)
            if limit is not None and (limit.model is None or ring.model is not None):
                heappop(heap)
                limit.parked.append((ring, key))
            elif limit is not None or key.id in excluding or not key.serves(model):
                heappop(heap)
                skipped.append(key)
            else:
                self._stamp(key)
                if ring.strategy == "random":
                    self._ticket = max(self._ticket, key.ticket)
                    draw_ticket(key, self.source)
                heapreplace(heap, ring.entry(key))
                found = key
                break
        for key in skipped:
            ring.push(key)
        return found

    def _stamp(self, key: KeyState) -> None:
        self.turn += 1
        key.turn = self.turn
        key.uses += 1

    def _take(self, pool: Pool, key: KeyState, model: str | None, now: float) -> Pick:
        """Hand the key out; every limit on trial is probed by this attempt."""
        names: tuple[str, ...] = ()
        if pool.limit.trial or key.limit.trial or key.pairs or key.team is not None:
            limits = (pool.limit, key.limit, *key.narrow_limits(model))
            probed = tuple(limit for limit in limits if limit.trial)
            if probed:
                self._probes[key.turn] = probed
                names = tuple(limit.name for limit in probed)
            for limit in probed:
                limit.probe = key.turn
                self.set_alarm(limit, now + PROBE_TIMEOUT_S)
        return Pick(Outcome.PICKED, key, model, key.turn, names)

    def _explain(self, wanted: KeyWanted, now: float) -> Pick:
        """Say why no key was found, over all the providers asked for."""
        found: dict[Outcome, float] = {Outcome.NO_KEYS: 0.0}
        for provider in wanted.providers:
            pool = self.pools.get(provider)
            if pool is None:
                continue
            model = wanted.models.get(provider)
            outcome, wake_at, probing = self._reason(pool, model)
            if probing:
                wake_at = min(wake_at, now + PROBE_WAIT_S)
            found[outcome] = min(wake_at, found.get(outcome, FOREVER))
        outcome = best_outcome(found)
        return Pick(outcome, wake_at=found[outcome])

    def _reason(self, pool: Pool, model: str | None) -> tuple[Outcome, float, bool]:
        if pool.stamp != self.mutations or len(pool.reasons) >= _MAX_REMEMBERED_REASONS:
            pool.reasons.clear()
            pool.stamp = self.mutations
        reason = pool.reasons.get(model)
        if reason is None:
            reason = pool.reasons[model] = pool.find_reason(model)
        return reason

    # -- reports -------------------------------------------------------------------------------------

    def succeeded(self, lease: Lease) -> list[Change]:
        """The attempt was answered: failures in a row end, a probe opens its scopes. May be called more than once."""
        pool = self.pools.get(lease.provider)
        if pool is not None:
            pool.failures = 0
            if pool.limit.level:
                self._recover(pool.limit, lease.serial)
                if not pool.limit.level:
                    pool.rests.seen.clear()
                    pool.deaths.seen.clear()
        key = self.keys.get(lease.key_id)
        if key is not None and key.epoch == lease.epoch:
            key.unauthorized = 0
            if key.limit.level:
                self._recover(key.limit, lease.serial)
            if key.pairs or key.team is not None:
                for limit in tuple(key.narrow_limits(lease.model)):
                    self._recover(limit, lease.serial)
        if self._probes:
            self._release(lease.serial)
        return self.drain()

    def _recover(self, limit: Limit, serial: int) -> None:
        """End the failures of a scope, unless the attempt is older than its last rest."""
        if serial <= limit.mark or (limit.until and limit.probe != serial):
            return
        had_failed = limit.level > 0
        limit.level, limit.trial = 0, False
        if limit.probe == serial or limit.until:
            self.open(limit)
        if had_failed:
            self.note(limit, Status.HEALTHY)
        if limit.model is not None and had_failed:
            self.forget(limit)

    def apply(self, lease: Lease, verdict: Verdict, now: float, http_status: int = 0) -> list[Change]:
        """Do what the verdict says; returns what has changed."""
        self._wake(now)
        self._effects.apply(lease, verdict, now, http_status)
        self._release(lease.serial)
        return self.drain()

    def released(self, lease: Lease) -> None:
        """The attempt came to nothing that says something about the key; a probe is free again."""
        self._release(lease.serial)

    def _release(self, serial: int) -> None:
        for limit in self._probes.pop(serial, ()):
            if limit.probe == serial:
                self.open(limit)

    def probe_elsewhere(self, pick: Pick, now: float) -> None:
        """Another worker probes one of these scopes now: give the pick back and leave them alone for a moment."""
        for limit in self._probes.pop(pick.serial, ()):
            if limit.probe == pick.serial:
                limit.probe = -1
                self.set_alarm(limit, now + PROBE_WAIT_S)

    def heal(self, now: float) -> list[Change]:
        """Open what has rested long enough; returns what has changed since the last call of any method."""
        self._wake(now)
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_INTERVAL_S
            for pool in self.pools.values():
                pool.prune(now)
        return self.drain()

    def drain(self) -> list[Change]:
        """Changes since the last call, oldest first."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def changed(self) -> bool:
        """Whether `drain` would return something."""
        return bool(self._changes)

    # -- changes by people, and states from elsewhere ---------------------------------------------------

    def set_status(self, key_id: int, status: Status, until: float | None = None) -> None:
        """A person's change: it starts a new epoch, and HEALTHY also ends every rest that covers the key."""
        key = self.keys[key_id]
        key.epoch += 1
        key.unauthorized = 0
        key.limit.reason = key.limit.message = ""
        key.limit.http_status = 0
        self.restore(key.limit, status, until, 0)
        if status is not Status.HEALTHY:
            return
        limits = [*key.pairs.values(), self.pools[key.provider].limit]
        if key.team is not None:
            limits += [key.team.limit, *key.team.pairs.values()]
        for limit in limits:
            if limit.until or limit.level:
                self.restore(limit, Status.HEALTHY, None, 0)
                self.note(limit, Status.HEALTHY)
                self.forget(limit)

    def restore(self, limit: Limit, status: Status, until: float | None, level: int) -> None:
        """Put a scope into this state, as the database or a person has it. A rest needs `until`."""
        self.open(limit)
        limit.level, limit.mark = level, self.turn
        limit.trial = level > 0 and status is Status.HEALTHY
        if status is Status.DISABLED:
            self.set_alarm(limit, FOREVER)
        elif status is Status.RESTING and until is not None:
            limit.ended = until
            self.set_alarm(limit, until)

    def forget(self, limit: Limit) -> None:
        """Drop the memory of a (key, model) or (group, model) pair that is open."""
        if limit.model is None:
            return
        key = self.keys.get(limit.key_id)
        if limit.scope is Scope.KEY_MODEL and key is not None:
            key.pairs.pop(limit.model, None)
        elif limit.scope is Scope.GROUP_MODEL:
            for team in self.pools[limit.provider].groups.values():
                if team.pairs.get(limit.model) is limit:
                    del team.pairs[limit.model]

    # -- what limits do to the rings (for the effects too) ------------------------------------------------

    def set_alarm(self, limit: Limit, until: float) -> None:
        """Keep the scope out of play until then."""
        limit.until = until
        self.mutations += 1
        if until != FOREVER:
            self._alarm_count += 1
            heappush(self._alarms, (until, self._alarm_count, limit))

    def open(self, limit: Limit) -> None:
        """Let the scope's keys into their rings again."""
        limit.until, limit.probe, limit.gone = 0.0, 0, False
        self.mutations += 1
        parked, limit.parked = limit.parked, []
        for ring, key in parked:
            if ring.live and not key.removed:
                if key.ticket < self._ticket:
                    key.ticket = self._ticket
                    draw_ticket(key, self.source)
                ring.push(key)

    def note(self, limit: Limit, status: Status, *, alert: bool = False) -> None:
        """Tell the caller of the present state of this scope."""
        self._changes.append(
            Change(
                limit.scope,
                limit.key_id,
                limit.provider,
                status,
                limit.model,
                limit.until if status is Status.RESTING else None,
                limit.reason if status is not Status.HEALTHY else "",
                limit.message if status is not Status.HEALTHY else "",
                limit.http_status,
                limit.level,
                limit.gone,
                alert,
            )
        )

    def _wake(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            until, _, limit = heappop(self._alarms)
            if limit.until != until:
                continue  # the rest was changed meanwhile and has another alarm
            was_probe, was_gone = bool(limit.probe), limit.gone
            self._probes.pop(limit.probe, None)
            self.open(limit)
            if was_probe:
                continue
            limit.trial = limit.level > 0 and not was_gone
            if limit.scope is Scope.KEY and limit.key_id in self.keys:
                self._join(self.keys[limit.key_id])
            self.note(limit, Status.HEALTHY)
            if not limit.trial:
                self.forget(limit)

    def _join(self, key: KeyState) -> None:
        self.turn += 1
        key.turn = self.turn
        key.ticket = self._ticket
        draw_ticket(key, self.source)

    # -- numbers -----------------------------------------------------------------------------------------

    def usable(self, provider: str, now: float) -> int:
        """Keys of the provider entry that could be picked now, for some model."""
        self._wake(now)
        pool = self.pools.get(provider)
        if pool is None or (pool.limit.until and not pool.limit.probe):
            return 0
        if pool.usable[0] != self.mutations:
            pool.usable = (self.mutations, pool.count_usable())
        return pool.usable[1]

    def has_keys(self, provider: str) -> bool:
        """Whether the provider entry has a key that is not disabled."""
        pool = self.pools.get(provider)
        if pool is None:
            return False
        if pool.enabled[0] != self.mutations:
            pool.enabled = (self.mutations, any(key.limit.until != FOREVER for key in pool.keys.values()))
        return pool.enabled[1]

    def has_any(self, provider: str) -> bool:
        """Whether the provider entry has a key, in whatever state."""
        pool = self.pools.get(provider)
        return pool is not None and bool(pool.keys)

    def pause_of(self, provider: str) -> str:
        """Why the whole provider entry rests; empty when it does not."""
        pool = self.pools.get(provider)
        return pool.limit.reason or "paused" if pool is not None and pool.limit.until else ""
