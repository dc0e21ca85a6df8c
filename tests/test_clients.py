"""Client keys: made once, stored as a digest, looked up in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.clients import Client, Clients
from app.clock import Clock
from app.errors import BadRequest, Conflict, NotFound
from app.storage.database import Database
from app.storage.schema import client_grants, clients
from app.storage.writer import Writer
from app.vault import Vault, sha256


class House:
    def __init__(self, path: Path) -> None:
        self.now = 1_000_000.0
        self.database = Database(f"sqlite:///{path}/keys.db")
        self.database.migrate(Vault(bytes(32)))
        self.writer = Writer(self.database)
        self.clients = self.another()

    def another(self) -> Clients:
        store = Clients(self.database, self.writer, Clock(wall=lambda: self.now))
        store.refresh()
        return store


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.writer.close(5.0)
    house.database.close()


def test_a_new_key_is_shown_once_and_only_its_digest_is_stored(house):
    client_id, token = house.clients.create("Laptop")

    with house.database.read() as connection:
        row = connection.execute(sa.select(clients)).mappings().one()
    assert re.fullmatch(r"mw-[A-Za-z0-9_-]{43}", token)
    assert (row["id"], row["key_hash"], row["key_prefix"]) == (client_id, sha256(token), token[:8])
    assert token[3:] not in str(dict(row))
    assert token not in str(house.clients.list())


def test_a_key_is_recognised_with_its_rights(house):
    client_id, token = house.clients.create("Laptop", scopes=["chat"], models=["gpt-*", "claude-*"])

    client = house.clients.authenticate(token)

    assert client == Client(client_id, "Laptop", True, None, ("chat",), ("claude-*", "gpt-*"))
    assert client.may_use("gpt-6")
    assert not client.may_use("gemini-3")


@pytest.mark.parametrize(
    "token", ["", "mw-", "mw-\0", "mw-\n", "x" * 1_000_000, "mw-\ud800", "' OR 1=1 --", "mw-%", "\N{PILE OF POO}"]
)
def test_a_wrong_key_is_unknown(house, token):
    house.clients.create("Laptop")

    assert house.clients.authenticate(token) is None
    assert house.clients.refusal(token) == "unknown"


def test_keys_that_begin_alike_are_strangers(house):
    _, token = house.clients.create("One")
    other = token[:20] + "".join(reversed(token[20:]))

    assert house.clients.authenticate(other) is None
    assert house.clients.authenticate(token[:-1]) is None
    assert house.clients.authenticate(token + "=") is None


def test_an_inactive_and_an_expired_key_are_refused_with_the_reason(house):
    first, first_token = house.clients.create("One")
    _, second_token = house.clients.create("Two", expires_at=house.now + 10)
    assert house.clients.authenticate(second_token) is not None

    house.clients.update(first, {"active": False})
    house.now += 10

    assert house.clients.authenticate(first_token) is None
    assert house.clients.authenticate(second_token) is None
    assert [house.clients.refusal(token) for token in (first_token, second_token)] == ["inactive", "expired"]


def test_a_change_is_partial_and_another_worker_reads_it(house):
    other = house.another()
    client_id, token = house.clients.create("One", models=["a"], scopes=["chat"])
    house.clients.update(client_id, {"name": "Two", "models": ["b", "b"]})
    other.refresh()

    assert other.authenticate(token) == Client(client_id, "Two", True, None, ("chat",), ("b",))


def test_a_deleted_key_is_unknown_and_its_grants_are_gone(house):
    client_id, token = house.clients.create("One", models=["a"])
    assert house.clients.any_exist()
    house.clients.delete(client_id)

    assert not house.clients.any_exist()
    assert house.clients.authenticate(token) is None
    with house.database.read() as connection:
        assert connection.execute(sa.select(client_grants)).all() == []
    with pytest.raises(NotFound):
        house.clients.delete(client_id)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": ""},
        {"name": 5},
        {"active": "yes"},
        {"expires_at": "tomorrow"},
        {"expires_at": float("nan")},
        {"expires_at": True},
        {"models": "gpt-*"},
        {"models": [""]},
        {"scopes": [1]},
        {"is_admin": True},
        {"key_hash": "0"},
        {"id": 7},
    ],
)
def test_wrong_changes_are_refused(house, changes):
    client_id, token = house.clients.create("One")

    with pytest.raises(BadRequest):
        house.clients.update(client_id, changes)
    assert house.clients.authenticate(token).name == "One"


def test_a_change_of_an_unknown_key_is_not_found(house):
    with pytest.raises(NotFound, match="Client key not found"):
        house.clients.update(7, {"name": "x"})
    with pytest.raises(NotFound):
        house.clients.get(7)


def test_the_list_is_newest_first_and_shows_the_last_use_before_it_is_written(house):
    house.clients.create("One")
    _, token = house.clients.create("Two", models=["m"])
    house.clients.authenticate(token)

    first, second = house.clients.list()

    assert (first["name"], first["models"], first["last_used_at"]) == ("Two", ["m"], house.now)
    assert (second["name"], second["last_used_at"]) == ("One", None)


def test_the_last_use_is_written_in_batches(house):
    client_id, token = house.clients.create("One")
    for _ in range(100):
        house.clients.authenticate(token)
    assert house.writer.waiting <= 1
    assert house.writer.flush(5.0)

    with house.database.read() as connection:
        assert connection.execute(sa.select(clients.c.last_used_at)).scalar_one() == house.now
    assert house.another().get(client_id)["last_used_at"] == house.now


def test_a_change_over_somebody_elses_is_told_and_does_nothing(house: House) -> None:
    client_id, _ = house.clients.create("One", models=["gpt-*", "claude-*"])
    seen = house.clients.get(client_id)
    house.clients.update(client_id, {"models": ["gpt-5"]}, {"models": seen["models"]})
    with pytest.raises(Conflict) as told:
        house.clients.update(client_id, {"models": ["o3"], "name": "Two"}, {"models": seen["models"], "name": "One"})
    assert told.value.param == "models"
    row = house.clients.get(client_id)
    assert (row["name"], row["models"]) == ("One", ["gpt-5"])
    house.clients.update(client_id, {"name": "Two"}, {"name": "One"})
    assert house.clients.get(client_id)["name"] == "Two"
