from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from app.storage.schema import daily_stats, requests
from app.usage_queries import MAX_PAGE, UNUSED, KeyUsage, RequestFilter, kpi
from tests.usage_cases import DAY_S, NOON, Bench, a_record, an_attempt, bench_at


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        bench.add_key(1, "alpha")
        bench.add_key(2, "beta", provider="openai")
        yield bench


def failure(key_id: int = 1, status: int = 429) -> Any:
    return a_record(
        None,
        status=status,
        outcome="upstream_error",
        attempts=[an_attempt(key_id, status=status, verdict="KEY_REST")],
        input_tokens=None,
        output_tokens=None,
    )


@contextmanager
def counted(bench: Bench) -> Iterator[list[str]]:
    """The SELECT statements that are run meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            seen.append(statement)

    with bench.database.read() as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


# -- key figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "successes", "latency_ms", "score"),
    [
        (0, 0, 0, 100),
        (10, 10, 0, 100),
        (10, 10, 25_000, 85),  # 2.5 s each
        (10, 5, 5_000, 59),  # half of them, 1 s each: 35 + 24
        (10, 10, 50_000, 70),  # 5 s and more: no points for speed
        (10, 10, 900_000, 70),
        (10, 0, 0, 30),
        (3, 1, 0, 53),  # 23.33 + 30, rounded down
    ],
)
def test_the_score_weighs_successes_and_latency(total: int, successes: int, latency_ms: int, score: int) -> None:
    assert kpi(total, successes, latency_ms) == score


def test_the_usage_of_all_keys_takes_one_query(bench: Bench) -> None:
    bench.record(a_record(1, started_at=NOON - DAY_S), a_record(1), failure(1), a_record(2))

    with counted(bench) as statements:
        usage = bench.queries.key_usage()

    assert len(statements) == 1
    assert usage[1] == KeyUsage(kpi=64, usage_today=2, total_usage=3)
    assert usage[2] == KeyUsage(kpi=99, usage_today=1, total_usage=1)
    assert usage.get(3, UNUSED).kpi == 100


def test_a_key_used_only_on_other_days_has_the_full_score_today(bench: Bench) -> None:
    bench.record(failure(1))
    bench.now += DAY_S

    assert bench.queries.key_usage()[1] == KeyUsage(kpi=100, usage_today=0, total_usage=1)


# -- statistics --------------------------------------------------------------------------------------


def test_key_statistics_cover_thirty_days_with_a_list_of_days(bench: Bench) -> None:
    bench.record(a_record(1), failure(1), failure(1, 500), a_record(2))
    bench.record(a_record(1, started_at=NOON - 29 * DAY_S, model="gpt-4"))
    bench.record(a_record(1, started_at=NOON - 30 * DAY_S, model="too-old"))

    assert bench.queries.key_stats(1) == {
        "total_requests": 4,
        "successful_requests": 2,
        "failed_requests": 2,
        "total_tokens_in": 20,
        "total_tokens_out": 10,
        "avg_latency": 100.0,
        "model_usage": {"gpt-4": 1, "gpt-5": 1},
        "error_types": {"429": 1, "500": 1},
        "daily_stats": [
            {
                "date": "2026-10-22",
                "total_requests": 1,
                "successes": 1,
                "errors": 0,
                "tokens_in": 10,
                "tokens_out": 5,
                "avg_latency": 100.0,
            },
            {
                "date": "2026-11-20",
                "total_requests": 3,
                "successes": 1,
                "errors": 2,
                "tokens_in": 10,
                "tokens_out": 5,
                "avg_latency": 100.0,
            },
        ],
    }


@pytest.mark.parametrize("key_id", [999, -1, 2**63])
def test_key_statistics_of_no_key_are_all_zero(bench: Bench, key_id: int) -> None:
    stats = bench.queries.key_stats(key_id)

    assert (stats["total_requests"], stats["avg_latency"], stats["daily_stats"]) == (0, 0, [])


def test_global_statistics_have_seven_days_with_the_empty_ones(bench: Bench) -> None:
    bench.record(a_record(1), a_record(1, model="gpt-4"), failure(2), a_record(2))
    bench.record(a_record(2, started_at=NOON - 6 * DAY_S), failure(2))
    bench.record(a_record(2, started_at=NOON - 7 * DAY_S, model="too-old"))

    stats = bench.queries.global_stats({"Healthy": 2, "Resting": 0})

    assert [entry["date"][-2:] for entry in stats["historical"]] == ["14", "15", "16", "17", "18", "19", "20"]
    assert stats["historical"][1] == {
        "date": "2026-11-15",
        "total_requests": 0,
        "total_successes": 0,
        "total_latency": 0,
        "total_tokens_in": 0,
        "total_tokens_out": 0,
    }
    today = stats["historical"][-1]
    assert (today["total_requests"], today["total_successes"], today["total_latency"]) == (5, 3, 300)
    assert (today["total_tokens_in"], today["total_tokens_out"]) == (30, 15)
    assert stats["health_status"] == {"Healthy": 2, "Resting": 0}
    assert stats["error_codes_today"] == {"429": 2}
    assert stats["model_usage_today"] == {"gpt-5": 2, "gpt-4": 1}
    assert stats["request_distribution"] == [
        {"name": "alpha", "usage": {"gpt-4": 1, "gpt-5": 1}},
        {"name": "beta", "usage": {"gpt-5": 2}},
    ]


def test_global_statistics_take_the_same_number_of_queries_for_any_number_of_keys(bench: Bench) -> None:
    with counted(bench) as few:
        bench.queries.global_stats({})
    for key_id in range(3, 40):
        bench.add_key(key_id)
        bench.usage.record(a_record(key_id))
    bench.written()

    with counted(bench) as many:
        stats = bench.queries.global_stats({})

    assert len(many) == len(few) == 2
    assert len(stats["request_distribution"]) == 37


def test_keys_of_the_same_name_stay_apart_in_the_distribution(bench: Bench) -> None:
    bench.add_key(3, "alpha")
    bench.record(a_record(1), a_record(3))

    names = [entry["name"] for entry in bench.queries.global_stats({})["request_distribution"]]
    assert names == ["alpha", "alpha"]


def test_damaged_counts_do_not_break_the_statistics(bench: Bench) -> None:
    damaged = {"error_codes": "{", "model_usage": '{"a": "many", "b": 2, "c": true}'}
    bench.add_rows(daily_stats, [{"key_id": 1, "date": "2026-11-20", "requests": 1} | damaged])

    assert bench.queries.key_stats(1)["model_usage"] == {"b": 2}
    assert bench.queries.global_stats({})["error_codes_today"] == {}


def test_token_totals_are_listed_by_day_key_and_model(bench: Bench) -> None:
    bench.record(a_record(2, cached_tokens=3), a_record(1), a_record(1, started_at=NOON - DAY_S))
    bench.record(a_record(1, started_at=NOON - 40 * DAY_S))

    totals = bench.queries.token_totals()

    assert [(entry["date"], entry["key_id"]) for entry in totals] == [
        ("2026-11-20", 1),
        ("2026-11-20", 2),
        ("2026-11-19", 1),
    ]
    assert totals[1] == {
        "date": "2026-11-20",
        "key_id": 2,
        "key_name": "beta",
        "provider": "openai",
        "model": "gpt-5",
        "requests": 1,
        "tokens_in": 10,
        "tokens_out": 5,
        "cached_tokens": 3,
    }
    assert len(bench.queries.token_totals(key_id=1)) == 2
    assert bench.queries.token_totals(key_id=2**63) == []


# -- the request log ---------------------------------------------------------------------------------


@pytest.fixture
def log(bench: Bench) -> Bench:
    """Requests 1 to 6, oldest first."""
    bench.record(
        a_record(1, request_id="one", started_at=NOON - 500),
        a_record(2, request_id="two", client_id=5, stream=True, provider="gemini", started_at=NOON - 400),
        a_record(1, request_id="three", status=404, outcome="client_error", model="nope", started_at=NOON - 300),
        a_record(1, request_id="four", status=503, outcome="no_keys", started_at=NOON - 200),
        a_record(1, request_id="five_%", path="/v1/100%_sure", upstream_model="gpt-5-mini", started_at=NOON - 100),
        a_record(1, request_id="six", path="/v1/Embeddings", operation="embed"),
    )
    return bench


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (RequestFilter(), [6, 5, 4, 3, 2, 1]),
        (RequestFilter(status_class=2), [6, 5, 2, 1]),
        (RequestFilter(status_class=4), [3]),
        (RequestFilter(status_class=10**30), []),
        (RequestFilter(outcome="no_keys"), [4]),
        (RequestFilter(model="nope"), [3]),
        (RequestFilter(model="gpt-5-mini"), [5]),
        (RequestFilter(provider="gemini"), [2]),
        (RequestFilter(key_id=2), [2]),
        (RequestFilter(key_id=2**63), []),
        (RequestFilter(client_id=5), [2]),
        (RequestFilter(client_id=-1), []),
        (RequestFilter(stream=True), [2]),
        (RequestFilter(stream=False, status_class=2), [6, 5, 1]),
        (RequestFilter(since=NOON - 200), [6, 5, 4]),
        (RequestFilter(until=NOON - 300), [2, 1]),
        (RequestFilter(text="embed"), [6]),
        (RequestFilter(text="thre"), [3]),
        (RequestFilter(text="%"), [5]),
        (RequestFilter(text="_"), [5]),
        (RequestFilter(text="100%_s"), [5]),
        (RequestFilter(text="\\"), []),
        (RequestFilter(text="'; DROP TABLE requests; --"), []),
        (RequestFilter(outcome="' OR 1=1 --"), []),
        (RequestFilter(text="\ud800"), []),
        (RequestFilter(text="", outcome="", model="", provider=""), [6, 5, 4, 3, 2, 1]),
        (RequestFilter(before_id=3), [2, 1]),
        (RequestFilter(before_id=-7), []),
        (RequestFilter(before_id=2**80), [6, 5, 4, 3, 2, 1]),
    ],
)
def test_the_request_log_can_be_filtered(log: Bench, wanted: RequestFilter, found: list[int]) -> None:
    assert [row["id"] for row in log.queries.list_requests(wanted)["requests"]] == found


def test_the_request_log_comes_in_pages(log: Bench) -> None:
    first = log.queries.list_requests(RequestFilter(limit=4))
    second = log.queries.list_requests(RequestFilter(limit=4, before_id=first["next_before_id"]))

    assert [row["id"] for row in first["requests"]] == [6, 5, 4, 3]
    assert [row["id"] for row in second["requests"]] == [2, 1]
    assert (first["next_before_id"], second["next_before_id"]) == (3, None)


@pytest.mark.parametrize(("limit", "rows"), [(0, 1), (-5, 1), (10**9, MAX_PAGE), (MAX_PAGE, MAX_PAGE)])
def test_a_page_has_at_least_one_row_and_at_most_500(bench: Bench, limit: int, rows: int) -> None:
    bench.add_rows(requests, [{"shape_id": 1, "request_id": f"r{n}", "started_at": NOON} for n in range(MAX_PAGE + 10)])

    assert len(bench.queries.list_requests(RequestFilter(limit=limit))["requests"]) == rows


def test_a_listed_request_tells_everything_as_json(log: Bench) -> None:
    row = log.queries.list_requests(RequestFilter(key_id=2))["requests"][0]

    assert row["attempts"][0]["verdict"] == "ok"
    assert (row["started"], row["stream"]) == ("2026-11-20T11:53:20.000Z", True)
    assert json.loads(json.dumps(row)) == row


def test_one_request_is_found_by_its_row_or_its_request_id(log: Bench) -> None:
    by_row, by_id = log.queries.get_request("3"), log.queries.get_request("three")

    assert by_row is not None
    assert by_row == by_id
    assert by_row["attempts"][0]["number"] == 1


def test_a_request_id_that_is_a_number_does_not_hide_the_row_of_that_number(log: Bench) -> None:
    log.record(a_record(request_id="2", path="/disguised"), a_record(request_id="99"))

    by_row, by_id = log.queries.get_request("2"), log.queries.get_request("99")
    assert by_row is not None
    assert by_row["request_id"] == "two"
    assert by_id is not None
    assert by_id["request_id"] == "99"


@pytest.mark.parametrize("identity", ["", "missing", "9" * 19, "9" * 500, "-1", "²", "\ud800", "1 OR 1=1"])
def test_an_unknown_request_is_none(log: Bench, identity: str) -> None:
    assert log.queries.get_request(identity) is None


def test_damaged_attempts_are_shown_as_none(bench: Bench) -> None:
    rows = [{"shape_id": 1, "request_id": "a", "started_at": NOON, "attempts": text} for text in ("{", '{"a": 1}')]
    bench.add_rows(requests, rows)

    assert [row["attempts"] for row in bench.queries.list_requests()["requests"]] == [[], []]


def test_one_attempt_that_was_ok_is_not_stored_and_shown_all_the_same(bench: Bench) -> None:
    attempt = an_attempt(2, provider="gemini", status=201, duration_ms=77)
    bench.record(a_record(2, provider="gemini", status=201, duration_ms=77, attempts=[attempt]))

    assert [row["attempts"] for row in bench.requests()] == [""]
    [shown] = bench.queries.list_requests()["requests"]
    assert shown["attempts"] == [asdict(attempt)]


@pytest.mark.parametrize(
    "different",
    [
        {"number": 2},
        {"provider": "another"},
        {"status": 200},
        {"verdict": "CLIENT"},
        {"reason": "why"},
        {"message": "what"},
        {"wait_ms": 1},
        {"duration_ms": 75},
        {"key_id": 1},
    ],
)
def test_an_attempt_that_differs_from_its_request_is_stored(bench: Bench, different: dict[str, Any]) -> None:
    given = {"key_id": 2, "provider": "gemini", "status": 201, "duration_ms": 77}
    attempt = an_attempt(**(given | different))
    bench.record(a_record(2, provider="gemini", status=201, duration_ms=77, attempts=[attempt]))

    assert bench.requests()[0]["attempts"] != ""
    assert bench.queries.list_requests()["requests"][0]["attempts"] == [asdict(attempt)]


def test_a_row_whose_shape_is_missing_is_shown_with_what_it_has(bench: Bench) -> None:
    bench.add_rows(requests, [{"shape_id": 1, "request_id": "a", "started_at": NOON, "duration_ms": 5}])

    [shown] = bench.queries.list_requests()["requests"]
    assert (shown["request_id"], shown["duration_ms"]) == ("a", 5)
    assert (shown["path"], shown["status"], shown["stream"], shown["model"]) == ("", 0, False, None)
