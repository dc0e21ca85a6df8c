"""
KeyManager: the upstream keys with everything that people do to them. `live` has the part that requests use.

A person's change waits for its commit, is taken over by this process at once and by the other workers through the
revision. Values go in whole and come out masked, except in an export that was asked for. Refuses values that no
provider would issue and that could break a header.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..clock import Clock
from ..errors import BadRequest, Conflict, NotFound, refuse_if_changed
from ..settings_store import LiveSettings
from ..shared import SharedTable
from ..storage.database import Connection, Database
from ..storage.revision import bump
from ..storage.writer import Writer
from ..vault import Vault, VaultError, mask
from . import store
from .base import Lease, Scope, Status
from .fields import DEFAULT_NAME, DEFAULT_PROVIDER, DEFAULTS, FIELDS, check_status, check_value, to_columns
from .live import LiveKeys
from .preview import Preview, look
from .sessions import Sessions
from .states import KeyState
from .store import KeyRow, StoredState
from .writes import read_evidence

_log = logging.getLogger(__name__)

DELETE = "delete"
_ACTIONS = frozenset([*Status, DELETE])
_KEEPER_INTERVAL_S = 0.1
_CLEANING_INTERVAL_S = 600.0
_PAIR_MEMORY_S = 86400.0

Item = dict[str, Any]


class KeyManager(LiveKeys):
    """
    The one owner of key states in this process. Thread-safe. Instants that are shown are Unix seconds.

    redact -- makes a provider's sentence safe to store and show; the key's own value is always taken out
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        vault: Vault,
        live_settings: LiveSettings,
        shared: SharedTable,
        clock: Clock | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(database, writer, vault, live_settings, shared, clock, redact)
        self._sessions = Sessions(database, writer, live_settings, self._clock.wall)
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    # -- life ------------------------------------------------------------

    def start(self) -> None:
        """Load the keys, then heal them and read other workers' conversations on a thread of its own."""
        self.refresh()
        self._sessions.refresh()
        if self._keeper is None:
            self._stopping.clear()
            self._keeper = threading.Thread(target=self._keep, name="key-keeper", daemon=True)
            self._keeper.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread."""
        keeper, self._keeper = self._keeper, None
        self._stopping.set()
        if keeper is not None:
            keeper.join(timeout_s)

    def _keep(self) -> None:
        clean_at = 0.0
        while not self._stopping.wait(_KEEPER_INTERVAL_S):
            now = self._clock.monotonic()
            self.heal(now)
            self.catch_up()
            self._sessions.try_refresh()
            if now >= clean_at:
                clean_at = now + _CLEANING_INTERVAL_S
                self._sessions.delete_old()
                before = self._clock.wall() - _PAIR_MEMORY_S
                self._writer.later(lambda connection, before=before: store.delete_old_pairs(connection, before))  # type: ignore[misc]

    # -- conversations ------------------------------------------------------------

    def owner(self, provider_names: Iterable[str], hints: Iterable[str], now: float) -> int | None:  # noqa: ARG002
        """Id of the key that holds the state of a conversation, or None."""
        return self._sessions.owner(provider_names, hints)

    def remember(self, provider: str, hint: str, key_id: int, now: float) -> None:  # noqa: ARG002
        """From now on the state of this conversation is with this key, for `session_ttl` seconds."""
        self._sessions.remember(provider, hint, key_id)

    # -- showing ------------------------------------------------------------

    def states(self) -> dict[str, dict[Status, int]]:
        """Keys per provider name and status; every status is present."""
        with self._lock:
            counts: dict[str, dict[Status, int]] = {}
            for key in self._rotation.keys.values():
                of_provider = counts.get(key.provider)
                if of_provider is None:
                    of_provider = counts[key.provider] = dict.fromkeys(Status, 0)
                of_provider[key.strongest().status] += 1
            return counts

    def list_keys(self) -> list[Item]:
        """
        All keys by id: id, name, key_value (masked), status, priority, provider, group, models, note, reason,
        evidence {status, message}, disabled_until, model_rests [{model, until, reason}], last_used, total_usage.
        """
        with self._database.read() as connection:
            rows = store.load_keys(connection)
        with self._lock:
            return [self._shown(row) for row in sorted(rows, key=lambda row: row.id)]

    def get(self, key_id: int) -> Item:
        """One key as in `list_keys`. Raises NotFound."""
        row = self._stored(key_id)
        with self._lock:
            return self._shown(row)

    def lease_of(self, key_id: int, model: str | None = None) -> Lease:
        """
        This very key for an attempt out of turn, whatever its state. A report on it counts like any other. Raises
        NotFound, and Conflict where its value cannot be decrypted.
        """
        with self._lock:
            key = self._rotation.keys.get(key_id)
            if key is not None and key.value:
                self._rotation.turn += 1
                return Lease(key.id, key.provider, model, key.value, serial=self._rotation.turn, epoch=key.epoch)
        self.reveal(key_id)
        raise Conflict("The key is being changed. Try again.")

    def reveal(self, key_id: int) -> str:
        """The whole value of a key. Raises NotFound, and Conflict where it cannot be decrypted."""
        try:
            return self._vault.decrypt(self._stored(key_id).sealed)
        except VaultError as error:
            raise Conflict(str(error), code="undecryptable") from None

    def _stored(self, key_id: int) -> KeyRow:
        with self._database.read() as connection:
            rows = store.load_keys(connection, [key_id])
        if not rows:
            raise NotFound("Key not found")
        return rows[0]

    def _shown(self, row: KeyRow) -> Item:
        """A row as people see it, with the state that counts in this process."""
        picks, picked_at = self._counts.get(row.id, (0, 0.0))
        item: Item = {
            "id": row.id,
            "name": row.name,
            "key_value": row.hint,
            "status": row.status,
            "priority": row.priority,
            "provider": row.provider,
            "group": row.group,
            "models": [*row.models],
            "note": row.note,
            "reason": row.reason,
            "evidence": read_evidence(row.evidence),
            "disabled_until": row.disabled_until,
            "model_rests": [],
            "last_used": max(row.last_rotated_at, picked_at) or None,
            "total_usage": row.total_requests + picks,
        }
        key = self._rotation.keys.get(row.id)
        if key is not None:
            self._show_state(item, key)
        return item

    def _show_state(self, item: Item, key: KeyState) -> None:
        limit = key.strongest()
        resting = limit.status is Status.RESTING
        item["status"] = limit.status
        item["disabled_until"] = self._to_wall(limit.until) if resting else None
        if limit.status is Status.HEALTHY:
            item["reason"], item["evidence"] = "", {"status": 0, "message": ""}
        else:
            item["reason"] = limit.reason
            message = self._safe_message(limit.message, key.value)
            if message or limit.http_status:
                item["evidence"] = {"status": limit.http_status, "message": message}
        if key.pairs or key.team is not None:
            item["model_rests"] = [
                {"model": pair.model, "until": self._to_wall(pair.until), "reason": pair.reason}
                for pair in key.limits()
                if pair.scope in (Scope.KEY_MODEL, Scope.GROUP_MODEL) and pair.status is Status.RESTING
            ]

    def preview(self, provider: str, model: str | None) -> Preview:
        """What a request for this model would find at this provider entry now; `wake_at` is in Unix seconds."""
        self.heal(self._clock.monotonic())
        with self._lock:
            found = look(self._rotation, provider, model, self._live_settings.current.failover_strategy)
            return replace(found, wake_at=self._to_wall(found.wake_at))

    # -- changing ------------------------------------------------------------

    def add(
        self,
        value: object,
        *,
        name: object = DEFAULT_NAME,
        provider: object = DEFAULT_PROVIDER,
        group: object = "",
        models: object = (),
        priority: object = 1,
        note: object = "",
    ) -> int:
        """
        Add a key; returns its id. What the fields are is checked here: `FIELDS` in `fields.py` says what they may be.

        Raises BadRequest: `Invalid key.`, `Key exists.`, or a field's fault.
        """
        value = check_value(value)
        fields = {"name": name, "provider": provider, "group": group, "models": models}
        columns = to_columns({**fields, "priority": priority, "note": note})
        with self._database.transaction() as connection:
            if store.exists_hmac(connection, self._vault.hmac(value)):
                raise BadRequest("Key exists.", code="key_exists", param="key")
            key_id = self._insert(connection, value, columns, StoredState(Status.HEALTHY))
        self.refresh()
        return key_id

    def update(self, key_id: int, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> None:
        """
        Change some of name, key, status (Healthy or Disabled), note, priority, provider, group, models.

        A new value of a key that the middleware disabled makes it healthy. Raises BadRequest (`No valid data.`,
        `Invalid key.`, `Update failed.`, or a field's fault), NotFound (`Key not found`), Conflict (`Key exists.`, or
        where fields have no longer the `expected` values; `key` is then the masked value).
        """
        changes = {name: value for name, value in changes.items() if name in FIELDS or name in ("key", "status")}
        if not changes:
            raise BadRequest("No valid data.")
        columns = to_columns({name: changes[name] for name in FIELDS if name in changes})
        value = check_value(changes["key"]) if "key" in changes else None
        status = check_status(changes["status"]) if "status" in changes else None
        with self._database.transaction() as connection:
            bump(connection)  # first: on PostgreSQL it makes whoever else changes something wait
            rows = store.load_keys(connection, [key_id])
            if not rows:
                raise NotFound("Key not found")
            with self._lock:
                shown = self._shown(rows[0])
            refuse_if_changed({**shown, "key": shown["key_value"]}, expected)
            if value is not None:
                columns.update(self._sealed(connection, value, key_id))
                if status is None and not (rows[0].status is Status.DISABLED and rows[0].state_by == store.PERSON):
                    status = Status.HEALTHY
            if columns:
                store.update_key(connection, key_id, columns)
            if status is not None:
                store.set_states(connection, [key_id], store.personal(status), self._clock.wall())
        self.refresh()

    def delete(self, key_id: int) -> None:
        """Remove a key with its statistics; attempts that still use it may report. Raises NotFound."""
        with self._database.transaction() as connection:
            if not store.delete_keys(connection, [key_id]):
                raise NotFound("Key not found")
        self._sessions.forget_key(key_id)
        self.refresh()

    def bulk(self, ids: object, action: object) -> int:
        """
        Make keys Healthy, Disabled or Resting (for an hour), or `delete` them; returns how many there were.
        Raises BadRequest: `No key IDs provided.`, `Invalid status for bulk update.`
        """
        if not isinstance(ids, list | tuple) or not ids:
            raise BadRequest("No key IDs provided.", param="key_ids")
        key_ids = sorted({key_id for key_id in ids if type(key_id) is int and 0 < key_id < 2**63})
        if len(key_ids) != len(set(map(str, ids))):
            raise BadRequest("key_ids must be a list of key IDs.", param="key_ids")
        if not isinstance(action, str) or action not in _ACTIONS:
            raise BadRequest("Invalid status for bulk update.", param="status")
        with self._database.transaction() as connection:
            if action == DELETE:
                count = store.delete_keys(connection, key_ids)
            else:
                state = store.personal(Status(action), self._clock.wall())
                count = store.set_states(connection, key_ids, state, self._clock.wall())
        if action == DELETE:
            for key_id in key_ids:
                self._sessions.forget_key(key_id)
        self.refresh()
        return count

    def wake(self, key_id: int) -> None:
        """End every rest of a key. Raises NotFound, and Conflict for a disabled key."""
        if self.get(key_id)["status"] is Status.DISABLED:
            raise Conflict("The key is disabled. Enable it instead.")
        with self._database.transaction() as connection:
            if not store.set_states(connection, [key_id], StoredState(Status.HEALTHY), self._clock.wall()):
                raise NotFound("Key not found")
        self.refresh()

    # -- export, import, environment ------------------------------------------------------------

    def export(self) -> list[Item]:
        """
        All keys with their plain values, as `import_` takes them: name, key_value, note, priority, status,
        disabled_until (for a resting key), provider, group, models. Keys that cannot be decrypted are left out.
        """
        with self._database.read() as connection:
            rows = store.load_keys(connection)
        items = []
        for row in sorted(rows, key=lambda row: row.id):
            try:
                value = self._vault.decrypt(row.sealed)
            except VaultError:
                continue
            with self._lock:
                shown = self._shown(row)
            item = {"name": shown["name"], "key_value": value}
            item.update({name: shown[name] for name in ("note", "priority", "status", "provider", "group", "models")})
            if shown["disabled_until"] is not None:
                item["disabled_until"] = shown["disabled_until"]
            items.append(item)
        return items

    def add_many(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """
        Add keys, all in one transaction: the fields of `add`, the value as `key`. Returns for each row a code:
        empty where the key was added, else `key_exists`, `repeated` (an earlier row has it), `invalid_key` or that of
        another field's fault.
        """
        # Sealing takes longer than writing: nobody waits for the database meanwhile.
        prepared = [self._prepared(row) for row in rows]
        healthy = StoredState(Status.HEALTHY)
        new: dict[str, dict[str, Any]] = {}
        codes = []
        with self._database.transaction() as connection:
            known = store.load_hmacs(connection)
            for columns in prepared:
                if isinstance(columns, str):
                    codes.append(columns)
                    continue
                key_hmac = columns["key_hmac"]
                codes.append("repeated" if key_hmac in new else "key_exists" if key_hmac in known else "")
                if not codes[-1]:
                    new[key_hmac] = columns
            store.insert_keys(connection, [(columns, healthy) for columns in new.values()], self._clock.wall())
        self.refresh()
        return codes

    def _prepared(self, row: Mapping[str, Any]) -> dict[str, Any] | str:
        """All columns of a row that people may write, or the code of its fault."""
        try:
            value = check_value(row.get("key"))
            columns = to_columns({**DEFAULTS, **{name: row[name] for name in FIELDS if name in row}})
        except BadRequest as error:
            return error.code
        return {**columns, **self._seal(value)}

    def import_(self, rows: object) -> tuple[int, int]:
        """
        Add the keys of an export, all in one transaction; returns how many were imported and how many skipped
        (known, too short or otherwise invalid). Raises BadRequest when it is no list.
        """
        if not isinstance(rows, list):
            raise BadRequest("Send a list of keys.")
        # Sealing takes longer than writing: nobody waits for the database meanwhile.
        usable = [sealed for row in rows if (sealed := self._sealed_import(row)) is not None]
        new = []
        with self._database.transaction() as connection:
            known = store.load_hmacs(connection)
            for columns, state in usable:
                if columns["key_hmac"] not in known:
                    known.add(columns["key_hmac"])
                    new.append((columns, state))
            store.insert_keys(connection, new, self._clock.wall())
        self.refresh()
        return len(new), len(rows) - len(new)

    def _sealed_import(self, row: object) -> tuple[dict[str, Any], StoredState] | None:
        """All columns of an imported row that people may write; None for an unusable one."""
        if not isinstance(row, dict):
            return None
        given = {name: value for name, value in row.items() if name in FIELDS and value is not None}
        columns = self._prepared({**given, "key": row.get("key_value")})
        return None if isinstance(columns, str) else (columns, store.imported_state(row, self._clock.wall()))

    def seed(self, provider: str, values: Iterable[str], *, name: str = "", note: str = "") -> int:
        """
        Add the values of the environment that were never imported before; returns how many. A key that a person
        deleted therefore stays deleted. Unusable values are skipped with a warning. Afterwards this process also knows
        the keys that another worker has added from the same values.
        """
        count = 0
        with self._database.transaction() as connection:
            for number, text in enumerate(values, 1):
                try:
                    value = check_value(text)
                except BadRequest:
                    _log.warning("Value %d of the environment's keys for %s is no valid key", number, provider)
                    continue
                key_hmac = self._vault.hmac(value)
                is_new = store.remember_import(connection, key_hmac, self._clock.wall())
                if is_new and not store.exists_hmac(connection, key_hmac):
                    columns = to_columns({"name": name or f"{provider} {number}", "provider": provider, "note": note})
                    self._insert(connection, value, columns, StoredState(Status.HEALTHY))
                    count += 1
        # Also when none is new: a worker that starts at the same time may have added them since the last reading.
        self.refresh()
        return count

    def _insert(self, connection: Connection, value: str, columns: Mapping[str, Any], state: StoredState) -> int:
        values = {**columns, **self._sealed(connection, value, None)}
        return store.insert_key(connection, values, state, self._clock.wall())

    def _sealed(self, connection: Connection, value: str, key_id: int | None) -> dict[str, Any]:
        """The columns that hold a value. Raises Conflict when another key has it."""
        columns = self._seal(value)
        if store.exists_hmac(connection, columns["key_hmac"], besides=key_id):
            raise Conflict("Key exists.", code="key_exists", param="key")
        return columns

    def _seal(self, value: str) -> dict[str, Any]:
        return {"key_value": self._vault.encrypt(value), "key_hmac": self._vault.hmac(value), "key_hint": mask(value)}
