"""
What this worker knows of the stored keys, and how it takes over what others have stored.

A row that a person changed counts as it is. Another worker's state counts unless a decision of this worker, as strong
or stronger, was on its way to the database when the reading began or came up since: what was read then does not know
it yet. The row counts as not read in that case. Not locked: LiveKeys holds its lock around every call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from . import store
from .base import Scope, Status
from .rotation import Rotation
from .states import KeyState, Limit, group_pair
from .store import GROUP_MARK, KeyRow, PairRow
from .writes import WriteChange, pair_name, read_evidence

#: A key's id with the name of a pair, or with WHOLE for the key itself.
_Place = tuple[int, str]
WHOLE = ""
_RANKS = {Status.HEALTHY: 0, Status.RESTING: 1, Status.DISABLED: 2}
UNDECRYPTABLE = "undecryptable"
#: Two instants that differ by less are the same rest: converting between the clocks is not exact.
_SAME_REST_S = 0.5


@dataclass(slots=True)
class _Known:
    """
    What this process knows about a row.

    row    -- as it was read last
    taken  -- as it was when its state was taken over last
    own    -- the latest values of `state_at` that this process wrote
    """

    row: KeyRow
    taken: KeyRow
    own: tuple[float, ...] = ()


class Ledger:
    """The rows as they were read, and the decisions that are not written yet."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._rows: dict[int, _Known] = {}
        #: How many decisions on each scope are on their way to the database.
        self._unwritten: dict[_Place, int] = {}
        self._taken_pairs: dict[_Place, PairRow] = {}
        #: Scopes with decisions that the reading under way may not have seen; None between readings.
        self._unseen: set[_Place] | None = None
        self._left_out = False

    @property
    def is_empty(self) -> bool:
        """Whether no key is known yet."""
        return not self._rows

    def outdated(self, versions: Mapping[int, int]) -> set[int]:
        """Ids of the keys whose rows have to be read again."""
        rows = self._rows
        return {
            key_id
            for key_id, version in versions.items()
            if key_id not in rows or rows[key_id].taken.version != version
        }

    def has_value(self, row: KeyRow) -> bool:
        """Whether the row's value is known already."""
        known = self._rows.get(row.id)
        return known is not None and known.row.sealed == row.sealed and row.id in self._rotation.keys

    # -- readings --------------------------------------------------------------------------------------------

    def start_reading(self) -> None:
        """The database is about to be read: whatever is not committed yet may be missing there."""
        self._unseen = set(self._unwritten)

    def stop_reading(self) -> None:
        """What was read is merged, or could not be read."""
        self._unseen = None

    @property
    def is_behind(self) -> bool:
        """Whether the last reading had to leave something out that a reading would see now."""
        return self._left_out and not self._unwritten

    def _is_unseen(self, place: _Place) -> bool:
        return self._unseen is not None and place in self._unseen

    # -- decisions on their way ------------------------------------------------------------------------------

    def add(self, job: WriteChange) -> None:
        """A decision is about to be handed to the writer."""
        change = job.change
        known = self._rows.get(change.key_id)
        if change.scope is Scope.PROVIDER:
            return
        if change.scope is Scope.KEY and known is not None:
            job.decided_on = (known.taken.state_at, *known.own)
        place = (change.key_id, job.pair_name)
        self._unwritten[place] = self._unwritten.get(place, 0) + 1
        if self._unseen is not None:
            self._unseen.add(place)

    def own_writes(self, job: WriteChange) -> tuple[float, ...]:
        """
        The values of `state_at` that this worker has written since a person changed the key last.
        What an earlier run of the job wrote was rolled back, so that another worker may have used the value.
        """
        known = self._rows.get(job.change.key_id)
        if known is None:
            return ()
        known.own = tuple(value for value in known.own if value != job.state_at)
        return known.own

    def wrote(self, job: WriteChange, state_at: float | None) -> None:
        """A decision was handed to the database; `state_at` is None when it was not stored."""
        job.state_at = state_at
        known = self._rows.get(job.change.key_id)
        if known is not None and state_at is not None:
            known.own = (*known.own[-3:], state_at)

    def settled(self, job: WriteChange) -> None:
        """A decision is committed or lost: every reading from now on sees what became of it."""
        place = (job.change.key_id, job.pair_name)
        if job.pair is not None:
            self._taken_pairs[place] = job.pair
        left = self._unwritten.pop(place, 0) - 1
        if left > 0:
            self._unwritten[place] = left

    # -- rows of the database --------------------------------------------------------------------------------

    def merge(
        self,
        rows: Iterable[tuple[KeyRow, str | None]],
        ids: Collection[int],
        pairs: Iterable[PairRow],
        now: float,
        wall: float,
    ) -> None:
        """
        Take over what was read between `start_reading` and now.

        rows  -- the outdated rows with their decrypted values, None for what cannot be decrypted
        ids   -- of all keys that are stored
        pairs -- all that are stored
        """
        self._left_out = False
        for row, value in rows:
            self._merge_key(row, value, now, wall)
        self._keep_only(ids)
        self._merge_pairs(pairs, now, wall)

    def _keep_only(self, ids: Collection[int]) -> None:
        for key_id in [key_id for key_id in self._rows if key_id not in ids]:
            del self._rows[key_id]
            self._rotation.remove(key_id)

    def _merge_key(self, row: KeyRow, value: str | None, now: float, wall: float) -> None:
        known = self._rows.get(row.id)
        key = self._rotation.keys.get(row.id)
        if known is None or key is None or _shape(known.row) != _shape(row):
            key = self._replace(key, row, value)
        if known is None:
            self._rows[row.id] = _Known(row, row)
            self._restore(key, row, value, now, wall)
            return
        known.row = row
        if _state(row) == _state(known.taken) or self._take_state(known, key, row, value, now, wall):
            known.taken = row
        else:
            self._left_out = True
        if value is None:
            self._restore(key, row, value, now, wall)

    def _take_state(
        self, known: _Known, key: KeyState, row: KeyRow, value: str | None, now: float, wall: float
    ) -> bool:
        """Let a changed state count; False when a decision of this worker comes first."""
        is_unseen = self._is_unseen((row.id, WHOLE))
        if row.state_by == store.PERSON:
            known.own = ()
            self._person_changed(key, row, now, wall)
        elif row.state_at in known.own:
            # What this worker wrote last is what it thinks, unless it took over something older in between.
            if not is_unseen and row.state_at == known.own[-1]:
                self._restore(key, row, value, now, wall)
        elif is_unseen and _RANKS[row.status] <= _RANKS[key.limit.status]:
            return False
        else:
            self._restore(key, row, value, now, wall)
        return True

    def _replace(self, old: KeyState | None, row: KeyRow, value: str | None) -> KeyState:
        """Put a key with the row's shape in; what is known about the old one's state stays."""
        key = KeyState(row.id, row.provider, value or "", row.group, row.models, row.priority)
        self._rotation.put(key)
        self._taken_pairs = {place: pair for place, pair in self._taken_pairs.items() if place[0] != row.id}
        if old is not None:
            key.uses, key.epoch = old.uses, old.epoch + 1
            if old.value == key.value and old.provider == key.provider:
                key.adopt(old)
        return key

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

    def _merge_pairs(self, rows: Iterable[PairRow], now: float, wall: float) -> None:
        stored = {(row.key_id, row.model): row for row in rows}
        for key in tuple(self._rotation.keys.values()):
            for limit in tuple(key.limits()):
                if limit.scope is Scope.KEY or not (limit.until or limit.level or limit.ended):
                    continue
                pair = (limit.key_id, pair_name(limit.scope, limit.model))
                if pair not in stored and not self._is_unseen(pair) and limit.key_id in self._rows:
                    limit.ended = 0.0
                    if limit.until or limit.level:
                        self._rotation.restore(limit, Status.HEALTHY, None, 0)
                        self._rotation.forget(limit)
        self._taken_pairs = {pair: row for pair, row in self._taken_pairs.items() if pair in stored}
        for pair, row in stored.items():
            if self._is_unseen(pair):
                self._left_out = True
            elif self._taken_pairs.get(pair) == row:
                continue  # counted down on the monotonic clock since it was taken: a jump of the wall clock is nothing
            elif (pair_limit := self._pair_limit(row)) is not None:
                self._restore_pair(pair_limit, row, now, wall)
                self._taken_pairs[pair] = row

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


def _state(row: KeyRow) -> tuple[object, ...]:
    """
    The state columns. `state_at` alone would do, had no other program ever written one twice; `version` alone would
    not, because it also grows when a key is renamed.
    """
    return row.state_at, row.state_by, row.status, row.disabled_until, row.reason, row.evidence, row.failures


def _shape(row: KeyRow) -> tuple[object, ...]:
    """What makes a row another key for rotation."""
    return row.provider, row.group, row.models, row.priority, row.sealed
