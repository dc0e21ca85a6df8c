"""Testing keys: what a test says, and what it does to the key."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

from app.provider_calls import ProviderCalls
from tests import canned
from tests.fake_provider import FakeProvider, closed_port, hang, json_reply, redirect
from tests.gateway import Gateway

DEAD = json_reply({"error": {"code": "invalid_api_key", "message": "Incorrect API key <b>provided</b>."}}, 401)
MODELS = json_reply({"data": [{"id": f"gpt-{number}"} for number in range(30)]})
LIMITED = json_reply({"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}, 429, {"Retry-After": "120"})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, provider: FakeProvider) -> Iterator[Gateway]:
    with Gateway(tmp_path, openai=provider.origin, driver="threads") as running:
        yield running


def test(gateway: Gateway, key_id: int, **body: Any) -> dict[str, Any]:
    answer = gateway.post(f"/middleware/api/keys/{key_id}/test", body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


test.__test__ = False  # type: ignore[attr-defined]


def key_of(gateway: Gateway, **fields: Any) -> tuple[str, int]:
    (value,) = gateway.add_keys("openai", **fields)
    return value, int(gateway.key(value)["id"])


def test_a_good_key_lists_the_providers_models_for_nothing(gateway: Gateway, provider: FakeProvider) -> None:
    value, key_id = key_of(gateway)
    provider.answers(MODELS)
    found = test(gateway, key_id)
    assert (found["ok"], found["status"], found["models"], len(found["sample"])) == (True, 200, 30, 20)
    assert (found["verdict"], found["reason"], found["message"], found["key_status"]) == ("", "", "", "Healthy")
    assert found["duration_ms"] >= 0
    assert [(request.target, request.key) for request in provider.received] == [("/v1/models", value)]
    assert gateway.records() == []


def test_a_dead_key_is_disabled_with_the_evidence(gateway: Gateway, provider: FakeProvider) -> None:
    value, key_id = key_of(gateway)
    provider.answers(DEAD)
    found = test(gateway, key_id)
    assert (found["ok"], found["status"], found["verdict"]) == (False, 401, "KEY_DEAD")
    assert (found["reason"], found["key_status"]) == ("invalid_api_key", "Disabled")
    assert "Incorrect API key" in found["message"]
    assert gateway.key(value)["evidence"]["status"] == 401
    assert "Incorrect API key" in gateway.key(value)["evidence"]["message"]


def test_a_limited_key_rests_as_long_as_the_provider_says(gateway: Gateway, provider: FakeProvider) -> None:
    value, key_id = key_of(gateway)
    provider.answers(LIMITED)
    assert test(gateway, key_id)["key_status"] == "Resting"
    until = gateway.key(value)["disabled_until"]
    assert 100 < until - gateway.services.clock.wall() < 130


def test_with_a_model_a_few_tokens_are_generated(gateway: Gateway, provider: FakeProvider) -> None:
    _, key_id = key_of(gateway)
    provider.answers(json_reply(canned.chat()))
    found = test(gateway, key_id, model="gpt-1")
    assert (found["ok"], found["models"]) == (True, None)
    assert provider.received[0].path == "/v1/chat/completions"
    assert provider.received[0].json["model"] == "gpt-1"


def test_a_limit_of_one_model_rests_the_key_for_that_model(gateway: Gateway, provider: FakeProvider) -> None:
    value, key_id = key_of(gateway)
    provider.answers(LIMITED)
    test(gateway, key_id, model="gpt-1")
    assert [rest["model"] for rest in gateway.key(value)["model_rests"]] == ["gpt-1"]


@pytest.mark.parametrize("status", ["Disabled", "Resting"])
@pytest.mark.parametrize("body", [{}, {"model": "gpt-1"}], ids=["models", "generation"])
def test_a_success_wakes_and_enables_nothing(
    gateway: Gateway, provider: FakeProvider, status: str, body: dict[str, str]
) -> None:
    value, key_id = key_of(gateway)
    gateway.services.keys.bulk([key_id], status)
    provider.answers(MODELS if not body else json_reply(canned.chat()))
    found = test(gateway, key_id, **body)
    assert (found["ok"], found["key_status"]) == (True, status)
    assert gateway.key(value)["status"] == status


@pytest.mark.parametrize(
    ("behavior", "verdict"),
    [
        (json_reply({"error": "boom"}, 500), "PROVIDER"),
        (json_reply({"error": {"message": "no"}}, 404), "CLIENT"),
        (redirect("http://127.0.0.1:9/"), "PROVIDER"),
    ],
)
def test_what_is_not_the_keys_fault_is_only_told(
    gateway: Gateway, provider: FakeProvider, behavior: Any, verdict: str
) -> None:
    _, key_id = key_of(gateway)
    provider.default(behavior)
    found = test(gateway, key_id)
    assert (found["ok"], found["verdict"], found["key_status"]) == (False, verdict, "Healthy")
    assert len(provider.received) == 1


def test_a_provider_without_a_list_of_models_is_no_fault_of_the_key(gateway: Gateway, provider: FakeProvider) -> None:
    _, key_id = key_of(gateway)
    provider.default(json_reply({"error": {"message": "Not found"}}, 404))
    found = test(gateway, key_id)
    assert found["reason"] == "no_model_list"
    assert "with a model" in found["message"]


def test_a_provider_that_is_not_there_is_told_in_time(tmp_path: Path) -> None:
    with Gateway(tmp_path, openai=closed_port(), driver="threads") as gateway:
        _, key_id = key_of(gateway)
        found = test(gateway, key_id)
        assert (found["ok"], found["status"], found["reason"]) == (False, 0, "refused")
        assert found["key_status"] == "Healthy"


def test_a_provider_that_says_nothing_is_given_up(gateway: Gateway, provider: FakeProvider) -> None:
    _, key_id = key_of(gateway)
    gateway.set(model_cache_timeout=0.2, connect_timeout=0.2)
    provider.default(hang())
    assert test(gateway, key_id)["reason"] == "first_byte_timeout"


def test_no_whole_key_is_said_back_or_kept(gateway: Gateway, provider: FakeProvider) -> None:
    value, key_id = key_of(gateway)
    provider.answers(json_reply({"error": {"code": "invalid_api_key", "message": f"Bad key {value}"}}, 401))
    answer = gateway.post(f"/middleware/api/keys/{key_id}/test", {})
    assert value not in answer.body.decode()
    assert value not in gateway.key(value)["evidence"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": ""}, 400),
        ({"model": 5}, 400),
        ({"model": "../admin"}, 400),
        ({"other": 1}, 400),
        ({"model": None}, 200),
    ],
)
def test_the_body_of_a_test_is_checked(
    gateway: Gateway, provider: FakeProvider, body: dict[str, Any], status: int
) -> None:
    _, key_id = key_of(gateway)
    provider.default(MODELS)
    assert gateway.post(f"/middleware/api/keys/{key_id}/test", body).status == status


def test_a_key_that_is_not_there_cant_be_tested(gateway: Gateway) -> None:
    assert gateway.post("/middleware/api/keys/99999/test", {}).status == 404


def test_many_keys_are_tested_together(gateway: Gateway, provider: FakeProvider) -> None:
    values = gateway.add_keys("openai", 3)
    ids = [int(gateway.key(value)["id"]) for value in values]
    provider.by_key({values[0]: MODELS, values[1]: DEAD, values[2]: MODELS})
    answer = gateway.post("/middleware/api/keys/bulk-test", {"key_ids": [*ids, 99999]}).json
    results = {result["key_id"]: (result["ok"], result["reason"]) for result in answer["results"]}
    assert results == {
        ids[0]: (True, ""),
        ids[1]: (False, "invalid_api_key"),
        ids[2]: (True, ""),
        99999: (False, "not_found"),
    }
    assert [gateway.key(value)["status"] for value in values] == ["Healthy", "Disabled", "Healthy"]


def test_the_demonstrations_keys_can_be_tested(gateway: Gateway) -> None:
    demo = next(row for row in gateway.services.keys.list_keys() if row["provider"] == "demo")
    assert test(gateway, demo["id"])["status"] in (200, 401, 403, 429)


@pytest.mark.parametrize("ids", [[], ["1"], [True], list(range(101)), "1", None])
def test_what_is_no_list_of_keys_is_refused(gateway: Gateway, ids: Any) -> None:
    assert gateway.post("/middleware/api/keys/bulk-test", {"key_ids": ids}).status == 400


def test_providers_that_do_not_answer_hold_up_neither_pages_nor_health(tmp_path: Path, provider: FakeProvider) -> None:
    provider.default(hang())
    with Gateway(tmp_path, openai=provider.origin, driver="loop") as running:
        _, key_id = key_of(running)
        running.set(model_cache_timeout=4.0, connect_timeout=0.2)
        path = f"/middleware/api/keys/{key_id}/test"
        with ThreadPoolExecutor(12) as people:
            tests = [people.submit(running.post, path, {}) for _ in range(12)]
            first = next(as_completed(tests)).result()
            assert (first.status, first.json["code"]) == (503, "too_many_tests")
            assert running.get("/livez").status == 200
            assert running.get("/middleware/keys").status == 200
            assert sum(test.done() for test in tests) < 12
            statuses = sorted(test.result().status for test in tests)
    assert statuses == [200] * ProviderCalls.MOST_WAITING + [503] * (12 - ProviderCalls.MOST_WAITING)
