"""After proxied calls of all kinds the dashboard, the metrics and the request log say the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import canned
from tests.fake_provider import FakeProvider, json_reply, stream, wait_for
from tests.gateway import Gateway

CHAT: dict[str, Any] = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
DASHBOARD = "/middleware/api/dashboard"


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Path, upstream: FakeProvider, driver: str) -> Iterator[Gateway]:
    with Gateway(tmp_path, openai=upstream.origin, driver=driver) as gateway:
        gateway.add_keys("openai", 3)
        yield gateway


@pytest.fixture(params=["threads", "loop"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask_in_every_way(gateway: Gateway, upstream: FakeProvider) -> None:
    """Ten good calls, some streamed; faults of callers, one failover, one stream that breaks, one refusal."""
    upstream.default(json_reply(canned.chat()))
    for _ in range(6):
        assert gateway.post("/v1/chat/completions", CHAT).status == 200
    for _ in range(3):
        upstream.answers(stream(canned.chat_stream()))
        assert gateway.post("/v1/chat/completions", {**CHAT, "stream": True}).status == 200
    upstream.answers(json_reply(canned_error("rate_limit_exceeded"), 429))
    assert gateway.post("/v1/chat/completions", CHAT).status == 200
    upstream.answers(json_reply(canned_error("invalid_value"), 400))
    assert gateway.post("/v1/chat/completions", CHAT).status == 400
    with gateway.raw() as client:
        upstream.answers(stream(canned.chat_stream()[:3], end="close"))
        client.post("/v1/chat/completions", {**CHAT, "stream": True})
        client.head()
        client.rest()
    assert gateway.post("/v1/messages", {**CHAT, "model": "claude", "max_tokens": 5}).status == 400
    assert gateway.request("POST", "/v1/chat/completions", body=b"{").status == 400


def canned_error(code: str) -> dict[str, Any]:
    return {"error": {"message": "no", "type": "invalid_request_error", "code": code}}


def scraped(gateway: Gateway, name: str, label: str) -> Counter[str]:
    """The counts of one metric by one of its labels."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(gateway.get("/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels[label]] += int(sample.value)
    return found


def test_the_dashboard_agrees_with_the_metrics_and_the_request_log(gateway: Gateway, upstream: FakeProvider) -> None:
    ask_in_every_way(gateway, upstream)
    records = gateway.records()

    shown = gateway.get(DASHBOARD).json
    totals = shown["totals"]

    assert totals["requests"] == len(records) == 14
    good = [record for record in records if record["outcome"] == "success" and record["status"] < 400]
    assert (totals["successes"], totals["errors"]) == (len(good), 14 - len(good)) == (10, 4)
    assert totals["success_rate"] == pytest.approx(10 / 14)
    assert totals["statuses"] == Counter(str(record["status"]) for record in records)
    assert totals["statuses"] == scraped(gateway, "middleware_requests_total", "status")
    assert totals["outcomes"] == scraped(gateway, "middleware_requests_total", "outcome")
    verdicts = Counter(attempt["verdict"] or "none" for record in records for attempt in record["attempts"])
    assert totals["verdicts"] == verdicts == scraped(gateway, "middleware_verdicts_total", "verdict")
    for name, column in (("tokens_in", "input_tokens"), ("tokens_out", "output_tokens")):
        assert totals[name] == sum(record[column] or 0 for record in records) > 0
    tokens = scraped(gateway, "middleware_tokens_total", "direction")
    assert (totals["tokens_in"], totals["tokens_out"]) == (tokens["input"], tokens["output"])
    json_metrics = gateway.get("/metrics", Accept="application/json").json
    assert json_metrics["requestsTotal"] == totals["requests"]
    assert json_metrics["responses"] == {"success": totals["successes"], "error": totals["errors"]}


def test_all_parts_of_the_dashboard_agree_with_each_other(gateway: Gateway, upstream: FakeProvider) -> None:
    ask_in_every_way(gateway, upstream)
    gateway.settle()

    shown = gateway.get(DASHBOARD).json
    totals = shown["totals"]

    for parts in (shown["hours"], shown["dates"]):
        for name in ("requests", "successes", "errors"):
            assert sum(part[name] for part in parts) == totals[name]
    assert len(shown["hours"]) == 24
    assert len(shown["dates"]) == 30
    for name in ("requests", "tokens_in", "tokens_out"):
        assert sum(model[name] for model in shown["models"]) == totals[name]
    by_key = gateway.get("/middleware/api/global-stats").json
    assert {key["name"]: key["models"] for key in shown["keys"]} == {
        one["name"]: one["usage"] for one in by_key["request_distribution"]
    }
    assert shown["other_keys"] == 0
    assert totals["error_codes"] == by_key["error_codes_today"]
    assert shown["health_status"] == by_key["health_status"]
    [resting] = shown["unwell"]["partial"]
    assert (resting["model"], resting["reason"], resting["http_status"]) == ("gpt-test", "rate_limited", 429)
    assert shown["unwell"]["partial_keys"] == 1
    assert resting["until"] > shown["at"]
    assert totals["latency_p50"] <= totals["latency_p95"]
    assert 0 <= totals["first_token_p50"] <= totals["first_token_p95"]


@pytest.mark.parametrize("driver", ["loop"])
def test_what_is_on_its_way_is_shown_while_it_runs(gateway: Gateway, upstream: FakeProvider) -> None:
    seen = threading.Event()
    upstream.answers(stream([*canned.chat_stream()[:3], wait_for(seen), *canned.chat_stream()[3:]]))
    with gateway.raw() as client:
        client.post("/v1/chat/completions", {**CHAT, "stream": True})
        client.head()
        live = gateway.get(DASHBOARD).json["live"]
        seen.set()
        client.rest()
    assert (live["in_flight"], live["streams"]) == (1, 1)


def test_without_metrics_the_pace_is_unknown_and_the_rest_is_there(gateway: Gateway, upstream: FakeProvider) -> None:
    gateway.services.live_settings.update({"enable_metrics_collection": False})
    upstream.default(json_reply(canned.chat()))
    gateway.post("/v1/chat/completions", CHAT)
    gateway.settle()

    shown = gateway.get(DASHBOARD).json

    assert shown["live"] == {"requests_per_s": None, "in_flight": None, "streams": None}
    assert shown["totals"]["requests"] == 1


def test_the_range_is_checked(gateway: Gateway) -> None:
    assert gateway.get(f"{DASHBOARD}?days=30").json["days"] == 30
    assert gateway.get(f"{DASHBOARD}?days=0").status == 400
    assert gateway.get(f"{DASHBOARD}?nonsense=1").status == 400
