"""
Runs the built-in demonstration upstream inside this process when somebody needs it.
"""

from __future__ import annotations

import logging
import threading

from app.demo import DemoUpstream

log = logging.getLogger(__name__)


class Demonstration:
    """Started at the first call of `origin`, ended by `stop`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._upstream: DemoUpstream | None = None
        self._origin: str | None = None

    def origin(self) -> str | None:
        """Where it listens; None when it can't."""
        with self._lock:
            if self._upstream is None:
                self._upstream = DemoUpstream()
                try:
                    self._origin = self._upstream.start()
                except OSError as error:
                    log.warning("the demonstration upstream can't start: %s", error)
            return self._origin

    def stop(self) -> None:
        with self._lock:
            if self._upstream is not None and self._origin is not None:
                self._upstream.stop()
            self._upstream, self._origin = None, None
