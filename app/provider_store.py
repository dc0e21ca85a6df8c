"""
The configured provider entries and the model aliases: their table, their checks, and the immutable snapshot that
requests are routed by.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from app.config import Config
from app.errors import Conflict, NotFound, refuse_if_changed
from app.formats import BY_NAME as FORMATS
from app.provider_checks import check_aliases, check_entry
from app.providers import BY_NAME as KINDS
from app.providers import DEMO, DEMO_NAME, Kind, Provider
from app.proxy.routing import Providers
from app.storage import schema
from app.storage.database import Connection, Database
from app.storage.revision import bump
from app.vault import Vault, mask

Row = dict[str, Any]

#: Entries that exist from the first start on, under the names of their kinds.
BUILT_IN = ("gemini", "openai", "anthropic")


class ProviderStore:
    """
    Reads go to `snapshot`, which is replaced as a whole; changes wait for their commit.

    demo_origin  -- starts the demonstration if it does not run, and returns its origin; None when it can't
    """

    def __init__(self, database: Database, vault: Vault, config: Config, demo_origin: Callable[[], str | None]) -> None:
        self.snapshot = Providers()
        self._database = database
        self._vault = vault
        self._config = config
        self._demo_origin = demo_origin
        self._lock = threading.Lock()

    # -- reading ----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read everything again; called when another worker, or this one, changed it."""
        with self._lock:
            with self._database.read() as connection:
                rows = [dict(row) for row in connection.execute(sa.select(schema.providers)).mappings()]
                aliases = _aliases(connection)
            entries = [entry for row in rows if (entry := self._entry(row)) is not None]
            self.snapshot = Providers.of(entries, aliases, self._demonstration())

    def secrets(self) -> list[str]:
        """The values of all extra headers, for redaction."""
        return [value for entry in self.snapshot.ordered for value in entry.headers.values()]

    def list(self) -> list[Row]:
        """Every entry as the admin API shows it, header values masked."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(schema.providers).order_by(schema.providers.c.priority)).mappings()
            return [self._shown(dict(row)) for row in rows]

    def get(self, name: str) -> Row:
        """Raises NotFound."""
        with self._database.read() as connection:
            return self._shown(self._row(name, connection))

    def aliases(self) -> dict[str, str]:
        return dict(self.snapshot.aliases)

    # -- changing ---------------------------------------------------------------------------------

    def create(self, wanted: Mapping[str, Any]) -> Row:
        """Raises BadRequest naming the field, or Conflict."""
        entry = check_entry(wanted, existing=None)
        now = time.time()
        values = self._stored(entry) | {"name": entry["name"], "created_at": now, "updated_at": now}
        with self._database.transaction() as connection:
            known = connection.execute(
                sa.select(schema.providers.c.id).where(schema.providers.c.name == entry["name"])
            ).first()
            if known is not None:
                raise Conflict(f"A provider named {entry['name']!r} exists already.")
            connection.execute(schema.providers.insert().values(values))
            bump(connection)
        self.refresh()
        return self.get(entry["name"])

    def update(self, name: str, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> Row:
        """
        A partial change. Header values that come back masked stay as they are.

        expected -- values, as `get` showed them, that must still be there

        Raises BadRequest, NotFound, or Conflict naming what somebody else has changed.
        """
        with self._database.transaction() as connection:
            bump(connection)  # first: on PostgreSQL it makes whoever else changes something wait
            row = self._row(name, connection)
            existing = self._clear(row)
            refuse_if_changed(self._shown(row), expected)
            entry = check_entry(_unmasked(changes, existing["headers"]), existing=existing)
            connection.execute(
                schema.providers.update()
                .where(schema.providers.c.name == name)
                .values(self._stored(entry) | {"updated_at": time.time()})
            )
        self.refresh()
        return self.get(name)

    def delete(self, name: str) -> None:
        """Raises NotFound, or Conflict while keys belong to the entry."""
        with self._database.transaction() as connection:
            self._row(name, connection)
            count = connection.execute(
                sa.select(sa.func.count()).select_from(schema.keys).where(schema.keys.c.provider == name)
            ).scalar_one()
            if count:
                raise Conflict(f"{count} keys belong to the provider {name!r}; delete or move them first.")
            connection.execute(schema.providers.delete().where(schema.providers.c.name == name))
            bump(connection)
        self.refresh()

    def set_aliases(self, wanted: Mapping[str, Any]) -> dict[str, str]:
        """Replace all aliases. Raises BadRequest."""
        aliases = check_aliases(wanted)
        with self._database.transaction() as connection:
            connection.execute(schema.model_aliases.delete())
            _insert_aliases(connection, aliases)
            bump(connection)
        self.refresh()
        return self.aliases()

    def change_aliases(
        self, changes: Mapping[str, str | None], expected: Mapping[str, str | None] | None = None
    ) -> dict[str, str]:
        """
        Give the aliases in `changes` these targets, and delete those whose target is None; the others stay.

        expected -- targets that the aliases must still have, None for "there is no such alias"

        Raises BadRequest, or Conflict naming what somebody else has changed.
        """
        with self._database.transaction() as connection:
            bump(connection)  # first, as in `update`
            known = _aliases(connection)
            refuse_if_changed(known, expected)
            merged = {alias: target for alias, target in {**known, **changes}.items() if target is not None}
            check_aliases(merged)
            table = schema.model_aliases
            connection.execute(table.delete().where(table.c.alias.in_(list(changes))))
            _insert_aliases(connection, {alias: target for alias, target in merged.items() if alias in changes})
        self.refresh()
        return self.aliases()

    def prepare(self) -> None:
        """At start: the built-in entries on an empty table, and the entries that the environment describes."""
        with self._database.transaction() as connection:
            names = set(connection.execute(sa.select(schema.providers.c.name)).scalars())
            built_in: list[Row] = [{"name": name, "kind": name} for name in BUILT_IN] if not names else []
            described = [{**entry, "described": True} for entry in self._config.environment_providers]
            for entry in [*built_in, *described]:
                self._put(connection, entry, exists=entry["name"] in names)
            if built_in or described:
                bump(connection)
        self.refresh()

    def _put(self, connection: sa.Connection, entry: Mapping[str, Any], *, exists: bool) -> None:
        now = time.time()
        values: Row = {"kind": entry["kind"], "updated_at": now}
        if entry.get("described"):
            values |= {
                "base_url": str(entry["base_url"]) + str(entry.get("path", "")),
                "models": json.dumps(list(entry["models"])),
                "query": json.dumps(dict(entry["query"])),
                "headers": self._seal(dict(entry["headers"])),
            }
        if exists:
            connection.execute(schema.providers.update().where(schema.providers.c.name == entry["name"]).values(values))
        else:
            connection.execute(schema.providers.insert().values(values | {"name": entry["name"], "created_at": now}))

    # -- between rows and entries -------------------------------------------------------------------

    def _row(self, name: str, connection: Connection) -> Row:
        found = connection.execute(sa.select(schema.providers).where(schema.providers.c.name == name)).mappings()
        row = found.first()
        if row is None:
            raise NotFound(f"There is no provider named {name[:80]!r}.")
        return dict(row)

    def _entry(self, row: Row) -> Provider | None:
        kind = KINDS.get(row["kind"])
        if kind is None:
            return None
        clear = self._clear(row)
        base_url = self._base_url(row, kind)
        return Provider(
            name=row["name"],
            kind=kind,
            base_url=base_url,
            formats=tuple(name for name in clear["formats"] if name in FORMATS) or kind.formats,
            models=tuple(clear["models"]) or kind.models,
            selective=bool(clear["models"]),
            headers=clear["headers"],
            query=clear["query"],
            priority=row["priority"],
            enabled=bool(row["enabled"]) and bool(base_url),
        )

    def _base_url(self, row: Row, kind: Kind) -> str:
        given = self._config.provider_base_urls.get(kind.name, "") if row["name"] == kind.name else ""
        return str(row["base_url"]) or given or kind.base_url

    def _clear(self, row: Row) -> Row:
        return {
            "name": row["name"],
            "kind": row["kind"],
            "base_url": row["base_url"],
            "formats": json.loads(row["formats"]),
            "models": json.loads(row["models"]),
            "headers": json.loads(self._vault.decrypt(row["headers"])) if row["headers"] else {},
            "query": json.loads(row["query"]),
            "priority": row["priority"],
            "enabled": bool(row["enabled"]),
        }

    def _shown(self, row: Row) -> Row:
        clear = self._clear(row)
        clear["headers"] = {name: mask(value) for name, value in clear["headers"].items()}
        kind = KINDS.get(row["kind"])
        if kind is None:  # made by a newer version
            return clear | {"effective": None}
        clear["effective"] = {
            "base_url": self._base_url(row, kind),
            "formats": clear["formats"] or list(kind.formats),
            "models": clear["models"] or list(kind.models),
        }
        return clear

    def _stored(self, entry: Mapping[str, Any]) -> Row:
        return {
            "kind": entry["kind"],
            "base_url": entry["base_url"],
            "formats": json.dumps(entry["formats"]),
            "models": json.dumps(entry["models"]),
            "headers": self._seal(entry["headers"]),
            "query": json.dumps(entry["query"]),
            "priority": entry["priority"],
            "enabled": entry["enabled"],
        }

    def _seal(self, headers: Mapping[str, str]) -> str:
        return self._vault.encrypt(json.dumps(headers)) if headers else ""

    def _demonstration(self) -> Provider | None:
        origin = self._demo_origin()
        if origin is None:
            return None
        return Provider(DEMO_NAME, DEMO, origin, DEMO.formats, DEMO.models, demonstration=True)


def _aliases(connection: Connection) -> dict[str, str]:
    query = sa.select(schema.model_aliases).order_by(schema.model_aliases.c.alias)
    return {row.alias: row.target for row in connection.execute(query)}


def _insert_aliases(connection: Connection, aliases: Mapping[str, str]) -> None:
    now = time.time()
    rows = [{"alias": alias, "target": target, "created_at": now} for alias, target in aliases.items()]
    if rows:
        connection.execute(schema.model_aliases.insert(), rows)


def _unmasked(changes: Mapping[str, Any], old: Mapping[str, str]) -> dict[str, Any]:
    """`changes` with every header value that is only the mask of the old one put back."""
    headers = changes.get("headers")
    if not isinstance(headers, dict):
        return dict(changes)
    kept = {name: old[name] if name in old and value == mask(old[name]) else value for name, value in headers.items()}
    return {**changes, "headers": kept}
