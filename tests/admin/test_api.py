"""The rest of the admin API: bodies, settings, clients, providers, aliases, prices, requests, logs, routes, usage."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.records import AttemptRecord, RequestRecord
from app.settings import SETTINGS
from app.storage.schema import keys as keys_table
from tests.admin.build import Middleware

API = "/middleware/api"


@pytest.fixture
def client(middleware: Middleware) -> FlaskClient:
    return middleware.client()


# -- bodies ------------------------------------------------------------------------------------------------

CHANGES = [
    ("POST", "keys"),
    ("PUT", "keys/1"),
    ("POST", "keys/bulk-action"),
    ("POST", "keys/import"),
    ("POST", "keys/export"),
    ("POST", "clients"),
    ("PATCH", "clients/1"),
    ("POST", "providers"),
    ("PUT", "providers/gemini"),
    ("POST", "settings"),
    ("POST", "settings/reset"),
    ("PUT", "aliases"),
    ("PUT", "prices"),
    ("PATCH", "aliases"),
    ("POST", "providers/gemini/test"),
    ("POST", "models/refresh"),
    ("PATCH", "prices"),
    ("POST", "login"),
    ("POST", "logout"),
]

BROKEN = {
    "open": b'{"name": ',
    "not json": b"name=x",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 900 + b"1" + b"}" * 900,
    "nested twenty": b'{"name":' + b"[" * 20 + b"]" * 20 + b"}",
    "surrogate": b'{"name": "\\ud800"}',
    "bad utf-8": b'{"name": "\xff\xfe"}',
    "not a number": b'{"name": NaN}',
    "huge number": b'{"name": 1e999999}',
    "digits": b'{"priority": ' + b"9" * 10_000 + b"}",
    "text": b'"name"',
    "number": b"5",
    "null": b"null",
    "gzip": b"\x1f\x8b\x08\x00",
    "nul": b"\x00",
    "utf-16": '{"name": "x"}'.encode("utf-16"),
    "unknown": b'{"is_admin": true}',
    "names": b'{"__proto__": 1, "constructor": 2}',
    "twice": b'{"max_retries": 3, "max_retries": 4}',
    "twice inside": b'{"name": {"a": 1, "a": 2}}',
}


def test_broken_bodies_are_named_errors_and_change_nothing(middleware: Middleware) -> None:
    client = middleware.client()
    for method, path in CHANGES:
        for what, body in BROKEN.items():
            answer = client.open(f"{API}/{path}", method=method, data=body, content_type="application/json")
            assert 400 <= answer.status_code < 500, (method, path, what, answer.text)
            assert set(answer.get_json()) >= {"success", "error", "code"}
            assert answer.get_json()["success"] is False
            assert "Traceback" not in answer.text
    assert middleware.real_keys() == []
    assert middleware.services.live_settings.current.max_retries == 7


def test_a_member_that_is_given_twice_is_named(middleware: Middleware) -> None:
    body = b'{"max_retries": 3, "max_retries": 4}'
    answer = middleware.client().post(f"{API}/settings", data=body, content_type="application/json")
    assert (answer.status_code, answer.get_json()["code"]) == (400, "duplicate_key")
    assert answer.get_json()["param"] == "max_retries"


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    body = b'{"name": "' + b"x" * (1024 * 1024) + b'"}'
    for method, path in CHANGES:
        if path != "keys/import":
            answer = client.open(f"{API}/{path}", method=method, data=body, content_type="application/json")
            assert (answer.status_code, answer.get_json()["code"]) == (413, "request_too_large"), path


def test_a_body_of_another_type_is_refused(client: FlaskClient) -> None:
    for method, path in CHANGES:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            answer = client.open(f"{API}/{path}", method=method, data=b"{}", content_type=content_type)
            assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type"), path


def test_a_content_type_may_name_its_charset(client: FlaskClient) -> None:
    answer = client.post(f"{API}/settings", data=b'{"max_retries": 3}', content_type="application/json; charset=utf-8")
    assert answer.status_code == 200


# -- settings ------------------------------------------------------------------------------------------------


def test_all_settings_are_typed(client: FlaskClient) -> None:
    values = client.get(f"{API}/settings").get_json()
    assert set(values) == {row.name for row in SETTINGS}
    assert values["max_retries"] == 7
    assert values["enable_rate_limiting"] is False
    assert isinstance(values["retry_backoff_factor"], float)


def test_settings_describe_themselves(client: FlaskClient) -> None:
    rows = {row["key"]: row for row in client.get(f"{API}/settings?describe=true").get_json()}
    row = rows["max_retries"]
    assert (row["type"], row["default"], row["minimum"], row["maximum"]) == ("integer", 7, 1, 20)
    assert row["help"]
    assert rows["failover_strategy"]["choices"] == ["round_robin", "least_used", "random", "priority"]
    assert rows["request_timeout"]["unit"] == "seconds"
    client.post(f"{API}/settings", json={"max_retries": 3})
    rows = {row["key"]: row for row in client.get(f"{API}/settings?describe=true").get_json()}
    assert (rows["max_retries"]["source"], rows["connect_timeout"]["source"]) == ("saved", "default")
    assert client.get(f"{API}/settings?describe=maybe").status_code == 400


def test_a_change_of_settings_is_used_at_once(middleware: Middleware) -> None:
    answer = middleware.client().post(f"{API}/settings", json={"max_retries": 3, "enable_cors": "false"})
    assert (answer.status_code, answer.get_json()["message"]) == (200, "Settings updated successfully")
    assert middleware.services.live_settings.current.max_retries == 3
    assert middleware.services.live_settings.current.enable_cors is False


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"max_retries": 99}, "max_retries must be between 1 and 20"),
        ({"max_retries": 3, "connect_timeout": 0}, "connect_timeout must be between 1 and 60"),
        ({"max_retries": 3, "nonsense": 1}, "There is no setting named 'nonsense'."),
        ({"max_retries": 3, "enable_cors": "perhaps"}, "enable_cors must be true or false"),
        ({"max_retries": None}, "max_retries must be"),
        ({"max_retries": [3]}, "max_retries must be"),
        ({"failover_strategy": "best"}, "failover_strategy must be one of"),
        ({}, "No settings were given."),
    ],
)
def test_settings_change_all_or_none(middleware: Middleware, body: dict[str, Any], error: str) -> None:
    answer = middleware.client().post(f"{API}/settings", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith(error)
    assert middleware.services.live_settings.current.max_retries == 7


def test_every_fault_of_a_change_is_told_at_once(client: FlaskClient) -> None:
    wrong = {"max_retries": 99, "model_provider": "nosuch", "nonsense": 1, "enable_cors": True}
    answer = client.post(f"{API}/settings", json=wrong).get_json()
    assert set(answer["faults"]) == {"max_retries", "model_provider", "nonsense"}
    assert answer["faults"]["max_retries"] == "max_retries must be between 1 and 20"
    assert (answer["code"], answer["param"]) == ("invalid_setting", "max_retries")
    assert all(fault in answer["error"] for fault in answer["faults"].values())


def test_one_setting_by_name(client: FlaskClient) -> None:
    assert client.get(f"{API}/settings/max_retries").get_json() == {"key": "max_retries", "value": 7}
    answer = client.get(f"{API}/settings/nonsense")
    assert (answer.status_code, answer.get_json()["error"]) == (404, "Setting not found")


def test_a_reset_restores_every_default(client: FlaskClient) -> None:
    before = client.get(f"{API}/settings").get_json()
    client.post(f"{API}/settings", json={"max_retries": 3, "log_level": "DEBUG"})
    answer = client.post(f"{API}/settings/reset")
    assert answer.status_code == 200
    assert client.get(f"{API}/settings").get_json() == before


def test_a_reset_of_some_settings_leaves_the_others(client: FlaskClient) -> None:
    client.post(f"{API}/settings", json={"max_retries": 3, "retry_total": 9})
    assert client.post(f"{API}/settings/reset", json={"names": ["max_retries"]}).status_code == 200
    values = client.get(f"{API}/settings").get_json()
    assert (values["max_retries"], values["retry_total"]) == (7, 9)


@pytest.mark.parametrize("names", [["retry_total", "nonsense"], [], "retry_total", [1], [None], None])
def test_a_reset_of_what_is_no_setting_resets_nothing(client: FlaskClient, names: Any) -> None:
    client.post(f"{API}/settings", json={"retry_total": 9})
    answer = client.post(f"{API}/settings/reset", json={"names": names})
    assert answer.status_code == 400
    assert client.get(f"{API}/settings/retry_total").get_json()["value"] == 9


# -- client keys ---------------------------------------------------------------------------------------------


def test_a_client_key_is_shown_once(middleware: Middleware) -> None:
    client = middleware.client()
    answer = client.post(f"{API}/clients", json={"name": "laptop", "models": ["gpt-*"], "expires_at": "2027-01-01"})
    assert answer.status_code == 201
    made = answer.get_json()
    assert made["key"].startswith(made["key_prefix"])
    found = middleware.services.clients.authenticate(made["key"])
    assert found is not None
    assert found.name == "laptop"
    (row,) = client.get(f"{API}/clients").get_json()
    assert (row["id"], row["name"], row["active"], row["models"]) == (made["id"], "laptop", True, ["gpt-*"])
    assert row["expires_at"] == "2027-01-01T00:00:00Z"
    assert "key" not in row
    assert "key_hash" not in row
    assert made["key"] not in client.get(f"{API}/clients/{made['id']}").text


def test_a_client_key_can_be_switched_off_renamed_and_deleted(middleware: Middleware) -> None:
    client = middleware.client()
    made = client.post(f"{API}/clients", json={"name": "laptop"}).get_json()
    path = f"{API}/clients/{made['id']}"
    assert client.patch(path, json={"active": False}).get_json()["active"] is False
    assert middleware.services.clients.authenticate(made["key"]) is None
    assert client.patch(path, json={"active": True, "name": "desk"}).get_json()["name"] == "desk"
    assert middleware.services.clients.authenticate(made["key"]) is not None
    assert client.delete(path).status_code == 200
    assert client.delete(path).status_code == 404
    assert client.patch(path, json={"name": "x"}).status_code == 404
    assert middleware.services.clients.authenticate(made["key"]) is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": 5},
        {"name": "x", "id": 1},
        {"name": "x", "key_hash": "0" * 64},
        {"name": "x", "key": "mw-chosen-by-me"},
        {"name": "x", "active": "yes"},
        {"name": "x", "models": "gpt"},
        {"name": "x", "models": [1]},
        {"name": "x", "expires_at": "tomorrow"},
        {"name": "x", "expires_at": -1},
        {"name": "x", "expires_at": True},
        {"name": "x", "expires_at": "nan"},
        {"name": "x", "created_at": 0},
    ],
)
def test_a_wrong_client_is_refused(client: FlaskClient, body: dict[str, Any]) -> None:
    answer = client.post(f"{API}/clients", json=body)
    assert answer.status_code == 400
    assert client.get(f"{API}/clients").get_json() == []


@pytest.mark.parametrize("field", ["id", "key_hash", "key_prefix", "is_admin", "owner", "last_used_at"])
def test_a_client_has_no_fields_to_smuggle(client: FlaskClient, field: str) -> None:
    made = client.post(f"{API}/clients", json={"name": "x"}).get_json()
    answer = client.patch(f"{API}/clients/{made['id']}", json={field: 1})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "unknown_field")


@pytest.mark.parametrize("identity", ["0", "-1", "abc", str(2**63), "9" * 5000])
def test_a_client_that_is_not_there_is_not_found(client: FlaskClient, identity: str) -> None:
    assert client.get(f"{API}/clients/{identity}").status_code == 404
    assert client.patch(f"{API}/clients/{identity}", json={"name": "x"}).status_code == 404
    assert client.delete(f"{API}/clients/{identity}").status_code == 404


# -- providers, aliases, prices, routes --------------------------------------------------------------------------


def test_three_providers_exist_from_the_start(client: FlaskClient) -> None:
    assert {row["name"] for row in client.get(f"{API}/providers").get_json()} == {"gemini", "openai", "anthropic"}


def test_a_provider_is_added_changed_and_removed(client: FlaskClient) -> None:
    entry = {
        "name": "local",
        "kind": "openai-compatible",
        "base_url": "http://127.0.0.1:11434",
        "models": ["llama*"],
        "headers": {"x-team": "a-long-secret-value"},
        "priority": 5,
    }
    made = client.post(f"{API}/providers", json=entry)
    assert made.status_code == 201, made.text
    assert "a-long-secret-value" not in made.text
    shown = client.get(f"{API}/providers/local").get_json()
    assert (shown["kind"], shown["models"], shown["priority"], shown["enabled"]) == (
        "openai-compatible",
        ["llama*"],
        5,
        True,
    )
    shown["priority"] = 6
    assert client.put(f"{API}/providers/local", json=shown).status_code == 200
    again = client.get(f"{API}/providers/local").get_json()
    assert (again["priority"], again["headers"]) == (6, {"x-team": "a-lo...alue"})
    assert client.put(f"{API}/providers/local", json={"enabled": False}).get_json()["provider"]["enabled"] is False
    assert client.post(f"{API}/providers", json=entry).status_code == 409
    assert client.delete(f"{API}/providers/local").status_code == 200
    for method in ("GET", "PUT", "DELETE"):
        assert client.open(f"{API}/providers/local", method=method, json={"priority": 1}).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "UPPER"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"kind": "nothing"}, "kind"),
        ({"base_url": "file:///etc/passwd"}, "base_url"),
        ({"base_url": "http://user:secret@host"}, "base_url"),
        ({"base_url": "http://169.254.169.254"}, "base_url"),
        ({"base_url": 5}, "base_url"),
        ({"formats": ["nonsense"]}, "formats"),
        ({"formats": "openai_chat"}, "formats"),
        ({"models": [5]}, "models[0]"),
        ({"headers": {"x": 5}}, "headers.x"),
        ({"headers": {"bad name": "x"}}, "headers"),
        ({"headers": {"x-a": "b\r\nc: d"}}, "headers.x-a"),
        ({"priority": "first"}, "priority"),
        ({"enabled": 1}, "enabled"),
        ({"api_key": "x"}, "api_key"),
    ],
)
def test_a_wrong_provider_names_the_field(client: FlaskClient, change: dict[str, Any], field: str) -> None:
    entry = {"name": "local", "kind": "openai-compatible", "base_url": "http://127.0.0.1:1"}
    answer = client.post(f"{API}/providers", json={**entry, **change})
    assert answer.status_code == 400, answer.text
    assert answer.get_json()["param"] == field
    assert client.get(f"{API}/providers/local").status_code == 404


def test_a_provider_with_keys_stays(client: FlaskClient) -> None:
    client.post(f"{API}/keys", json={"key": "sk-0123456789abcdef", "provider": "openai"})
    assert client.delete(f"{API}/providers/openai").status_code == 409


def test_aliases_are_replaced_as_a_whole(client: FlaskClient) -> None:
    assert client.get(f"{API}/aliases").get_json() == {}
    assert client.put(f"{API}/aliases", json={"fast": "gemini/gemini-flash", "big": "gpt-5"}).status_code == 200
    assert client.put(f"{API}/aliases", json={"fast": "gpt-5-mini"}).status_code == 200
    assert client.get(f"{API}/aliases").get_json() == {"fast": "gpt-5-mini"}
    for wrong in ({"": "x"}, {"x": ""}, {"x": 5}, {"x": None}, {"a": "b", "b": "c"}, {"x": "y" * 1000}):
        assert client.put(f"{API}/aliases", json=wrong).status_code == 400, wrong
    assert client.get(f"{API}/aliases").get_json() == {"fast": "gpt-5-mini"}


def test_prices_are_replaced_as_a_whole(client: FlaskClient) -> None:
    prices = {"gpt-*": {"input_per_million": 2.5, "output_per_million": 10, "cached_per_million": None}}
    assert client.put(f"{API}/prices", json=prices).status_code == 200
    assert client.get(f"{API}/prices").get_json() == prices
    price = {"input_per_million": 1, "output_per_million": 1}
    for wrong in (
        {"x": 5},
        {"x": {"input_per_million": 1}},
        {"x": {**price, "output_per_million": -1}},
        {"x": {**price, "output_per_million": "1"}},
        {"x": {**price, "currency": "EUR"}},
        {"": price},
    ):
        assert client.put(f"{API}/prices", json=wrong).status_code == 400, wrong
    assert client.get(f"{API}/prices").get_json() == prices
    assert client.put(f"{API}/prices", json={}).status_code == 200
    assert client.get(f"{API}/prices").get_json() == {}


def test_a_route_is_explained_without_sending(client: FlaskClient) -> None:
    client.post(f"{API}/keys", json={"key": "sk-0123456789abcdef", "provider": "openai"})
    found = client.get(f"{API}/route?model=gpt-5&path=/v1/chat/completions").get_json()
    assert found["candidates"][0]["provider"] == "openai"
    assert found["steps"]
    assert client.get(f"{API}/route").status_code == 200
    for query in ("path=v1", "model=a&model=b", "modell=x", "path=%00"):
        assert client.get(f"{API}/route?{query}").status_code == 400, query


# -- requests, logs, usage -----------------------------------------------------------------------------------------


def record(middleware: Middleware, number: int, **fields: Any) -> None:
    attempt = AttemptRecord(1, "openai", fields.get("key_id"), 200, "ok", duration_ms=100)
    values: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "operation": "generate",
        "model": "gpt-5",
        "provider": "openai",
        "status": 200,
        "outcome": "success",
        "input_tokens": 10,
        "output_tokens": 5,
        "duration_ms": 120,
        "attempts": [attempt],
        **fields,
    }
    middleware.services.usage.record(
        RequestRecord(request_id=f"request-{number}", started_at=middleware.time.now, **values)
    )


def test_requests_are_listed_filtered_and_paged(middleware: Middleware) -> None:
    client = middleware.client()
    for number in range(5):
        record(middleware, number, status=200 if number % 2 == 0 else 502, model=f"model-{number}")
    assert middleware.services.writer.flush(5.0)
    page = client.get(f"{API}/requests?limit=2").get_json()
    assert [row["request_id"] for row in page["requests"]] == ["request-4", "request-3"]
    assert page["requests"][0]["attempts"][0]["verdict"] == "ok"
    assert re.fullmatch(r"2026-11-18T\d\d:\d\d:\d\d\.\d{3}Z", page["requests"][0]["started_at"])
    page = client.get(f"{API}/requests?limit=2&before={page['next_before']}").get_json()
    assert [row["request_id"] for row in page["requests"]] == ["request-2", "request-1"]
    page = client.get(f"{API}/requests?before={page['next_before']}").get_json()
    assert (len(page["requests"]), page["next_before"]) == (1, None)
    for query, count in (
        ("status=5xx", 2),
        ("status=502", 2),
        ("verdict=failed", 0),
        ("dialect=gemini", 0),
        ("key=nobody", 0),
        ("range=1h", 5),
        ("model=model-3", 1),
        ("outcome=success", 5),
        ("provider=nobody", 0),
        ("search=request-", 5),
        ("search=%25", 0),
        ("search=request_", 0),
        ("search=' OR 1=1 --", 0),
        ("stream=true", 0),
        ("since=2026-11-01&until=2026-12-01", 5),
        ("until=5", 0),
    ):
        assert len(client.get(f"{API}/requests?{query}").get_json()["requests"]) == count, query
    row = client.get(f"{API}/requests/request-3").get_json()
    assert row["model"] == "model-3"
    assert client.get(f"{API}/requests/{row['id']}").get_json()["request_id"] == "request-3"
    assert client.get(f"{API}/requests/nothing").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "status=99", "status=20x", "verdict=ok", "range=1y", "since=x"]
    + ["key_id=-1", "key_id=99999999999999999999", "stream=1"]
    + ["sort=id", "before=1%27", "limit=1&limit=2", "model=%00"],
)
def test_wrong_filters_are_named(client: FlaskClient, query: str) -> None:
    answer = client.get(f"{API}/requests?{query}")
    assert answer.status_code == 400
    assert answer.get_json()["param"] == query.split("=")[0]


def test_the_log_shows_the_last_lines(middleware: Middleware) -> None:
    client = middleware.client()
    for number in range(60):
        record(middleware, number, request_excerpt="", user_agent="<script>")
    assert middleware.services.writer.flush(5.0)
    lines = client.get(f"{API}/logs").get_json()
    assert len(lines) == 50
    assert set(lines[0]) == {"time", "msg", "color"}
    assert len(client.get(f"{API}/logs?limit=5").get_json()) == 5
    assert client.get(f"{API}/logs?limit=5000").status_code == 400


def test_global_statistics_have_seven_days_and_every_state(middleware: Middleware) -> None:
    client = middleware.client()
    key_id = client.post(f"{API}/keys", json={"key": "sk-0123456789abcdef", "provider": "openai"}).get_json()["id"]
    record(middleware, 1, key_id=key_id)
    assert middleware.services.writer.flush(5.0)
    stats = client.get(f"{API}/global-stats").get_json()
    assert set(stats) == {
        "historical",
        "health_status",
        "error_codes_today",
        "request_distribution",
        "model_usage_today",
    }
    assert len(stats["historical"]) == 7
    assert stats["historical"][-1]["total_requests"] == 1
    assert stats["historical"][0]["total_requests"] == 0
    assert stats["health_status"] == {"Healthy": 1, "Resting": 0, "Disabled": 0}
    key = client.get(f"{API}/keys/{key_id}/stats").get_json()
    assert (key["total_requests"], key["total_tokens_in"], key["total_tokens_out"]) == (1, 10, 5)
    usage = client.get(f"{API}/usage?days=7&key_id={key_id}").get_json()
    assert (usage["totals"]["requests"], usage["totals"]["tokens_in"]) == (1, 10)
    assert usage["rows"][0]["model"] == "gpt-5"
    for query in ("days=0", "days=1000", "key_id=x", "nonsense=1"):
        assert client.get(f"{API}/usage?{query}").status_code == 400


def test_a_failing_database_is_a_503_and_no_traceback(middleware: Middleware) -> None:
    client = middleware.client()
    with middleware.services.database.transaction() as connection:
        keys_table.drop(connection)
    answer = client.get(f"{API}/keys")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "database_unavailable")
