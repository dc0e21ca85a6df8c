"""
What this worker knows of the stored keys, and how it takes over what others have stored.

A row that a person changed counts as it is. Another worker's state counts unless a stronger decision of this worker is
on its way to the database. Not locked: LiveKeys holds its lock around every call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from . import store
from .base import Scope, Status
from .rotation import Rotation
from .states import KeyState, Limit, group_pair
from .store import GROUP_MARK, KeyRow, PairRow
from .writes import WriteChange, pair_name, read_evidence

UNDECRYPTABLE = "undecryptable"
#: Two instants that differ by less are the same rest: converting between the clocks is not exact.
_SAME_REST_S = 0.5


@dataclass(slots=True)
class _Known:
    """
    What this process knows about a row.

    row        -- as it was read last
    own        -- the latest values of `state_at` that this process wrote
    unwritten  -- decisions on their way to the database
    """

    row: KeyRow
    own: tuple[float, ...] = ()
    unwritten: int = 0


class Ledger:
    """The rows as they were read, and the decisions that are not written yet."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._rows: dict[int, _Known] = {}
        self._unwritten_pairs: dict[tuple[int, str], int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no key is known yet."""
        return not self._rows

    def outdated(self, versions: Mapping[int, int]) -> set[int]:
        """Ids of the keys whose rows have to be read again."""
        rows = self._rows
        return {
            key_id for key_id, version in versions.items() if key_id not in rows or rows[key_id].row.version != version
        }

    def has_value(self, row: KeyRow) -> bool:
        """Whether the row's value is known already."""
        known = self._rows.get(row.id)
        return known is not None and known.row.sealed == row.sealed and row.id in self._rotation.keys

    # -- decisions on their way ------------------------------------------------------------------------------

    def add(self, job: WriteChange) -> None:
        """A decision is about to be handed to the writer."""
        change = job.change
        known = self._rows.get(change.key_id)
        if change.scope is Scope.KEY and known is not None:
            known.unwritten += 1
            job.decided_on = (known.row.state_at, *known.own)
        elif change.scope not in (Scope.PROVIDER, Scope.KEY):
            pair = (change.key_id, job.pair_name)
            self._unwritten_pairs[pair] = self._unwritten_pairs.get(pair, 0) + 1

    def own_writes(self, key_id: int) -> tuple[float, ...]:
        """The values of `state_at` that this worker has written since a person changed the key last."""
        known = self._rows.get(key_id)
        return known.own if known is not None else ()

    def written(self, job: WriteChange, state_at: float | None) -> None:
        """A decision was handed to the database; `state_at` is None when it was not stored."""
        step, job.counted = not job.counted, True
        if job.change.scope is Scope.KEY:
            known = self._rows.get(job.change.key_id)
            if known is not None:
                known.unwritten = max(0, known.unwritten - step)
                known.own = known.own if state_at is None else (*known.own[-3:], state_at)
            return
        pair = (job.change.key_id, job.pair_name)
        left = self._unwritten_pairs.pop(pair, 0) - step
        if left > 0:
            self._unwritten_pairs[pair] = left

    # -- rows of the database --------------------------------------------------------------------------------

    def keep_only(self, ids: Collection[int]) -> None:
        """Forget the keys that are not stored any more."""
        for key_id in [key_id for key_id in self._rows if key_id not in ids]:
            del self._rows[key_id]
            self._rotation.remove(key_id)

    def merge(self, row: KeyRow, value: str | None, now: float, wall: float) -> None:
        known = self._rows.get(row.id)
        key = self._rotation.keys.get(row.id)
        if known is None or key is None or _shape(known.row) != _shape(row):
            key = self._replace(key, row, value)
        if known is None:
            self._rows[row.id] = _Known(row)
            self._restore(key, row, value, now, wall)
            return
        if row.state_at != known.row.state_at:
            self._state_changed(known, key, row, value, now, wall)
        if value is None:
            self._restore(key, row, value, now, wall)
        known.row = row

    def _state_changed(
        self, known: _Known, key: KeyState, row: KeyRow, value: str | None, now: float, wall: float
    ) -> None:
        if row.state_by == store.PERSON:
            known.own = ()
            self._person_changed(key, row, now, wall)
        elif row.state_at in known.own:
            # What this worker wrote last is what it thinks, unless it took over something older in between.
            if not known.unwritten and row.state_at == known.own[-1]:
                self._restore(key, row, value, now, wall)
        elif self._takes_over(key, row, known):
            self._restore(key, row, value, now, wall)

    def _replace(self, old: KeyState | None, row: KeyRow, value: str | None) -> KeyState:
        """Put a key with the row's shape in; what is known about the old one's state stays."""
        key = KeyState(row.id, row.provider, value or "", row.group, row.models, row.priority)
        self._rotation.put(key)
        if old is not None:
            key.uses, key.epoch = old.uses, old.epoch + 1
            if old.value == key.value and old.provider == key.provider:
                key.adopt(old)
        return key

    def _takes_over(self, key: KeyState, row: KeyRow, known: _Known) -> bool:
        """Whether another worker's state counts: always, unless this worker has a stronger one on its way."""
        if not known.unwritten:
            return True
        ranks = {Status.HEALTHY: 0, Status.RESTING: 1, Status.DISABLED: 2}
        return ranks[row.status] > ranks[key.limit.status]

    def _person_changed(self, key: KeyState, row: KeyRow, now: float, wall: float) -> None:
        until = now + row.disabled_until - wall if row.disabled_until is not None else None
        self._rotation.set_status(key.id, row.status, until)
        key.limit.reason = row.reason

    def _restore(self, key: KeyState, row: KeyRow, value: str | None, now: float, wall: float) -> None:
        """Put the key into the state of its row, unless it is in it already."""
        limit = key.limit
        status, until = row.status, None
        if value is None:
            status = Status.DISABLED
        elif status is Status.RESTING:
            until = now + (row.disabled_until or 0.0) - wall
            if until <= now:
                status = Status.HEALTHY
        same_rest = until is None or abs(until - limit.until) < _SAME_REST_S
        if status is limit.status and same_rest and (row.failures == limit.level or status is Status.DISABLED):
            return
        self._rotation.restore(limit, status, until, row.failures)
        limit.reason = UNDECRYPTABLE if value is None else row.reason
        evidence = read_evidence(row.evidence)
        limit.message, limit.http_status = evidence["message"], evidence["status"]
        if status is Status.HEALTHY and row.status is Status.RESTING:
            self._rotation.note(limit, Status.HEALTHY)

    def merge_pairs(self, rows: list[PairRow], now: float, wall: float) -> None:
        stored = {(row.key_id, row.model): row for row in rows}
        for key in tuple(self._rotation.keys.values()):
            for limit in tuple(self._rotation.all_limits(key)):
                if limit.scope is Scope.KEY or not (limit.until or limit.level):
                    continue
                pair = (limit.key_id, pair_name(limit.scope, limit.model))
                if pair not in stored and pair not in self._unwritten_pairs and limit.key_id in self._rows:
                    self._rotation.restore(limit, Status.HEALTHY, None, 0)
                    self._rotation.forget(limit)
        for pair, row in stored.items():
            pair_limit = self._pair_limit(row)
            if pair_limit is not None and pair not in self._unwritten_pairs:
                self._restore_pair(pair_limit, row, now, wall)

    def _pair_limit(self, row: PairRow) -> Limit | None:
        key = self._rotation.keys.get(row.key_id)
        if key is None:
            return None
        if not row.model.startswith(GROUP_MARK):
            return key.pair(row.model)
        if key.team is None:
            return None
        model = row.model.removeprefix(GROUP_MARK)
        limit = group_pair(key.team, key.id, model) if model else key.team.limit
        if limit is not None and not limit.until:
            limit.key_id = key.id
        return limit

    def _restore_pair(self, limit: Limit, row: PairRow, now: float, wall: float) -> None:
        until = now + row.until - wall
        if until <= limit.ended + _SAME_REST_S and limit.ended:
            return
        if until > now:
            self._rotation.restore(limit, Status.RESTING, until, row.failures)
            if limit.model is not None:
                self._rotation.pools[limit.provider].split_live(limit.model)
        elif row.failures:
            self._rotation.restore(limit, Status.HEALTHY, None, row.failures)
        limit.ended, limit.gone, limit.reason = until, not row.failures and until > now, row.reason


def _shape(row: KeyRow) -> tuple[object, ...]:
    """What makes a row another key for rotation."""
    return row.provider, row.group, row.models, row.priority, row.sealed
