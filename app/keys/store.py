"""
The SQL of the upstream keys: their rows, their rests, their counters and the keys of conversations.

Every function takes the connection of a transaction that the caller opened. A state that a worker decided on is written
by compare-and-set: what a person changed meanwhile stays, else Disabled beats Resting beats Healthy. `version` grows
with every change of a row, so that other workers find the rows to read again; `state_at` tells changes of the state
apart.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from ..storage.database import Connection
from ..storage.revision import bump
from ..storage.schema import daily_stats, imported_keys, key_model_rests, keys, session_keys
from .base import Status

PERSON = "person"
SYSTEM = "system"
#: A group's rest is kept at the key that reported it, under this instead of a model name, or before the model's.
GROUP_MARK = "*group*"
MAX_MODEL_CHARS = 256
#: How long a rest lasts that a person gives.
BULK_REST_S = 3600.0
_CHUNK = 500
#: Two states of a key never have the same `state_at`, also when the clock stands still or is set back.
_TICK_S = 1e-6
_RANKS = {Status.HEALTHY: 0, Status.RESTING: 1, Status.DISABLED: 2}


class KeyRow(NamedTuple):
    """One row of `keys`, read. `sealed` is the encrypted value; `evidence` is JSON; instants are Unix seconds."""

    id: int
    name: str
    sealed: str
    hint: str
    provider: str
    group: str
    models: tuple[str, ...]
    status: Status
    disabled_until: float | None
    reason: str
    evidence: str
    failures: int
    note: str
    priority: int
    last_rotated_at: float
    state_at: float
    state_by: str
    version: int
    total_requests: int


class PairRow(NamedTuple):
    """A rest of (key, model), or of a group where the model begins with GROUP_MARK. No failures = the model is gone."""

    key_id: int
    model: str
    until: float
    reason: str
    failures: int


@dataclass(frozen=True, slots=True)
class StoredState:
    """The state columns of a key."""

    status: Status
    disabled_until: float | None = None
    reason: str = ""
    evidence: str = ""
    failures: int = 0


def personal(status: Status, wall: float = 0.0) -> StoredState:
    """The state that a person sets; a rest lasts an hour."""
    until = wall + BULK_REST_S if status is Status.RESTING else None
    return StoredState(status, until, "" if status is Status.HEALTHY else "manual")


def imported_state(row: Mapping[str, Any], wall: float) -> StoredState:
    """The state that an exported key had; a rest that is over, or has no end, is none."""
    if row.get("status") == Status.DISABLED:
        return StoredState(Status.DISABLED, None, "manual")
    until = row.get("disabled_until")
    if row.get("status") == Status.RESTING and isinstance(until, int | float) and wall < until < wall + 31 * 86400:
        return StoredState(Status.RESTING, float(until), "manual")
    return StoredState(Status.HEALTHY)


# -- reading -------------------------------------------------------------------------------------------------


def load_versions(connection: Connection) -> dict[int, int]:
    """Version per key id, of all keys."""
    return {key_id: version for key_id, version in connection.execute(sa.select(keys.c.id, keys.c.version))}


def load_keys(connection: Connection, ids: Collection[int] | None = None) -> list[KeyRow]:
    """The rows of these ids, or all, in the order in which they were used last."""
    if ids is None:
        return _load_keys(connection, sa.true())
    return [row for some in _chunks(ids) for row in _load_keys(connection, keys.c.id.in_(some))]


def _load_keys(connection: Connection, which: sa.ColumnElement[bool]) -> list[KeyRow]:
    statement = sa.select(*_KEY_COLUMNS).where(which).order_by(keys.c.last_rotated_at, keys.c.id)
    return [_key_row(row) for row in connection.execute(statement)]


#: In the order of KeyRow's fields.
_KEY_COLUMNS = tuple(keys.c[{"sealed": "key_value", "hint": "key_hint"}.get(name, name)] for name in KeyRow._fields)
_MODELS, _STATUS = KeyRow._fields.index("models"), KeyRow._fields.index("status")
_STATUSES = {str(status): status for status in Status}


def _key_row(row: Sequence[Any]) -> KeyRow:
    # Lists of thousands of keys are read for each view of them: by place, not by name.
    values = list(row)
    values[_MODELS] = read_models(values[_MODELS])
    values[_STATUS] = _STATUSES.get(values[_STATUS], Status.DISABLED)
    return KeyRow._make(values)


def read_models(stored: str) -> tuple[str, ...]:
    """The globs of a stored JSON list; what is not one counts as empty."""
    if stored == "[]":
        return ()
    try:
        values = json.loads(stored)
    except ValueError:
        return ()
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def load_pairs(connection: Connection, since: float) -> list[PairRow]:
    """The pairs whose rest ends, or ended, after `since`."""
    c = key_model_rests.c
    statement = sa.select(c.key_id, c.model, c.until, c.reason, c.failures).where(c.until > since)
    return [PairRow(*row) for row in connection.execute(statement)]


def load_uses(connection: Connection, day: str) -> dict[int, int]:
    """Requests per key id on this day (YYYY-MM-DD)."""
    statement = sa.select(daily_stats.c.key_id, daily_stats.c.requests).where(daily_stats.c.date == day)
    return {key_id: requests for key_id, requests in connection.execute(statement)}


def exists_hmac(connection: Connection, key_hmac: str, besides: int | None = None) -> bool:
    """Whether another key with this fingerprint is stored."""
    found = connection.execute(sa.select(keys.c.id).where(keys.c.key_hmac == key_hmac)).scalar()
    return found is not None and found != besides


def load_hmacs(connection: Connection) -> set[str]:
    """The fingerprints of all keys."""
    return set(connection.execute(sa.select(keys.c.key_hmac)).scalars())


# -- states ----------------------------------------------------------------------------------------------------


def write_state(
    connection: Connection, key_id: int, state: StoredState, known_state_at: Collection[float], now: float
) -> float | None:
    """
    Store a decision of this worker, unless a change that it did not know forbids it.
    Returns the new `state_at`, None when nothing was written.

    known_state_at  -- the values of `state_at` that the decision was made on, or that this worker wrote itself
    """
    row = connection.execute(sa.select(*_KEY_COLUMNS).where(keys.c.id == key_id)).first()
    if row is None:
        return None
    stored = _key_row(row)
    if stored.state_at not in known_state_at and not _yields(stored, state, now):
        return None
    if StoredState(stored.status, stored.disabled_until, stored.reason, stored.evidence, stored.failures) == state:
        return None
    state_at = max(now, stored.state_at + _TICK_S)
    statement = (
        sa.update(keys)
        .where(keys.c.id == key_id, keys.c.version == stored.version)
        .values(**_state_values(state, state_at, SYSTEM), version=keys.c.version + 1)
    )
    if not connection.execute(statement).rowcount:
        return write_state(connection, key_id, state, known_state_at, now)
    bump(connection)
    return state_at


def _yields(stored: KeyRow, state: StoredState, now: float) -> bool:
    """Whether the stored state gives way to one that was decided without knowing it."""
    if stored.state_by == PERSON:
        return False
    if state.status is Status.HEALTHY and stored.status is Status.RESTING:
        return (stored.disabled_until or 0.0) <= now
    if state.status is Status.RESTING and stored.status is Status.RESTING:
        return (state.disabled_until or 0.0) > (stored.disabled_until or 0.0)
    return _RANKS[state.status] >= _RANKS[stored.status]


def _state_values(state: StoredState, state_at: object, by: str) -> dict[str, Any]:
    return {
        "status": str(state.status),
        "disabled_until": state.disabled_until,
        "reason": state.reason,
        "evidence": state.evidence,
        "failures": state.failures,
        "state_at": state_at,
        "state_by": by,
    }


def write_pair(connection: Connection, pair: PairRow) -> None:
    """Store a rest of a pair; one with `until` 0 is forgotten."""
    mine = sa.and_(key_model_rests.c.key_id == pair.key_id, key_model_rests.c.model == pair.model)
    values = {"until": pair.until, "reason": pair.reason, "failures": pair.failures}
    if not pair.until:
        changed = connection.execute(sa.delete(key_model_rests).where(mine)).rowcount
    else:
        changed = connection.execute(sa.update(key_model_rests).where(mine).values(**values)).rowcount
        if not changed and connection.execute(sa.select(keys.c.id).where(keys.c.id == pair.key_id)).first():
            row = {"key_id": pair.key_id, "model": pair.model, **values}
            changed = connection.execute(sa.insert(key_model_rests).values(**row)).rowcount
    if changed:
        bump(connection)


def delete_old_pairs(connection: Connection, before: float) -> None:
    """Forget the pairs whose rest ended before then."""
    connection.execute(sa.delete(key_model_rests).where(key_model_rests.c.until < before))


def add_counts(connection: Connection, counts: Mapping[int, tuple[int, float]]) -> None:
    """Add picks per key id, with the instant of the last one."""
    connection.execute(
        sa.update(keys)
        .where(keys.c.id == sa.bindparam("key_id"))
        .values(
            total_requests=keys.c.total_requests + sa.bindparam("picks"),
            last_rotated_at=sa.case(
                (keys.c.last_rotated_at < sa.bindparam("at"), sa.bindparam("at")), else_=keys.c.last_rotated_at
            ),
        ),
        [{"key_id": key_id, "picks": picks, "at": at} for key_id, (picks, at) in counts.items()],
    )


# -- changes by people -------------------------------------------------------------------------------------------


def insert_key(connection: Connection, values: Mapping[str, Any], state: StoredState, now: float) -> int:
    """Add a row; returns its id. The caller has checked the fingerprint in this transaction."""
    result = connection.execute(sa.insert(keys).values(**_new_row(values, state, now)))
    bump(connection)
    return int(cast(tuple[int], result.inserted_primary_key)[0])


def insert_keys(connection: Connection, rows: Iterable[tuple[Mapping[str, Any], StoredState]], now: float) -> None:
    """Add many rows at once; each must give the same columns. The caller has checked the fingerprints."""
    added = [_new_row(values, state, now) for values, state in rows]
    if added:
        connection.execute(sa.insert(keys), added)
        bump(connection)


def _new_row(values: Mapping[str, Any], state: StoredState, now: float) -> dict[str, Any]:
    return {**values, **_state_values(state, now, PERSON), "created_at": now, "version": 1}


def update_key(connection: Connection, key_id: int, values: Mapping[str, Any]) -> bool:
    """Change columns of a row that are no state; False when there is no such key."""
    statement = sa.update(keys).where(keys.c.id == key_id).values(**values, version=keys.c.version + 1)
    changed = bool(connection.execute(statement).rowcount)
    if changed:
        bump(connection)
    return changed


def set_states(connection: Connection, ids: Iterable[int], state: StoredState, now: float) -> int:
    """A person's change of state; a healthy key loses the rests of its models too. Returns how many keys exist."""
    count = 0
    state_at = sa.case((keys.c.state_at < now, now), else_=keys.c.state_at + _TICK_S)
    values = {**_state_values(state, state_at, PERSON), "version": keys.c.version + 1}
    for some in _chunks(ids):
        count += connection.execute(sa.update(keys).where(keys.c.id.in_(some)).values(**values)).rowcount
        if state.status is Status.HEALTHY:
            connection.execute(sa.delete(key_model_rests).where(key_model_rests.c.key_id.in_(some)))
    if count:
        bump(connection)
    return count


def delete_keys(connection: Connection, ids: Iterable[int]) -> int:
    """Remove keys with all that belongs to them. Returns how many there were."""
    count = 0
    for some in _chunks(ids):
        connection.execute(sa.delete(session_keys).where(session_keys.c.key_id.in_(some)))
        count += connection.execute(sa.delete(keys).where(keys.c.id.in_(some))).rowcount
    if count:
        bump(connection)
    return count


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    """The ids, sorted, in lists that fit into one statement."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), _CHUNK):
        yield wanted[start : start + _CHUNK]


def remember_import(connection: Connection, key_hmac: str, now: float) -> bool:
    """Note that a value of the environment was imported; False when it was before."""
    known = connection.execute(sa.select(imported_keys.c.key_hmac).where(imported_keys.c.key_hmac == key_hmac)).first()
    if known is not None:
        return False
    connection.execute(sa.insert(imported_keys).values(key_hmac=key_hmac, imported_at=now))
    return True


# -- conversations -----------------------------------------------------------------------------------------------


class SessionRow(NamedTuple):
    """`hint` is a digest; `expires_at` Unix seconds."""

    hint: str
    key_id: int
    expires_at: float
    seq: int = 0


#: Finds the greatest `seq`, for `Database.number`.
NEWEST_SESSION = f"SELECT max(seq) FROM {session_keys.name}"


def load_sessions(connection: Connection, after_seq: int, now: float, most: int) -> list[SessionRow]:
    """The youngest rows with a greater `seq`, oldest first."""
    c = session_keys.c
    statement = (
        sa.select(c.hint, c.key_id, c.expires_at, c.seq)
        .where(c.seq > after_seq, c.expires_at > now)
        .order_by(c.seq.desc())
        .limit(most)
    )
    return [SessionRow(*row) for row in reversed(connection.execute(statement).all())]


def write_sessions(connection: Connection, rows: Iterable[SessionRow]) -> None:
    """Store which key has the state of a conversation; each row gets the next `seq`."""
    seq = connection.execute(sa.select(sa.func.coalesce(sa.func.max(session_keys.c.seq), 0))).scalar_one()
    for row in rows:
        seq += 1
        values = {"key_id": row.key_id, "expires_at": row.expires_at, "seq": seq}
        statement = sa.update(session_keys).where(session_keys.c.hint == row.hint).values(**values)
        if not connection.execute(statement).rowcount:
            connection.execute(sa.insert(session_keys).values(hint=row.hint, **values))


def delete_old_sessions(connection: Connection, now: float) -> None:
    """Forget the conversations whose time is over."""
    connection.execute(sa.delete(session_keys).where(session_keys.c.expires_at < now))
