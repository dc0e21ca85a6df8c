from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from app.retention import MAX_EVENTS, SLICE_ROWS, Retention
from app.storage.schema import (
    admin_sessions,
    client_stats,
    daily_stats,
    events,
    login_attempts,
    model_stats,
    period_stats,
    request_shapes,
    requests,
    session_keys,
)
from tests.usage_cases import DAY_S, NOON, Bench, a_record, bench_at


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        bench.add_key(1)
        yield bench


@pytest.fixture
def retention(bench: Bench) -> Retention:
    return Retention(bench.database, bench.writer, bench.settings, clock=bench.clock)


def add_requests(bench: Bench, count: int, at: float = NOON) -> None:
    bench.add_rows(requests, [{"shape_id": 1, "request_id": f"r{number}", "started_at": at} for number in range(count)])


def test_requests_older_than_the_setting_go(bench: Bench, retention: Retention) -> None:
    bench.settings.update({"request_retention_days": 2})
    add_requests(bench, 3, NOON - 2 * DAY_S - 1)
    add_requests(bench, 2, NOON - 2 * DAY_S + 1)

    assert retention.run_once() == 3
    assert len(bench.rows(requests)) == 2


def test_requests_beyond_the_number_in_the_setting_go_the_oldest_first(bench: Bench, retention: Retention) -> None:
    bench.settings.update({"request_retention_rows": 100})
    add_requests(bench, 130)

    assert retention.run_once() == 30
    kept = [row["id"] for row in bench.rows(requests)]
    assert (len(kept), min(kept), max(kept)) == (100, 31, 130)


def test_a_changed_setting_counts_at_the_next_round(bench: Bench, retention: Retention) -> None:
    add_requests(bench, 130)
    assert retention.run_once() == 0

    bench.settings.update({"request_retention_rows": 100})
    assert retention.run_once() == 30


def test_a_shape_goes_when_it_was_last_seen_long_before_the_oldest_request(bench: Bench, retention: Retention) -> None:
    seen = [NOON - 5 * DAY_S, NOON - 3.1 * DAY_S, NOON - 2.9 * DAY_S, NOON]
    bench.add_rows(request_shapes, [{"id": 2**62 + number, "seen_at": at} for number, at in enumerate(seen)])
    add_requests(bench, 1, NOON - DAY_S)

    assert retention.run_once() == 2
    assert [row["seen_at"] for row in bench.rows(request_shapes)] == seen[2:]


def test_shapes_without_any_request_stay_two_days(bench: Bench, retention: Retention) -> None:
    seen = [NOON - 2.1 * DAY_S, NOON - 1.9 * DAY_S]
    bench.add_rows(request_shapes, [{"id": 2**62 + number, "seen_at": at} for number, at in enumerate(seen)])

    retention.run_once()

    assert [row["seen_at"] for row in bench.rows(request_shapes)] == seen[1:]


def test_a_shape_that_is_in_use_is_seen_again_before_it_could_go(bench: Bench, retention: Retention) -> None:
    bench.settings.update({"request_retention_days": 1})
    for _ in range(8):
        bench.record(a_record(started_at=bench.now))
        bench.now += DAY_S / 2
        retention.run_once()

    assert {row["path"] for row in bench.requests()} == {"/v1/chat/completions"}


def test_only_the_newest_thousand_lines_of_the_live_log_stay(bench: Bench, retention: Retention) -> None:
    bench.add_rows(events, [{"at": NOON, "message": f"line {number}"} for number in range(MAX_EVENTS + 5)])

    assert retention.run_once() == 5
    assert bench.rows(events)[0]["message"] == "line 5"


def test_sums_of_days_and_hours_stay_four_hundred_days(bench: Bench, retention: Retention) -> None:
    for date in ("2025-10-15", "2025-10-16", "2025-10-17"):  # 401, 400 and 399 days before
        bench.add_rows(daily_stats, [{"key_id": 1, "date": date}])
        bench.add_rows(model_stats, [{"key_id": 1, "date": date, "model": model} for model in ("a", "b")])
        bench.add_rows(client_stats, [{"client_id": 0, "date": date, "model": "a"}])
        bench.add_rows(period_stats, [{"period": f"{date}{hour}"} for hour in ("", "T00", "T23")])

    retention.run_once()

    assert [row["date"] for row in bench.rows(daily_stats)] == ["2025-10-16", "2025-10-17"]
    assert [row["date"] for row in bench.rows(model_stats)] == ["2025-10-16"] * 2 + ["2025-10-17"] * 2
    assert [row["date"] for row in bench.rows(client_stats)] == ["2025-10-16", "2025-10-17"]
    assert [row["period"][:10] for row in bench.rows(period_stats)] == ["2025-10-16"] * 3 + ["2025-10-17"] * 3


def test_expired_sessions_and_forgotten_logins_go(bench: Bench, retention: Retention) -> None:
    past, future = NOON - 1, NOON + 1
    bench.add_rows(session_keys, [{"hint": name, "key_id": 1, "expires_at": at} for name, at in _two(past, future)])
    sessions = [{"token_hash": name, "created_at": 0, "expires_at": at} for name, at in _two(past, future)]
    bench.add_rows(admin_sessions, sessions)
    bench.add_rows(
        login_attempts,
        [
            {"peer": "old", "last_at": NOON - 2 * DAY_S, "locked_until": past},
            {"peer": "locked", "last_at": NOON - 2 * DAY_S, "locked_until": future},
            {"peer": "new", "last_at": NOON, "locked_until": 0},
        ],
    )

    retention.run_once()

    assert [row["hint"] for row in bench.rows(session_keys)] == ["new"]
    assert [row["token_hash"] for row in bench.rows(admin_sessions)] == ["new"]
    assert {row["peer"] for row in bench.rows(login_attempts)} == {"locked", "new"}


def _two(past: float, future: float) -> list[tuple[str, float]]:
    return [("old", past), ("new", future)]


def test_rows_go_in_slices_of_at_most_a_thousand_in_transactions_of_their_own(
    bench: Bench, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    later = bench.writer.later

    def watched(job: Any) -> None:
        def counting(connection: Connection) -> None:
            before = _count(connection)
            job(connection)
            sizes.append(before - _count(connection))

        counting.settled = job.settled  # type: ignore[attr-defined]
        later(counting)

    monkeypatch.setattr(bench.writer, "later", watched)
    add_requests(bench, 2 * SLICE_ROWS + 500, NOON - 90 * DAY_S)

    assert retention.run_once() == 2500
    assert sizes == [1000, 1000, 500]


def _count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM requests").scalar_one())


def test_a_quiet_round_writes_nothing(bench: Bench, retention: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_job: Any) -> None:
        raise AssertionError("nothing is due")

    monkeypatch.setattr(bench.writer, "later", refuse)
    add_requests(bench, 10)

    assert retention.run_once() == 0


def test_a_round_without_a_database_is_skipped(tmp_path: Path) -> None:
    with bench_at(tmp_path) as bench:
        retention = Retention(bench.database, bench.writer, bench.settings, clock=bench.clock)
        bench.database.close()
        (tmp_path / "usage.db").rename(tmp_path / "elsewhere.db")
        assert retention.run_once() == 0
        (tmp_path / "elsewhere.db").replace(tmp_path / "usage.db")


def test_it_runs_in_a_thread_as_long_as_it_may(bench: Bench) -> None:
    bench.settings.update({"request_retention_rows": 100})
    asked, allowed, refusals = threading.Event(), threading.Event(), threading.Event()

    def may_run() -> bool:
        if allowed.is_set():
            asked.set()
            return True
        refusals.set()
        return False

    add_requests(bench, 101)
    retention = Retention(
        bench.database, bench.writer, bench.settings, clock=bench.clock, may_run=may_run, interval_s=0.01
    )
    retention.start()
    try:
        assert refusals.wait(5)
        assert len(bench.rows(requests)) == 101
        allowed.set()
        assert asked.wait(5)
    finally:
        retention.stop()

    # The round that was under way ended after the slice it was at; one more makes the result certain.
    Retention(bench.database, bench.writer, bench.settings, clock=bench.clock).run_once()
    assert len(bench.rows(requests)) == 100
    assert not any(thread.name == "retention" for thread in threading.enumerate())
