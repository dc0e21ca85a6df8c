"""The same code on PostgreSQL; runs where TEST_POSTGRES_URL names a database in which schemas may be made."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import SQLAlchemyError

from app.clock import Clock
from app.config import Config
from app.errors import ConfigError, Conflict
from app.keys.manager import KeyManager
from app.price_store import PriceList
from app.settings_store import LiveSettings
from app.shared import SharedTable
from app.storage import revision
from app.storage.database import Database, is_trouble
from app.storage.revision import RevisionPoller
from app.storage.schema import clients, events, keys, metadata, request_log, request_shapes, requests
from app.storage.writer import Writer
from app.vault import Vault
from tests.usage_cases import Bench, a_record, an_attempt

from .test_revision import eventually

pytestmark = pytest.mark.skipif("TEST_POSTGRES_URL" not in os.environ, reason="TEST_POSTGRES_URL is not set")


@pytest.fixture
def url() -> Iterator[str]:
    """A schema of its own for each test."""
    plain = Config.from_env({"DATABASE_URL": os.environ["TEST_POSTGRES_URL"]}).database_url
    owner = Database(plain)
    name = f"test_{secrets.token_hex(8)}"
    with owner.transaction() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield f"{plain}{'&' if '?' in plain else '?'}options=-csearch_path%3D{name}"
    with owner.transaction() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    owner.close()


@pytest.fixture
def database(url: str, vault: Vault) -> Iterator[Database]:
    database = Database(url)
    database.migrate(vault)
    yield database
    database.close()


def test_the_migrations_make_exactly_the_tables_of_the_schema(database):
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing_and_a_wrong_key_is_told(database, vault):
    database.migrate(vault)
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY"):
        database.migrate(Vault(bytes(32)))
    assert database.usable()


def test_several_starting_at_once_make_one_database(database, url, vault):
    with database.transaction() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
    failures: list[Exception] = []

    def start() -> None:
        other = Database(url)
        try:
            other.migrate(vault)
        except ConfigError as error:
            failures.append(error)
        other.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert database.usable()


def test_tables_of_another_program_are_not_taken_over(database, url, vault):
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    with pytest.raises(ConfigError, match="another program"):
        database.migrate(vault)


def test_a_server_that_does_not_answer_is_named_without_the_password(vault):
    with pytest.raises(ConfigError) as caught:
        Database("postgresql+psycopg://u:hunter2@127.0.0.1:1/d").migrate(vault)
    assert caught.value.variable == "DATABASE_URL"
    assert "hunter2" not in str(caught.value)


def test_reading_cannot_write(database):
    with database.read() as connection, pytest.raises(SQLAlchemyError):
        revision.bump(connection)
    with database.transaction() as connection:
        revision.bump(connection)


def test_settings_writer_and_revision_work_together(database):
    live = LiveSettings(database, {})
    other = LiveSettings(database, {})
    poller = RevisionPoller(database, interval_s=0.02)
    poller.subscribe(other.refresh)
    poller.start()
    live.update({"max_retries": 5, "enable_cors": True})
    assert eventually(lambda: other.current.max_retries == 5)
    poller.stop()

    writer = Writer(database)
    writer.urgent(lambda c: c.execute(sa.insert(keys).values(key_value="x", key_hmac="h")) and None)
    writer.urgent(lambda c: c.execute(sa.insert(keys).values(key_value="x", key_hmac="h")) and None)
    for number in range(300):
        writer.add_row(events, {"at": 1.5, "message": f"100% {number}"})
    writer.add_row(clients, {"name": "a", "key_hash": "h", "key_prefix": "p", "active": False})
    assert writer.flush(10)
    assert writer.dropped == 1
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(events)) == 300
        assert connection.scalar(sa.select(sa.func.count()).select_from(keys)) == 1
        assert connection.scalar(sa.select(clients.c.active)) is False
    assert writer.close(5)


def test_the_writer_survives_a_lost_connection(database):
    writer = Writer(database, max_delay_s=0.01)
    processes: list[int] = []
    writer.urgent(lambda connection: processes.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()))
    assert writer.flush(5)
    with database.transaction() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(%s)", (processes[0],))
    writer.add_row(events, {"at": 2.0, "message": "after"})
    assert writer.flush(10)
    assert writer.dropped == 0
    assert writer.close(5)


def test_trouble_and_mistakes_are_told_apart(database):
    with pytest.raises(SQLAlchemyError) as caught, database.transaction() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert not is_trouble(caught.value)
    with pytest.raises(SQLAlchemyError) as caught, Database("postgresql+psycopg://u@127.0.0.1:1/d").read():
        pass
    assert is_trouble(caught.value)


def test_requests_of_before_keep_what_they_said_when_shapes_move_out_of_them(url, vault):
    database = Database(url)
    database.migrate(vault)
    shared = [column.name for column in request_shapes.c if column.name not in ("id", "seen_at")]
    with database.transaction() as connection:
        for table in ("request_shapes", "period_stats", "client_stats"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.exec_driver_sql("ALTER TABLE requests DROP COLUMN shape_id")
        for name in shared:
            kind = {"stream": "boolean", "status": "integer", "client_id": "bigint"}.get(name, "text")
            connection.exec_driver_sql(f"ALTER TABLE requests ADD COLUMN {name} {kind}")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        row = "INSERT INTO requests (request_id, started_at, model, status, attempts, method, path, dialect, operation,"
        row += " stream, outcome, error_code, peer, user_agent) VALUES (%s, 5, %s, 200, '[]', '', '/v1', '', '', true,"
        row += " 'success', '', '', '')"
        connection.exec_driver_sql(row, [("a", "m"), ("b", "m"), ("c", None)])

    database.migrate(vault)

    with database.transaction() as connection:
        connection.execute(sa.insert(requests).values(shape_id=1, request_id="d", started_at=6))
        rows = connection.execute(request_log.order_by(requests.c.id)).all()
        ids = connection.scalars(sa.select(request_shapes.c.id).order_by(request_shapes.c.id)).all()
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()
    assert [(row.request_id, row.model, row.path, row.status, row.stream) for row in rows] == [
        (name, None if name == "c" else "m", "/v1", 200, True) for name in "abcd"
    ]
    assert ids == [1, 3]


def test_successes_that_are_booked_by_the_batch_are_written_by_the_thread(database):
    bench = Bench(database)
    bench.add_key(1)
    bench.booking.start()
    for number in range(300):
        bench.booking.record(a_record(request_id=f"r{number}", attempts=[an_attempt(1, duration_ms=120)]))
    assert len(bench.booking.entries) == 300
    bench.booking.flush()
    bench.record(a_record(request_id="last"))
    bench.writer.close(10)

    found = bench.queries.list_requests()["requests"]
    assert [row["request_id"] for row in reversed(found)] == [*(f"r{number}" for number in range(201, 300)), "last"]
    assert {row["path"] for row in found} == {"/v1/chat/completions"}
    assert bench.queries.key_stats(1)["total_requests"] == 301
    assert [hour["requests"] for hour in bench.rollups.hours(2)] == [0, 301]
    assert bench.rollups.client_usage(1, PriceList({}))[0]["successes"] == 301
    [busiest], others = bench.rollups.busiest_keys(7, 10)
    assert bench.rollups.total(7)["statuses"] == {"200": 301}
    assert bench.rollups.client_days(0, 7, PriceList({}))["totals"]["requests"] == 301
    assert (busiest["models"], others) == ({"gpt-5": 301}, 0)


def test_of_many_who_change_the_same_at_once_one_wins_and_the_others_are_told(url, database, vault, tmp_path):
    workers = [Database(url) for _ in range(4)]
    writers = [Writer(one) for one in workers]
    lives = [LiveSettings(one, {}) for one in workers]
    shared = SharedTable(tmp_path / "shared")
    managers = [
        KeyManager(one, writer, vault, live, shared, Clock())
        for one, writer, live in zip(workers, writers, lives, strict=True)
    ]
    key_id = managers[0].add("sk-raced-0123456789", name="before")
    retries = lives[0].current.max_retries
    for change in (
        lambda number: managers[number].update(key_id, {"name": f"mine {number}"}, {"name": "before"}),
        lambda number: lives[number].update({"max_retries": 10 + number}, expected={"max_retries": retries}),
    ):
        assert sorted(raced(change, len(workers))) == ["told"] * (len(workers) - 1) + ["won"]
    for writer, one in zip(writers, workers, strict=True):
        assert writer.close(5)
        one.close()
    shared.close()


def raced(change: Callable[[int], object], count: int) -> list[str]:
    """What came of `change`, made by so many threads at the same moment."""
    outcomes: list[str] = []
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        ready.wait(5)
        try:
            change(number)
            outcomes.append("won")
        except Conflict:
            outcomes.append("told")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes
