"""
Which upstream key holds the state of a conversation. Kept in memory and written through, so that every worker and the
next start know it. A hint is stored as a digest; the oldest hints are forgotten first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from sqlalchemy.exc import SQLAlchemyError

from ..settings_store import LiveSettings
from ..storage.database import Connection, Database
from ..storage.writer import Writer
from ..vault import sha256
from .store import NEWEST_SESSION, SessionRow, delete_old_sessions, load_sessions, write_sessions

_log = logging.getLogger(__name__)

MAX_SESSIONS = 50_000
#: Rows of transactions that were slower to commit than one with a greater number are still seen.
_OVERLAP = 64
#: Numbers of rows that were deleted come again: at least so often all is read, whatever the greatest number is.
REFRESH_S = 5.0


class Sessions:
    """Thread-safe. `wall` gives Unix seconds."""

    def __init__(
        self, database: Database, writer: Writer, live_settings: LiveSettings, wall: Callable[[], float]
    ) -> None:
        self._database = database
        self._writer = writer
        self._live_settings = live_settings
        self._wall = wall
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._pending: dict[str, SessionRow] = {}
        #: Own decisions on their way to the database, and those that arrived since the current reading began: what is
        #: read about them may be older than they are.
        self._writing: Counter[str] = Counter()
        self._arrived: set[str] = set()
        self._seq = 0
        self._newest = -1
        self._refresh_at = 0.0

    def owner(self, providers: Iterable[str], hints: Iterable[str]) -> int | None:
        """Id of the key that holds the state of the first hint that is known, or None."""
        names = tuple(providers)
        now = self._wall()
        with self._lock:
            for hint in hints:
                for name in names:
                    owner = self._owners.get(_digest(name, hint))
                    if owner is not None and owner[1] > now:
                        return owner[0]
        return None

    def remember(self, provider: str, hint: str, key_id: int) -> None:
        """From now on the state of this conversation is with this key."""
        digest = _digest(provider, hint)
        now = self._wall()
        ttl_s = self._live_settings.current.session_ttl
        with self._lock:
            known = self._owners.get(digest)
            if known is not None and known[0] == key_id and known[1] > now + ttl_s / 2:
                self._owners.move_to_end(digest)
                return
            self._keep(digest, key_id, now + ttl_s)
            first = not self._pending
            self._pending[digest] = SessionRow(digest, key_id, now + ttl_s)
        if first:
            self._writer.later(_WritePending(self))

    def forget_key(self, key_id: int) -> None:
        """Forget what a deleted key held."""
        with self._lock:
            for digest in [digest for digest, owner in self._owners.items() if owner[0] == key_id]:
                del self._owners[digest]

    def refresh(self) -> None:
        """Read what other workers have written."""
        with self._lock:
            self._arrived.clear()
        with self._database.read() as connection:
            rows = load_sessions(connection, self._seq - _OVERLAP, self._wall(), MAX_SESSIONS)
        with self._lock:
            newer = self._pending.keys() | self._writing.keys() | self._arrived
            for row in rows:
                if row.hint not in newer and row.seq > self._seq - _OVERLAP:
                    self._keep(row.hint, row.key_id, row.expires_at)
            self._seq = max([self._seq, *(row.seq for row in rows)])

    def try_refresh(self) -> None:
        """Like `refresh` where something is new; when the database cannot be read, the next call makes up for it."""
        try:
            # On SQLite transactions that write come one after the other, so that each raises the greatest number.
            newest, now = self._database.number(NEWEST_SESSION), time.monotonic()
            if not self._database.is_sqlite or newest != self._newest or now > self._refresh_at:
                self._newest, self._refresh_at = newest, now + REFRESH_S
                self.refresh()
        except SQLAlchemyError as error:
            _log.debug("Conversations cannot be read: %s", type(error).__name__)

    def delete_old(self) -> None:
        """Have the conversations whose time is over removed from the database."""
        now = self._wall()
        self._writer.later(lambda connection: delete_old_sessions(connection, now))

    def _keep(self, digest: str, key_id: int, expires_at: float) -> None:
        self._owners[digest] = (key_id, expires_at)
        self._owners.move_to_end(digest)
        while len(self._owners) > MAX_SESSIONS:
            self._owners.popitem(last=False)

    def take_pending(self) -> list[SessionRow]:
        """The own decisions that nobody has begun to write."""
        with self._lock:
            rows, self._pending = [*self._pending.values()], {}
            self._writing.update(row.hint for row in rows)
        return rows

    def arrived(self, rows: Iterable[SessionRow]) -> None:
        """These decisions are committed, or lost."""
        with self._lock:
            for row in rows:
                self._writing[row.hint] -= 1
                if self._writing[row.hint] <= 0:
                    del self._writing[row.hint]
                self._arrived.add(row.hint)


class _WritePending:
    """A job that takes its rows once, so that a retry writes the same ones."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._rows: list[SessionRow] | None = None

    def __call__(self, connection: Connection) -> None:
        if self._rows is None:
            self._rows = self._sessions.take_pending()
        write_sessions(connection, self._rows)

    def settled(self, written: bool) -> None:  # noqa: ARG002
        """Told by the writer after the commit, or when the job is given up."""
        self._sessions.arrived(self._rows or ())


def _digest(provider: str, hint: str) -> str:
    return sha256(f"{provider}\0{hint}")
