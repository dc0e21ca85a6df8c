"""
Bringing a database to the current form: whole or not at all, by one process at a time, without a person's help.

Refuses what it does not know: a revision newer than its own, tables of another program, a damaged file, an encryption
key that is not the one the database was encrypted with. Nothing is changed or made anew then.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ...errors import ConfigError
from ...vault import Vault, make_private_folder
from .. import adopt
from ..schema import meta, metadata

# Alembic is imported where it is needed: a worker whose database is current spares its 10 MiB.
if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    from ..database import Connection, Database

_logger = logging.getLogger(__name__)

#: The newest revision that this version of the program knows.
HEAD: Final = "0003"
_LOCK_WAIT_S: Final = 60
_ADVISORY_LOCK: Final = 7_266_210_455  # any number that no other program of this database uses
_CHECK_NAME: Final = "encryption_check"
#: SQLite primary result codes that a person can act on (https://www.sqlite.org/rescode.html).
_SQLITE_REASONS: Final = {
    5: "is locked by another program; stop it and start again",
    6: "is locked by another program; stop it and start again",
    8: "cannot be written to; check the owner and the permissions of the file and its folder",
    10: "cannot be read from or written to the disk",
    11: "is damaged; restore it from a backup",
    13: "cannot grow, because the disk is full",
    14: "cannot be opened; check the permissions of the file and its folder",
    26: "is not a SQLite database, or it is damaged; restore it from a backup or choose another path",
}


def upgrade(database: Database, vault: Vault | None) -> None:
    """What `Database.migrate` does. Raises ConfigError."""
    if database.path is None:
        _upgrade_postgres(database, vault)
        return
    with _errors_of_the_file(database.path), _exclusive(database.path):
        _make_file(database.path)
        _upgrade_sqlite(database, database.path, vault)


def _alembic_config() -> AlembicConfig:
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


@functools.cache
def scripts() -> ScriptDirectory:
    """The revisions."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_alembic_config())


def _upgrade_postgres(database: Database, vault: Vault | None) -> None:
    try:
        with database.engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            _upgrade_in_transaction(connection, "DATABASE_URL", vault)
    except DBAPIError as error:
        first_line = str(error.orig).strip().partition("\n")[0][:300]
        raise ConfigError("DATABASE_URL", f"the database cannot be used: {first_line}") from error


def _upgrade_sqlite(database: Database, path: Path, vault: Vault | None) -> None:
    connection = database.dedicated(busy_timeout_s=_LOCK_WAIT_S)
    try:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.execute("PRAGMA journal_mode=WAL").fetchall()
        # Old tables are set aside and dropped: their rows must not cascade, and what they held must not stay readable.
        for pragma in ("foreign_keys=OFF", "legacy_alter_table=ON", "secure_delete=ON"):
            driver.execute(f"PRAGMA {pragma}")
        with connection.begin():
            adopted = _upgrade_in_transaction(connection, "DB_PATH", vault, path)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(1) if adopted else ()
            if broken:
                raise ConfigError("DB_PATH", f"{path} holds rows of {broken[0][0]} that belong to nothing.")
        if adopted:
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def _upgrade_in_transaction(
    connection: Connection, variable: str, vault: Vault | None, path: Path | None = None
) -> bool:
    """Upgrade and check; True when an old file was adopted."""
    tables = set(sa.inspect(connection).get_table_names())
    revision = _revision(connection, tables, variable)
    old = False
    if revision is None:
        old = _recognise(connection, tables, variable, path, vault)
    if revision != HEAD:
        with _backup(path) if old and path is not None else contextlib.nullcontext():
            _run_alembic(connection, vault)
        _logger.info("The database is now at revision %s (before: %s)", HEAD, revision or "none")
    if vault is not None:
        _check_key(connection, vault)
    return old


def _revision(connection: Connection, tables: set[str], variable: str) -> str | None:
    if "alembic_version" not in tables:
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision is None or revision == HEAD:
        return None if revision is None else HEAD
    from alembic.util import CommandError

    try:
        known = scripts().get_revision(str(revision)) is not None
    except CommandError:
        known = False
    if not known:
        raise ConfigError(
            variable,
            f"the database was written by a newer version of this program (revision {revision}; this version knows "
            f"up to {HEAD}). Install that version, or restore a backup.",
        )
    return str(revision)


def _recognise(connection: Connection, tables: set[str], variable: str, path: Path | None, vault: Vault | None) -> bool:
    """True for a file of the older application, False for an empty database. Anything else is refused."""
    if path is not None and adopt.is_old_file(connection):
        if vault is None:
            raise ConfigError(variable, f"{path} holds keys in plain text; opening it takes an encryption key.")
        return True
    strangers = tables if path is not None else tables & set(metadata.tables)
    if strangers:
        named = ", ".join(sorted(strangers)[:5])
        raise ConfigError(variable, f"the database holds tables of another program ({named}); choose another one.")
    return False


def _run_alembic(connection: Connection, vault: Vault | None) -> None:
    from alembic import command

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = _alembic_config()
    config.attributes.update(connection=connection, vault=vault)
    command.upgrade(config, "head")


def _check_key(connection: Connection, vault: Vault) -> None:
    stored = connection.execute(sa.select(meta.c.value).where(meta.c.name == _CHECK_NAME)).scalar()
    if stored is None:
        connection.execute(sa.insert(meta).values(name=_CHECK_NAME, value=vault.check_value()))
    elif not vault.fits(bytes(stored)):
        raise ConfigError(
            "ENCRYPTION_KEY",
            f"the key from {vault.origin} is not the one that this database was encrypted with. Set ENCRYPTION_KEY "
            "to the former value, or restore the former key file.",
        )


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One process at a time. Changing the journal mode does not wait for the database's own locks."""
    make_private_folder(path.parent)
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_file(path: Path) -> None:
    # SQLite gives its -wal and -shm files the permissions of the database.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if path.is_dir():
        raise ConfigError("DB_PATH", f"{path} is a folder; name a file.")
    with contextlib.suppress(OSError):  # somebody else's file: SQLite says whether it can be used
        path.chmod(0o600)


@contextlib.contextmanager
def _backup(path: Path) -> Iterator[None]:
    """A copy of the file beside it, made before the block. It goes away again when the block fails."""
    copy = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.old")
    _copy(path, copy)
    try:
        yield
    except BaseException:
        copy.unlink()
        raise
    _logger.warning("%s came from an older version; a copy with its keys in plain text is kept as %s", path, copy)


def _copy(path: Path, copy: Path) -> None:
    from ..database import sqlite_library

    library: Any = sqlite_library()
    os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    with contextlib.closing(library.connect(path)) as source, contextlib.closing(library.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE").fetchall()  # one file, without a -wal beside it


@contextlib.contextmanager
def _errors_of_the_file(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the file into a ConfigError that says what to do."""
    try:
        yield
    except DBAPIError as error:
        raise ConfigError("DB_PATH", f"{path} {_reason(error.orig)}.") from error
    except OSError as error:
        raise ConfigError("DB_PATH", f"{path} cannot be used: {error.strerror or error}.") from error
    except Exception as error:
        # The driver's own exceptions, of a class that depends on which SQLite library is in use.
        if not hasattr(error, "sqlite_errorcode"):
            raise
        raise ConfigError("DB_PATH", f"{path} {_reason(error)}.") from error


def _reason(error: BaseException | None) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return _SQLITE_REASONS.get(code, f"cannot be used: {str(error)[:200]}")
