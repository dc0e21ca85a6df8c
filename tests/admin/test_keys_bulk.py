"""Many keys at once through the admin API: the report of each line, and that no value is said back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.admin.build import Middleware

BULK = "/middleware/api/keys/bulk-add"
KEYS = "/middleware/api/keys"


@pytest.fixture
def client(middleware: Middleware) -> FlaskClient:
    return middleware.client()


def bulk(client: FlaskClient, **body: Any) -> dict[str, Any]:
    answer = client.post(BULK, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def real(client: FlaskClient) -> list[dict[str, Any]]:
    return [row for row in client.get(KEYS).get_json() if not row["demonstration"]]


def test_each_line_is_reported(client: FlaskClient) -> None:
    client.post(KEYS, json={"key": "sk-known-0123456789", "provider": "openai"})
    text = "\n".join(
        ["# keys", "sk-first-0123456789", "mine: sk-other-0123456789 # paid", "sk-first-0123456789"]
        + ["", "sk-known-0123456789", "short", "sk-0...6789", "with blanks inside it"]
    )
    found = bulk(client, text=text, provider="openai", group="team", priority=5, models=["gpt-*"], name="batch")
    assert [(line["line"], line["result"]) for line in found["lines"]] == [
        (2, "added"),
        (3, "added"),
        (4, "repeated"),
        (6, "exists"),
        (7, "invalid"),
        (8, "invalid"),
        (9, "invalid"),
    ]
    assert (found["added"], found["exists"], found["repeated"], found["invalid"]) == (2, 1, 1, 3)
    assert found["message"] == "2 keys added; 1 there already; 1 repeated; 3 not usable."
    assert all(line["reason"] for line in found["lines"] if line["result"] != "added")
    added = real(client)[1:]
    assert [(row["name"], row["note"], row["group"], row["priority"]) for row in added] == [
        ("batch 1", "", "team", 5),
        ("mine", "paid", "team", 5),
    ]
    assert [row["models"] for row in added] == [["gpt-*"], ["gpt-*"]]


def test_no_whole_value_is_said_back(client: FlaskClient) -> None:
    answer = client.post(BULK, json={"text": "sk-secret-0123456789\nwrong secret 0123456789\nsk-secret-0123456789"})
    assert "secret" not in answer.text
    assert [line["key_value"] for line in answer.get_json()["lines"]] == ["sk-s...6789", "wron...6789", "sk-s...6789"]


def test_keys_come_as_a_list_too(client: FlaskClient) -> None:
    found = bulk(client, keys=["sk-first-0123456789", "sk-other-0123456789"], name="no {n} of many")
    assert found["added"] == 2
    assert [row["name"] for row in real(client)] == ["no 1 of many", "no 2 of many"]


def test_one_key_has_the_name_as_it_is(client: FlaskClient) -> None:
    bulk(client, text="sk-first-0123456789", name="the one")
    assert [row["name"] for row in real(client)] == ["the one"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_field"),
        ({"text": "a", "keys": []}, "missing_field"),
        ({"text": "\n# only a note\n"}, "invalid_key"),
        ({"keys": []}, "invalid_key"),
        ({"text": "sk-first-0123456789", "provider": "nobody"}, "unknown_provider"),
        ({"text": "sk-first-0123456789", "priority": "1"}, "invalid_field"),
        ({"text": 5}, "invalid_field"),
        ({"keys": [5]}, "invalid_field"),
        ({"text": "x\n" * 10_001}, "invalid_field"),
        ({"text": "sk-first-0123456789", "status": "Healthy"}, "unknown_field"),
    ],
)
def test_what_is_no_paste_is_refused_and_adds_nothing(client: FlaskClient, body: dict[str, Any], code: str) -> None:
    answer = client.post(BULK, json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (400, code)
    assert real(client) == []


def test_a_name_too_long_for_a_key_spoils_only_its_own_line(client: FlaskClient) -> None:
    found = bulk(client, text=f"{'n' * 300},sk-first-0123456789\nsk-other-0123456789")
    assert [line["result"] for line in found["lines"]] == ["invalid", "added"]


def test_five_hundred_keys_are_added_at_once(client: FlaskClient) -> None:
    text = "\n".join(f"sk-batch-{number:08d}" for number in range(500))
    started = time.monotonic()
    assert bulk(client, text=text)["added"] == 500
    assert time.monotonic() - started < 3  # on a quiet machine a tenth of a second
    assert bulk(client, text=text)["exists"] == 500
    assert len(real(client)) == 500


def test_words_of_a_bad_paste_are_no_secrets(middleware: Middleware) -> None:
    bulk(middleware.client(), text="ordinary words of a text\nsk-first-0123456789")
    assert middleware.services.redactor.text("ordinary words of a text") == "ordinary words of a text"
    assert "sk-first" not in middleware.services.redactor.text("sk-first-0123456789")
