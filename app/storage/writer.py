"""
The writer: one thread with one connection that writes what the request path only hands over.

Urgent jobs (changes of key states) run ahead of everything else, within milliseconds. Later jobs and rows (counters,
requests) are gathered and written in small transactions, at most `max_delay_s` late while the database keeps up. When
the database is locked, full or gone, everything waits and is tried again; beyond the bound, later jobs and rows are
dropped and counted, urgent ones never. Nothing here raises into a caller.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from .database import Connection, Database, is_trouble

Job = Callable[[Connection], None]
"""
Runs inside a transaction, on the writer's thread. It may run more than once, so it does nothing but SQL.

A job that is an object with a method `settled(written: bool)` is told its fate once, on the writer's thread and outside
of the transaction: True after the commit, False when the job failed and is lost. One that is refused when it is handed
over (beyond the bound, or after `close`) is told nothing.
"""

_logger = logging.getLogger(__name__)

MAX_WAITING: Final = 50_000
_BATCH: Final = 256  # a longer batch would hold the interpreter long enough to be seen in the slowest requests
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 1.0
# The writer retries by itself; a short wait inside SQLite lets it notice that it should stop.
_BUSY_TIMEOUT_S: Final = 0.5


class _Row:
    """A row to insert, as an entry of the queue."""

    __slots__ = ("table", "values")

    def __init__(self, table: sa.Table, values: Mapping[str, Any]) -> None:
        self.table = table
        self.values = values


class Companion(Protocol):
    """Writes some of the rows in another way; see `RowLink`."""

    @property
    def healthy(self) -> bool: ...
    @property
    def dropped(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def flush(self, timeout_s: float) -> bool: ...
    def close(self, timeout_s: float) -> bool: ...


class Writer:
    """
    Thread-safe. The thread starts with the first entry, so that one made before a fork works after it. What is said of
    all that waits includes the companion's part, where there is one.
    """

    def __init__(self, database: Database, max_delay_s: float = 0.1, max_waiting: int = MAX_WAITING) -> None:
        self._database = database
        self._max_delay_s = max_delay_s
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._urgent: deque[Job] = deque()
        self._waiting: deque[Job | _Row] = deque()
        self._delayed: list[tuple[float, int, Job]] = []  # a heap: due at, number, job
        self._waiting_since = 0.0
        # Tickets: how many entries came in and how many are dealt with, for `flush`.
        self._urgent_in = self._urgent_done = self._later_in = self._later_done = 0
        self._flushes = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._statements: dict[tuple[str, tuple[str, ...]], str] = {}
        self._companion: Companion | None = None
        self._healthy = True
        self._dropped = 0

    def accompany(self, companion: Companion) -> None:
        """From now on `companion` writes too: it is flushed, closed and reported together with the rest."""
        self._companion = companion

    @property
    def healthy(self) -> bool:
        """False from a write that failed through the database's fault until the next that succeeds."""
        return self._healthy and (self._companion is None or self._companion.healthy)

    @property
    def dropped(self) -> int:
        """How many later jobs and rows were lost: beyond the bound, or refused by the database."""
        return self._dropped + (0 if self._companion is None else self._companion.dropped)

    def urgent(self, job: Job) -> None:
        """Run `job` as soon as the database can; jobs keep their order."""
        with self._changed:
            if self._stopping:
                self._dropped += 1
                return
            self._urgent.append(job)
            self._urgent_in += 1
            self._wake()

    def later(self, job: Job, delay_s: float = 0.0) -> None:
        """
        Run `job` with the next batch. Within a batch, jobs keep their order and run before the rows.

        delay_s -- how long the job had better wait before; `flush` does not wait for it
        """
        if delay_s <= 0:
            self._add(job)
            return
        with self._changed:
            if self._stopping:
                self._dropped += 1
                return
            heapq.heappush(self._delayed, (time.monotonic() + delay_s, self._later_in, job))
            self._later_in += 1
            self._wake()

    def add_row(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        """Insert `row` (column name -> value) with the next batch, together with others of the same table."""
        self._add(_Row(table, row))

    @property
    def waiting(self) -> int:
        """How many entries are not written yet."""
        with self._changed:
            own = self._urgent_in - self._urgent_done + self._later_in - self._later_done
        return own + (0 if self._companion is None else self._companion.waiting)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was handed over before this call is written; False when that took too long."""
        deadline = time.monotonic() + timeout_s
        companion = self._companion
        # The companion first: what it can't write comes here.
        others = companion is None or companion.flush(timeout_s)
        return self._flush_own(deadline) and others

    def close(self, timeout_s: float) -> bool:
        """Flush, then end the thread. Later entries are dropped. False when not all could be written in time."""
        deadline = time.monotonic() + timeout_s
        companion = self._companion
        others = companion is None or companion.close(timeout_s)
        written = self._flush_own(deadline)
        with self._changed:
            self._stopping = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.1, deadline - time.monotonic()))
        return written and others

    def _flush_own(self, deadline: float) -> bool:
        with self._changed:
            urgent, later = self._urgent_in, self._later_in
            self._flushes += 1
            self._changed.notify_all()
            try:
                while self._urgent_done < urgent or self._later_done < later:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        break
                return self._urgent_done >= urgent and self._later_done >= later
            finally:
                self._flushes -= 1

    def _add(self, entry: Job | _Row) -> None:
        with self._changed:
            if self._stopping or len(self._waiting) >= self._max_waiting:
                self._dropped += 1
                return
            self._waiting.append(entry)
            self._later_in += 1
            if len(self._waiting) == 1:
                self._waiting_since = time.monotonic()
                self._wake()

    def _wake(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # The thread.

    def _run(self) -> None:
        pause_s = 0.0
        try:
            while self._wait_for_work(pause_s):
                pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s)) if not self._work() else 0.0
        finally:
            self._disconnect()
            self._give_up()

    def _give_up(self) -> None:
        with self._changed:
            entries = [*self._urgent, *(job for _, _, job in self._delayed), *self._waiting]
            lost = len(entries)
            self._urgent.clear()
            self._delayed.clear()
            self._waiting.clear()
            self._urgent_done, self._later_done = self._urgent_in, self._later_in
            self._dropped += lost
            self._changed.notify_all()
        if lost:
            _logger.error("%d entries could not be written in time and are lost", lost)
        _settle(entries, range(lost))

    def _wait_for_work(self, pause_s: float) -> bool:
        """Sleep until something is due, and at least `pause_s`; False when it is time to end."""
        resume_at = time.monotonic() + pause_s
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due_at = self._due_at(now)
                if due_at is None:
                    self._changed.wait()
                elif max(due_at, resume_at) > now:
                    self._changed.wait(max(due_at, resume_at) - now)
                else:
                    return True
        return False

    def _due_at(self, now: float) -> float | None:
        if self._urgent or (self._flushes and (self._waiting or self._delayed)):
            return now
        instants = [self._waiting_since + self._max_delay_s] if self._waiting else []
        if self._delayed:
            instants.append(self._delayed[0][0])
        return min(instants, default=None)

    def _work(self) -> bool:
        """Write what is due; False when the database is in trouble and the entries went back to their queues."""
        with self._changed:
            urgent = list(self._urgent)
            self._urgent.clear()
        if urgent:
            return self._write_urgent(urgent)
        with self._changed:
            now = time.monotonic()
            while self._delayed and (self._flushes or self._delayed[0][0] <= now):
                self._waiting.appendleft(heapq.heappop(self._delayed)[2])
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        return self._write_later(batch)

    def _write_urgent(self, jobs: list[Job]) -> bool:
        written = self._write(jobs, what="change")
        with self._changed:
            if written:
                self._urgent_done += len(jobs)
                self._changed.notify_all()
            else:
                self._urgent.extendleft(reversed(jobs))
        return written

    def _write_later(self, batch: list[Job | _Row]) -> bool:
        written = self._write(batch, what="record")
        with self._changed:
            if written:
                self._later_done += len(batch)
                # What is left came in while the batch was written or is its rest: it is due at once.
                self._changed.notify_all()
            else:
                # Newer entries may have filled the queue meanwhile; the bound holds for what comes after them.
                self._waiting.extendleft(reversed(batch))
        return written

    def _write(self, entries: Sequence[Job | _Row], what: str) -> bool:
        """All entries in one transaction; one by one when one of them fails. False: the database is in trouble."""
        lost: Collection[int] = ()
        try:
            try:
                with self._connect().begin():
                    self._execute(entries)
            except Exception as error:  # a job is somebody else's code: only the database's trouble stops the rest
                if isinstance(error, SQLAlchemyError) and is_trouble(error):
                    raise
                lost = self._write_one_by_one(entries, what)
        except SQLAlchemyError as error:
            self._report_trouble(error)
            self._disconnect()
            return False
        if not self._healthy:
            _logger.warning("The database can be written to again")
            self._healthy = True
        _settle(entries, lost)
        return True

    def _write_one_by_one(self, entries: Sequence[Job | _Row], what: str) -> set[int]:
        """The positions of the entries that failed."""
        lost: set[int] = set()
        with self._connect().begin():
            for position, entry in enumerate(entries):
                try:
                    with self._connect().begin_nested():
                        self._execute([entry])
                except Exception as error:  # as above
                    if isinstance(error, SQLAlchemyError) and is_trouble(error):
                        raise
                    lost.add(position)
                    _logger.error("A %s could not be written and is lost: %s", what, _told(error))
        with self._changed:
            self._dropped += len(lost)
        return lost

    def _execute(self, entries: Sequence[Job | _Row]) -> None:
        connection = self._connect()
        inserts: dict[str, list[tuple[Any, ...]]] = {}
        for entry in entries:
            if isinstance(entry, _Row):
                inserts.setdefault(self._insert_statement(entry), []).append(tuple(entry.values.values()))
            else:
                entry(connection)
        for statement, rows in inserts.items():
            connection.exec_driver_sql(statement, rows)

    def _insert_statement(self, row: _Row) -> str:
        """Driver SQL, because compiling one statement for each batch costs more than running it."""
        names = tuple(row.values)
        known = self._statements.get((row.table.name, names))
        if known is None:
            quote = self._database.engine.dialect.identifier_preparer.quote
            columns = ", ".join(quote(row.table.c[name].name) for name in names)
            marks = ", ".join(["?" if self._database.is_sqlite else "%s"] * len(names))
            known = f"INSERT INTO {quote(row.table.name)} ({columns}) VALUES ({marks})"
            self._statements[row.table.name, names] = known
        return known

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.dedicated(_BUSY_TIMEOUT_S)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _report_trouble(self, error: SQLAlchemyError) -> None:
        if self._healthy:
            _logger.error("The database cannot be written to; what is to be written waits: %s", _told(error))
        self._healthy = False


def _settle(entries: Sequence[Job | _Row], lost: Collection[int]) -> None:
    """Tell the jobs that want to know it whether they are written; `lost` has the positions of those that are not."""
    for position, entry in enumerate(entries):
        settled = getattr(entry, "settled", None)
        if settled is None:
            continue
        try:
            settled(position not in lost)
        except Exception:  # somebody else's code: the others are told, and the writer goes on
            _logger.exception("A job could not be told whether it was written")


def _told(error: BaseException) -> str:
    """Kind and reason of a failure, without the statement's values, which may be secret."""
    reason = getattr(error, "orig", None) or error
    return f"{type(reason).__name__}: {str(reason).partition(chr(10))[0][:200]}"
