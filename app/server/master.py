"""
The gunicorn master: takes its settings from the configuration, and makes the application in each worker.
"""

from __future__ import annotations

import math
from typing import Any

from gunicorn.app.base import BaseApplication

from app import create_app
from app.config import Config
from app.server.worker import LAST_WORDS_S
from app.telemetry import logs
from app.telemetry.metrics import forget_process


class Master(BaseApplication):
    """`Master(config).run()` serves until a signal ends it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__()

    def load_config(self) -> None:
        for name, value in _settings(self._config).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._config)


def _settings(config: Config) -> dict[str, Any]:
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    return {
        "bind": f"{host}:{config.port}",
        "workers": config.workers,
        "threads": config.threads,
        "worker_class": "app.server.worker.ThreadWorker",
        # Kept-alive connections beyond the threads wait in the poller.
        "worker_connections": max(1000, 4 * config.threads),
        "backlog": 4096,
        "keepalive": 30,
        "timeout": 120,
        "graceful_timeout": math.ceil(config.graceful_timeout_s + 2 * LAST_WORDS_S),
        "limit_request_line": 8190,
        "limit_request_fields": 100,
        "limit_request_field_size": 16384,
        "forwarded_allow_ips": "",
        "control_socket_disable": True,
        "proc_name": "ai-api-middleware",
        "logconfig_dict": logs.dict_config(config.log_level),
        "child_exit": _child_exit,
    }


def _child_exit(_server: Any, worker: Any) -> None:
    forget_process(worker.pid)
