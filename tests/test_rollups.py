"""The sums of all requests, and what is read from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from app.booking import entry_of
from app.price_store import PriceList
from app.records import RequestRecord
from app.storage.schema import client_stats, keys, period_stats
from tests.usage_cases import DAY_S, NOON, Bench, a_record, an_attempt, bench_at

FREE = PriceList({})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        for key_id in (1, 2, 3):
            bench.add_key(key_id)
        yield bench


def refused(**values: Any) -> RequestRecord:
    """A request that never came to a provider."""
    given: dict[str, Any] = {"status": 429, "outcome": "resting", "error_code": "all_keys_resting", "attempts": []}
    return a_record(None, **(given | {"input_tokens": None, "output_tokens": None} | values))


def this_hour(bench: Bench) -> dict[str, Any]:
    return bench.rollups.hours(1)[0]


# -- by the hour -------------------------------------------------------------------------------------


def test_every_request_counts_once_whatever_became_of_it(bench: Bench) -> None:
    limited = an_attempt(2, status=429, verdict="KEY_REST")
    bench.record(
        a_record(),
        a_record(attempts=[limited, an_attempt(1, number=2)]),
        a_record(status=400, outcome="client_error", attempts=[an_attempt(1, status=400, verdict="CLIENT")]),
        a_record(status=404),
        a_record(status=499, outcome="client_gone", attempts=[an_attempt(1, status=0, verdict="client_gone")]),
        a_record(status=502, outcome="upstream_error", attempts=[an_attempt(1, status=0, verdict="PROVIDER")]),
        refused(),
        refused(status=0, outcome=""),
    )

    hour = this_hour(bench)
    assert (hour["requests"], hour["successes"], hour["errors"]) == (8, 2, 6)
    assert hour["outcomes"] == {
        "success": 3,
        "client_error": 1,
        "client_gone": 1,
        "none": 1,
        "resting": 1,
        "upstream_error": 1,
    }
    assert hour["statuses"] == {"200": 2, "0": 1, "400": 1, "404": 1, "429": 1, "499": 1, "502": 1}
    assert hour["verdicts"] == {"ok": 3, "CLIENT": 1, "KEY_REST": 1, "PROVIDER": 1, "client_gone": 1}
    assert hour["error_codes"] == {"429": 1, "599": 1}


def test_latencies_are_those_of_successes_and_first_tokens_those_of_streams(bench: Bench) -> None:
    bench.record(
        *(a_record(duration_ms=number) for number in range(1, 11)),
        a_record(duration_ms=14, stream=True, first_byte_ms=3),
        a_record(duration_ms=15, stream=True, first_byte_ms=None),
        a_record(duration_ms=1, first_byte_ms=1),
        a_record(duration_ms=60_000, status=504, outcome="upstream_error"),
    )

    hour = this_hour(bench)
    assert (hour["latency_p50"], hour["latency_p95"]) == (6, 15)
    assert (hour["first_token_p50"], hour["first_token_p95"]) == (3, 3)


def test_an_hour_begins_with_its_first_second_in_utc_also_within_a_batch(bench: Bench) -> None:
    booking = bench.booking
    starts = [NOON - 0.5, NOON, NOON + 3599.5, NOON + 3600, NOON + DAY_S / 2 - 1, NOON + DAY_S / 2]
    for at in starts:
        record = a_record(started_at=at)
        booking.entries.append(entry_of(record, booking.shape(record), "r"))
    booking.flush()
    bench.written()

    assert {row["period"]: row["requests"] for row in bench.rows(period_stats)} == {
        "2026-11-20": 5,
        "2026-11-20T11": 1,
        "2026-11-20T12": 2,
        "2026-11-20T13": 1,
        "2026-11-20T23": 1,
        "2026-11-21": 1,
        "2026-11-21T00": 1,
    }


def test_hours_without_a_request_are_shown_empty(bench: Bench) -> None:
    bench.record(a_record(started_at=NOON - 2 * 3600))

    hours = bench.rollups.hours(3)

    assert [(hour["at"], hour["requests"]) for hour in hours] == [(NOON - 7200, 1), (NOON - 3600, 0), (NOON, 0)]
    assert hours[2]["latency_p50"] is None


def test_hours_add_up_to_days(bench: Bench) -> None:
    bench.record(a_record(duration_ms=2), a_record(started_at=NOON - 3600, duration_ms=4))
    bench.record(a_record(started_at=NOON - DAY_S, duration_ms=9))

    total, days = bench.rollups.total(3), bench.rollups.days(3)

    assert [(day["date"], day["requests"]) for day in days] == [("2026-11-18", 0), ("2026-11-19", 1), ("2026-11-20", 2)]
    assert (total["requests"], total["latency_p50"], total["statuses"]) == (3, 4, {"200": 3})


def test_damaged_counts_are_left_out(bench: Bench) -> None:
    bench.add_rows(
        period_stats, [{"period": "2026-11-20T12", "requests": 1, "statuses": "nonsense", "verdicts": "[1]"}]
    )

    bench.record(a_record())

    hour = this_hour(bench)
    assert (hour["requests"], hour["statuses"], hour["verdicts"]) == (2, {"200": 1}, {"ok": 1})


# -- by client and model -----------------------------------------------------------------------------


def test_what_a_client_used_counts_with_its_failures_and_without_a_key_it_is_client_0(bench: Bench) -> None:
    bench.record(
        a_record(client_id=7, cached_tokens=4),
        a_record(client_id=7, model="m2"),
        refused(client_id=7),
        a_record(),
    )

    usage = bench.rollups.client_usage(1, FREE)

    assert set(usage) == {0, 7}
    assert usage[7] == {
        "requests": 3,
        "successes": 2,
        "errors": 1,
        "tokens_in": 20,
        "tokens_out": 10,
        "cached_tokens": 4,
        "cost": None,
        "unpriced": ["gpt-5", "m2"],
    }


def test_the_days_of_a_client_include_empty_ones_and_add_up(bench: Bench) -> None:
    bench.record(a_record(client_id=7), a_record(client_id=7, started_at=NOON - 2 * DAY_S, model="m2"))
    bench.record(a_record(client_id=8), a_record(client_id=7, started_at=NOON - 3 * DAY_S))

    found = bench.rollups.client_days(7, 3, FREE)

    assert [(day["date"], day["requests"]) for day in found["days"]] == [
        ("2026-11-18", 1),
        ("2026-11-19", 0),
        ("2026-11-20", 1),
    ]
    assert found["totals"]["requests"] == 2
    assert [model["model"] for model in found["models"]] == ["gpt-5", "m2"]
    assert bench.rollups.client_days(-1, 3, FREE)["totals"]["requests"] == 0


def test_tokens_of_calls_that_generate_nothing_do_not_count(bench: Bench) -> None:
    bench.record(a_record(operation="count", input_tokens=500))

    assert this_hour(bench)["tokens_in"] == 0
    assert bench.rollups.client_usage(1, FREE)[0]["tokens_in"] == 0


def test_a_caller_that_invents_models_fills_no_table(bench: Bench) -> None:
    def invent(name: str, count: int) -> None:
        bench.record(*(refused(model=f"{name}-{number}", client_id=7) for number in range(count)))

    bench.record(a_record(client_id=7))
    invent("a", 150)
    invent("b", 150)
    bench.record(a_record(client_id=7), refused(model="c", client_id=8))

    rows = {row["model"]: row["requests"] for row in bench.rows(client_stats) if row["client_id"] == 7}
    assert len(rows) <= 201
    assert (rows["gpt-5"], sum(rows.values())) == (2, 302)
    assert rows["other"] >= 100
    assert "c" in {row["model"] for row in bench.rows(client_stats) if row["client_id"] == 8}


def test_all_clients_together_by_model(bench: Bench) -> None:
    bench.record(a_record(client_id=1), a_record(client_id=2), a_record(model="m2"))

    totals, models = bench.rollups.models(1, FREE)

    assert totals["requests"] == 3
    assert [(model["model"], model["requests"]) for model in models] == [("gpt-5", 2), ("m2", 1)]


# -- cost --------------------------------------------------------------------------------------------

PRICES = {
    "gpt-*": {"input_per_million": 1.0, "output_per_million": 2.0, "cached_per_million": None},
    "gpt-5*": {"input_per_million": 10.0, "output_per_million": 20.0, "cached_per_million": 1.0},
    "gpt-5-[x]": {"input_per_million": 5.0, "output_per_million": 5.0, "cached_per_million": None},
    "free": {"input_per_million": 0.0, "output_per_million": 0.0, "cached_per_million": None},
}


@pytest.mark.parametrize(
    ("model", "tokens", "dollars"),
    [
        ("gpt-4", (1_000_000, 0, 0), 1.0),
        ("gpt-4", (1_000_000, 500_000, 400_000), 2.0),
        ("gpt-5", (1_000_000, 0, 400_000), 6.4),
        ("gpt-5", (1_000_000, 0, 2_000_000), 1.0),
        ("gpt-5-[x]", (1_000_000, 0, 0), 5.0),
        ("free", (1_000_000, 1, 0), 0.0),
        ("claude", (1, 1, 0), None),
    ],
)
def test_a_models_own_name_then_the_longest_pattern_says_what_it_costs(
    model: str, tokens: tuple[int, int, int], dollars: float | None
) -> None:
    assert PriceList(PRICES).cost(model, *tokens) == (None if dollars is None else pytest.approx(dollars))


def test_the_cost_says_which_models_have_no_price(bench: Bench) -> None:
    bench.record(a_record(client_id=7, input_tokens=1_000_000, output_tokens=0, model="gpt-4"))
    bench.record(a_record(client_id=7, model="claude"), refused(client_id=7, model="never-answered"))
    bench.record(a_record(client_id=8, model="claude"), refused(client_id=9))

    usage = bench.rollups.client_usage(1, PriceList(PRICES))

    assert (usage[7]["cost"], usage[7]["unpriced"]) == (1.0, ["claude"])
    assert (usage[8]["cost"], usage[8]["unpriced"]) == (None, ["claude"])
    assert (usage[9]["cost"], usage[9]["unpriced"]) == (None, [])


# -- keys --------------------------------------------------------------------------------------------


def test_the_busiest_keys_are_named_with_their_models_and_the_others_summed_up(bench: Bench) -> None:
    bench.record(*(a_record(1) for _ in range(3)), *(a_record(2, model=f"m{number}") for number in range(2)))
    bench.record(a_record(3), a_record(3, started_at=NOON - 5 * DAY_S))

    busiest, others = bench.rollups.busiest_keys(1, 2)

    assert [(key["key_id"], key["name"], key["requests"]) for key in busiest] == [(1, "key-1", 3), (2, "key-2", 2)]
    assert [key["models"] for key in busiest] == [{"gpt-5": 3}, {"m0": 1, "m1": 1}]
    assert others == 1
    assert bench.rollups.busiest_keys(6, 1)[1] == 4


def test_keys_that_are_deleted_are_forgotten_and_new_requests_counted_at_once(bench: Bench) -> None:
    yesterday = NOON - DAY_S
    bench.record(*(a_record(key_id, started_at=yesterday) for key_id in (1, 1, 1, 2, 2, 3)))
    assert [key["key_id"] for key in bench.rollups.busiest_keys(7, 2)[0]] == [1, 2]

    with bench.database.transaction() as connection:
        connection.execute(delete(keys).where(keys.c.id == 1))
    bench.record(a_record(3), a_record(3))

    busiest, others = bench.rollups.busiest_keys(7, 2)
    assert [(key["key_id"], key["requests"]) for key in busiest] == [(3, 3), (2, 2)]
    assert others == 0


def test_a_new_day_is_a_new_range(bench: Bench) -> None:
    bench.record(a_record(1, started_at=NOON - 6 * DAY_S), a_record(2))
    assert [key["key_id"] for key in bench.rollups.busiest_keys(7, 5)[0]] == [1, 2]

    bench.now += DAY_S

    assert [key["key_id"] for key in bench.rollups.busiest_keys(7, 5)[0]] == [2]
