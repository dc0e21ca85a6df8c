"""
Client keys: who may call the proxy, and what each of them may use.

Only the SHA-256 of a key is stored: it has 256 random bits, so a slow hash would add nothing. Authentication is one
look-up of the whole digest in memory; keys that begin alike are strangers to each other.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import sqlalchemy as sa

from .clock import Clock
from .errors import BadRequest, NotFound, refuse_if_changed
from .storage.database import Connection, Database
from .storage.revision import bump
from .storage.schema import client_grants, clients
from .storage.writer import Writer
from .vault import sha256

PREFIX = "mw-"
SHOWN_CHARS = 8
MAX_TOKEN_CHARS = 512
MAX_NAME_CHARS = 200
MAX_PATTERN_CHARS = 256
MODEL_GRANT = "model"
#: `last_used_at` is written at most this often per client.
_USE_INTERVAL_S = 1.0

Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Client:
    """
    One client key, without the key.

    expires_at  -- Unix seconds, None = never
    models      -- globs of the models it may use; empty = all
    """

    id: int
    name: str
    active: bool = True
    expires_at: float | None = None
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def may_use(self, model: str) -> bool:
        """Whether the client may use this model."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class Clients:
    """The store of client keys. Thread-safe; reading touches no database."""

    def __init__(self, database: Database, writer: Writer, clock: Clock | None = None) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._by_digest: Mapping[str, Client] = {}
        self._used: dict[int, float] = {}
        self._pending: dict[int, float] = {}

    def refresh(self) -> None:
        """Read all client keys again."""
        # One at a time: a reading that began before a change must not overwrite the one that saw it.
        with self._refreshing, self._database.read() as connection:
            grants = _grants(connection)
            rows = connection.execute(sa.select(clients)).mappings().all()
            self._by_digest = {row["key_hash"]: _client(row, grants.get(row["id"], ())) for row in rows}

    def version(self) -> object:
        """Another object whenever a client key was added, changed or removed."""
        return self._by_digest

    def any_exist(self) -> bool:
        """Whether there is any client key, active or not."""
        return bool(self._by_digest)

    def authenticate(self, token: str) -> Client | None:
        """The client that this key belongs to; None when it is unknown, inactive or expired."""
        client = self._find(token)
        if client is None or self._refusal(client):
            return None
        self._note_use(client.id)
        return client

    def refusal(self, token: str) -> str:
        """Why the key is refused: `unknown`, `inactive` or `expired`; empty when it is not."""
        client = self._find(token)
        return "unknown" if client is None else self._refusal(client)

    def _find(self, token: str) -> Client | None:
        if not token or len(token) > MAX_TOKEN_CHARS:
            return None
        return self._by_digest.get(sha256(token))

    def _refusal(self, client: Client) -> str:
        if not client.active:
            return "inactive"
        if client.expires_at is not None and client.expires_at <= self._clock.wall():
            return "expired"
        return ""

    # -- administration ------------------------------------------------------------------------------------

    def list(self) -> Rows:
        """All client keys, newest first: id, name, key_prefix, active, scopes, models; instants in Unix seconds."""
        with self._database.read() as connection:
            grants = _grants(connection)
            rows = connection.execute(sa.select(clients).order_by(clients.c.id.desc())).mappings().all()
        return [self._shown(row, grants.get(row["id"], ())) for row in rows]

    def get(self, client_id: int) -> Row:
        """One client key as in `list`. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(clients).where(clients.c.id == client_id)).mappings().first()
            if row is None:
                raise NotFound("Client key not found")
            return self._shown(row, _grants(connection, client_id).get(client_id, ()))

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str] = (),
        models: Iterable[str] = (),
        expires_at: float | None = None,
        active: bool = True,
        token: str = "",
    ) -> tuple[int, str]:
        """
        Make a client key; returns its id and the key itself, which is never shown again.

        token -- the key, where it is to be this one instead of a random one

        Raises BadRequest.
        """
        token = token or PREFIX + secrets.token_urlsafe(32)
        values = _checked(
            {"name": name, "scopes": scopes, "models": models, "expires_at": expires_at, "active": active}
        )
        patterns = values.pop("models")
        values.update(key_hash=sha256(token), key_prefix=token[:SHOWN_CHARS], created_at=self._clock.wall())
        with self._database.transaction() as connection:
            result = connection.execute(sa.insert(clients).values(**values))
            client_id = int(cast(tuple[int], result.inserted_primary_key)[0])
            _set_models(connection, client_id, patterns)
            bump(connection)
        self.refresh()
        return client_id, token

    def update(self, client_id: int, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> None:
        """
        Change some of name, active, expires_at, scopes, models. What else a row holds cannot be changed.

        expected -- values, as `get` showed them, that must still be there

        Raises BadRequest for an unknown field or a wrong value, NotFound, Conflict naming what somebody else changed.
        """
        values = _checked(changes)
        if not values:
            raise BadRequest("No valid data.")
        patterns = values.pop("models", None)
        with self._database.transaction() as connection:
            bump(connection)  # first: on PostgreSQL it makes whoever else changes something wait
            row = connection.execute(sa.select(clients).where(clients.c.id == client_id)).mappings().first()
            if row is None:
                raise NotFound("Client key not found")
            refuse_if_changed(self._shown(row, _grants(connection, client_id).get(client_id, ())), expected)
            if values:
                connection.execute(sa.update(clients).where(clients.c.id == client_id).values(**values))
            if patterns is not None:
                _set_models(connection, client_id, patterns)
        self.refresh()

    def delete(self, client_id: int) -> None:
        """Remove a client key with its grants. Raises NotFound."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(client_grants).where(client_grants.c.client_id == client_id))
            if not connection.execute(sa.delete(clients).where(clients.c.id == client_id)).rowcount:
                raise NotFound("Client key not found")
            bump(connection)
        self.refresh()

    def _shown(self, row: Mapping[Any, Any], models: tuple[str, ...]) -> Row:
        shown = {name: row[name] for name in ("id", "name", "key_prefix", "expires_at", "created_at")}
        used = (row["last_used_at"], self._used.get(row["id"]))
        shown.update(
            active=bool(row["active"]),
            scopes=list_of_text(row["scopes"]),
            models=[*models],
            last_used_at=max((instant for instant in used if instant is not None), default=None),
        )
        return shown

    # -- use -----------------------------------------------------------------------------------------------

    def _note_use(self, client_id: int) -> None:
        now = self._clock.wall()
        with self._lock:
            if now - self._used.get(client_id, 0.0) < _USE_INTERVAL_S:
                return
            self._used[client_id] = now
            first = not self._pending
            self._pending[client_id] = now
        if first:
            self._writer.later(_once(self._take_pending))

    def _take_pending(self) -> dict[int, float]:
        with self._lock:
            pending, self._pending = self._pending, {}
        return pending


class _once:  # noqa: N801 - reads as a function
    """A job that takes its rows once, so that a retry writes the same ones."""

    def __init__(self, take: Any) -> None:
        self._take = take
        self._rows: dict[int, float] | None = None

    def __call__(self, connection: Connection) -> None:
        if self._rows is None:
            self._rows = self._take()
        for client_id, used_at in (self._rows or {}).items():
            connection.execute(sa.update(clients).where(clients.c.id == client_id).values(last_used_at=used_at))


def list_of_text(stored: str) -> list[str]:
    """The texts of a stored JSON list; what is not one counts as empty."""
    try:
        values = json.loads(stored)
    except ValueError:
        return []
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _grants(connection: Connection, only: int | None = None) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    query = sa.select(client_grants.c.client_id, client_grants.c.pattern).where(client_grants.c.kind == MODEL_GRANT)
    if only is not None:
        query = query.where(client_grants.c.client_id == only)
    for client_id, pattern in connection.execute(query.order_by(client_grants.c.pattern)):
        found[client_id] = (*found.get(client_id, ()), pattern)
    return found


def _client(row: Mapping[Any, Any], models: tuple[str, ...]) -> Client:
    return Client(
        row["id"],
        row["name"],
        bool(row["active"]),
        row["expires_at"],
        tuple(list_of_text(row["scopes"])),
        models,
    )


def _set_models(connection: Connection, client_id: int, patterns: tuple[str, ...]) -> None:
    mine = sa.and_(client_grants.c.client_id == client_id, client_grants.c.kind == MODEL_GRANT)
    connection.execute(sa.delete(client_grants).where(mine))
    if patterns:
        rows = [{"client_id": client_id, "kind": MODEL_GRANT, "pattern": pattern} for pattern in patterns]
        connection.execute(sa.insert(client_grants), rows)


def _checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the table wants them. Raises BadRequest."""
    unknown = sorted(set(changes) - set(_CHECKS))
    if unknown:
        raise BadRequest(f"Unknown field: {unknown[0]}.", param=unknown[0])
    return {name: _CHECKS[name](value) for name, value in changes.items()}


def _check_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME_CHARS:
        raise BadRequest("Name required", param="name")
    return value.strip().encode("utf-8", "replace").decode("utf-8")


def _check_active(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest("active must be true or false.", param="active")
    return value


def _check_expiry(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise BadRequest("expires_at must be a time in Unix seconds, or null.", param="expires_at")
    return float(value)


def _check_texts(name: str, value: object) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, list | tuple) else None
    if texts is None or not all(isinstance(text, str) and 0 < len(text) <= MAX_PATTERN_CHARS for text in texts):
        raise BadRequest(f"{name} must be a list of texts.", param=name)
    return tuple(dict.fromkeys(texts))


_CHECKS: dict[str, Any] = {
    "name": _check_name,
    "active": _check_active,
    "expires_at": _check_expiry,
    "scopes": lambda value: json.dumps(_check_texts("scopes", value)),
    "models": lambda value: _check_texts("models", value),
}
