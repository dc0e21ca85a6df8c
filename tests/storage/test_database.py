"""Connections and transactions of the SQLite file."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from app.errors import ConfigError
from app.storage.database import Database, is_trouble, sqlite_library
from app.storage.schema import daily_stats, model_aliases


def aliases(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(model_aliases.c.alias).order_by(model_aliases.c.alias)))


def add(connection, alias: str) -> None:
    connection.execute(sa.insert(model_aliases).values(alias=alias, target="m"))


def test_the_sqlite_library_is_one_without_the_wal_bug():
    assert sqlite_library().sqlite_version_info >= (3, 51, 3)


def test_every_connection_is_set_up(database):
    expected = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 5000, "synchronous": 1, "mmap_size": 0}
    for enter in (database.read, database.transaction):
        with enter() as connection:
            for name, value in expected.items():
                assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value


def test_a_transaction_is_committed_at_its_end_and_rolled_back_by_an_exception(database):
    with database.transaction() as connection:
        add(connection, "kept")

    def fail() -> None:
        with database.transaction() as connection:
            add(connection, "lost")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert aliases(database) == ["kept"]


def test_reading_cannot_write(database):
    with database.read() as connection, pytest.raises(OperationalError):
        add(connection, "sneaked in")

    assert aliases(database) == []


def test_a_number_is_found_by_plain_sql_and_0_where_there_is_none(tmp_path, database):
    statement = "SELECT count(*) FROM model_aliases"
    assert database.number(statement) == 0
    with database.transaction() as connection:
        add(connection, "one")
        assert database.number(statement) == 0
    assert database.number(statement) == 1
    assert database.number("SELECT max(id) FROM request_shapes WHERE id < 0") == 0
    assert database.number("SELECT id FROM request_shapes WHERE id < 0") == 0
    for wrong in ("SELECT nothing", "DELETE FROM model_aliases"):
        with pytest.raises(OperationalError):
            database.number(wrong)
    with pytest.raises(OperationalError):
        Database(f"sqlite:///{tmp_path}/nowhere/keys.db").number(statement)


def test_a_reader_sees_one_state_while_others_write(database):
    with database.read() as reader:
        assert reader.scalar(sa.select(sa.func.count()).select_from(model_aliases)) == 0
        with database.transaction() as connection:
            add(connection, "new")
        assert reader.scalar(sa.select(sa.func.count()).select_from(model_aliases)) == 0

    assert aliases(database) == ["new"]


def test_a_write_transaction_takes_its_lock_at_once(database):
    """A deferred one would fail when another writer commits between its first read and its first write."""
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def count_up() -> None:
        barrier.wait()
        for _ in range(20):
            try:
                with database.transaction() as connection:
                    found = connection.scalar(sa.select(sa.func.count()).select_from(model_aliases))
                    add(connection, f"{found:04}")
            except OperationalError as error:
                failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert aliases(database) == [f"{number:04}" for number in range(80)]


def test_foreign_keys_hold(database):
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(sa.insert(daily_stats).values(key_id=7, date="2026-01-01"))


def test_deleted_ids_are_not_used_again(database):
    insert = "INSERT INTO keys (key_value, key_hmac) VALUES ('x', ?)"
    with database.transaction() as connection:
        connection.exec_driver_sql(insert, ("a",))
        connection.exec_driver_sql("DELETE FROM keys")
        connection.exec_driver_sql(insert, ("b",))
        assert connection.exec_driver_sql("SELECT id FROM keys").scalar() == 2


def test_a_database_is_usable_when_it_has_its_tables(tmp_path, database):
    assert database.usable()
    assert not Database(f"sqlite:///{tmp_path}/nothing/keys.db").usable()
    database.close()
    assert database.usable()
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(ConfigError):
        Database(url)


def test_files_and_folders_of_ours_are_for_their_owner_alone(tmp_path, database):
    folder = tmp_path / "data"
    with database.transaction() as connection:
        add(connection, "a")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()}
    assert {"keys.db", "keys.db-wal", "keys.db-shm"} <= set(files)
    assert set(files.values()) == {0o600}


def test_locked_and_missing_databases_are_trouble_and_wrong_statements_are_not(tmp_path, database):
    def error_of(statement: str, on: Database = database) -> sa.exc.SQLAlchemyError:
        with pytest.raises(sa.exc.SQLAlchemyError) as caught, on.transaction() as connection:
            connection.exec_driver_sql(statement)
        return caught.value

    assert not is_trouble(error_of("SELECT * FROM nowhere"))
    assert not is_trouble(error_of("SELEC 1"))
    assert not is_trouble(error_of("INSERT INTO settings (key, value) VALUES ('a', NULL)"))
    assert is_trouble(error_of("SELECT 1", Database(f"sqlite:///{tmp_path}/nothing/keys.db")))
    assert not is_trouble(sa.exc.ArgumentError("x"))

    holder, waiter = database.dedicated(), database.dedicated(busy_timeout_s=0.01)
    with holder.begin(), pytest.raises(OperationalError) as caught:
        waiter.exec_driver_sql("SELECT 1")
    assert is_trouble(caught.value)
    holder.close()
    waiter.close()


def test_a_wrong_statement_of_another_driver_is_no_trouble():
    class FromPostgres(Exception):
        sqlstate = "42P01"

    class Gone(FromPostgres):
        sqlstate = "57P01"

    assert not is_trouble(ProgrammingError("SELECT", None, FromPostgres()))
    assert is_trouble(OperationalError("SELECT", None, Gone()))


def test_a_path_may_hold_any_usual_character(tmp_path: Path):
    path = tmp_path / "50% of #1, ключ" / "my keys.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()

    assert database.usable()
    assert path.exists()
    database.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_deleted_or_replaced_is_noticed_and_nothing_is_acknowledged(tmp_path, replaced):
    database = Database(f"sqlite:///{tmp_path}/keys.db")
    database.migrate()
    assert database.usable()

    (tmp_path / "keys.db").rename(tmp_path / "elsewhere.db")
    if replaced:
        (tmp_path / "keys.db").touch()

    assert not database.usable()
    with pytest.raises(OperationalError, match="deleted or replaced"), database.transaction():
        pass
    (tmp_path / "elsewhere.db").rename(tmp_path / "keys.db")
    assert database.usable()
    database.close()
