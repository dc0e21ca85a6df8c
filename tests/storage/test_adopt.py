"""A file of the older application opens with all its data kept, or stays exactly as it was."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import ConfigError
from app.settings_store import LiveSettings
from app.storage import adopt
from app.storage.database import Database
from app.storage.schema import daily_stats, keys, settings
from app.vault import Vault

from .test_migrations import ROOT, contents, write

KEYS = """CREATE TABLE keys (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT DEFAULT 'Unnamed',
    key_value TEXT UNIQUE NOT NULL, status TEXT DEFAULT 'Healthy', disabled_until TIMESTAMP, note TEXT,
    last_rotated_at TEXT DEFAULT '1970-01-01T00:00:00Z', priority INTEGER DEFAULT 1)"""
DAILY_STATS = """CREATE TABLE daily_stats (id INTEGER PRIMARY KEY AUTOINCREMENT, key_id INTEGER, date TEXT,
    requests INTEGER DEFAULT 0, successes INTEGER DEFAULT 0, errors INTEGER DEFAULT 0, tokens_in INTEGER DEFAULT 0,
    tokens_out INTEGER DEFAULT 0, total_latency_ms INTEGER DEFAULT 0, error_codes TEXT DEFAULT '{}',
    model_usage TEXT DEFAULT '{}', UNIQUE(key_id, date), FOREIGN KEY (key_id) REFERENCES keys(id) ON DELETE CASCADE)"""
SETTINGS = "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT, created_at TEXT, updated_at TEXT)"
FILLED = (
    KEYS,
    DAILY_STATS,
    SETTINGS,
    "CREATE INDEX ix_keys_provider ON keys(status)",
    """INSERT INTO keys VALUES
        (3, 'first', 'AIza-first-key', 'Healthy', NULL, NULL, '2025-06-01T10:00:00Z', 2),
        (5, 'resting', 'AIza-resting-key', 'Resting', '2099-01-01T00:00:00', 'a note', '2025-06-01T12:00:00+02:00', 1),
        (9, NULL, 'AIza-disabled-key', 'Disabled', '2099-01-01T00:00:00', '', NULL, NULL)""",
    """INSERT INTO daily_stats VALUES
        (1, 3, '2025-06-01', 10, 8, 2, 100, 200, 5000, '{"429": 2}', '{"gemini-2.5-pro": 10}'),
        (2, 3, '2025-06-02', 5, 5, 0, 1, 2, 50, '{}', 'not json'),
        (3, 9, '2025-06-01', 1, 0, 1, NULL, NULL, NULL, NULL, NULL)""",
    """INSERT INTO settings VALUES ('max_retries', '9', '2025-01-01T00:00:00Z', '2025-02-01T00:00:00Z'),
        ('enable_cors', 'True', NULL, NULL), ('failover_strategy', 'priority', NULL, NULL),
        ('streaming_enabled', 'true', NULL, NULL), ('request_timeout', '2', NULL, NULL)""",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


def opened(path: Path, vault: Vault) -> Database:
    database = Database(f"sqlite:///{path}")
    database.migrate(vault)
    return database


def all_keys(database: Database) -> dict[int, sa.Row[tuple[object, ...]]]:
    with database.read() as connection:
        return {row.id: row for row in connection.execute(sa.select(keys))}


def days(database: Database) -> list[dict[str, object]]:
    with database.read() as connection:
        statement = sa.select(daily_stats).order_by(daily_stats.c.key_id, daily_stats.c.date)
        return [dict(row) for row in connection.execute(statement).mappings()]


def copies(path: Path) -> list[Path]:
    return [entry for entry in path.parent.iterdir() if entry.suffix == ".old"]


def test_keys_are_kept_and_encrypted(path, vault):
    write(path, *FILLED)
    database = opened(path, vault)

    found = all_keys(database)
    assert sorted(found) == [3, 5, 9]
    assert [vault.decrypt(found[number].key_value) for number in (3, 5, 9)] == [
        "AIza-first-key",
        "AIza-resting-key",
        "AIza-disabled-key",
    ]
    assert found[3].key_hmac == vault.hmac("AIza-first-key")
    assert found[3].key_hint == "AIza...-key"
    assert {row.provider for row in found.values()} == {"gemini"}
    assert [(row.name, row.note, row.priority) for row in found.values()] == [
        ("first", "", 2),
        ("resting", "a note", 1),
        ("Unnamed", "", 1),
    ]
    assert [row.status for row in found.values()] == ["Healthy", "Resting", "Disabled"]
    assert [row.disabled_until for row in found.values()] == [None, 4070908800.0, None]
    assert [row.last_rotated_at for row in found.values()] == [1748772000.0, 1748772000.0, 0.0]
    assert [row.total_requests for row in found.values()] == [15, 0, 1]


def test_statistics_are_kept(path, vault):
    write(path, *FILLED)

    first, second, third = days(opened(path, vault))
    assert (first["key_id"], first["date"], first["requests"], first["tokens_out"]) == (3, "2025-06-01", 10, 200)
    assert json.loads(str(first["error_codes"])) == {"429": 2}
    assert json.loads(str(first["model_usage"])) == {"gemini-2.5-pro": 10}
    assert (second["successes"], second["model_usage"]) == (5, "{}")
    assert (third["key_id"], third["errors"], third["tokens_in"], third["error_codes"]) == (9, 1, 0, "{}")


def test_settings_that_still_mean_something_are_kept_and_the_others_are_counted(path, vault, caplog):
    write(path, *FILLED)
    with caplog.at_level(logging.WARNING, "app.storage"):
        database = opened(path, vault)

    with database.read() as connection:
        stored = {row.key: row for row in connection.execute(sa.select(settings))}
    # enable_cors holds what the old application stored by itself, and so gives way to today's default.
    assert sorted(stored) == ["failover_strategy", "max_retries"]
    assert stored["max_retries"].created_at == 1735689600.0
    assert stored["max_retries"].updated_at == 1738368000.0
    live = LiveSettings(database, {}).current
    assert (live.max_retries, live.enable_cors, live.failover_strategy) == (9, False, "priority")
    assert "2 settings that do not exist any more or are out of range" in caplog.text


def test_deleting_an_adopted_key_takes_its_statistics_with_it(path, vault):
    write(path, *FILLED)
    database = opened(path, vault)
    with database.transaction() as connection:
        connection.execute(sa.delete(keys).where(keys.c.id == 3))

    assert [day["key_id"] for day in days(database)] == [9]


def test_a_copy_is_kept_beside_the_file_and_the_file_holds_no_plain_key(path, vault):
    write(path, *FILLED)
    before = contents(path)
    database = opened(path, vault)
    database.close()

    (copy,) = copies(path)
    assert contents(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    for entry in path.parent.iterdir():
        if entry != copy:
            assert b"AIza-first-key" not in entry.read_bytes()


def test_opening_an_adopted_file_again_changes_nothing(path, vault):
    write(path, *FILLED)
    opened(path, vault).close()
    before = contents(path)
    opened(path, vault).close()

    assert contents(path) == before
    assert len(copies(path)) == 1


def test_no_table_of_the_older_application_is_left(path, vault):
    write(path, *FILLED)
    opened(path, vault).close()

    assert not [name for name in contents(path) if name.endswith("_before_adoption")]


def test_a_file_in_wal_mode_with_an_unfinished_checkpoint_is_adopted_whole(path, vault):
    write(path, "PRAGMA journal_mode=WAL", *FILLED)

    assert sorted(all_keys(opened(path, vault))) == [3, 5, 9]


def test_missing_columns_get_their_defaults_and_unknown_ones_are_left_out(path, vault):
    write(
        path,
        "CREATE TABLE keys (id INTEGER PRIMARY KEY, key_value TEXT UNIQUE NOT NULL, favourite_colour TEXT)",
        "INSERT INTO keys VALUES (1, 'AIza-only-value', 'green')",
        "CREATE TABLE daily_stats (key_id INTEGER, date TEXT, requests INTEGER)",
        "INSERT INTO daily_stats VALUES (1, '2025-06-01', 4)",
    )
    database = opened(path, vault)

    row = all_keys(database)[1]
    assert (row.name, row.status, row.priority, row.note, row.last_rotated_at) == ("Unnamed", "Healthy", 1, "", 0.0)
    assert (row.total_requests, row.group, row.models) == (4, "", "[]")
    assert days(database)[0]["successes"] == 0


def test_a_key_that_occurs_twice_becomes_one_with_the_statistics_of_both(path, vault):
    write(
        path,
        "CREATE TABLE keys (id INTEGER PRIMARY KEY, name TEXT, key_value TEXT, status TEXT, note TEXT)",
        """INSERT INTO keys VALUES (1, NULL, 'AIza-same', 'Healthy', 'one'),
            (2, 'named', 'AIza-same ', 'Disabled', 'two'),
            (3, 'other', 'AIza-other', 'Healthy', NULL)""",
        DAILY_STATS.replace(", UNIQUE(key_id, date)", ""),
        """INSERT INTO daily_stats (key_id, date, requests, error_codes, model_usage) VALUES
            (1, '2025-06-01', 3, '{"429": 1}', '{"a": 3}'), (2, '2025-06-01', 4, '{"429": 2, "500": 1}', '{"b": 4}'),
            (2, '2025-06-02', 5, '{}', '{}'), (3, '2025-06-01', 6, '{}', '{}')""",
    )
    database = opened(path, vault)

    found = all_keys(database)
    assert sorted(found) == [1, 3]
    assert (found[1].name, found[1].status, found[1].note) == ("named", "Disabled", "one\ntwo")
    assert (found[1].total_requests, found[3].total_requests) == (12, 6)
    first = days(database)[0]
    assert (first["key_id"], first["requests"]) == (1, 7)
    assert json.loads(str(first["error_codes"])) == {"429": 3, "500": 1}
    assert json.loads(str(first["model_usage"])) == {"a": 3, "b": 4}


def test_what_cannot_be_kept_is_counted_and_harms_nothing_else(path, vault, caplog):
    write(
        path,
        "CREATE TABLE keys (id INTEGER PRIMARY KEY, key_value TEXT, status TEXT, disabled_until TEXT, priority TEXT)",
        """INSERT INTO keys VALUES (1, '', 'Healthy', NULL, 1), (2, NULL, NULL, NULL, 1),
            (3, 'AIza-odd-state', 'Asleep', NULL, 'high'), (4, x'41497A612D626C6F62', 'resting', 'soon', '2'),
            (5, 'AIza-number', 'Resting', 4070908800, 1e300)""",
        "CREATE TABLE daily_stats (key_id INTEGER, date TEXT, requests INTEGER, error_codes TEXT)",
        """INSERT INTO daily_stats VALUES (77, '2025-06-01', 1, '{}'), (3, 'yesterday', 1, '{}'),
            (3, '2025-06-01', 'many', '[1]'), (4, '2025-06-01T00:00', '12', '{"429": "3", "500": -1, "502": null}')""",
    )
    with caplog.at_level(logging.WARNING, "app.storage"):
        database = opened(path, vault)

    found = all_keys(database)
    assert [(row.status, row.disabled_until, row.priority) for row in found.values()] == [
        ("Disabled", None, 1),
        ("Healthy", None, 2),
        ("Resting", 4070908800.0, 1),
    ]
    assert vault.decrypt(str(found[4].key_value)) == "AIza-blob"
    assert [(day["key_id"], day["requests"], day["error_codes"]) for day in days(database)] == [
        (3, 0, "{}"),
        (4, 12, '{"429": 3}'),
    ]
    assert "2 keys without a value" in caplog.text
    assert "2 days of statistics" in caplog.text


def test_other_tables_of_the_file_stay(path, vault):
    write(
        path,
        *FILLED,
        "CREATE TABLE mcp_servers (id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO mcp_servers VALUES (1, 'files')",
        "CREATE TABLE key_notes (key_id INTEGER REFERENCES keys(id) ON DELETE CASCADE, text TEXT)",
        "INSERT INTO key_notes VALUES (3, 'kept')",
        "CREATE TABLE requests (anything TEXT)",
        "INSERT INTO requests VALUES ('kept too')",
    )
    database = opened(path, vault)
    database.close()

    found = contents(path)
    assert found["mcp_servers"] == [(1, "files")]
    assert found["key_notes"] == [(3, "kept")]
    assert found["requests_before_adoption"] == [("kept too",)]
    assert found["requests"] == []


def test_settings_alone_are_adopted(path, vault):
    write(path, SETTINGS, "INSERT INTO settings (key, value) VALUES ('max_retries', '3')")

    assert LiveSettings(opened(path, vault), {}).current.max_retries == 3


def test_an_adoption_that_fails_leaves_the_file_as_it_was(path, vault, monkeypatch):
    write(path, *FILLED)
    before = contents(path)

    def broken(*_: object) -> None:
        raise RuntimeError("the power went")

    monkeypatch.setattr(adopt, "_copy_settings", broken)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(RuntimeError):
        database.migrate(vault)
    database.close()
    assert contents(path) == before
    assert copies(path) == []

    monkeypatch.undo()
    assert sorted(all_keys(opened(path, vault))) == [3, 5, 9]


def test_an_adoption_that_is_killed_leaves_the_file_as_it_was(path, vault):
    write(path, *FILLED)
    before = contents(path)
    program = (
        "import os, sys; from app.storage import adopt; from app.storage.database import Database; "
        "from app.vault import Vault; adopt._copy_settings = lambda *_: os.kill(os.getpid(), 9); "
        "Database(sys.argv[1]).migrate(Vault(bytes(range(32))))"
    )
    killed = subprocess.run([sys.executable, "-c", program, f"sqlite:///{path}"], cwd=ROOT, check=False, timeout=50)

    assert killed.returncode == -9
    assert contents(path) == before
    assert sorted(all_keys(opened(path, vault))) == [3, 5, 9]


def test_plain_keys_are_not_adopted_without_an_encryption_key(path):
    write(path, *FILLED)
    before = contents(path)
    database = Database(f"sqlite:///{path}")

    with pytest.raises(ConfigError, match="encryption key"):
        database.migrate()
    database.close()
    assert contents(path) == before


def test_several_processes_adopt_a_file_once(path, vault):
    write(path, *FILLED)
    program = (
        "import sys; from app.storage.database import Database; from app.vault import Vault; "
        "Database(sys.argv[1]).migrate(Vault(bytes(range(32))))"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{path}"]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]

    assert [process.wait(50) for process in started] == [0, 0, 0]
    assert sorted(all_keys(opened(path, vault))) == [3, 5, 9]
    assert len(copies(path)) == 1


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("2025-01-01T00:00:00Z", 1735689600.0),
        ("2025-01-01 00:00:00", 1735689600.0),
        ("2025-01-01T01:00:00.5+01:00", 1735689600.5),
        ("2025-01-01", 1735689600.0),
        (1735689600, 1735689600.0),
        ("1735689600.25", 1735689600.25),
        ("1970-01-01T00:00:00Z", 0.0),
        ("0001-01-01T00:00:00", 0.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("nan", None),
        ("1e400", None),
    ],
)
def test_instants_of_every_kind_become_unix_seconds(raw, seconds):
    assert adopt.unix_seconds(raw) == seconds
