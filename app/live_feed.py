"""
Lines of the live log for those who watch, as they come. However many watch, one thread of each worker looks for new
lines, and only while somebody does; lines of all workers are in the table.

Whoever watches holds a thread, so that there is a bound; who finds it full asks for lines now and then instead.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.clock import Clock
from app.live_log import MAX_SHOWN, Line, LiveLog

log = logging.getLogger(__name__)

EVERY_S: Final = 0.25
#: Ids follow the order of writing on SQLite. Where several transactions write at once, a line with a lower id may be
#: committed later: a gap is waited for so long.
GAP_S: Final = 1.0


class LiveFeed:
    """Thread-safe. `close` ends it for good, and all who watch get no more lines."""

    def __init__(self, live_log: LiveLog, clock: Clock | None = None, *, every_s: float = EVERY_S) -> None:
        self._live_log, self._every_s = live_log, every_s
        self._clock = clock or Clock()
        self._changed = threading.Condition()
        self._viewers: set[Viewer] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        # The lines with ids above `_since` up to `_newest`, which is None until the thread has looked.
        self._lines: deque[Line] = deque()
        self._since = 0
        self._newest: int | None = None
        self._gap_since: float | None = None

    def watch(self, after_id: int | None, most: int) -> Viewer | None:
        """
        Begin to watch; the viewer has to be closed. None when `most` watch already, or the feed is closed.

        after_id -- the last line that is known, None for those from now on

        Raises SQLAlchemyError.
        """
        newest = self._live_log.newest_id()
        viewer = Viewer(self, newest if after_id is None else max(0, min(after_id, newest)))
        with self._changed:
            if self._closed or len(self._viewers) >= most:
                return None
            self._viewers.add(viewer)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._run, name="live-feed", daemon=True)
                self._thread.start()
        return viewer

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        self._wake.set()
        if thread is not None:
            thread.join(5.0)

    # -- for viewers ----------------------------------------------------------------------------------

    def lines_after(self, line_id: int, timeout_s: float) -> list[Line]:
        """The next lines, waiting for them at most so long. Raises SQLAlchemyError."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._newest or 0) > line_id, timeout_s)
            newest = self._newest
            if self._closed or newest is None or newest <= line_id:
                return []
            if line_id >= self._since:
                return [line for line in self._lines if line.id > line_id]
        return [line for line in self._live_log.after(line_id, MAX_SHOWN) if line.id <= newest]

    def leave(self, viewer: Viewer) -> None:
        with self._changed:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._wake.set()

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        troubled = False
        while True:
            with self._changed:
                if self._closed or not self._viewers:
                    self._thread = None
                    self._lines.clear()
                    self._newest = self._gap_since = None
                    return
            try:
                self._look()
                troubled = False
            except SQLAlchemyError as error:
                if not troubled:
                    log.warning("The lines of the live log cannot be read: %s", type(error).__name__)
                troubled = True
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _look(self) -> None:
        newest, known = self._live_log.newest_id(), self._newest
        if known is None or newest < known:  # the beginning, or the table began anew
            with self._changed:
                self._lines.clear()
                self._since = self._newest = newest
                for viewer in self._viewers:
                    viewer.position = min(viewer.position, newest)
                self._changed.notify_all()
        elif newest > known:
            lines = self._without_gap(known, self._live_log.after(known, MAX_SHOWN))
            if lines:
                self._add(lines)

    def _without_gap(self, known: int, lines: Sequence[Line]) -> Sequence[Line]:
        """The lines up to the first id that is missing, unless that has been missing for long."""
        whole = next((place for place, line in enumerate(lines) if line.id != known + 1 + place), len(lines))
        if whole == len(lines):
            self._gap_since = None
            return lines
        now = self._clock.monotonic()
        if self._gap_since is None:
            self._gap_since = now
        if now - self._gap_since < GAP_S:
            return lines[:whole]
        self._gap_since = None
        return lines

    def _add(self, lines: Sequence[Line]) -> None:
        with self._changed:
            self._lines.extend(lines)
            self._newest = lines[-1].id
            while len(self._lines) > MAX_SHOWN:
                self._since = self._lines.popleft().id
            self._changed.notify_all()


class Viewer:
    """
    Somebody who watches, on one thread.

    position -- the id of the last line that was handed out
    """

    def __init__(self, feed: LiveFeed, position: int) -> None:
        self._feed = feed
        self.position = position

    def lines(self, timeout_s: float) -> list[Line]:
        """The next lines in the order of their ids; empty when none came in time. Raises SQLAlchemyError."""
        found = self._feed.lines_after(self.position, timeout_s)
        if found:
            self.position = found[-1].id
        return found

    def close(self) -> None:
        """Harmless when called again."""
        self._feed.leave(self)
