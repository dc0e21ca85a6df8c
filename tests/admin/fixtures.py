"""An administration without a password, and one with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.build import PASSWORD, Middleware


@pytest.fixture
def middleware(tmp_path: Path) -> Iterator[Middleware]:
    """No password is set: everything is open."""
    with Middleware(tmp_path) as running:
        yield running


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Middleware]:
    """`PASSWORD` is set."""
    with Middleware(tmp_path, password=PASSWORD) as running:
        yield running
