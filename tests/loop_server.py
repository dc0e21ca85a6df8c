"""
The event-loop worker in this process: the same class that gunicorn runs, on a thread, without master and signals.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger

from app.server.loop_worker import LoopWorker

STOP_S = 10.0
THREADS = 16


class _Listener:
    """A listening socket as gunicorn hands it to its workers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        return self.sock.fileno()


class _Worker(LoopWorker):
    def __init__(self, application: Any, listener: socket.socket) -> None:
        cfg = Config()
        cfg.set("threads", THREADS)
        cfg.set("graceful_timeout", 1)
        self._given = application
        self.serving = threading.Event()
        super().__init__(1, os.getppid(), [_Listener(listener)], None, 30, cfg, Logger(cfg))

    def init_signals(self) -> None:
        """Signals are the main thread's."""

    def load_wsgi(self) -> None:
        self.wsgi = self._given

    def _tune_collector(self) -> None:
        """This process is the tests' too, and makes many applications."""

    def run(self) -> None:
        self.serving.set()
        super().run()


class LoopServer:
    """Serves `application`, one made by `create_app`, from `start` to `stop`."""

    def __init__(self, application: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._worker = _Worker(application, self._listener)
        self._thread = threading.Thread(target=self._worker.init_process, name="test-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._worker.serving.wait(STOP_S), "the loop did not begin"

    def settle(self) -> None:
        """Wait until the loop is through with what it was doing: an answer is written first, and then recorded."""
        if self._thread.is_alive():
            through = threading.Event()
            self._worker._loop.call_soon(self._worker._booking.flush)
            self._worker._loop.call_soon(through.set)
            assert through.wait(STOP_S), "the loop is stuck"

    def quiet(self) -> None:
        """Wait until nothing is on the shortcut, nor an upstream whose framing has not ended."""
        shortcut, until = self._worker._express, time.monotonic() + STOP_S
        while shortcut.rides or shortcut.streams or shortcut.lingering:
            assert time.monotonic() < until, "something stays on the shortcut"
            threading.Event().wait(0.005)

    def stop(self) -> None:
        self._worker._loop.call_soon(self._worker._end_loop)
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the loop did not end"
        self._listener.close()
        for descriptor in self._worker.PIPE:
            os.close(descriptor)
        self._worker.tmp.close()
        self._worker._loop.close()
