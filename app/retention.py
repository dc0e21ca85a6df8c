"""
Retention: what is old goes, in small slices, so that no write holds the database for long.

Request rows go by age and by number (live settings), their shapes after them, sums of days and hours after 400 days,
lines of the live log beyond the newest 1,000, and sessions when they have expired. Runs once a minute in one thread of
one worker; nothing else deletes these rows, and nothing here deletes others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from app.clock import DAY_S, Clock, utc_date
from app.settings_store import LiveSettings
from app.storage.database import Database
from app.storage.schema import (
    admin_sessions,
    client_stats,
    daily_stats,
    events,
    login_attempts,
    model_stats,
    period_stats,
    request_shapes,
    requests,
    session_keys,
)
from app.storage.writer import Writer

log = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0
SLICE_ROWS: Final = 1000
STATS_DAYS: Final = 400
MAX_EVENTS: Final = 1000
#: A shape that was last seen so long before the oldest request is none's: it would have been seen again.
SHAPE_UNSEEN_S: Final = 2.0 * DAY_S
#: After this long without an answer of the writer a round is given up; the next one begins anew.
_PATIENCE_S: Final = 30.0
#: A peer that has not tried to log in for a day is forgotten.
_LOGIN_ATTEMPT_S: Final = 86400

Condition = ColumnElement[bool]


class Retention:
    """
    may_run     -- asked before each round; False leaves the round to another worker
    interval_s  -- pause between rounds
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        live_settings: LiveSettings,
        *,
        may_run: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._database, self._writer, self._live_settings = database, writer, live_settings
        self._may_run, self._interval_s = may_run, interval_s
        self._clock = clock or Clock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first round comes after one interval. Does nothing when it runs already."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after the slice that is being deleted."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(timeout_s)

    def run_once(self) -> int:
        """Delete what is due now, in the calling thread. Returns the number of rows that went."""
        deleted = 0
        try:
            for table, condition in self._due():
                deleted += self._delete(table, condition)
        except SQLAlchemyError as error:
            log.warning("Old rows could not be looked up: %s", type(error).__name__)
        return deleted

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            if self._may_run():
                self.run_once()

    def _due(self) -> Iterator[tuple[Table, Condition]]:
        settings, now = self._live_settings.current, self._clock.wall()
        yield requests, requests.c.started_at < now - settings.request_retention_days * DAY_S
        for table, rows in ((requests, settings.request_retention_rows), (events, MAX_EVENTS)):
            beyond = self._first_beyond(table, rows)
            if beyond is not None:
                yield table, table.c.id <= beyond
        yield request_shapes, request_shapes.c.seen_at < self._oldest_request(now) - SHAPE_UNSEEN_S
        oldest = utc_date(now - STATS_DAYS * DAY_S)
        for table in (daily_stats, model_stats, client_stats):
            yield table, table.c.date < oldest
        yield period_stats, period_stats.c.period < oldest  # a day comes before its hours
        yield session_keys, session_keys.c.expires_at < now
        yield admin_sessions, admin_sessions.c.expires_at < now
        attempts = login_attempts.c
        yield login_attempts, (attempts.last_at < now - _LOGIN_ATTEMPT_S) & (attempts.locked_until < now)

    def _first_beyond(self, table: Table, rows: int) -> int | None:
        """The highest id that is not among the newest `rows`; None when there is none."""
        query = select(table.c.id).order_by(table.c.id.desc()).offset(rows).limit(1)
        with self._database.read() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    def _oldest_request(self, now: float) -> float:
        """When the oldest request that is left began; now where none is."""
        with self._database.read() as connection:
            found = connection.execute(select(func.min(requests.c.started_at))).scalar()
        return now if found is None else min(now, float(found))

    def _delete(self, table: Table, condition: Condition) -> int:
        """Delete slice after slice until none is left. Looks first, so that a quiet minute writes nothing."""
        deleted = 0
        while not self._stopping.is_set() and self._any(table, condition):
            rows = self._delete_slice(table, condition)
            if not rows:
                break
            deleted += rows
        return deleted

    def _any(self, table: Table, condition: Condition) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(*table.primary_key).where(condition).limit(1)).first() is not None

    def _delete_slice(self, table: Table, condition: Condition) -> int:
        """Have the writer delete one slice, and wait for it. Returns the rows that went; 0 when the writer is stuck."""
        deletion = _Deletion(table, condition)
        self._writer.later(deletion)
        return deletion.rows if deletion.done.wait(_PATIENCE_S) else 0


class _Deletion:
    """A job of the writer: one slice of the rows that fit a condition. `done` is set after the commit."""

    def __init__(self, table: Table, condition: Condition) -> None:
        self._table, self._condition = table, condition
        self.done = threading.Event()
        self.rows = 0

    def __call__(self, connection: Connection) -> None:
        columns = list(self._table.primary_key)
        slice_ = select(*columns).where(self._condition).limit(SLICE_ROWS)
        self.rows = connection.execute(delete(self._table).where(tuple_(*columns).in_(slice_))).rowcount

    def settled(self, written: bool) -> None:
        if not written:
            self.rows = 0
        self.done.set()
