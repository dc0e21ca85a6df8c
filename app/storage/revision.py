"""
The revision: one number in the database that grows with every change of configuration or key state.

Whoever changes such a thing calls `bump` inside the same transaction; every worker polls the number and reads its
stores again when it changed. Counters and request rows do not bump it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from .database import Connection, Database
from .schema import revision

_logger = logging.getLogger(__name__)
_LONGEST_PAUSE_S: Final = 5.0
_THE_ROW: Final = 1
_CURRENT: Final = f"SELECT value FROM {revision.name} WHERE id = {_THE_ROW}"


def bump(connection: Connection) -> None:
    """Tell every worker to read its stores again once this transaction is committed."""
    connection.execute(sa.update(revision).where(revision.c.id == _THE_ROW).values(value=revision.c.value + 1))


def current(connection: Connection) -> int:
    """The number as this transaction sees it."""
    value = connection.execute(sa.select(revision.c.value).where(revision.c.id == _THE_ROW)).scalar()
    return int(value or 0)


class RevisionPoller:
    """
    Calls every subscriber, on a thread of its own, when the revision changed, whoever changed it.

    The first poll always calls them, so that nothing is missed between the first load of a store and `start()`.
    A subscriber that raises is logged and called again, after growing pauses, until it succeeds; subscribers must
    therefore bear being called without need.
    """

    def __init__(self, database: Database, interval_s: float = 0.1) -> None:
        self._database = database
        self._interval_s = interval_s
        self._callbacks: tuple[Callable[[], object], ...] = ()
        self._seen: int | None = None
        self._failures = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Have `callback` called after every change. Callbacks run in the order of their subscription."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

    def start(self) -> None:
        """Start polling; does nothing when it runs already."""
        with self._lock:
            if self._thread is not None:
                return
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="revision-poller", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; a callback that is running is waited for, at most `timeout_s` seconds."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping = True
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def poke(self) -> None:
        """Poll now instead of at the next tick."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._poll()
            pause_s = min(_LONGEST_PAUSE_S, self._interval_s * 2 ** min(self._failures, 10))
            if not self._stopping:
                self._wake.wait(pause_s)

    def _poll(self) -> None:
        try:
            value = self._database.number(_CURRENT)
        except SQLAlchemyError as error:
            self._failures += 1
            if self._failures == 1:
                _logger.warning("The revision cannot be read: %s", error.__class__.__name__)
            return
        if value == self._seen:
            self._failures = 0
            return
        if self._call_all():
            self._seen = value
            self._failures = 0
        else:
            self._failures += 1

    def _call_all(self) -> bool:
        succeeded = True
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # whatever a store raises, the other stores and later changes must not be lost
                _logger.exception("A store failed to read its changes")
                succeeded = False
        return succeeded
