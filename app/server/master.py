"""
The gunicorn master: takes its settings from the configuration, and makes the application in each worker.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import resource
import signal
import sys
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from app.config import Config
from app.server.grace import AFTER_GRACE_S
from app.server.requests import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from app.telemetry import logs

#: As many open files as are asked for where the system allows more.
OPEN_FILES = 65536
#: Open files of a process beside its connections.
OTHER_FILES = 96
#: What one connection needs at most: its own socket, the upstream's, and one for a moment.
FILES_A_CONNECTION = 3
FEWEST_CONNECTIONS = 16


log = logging.getLogger(__name__)

WORKER_CLASSES = {"threads": "app.server.worker.ThreadWorker", "loop": "app.server.loop_entry.LoopEntry"}


class Master(BaseApplication):
    """`Master(config).run()` serves until a signal ends it. The announcement is logged at the start."""

    def __init__(self, config: Config, announcement: str) -> None:
        self._config = config
        self._announcement = announcement
        self._open_files = _allow_open_files()
        super().__init__()

    def load_config(self) -> None:
        for name, value in _settings(self._config, self._open_files).items():
            self.cfg.set(name, value)
        self.cfg.set("on_starting", self._announce)

    def load(self) -> Any:
        # In the worker's process: the master never needs it.
        from app import create_app

        return create_app(self._config)

    def _announce(self, _arbiter: Any) -> None:
        log.info("%s", self._announcement)

    def run(self) -> None:
        # A worker's collector would look at what it inherits, and so make a copy of its own of each page.
        gc.collect()
        gc.freeze()
        try:
            _Arbiter(self).run()
        except RuntimeError as error:
            sys.stderr.write(f"The server can't run. {error}\n")
            sys.exit(1)


class _Arbiter(Arbiter):
    """A further signal during a graceful stop goes on to the workers, which then end at once; gunicorn drops it."""

    _stopping = False

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        super().stop(graceful)

    def signal(self, sig: int, frame: Any) -> None:
        if self._stopping and sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self.kill_workers(signal.SIGQUIT)
        else:
            super().signal(sig, frame)


def _settings(config: Config, open_files: int) -> dict[str, Any]:
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    affordable = max(FEWEST_CONNECTIONS, (open_files - OTHER_FILES) // FILES_A_CONNECTION)
    return {
        "bind": f"{host}:{config.port}",
        "workers": config.workers,
        "threads": config.threads,
        "worker_class": WORKER_CLASSES[config.driver],
        # With threads, kept-alive connections beyond them wait in the poller; the loop bears what there are files for.
        "worker_connections": affordable if config.driver == "loop" else min(max(1000, 4 * config.threads), affordable),
        "backlog": 4096,
        "keepalive": 30,
        "timeout": 120,
        "graceful_timeout": math.ceil(config.graceful_timeout_s + AFTER_GRACE_S),
        "limit_request_line": MAX_TARGET_BYTES,
        "limit_request_fields": MAX_HEADERS,
        "limit_request_field_size": MAX_HEADER_BYTES,
        "forwarded_allow_ips": "",
        "control_socket_disable": True,
        "proc_name": "ai-api-middleware",
        "logconfig_dict": logs.dict_config(config.log_level),
        "child_exit": _child_exit,
    }


def _allow_open_files() -> int:
    """Raise this process's limit of open files, which many systems set low; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _child_exit(_server: Any, worker: Any) -> None:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return
    from app.telemetry.metrics import forget_process

    forget_process(worker.pid)
