"""
The row writer: a small process beside each worker that writes request rows and access lines, so that neither takes
time from the event loop or holds its interpreter. `RowLink` starts it and feeds it. Nothing but the standard library
and the SQLite driver is imported here, because every import is memory beside every worker:

    python -I row_writer.py DESCRIPTOR DRIVER DATABASE NAME

Frames come in over the socket, each a length and marshalled data; what has been dealt with is acknowledged. A frame is
written once, also when a successor gets it again: its number is committed together with its rows. The process ends when
the other side has closed and everything is written; signals are for the worker, which closes when it has to.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import marshal
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final

#: The length of the marshalled data that follows.
HEADER: Final = struct.Struct("=I")
#: Last frame whose access lines are out, last frame committed, rows refused by the database so far, 1 = in trouble.
ACK: Final = struct.Struct("=QQQQ")

#: Columns of `request_shapes`, as shapes travel.
SHAPE_COLUMNS: Final = (
    "id",
    "method",
    "path",
    "dialect",
    "operation",
    "model",
    "upstream_model",
    "provider",
    "client_id",
    "stream",
    "status",
    "outcome",
    "error_code",
    "peer",
    "user_agent",
    "seen_at",
)
#: Columns of `requests` after `shape_id`, as entries travel.
ROW_COLUMNS: Final = (
    "request_id",
    "started_at",
    "key_id",
    "duration_ms",
    "first_byte_ms",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
#: (number on this connection, columns of the shape, the fixed parts of its access lines)
ToldShape = tuple[int, tuple[Any, ...], tuple[str, ...]]
#: (frame number, shapes known so far are void, new shapes, the shape's number or one for each row, the columns,
#: time for access lines or "")
Frame = tuple[int, bool, list[ToldShape], int | tuple[int, ...], list[tuple[Any, ...]], str]

#: Rows for one statement, and the places in `ROW_COLUMNS` that they have: what is NULL in all of them is left out,
#: because Python's sqlite3 takes longer over a None than over a number.
Rows = tuple[tuple[int, ...], list[tuple[Any, ...]]]

INSERT_SHAPE: Final = (
    f"INSERT INTO request_shapes ({', '.join(SHAPE_COLUMNS)}) VALUES ({', '.join('?' * len(SHAPE_COLUMNS))})"
    " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
)
_PROGRESS: Final = "rows written: "
_NOTE_PROGRESS = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

#: Primary result codes: busy, locked, out of memory, read-only, interrupted, input/output, corrupt, full, cannot open,
#: lock protocol, not a database. The others, such as 1, are mistakes in the statement
#: (https://www.sqlite.org/rescode.html).
SQLITE_TROUBLE: Final = frozenset({5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26})
SQLITE_PRAGMAS: Final = ("foreign_keys=ON", "synchronous=NORMAL", "mmap_size=0", "journal_size_limit=67108864")

#: Rows written in one go; about a tenth of a millisecond.
SLICE: Final = 16
#: The worker goes first when there is one core for both, but not so far that the rows never come.
NICENESS: Final = 3
READ_BYTES: Final = 262_144
#: Rows in one transaction: it holds the database's write lock for a few milliseconds.
MOST_ROWS: Final = 1024
#: Transactions begin at least so far apart unless there is a backlog: bigger ones cost less.
PAUSE_S: Final = 0.05
#: The longest pause between two transactions of a backlog.
GAP_S: Final = 0.01
_BUSY_TIMEOUT_S: Final = 1.0
_FIRST_WAIT_S: Final = 0.01
_LONGEST_WAIT_S: Final = 1.0
#: How long a database that cannot be written to is tried when the worker is gone.
_LAST_TRIES_S: Final = 30.0
#: What a writer that was killed has left behind in `meta` is kept so long.
_FORGET_AFTER_S: Final = 86400.0
#: Longer writes to a pipe may be torn by those of other processes (POSIX: at least 512; Linux: 4096).
_PIPE_BYTES: Final = 4096


@functools.lru_cache(maxsize=64)
def insert_row(places: tuple[int, ...]) -> str:
    """The statement for rows that have these columns, behind their shape's id."""
    names = ["shape_id", *(ROW_COLUMNS[place] for place in places)]
    return f"INSERT INTO requests ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


# -- access lines ------------------------------------------------------------------------------------


def access_lines(
    at: str, parts_of_rows: Iterable[tuple[str, ...]], columns: Sequence[tuple[Any, ...]]
) -> Iterator[str]:
    """
    The access lines of successes, each as the log would format it alone.

    at             -- the time that the lines show
    parts_of_rows  -- for each row what `Shape.access` holds
    columns        -- as in `ROW_COLUMNS`
    """
    ids, _, key_ids, durations, first_bytes, sizes_in, sizes_out, tokens_in, tokens_out = columns[:9]
    start = f'{{"time":"{at}'
    rows = zip(
        parts_of_rows, ids, key_ids, durations, first_bytes, sizes_in, sizes_out, tokens_in, tokens_out, strict=False
    )
    for parts, request_id, key_id, duration, first_byte, size_in, size_out, token_in, token_out in rows:
        head, status, answer, caller, tail = parts
        if not (request_id.isalnum() and request_id.isascii()):
            request_id = _json_text(request_id)
        first = "" if first_byte is None else f',"first_byte_ms":{first_byte}'
        key = "" if key_id is None else f',"key_id":{key_id}'
        tokens = "" if token_in is None else f',"input_tokens":{token_in}'
        if token_out is not None:
            tokens = f'{tokens},"output_tokens":{token_out}'
        yield (
            f'{start}{head}{request_id}{status}{duration}{first}{answer}{key}{caller}{size_in},"response_bytes":'
            f"{size_out}{tokens}{tail}"
        )


def _json_text(text: str) -> str:
    import json  # few request ids need it

    return json.dumps(text)[1:-1]


def _show(lines: Iterable[str]) -> None:
    """Write the lines to stderr, in pieces that arrive whole where that is a pipe that others write to."""
    piece: list[str] = []
    size = 0
    for line in lines:
        # A request id of a caller may hold more bytes than characters.
        length = len(line) + 1 if line.isascii() else len(line.encode()) + 1
        if piece and size + length > _PIPE_BYTES:
            if not _put("".join(piece).encode()):
                return
            os.sched_yield()  # as between slices of rows
            piece, size = [], 0
        piece.append(line + "\n")
        size += length
    if piece:
        _put("".join(piece).encode())


def _put(data: bytes) -> bool:
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:
            return False  # stderr is closed or nobody reads it: there is nowhere left to say so
    return True


# -- the database ------------------------------------------------------------------------------------


class Store:
    """
    One connection, opened when it is needed and again after trouble.

    driver   -- the DB-API module
    report   -- told whether the database is in trouble
    gone     -- whether the worker is: then trouble is not waited for without end
    refused  -- rows that the database did not take
    """

    def __init__(
        self, driver: Any, path: str, name: str, report: Callable[[bool], None], gone: Callable[[], bool]
    ) -> None:
        self._driver, self._path, self._name = driver, path, _PROGRESS + name
        self._report, self._gone = report, gone
        self._connection: Any = None
        self.refused = 0
        self.written = 0

    def prepare(self) -> None:
        """Open the database and see how far a predecessor came. Raises OSError as `write` does."""
        self._patiently(self._connected)

    def write(self, number: int, shapes: list[tuple[Any, ...]], rows: list[Rows]) -> None:
        """Commit, however long it takes; `number` is the last frame's. Raises OSError when the worker has gone."""
        self._patiently(lambda: self._transaction(number, shapes, rows))

    def _patiently(self, step: Callable[[], object]) -> None:
        """Do `step`, again and again while the database is in trouble."""
        wait_s, troubled, give_up_at = _FIRST_WAIT_S, False, 0.0
        while True:
            try:
                step()
                break
            except self._driver.Error as error:
                self._disconnect()
                if not _is_trouble(error):
                    raise
                reason = str(error)
            if not troubled:
                troubled = True
                self._report(True)
            if self._gone():
                give_up_at = give_up_at or time.monotonic() + _LAST_TRIES_S
                if time.monotonic() > give_up_at:
                    raise OSError(reason)
            time.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
        if troubled:
            self._report(False)

    def close(self) -> None:
        """The end of an orderly life: what it had noted about itself goes."""
        with contextlib.suppress(self._driver.Error):  # the writer of another worker clears it away in time
            if self._connection is not None:
                self._connection.execute("DELETE FROM meta WHERE name = ?", (self._name,))
        self._disconnect()

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._driver.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            for pragma in SQLITE_PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            found = self._connection.execute("SELECT value FROM meta WHERE name = ?", (self._name,)).fetchone()
            if found is not None:
                self.written = max(self.written, int.from_bytes(found[0][:8], "big"))
        return self._connection

    def _transaction(self, number: int, shapes: list[tuple[Any, ...]], rows: list[Rows]) -> None:
        connection = self._connected()
        if number <= self.written:
            return  # the commit came through although it said otherwise
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self.written:
                self._forget_others()
            self._insert(INSERT_SHAPE, shapes)
            for places, of_them in rows:
                self._insert(insert_row(places), of_them)
            progress = number.to_bytes(8, "big") + struct.pack(">d", time.time())
            connection.execute(_NOTE_PROGRESS, (self._name, progress))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.written = number

    def _insert(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        connection = self._connection
        connection.execute("SAVEPOINT rows")
        try:
            for start in range(0, len(rows), SLICE):
                connection.executemany(statement, rows[start : start + SLICE])
                os.sched_yield()  # on one core the loop waits for its turn, and each of its turns is short
        except (self._driver.Error, OverflowError) as error:
            if _is_trouble(error):
                raise
            connection.execute("ROLLBACK TO rows")
            self._insert_one_by_one(statement, rows)
        connection.execute("RELEASE rows")

    def _insert_one_by_one(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        for row in rows:
            try:
                self._connection.execute(statement, row)
            except (self._driver.Error, OverflowError) as error:
                if _is_trouble(error):
                    raise
                self.refused += 1

    def _forget_others(self) -> None:
        """What writers that were killed have left behind long ago."""
        long_ago = struct.pack(">d", time.time() - _FORGET_AFTER_S)
        self._connection.execute(
            "DELETE FROM meta WHERE name LIKE ? AND substr(value, 9) < ?", (_PROGRESS + "%", long_ago)
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._driver.Error):  # what was not committed is rolled back at the next opening
                connection.close()


def _is_trouble(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in SQLITE_TROUBLE


# -- the process -------------------------------------------------------------------------------------


class Writer:
    """Reads frames from the descriptor and deals with them until the other side closes."""

    def __init__(self, descriptor: int, driver: Any, path: str, name: str) -> None:
        self._descriptor = descriptor
        self._parent = os.getppid()
        self._store = Store(driver, path, name, self._tell, lambda: os.getppid() != self._parent)
        self._buffer = bytearray()
        self._ids: dict[int, int] = {}
        self._access: dict[int, tuple[str, ...]] = {}
        self._shown = 0

    def run(self) -> None:
        """Raises OSError when rows are lost."""
        self._tell(False)
        self._store.prepare()
        while data := os.read(self._descriptor, READ_BYTES):
            self._buffer += data
            frames = self._frames()
            while frames:
                began = time.monotonic()
                self._write(frames)
                took_s = time.monotonic() - began
                frames = self._frames()
                # SQLite has no queue: others get the write lock only while nobody holds it.
                time.sleep(min(took_s, GAP_S) if frames else max(0.0, PAUSE_S - took_s))
        self._store.close()

    def _frames(self) -> list[Frame]:
        """Whole frames from the front of the buffer, as many as go into one transaction."""
        found: list[Frame] = []
        rows = at = 0
        with memoryview(self._buffer) as view:
            while at + HEADER.size <= len(view) and rows < MOST_ROWS:
                end = at + HEADER.size + HEADER.unpack_from(view, at)[0]
                if end > len(view):
                    break
                frame: Frame = marshal.loads(view[at + HEADER.size : end])
                found.append(frame)
                rows += len(frame[4][0])
                at = end
        del self._buffer[:at]
        return found

    def _write(self, frames: list[Frame]) -> None:
        shapes: list[tuple[Any, ...]] = []
        rows: list[Rows] = []
        lines: list[Iterator[str]] = []
        for number, void, told, numbers, columns, at in frames:
            if void:
                self._ids.clear()
                self._access.clear()
            for name, values, access in told:
                self._ids[name], self._access[name] = values[0], access
                shapes.append(values)
            if number <= self._store.written:
                continue  # a predecessor has committed it, and did not live to acknowledge it
            count = len(columns[0])
            each = repeat(numbers, count) if isinstance(numbers, int) else numbers
            if at:
                lines.append(access_lines(at, list(map(self._access.__getitem__, each)), columns))
                each = repeat(numbers, count) if isinstance(numbers, int) else numbers
            places = tuple(place for place, column in enumerate(columns) if column.count(None) < count)
            if not rows or rows[-1][0] != places:
                rows.append((places, []))
            rows[-1][1].extend(zip(map(self._ids.__getitem__, each), *map(columns.__getitem__, places), strict=True))
        last = frames[-1][0]
        if lines:
            _show(chain.from_iterable(lines))
        self._shown = last
        self._store.write(last, shapes, rows)
        self._tell(False)

    def _tell(self, troubled: bool) -> None:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # what a worker that is gone handed over counts
            os.write(self._descriptor, ACK.pack(self._shown, self._store.written, self._store.refused, troubled))


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 when rows are lost because the database could not be written to."""
    descriptor, driver, path, name = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    try:
        Writer(int(descriptor), importlib.import_module(driver), path, name).run()
    except Exception as error:  # noqa: BLE001 - the top level of this process: its last words are a line of the log
        _show([f'{{"level":"error","logger":"row_writer","message":"{_json_text(f"The row writer ends: {error}")}"}}'])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
