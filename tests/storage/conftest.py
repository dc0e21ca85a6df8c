"""A fresh, migrated database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.database import Database
from app.vault import Vault


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(range(32)), "the test")


@pytest.fixture
def database(tmp_path: Path, vault: Vault) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/data/keys.db")
    database.migrate(vault)
    yield database
    database.close()
