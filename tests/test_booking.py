"""Booking by the batch leaves what booking one by one leaves, to the letter."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.booking import FLUSH_EVERY_S, MOST_YIELD_S, entry_of, is_bookable
from app.records import RequestRecord
from app.shapes import MAX_INT64
from app.storage.row_link import RowLink
from app.storage.schema import client_stats, daily_stats, events, model_stats, period_stats, request_shapes
from app.telemetry.logs import JsonFormatter
from app.usage_queries import RequestFilter
from tests.usage_cases import DAY_S, NOON, SECRET, Bench, a_record, an_attempt, bench_at

KEYS = 5


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with a_bench(tmp_path, "one") as bench:
        yield bench


@contextmanager
def a_bench(folder: Path, name: str) -> Iterator[Bench]:
    (folder / name).mkdir()
    with bench_at(folder / name) as bench:
        for key_id in range(1, KEYS + 1):
            bench.add_key(key_id)
        yield bench


@contextmanager
def access_lines_of(level: int = logging.INFO) -> Iterator[list[str]]:
    """What our formatter makes of the records that are logged meanwhile, all at noon."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.created = NOON
            lines.extend(self.format(record).split("\n"))

    handler = Keep()
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("access", "attempt")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield lines
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old)


def success(**values: Any) -> RequestRecord:
    """A record that can be booked by the batch."""
    given: dict[str, Any] = {"key_id": 1, "duration_ms": 125, "provider": "openai", "status": 200} | values
    attempt = an_attempt(
        given["key_id"], duration_ms=given["duration_ms"], provider=given["provider"] or "", status=given["status"]
    )
    return a_record(**given, attempts=[attempt])


def many(count: int, seed: int = 7) -> list[RequestRecord]:
    """Successes of all kinds. Durations are binary fractions of a second, so that no sum depends on the order."""
    draw = random.Random(seed)
    kinds: list[dict[str, Any]] = [
        {},
        {"model": "fast", "upstream_model": "gpt-5-mini", "client_id": 4, "peer": "10.0.0.7"},
        {"operation": "embed", "path": "/v1/embeddings?x=1", "output_tokens": None, "status": 201},
        {"dialect": "gemini", "provider": "gemini", "model": None, "path": "/v1beta/models/é:generateContent"},
        {"operation": "count", "input_tokens": None, "output_tokens": None},
        {"stream": True, "user_agent": f"agent {SECRET}"},
        {"dialect": "anthropic_messages", "operation": "generate", "stream": True, "model": f"m-{SECRET}-\ud800"},
        {"operation": "models", "key_id": None, "method": "GET", "provider": "demo", "input_tokens": None},
        {"error_code": "odd", "user_agent": "x" * 600, "path": "/v1/" + "p" * 2500},
    ]
    found = []
    for number in range(count):
        duration_ms = 125 * draw.choice([0, 1, 1, 2, 4, 8, 80, 1000, 5000])
        numbers = {
            "request_id": f"{number:032x}" if number % 5 else f"mine/{number}:é",
            "started_at": NOON + draw.random() * 10 + (DAY_S / 2 - 5) * (number % 7 == 0),
            "key_id": draw.randrange(1, KEYS + 1),
            "duration_ms": duration_ms,
            "first_byte_ms": draw.choice([None, duration_ms, duration_ms // 250 * 125]),
            "request_bytes": draw.randrange(10**6),
            "response_bytes": draw.randrange(10**6),
            "input_tokens": draw.choice([None, 0, 17, 2**31]),
            "output_tokens": draw.choice([None, 0, 300]),
            "cached_tokens": draw.choice([None, 12]),
            "cache_write_tokens": draw.choice([None, 3]),
            "reasoning_tokens": draw.choice([None, 9]),
        }
        found.append(success(**(numbers | draw.choice(kinds))))
    assert all(is_bookable(record) for record in found)
    return found


def book(bench: Bench, records: list[RequestRecord], batch: int) -> None:
    booking = bench.booking
    for number, record in enumerate(records, 1):
        entry = entry_of(record, booking.shape(record), booking.safe_request_id(record.request_id))
        booking.entries.append(entry)
        if number % batch == 0:
            booking.flush()
    booking.flush()
    bench.written()


def left_by(bench: Bench) -> dict[str, Any]:
    """All that is remembered."""
    page = bench.queries.list_requests(RequestFilter(limit=500))
    assert page["next_before_id"] is None
    return {
        "requests": page["requests"],
        "stored attempts": {row["attempts"] for row in bench.requests()},
        "shapes": sorted(bench.rows(request_shapes), key=lambda row: row["id"]),
        "days": {(row["key_id"], row["date"]): a_day(row) for row in bench.rows(daily_stats)},
        "models": sorted(bench.rows(model_stats), key=lambda row: (row["key_id"], row["date"], row["model"])),
        "periods": [a_period(row) for row in sorted(bench.rows(period_stats), key=lambda row: row["period"])],
        "clients": sorted(bench.rows(client_stats), key=lambda row: (row["date"], row["client_id"], row["model"])),
        "events": [row | {"id": None} for row in bench.rows(events)[-20:]],
        "metrics": counted(bench),
    }


def counted(bench: Bench) -> list[str]:
    """The metrics, without what the writer's own queue was at that moment."""
    return sorted(line for line in bench.metrics.render()[0].decode().splitlines() if "writer_queue" not in line)


def a_day(row: dict[str, Any]) -> dict[str, Any]:
    """Without the id, which tells which key was written first."""
    counts = {name: json.loads(row[name]) for name in ("model_usage", "error_codes")}
    return row | counts | {"id": None}


def a_period(row: dict[str, Any]) -> dict[str, Any]:
    """With its objects read: the order of their names tells nothing."""
    return {name: json.loads(value) if value[:1] == "{" else value for name, value in texts_of(row).items()}


def texts_of(row: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items()}


# -- the same, both ways -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 128])
@pytest.mark.parametrize("process", [True, False], ids=["row writer", "thread"])
def test_a_batch_leaves_exactly_what_its_requests_leave_one_by_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], process: bool, batch: int
) -> None:
    records = many(300)
    with a_bench(tmp_path, "single") as single, access_lines_of() as lines:
        single.record(*records)
        expected, expected_lines = left_by(single), list(lines)
    assert len(expected["requests"]) == len(expected_lines) == 300
    capfd.readouterr()

    with a_bench(tmp_path, "batch") as batched, access_lines_of() as lines:
        if process:
            batched.booking.start()
        book(batched, records, batch)
        found = left_by(batched)
        told = [line for line in capfd.readouterr().err.splitlines() if '"logger":"access"' in line]
        shown = told if process else list(lines)

    assert found == expected
    assert shown == expected_lines
    assert SECRET not in f"{found} {shown}"


def test_sums_of_seconds_agree_but_for_the_last_bit(tmp_path: Path) -> None:
    draw = random.Random(3)
    records = [
        success(stream=True, duration_ms=duration_ms, first_byte_ms=draw.randrange(duration_ms + 1))
        for duration_ms in (int(draw.lognormvariate(6, 2)) for _ in range(500))
    ]
    records += [success(duration_ms=edge) for edge in (0, 1, 4, 5, 6, 24, 25, 26, 600_000, 600_001, 2**31 - 1)]
    with a_bench(tmp_path, "single") as single, a_bench(tmp_path, "batch") as batched:
        single.record(*records)
        book(batched, records, 64)
        expected, found = (dict(line.rsplit(" ", 1) for line in counted(each)) for each in (single, batched))

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "_sum" in name:
            assert float(found[name]) == pytest.approx(float(value), rel=1e-12)
        else:
            assert found[name] == value


@pytest.mark.parametrize(
    "odd",
    [
        {"input_tokens": 2**64},
        {"output_tokens": -1},
        {"cached_tokens": MAX_INT64},
        {"response_bytes": 2**33},
        {"duration_ms": 2**31},
        {"request_id": ""},
        {"request_id": "r" * 129},
    ],
)
def test_an_entry_that_a_batch_cannot_hold_is_booked_by_itself(tmp_path: Path, odd: dict[str, Any]) -> None:
    records = [success(), success(**odd), success(key_id=2)]
    with a_bench(tmp_path, "single") as single, a_bench(tmp_path, "batch") as batched:
        single.record(*records)
        batched.booking.start()
        booking = batched.booking
        booking.entries += [entry_of(record, booking.shape(record), record.request_id) for record in records]
        booking.flush()
        batched.written()
        expected, found = left_by(single), left_by(batched)

    for name in ("shapes", "days", "models", "periods", "clients", "metrics"):
        assert found[name] == expected[name]
    ids = [sorted(str({**row, "id": None}) for row in left["requests"]) for left in (found, expected)]
    assert ids[0] == ids[1]


def test_with_debug_each_attempt_has_its_line(bench: Bench) -> None:
    with access_lines_of(logging.DEBUG) as lines:
        bench.record(success(request_id="a"))
        single = [line for line in lines if '"logger":"attempt"' in line]
        lines.clear()
        book(bench, [success(request_id="a")], 1)
        batched = [line for line in lines if '"logger":"attempt"' in line]

    assert len(single) == 1
    assert batched == single


def test_without_request_logging_only_the_statistics_and_the_metrics_stay(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.settings.update({"enable_request_logging": False})
    bench.booking.start()

    with access_lines_of() as lines:
        book(bench, many(40), 16)

    assert (bench.requests(), bench.rows(events), lines) == ([], [], [])
    assert "access" not in capfd.readouterr().err
    assert sum(row["requests"] for row in bench.rows(daily_stats)) > 30
    assert bench.metrics.as_json()["requestsTotal"] == 40


def test_without_metrics_collection_nothing_is_counted_but_the_rows_stay(bench: Bench) -> None:
    bench.settings.update({"enable_metrics_collection": False})

    book(bench, many(40), 16)

    assert bench.metrics.as_json()["requestsTotal"] == 0
    assert len(bench.requests()) == 40


def test_above_info_there_are_no_access_lines(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.booking.start()
    with access_lines_of(logging.WARNING) as lines:
        book(bench, many(10), 16)

    assert lines == []
    assert "access" not in capfd.readouterr().err
    assert len(bench.requests()) == 10


# -- which way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"outcome": "upstream_cut"},
        {"outcome": ""},
        {"request_excerpt": "{"},
        {"response_excerpt": "{"},
        {"attempts": []},
        {"attempts": [an_attempt(1), an_attempt(1, number=2)]},
        {"attempts": [an_attempt(1, duration_ms=123)]},
        {"attempts": [an_attempt(1, duration_ms=125, verdict="CLIENT")]},
        {"attempts": [an_attempt(2, duration_ms=125)]},
    ],
)
def test_what_does_not_fit_into_an_entry_is_booked_by_itself(bench: Bench, values: dict[str, Any]) -> None:
    bench.booking.start()
    record = a_record(**({"duration_ms": 125, "attempts": [an_attempt(1, duration_ms=125)]} | values))
    assert not is_bookable(record)

    bench.booking.record(record)

    assert bench.booking.entries == []
    bench.written()
    assert len(bench.requests()) == 1


def test_a_plain_success_waits_for_the_flush_once_somebody_flushes(bench: Bench) -> None:
    bench.booking.record(success(request_id="before"))
    assert bench.booking.entries == []

    bench.booking.start()
    bench.booking.record(success(request_id="after"))
    assert len(bench.booking.entries) == 1
    bench.booking.flush()

    assert bench.booking.entries == []
    bench.written()
    assert [row["request_id"] for row in bench.requests()] == ["before", "after"]


def test_entries_that_nobody_flushes_do_not_pile_up(bench: Bench) -> None:
    bench.booking.start()
    for number in range(5000):
        bench.booking.record(success(request_id=f"r{number}"))

    assert len(bench.booking.entries) < 5000


def test_a_flush_waits_only_while_rows_are_about_to_be_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    crowding = 0.0
    monkeypatch.setattr(RowLink, "crowding", property(lambda _: crowding))
    bench.booking.start()

    def quickest_flush_s() -> float:
        took = []
        for _ in range(10):
            bench.booking.record(success())
            began = time.monotonic()
            bench.booking.flush()
            took.append(time.monotonic() - began)
        return min(took)

    assert quickest_flush_s() < MOST_YIELD_S
    crowding = 0.5
    assert quickest_flush_s() >= MOST_YIELD_S * 0.5
    crowding = 1.0
    assert quickest_flush_s() >= MOST_YIELD_S


def test_the_list_of_entries_stays_the_same_object(bench: Bench) -> None:
    entries = bench.booking.entries
    book(bench, [success()], 1)

    assert bench.booking.entries is entries
    assert 0 < FLUSH_EVERY_S <= 0.05


def test_a_flush_of_nothing_leaves_nothing(bench: Bench) -> None:
    bench.booking.flush()
    bench.written()

    assert (bench.requests(), bench.rows(daily_stats), bench.rows(events)) == ([], [], [])


# -- shapes ------------------------------------------------------------------------------------------


def test_a_shape_is_made_once_and_anew_when_the_secrets_have_changed(bench: Bench) -> None:
    shape, epoch = bench.booking.shape(success(request_id="a")), bench.booking.epoch
    assert bench.booking.shape(success(request_id="b", key_id=2, duration_ms=3)) is shape

    bench.usage.shapes.forget()

    assert bench.booking.epoch > epoch
    assert bench.booking.shape(success()) is not shape
    assert bench.booking.shape(success()).id == shape.id


def test_any_number_of_shapes_takes_a_bounded_memory(bench: Bench) -> None:
    for number in range(10_000):
        bench.booking.shape(success(user_agent=f"agent {number}"))

    assert len(bench.usage.shapes._known) <= 2000


@pytest.mark.parametrize(
    "different",
    [
        {"method": "PUT"},
        {"path": "/v1/other"},
        {"dialect": "gemini"},
        {"operation": "embed"},
        {"model": None},
        {"upstream_model": ""},
        {"provider": None},
        {"client_id": 0},
        {"stream": True},
        {"status": 201},
        {"outcome": "client_gone"},
        {"error_code": "x"},
        {"peer": "::1"},
        {"user_agent": "u"},
    ],
)
def test_shapes_that_differ_in_anything_have_different_ids(bench: Bench, different: dict[str, Any]) -> None:
    one, other = (bench.booking.shape(a_record(**values)) for values in ({}, different))

    assert one.id != other.id
    assert 2**62 <= min(one.id, other.id) <= max(one.id, other.id) <= MAX_INT64


def test_a_request_id_of_a_caller_is_redacted_before_it_is_cut(bench: Bench) -> None:
    given = "r" * 120 + SECRET

    safe = bench.booking.safe_request_id(given)

    assert safe == "r" * 120 + "[redacte"
    assert re.fullmatch("r+", bench.booking.safe_request_id("r" * 200)[:128])


# -- requests on their way ---------------------------------------------------------------------------


def gauges(bench: Bench) -> dict[str, float]:
    lines = bench.metrics.render()[0].decode().splitlines()
    names = ("middleware_in_flight", "middleware_streams_in_flight", "chat_completions_active_requests")
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.split()[0] in names}


def test_the_gauges_show_what_the_loop_has_under_way_beside_the_others(bench: Bench) -> None:
    other = bench.metrics.begin()
    running = bench.booking.running
    running.requests, running.streams, running.chats = 5, 3, 2
    assert list(gauges(bench).values()) == [6, 3, 2]

    running.requests, running.streams, running.chats = 1, 0, 0
    other.end()
    assert list(gauges(bench).values()) == [1, 0, 0]


def test_the_gauges_stand_at_zero_while_metrics_are_off(tmp_path: Path) -> None:
    from app.telemetry.metrics import Metrics

    on = True
    metrics = Metrics(enabled=lambda: on)
    metrics.running.requests = 4
    metrics.show_running()
    on = False
    assert b"middleware_in_flight 0.0" in metrics.render()[0]
