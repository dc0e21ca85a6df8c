"""Lists of models: one provider's passes as it came, several are put together, and each is kept for a while."""

import pytest

from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway


def listed(*names):
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "somebody"} for name in names]}


@pytest.fixture
def upstreams(tmp_path):
    with FakeProvider() as openai, FakeProvider() as gemini:
        openai.default(json_reply(listed("gpt-5", "shared")))
        gemini.default(json_reply(listed("models/gemini-2.5-pro", "shared")))
        with Gateway(tmp_path, openai=openai.origin, gemini=gemini.origin) as gateway:
            yield openai, gemini, gateway


def test_the_list_of_a_single_provider_passes_as_it_came(upstreams):
    openai, _gemini, gateway = upstreams
    gateway.add_keys("openai")

    answer = gateway.get("/v1/models")

    assert answer.json == listed("gpt-5", "shared")
    assert openai.received[0].target == "/v1/models"


def test_the_lists_of_all_providers_that_speak_the_format_are_put_together(upstreams):
    openai, gemini, gateway = upstreams
    gateway.add_keys("openai")
    gateway.add_keys("gemini")

    answer = gateway.get("/v1/models")

    assert answer.status == 200
    assert answer.json["object"] == "list"
    assert sorted(entry["id"] for entry in answer.json["data"]) == ["gpt-5", "models/gemini-2.5-pro", "shared"]
    assert [upstream.received[0].path for upstream in (openai, gemini)] == ["/v1/models", "/v1beta/openai/models"]
    [record] = gateway.records()
    assert (record["status"], record["outcome"], len(record["attempts"])) == (200, "success", 2)


def test_a_provider_that_fails_is_left_out(upstreams):
    _openai, gemini, gateway = upstreams
    gateway.add_keys("openai")
    gateway.add_keys("gemini")
    gemini.default(json_reply({"error": "down"}, status=503))

    answer = gateway.get("/v1/models")

    assert [entry["id"] for entry in answer.json["data"]] == ["gpt-5", "shared"]


def test_when_nobody_has_a_list_the_caller_gets_the_error(upstreams):
    openai, gemini, gateway = upstreams
    gateway.add_keys("openai")
    gateway.add_keys("gemini")
    for upstream in (openai, gemini):
        upstream.default(json_reply({"error": {"message": "down"}}, status=503))

    answer = gateway.get("/v1/models")

    assert answer.status == 503
    assert "error" in answer.json


def test_each_list_is_kept_and_asked_for_once(upstreams):
    openai, gemini, gateway = upstreams
    gateway.add_keys("openai")
    gateway.add_keys("gemini")

    first, second = gateway.get("/v1/models"), gateway.get("/v1/models")

    assert first.body == second.body
    assert (len(openai.received), len(gemini.received)) == (1, 1)


def test_a_client_key_is_checked_before_any_list_is_fetched(upstreams):
    openai, _gemini, gateway = upstreams
    gateway.add_keys("openai")
    gateway.add_keys("gemini")
    gateway.services.clients.create("somebody")

    answer = gateway.get("/v1/models")

    assert answer.status == 401
    assert openai.received == []
