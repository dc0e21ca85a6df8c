"""
Health: is the process alive, may it get traffic, and how are its parts? Answers data; the routes make HTTP of it.

Liveness never looks at anything that a restart cannot mend. Readiness wants a database that answers and a real key
that is not disabled: the demonstration does not count, a resting key does, since it comes back by itself. The check of
the database is repeated at most once a second, however often somebody asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from app.clock import Clock
from app.keys.base import Status
from app.telemetry.logs import iso_milliseconds

Json = dict[str, Any]

DATABASE_EVERY_S: Final = 1.0


class UsableDatabase(Protocol):
    def usable(self) -> bool: ...


class WatchedWriter(Protocol):
    @property
    def healthy(self) -> bool: ...
    @property
    def dropped(self) -> int: ...


class CountedKeys(Protocol):
    def states(self) -> Mapping[str, Mapping[Status, int]]:
        """provider -> status -> number of keys"""
        ...


class Entry(Protocol):
    """The parts of a provider entry that matter here."""

    @property
    def name(self) -> str: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def demonstration(self) -> bool: ...


class Health:
    """
    providers -- the provider entries as they are now
    draining  -- True once the server is shutting down
    version   -- shown by `healthz`
    """

    def __init__(
        self,
        database: UsableDatabase,
        writer: WatchedWriter,
        keys: CountedKeys,
        providers: Callable[[], Iterable[Entry]],
        draining: Callable[[], bool],
        *,
        version: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._database, self._writer, self._keys = database, writer, keys
        self._providers, self._draining, self._version = providers, draining, version
        self._clock = clock or Clock()
        self._started = self._clock.monotonic()
        self._lock = threading.Lock()
        self._database_ok = False
        self._database_due = self._started

    def livez(self) -> tuple[int, Json]:
        """200 and {"status": "ok"} while the process serves."""
        return 200, {"status": "ok"}

    def readyz(self) -> tuple[int, Json]:
        """200 or 503, and {"status": "ok" or "unavailable", "database", "keys", "draining": booleans}."""
        draining, database, keys = self._draining(), self._database_usable(), self._has_real_key()
        ready = database and keys and not draining
        body = {"database": database, "keys": keys, "draining": draining}
        return (200 if ready else 503), {"status": "ok" if ready else "unavailable"} | body

    def healthz(self) -> tuple[int, Json]:
        """
        200 with {"status": "ok", ...} when every component is ok, else 503 with "degraded". Besides the status:
        components: {database, writer, providers, server: each {"status", ...}}, uptime_s, version.
        """
        components = self._components()
        healthy = all(component["status"] == "ok" for component in components.values())
        return (200 if healthy else 503), {
            "status": "ok" if healthy else "degraded",
            "components": components,
            "uptime_s": round(self._clock.monotonic() - self._started, 3),
            "version": self._version,
        }

    def v1_health(self) -> tuple[int, Json]:
        """
        200 and {"status": "healthy" or "degraded", "components": {name: "ok" or what is wrong}, "timestamp"}: for
        callers, who get no counts.
        """
        components = {name: component["status"] for name, component in self._components().items()}
        healthy = all(status == "ok" for status in components.values())
        timestamp = iso_milliseconds(self._clock.wall())
        status = "healthy" if healthy else "degraded"
        return 200, {"status": status, "components": components, "timestamp": timestamp}

    def health(self) -> tuple[int, Json]:
        """200 and {"status": "ok"}, as some clients ask for it."""
        return self.livez()

    def _components(self) -> dict[str, Json]:
        writer_ok = self._writer.healthy
        return {
            "database": {"status": "ok" if self._database_usable() else "failed"},
            "writer": {"status": "ok" if writer_ok else "behind", "dropped": self._writer.dropped},
            "providers": self._provider_component(),
            "server": {"status": "draining" if self._draining() else "ok"},
        }

    def _provider_component(self) -> Json:
        states = self._keys.states()
        counts = {entry.name: _counts(states.get(entry.name, {})) for entry in self._real_entries()}
        usable = any(number for keys in counts.values() for status, number in keys.items() if status != Status.DISABLED)
        return {"status": "ok" if usable else "no_keys", "keys": counts}

    def _has_real_key(self) -> bool:
        return bool(self._provider_component()["status"] == "ok")

    def _real_entries(self) -> list[Entry]:
        return [entry for entry in self._providers() if entry.enabled and not entry.demonstration]

    def _database_usable(self) -> bool:
        # One thread looks, the others wait for its answer instead of asking the database too.
        with self._lock:
            if self._clock.monotonic() >= self._database_due:
                self._database_ok = self._database.usable()
                self._database_due = self._clock.monotonic() + DATABASE_EVERY_S
            return self._database_ok


def _counts(states: Mapping[Status, int]) -> dict[str, int]:
    """Numbers of keys of one provider by state, zeros included."""
    return {status.value: states.get(status, 0) for status in Status}
