from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import MAX_MODELS, Metrics
from tests.gateway import Gateway
from tests.usage_cases import a_record, an_attempt

ROOT = Path(__file__).parents[2]


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return parsed(metrics.render()[0].decode())


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_a_request_counts_under_its_labels() -> None:
    metrics = Metrics()

    metrics.observe(a_record())
    metrics.observe(a_record())

    labels = {
        "dialect": "openai_chat",
        "operation": "generate",
        "status": "200",
        "stream": "false",
        "outcome": "success",
    }
    assert value(metrics, "middleware_requests_total", **labels) == 2
    duration = "middleware_request_duration_seconds"
    assert value(metrics, f"{duration}_count", dialect="openai_chat", stream="false") == 2
    assert value(metrics, f"{duration}_sum", dialect="openai_chat", stream="false") == pytest.approx(0.24)
    assert value(metrics, f"{duration}_bucket", dialect="openai_chat", stream="false", le="0.1") == 0
    assert value(metrics, f"{duration}_bucket", dialect="openai_chat", stream="false", le="0.25") == 2


def test_a_stream_has_a_time_to_its_first_token_and_a_duration() -> None:
    metrics = Metrics()

    metrics.observe(a_record(stream=True, first_byte_ms=300, duration_ms=1300))
    metrics.observe(a_record(stream=True, first_byte_ms=None, status=502, outcome="upstream_error"))

    assert value(metrics, "middleware_first_token_seconds_sum", dialect="openai_chat") == pytest.approx(0.3)
    assert value(metrics, "middleware_stream_duration_seconds_sum", dialect="openai_chat") == pytest.approx(1.0)
    assert value(metrics, "middleware_stream_duration_seconds_count", dialect="openai_chat") == 1


def test_attempts_and_verdicts_count_by_provider() -> None:
    metrics = Metrics()

    metrics.observe(a_record(attempts=[an_attempt(1, status=429, verdict="KEY_REST"), an_attempt(2), an_attempt(3)]))

    assert value(metrics, "middleware_attempts_total", provider="openai", status="429") == 1
    assert value(metrics, "middleware_attempts_total", provider="openai", status="200") == 2
    assert value(metrics, "middleware_verdicts_total", provider="openai", verdict="KEY_REST") == 1
    assert value(metrics, "middleware_verdicts_total", provider="openai", verdict="ok") == 2


def test_failures_count_by_outcome() -> None:
    metrics = Metrics()

    metrics.observe(a_record(status=429, outcome="resting"))
    metrics.observe(a_record(status=200, outcome="upstream_cut"))
    metrics.observe(a_record())

    assert value(metrics, "middleware_errors_total", type="resting") == 1
    assert value(metrics, "middleware_errors_total", type="upstream_cut") == 1
    assert value(metrics, "middleware_errors_total", type="success") is None


def test_chat_completions_count_under_their_own_names_too() -> None:
    metrics = Metrics()

    metrics.observe(a_record())
    metrics.observe(a_record(stream=True, first_byte_ms=1))
    metrics.observe(a_record(status=400, outcome="client_error", error_code="invalid_json"))
    metrics.observe(a_record(status=400, outcome="client_error", error_code="invalid_messages"))
    metrics.observe(a_record(status=502, outcome="upstream_error"))
    metrics.observe(a_record(dialect="gemini"))
    metrics.observe(a_record(operation="embed"))

    assert value(metrics, "chat_completions_requests_total", status="200", stream="false") == 1
    assert value(metrics, "chat_completions_requests_total", status="200", stream="true") == 1
    assert value(metrics, "chat_completions_requests_total", status="400", stream="false") == 2
    assert value(metrics, "chat_completions_duration_seconds_count", stream="false") == 4
    for error in ("parse_error", "validation_error", "upstream_error"):
        assert value(metrics, "chat_completions_errors_total", type=error) == 1
    assert value(metrics, "chat_completions_active_requests") == 0


def test_tokens_count_by_provider_model_and_direction() -> None:
    metrics = Metrics()

    metrics.observe(a_record())
    metrics.observe(a_record(model="fast", upstream_model="gpt-5", input_tokens=None, output_tokens=2))
    metrics.observe(a_record(model="no-tokens", input_tokens=None, output_tokens=None))

    assert value(metrics, "middleware_tokens_total", provider="openai", model="gpt-5", direction="input") == 10
    assert value(metrics, "middleware_tokens_total", provider="openai", model="gpt-5", direction="output") == 7
    assert "no-tokens" not in metrics.render()[0].decode()


def test_models_beyond_the_bound_share_the_label_other() -> None:
    metrics = Metrics()

    for number in range(MAX_MODELS + 50):
        metrics.observe(a_record(model=f"model-{number}"))
    metrics.observe(a_record(model="model-0"))

    models = {dict(labels)["model"] for name, labels in samples(metrics) if name == "middleware_tokens_total"}
    assert len(models) == MAX_MODELS + 1
    assert value(metrics, "middleware_tokens_total", provider="openai", model="other", direction="input") == 500
    assert value(metrics, "middleware_tokens_total", provider="openai", model="model-0", direction="input") == 20


def test_requests_on_their_way_are_counted_until_they_end() -> None:
    metrics = Metrics()
    first, second = metrics.begin(), metrics.begin()
    second.describe(dialect="openai_chat", operation="generate", stream=True)

    assert value(metrics, "middleware_in_flight") == 2
    assert value(metrics, "middleware_streams_in_flight") == 1
    assert value(metrics, "chat_completions_active_requests") == 1

    threads = [threading.Thread(target=flight.end) for flight in (first, second) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.describe(dialect="openai_chat", operation="generate", stream=True)

    for gauge in ("middleware_in_flight", "middleware_streams_in_flight", "chat_completions_active_requests"):
        assert value(metrics, gauge) == 0


def test_key_states_are_read_at_the_scrape() -> None:
    metrics = Metrics()
    states = {"openai": {"Healthy": 2, "Resting": 1}}
    metrics.watch_keys(lambda: states)

    assert value(metrics, "middleware_keys", provider="openai", status="Resting") == 1
    states = {"gemini": {"Healthy": 1}}
    assert value(metrics, "middleware_keys", provider="gemini", status="Healthy") == 1
    assert value(metrics, "middleware_keys", provider="openai", status="Resting") is None


def test_the_writers_queue_and_losses_are_shown() -> None:
    metrics = Metrics()
    dropped = 3
    metrics.watch_writer(lambda: 7, lambda: dropped)

    assert value(metrics, "middleware_writer_queue") == 7
    assert value(metrics, "middleware_writer_dropped_total") == 3
    dropped = 5
    assert value(metrics, "middleware_writer_dropped_total") == 5


def test_counting_can_be_switched_off_and_on_while_running() -> None:
    enabled = True
    metrics = Metrics(enabled=lambda: enabled)
    started = metrics.begin()

    enabled = False
    metrics.observe(a_record())
    unseen = metrics.begin()
    unseen.describe(dialect="openai_chat", operation="generate", stream=True)
    started.end()
    enabled = True
    unseen.end()

    assert metrics.as_json()["requestsTotal"] == 0
    assert value(metrics, "middleware_in_flight") == 0
    metrics.observe(a_record())
    assert metrics.as_json()["requestsTotal"] == 1


def test_the_json_form_sums_everything_up() -> None:
    metrics = Metrics()
    metrics.observe(a_record())
    metrics.observe(a_record(status=429, outcome="resting"))
    metrics.observe(a_record(status=200, outcome="upstream_cut"))
    metrics.begin().describe(dialect="gemini", operation="generate", stream=True)

    shown = metrics.as_json()

    assert shown.pop("timestamp").endswith("Z")
    assert shown == {"requestsTotal": 3, "responses": {"success": 1, "error": 2}, "streamingSessions": 1}


def test_two_apps_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()

    one.observe(a_record())

    assert (one.as_json()["requestsTotal"], other.as_json()["requestsTotal"]) == (1, 0)


def test_the_text_is_what_prometheus_reads_and_has_no_creation_times() -> None:
    metrics = Metrics()
    metrics.observe(a_record(model='we"ird\n\\model', stream=True, first_byte_ms=5))

    body, content_type = metrics.render()

    assert content_type.startswith("text/plain")
    assert parsed(body.decode())
    assert b"_created" not in body


def test_many_threads_lose_no_count() -> None:
    metrics = Metrics()
    record = a_record()
    threads = [threading.Thread(target=lambda: [metrics.observe(record) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert metrics.as_json()["requestsTotal"] == 4000


WORKERS = """
import os, sys
from app.telemetry.metrics import Metrics, forget_process
from tests.usage_cases import a_record

os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]  # after the import, as a master does that reads its settings first
pids = []
for worker in range(2):
    pid = os.fork()
    if pid == 0:
        metrics = Metrics()
        for _ in range(10):
            metrics.observe(a_record())
        metrics.begin().describe(dialect="gemini", operation="generate", stream=True)
        metrics.watch_writer(lambda: 3, lambda: 2)
        metrics.render()
        os._exit(0)
    os.waitpid(pid, 0)
    pids.append(pid)
metrics = Metrics()
metrics.watch_keys(lambda: {"openai": {"Healthy": 4}})
forget_process(pids[0])
sys.stdout.write(metrics.render()[0].decode())
shown = metrics.as_json()
assert shown["requestsTotal"] == 20, shown
assert shown["streamingSessions"] == 1, shown
assert metrics.under_way() == (20, 1, 1), metrics.under_way()
"""


def test_the_numbers_of_all_workers_are_added_and_a_dead_ones_gauges_forgotten(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(tmp_path)],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = parsed(done.stdout)
    labels = {
        "dialect": "openai_chat",
        "operation": "generate",
        "status": "200",
        "stream": "false",
        "outcome": "success",
    }
    assert found["middleware_requests_total", frozenset(labels.items())] == 20
    assert found["middleware_in_flight", frozenset()] == 1
    assert found["middleware_writer_queue", frozenset()] == 3
    assert found["middleware_writer_dropped_total", frozenset()] == 4
    assert found["middleware_keys", frozenset({"provider": "openai", "status": "Healthy"}.items())] == 4


def test_the_keys_of_the_demonstration_do_not_count(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        gateway.add_keys("openai", 2)

        shown = parsed(gateway.get("/metrics").body.decode())

    keys = {dict(labels)["provider"]: count for (name, labels), count in shown.items() if name == "middleware_keys"}
    assert "openai" in keys
    assert "demo" not in keys


def test_an_absurd_number_of_tokens_is_no_error() -> None:
    metrics = Metrics()

    metrics.observe(a_record(input_tokens=2**5000, output_tokens=-(2**5000)))

    families = text_string_to_metric_families(metrics.render()[0].decode())
    tokens = {
        sample.labels["direction"]: sample.value
        for family in families
        for sample in family.samples
        if "tokens_total" in sample.name
    }
    assert tokens == {"input": 2**53, "output": 0}
