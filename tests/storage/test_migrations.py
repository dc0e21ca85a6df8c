"""A database is brought to the current form whole, by one process at a time, or it is refused with the reason."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import ConfigError
from app.storage import migrations
from app.storage.database import Database, sqlite_library
from app.storage.schema import meta, metadata, request_log, request_shapes, requests, revision
from app.vault import Vault

ROOT = Path(__file__).parents[2]


def refused(database: Database, vault: Vault | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        database.migrate(vault)
    database.close()
    return caught.value


def write(path: Path, *statements: str) -> None:
    connection = sqlite_library().connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table with its rows."""
    connection = sqlite_library().connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    connection.close()
    return found


def made(path: Path) -> dict[str, str]:
    """The statements that made the tables and indexes."""
    connection = sqlite_library().connect(path)
    statement = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
    found = {name: " ".join(sql.split()) for name, sql in connection.execute(statement)}
    connection.close()
    return found


def test_the_migrations_make_exactly_the_tables_of_the_schema(tmp_path, database):
    """When this fails, the schema was changed without a revision of its own."""
    other = Database(f"sqlite:///{tmp_path}/by-schema.db")
    with other.transaction() as connection:
        metadata.create_all(connection)
    other.close()

    assert made(database.path) == made(tmp_path / "by-schema.db")


#: Rows of `requests` as revision 0001 had them; two of one shape, and one that differs in a NULL.
OLD_ROWS = [
    {"request_id": "a", "model": "m", "client_id": None, "attempts": "[]"},
    {"request_id": "b", "model": "m", "client_id": None, "attempts": '[{"number": 1}]'},
    {"request_id": "c", "model": None, "client_id": 3, "attempts": "[]"},
]


def at_revision_0001(path: Path) -> None:
    """Make a file as the first revision left it, with `OLD_ROWS`."""
    plain = Database(f"sqlite:///{path}")
    plain.migrate()
    plain.close()
    common = {"started_at": 5.0, "method": "POST", "path": "/v1", "stream": 1, "status": 200, "outcome": "success"}
    given = [common | {"key_id": 7, "duration_ms": 9, "input_tokens": 4, "user_agent": "u"} | row for row in OLD_ROWS]
    texts = "request_id started_at method path dialect operation model upstream_model provider key_id client_id stream"
    texts += " status outcome error_code duration_ms first_byte_ms request_bytes response_bytes input_tokens"
    texts += " output_tokens cached_tokens cache_write_tokens reasoning_tokens peer user_agent attempts"
    numbers = {"request_bytes", "response_bytes", "duration_ms"}
    nullable = {"model", "upstream_model", "provider", "key_id", "client_id", "first_byte_ms"}
    columns = ["id INTEGER NOT NULL PRIMARY KEY"]
    for name in texts.split():
        default = "0" if name in numbers else "''"
        free = name in nullable or name.endswith("_tokens")
        columns.append(f"{name}" if free else f"{name} NOT NULL DEFAULT {default}")
    write(
        path,
        "DROP TABLE requests",
        "DROP TABLE request_shapes",
        "DROP TABLE period_stats",
        "DROP TABLE client_stats",
        f"CREATE TABLE requests ({', '.join(columns)})",
        "CREATE INDEX ix_requests_request_id ON requests (request_id)",
        "CREATE INDEX ix_requests_started_at ON requests (started_at)",
        "UPDATE alembic_version SET version_num = '0001'",
    )
    connection = sqlite_library().connect(path, isolation_level=None)
    for row in given:
        names = ", ".join(row)
        connection.execute(f"INSERT INTO requests ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    connection.close()


def test_requests_of_before_keep_what_they_said_when_shapes_move_out_of_them(tmp_path, vault):
    path = tmp_path / "keys.db"
    at_revision_0001(path)

    database = Database(f"sqlite:///{path}")
    database.migrate(vault)

    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(request_log.order_by(requests.c.id)).mappings()]
        shapes = connection.execute(sa.select(request_shapes.c.id, request_shapes.c.seen_at)).all()
    database.close()
    assert [{name: row[name] for name in OLD_ROWS[0]} for row in rows] == OLD_ROWS
    assert {(row["path"], row["status"], row["stream"], row["key_id"], row["input_tokens"]) for row in rows} == {
        ("/v1", 200, True, 7, 4)
    }
    assert shapes == [(1, 5.0), (3, 5.0)]
    other = tmp_path / "new.db"
    Database(f"sqlite:///{other}").migrate(vault)
    assert made(path) == made(other)


def test_the_revision_row_exists_from_the_start(database):
    with database.read() as connection:
        assert connection.execute(sa.select(revision.c.id, revision.c.value)).all() == [(1, 0)]


def test_migrating_again_changes_nothing(database, vault):
    before = contents(database.path)
    database.migrate(vault)
    Database(f"sqlite:///{database.path}").migrate(vault)

    assert contents(database.path) == before
    assert before["alembic_version"] == [(migrations.HEAD,)]


def test_folders_of_the_person_keep_their_permissions(tmp_path, vault):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    database = Database(f"sqlite:///{folder}/keys.db")
    database.migrate(vault)
    database.close()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "keys.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_permissions_do_not_depend_on_the_umask(tmp_path, vault, umask):
    database = Database(f"sqlite:///{tmp_path}/made/keys.db")
    old = os.umask(umask)
    try:
        database.migrate(vault)
    finally:
        os.umask(old)
    database.close()

    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "made" / "keys.db").stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path, vault):
    path = tmp_path / "keys.db"
    path.touch(mode=0o644)
    database = Database(f"sqlite:///{path}")
    database.migrate(vault)
    database.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like one " * 100, b"SQLite format 3\0" * 64]
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, vault, content):
    path = tmp_path / "keys.db"
    path.write_bytes(content)

    error = refused(Database(f"sqlite:///{path}"), vault)

    assert error.variable == "DB_PATH"
    assert str(path) in str(error)
    assert "restore it from a backup" in str(error)
    assert path.read_bytes() == content


def test_a_file_damaged_inside_is_refused(tmp_path, vault):
    path = tmp_path / "keys.db"
    Database(f"sqlite:///{path}").migrate(vault)
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 4000 + content[4100:])

    assert "is damaged" in str(refused(Database(f"sqlite:///{path}"), vault))


def test_a_folder_or_a_place_that_cannot_be_written_is_refused(tmp_path, vault):
    (tmp_path / "file").write_text("")

    assert "is a folder" in str(refused(Database(f"sqlite:///{tmp_path}"), vault))
    assert "cannot be used" in str(refused(Database(f"sqlite:///{tmp_path}/file/keys.db"), vault))


def test_a_newer_database_is_refused_and_left_as_it_is(database, vault):
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    before = contents(database.path)

    error = refused(database, vault)

    assert "newer version" in str(error)
    assert "9999" in str(error)
    assert contents(database.path) == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path, vault):
    path = tmp_path / "notes.db"
    write(path, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")

    assert "tables of another program (notes)" in str(refused(Database(f"sqlite:///{path}"), vault))
    assert contents(path) == {"notes": [("mine",)]}


def test_a_wrong_encryption_key_is_told_at_the_start(database):
    before = contents(database.path)

    error = refused(database, Vault("another key altogether"))

    assert error.variable == "ENCRYPTION_KEY"
    assert "not the one" in str(error)
    assert contents(database.path) == before


def test_a_database_made_without_a_key_takes_the_first_one(tmp_path, vault):
    database = Database(f"sqlite:///{tmp_path}/keys.db")
    database.migrate()
    database.migrate(vault)

    with database.read() as connection:
        assert vault.fits(connection.execute(sa.select(meta.c.value)).scalar_one())
    assert refused(database, Vault(bytes(32)))


def test_threads_that_start_at_once_make_one_database(tmp_path, vault):
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def start() -> None:
        database = Database(f"sqlite:///{tmp_path}/data/keys.db")
        barrier.wait()
        try:
            database.migrate(vault)
        except ConfigError as error:
            failures.append(error)
        database.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert contents(tmp_path / "data" / "keys.db")["revision"] == [(1, 0)]


def test_processes_that_start_at_once_make_one_database(tmp_path):
    program = (
        "import sys; from app.storage.database import Database; from app.vault import Vault; "
        "Database(sys.argv[1]).migrate(Vault(bytes(range(32))))"
    )
    url = f"sqlite:///{tmp_path}/data/keys.db"
    started = [
        subprocess.Popen([sys.executable, "-c", program, url], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=50)
        assert (process.returncode, errors) == (0, b"")

    assert contents(tmp_path / "data" / "keys.db")["alembic_version"] == [(migrations.HEAD,)]


def test_a_locked_database_is_waited_for(tmp_path, vault, monkeypatch):
    monkeypatch.setattr(migrations, "_LOCK_WAIT_S", 0.05)
    path = tmp_path / "keys.db"
    Database(f"sqlite:///{path}").migrate(vault)
    holder = Database(f"sqlite:///{path}").dedicated()
    with holder.begin():
        assert "locked by another program" in str(refused(Database(f"sqlite:///{path}"), vault))
    holder.close()


def test_the_newest_revision_is_the_one_that_workers_look_for() -> None:
    assert migrations.scripts().get_current_head() == migrations.HEAD


def test_the_sums_of_keys_that_were_there_are_carried_over_into_the_rollups(tmp_path, vault):
    path = tmp_path / "keys.db"
    plain = Database(f"sqlite:///{path}")
    plain.migrate()
    plain.close()
    write(
        path,
        "DROP TABLE period_stats",
        "DROP TABLE client_stats",
        "INSERT INTO keys (id, key_value, key_hmac) VALUES (1, 'a', 'a'), (2, 'b', 'b')",
        "INSERT INTO daily_stats (key_id, date, requests, successes, tokens_in) VALUES"
        " (1, '2026-01-01', 3, 2, 5), (2, '2026-01-01', 4, 4, 6), (1, '2026-01-02', 1, 1, 0)",
        "INSERT INTO model_stats (key_id, date, model, requests, tokens_in) VALUES"
        " (1, '2026-01-01', 'm', 2, 5), (2, '2026-01-01', 'm', 4, 6), (1, '2026-01-02', 'n', 1, 0)",
        "UPDATE alembic_version SET version_num = '0002'",
    )

    database = Database(f"sqlite:///{path}")
    database.migrate(vault)
    database.close()

    found = contents(path)
    assert [row[:4] for row in found["period_stats"]] == [("2026-01-01", 7, 6, 11), ("2026-01-02", 1, 1, 0)]
    assert [row[:6] for row in found["client_stats"]] == [
        ("2026-01-01", 0, "m", 6, 6, 11),
        ("2026-01-02", 0, "n", 1, 1, 0),
    ]
