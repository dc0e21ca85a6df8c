"""Workers with a database of their own, as the stores meet them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.clock import Clock
from app.keys.base import KeyWanted, Lease
from app.keys.manager import KeyManager
from app.settings_store import LiveSettings
from app.shared import SharedTable
from app.storage.database import Database
from app.storage.revision import RevisionPoller
from app.storage.writer import Writer
from app.vault import Vault

TWO_DAYS_S = 172_800.0


class Time:
    """Both clocks, moved by hand. It starts at noon UTC."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = 20_000 * 86400.0 + 43_200.0

    def pass_s(self, seconds: float) -> float:
        self.monotonic += seconds
        self.wall += seconds
        return self.monotonic

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.monotonic, lambda: self.wall)


class Worker:
    """One process's share of the house: manager, writer, settings, and a poller when it is started."""

    def __init__(self, folder: Path, clock: Clock, key: bytes = bytes(32)) -> None:
        self.database = Database(f"sqlite:///{folder}/keys.db")
        vault = Vault(key)
        self.database.migrate()
        self.writer = Writer(self.database)
        self.settings = LiveSettings(self.database, {})
        self.keys = KeyManager(self.database, self.writer, vault, self.settings, SharedTable(folder / "shared"), clock)
        self.poller = RevisionPoller(self.database)
        self.poller.subscribe(self.settings.refresh)
        self.poller.subscribe(self.keys.refresh)
        self.keys.refresh()

    def start(self) -> None:
        self.keys.start()
        self.poller.start()

    def written(self) -> None:
        assert self.writer.flush(10.0)

    def stop(self) -> None:
        self.poller.stop()
        self.keys.stop()
        self.writer.close(10.0)
        self.database.close()


@pytest.fixture
def moment() -> Time:
    return Time()


@pytest.fixture
def new_worker(tmp_path: Path, moment: Time) -> Iterator[Callable[..., Worker]]:
    """Makes workers on one database; `Clock()` for real time."""
    workers: list[Worker] = []

    def make(clock: Clock | None = None, key: bytes = bytes(32)) -> Worker:
        workers.append(Worker(tmp_path, clock or moment.clock, key))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


@pytest.fixture
def worker(new_worker: Callable[..., Worker]) -> Worker:
    return new_worker()


def wanted(provider: str = "gemini", model: str | None = "m", **more: object) -> KeyWanted:
    return KeyWanted((provider,), {provider: model}, **more)  # type: ignore[arg-type]


def take(worker: Worker, moment: Time, **more: object) -> Lease:
    return worker.keys.acquire(wanted(**more), moment.monotonic)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> float:
    """Poll until the condition holds; returns the seconds that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, "it did not happen in time"
        time.sleep(0.002)
    return time.monotonic() - start
