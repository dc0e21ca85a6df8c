"""
The database: one engine, its connections and its transactions. SQLite or PostgreSQL from the same code.

SQLite: WAL, foreign keys, `BEGIN IMMEDIATE` for every write (a deferred transaction that turns into a writing one
fails at once when another writer was quicker, whatever the busy timeout), and a current library, because versions
before 3.51.3 can corrupt a WAL that several connections share (https://www.sqlite.org/wal.html#walresetbug).
Refuses databases in memory: each connection would see its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from ..errors import ConfigError
from .row_writer import SQLITE_PRAGMAS, SQLITE_TROUBLE
from .schema import revision

if TYPE_CHECKING:
    from ..vault import Vault

__all__ = ["BUSY_TIMEOUT_S", "Connection", "Database", "is_trouble"]

_logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S: Final = 5.0
_SAFE_SQLITE: Final = (3, 51, 3)
_POOL_SIZE: Final = 4
_MAX_OVERFLOW: Final = 60
# SQLSTATE classes: connection, transaction rollback, resources, operator intervention, system error
# (PostgreSQL manual, appendix A).
_POSTGRES_TROUBLE: Final = ("08", "25006", "40", "55P03", "53", "57", "58")


def sqlite_library() -> Any:
    """The DB-API module with the SQLite library to use."""
    if sqlite3.sqlite_version_info >= _SAFE_SQLITE:
        return sqlite3
    try:
        import pysqlite3.dbapi2 as current
    except ImportError:
        _logger.warning(
            "SQLite %s can corrupt a database that is in heavy use; install pysqlite3", sqlite3.sqlite_version
        )
        return sqlite3
    return current


def is_trouble(error: SQLAlchemyError) -> bool:
    """True when the database is locked, full or gone, so that the same statement may succeed later."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in SQLITE_TROUBLE
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_POSTGRES_TROUBLE)
    return bool(error.connection_invalidated) or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)


class Database:
    """
    Connections and transactions. Thread-safe; not to be used across a fork (`close()` before it).

    path -- of the SQLite file, None for PostgreSQL
    """

    def __init__(self, url: str) -> None:
        """`url` as in `Config.database_url`. Nothing is opened or made yet."""
        parsed = sa.make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and (not parsed.database or parsed.database.startswith(":memory:")):
            raise ConfigError("DATABASE_URL", "a database in memory cannot be shared by several connections.")
        self.path = Path(parsed.database) if self.is_sqlite and parsed.database else None
        self._url = parsed
        self._inode: int | None = None
        if self.is_sqlite:
            self.engine = _sqlite_engine(parsed)
            self._reader = _sqlite_engine(parsed, writes=False)
        else:
            self.engine = _postgres_engine(parsed)
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the data. Writing through it is an error."""
        with self._reader.connect() as connection:
            yield connection

    def number(self, statement: str) -> int:
        """
        The number that this plain SQL without parameters finds, 0 where it finds none. For what is asked many times a
        second: a fifteenth of what `read` and a statement of SQLAlchemy cost. Raises SQLAlchemyError as they do.
        """
        try:
            with contextlib.closing(self._reader.raw_connection()) as raw:
                cursor = raw.cursor()
                cursor.execute(statement)
                found = cursor.fetchone()
                cursor.close()
        except self._reader.dialect.loaded_dbapi.Error as error:
            raise sa.exc.OperationalError(None, None, error) from error
        return int(found[0] or 0) if found else 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """
        A writing transaction: committed at the end, rolled back when an exception leaves the block. Raises
        OperationalError where the file behind the open connections is not the one at its path any more: what would be
        written there is lost with the process.
        """
        if self._is_elsewhere():
            raise sa.exc.OperationalError("the database file was deleted or replaced", None, OSError())
        with self.engine.begin() as connection:
            yield connection

    def dedicated(self, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
        """A writing connection outside the pool, for one thread to keep; the caller closes it.

        busy_timeout_s -- how long SQLite waits for other writers
        """
        if self.is_sqlite:
            return _sqlite_engine(self._url, busy_timeout_s=busy_timeout_s, pooled=False).connect()
        connection = self.engine.connect()
        connection.detach()
        return connection

    def migrate(self, vault: Vault | None = None) -> None:
        """Bring the tables to the current form; make the file and its folder first where they do not exist.

        With a vault, old files with plain keys are adopted, and the vault's key is compared with the one that the
        database was encrypted with. Several processes may call this at once. Raises ConfigError with the reason
        when the database cannot be used; nothing is changed then.
        """
        from .migrations import upgrade  # the migrations know the engine, not the other way round

        upgrade(self, vault)

    def usable(self) -> bool:
        """Whether the database answers now and has its tables."""
        try:
            with self.read() as connection:
                connection.execute(sa.select(revision.c.value)).first()
        except SQLAlchemyError:
            return False
        return not self._is_elsewhere()

    def _is_elsewhere(self) -> bool:
        """Whether the file that the first transaction found has been deleted or replaced since."""
        if self.path is None:
            return False
        try:
            found = os.stat(self.path).st_ino
        except OSError:
            return self._inode is not None
        if self._inode is None:
            self._inode = found
        return found != self._inode

    def close(self) -> None:
        """Close all idle connections. The object stays usable and opens new ones when asked."""
        self._reader.dispose()
        self.engine.dispose()


def _sqlite_engine(
    url: sa.URL, *, writes: bool = True, busy_timeout_s: float = BUSY_TIMEOUT_S, pooled: bool = True
) -> Engine:
    pool: dict[str, Any] = (
        {"pool_size": _POOL_SIZE, "max_overflow": _MAX_OVERFLOW} if pooled else {"poolclass": NullPool}
    )
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        module=sqlite_library(),
        hide_parameters=True,  # values never show in error messages, and so not in logs
        connect_args={"timeout": busy_timeout_s, "check_same_thread": False, "isolation_level": None},
        **pool,
    )
    pragmas = SQLITE_PRAGMAS if writes else (*SQLITE_PRAGMAS, "query_only=ON")

    def prepare(connection: Any, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", begin)
    return engine


def _postgres_engine(url: sa.URL) -> Engine:
    return sa.create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_MAX_OVERFLOW,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 5},
    )
