"""
The live settings of this process: what is stored wins over the environment, which wins over the defaults.

`current` is a plain attribute that every request reads; a change replaces the whole object. Other processes see a
change when their revision poller calls `refresh`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import sqlalchemy as sa

from . import settings
from .errors import BadRequest, Conflict
from .settings import Settings, Value
from .storage.database import Connection, Database
from .storage.revision import bump
from .storage.schema import settings as table

_logger = logging.getLogger(__name__)


class SettingsChanged(Conflict):
    """Somebody else changed some of these settings meanwhile. `now` has the values that are in force."""

    def __init__(self, now: Mapping[str, Value]) -> None:
        names = ", ".join(now)
        super().__init__(f"Changed by somebody else meanwhile: {names}. Nothing was saved.", param=next(iter(now)))
        self.now = dict(now)


class LiveSettings:
    """
    Thread-safe.

    current -- the settings as they are now; read it once where several values must fit together
    """

    def __init__(self, database: Database, overrides: Mapping[str, str], wall: Callable[[], float] = time.time) -> None:
        """`overrides` is `Config.setting_overrides`. Reads the database, which must be migrated."""
        self._database = database
        self._wall = wall
        self._base = Settings(**_parsed(overrides))
        self._overridden = frozenset(overrides)
        self._saved: frozenset[str] = frozenset()
        self._subscribers: tuple[Callable[[Settings], object], ...] = ()
        self._lock = threading.Lock()
        self._reported: set[tuple[str, str]] = set()
        self.current = self._base
        self.refresh()

    def update(
        self,
        values: Mapping[str, object],
        *,
        expected: Mapping[str, Value] | None = None,
        checks: Iterable[Callable[[str, Value], None]] = (),
    ) -> Settings:
        """Store and use all of `values`, or none. Returns the settings after it.

        expected -- what the one who changes them last saw; when something else is in force by now, nothing is changed
        checks   -- further checks of each typed value, see `settings.parse_all`

        Raises InvalidSettings for unknown names, wrong types and values out of range, SettingsChanged.
        """
        if not isinstance(values, Mapping):
            raise BadRequest("Send an object of setting names and values.", code="invalid_setting")
        parsed = settings.parse_all(values, *checks)
        if parsed:
            with self._lock, self._database.transaction() as connection:
                bump(connection)  # first: on PostgreSQL it makes whoever else changes something wait
                self._compare(connection, expected or {})
                for name, value in parsed.items():
                    self._store(connection, name, settings.to_text(value))
        return self.refresh()

    def reset(self, names: Iterable[str] | None = None, *, expected: Mapping[str, Value] | None = None) -> Settings:
        """Forget the stored values of these settings, or of all: the environment and the defaults count again.

        expected -- as for `update`

        Returns the settings after it. Raises BadRequest for an unknown name and SettingsChanged: then all stay.
        """
        forget = sa.delete(table)
        if names is not None:
            wanted = [settings.known(name).name for name in names]
            forget = forget.where(table.c.key.in_(wanted))
        with self._lock, self._database.transaction() as connection:
            bump(connection)  # first, as in `update`
            self._compare(connection, expected or {})
            connection.execute(forget)
        return self.refresh()

    def source(self, name: str) -> str:
        """Where the value in force comes from: `saved` here, the `environment`, or the `default`."""
        if name in self._saved:
            return "saved"
        return "environment" if name in self._overridden else "default"

    def unsaved(self, name: str) -> Value:
        """The value that counts while none is stored: that of the environment, else the default."""
        return cast(Value, getattr(self._base, name))

    def refresh(self) -> Settings:
        """Read the stored values again, and tell the subscribers when something changed."""
        with self._lock:
            with self._database.read() as connection:
                stored = connection.execute(sa.select(table.c.key, table.c.value)).all()
            found = self._valid({str(row.key): str(row.value) for row in stored})
            self._saved = frozenset(found)
            before = self.current
            self.current = after = Settings(**{**_values(self._base), **found})
            subscribers = self._subscribers
        if after != before:
            for subscriber in subscribers:
                subscriber(after)
        return after

    def subscribe(self, callback: Callable[[Settings], object]) -> None:
        """Have `callback` called with the new settings after each change, on the thread that noticed it."""
        with self._lock:
            self._subscribers = (*self._subscribers, callback)

    def _compare(self, connection: Connection, expected: Mapping[str, Value]) -> None:
        """Inside the writing transaction, so that nobody else can write between the look and the change."""
        rows = connection.execute(sa.select(table.c.key, table.c.value).where(table.c.key.in_(list(expected)))).all()
        stored = self._valid({str(row.key): str(row.value) for row in rows})
        now = {name: stored.get(name, self.unsaved(name)) for name in expected}
        changed = {name: value for name, value in now.items() if value != expected[name]}
        if changed:
            raise SettingsChanged(changed)

    def _store(self, connection: Connection, name: str, text: str) -> None:
        now = self._wall()
        changed = connection.execute(sa.update(table).where(table.c.key == name).values(value=text, updated_at=now))
        if changed.rowcount == 0:
            connection.execute(sa.insert(table).values(key=name, value=text, created_at=now, updated_at=now))

    def _valid(self, stored: Mapping[str, str]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name, text in stored.items():
            try:
                found[name] = settings.parse(name, text)
            except BadRequest as error:
                if (name, text) not in self._reported:
                    self._reported.add((name, text))
                    _logger.warning("A stored setting is ignored: %s", error.message)
        return found


def _parsed(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: settings.parse(name, text) for name, text in values.items()}


def _values(current: Settings) -> dict[str, Any]:
    return {row.name: getattr(current, row.name) for row in settings.SETTINGS}
