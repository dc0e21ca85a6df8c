from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from app.counting import MAX_SUM
from app.live_log import WriteBehind
from app.shapes import MAX_INT64
from app.storage.schema import daily_stats, events, keys, model_stats
from tests.usage_cases import DAY_S, NOON, SECRET, Bench, a_record, an_attempt, bench_at


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        bench.add_key(1)
        bench.add_key(2)
        yield bench


def day(bench: Bench, key_id: int = 1) -> dict[str, object]:
    [row] = [row for row in bench.rows(daily_stats) if row["key_id"] == key_id]
    return row | {name: json.loads(row[name]) for name in ("error_codes", "model_usage")}


# -- the row of a request ----------------------------------------------------------------------------


def test_a_request_becomes_one_row_with_its_attempts(bench: Bench) -> None:
    failed = an_attempt(2, status=429, verdict="KEY_REST", reason="rate_limited", message="slow down", wait_ms=7)

    bench.record(a_record(1, client_id=9, stream=True, first_byte_ms=60, attempts=[failed, an_attempt(1, number=2)]))

    [row] = bench.requests()
    assert (row["request_id"], row["status"], row["outcome"], row["key_id"]) == ("req-1", 200, "success", 1)
    assert (row["client_id"], row["stream"], row["first_byte_ms"], row["input_tokens"]) == (9, True, 60, 10)
    first, second = json.loads(row["attempts"])
    assert (first["key_id"], first["status"], first["verdict"], first["message"]) == (2, 429, "KEY_REST", "slow down")
    assert (first["wait_ms"], second["number"], second["verdict"]) == (7, 2, "ok")


def test_without_request_logging_there_is_no_row_and_no_line_but_the_statistics_stay(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.settings.update({"enable_request_logging": False})

    with caplog.at_level(logging.INFO, logger="access"):
        bench.record(a_record())

    assert bench.requests() == []
    assert bench.rows(events) == []
    assert caplog.records == []
    assert day(bench)["requests"] == 1
    assert bench.metrics.as_json()["requestsTotal"] == 1


def test_without_metrics_collection_nothing_is_counted_but_the_row_stays(bench: Bench) -> None:
    bench.settings.update({"enable_metrics_collection": False})

    bench.record(a_record())

    assert bench.metrics.as_json()["requestsTotal"] == 0
    assert len(bench.requests()) == 1


def test_secrets_and_query_strings_are_not_stored(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    attempt = an_attempt(1, verdict="KEY_DEAD", status=401, message=f"Incorrect API key provided: {SECRET}.")
    record = a_record(
        path=f"/v1/files/{SECRET}?key={SECRET}",
        request_id=f"id-{SECRET}",
        user_agent=f"agent {SECRET}",
        model=SECRET,
        attempts=[attempt],
    )

    with caplog.at_level(logging.INFO, logger="access"):
        bench.record(record)

    [row] = bench.requests()
    assert row["path"] == "/v1/files/[redacted]"
    assert "Incorrect API key provided: [redacted]." in row["attempts"]
    seen = f"{row} {bench.rows(events)} {[vars(line) for line in caplog.records]}"
    assert SECRET not in seen
    assert "?" not in row["path"]


def test_text_that_a_database_refuses_is_made_harmless(bench: Bench) -> None:
    bench.record(a_record(model="m\ud800\0", path="/v1/\udfff\0", user_agent="\ud83d\ude00", request_id="\ud800"))

    [row] = bench.requests()
    assert row["model"] == "m\ufffd\ufffd"
    assert row["path"] == "/v1/\ufffd\ufffd"
    assert row["user_agent"] == "\U0001f600"
    assert [entry["model"] for entry in bench.rows(model_stats)] == ["m\ufffd\ufffd"]


def test_long_text_is_cut_to_its_column(bench: Bench) -> None:
    bench.record(a_record(path="/" + "p" * 9000, model="m" * 900, request_id="r" * 900, error_code="e" * 900))

    [row] = bench.requests()
    lengths = [len(row[name]) for name in ("path", "model", "request_id", "error_code")]
    assert lengths == [2048, 256, 128, 64]


@pytest.mark.parametrize("absurd", [2**63, 2**200, -5])
def test_absurd_numbers_are_clamped(bench: Bench, absurd: int) -> None:
    bench.record(a_record(input_tokens=absurd, output_tokens=absurd, duration_ms=absurd))
    bench.record(a_record(input_tokens=absurd))

    row = bench.requests()[0]
    assert row["input_tokens"] == row["output_tokens"] == (MAX_INT64 if absurd > 0 else 0)
    assert day(bench)["tokens_in"] == (MAX_SUM if absurd > 0 else 0)


def test_one_access_line_says_what_happened(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="access"):
        bench.record(a_record(path="/v1/chat/completions?api-version=1"))

    [line] = caplog.records
    assert line.getMessage() == "POST /v1/chat/completions 200"
    fields = vars(line)
    assert (fields["request_id"], fields["key_id"], fields["attempts"], fields["outcome"]) == ("req-1", 1, 1, "success")


# -- the statistics of a key -------------------------------------------------------------------------


def test_a_success_counts_with_its_tokens_latency_and_model(bench: Bench) -> None:
    bench.record(a_record(cached_tokens=4), a_record())

    stats = day(bench)
    assert (stats["date"], stats["requests"], stats["successes"], stats["errors"]) == ("2026-11-20", 2, 2, 0)
    assert (stats["tokens_in"], stats["tokens_out"], stats["total_latency_ms"]) == (20, 10, 200)
    assert stats["model_usage"] == {"gpt-5": 2}
    [model] = bench.rows(model_stats)
    assert (model["model"], model["requests"], model["tokens_in"], model["cached_tokens"]) == ("gpt-5", 2, 20, 4)


def test_each_attempt_counts_for_its_own_key(bench: Bench) -> None:
    attempts = [
        an_attempt(1, status=429, verdict="KEY_REST"),
        an_attempt(1, status=0, verdict="PROVIDER"),
        an_attempt(2, duration_ms=40),
    ]

    bench.record(a_record(2, attempts=attempts))

    failed, answered = day(bench, 1), day(bench, 2)
    assert (failed["requests"], failed["successes"], failed["errors"]) == (2, 0, 2)
    assert failed["error_codes"] == {"429": 1, "599": 1}
    assert (failed["tokens_in"], failed["total_latency_ms"], failed["model_usage"]) == (0, 0, {})
    assert (answered["requests"], answered["errors"], answered["total_latency_ms"]) == (1, 0, 40)


def test_an_error_inside_a_200_counts_as_599(bench: Bench) -> None:
    bench.record(a_record(status=502, outcome="upstream_cut", attempts=[an_attempt(1, status=200, verdict="PROVIDER")]))

    assert day(bench)["error_codes"] == {"599": 1}


@pytest.mark.parametrize("verdict", ["CLIENT", "client_gone", ""])
def test_what_is_not_the_keys_doing_is_left_out_of_its_counts(bench: Bench, verdict: str) -> None:
    attempt = an_attempt(1, status=400, verdict=verdict)
    bench.record(a_record(status=400, outcome="client_error", attempts=[attempt], input_tokens=None, output_tokens=0))

    assert bench.rows(daily_stats) == []
    assert len(bench.requests()) == 1


def test_tokens_of_a_stream_that_the_caller_left_are_counted_all_the_same(bench: Bench) -> None:
    bench.record(a_record(status=499, outcome="client_gone", attempts=[an_attempt(1, verdict="client_gone")]))

    stats = day(bench)
    assert (stats["requests"], stats["tokens_in"], stats["tokens_out"], stats["model_usage"]) == (0, 10, 5, {})


@pytest.mark.parametrize("operation", ["count", "models", "other"])
def test_calls_that_generate_nothing_count_as_requests_only(bench: Bench, operation: str) -> None:
    bench.record(a_record(operation=operation))

    stats = day(bench)
    assert (stats["requests"], stats["successes"], stats["tokens_in"], stats["model_usage"]) == (1, 1, 0, {})
    assert bench.rows(model_stats) == []


def test_embeddings_are_booked_with_their_model(bench: Bench) -> None:
    bench.record(a_record(operation="embed", model="text-embedding-3", output_tokens=None))

    assert day(bench)["model_usage"] == {"text-embedding-3": 1}


def test_the_model_that_was_sent_is_counted_not_the_alias(bench: Bench) -> None:
    bench.record(a_record(model="fast", upstream_model="gpt-5-mini"))

    assert day(bench)["model_usage"] == {"gpt-5-mini": 1}


def test_the_latency_of_a_stream_is_the_time_to_its_first_byte(bench: Bench) -> None:
    answered = an_attempt(1, number=2, duration_ms=60_000)

    bench.record(a_record(stream=True, duration_ms=61_000, first_byte_ms=1_300, attempts=[answered]))

    assert day(bench)["total_latency_ms"] == 300


def test_days_change_at_midnight_utc(bench: Bench) -> None:
    bench.record(a_record(started_at=NOON + DAY_S / 2 - 0.001), a_record(started_at=NOON + DAY_S / 2))

    assert [row["date"] for row in bench.rows(daily_stats)] == ["2026-11-20", "2026-11-21"]


def test_a_request_without_a_key_has_a_row_and_no_statistics(bench: Bench) -> None:
    bench.record(a_record(None, status=503, outcome="no_keys", attempts=[]))

    assert bench.rows(daily_stats) == []
    assert [row["outcome"] for row in bench.requests()] == ["no_keys"]


def test_statistics_of_a_key_deleted_meanwhile_are_dropped_and_the_others_kept(bench: Bench) -> None:
    bench.usage.record(a_record(1))
    bench.usage.record(a_record(2))
    with bench.database.transaction() as connection:
        connection.execute(delete(keys).where(keys.c.id == 1))
    bench.written()

    assert {row["key_id"] for row in bench.rows(daily_stats)} <= {2}
    assert bench.writer.dropped == 0
    bench.record(a_record(1), a_record(2))
    assert [(row["key_id"], row["requests"]) for row in bench.rows(daily_stats)] == [(2, 2)]


def test_the_models_of_a_day_are_bounded(bench: Bench) -> None:
    bench.record(*(a_record(model=f"model-{number}") for number in range(300)))
    bench.record(a_record(model="one-more"))

    usage = day(bench)["model_usage"]
    assert isinstance(usage, dict)
    assert len(usage) <= 201
    assert sum(usage.values()) == 301
    assert usage["other"] >= 100


def test_damaged_counts_in_the_database_are_started_afresh(bench: Bench) -> None:
    bench.add_rows(
        daily_stats,
        [{"key_id": 1, "date": "2026-11-20", "requests": 5, "error_codes": "nonsense", "model_usage": '["x"]'}],
    )

    bench.record(a_record())

    assert (day(bench)["requests"], day(bench)["model_usage"]) == (6, {"gpt-5": 1})


def test_nothing_is_lost_between_many_threads_and_two_workers(bench: Bench, tmp_path: Path) -> None:
    codes = (429, 500, 503)

    def work(worker: Bench, number: int) -> None:
        for turn in range(100):
            failed = an_attempt(1, status=codes[turn % 3], verdict="KEY_REST")
            model = f"model-{(number + turn) % 4}"
            worker.usage.record(a_record(2, model=model, attempts=[failed, an_attempt(2)]))

    with bench_at(tmp_path) as other:
        threads = [threading.Thread(target=work, args=(worker, n)) for n in range(4) for worker in (bench, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bench.written()
        other.written()

    failed, answered = day(bench, 1), day(bench, 2)
    assert (failed["requests"], failed["errors"], failed["error_codes"]) == (
        800,
        800,
        {"429": 272, "500": 264, "503": 264},
    )
    assert (answered["successes"], answered["tokens_in"]) == (800, 8000)
    assert answered["model_usage"] == {f"model-{number}": 200 for number in range(4)}
    assert sum(row["requests"] for row in bench.rows(model_stats)) == 800
    assert len(bench.requests()) == 800


def test_a_locked_database_delays_the_counts_and_loses_none(bench: Bench) -> None:
    with bench.database.transaction():
        for _ in range(20):
            bench.usage.record(a_record())
        assert not bench.writer.flush(0.5)
    bench.written()

    assert day(bench)["requests"] == 20
    assert len(bench.requests()) == 20


def test_a_key_change_shows_in_the_live_log(bench: Bench) -> None:
    bench.usage.key_changed("alpha", "Resting", "rate_limited")
    bench.written()

    [line] = bench.live_log.recent()
    assert (line["msg"], line["color"]) == ('Key "alpha" is Resting (rate_limited)', "yellow")


def test_an_attempt_that_failed_has_a_line_of_its_own_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    failed = an_attempt(number=1, key_id=1, status=429, verdict="KEY_REST", reason="rate_limited")
    record = a_record(attempts=[failed, an_attempt(number=2, key_id=2)])
    with caplog.at_level(logging.INFO):
        bench.usage.record(record)

    lines = [line for line in caplog.records if line.name == "attempt"]
    assert [line.getMessage() for line in lines] == ["attempt 1 at openai: KEY_REST"]
    assert (lines[0].reason, lines[0].status) == ("rate_limited", 429)  # type: ignore[attr-defined]


def test_an_order_to_write_that_finds_nothing_left_loses_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WriteBehind, "REORDER_AFTER_S", -1.0)  # every change orders, as if the orders before were lost

    bench.record(a_record(model="one"), a_record(model="two", request_id="req-2"))

    assert {row["model"] for row in bench.requests()} == {"one", "two"}
    assert not [entry.message for entry in caplog.records if entry.levelno >= logging.WARNING]
