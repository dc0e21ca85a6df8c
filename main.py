"""
`python main.py` serves through gunicorn with a worker of its own; `main:app` is a plain WSGI application for any other
server, which carries proxied calls on its own threads whatever DRIVER says.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values, load_dotenv

import compiled


def _use_compiled() -> compiled.Outcome:
    """As COMPILED says, which may stand in `.env`. An unknown value is refused later, with the other variables."""
    asked = os.environ.get("COMPILED", dotenv_values(".env").get("COMPILED"))
    return compiled.install((asked or "").strip().lower() or "auto")


# Before the first import of `app`, because it decides what those imports load.
HOT_PATH = _use_compiled()

from app.config import Config  # noqa: E402
from app.errors import ConfigError  # noqa: E402

if TYPE_CHECKING:
    from flask import Flask

#: How long a server that is just ending may still hold the address.
ADDRESS_WAIT_S = 5.0
#: With one of these gunicorn takes over a socket that listens already.
INHERITED = {"GUNICORN_FD", "GUNICORN_PID", "LISTEN_FDS"}


def read_config() -> Config:
    """The configuration of the environment and of `.env`. Raises ConfigError."""
    load_dotenv(".env")
    config = Config.from_env(os.environ)
    if config.compiled == "required" and not HOT_PATH.compiled:
        raise ConfigError("COMPILED", f"is required, but {HOT_PATH.reason}. `make compile` compiles the hot path.")
    return config


def main() -> int:
    """Serve until told to stop; the exit status."""
    try:
        config = read_config()
        if not INHERITED & os.environ.keys():
            check_address(config)
        make_run_dir(config)
        _apart(lambda: prepare(config))
    except ConfigError as error:
        return _refuse(error)
    if config.secret_key is None:
        # Made before the workers fork: a session opened at one of them is good at all of them.
        config = replace(config, secret_key=secrets.token_bytes(32))
    from app.server.master import Master

    Master(config, announcement=str(HOT_PATH)).run()
    return 0


def _apart(step: Callable[[], None]) -> None:
    """
    Run `step` in a process of its own: what it imports would stay in the master's memory for ever. Exits with its
    status where it fails; the reason is told by then.
    """
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            sys.exit(max(1, status))
        return
    status = 1
    try:
        step()
        status = 0
    except ConfigError as error:
        status = _refuse(error)
    except Exception:  # noqa: BLE001 - the top level of a process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _refuse(error: ConfigError) -> int:
    sys.stderr.write(f"The middleware can't start. {error}\n")
    return 2


def prepare(config: Config) -> None:
    """The database, which must be right before workers start. Raises ConfigError."""
    from app.storage.database import Database
    from app.vault import Vault

    database = Database(config.database_url)
    database.migrate(Vault.open(config))
    database.close()


def make_run_dir(config: Config) -> None:
    """The folder for what workers share. Raises ConfigError."""
    folder = config.run_dir / "metrics"
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if config.workers > 1:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        variable = next((name for name in ("RUN_DIR", "DATABASE_URL") if os.environ.get(name)), "DB_PATH")
        raise ConfigError(variable, f"{error.filename} cannot be used: {error.strerror}.") from None
    if config.workers > 1:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def check_address(config: Config) -> None:
    """Raises ConfigError where nobody can listen. An address that is only taken gets a moment to become free."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET  # as gunicorn has it
    deadline = time.monotonic() + ADDRESS_WAIT_S
    while True:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                return probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                variable = "PORT" if error.errno in (errno.EACCES, errno.EPERM) else "HOST"
                place = f"{config.host}, port {config.port}"
                raise ConfigError(variable, f"cannot listen on {place}: {error.strerror}.") from None
            if time.monotonic() > deadline:
                raise ConfigError("PORT", f"{config.port} is in use by another program; choose another.") from None
        time.sleep(0.1)


def __getattr__(name: str) -> Any:
    """`app`, made when a WSGI server first asks for it."""
    if name == "app":
        return _application()
    raise AttributeError(name)


def _application() -> Flask:
    from app import create_app

    made = globals()["app"] = create_app(read_config())
    logging.getLogger(__name__).info("%s", HOT_PATH)
    return made


if __name__ == "__main__":
    sys.exit(main())
