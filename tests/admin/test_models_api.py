"""Single aliases and prices, and what the route explainer says about keys and clients."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.admin.build import Middleware
from tests.admin.test_api import record

API = "/middleware/api"
PRICE = {"input_per_million": 2.5, "output_per_million": 10.0, "cached_per_million": None}


@pytest.fixture
def client(middleware: Middleware) -> FlaskClient:
    return middleware.client()


def test_single_aliases_change_beside_the_others(client: FlaskClient) -> None:
    client.put(f"{API}/aliases", json={"fast": "gpt-5-mini", "big": "gpt-5"})
    answer = client.patch(f"{API}/aliases", json={"fast": None, "new": "gemini/gemini-flash"})
    assert answer.get_json()["aliases"] == {"big": "gpt-5", "new": "gemini/gemini-flash"}
    for wrong in ({"": "x"}, {"x": ""}, {"x": 5}, {"x": "big"}, {"gpt-5": "gpt-4"}, {"x": ["y"]}):
        assert client.patch(f"{API}/aliases", json=wrong).status_code == 400, wrong
    assert client.get(f"{API}/aliases").get_json() == {"big": "gpt-5", "new": "gemini/gemini-flash"}


def test_single_prices_change_beside_the_others(client: FlaskClient) -> None:
    client.put(f"{API}/prices", json={"gpt-*": PRICE, "claude-*": PRICE})
    answer = client.patch(f"{API}/prices", json={"gpt-*": None, "gemini-*": {**PRICE, "cached_per_million": 0.25}})
    assert answer.get_json()["prices"] == {"claude-*": PRICE, "gemini-*": {**PRICE, "cached_per_million": 0.25}}
    for wrong in ({"x": 5}, {"x": {"input_per_million": 1}}, {"": PRICE}, {"x": {**PRICE, "currency": "EUR"}}):
        assert client.patch(f"{API}/prices", json=wrong).status_code == 400, wrong
    assert set(client.get(f"{API}/prices").get_json()) == {"claude-*", "gemini-*"}


# -- the route explainer ------------------------------------------------------------------------------------


def explained(client: FlaskClient, query: str = "model=gpt-5") -> dict:
    answer = client.get(f"{API}/route?{query}")
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def test_the_key_that_is_next_is_named_without_being_used(middleware: Middleware) -> None:
    first = middleware.add_key("sk-0123456789-first", provider="openai", name="first")
    middleware.add_key("sk-0123456789-second", provider="openai", name="second")
    client = middleware.client()
    for _ in range(3):
        found = explained(client)
        assert found["error"] is None
        assert (found["next"]["key_id"], found["next"]["key_name"]) == (first, "first")
        assert found["next"]["key_value"] == "sk-0...irst"
    assert found["candidates"][0]["keys"]["ready"] == 2
    assert found["candidates"][0]["base_url"] == "https://api.openai.com"


def test_the_preview_agrees_with_the_next_pick(middleware: Middleware) -> None:
    from app.keys.base import KeyWanted

    for number in range(4):
        middleware.add_key(f"sk-0123456789-{number}", provider="openai", priority=number % 2, name=str(number))
    keys, client = middleware.services.keys, middleware.client()
    for strategy in ("round_robin", "least_used", "priority", "random"):
        middleware.services.live_settings.update({"failover_strategy": strategy})
        for _ in range(6):
            told = explained(client)["next"]["key_id"]
            lease = keys.acquire(KeyWanted(("openai",), {"openai": "gpt-5"}), middleware.services.clock.monotonic())
            assert lease.key_id == told, strategy


def test_why_no_key_can_serve_is_told(middleware: Middleware) -> None:
    key_id = middleware.add_key("sk-0123456789abcdef", provider="openai", models=["gpt-4*"])
    client = middleware.client()
    found = explained(client)
    assert (found["next"], found["error"]["code"]) == (None, "no_keys")
    assert found["candidates"][0]["keys"]["not_allowed"] == 1
    assert explained(client, "model=gpt-4o")["next"]["key_id"] == key_id
    client.post(f"{API}/keys/bulk-action", json={"key_ids": [key_id], "status": "Resting"})
    found = explained(client, "model=gpt-4o")
    assert (found["error"]["status"], found["error"]["code"]) == (429, "all_keys_resting")
    assert found["candidates"][0]["keys"]["wakes_at"] in found["error"]["message"]
    client.post(f"{API}/keys/bulk-action", json={"key_ids": [key_id], "status": "Disabled"})
    assert explained(client, "model=gpt-4o")["error"]["status"] == 503


def test_a_client_is_asked_as_at_the_door(middleware: Middleware) -> None:
    middleware.add_key("sk-0123456789abcdef", provider="openai")
    client = middleware.client()
    made = client.post(f"{API}/clients", json={"name": "app", "models": ["gpt-4*"]}).get_json()
    asked = f"client={made['id']}"
    assert explained(client, f"model=gpt-4o&{asked}")["error"] is None
    refused = explained(client, f"model=gpt-5&{asked}")
    assert (refused["error"]["status"], refused["error"]["code"]) == (403, "forbidden")
    assert refused["next"] is None
    for change, word in (({"active": False}, "switched off"), ({"active": True, "expires_at": 5}, "expired")):
        client.patch(f"{API}/clients/{made['id']}", json=change)
        refused = explained(client, f"model=gpt-4o&{asked}")
        assert refused["error"]["status"] == 401
        assert word in refused["error"]["message"]
    assert client.get(f"{API}/route?client=999").status_code == 404
    assert client.get(f"{API}/route?client=x").status_code == 400


# -- clients ------------------------------------------------------------------------------------------------


def test_the_usage_of_a_client_is_told_by_day_and_model(middleware: Middleware) -> None:
    client = middleware.client()
    client.put(f"{API}/prices", json={"gpt-*": {"input_per_million": 1_000, "output_per_million": 2_000}})
    made = client.post(f"{API}/clients", json={"name": "app"}).get_json()
    for number, model in enumerate(("gpt-5", "gpt-5", "unknown")):
        record(middleware, number, client_id=made["id"], model=model)
    assert middleware.services.writer.flush(5.0)
    found = client.get(f"{API}/clients/{made['id']}/usage").get_json()
    assert (len(found["days"]), found["totals"]["requests"], found["days"][-1]["requests"]) == (30, 3, 3)
    assert [row["model"] for row in found["models"]] == ["gpt-5", "unknown"]
    assert found["models"][0]["cost"] == pytest.approx(2 * (10 * 1_000 + 5 * 2_000) / 1e6)
    assert len(client.get(f"{API}/clients/{made['id']}/usage?days=7").get_json()["days"]) == 7
    for path, status in (("999/usage", 404), (f"{made['id']}/usage?days=0", 400), ("x/usage", 404)):
        assert client.get(f"{API}/clients/{path}").status_code == status, path
