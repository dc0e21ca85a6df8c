"""A start with a setting that cannot work: it names the variable, leaves with status 2, and shows no secret."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest

from tests.attacks.server import Server, environment, run_main
from tests.fake_provider import closed_port

BAD: tuple[tuple[str, str], ...] = (
    ("PORT", "eighty"),
    ("PORT", "70000"),
    ("HOST", "300.1.1.1"),
    ("HOST", "a host"),
    ("CLIENT_AUTH", "sometimes"),
    ("WEB_CONCURRENCY", "0"),
    ("THREADS", "-1"),
    ("TRUSTED_PROXIES", "all"),
    ("FLASK_ENV", "debug"),
    ("LOG_LEVEL", "loud"),
    ("MAX_REQUEST_SIZE", "unlimited"),
    ("MAX_RETRIES", "1e999999"),
    ("OPENAI_BASE_URL", "api.openai.com"),
    ("GEMINI_BASE_URL", "http://user:hunter2secret@evil.example"),
    ("ANTHROPIC_BASE_URL", "file:///etc/passwd"),
    ("OPENAI_API_KEYS", "sk-\u00fcmlaut-0123456789"),
    ("ENCRYPTION_KEY", "short"),
    ("MIDDLEWARE_PASSWORD", "admin123"),
    ("DATABASE_URL", "mysql://root:hunter2secret@localhost/x"),
    ("DATABASE_URL", "sqlite://"),
    ("MIDDLEWARE_PASSWORD_FILE", "/nonexistent/password"),
)


def assert_gives_up(folder: Path, variable: str, **environ: str) -> str:
    ended = run_main(folder, environment(folder, **environ))
    said = ended.stderr + ended.stdout
    assert ended.returncode == 2, said
    assert variable in said
    assert "Traceback" not in said
    assert "hunter2secret" not in said
    return said


@pytest.mark.parametrize(("variable", "value"), BAD, ids=[f"{name}={value[:20]}" for name, value in BAD])
def test_a_bad_value_is_named_and_ends_the_start(tmp_path: Path, variable: str, value: str) -> None:
    assert_gives_up(tmp_path, variable, **{variable: value})
    assert not (tmp_path / "keys.db").exists()


def test_a_server_for_other_machines_does_not_start_without_a_password(tmp_path: Path) -> None:
    assert "HOST=0.0.0.0" in assert_gives_up(tmp_path, "MIDDLEWARE_PASSWORD", HOST="0.0.0.0")


def test_two_names_with_two_values_are_no_choice(tmp_path: Path) -> None:
    assert_gives_up(tmp_path, "ADMIN_PASSWORD", MIDDLEWARE_PASSWORD="one password", ADMIN_PASSWORD="hunter2secret")


def test_a_setting_from_a_dotenv_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_RETRIES=many\n")
    assert_gives_up(tmp_path, "MAX_RETRIES")


@pytest.mark.parametrize("kind", ["folder", "no folder", "garbage", "text"])
def test_a_database_file_that_is_none_is_named_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "no folder":
        (tmp_path / "file").write_text("x")
        path = tmp_path / "file" / "other.db"
    else:
        path.write_bytes(b"\x00\xff" * 5000 if kind == "garbage" else b"not a database, but a text\n" * 500)
    before = path.read_bytes() if path.is_file() else b""
    assert_gives_up(tmp_path, "DB_PATH", DB_PATH=str(path))
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_folder_for_running_processes_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert_gives_up(tmp_path, "RUN_DIR", RUN_DIR=str(tmp_path / "file" / "run"))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_named(tmp_path: Path, host: str) -> None:
    assert_gives_up(tmp_path, "HOST", HOST=host, MIDDLEWARE_PASSWORD="correct horse")
    assert not (tmp_path / "keys.db").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in assert_gives_up(tmp_path, "PORT", PORT=str(taken.getsockname()[1]))


def test_s32_a_database_of_a_later_version_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
        connection.execute("CREATE TABLE keys (id INTEGER PRIMARY KEY, key_value TEXT)")
        connection.execute("INSERT INTO keys VALUES (1, 'precious')")
    connection.close()
    assert_gives_up(tmp_path, "DB_PATH")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM keys").fetchall() == [(1, "precious")]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


def test_another_encryption_key_is_noticed_at_the_start(tmp_path: Path) -> None:
    with Server(tmp_path, OPENAI_API_KEYS="sk-0123456789abcdefghij"):
        pass
    before = (tmp_path / "keys.db").read_bytes()
    assert_gives_up(tmp_path, "ENCRYPTION_KEY", ENCRYPTION_KEY="another passphrase that fits nothing")
    assert (tmp_path / "keys.db").read_bytes() == before


def test_a_database_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    address = closed_port().removeprefix("http://")
    assert_gives_up(tmp_path, "DATABASE_URL", DATABASE_URL=f"postgresql://u:hunter2secret@{address}/x")


def test_a_key_file_that_is_damaged_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "encryption.key").write_text("damaged")
    assert_gives_up(tmp_path, "ENCRYPTION_KEY", ENCRYPTION_KEY="")
    assert (tmp_path / "encryption.key").read_text() == "damaged"
