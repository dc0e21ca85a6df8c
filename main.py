"""
`python main.py` serves through gunicorn; `main:app` is the WSGI application for any other server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dotenv import load_dotenv

from app.config import Config
from app.errors import ConfigError

if TYPE_CHECKING:
    from flask import Flask


def read_config() -> Config:
    """The configuration of the environment and of `.env`. Raises ConfigError."""
    load_dotenv(".env")
    return Config.from_env(os.environ)


def main() -> int:
    """Serve until told to stop; the exit status."""
    try:
        config = read_config()
        prepare(config)
    except ConfigError as error:
        sys.stderr.write(f"The middleware can't start. {error}\n")
        return 2
    if config.secret_key is None:
        # Made before the workers fork: a session opened at one of them is good at all of them.
        config = replace(config, secret_key=secrets.token_bytes(32))
    from app.server.master import Master

    Master(config).run()
    return 0


def prepare(config: Config) -> None:
    """What must be right once, before workers start: the database, and a folder for what they share."""
    from app.storage.database import Database
    from app.vault import Vault

    config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if config.workers > 1:
        folder = config.run_dir / "metrics"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    database = Database(config.database_url)
    database.migrate(Vault.open(config))
    database.close()


def __getattr__(name: str) -> Any:
    """`app`, made when a WSGI server first asks for it."""
    if name == "app":
        return _application()
    raise AttributeError(name)


def _application() -> Flask:
    from app import create_app

    made = globals()["app"] = create_app(read_config())
    return made


if __name__ == "__main__":
    sys.exit(main())
