"""Upstream keys through the admin API: shapes, messages, masks, states, export and import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.storage.schema import daily_stats
from tests.admin.build import PASSWORD, Middleware, bearer

VALUE = "sk-0123456789abcdef"
MASKED = "sk-0...cdef"
KEYS = "/middleware/api/keys"


@pytest.fixture
def client(middleware: Middleware) -> FlaskClient:
    return middleware.client()


def add(client: FlaskClient, value: str = VALUE, **fields: Any) -> int:
    answer = client.post(KEYS, json={"key": value, **fields})
    assert answer.status_code == 201, answer.text
    assert (answer.get_json()["success"], answer.get_json()["message"]) == (True, "Key added.")
    key_id: int = answer.get_json()["id"]
    return key_id


def real(client: FlaskClient) -> list[dict[str, Any]]:
    return [row for row in client.get(KEYS).get_json() if not row["demonstration"]]


# -- list, add, get ------------------------------------------------------------------------------------


def test_the_list_shows_state_and_figures_and_a_masked_value(client: FlaskClient) -> None:
    add(client, name="first", note="a note", priority=3, provider="openai", group="team", models=["gpt-*"])
    (row,) = real(client)
    assert row == {
        "id": row["id"],
        "name": "first",
        "key_value": MASKED,
        "status": "Healthy",
        "priority": 3,
        "kpi": 100,
        "usage_today": 0,
        "total_usage": 0,
        "last_used": None,
        "provider": "openai",
        "group": "team",
        "models": ["gpt-*"],
        "note": "a note",
        "reason": "",
        "evidence": {"status": 0, "message": ""},
        "disabled_until": None,
        "model_rests": [],
        "demonstration": False,
    }


def test_a_new_key_has_the_documented_defaults(client: FlaskClient) -> None:
    key_id = add(client)
    row = client.get(f"{KEYS}/{key_id}").get_json()
    assert (row["name"], row["provider"], row["priority"], row["status"]) == ("Unnamed", "gemini", 1, "Healthy")


def test_figures_of_today_come_from_the_statistics(middleware: Middleware) -> None:
    client = middleware.client()
    key_id = add(client)
    with middleware.services.database.transaction() as connection:
        connection.execute(
            daily_stats.insert().values(
                key_id=key_id, date="2026-11-18", requests=10, successes=5, errors=5, total_latency_ms=5000
            )
        )
    (row,) = real(client)
    assert (row["kpi"], row["usage_today"], row["total_usage"]) == (int(0.5 * 70 + 0.8 * 30), 10, 10)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "Invalid key."),
        ({"key": ""}, "Invalid key."),
        ({"key": "short"}, "Invalid key."),
        ({"key": None}, "Invalid key."),
        ({"key": 1234567890123}, "Invalid key."),
        ({"key": ["sk-0123456789"]}, "Invalid key."),
        ({"key": "sk-012345\n6789"}, "Invalid key."),
        ({"key": "sk-0123456789é"}, "Invalid key."),
        ({"key": "sk 0123456789"}, "Invalid key."),
        ({"key": "x" * 10_000}, "Invalid key."),
        ({"key": MASKED}, "Invalid key."),
        ({"key": VALUE, "name": 7}, "`name` must be"),
        ({"key": VALUE, "name": "a\x00b"}, "`name` must be"),
        ({"key": VALUE, "name": "x" * 201}, "`name` must be"),
        ({"key": VALUE, "note": ["x"]}, "`note` must be"),
        ({"key": VALUE, "priority": "1"}, "`priority` must be"),
        ({"key": VALUE, "priority": True}, "`priority` must be"),
        ({"key": VALUE, "priority": 1.5}, "`priority` must be"),
        ({"key": VALUE, "priority": 10**30}, "`priority` must be"),
        ({"key": VALUE, "models": "gpt-4"}, "`models` must be"),
        ({"key": VALUE, "models": ["gpt-4", 5]}, "`models[1]` must be"),
        ({"key": VALUE, "provider": "nobody"}, "There is no provider named 'nobody'"),
        ({"key": VALUE, "provider": "demo"}, "There is no provider named 'demo'"),
        ({"key": VALUE, "provider": ""}, "`provider` must be"),
        ({"key": VALUE, "is_admin": True}, "Unknown field: `is_admin`"),
        ({"key": VALUE, "id": 5}, "Unknown field: `id`"),
        ({"key": VALUE, "status": "Healthy", "total_requests": 5}, "Unknown field: `status`, `total_requests`"),
    ],
)
def test_what_is_wrong_with_a_new_key_is_named(client: FlaskClient, body: dict[str, Any], error: str) -> None:
    answer = client.post(KEYS, json=body)
    assert answer.status_code == 400
    assert answer.get_json()["success"] is False
    assert answer.get_json()["error"].startswith(error)
    assert real(client) == []


def test_a_key_exists_once(client: FlaskClient) -> None:
    add(client)
    answer = client.post(KEYS, json={"key": f" {VALUE} "})
    assert (answer.status_code, answer.get_json()["error"]) == (400, "Key exists.")


NO_IDS = ["999", "0", "-1", "abc", "1.5", str(2**63), str(2**64), "9" * 5000, "%00", "1;x", "٣"]


@pytest.mark.parametrize("identity", NO_IDS)
def test_a_key_that_is_not_there_is_not_found(client: FlaskClient, identity: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        body = {"name": "x"} if method == "PUT" else None
        answer = client.open(f"{KEYS}/{identity}", method=method, json=body)
        assert (answer.status_code, answer.get_json()["error"]) == (404, "Key not found")
    for call in ("stats", "wake", "reveal"):
        other = client.open(f"{KEYS}/{identity}/{call}", method="GET" if call == "stats" else "POST")
        assert (other.status_code, other.get_json()["success"]) == (404, False)


# -- change, delete --------------------------------------------------------------------------------------


def test_a_change_touches_only_what_is_sent(client: FlaskClient) -> None:
    key_id = add(client, name="first", note="keep", priority=2)
    answer = client.put(f"{KEYS}/{key_id}", json={"name": "second"})
    assert (answer.status_code, answer.get_json()["message"]) == (200, "Key updated.")
    row = client.get(f"{KEYS}/{key_id}").get_json()
    assert (row["name"], row["note"], row["priority"], row["key_value"]) == ("second", "keep", 2, MASKED)


def test_a_person_disables_and_enables_a_key(client: FlaskClient) -> None:
    key_id = add(client)
    for status in ("Disabled", "Healthy"):
        assert client.put(f"{KEYS}/{key_id}", json={"status": status}).status_code == 200
        assert client.get(f"{KEYS}/{key_id}").get_json()["status"] == status


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "No valid data."),
        ({"status": "Resting"}, "Update failed."),
        ({"status": "healthy"}, "Update failed."),
        ({"status": 1}, "Update failed."),
        ({"status": ["Healthy"]}, "Update failed."),
        ({"key": "short"}, "Invalid key."),
        ({"key": "AIza...0000"}, "Invalid key."),
        ({"priority": None}, "`priority` must be"),
        ({"kpi": 100}, "Unknown field: `kpi`"),
        ({"key_value": VALUE}, "Unknown field: `key_value`"),
    ],
)
def test_what_is_wrong_with_a_change_is_named(client: FlaskClient, body: dict[str, Any], error: str) -> None:
    key_id = add(client, name="first")
    answer = client.put(f"{KEYS}/{key_id}", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith(error)
    row = client.get(f"{KEYS}/{key_id}").get_json()
    assert (row["name"], row["status"], row["priority"]) == ("first", "Healthy", 1)


def test_a_mask_that_is_sent_back_does_not_overwrite_the_value(client: FlaskClient) -> None:
    key_id = add(client)
    shown = client.get(f"{KEYS}/{key_id}").get_json()["key_value"]
    assert client.put(f"{KEYS}/{key_id}", json={"key": shown, "name": "renamed"}).status_code == 200
    assert client.post(f"{KEYS}/{key_id}/reveal").get_json()["key_value"] == VALUE
    assert client.put(f"{KEYS}/{key_id}", json={"key": shown}).status_code == 200
    assert client.post(f"{KEYS}/{key_id}/reveal").get_json()["key_value"] == VALUE


def test_a_new_value_replaces_the_old_one_and_another_keys_value_is_a_conflict(client: FlaskClient) -> None:
    first, second = add(client), add(client, "sk-another-value-1")
    assert client.put(f"{KEYS}/{first}", json={"key": "sk-a-third-value-0"}).status_code == 200
    assert client.get(f"{KEYS}/{first}").get_json()["key_value"] == "sk-a...ue-0"
    answer = client.put(f"{KEYS}/{second}", json={"key": "sk-a-third-value-0"})
    assert (answer.status_code, answer.get_json()["error"]) == (409, "Key exists.")


def test_a_deleted_key_is_gone(client: FlaskClient) -> None:
    key_id = add(client)
    assert client.delete(f"{KEYS}/{key_id}").get_json()["success"] is True
    assert client.delete(f"{KEYS}/{key_id}").status_code == 404
    assert real(client) == []


# -- bulk, rest, wake ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["Healthy", "Disabled", "Resting"])
def test_a_bulk_change_says_how_many(client: FlaskClient, status: str) -> None:
    ids = [add(client, f"sk-bulk-value-{number}") for number in range(3)]
    answer = client.post(f"{KEYS}/bulk-action", json={"key_ids": [*ids[:2], 9999], "status": status})
    assert (answer.status_code, answer.get_json()["message"]) == (200, f"2 keys updated to {status}.")
    assert [row["status"] for row in real(client)] == [status, status, "Healthy"]


def test_a_bulk_rest_lasts_an_hour_and_a_person_can_end_it(middleware: Middleware) -> None:
    client = middleware.client()
    key_id = add(client)
    client.post(f"{KEYS}/bulk-action", json={"key_ids": [key_id], "status": "Resting"})
    row = client.get(f"{KEYS}/{key_id}").get_json()
    assert row["status"] == "Resting"
    assert row["disabled_until"].startswith("2026-11-18T")
    answer = client.post(f"{KEYS}/{key_id}/wake")
    assert (answer.status_code, answer.get_json()["message"]) == (200, "Key woken.")
    row = client.get(f"{KEYS}/{key_id}").get_json()
    assert (row["status"], row["disabled_until"]) == ("Healthy", None)


def test_a_disabled_key_is_enabled_not_woken(client: FlaskClient) -> None:
    key_id = add(client)
    client.put(f"{KEYS}/{key_id}", json={"status": "Disabled"})
    assert client.post(f"{KEYS}/{key_id}/wake").status_code == 409


def test_a_bulk_delete_says_how_many(client: FlaskClient) -> None:
    ids = [add(client, f"sk-bulk-value-{number}") for number in range(3)]
    answer = client.post(f"{KEYS}/bulk-action", json={"key_ids": ids, "status": "delete"})
    assert answer.get_json()["message"] == "3 keys deleted."
    assert real(client) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"status": "Healthy"}, "No key IDs provided."),
        ({"key_ids": [], "status": "Healthy"}, "No key IDs provided."),
        ({"key_ids": 5, "status": "Healthy"}, "No key IDs provided."),
        ({"key_ids": [1], "status": "Dead"}, "Invalid status for bulk update."),
        ({"key_ids": [1]}, "Invalid status for bulk update."),
        ({"key_ids": [1], "status": ["delete"]}, "Invalid status for bulk update."),
        ({"key_ids": ["1"], "status": "delete"}, "key_ids must be"),
        ({"key_ids": [True], "status": "delete"}, "key_ids must be"),
        ({"key_ids": [2**64 - 1], "status": "delete"}, "key_ids must be"),
        ({"key_ids": [1], "status": "delete", "force": True}, "Unknown field: `force`"),
    ],
)
def test_what_is_wrong_with_a_bulk_change_is_said(client: FlaskClient, body: dict[str, Any], error: str) -> None:
    add(client)
    answer = client.post(f"{KEYS}/bulk-action", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith(error)
    assert len(real(client)) == 1


# -- values that come out whole ----------------------------------------------------------------------------


def test_no_answer_holds_a_whole_value_unless_it_is_asked_for(locked: Middleware) -> None:
    key_id = locked.add_key(VALUE)
    client = locked.client(bearer=True)
    for path in ("keys", f"keys/{key_id}", "keys/export", f"keys/{key_id}/stats", "logs", "requests", "providers"):
        assert VALUE not in client.get(f"/middleware/api/{path}").text
    assert VALUE not in client.get("/middleware/").text
    assert client.get(f"{KEYS}/export").get_json()[0]["key_value"] == MASKED


def test_revealing_a_value_needs_the_password_again(locked: Middleware) -> None:
    key_id = locked.add_key(VALUE)
    client = locked.client(bearer=True)
    for path in (f"{KEYS}/{key_id}/reveal", f"{KEYS}/export"):
        assert client.post(path).status_code == 400
        assert client.post(path, json={"password": 5}).status_code == 400
        wrong = client.post(path, json={"password": "wrong"})
        assert (wrong.status_code, wrong.get_json()["code"]) == (403, "invalid_password")
        assert VALUE not in wrong.text
        assert VALUE in client.post(path, json={"password": PASSWORD}).text
    assert client.get(f"{KEYS}/export?reveal=true").status_code == 400
    assert client.get(f"{KEYS}/export?reveal=perhaps").status_code == 400


def test_guessing_the_password_by_revealing_is_throttled_too(locked: Middleware) -> None:
    key_id = locked.add_key(VALUE)
    client = locked.client(bearer=True)
    statuses = [client.post(f"{KEYS}/{key_id}/reveal", json={"password": "wrong"}).status_code for _ in range(7)]
    assert statuses == [403] * 5 + [429] * 2


def test_without_a_password_an_export_needs_none(client: FlaskClient) -> None:
    add(client)
    assert client.post(f"{KEYS}/export").get_json()[0]["key_value"] == VALUE
    assert client.get(f"{KEYS}/export?reveal=true").get_json()[0]["key_value"] == VALUE


# -- export and import -------------------------------------------------------------------------------------


def test_an_export_comes_back_whole(tmp_path: Path) -> None:
    with Middleware(tmp_path / "one") as one:
        client = one.client()
        add(client, name="=cmd|'/c calc'!A1", note="<b>two\nlines</b>", priority=4, provider="openai", group="g")
        disabled = add(client, "sk-disabled-value", name="off", models=["gemini-*"])
        client.put(f"{KEYS}/{disabled}", json={"status": "Disabled"})
        resting = add(client, "sk-resting-value", name="asleep", provider="anthropic")
        client.post(f"{KEYS}/bulk-action", json={"key_ids": [resting], "status": "Resting"})
        exported = client.post(f"{KEYS}/export").get_json()
    assert set(exported[0]) == {"name", "key_value", "note", "priority", "status", "provider", "group", "models"}
    with Middleware(tmp_path / "two") as two:
        client = two.client()
        answer = client.post(f"{KEYS}/import", json=exported)
        assert answer.get_json()["message"] == "Import complete. Imported 3, skipped 0."
        again = client.post(f"{KEYS}/export").get_json()
        for before, after in zip(exported, again, strict=True):
            until = (before.pop("disabled_until", None), after.pop("disabled_until", None))
            assert (until[0] is None) == (until[1] is None)
            assert before == after


def test_short_known_and_masked_values_are_skipped_and_counted(client: FlaskClient) -> None:
    add(client)
    rows = [
        {"name": "new", "key_value": "sk-brand-new-value"},
        {"name": "twice", "key_value": "sk-brand-new-value"},
        {"name": "known", "key_value": VALUE},
        {"name": "short", "key_value": "short"},
        {"name": "masked", "key_value": "AIza...wxyz"},
        {"name": "hidden", "key_value": "****"},
        {"name": "none"},
        {"name": 5, "key_value": "sk-wrong-name-type"},
        {"name": "demo", "key_value": "sk-of-the-demo-x", "provider": "demo"},
        "not an object",
        None,
        [],
    ]
    answer = client.post(f"{KEYS}/import", json=rows)
    assert answer.status_code == 200
    assert answer.get_json()["message"] == "Import complete. Imported 1, skipped 11."
    assert answer.get_json()["masked"] == 2
    assert [row["name"] for row in real(client)] == ["Unnamed", "new"]


def test_keys_of_a_provider_that_does_not_exist_are_skipped_and_counted(client: FlaskClient) -> None:
    rows = [
        {"name": "none named", "key_value": "sk-without-provider"},
        {"name": "null", "key_value": "sk-provider-null", "provider": None},
        {"name": "padded", "key_value": "sk-provider-padded", "provider": " openai "},
        {"name": "unknown", "key_value": "sk-provider-unknown", "provider": "acme"},
        {"name": "empty", "key_value": "sk-provider-empty", "provider": ""},
        {"name": "list", "key_value": "sk-provider-list", "provider": ["openai"]},
    ]
    answer = client.post(f"{KEYS}/import", json=rows)
    assert answer.get_json()["message"] == "Import complete. Imported 3, skipped 3."
    assert [(row["name"], row["provider"]) for row in real(client)] == [
        ("none named", "gemini"),
        ("null", "gemini"),
        ("padded", "openai"),
    ]


def test_an_import_must_be_a_list(client: FlaskClient) -> None:
    bodies: tuple[Any, ...] = ({"keys": []}, "x", 5, None)
    for body in bodies:
        assert client.post(f"{KEYS}/import", json=body).status_code == 400


def test_an_import_may_be_larger_than_other_bodies_but_not_without_end(client: FlaskClient) -> None:
    rows = [{"name": f"key {number}", "key_value": f"sk-{number:0500}"} for number in range(3000)]
    assert len(json.dumps(rows)) > 1024 * 1024
    assert client.post(f"{KEYS}/import", json=rows).get_json()["imported"] == 3000
    answer = client.post(f"{KEYS}/import", data=b"[" + b" " * 10 * 1024 * 1024 + b"]", content_type="application/json")
    assert (answer.status_code, answer.get_json()["code"]) == (413, "request_too_large")


def test_names_and_notes_come_back_as_the_text_they_were(client: FlaskClient) -> None:
    name, note = "<img src=x onerror=alert(1)> \u202e é", "javascript:alert(1)\n<script>x</script>"
    key_id = add(client, name=name, note=note)
    answer = client.get(f"{KEYS}/{key_id}")
    assert answer.mimetype == "application/json"
    assert (answer.get_json()["name"], answer.get_json()["note"]) == (name, note)


# -- statistics ----------------------------------------------------------------------------------------------


def test_the_statistics_of_an_unused_key_are_zeros(client: FlaskClient) -> None:
    key_id = add(client)
    assert client.get(f"{KEYS}/{key_id}/stats").get_json() == {
        "total_requests": 0,
        "successful_requests": 0,
        "failed_requests": 0,
        "total_tokens_in": 0,
        "total_tokens_out": 0,
        "avg_latency": 0,
        "model_usage": {},
        "error_types": {},
        "daily_stats": [],
    }


def test_a_bearer_token_does_all_of_it(locked: Middleware) -> None:
    headers = bearer(locked.token())
    client = locked.client()
    added = client.post(KEYS, json={"key": VALUE}, headers=headers)
    key_id = added.get_json()["id"]
    assert client.put(f"{KEYS}/{key_id}", json={"name": "x"}, headers=headers).status_code == 200
    assert client.delete(f"{KEYS}/{key_id}", headers=headers).status_code == 200


@pytest.mark.parametrize("key_id", [0, -1, 2**63, 2**80, 1.5, "1", True])
def test_what_can_be_no_id_is_refused_by_bulk_test(middleware: Middleware, key_id: object) -> None:
    answer = middleware.client().post("/middleware/api/keys/bulk-test", json={"key_ids": [key_id]})
    assert (answer.status_code, answer.get_json()["param"]) == (400, "key_ids")
