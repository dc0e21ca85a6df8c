"""
The worker's side of the row writer: starts the process, hands it the rows of booked requests, keeps what is not
acknowledged and hands it to a successor when the process dies.

Sending never waits: what does not fit into the socket stays here and goes on with the next acknowledgement. Beyond the
bound the newest rows are dropped and counted. When no process can be started, the rows go to `fallback`.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from . import row_writer
from .database import sqlite_library
from .row_writer import ACK, HEADER, ToldShape

_logger = logging.getLogger(__name__)

MAX_WAITING: Final = 50_000
#: Shapes that one process knows; beyond it they start afresh.
_MOST_TOLD: Final = 4000
#: Processes in a row that could not be started or ended by themselves at once, after which the rows go another way.
_MOST_STARTS: Final = 3
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
#: All that a process needs of the worker's environment, which holds secrets.
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "SQLITE_TMPDIR", "TMPDIR")


class SharedShape(Protocol):
    """What the rows have in common."""

    @property
    def access(self) -> tuple[str, ...]: ...
    def columns(self, seen_at: float) -> tuple[Any, ...]: ...


class Batch(NamedTuple):
    """
    Rows that are handed over together.

    shapes   -- one for each row
    columns  -- as in `row_writer.ROW_COLUMNS`, each with one value for each row
    at       -- when they were booked, Unix seconds
    shown    -- the time for their access lines, "" for none
    """

    shapes: Sequence[Any]
    columns: list[tuple[Any, ...]]
    at: float
    shown: str


class RowLink:
    """
    Thread-safe. The thread and its process start with `start`; `close` ends them.

    usable   -- False when no process can be started: everything goes to `fallback` then
    healthy  -- False while the process can't write to the database
    dropped  -- how many rows were lost: beyond the bound, or refused by the database
    """

    def __init__(
        self,
        path: Path,
        fallback: Callable[[Batch], None],
        *,
        max_waiting: int = MAX_WAITING,
        seen_every_s: float = 43_200.0,
        program: Sequence[str] = (sys.executable, "-I", row_writer.__file__),
    ) -> None:
        self._path, self._fallback, self._program = path, fallback, program
        self._max_waiting, self._seen_every_s = max_waiting, seen_every_s
        self._name = secrets.token_hex(8)
        self._changed = threading.Condition()
        # Batches on their way: not sent yet, and sent but not acknowledged, with the number of their frame.
        self._unsent: deque[Batch] = deque()
        self._sent: deque[tuple[int, Batch]] = deque()
        self._rows = 0
        self._frame = 0
        self._rest = b""  # of a frame that did not fit into the socket
        self._told: dict[Any, int] = {}
        self._void = False
        self._told_until = 0.0
        self._lines_until = 0  # access lines of frames up to this one are out
        self._refused_before = self._refused = self._lost = 0
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self.usable = True
        self.healthy = True

    def start(self) -> None:
        """Begin; the process is there a moment later. Does nothing when it runs already."""
        with self._changed:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="row-link", daemon=True)
                self._thread.start()

    def send(self, batch: Batch) -> None:
        """Hand rows over. Never waits and never raises."""
        with self._changed:
            if self.usable and not self._closing:
                if self._rows + len(batch.shapes) > self._max_waiting:
                    self._lost += len(batch.shapes)
                    return
                self._unsent.append(batch)
                self._rows += len(batch.shapes)
                self._pump()
                return
        self._fallback(batch)

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return self._rows

    @property
    def crowding(self) -> float:
        """
        How far the process is behind although the database is fine, so that it gets too little of the processor: 0 up
        to half of the bound, 1 at the bound, where rows are dropped.
        """
        return max(0.0, 2 * self._rows / self._max_waiting - 1) if self.healthy else 0.0

    @property
    def dropped(self) -> int:
        return self._lost + self._refused_before + self._refused

    @property
    def process_id(self) -> int | None:
        """The process that writes, None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was handed over is written, or is in the hands of `fallback`; False when not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """
        End the process after it has written what it has. Later rows go to `fallback`. False when rows are left; what
        the process has by then it goes on writing alone.
        """
        deadline = time.monotonic() + timeout_s
        written = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            thread = self._thread
        if thread is not None:
            thread.join(max(0.1, deadline - time.monotonic()))
        with self._changed:
            if self._unsent and not written:
                lost = sum(len(batch.shapes) for batch in self._unsent)
                _logger.error("%d request rows could not be written in time and are lost", lost)
                self._lost += lost
                self._unsent.clear()
        return written

    # -- sending; the lock is held --------------------------------------------------------------------

    def _pump(self) -> None:
        """Send as much as the socket takes now."""
        if self._socket is None:
            return
        while self._rest or self._unsent:
            data = self._rest or self._encode(self._unsent.popleft())
            try:
                sent = self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:  # the process has died; the thread will notice, and everything goes to its successor
                self._rest = data
                return
            self._rest = data[sent:]
            if self._rest:
                return  # the process has something to read, and will acknowledge it: then it goes on

    def _encode(self, batch: Batch) -> bytes:
        self._frame += 1
        self._sent.append((self._frame, batch))
        distinct = set(batch.shapes)
        void = self._void
        if len(self._told) + len(distinct) > _MOST_TOLD or batch.at > self._told_until:
            self._told.clear()
            self._told_until = batch.at + self._seen_every_s
            void = True
        self._void = False
        told: list[ToldShape] = []
        for shape in distinct:
            if shape not in self._told:
                self._told[shape] = len(self._told)
                told.append((self._told[shape], shape.columns(batch.at), shape.access))
        if len(distinct) == 1:
            numbers: int | tuple[int, ...] = self._told[batch.shapes[0]]
        else:
            numbers = tuple(map(self._told.__getitem__, batch.shapes))
        shown = batch.shown if self._frame > self._lines_until else ""
        data = marshal.dumps((self._frame, void, told, numbers, batch.columns, shown))
        return HEADER.pack(len(data)) + data

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        starts, pause_s = 0, _FIRST_PAUSE_S
        while starts < _MOST_STARTS:
            answered = self._start_process() and self._serve()
            killed = self._end_process() < 0
            if answered:
                starts, pause_s = 0, _FIRST_PAUSE_S
            elif not killed:
                starts += 1
            with self._changed:
                if self._closing:
                    return
                self._changed.wait_for(lambda: self._closing, pause_s)
                if self._closing and not self._rows:
                    return
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        self._give_up()

    def _start_process(self) -> bool:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        arguments = (str(theirs.fileno()), sqlite_library().__name__, str(self._path), self._name)
        try:
            process = subprocess.Popen(
                [*self._program, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            _logger.warning("No row writer could be started: %s", error)
            ours.close()
            return False
        finally:
            theirs.close()
        with self._changed:
            self._process, self._socket = process, ours
            if self._closing:
                ours.shutdown(socket.SHUT_WR)
            self._pump()
        return True

    def _serve(self) -> bool:
        """Take acknowledgements until the process has ended; False when it never gave any."""
        own = self._socket
        assert own is not None
        data, answered = b"", False
        while True:
            try:
                received = own.recv(4096)
            except OSError:
                received = b""
            if not received:
                return answered
            answered = True
            data += received
            whole = len(data) // ACK.size * ACK.size
            if whole:
                self._acknowledged(*ACK.unpack_from(data, whole - ACK.size))
                data = data[whole:]

    def _acknowledged(self, shown: int, written: int, refused: int, troubled: int) -> None:
        with self._changed:
            self._lines_until = max(self._lines_until, shown)
            self._refused = refused
            while self._sent and self._sent[0][0] <= written:
                self._rows -= len(self._sent.popleft()[1].shapes)
            self._pump()
            if not self._rows:
                self._changed.notify_all()
            if self.healthy == bool(troubled):
                self.healthy = not troubled
                told = "cannot be written to; request rows wait" if troubled else "can be written to again"
                _logger.log(logging.ERROR if troubled else logging.WARNING, "The database %s", told)

    def _end_process(self) -> int:
        """
        Nobody is at the other end any more: what was not acknowledged is unsent again. Returns the exit status, below 0
        for a process that was killed.
        """
        with self._changed:
            process, own = self._process, self._socket
            self._process = self._socket = None
            self._rest = b""
            self._told.clear()
            self._void = True
            if self._sent:
                # The successor leaves out what was committed: each frame keeps its number.
                self._frame = self._sent[0][0] - 1
                self._unsent.extendleft(batch for _, batch in reversed(self._sent))
                self._sent.clear()
            self._refused_before, self._refused = self._refused_before + self._refused, 0
            closing = self._closing
        if own is not None:
            own.close()
        if process is None:
            return 0
        status = process.wait()
        if not closing or status:
            _logger.warning("The row writer has ended with status %d", status)
        return status

    def _give_up(self) -> None:
        """No process lives long enough to say anything: the rows go another way."""
        with self._changed:
            self.usable = False
            self.healthy = True
            batches = list(self._unsent)
            self._unsent.clear()
        _logger.error("The row writer does not start; the worker writes the rows by itself")
        for batch in batches:
            self._fallback(batch)
        with self._changed:
            self._rows = 0
            self._changed.notify_all()
