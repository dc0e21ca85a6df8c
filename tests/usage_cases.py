"""
What the tests of usage, retention and the live log share: a real database in a folder of its own, with a writer, and
records to book.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert, select

from app.booking import Booking
from app.clock import Clock
from app.live_log import LiveLog
from app.records import AttemptRecord, RequestRecord
from app.rollup_queries import RollupQueries
from app.settings_store import LiveSettings
from app.storage.database import Database
from app.storage.schema import keys, request_log
from app.storage.writer import Writer
from app.telemetry.metrics import Metrics
from app.usage import UsageStore
from app.usage_queries import UsageQueries

#: 2026-11-20 12:00:00 UTC
NOON = 1795176000.0
DAY_S = 86400.0
SECRET = "sk-live-0123456789abcdef"


class OneSecret:
    """Takes `SECRET` out of text."""

    def text(self, text: str) -> str:
        return text.replace(SECRET, "[redacted]")


@dataclass
class Bench:
    """One worker's stores over one database file. `now` is the wall clock of all of them, in Unix seconds."""

    database: Database
    now: float = NOON
    writer: Writer = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(wall=lambda: self.now)
        self.writer = Writer(self.database, max_delay_s=0.01)
        self.metrics = Metrics()
        self.settings = LiveSettings(self.database, {})
        redactor = OneSecret()
        self.live_log = LiveLog(self.database, self.writer, redactor, self.clock)
        self.usage = UsageStore(
            self.database,
            self.writer,
            redactor,
            self.settings,
            self.metrics,
            live_log=self.live_log,
            clock=self.clock,
        )
        self.queries = UsageQueries(self.database, self.clock)
        self.rollups = RollupQueries(self.database, self.clock)
        self.booking = Booking(self.usage, self.database, self.writer, self.settings, self.metrics, self.clock)

    def record(self, *records: RequestRecord) -> None:
        """Book the records and wait until they are written."""
        for record in records:
            self.usage.record(record)
        self.written()

    def written(self) -> None:
        assert self.writer.flush(10)

    def add_key(self, key_id: int, name: str = "", **values: Any) -> int:
        row = {"id": key_id, "name": name or f"key-{key_id}", "key_value": f"x{key_id}", "key_hmac": f"h{key_id}"}
        self.add_rows(keys, [row | values])
        return key_id

    def add_rows(self, table: Table, rows: list[dict[str, Any]]) -> None:
        with self.database.transaction() as connection:
            connection.execute(insert(table), rows)

    def show(self, record: RequestRecord) -> None:
        """Put the lines of the record into the live log, and nothing else."""
        shapes = self.usage.shapes
        self.live_log.request(record, shapes.of(record), shapes.safe_request_id(record.request_id))

    def requests(self) -> list[dict[str, Any]]:
        """The rows of the requests with what their shapes say; `attempts` as it is stored."""
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(request_log).mappings()]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]


@contextmanager
def bench_at(folder: Path) -> Iterator[Bench]:
    """A bench over `folder`/usage.db, which is made when it does not exist."""
    database = Database(f"sqlite:///{folder / 'usage.db'}")
    database.migrate()
    bench = Bench(database)
    try:
        yield bench
    finally:
        bench.writer.close(10)
        database.close()


def an_attempt(key_id: int | None = 1, **values: Any) -> AttemptRecord:
    """A successful attempt with the key; `values` change it."""
    given = {"number": 1, "provider": "openai", "status": 200, "verdict": "ok", "duration_ms": 100}
    return AttemptRecord(key_id=key_id, **(given | values))


def a_record(key_id: int | None = 1, **values: Any) -> RequestRecord:
    """A generation that key `key_id` answered at noon; `values` change it."""
    given: dict[str, Any] = {
        "request_id": "req-1",
        "started_at": NOON,
        "method": "POST",
        "path": "/v1/chat/completions",
        "dialect": "openai_chat",
        "operation": "generate",
        "model": "gpt-5",
        "provider": "openai",
        "status": 200,
        "outcome": "success",
        "duration_ms": 120,
        "input_tokens": 10,
        "output_tokens": 5,
    }
    given = given | values
    given.setdefault("attempts", [an_attempt(key_id)])
    return RequestRecord(key_id=key_id, **given)
