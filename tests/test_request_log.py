from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import request_log
from app.clock import Clock
from app.errors import BadRequest
from app.request_log import FAILED, MAX_KEYS, Page, RequestFilter, RequestLog
from tests.usage_cases import NOON, Bench, a_record, an_attempt, bench_at


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        bench.add_key(1, "alpha")
        bench.add_key(2, "beta 100%")
        yield bench


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is searched two ids at a time, so that a few rows are many."""
    monkeypatch.setattr(request_log, "_FIRST_WINDOW", 2)
    monkeypatch.setattr(request_log, "_LARGEST_WINDOW", 2)


def failover(number: int) -> Any:
    """Key 1 was limited, key 2 answered."""
    attempts = [
        an_attempt(1, status=429, verdict="KEY_REST", reason="rate_limited"),
        an_attempt(2, number=2, wait_ms=20),
    ]
    return a_record(2, request_id=f"failover-{number}", attempts=attempts)


def numbered(count: int, **values: Any) -> list[Any]:
    return [a_record(1, request_id=f"r{number}", started_at=NOON + number, **values) for number in range(1, count + 1)]


def ids(page: Page) -> list[int]:
    return [row["id"] for row in page.rows]


def found(bench: Bench, **wanted: Any) -> list[str]:
    """The request ids, in the order of the list."""
    return [row["request_id"] for row in bench.queries.log.page(RequestFilter(**wanted)).rows]


# -- what is found -----------------------------------------------------------------------------------


def test_a_verdict_finds_the_requests_with_such_an_attempt(bench: Bench) -> None:
    dead = a_record(None, request_id="dead", status=401, attempts=[an_attempt(1, status=401, verdict="KEY_DEAD")])
    bench.record(*numbered(3), failover(1), dead, a_record(None, request_id="refused", status=401, attempts=[]))
    assert found(bench, verdict="KEY_REST") == ["failover-1"]
    assert found(bench, verdict="KEY_DEAD") == ["dead"]
    assert found(bench, verdict=FAILED) == ["dead", "failover-1"]
    assert found(bench, verdict="EGRESS") == []


def test_a_message_that_looks_like_a_verdict_is_none(bench: Bench) -> None:
    told = an_attempt(1, status=400, verdict="CLIENT", message='{"verdict":"KEY_DEAD","key_id":2,}')
    bench.record(a_record(1, request_id="told", status=400, attempts=[told]))
    assert found(bench, verdict="KEY_DEAD") == []
    assert found(bench, key_id=2) == []


def test_a_key_finds_also_the_requests_that_it_failed(bench: Bench) -> None:
    bench.record(failover(1), a_record(2, request_id="plain"))
    assert found(bench, key_id=1) == ["failover-1"]
    assert found(bench, key_id=2) == ["plain", "failover-1"]
    assert found(bench, key="alph") == ["failover-1"]
    assert found(bench, key="1") == ["failover-1"]
    assert found(bench, key="100%") == ["plain", "failover-1"]
    assert found(bench, key="%") == ["plain", "failover-1"]
    assert found(bench, key="nobody") == []
    assert found(bench, key="12345") == []


def test_a_name_that_too_many_keys_have_is_refused(bench: Bench) -> None:
    for number in range(MAX_KEYS + 1):
        bench.add_key(100 + number, f"many {number}")
    with pytest.raises(BadRequest, match="be more exact"):
        found(bench, key="many")


def test_statuses_are_found_exactly_or_by_class(bench: Bench) -> None:
    bench.record(*(a_record(None, request_id=str(status), status=status, attempts=[]) for status in (200, 401, 429)))
    assert found(bench, status=429) == ["429"]
    assert found(bench, status_class=4) == ["429", "401"]
    assert found(bench, dialect="gemini") == []
    assert found(bench, dialect="openai_chat", status=200) == ["200"]


@pytest.mark.parametrize("few", [200, 1])
def test_many_shapes_are_found_as_few_are(bench: Bench, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(request_log, "_FEW_SHAPES", few)
    bench.record(*(a_record(1, request_id=f"r{n}", model=f"m{n}", path=f"/v1/p{n}") for n in range(3)))
    assert found(bench, provider="openai") == ["r2", "r1", "r0"]
    assert found(bench, provider="openai", model="m1") == ["r1"]
    assert found(bench, text="/V1/P") == ["r2", "r1", "r0"]


def test_times_are_found_also_where_requests_ended_in_another_order(bench: Bench) -> None:
    """A long request is written after younger ones."""
    bench.record(
        a_record(1, request_id="first", started_at=NOON),
        a_record(1, request_id="third", started_at=NOON + 7200),
        a_record(1, request_id="second, long", started_at=NOON + 10, duration_ms=7_300_000),
    )
    assert found(bench, since=NOON + 5, until=NOON + 20) == ["second, long"]
    assert found(bench, until=NOON + 20) == ["second, long", "first"]
    assert found(bench, since=NOON + 5) == ["second, long", "third"]
    assert found(bench, since=NOON + 9000) == []


# -- pages -------------------------------------------------------------------------------------------


def test_pages_follow_each_other_down_and_up(bench: Bench, small_windows: None) -> None:
    bench.record(*numbered(7, model="m"))
    log = bench.queries.log
    for wanted in ({}, {"model": "m"}):
        first = log.page(RequestFilter(limit=3, **wanted))  # type: ignore[arg-type]
        second = log.page(RequestFilter(limit=3, before_id=first.next_before_id, **wanted))  # type: ignore[arg-type]
        third = log.page(RequestFilter(limit=3, before_id=second.next_before_id, **wanted))  # type: ignore[arg-type]
        assert [ids(page) for page in (first, second, third)] == [[7, 6, 5], [4, 3, 2], [1]]
        assert third.next_before_id is None
        up = log.page(RequestFilter(limit=3, after_id=1, **wanted))  # type: ignore[arg-type]
        assert ids(up) == [4, 3, 2]
        assert ids(log.page(RequestFilter(limit=3, after_id=4, **wanted))) == [7, 6, 5]  # type: ignore[arg-type]
        assert ids(log.page(RequestFilter(limit=3, after_id=7, **wanted))) == []  # type: ignore[arg-type]


def test_a_search_ends_when_its_time_is_up_and_can_go_on(bench: Bench, small_windows: None) -> None:
    bench.record(a_record(1, request_id="rare", model="rare"), *numbered(9, model="m"), failover(1))
    # Each look at the clock takes a second.
    seconds = iter(range(1000))
    log = RequestLog(bench.database, Clock(monotonic=lambda: float(next(seconds))))
    page = log.page(RequestFilter(model="rare"), search_s=1.5)
    assert (page.rows, page.next_before_id) == ([], 8)
    assert page.searched_to == NOON + 7
    rounds = 1
    while not page.rows:
        assert page.next_before_id is not None
        page = log.page(RequestFilter(model="rare", before_id=page.next_before_id), search_s=1.5)
        rounds += 1
    assert [row["request_id"] for row in page.rows] == ["rare"]
    assert rounds == 3
    assert page.next_before_id is None


def test_all_rows_are_read_page_by_page_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MAX_PAGE", 2)
    bench.record(*numbered(7))
    log = bench.queries.log
    assert [row["id"] for row in log.rows(RequestFilter(), 100)] == [7, 6, 5, 4, 3, 2, 1]
    assert [row["id"] for row in log.rows(RequestFilter(), 3)] == [7, 6, 5]


def test_new_rows_are_counted_up_to_a_bound(bench: Bench) -> None:
    log = bench.queries.log
    assert (log.newest_id(), log.count_new(RequestFilter(), 0, 10)) == (0, 0)
    bench.record(*numbered(4), failover(1))
    assert log.newest_id() == 5
    assert log.count_new(RequestFilter(), 2, 10) == 3
    assert log.count_new(RequestFilter(), 2, 2) == 2
    assert log.count_new(RequestFilter(verdict=FAILED), 2, 10) == 1
    assert log.count_new(RequestFilter(model="nobody"), 2, 10) == 0
    assert log.count_new(RequestFilter(), 5, 10) == 0


def test_an_empty_log_has_an_empty_page(bench: Bench) -> None:
    assert bench.queries.log.page(RequestFilter(model="m", since=1.0, until=2.0)) == Page([])


# -- names -------------------------------------------------------------------------------------------


def test_names_of_keys_are_those_of_all_attempts(bench: Bench) -> None:
    bench.record(failover(1), a_record(77, request_id="deleted"), a_record(None, request_id="none", attempts=[]))
    rows = bench.queries.log.page(RequestFilter()).rows
    assert bench.queries.log.names(rows) == ({1: "alpha", 2: "beta 100%"}, {})
    assert bench.queries.log.names([]) == ({}, {})


def test_choices_are_what_the_shapes_have(bench: Bench) -> None:
    bench.record(a_record(1, model="b"), a_record(1, model="a"), a_record(1, model=None))
    assert bench.queries.log.choices("model") == ["a", "b"]
