"""Testing a provider, and the models that providers offer: asked for, kept, and told apart from each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests import canned
from tests.admin.build import Middleware
from tests.fake_provider import FakeProvider, closed_port, json_reply, reply

API = "/middleware/api"
KEY = "sk-0123456789abcdef"


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def client(middleware: Middleware, upstream: FakeProvider) -> FlaskClient:
    """`local` is the upstream, with one key; `dead` is a closed port, with one key."""
    client = middleware.client()
    for name, origin in (("local", upstream.origin), ("dead", closed_port())):
        entry = {"name": name, "kind": "openai-compatible", "base_url": origin}
        assert client.post(f"{API}/providers", json=entry).status_code == 201
        middleware.add_key(f"{KEY}-{name}", provider=name, name=f"key of {name}")
    return client


def rows(client: FlaskClient) -> dict[str, dict[str, Any]]:
    answer = client.get(f"{API}/models")
    assert answer.status_code == 200
    return {row["provider"]: row for row in answer.get_json()["providers"]}


def test_a_provider_is_tested_by_its_list_of_models(client: FlaskClient, upstream: FakeProvider) -> None:
    upstream.answers(json_reply(canned.openai_models(*[f"model-{number}" for number in range(50)])))
    found = client.post(f"{API}/providers/local/test", json={}).get_json()
    assert (found["success"], found["ok"], found["status"], found["models"]) == (True, True, 200, 50)
    assert found["sample"][0] == "model-0"
    assert len(found["sample"]) == 20
    assert found["key"]["name"] == "key of local"
    assert upstream.keys == [f"{KEY}-local"]


@pytest.mark.parametrize(
    ("behavior", "verdict", "words"),
    [
        (json_reply({"error": {"message": f"no such key {KEY}-local", "code": "invalid_api_key"}}, 401), "", "key"),
        (reply(404, body="nothing"), "", "Check the base URL"),
        (json_reply({"hello": "world"}), "", "not with a list of models"),
        (reply(200, body="<html><script>alert(1)</script>"), "PROVIDER", "trouble"),
        (json_reply({"error": {"message": "slow down"}}, 429), "KEY_REST", "limits this key"),
    ],
)
def test_what_went_wrong_is_said_in_words(
    client: FlaskClient, upstream: FakeProvider, behavior: Any, verdict: str, words: str
) -> None:
    upstream.answers(behavior)
    answer = client.post(f"{API}/providers/local/test", json={})
    found = answer.get_json()
    assert (answer.status_code, found["ok"], found["models"]) == (200, False, None)
    assert words in found["message"]
    assert verdict in found["verdict"]
    assert f"{KEY}-local" not in answer.text


def test_a_test_changes_nothing_about_the_key(client: FlaskClient, upstream: FakeProvider) -> None:
    upstream.answers(json_reply({"error": {"message": "no"}}, 401))
    client.post(f"{API}/providers/local/test", json={})
    assert {row["status"] for row in client.get(f"{API}/keys").get_json()} == {"Healthy"}


def test_a_provider_without_a_usable_key_says_so(client: FlaskClient) -> None:
    found = client.post(f"{API}/providers/anthropic/test", json={}).get_json()
    assert (found["ok"], found["key"], found["message"]) == (False, None, "There is no key for this provider yet.")
    ids = [row["id"] for row in client.get(f"{API}/keys").get_json() if row["provider"] == "dead"]
    client.post(f"{API}/keys/bulk-action", json={"key_ids": ids, "status": "Disabled"})
    found = client.post(f"{API}/providers/dead/test", json={}).get_json()
    assert found["message"] == "All keys of this provider are disabled."
    assert client.post(f"{API}/providers/nothing/test", json={}).status_code == 404


def test_a_resting_key_may_still_ask(client: FlaskClient, upstream: FakeProvider) -> None:
    ids = [row["id"] for row in client.get(f"{API}/keys").get_json() if row["provider"] == "local"]
    client.post(f"{API}/keys/bulk-action", json={"key_ids": ids, "status": "Resting"})
    upstream.answers(json_reply(canned.openai_models("one")))
    assert client.post(f"{API}/providers/local/test", json={}).get_json()["ok"] is True


def test_a_dead_provider_hides_no_other(client: FlaskClient, upstream: FakeProvider) -> None:
    assert {row["asked_at"] for row in rows(client).values()} == {None}
    upstream.default(json_reply(canned.openai_models("one", "two")))
    assert client.post(f"{API}/models/refresh", json={}).status_code == 200
    found = rows(client)
    assert found["local"]["models"] == ["one", "two"]
    assert (found["dead"]["ok"], found["dead"]["models"]) == (False, [])
    assert found["dead"]["message"] == "No answer came from this address."
    assert found["anthropic"]["reason"] == "no_keys"


def test_models_are_kept_until_somebody_asks_again(client: FlaskClient, upstream: FakeProvider) -> None:
    upstream.answers(json_reply(canned.openai_models("one")), reply(500), json_reply(canned.openai_models("two")))
    client.post(f"{API}/models/refresh", json={"provider": "local"})
    rows(client)
    assert len(upstream.keys) == 1
    client.post(f"{API}/models/refresh", json={"provider": "local"})
    failed = rows(client)["local"]
    assert (failed["ok"], failed["models"], failed["status"]) == (False, ["one"], 500)
    client.post(f"{API}/models/refresh", json={"provider": "local"})
    assert rows(client)["local"]["models"] == ["two"]
    assert [row["provider"] for row in client.get(f"{API}/models?provider=local").get_json()["providers"]] == ["local"]
    assert client.get(f"{API}/models?provider=nothing").status_code == 404
    assert client.post(f"{API}/models/refresh", json={"provider": "nothing"}).status_code == 404


def test_another_address_has_other_models(client: FlaskClient, upstream: FakeProvider) -> None:
    upstream.answers(json_reply(canned.openai_models("one")))
    client.post(f"{API}/models/refresh", json={"provider": "local"})
    client.put(f"{API}/providers/local", json={"base_url": upstream.origin + "/elsewhere"})
    assert rows(client)["local"]["asked_at"] is None


def test_a_provider_that_is_switched_off_is_not_asked(client: FlaskClient, upstream: FakeProvider) -> None:
    client.put(f"{API}/providers/local", json={"enabled": False})
    client.post(f"{API}/models/refresh", json={})
    assert "local" not in rows(client)
    assert upstream.keys == []


def test_a_damaged_file_counts_as_none(middleware: Middleware, client: FlaskClient, upstream: FakeProvider) -> None:
    upstream.default(json_reply(canned.openai_models("one")))
    client.post(f"{API}/models/refresh", json={"provider": "local"})
    file: Path = middleware.services.config.run_dir / "models" / "local.json"
    assert file.stat().st_mode & 0o077 == 0
    for content in (b"", b"[]", b"null", b"{", json.dumps({"ok": True}).encode()):
        file.write_bytes(content)
        assert rows(client)["local"]["asked_at"] is None, content


def test_the_demonstration_offers_its_models_while_it_answers(middleware: Middleware) -> None:
    client = middleware.client()
    assert "demo" in rows(client)
    assert client.post(f"{API}/providers/demo/test", json={}).get_json()["ok"] is True
    assert any(name.startswith("demo-") for name in rows(client)["demo"]["models"])
    middleware.add_key(KEY, provider="openai")
    assert "demo" not in rows(client)
    assert client.post(f"{API}/providers/demo/test", json={}).status_code == 404


def test_the_list_counts_the_keys_and_can_be_sent_back(client: FlaskClient) -> None:
    listed = {row["name"]: row for row in client.get(f"{API}/providers").get_json()}
    assert listed["local"]["keys"] == {"Healthy": 1, "Resting": 0, "Disabled": 0}
    assert client.put(f"{API}/providers/local", json=listed["local"]).status_code == 200
