"""What the charts of the dashboard are made of."""

from __future__ import annotations

from typing import Any

from app.admin.pages.home_charts import MOST_PARTS, charts, failures


def figures(**values: Any) -> dict[str, Any]:
    """What the dashboard answers of a middleware that nobody has used; `values` change it."""
    hour = {"at": 1795176000.0, "requests": 0, "successes": 0, "errors": 0}
    nothing = dict.fromkeys(("latency_p50", "latency_p95", "first_token_p50"))
    return {
        "totals": {"successes": 0, "outcomes": {}, "error_codes": {}, "verdicts": {}},
        "health_status": {"Healthy": 0, "Resting": 0, "Disabled": 0},
        "unwell": {"partial_keys": 0},
        "hours": [hour | nothing],
        "dates": [{"date": "2026-11-02", "requests": 0, "successes": 0, "errors": 0}],
        "models": [],
        "keys": [],
    } | values


def parts(chart: dict[str, Any] | None) -> dict[str, int]:
    assert chart is not None
    return dict(zip(chart["labels"], chart["series"][0]["values"], strict=True))


def test_without_data_only_the_time_axes_are_drawn() -> None:
    found = charts(figures())

    assert {name for name, chart in found.items() if chart is not None} == {"hours", "dates"}
    assert found["hours"] is not None
    assert (found["hours"]["labels"], found["hours"]["instants_at"]) == (["12:00 UTC"], [1795176000.0])
    assert found["dates"] is not None
    assert found["dates"]["labels"] == ["2 Nov"]


def test_small_parts_of_a_doughnut_are_one() -> None:
    models = [{"model": f"m{number}", "requests": 20 - number} for number in range(MOST_PARTS + 3)]

    found = parts(charts(figures(models=models))["models"])

    assert list(found) == [*(f"m{number}" for number in range(MOST_PARTS)), "others"]
    assert sum(found.values()) == sum(model["requests"] for model in models)


def test_a_key_that_rests_for_one_model_is_told_from_healthy_ones() -> None:
    health = {"Healthy": 5, "Resting": 2, "Disabled": 0}

    found = charts(figures(health_status=health, unwell={"partial_keys": 1}))["health"]

    assert parts(found) == {"Healthy": 4, "Healthy, but for a model": 1, "Resting": 2}


def test_verdicts_on_attempts_that_failed_are_said_in_words() -> None:
    totals = figures()["totals"] | {
        "verdicts": {"ok": 90, "KEY_REST": 3, "none": 1},
        "error_codes": {"599": 1, "429": 3},
    }

    found = charts(figures(totals=totals))

    assert parts(found["verdicts"]) == {"Key rests": 3, "Never ended": 1}
    assert parts(found["errors"]) == {"429": 3, "no answer": 1}


def test_a_bar_of_a_key_is_as_high_as_its_requests() -> None:
    used = [
        {"name": "a" * 40, "requests": 12, "models": {f"m{number}": 1 for number in range(10)}},
        {"name": "b", "requests": 3, "models": {"m0": 3}},
    ]

    found = charts(figures(keys=used))["keys"]

    assert found is not None
    assert [sum(values) for values in zip(*(one["values"] for one in found["series"]), strict=True)] == [12, 3]
    assert found["labels"] == ["a" * 23 + "…", "b"]
    assert len(found["series"]) == MOST_PARTS + 1


def test_requests_that_failed_are_said_in_words() -> None:
    outcomes = {"success": 9, "resting": 2, "client_gone": 2, "something_new": 1}

    found = failures({"successes": 8, "outcomes": outcomes})

    assert [(name, words, count) for name, words, _, count in found] == [
        ("client_gone", "Caller left", 2),
        ("resting", "All keys rest", 2),
        ("something_new", "something_new", 1),
        ("success", "Answered with an error", 1),
    ]
    assert failures({"successes": 9, "outcomes": {"success": 9}}) == []
