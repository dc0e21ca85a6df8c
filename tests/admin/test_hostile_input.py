"""What no page of ours would send: odd numbers, broken addresses, forms made by hand. An answer, never a defect."""

from __future__ import annotations

import json
import time

import pytest
from flask.testing import FlaskClient

from app.admin.page_request import MAX_FIELDS
from tests.admin.build import Middleware

NO_ADDRESS = "http://["


@pytest.fixture
def admin(locked: Middleware) -> FlaskClient:
    return locked.client(bearer=True)


# -- addresses ------------------------------------------------------------------------------------------


def test_strangers_who_name_no_address_as_theirs_are_sent_to_the_login(locked: Middleware) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": NO_ADDRESS}
    answer = locked.client().get("/middleware/keys", headers=headers)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/middleware/login?next=/middleware/")


def test_a_way_back_that_is_no_address_leads_to_the_list(admin: FlaskClient) -> None:
    for given in ({"query_string": {"next": NO_ADDRESS}}, {"headers": {"HX-Current-URL": NO_ADDRESS}}):
        answer = admin.get("/middleware/keys/add", **given)  # type: ignore[arg-type]
        assert answer.status_code == 200
        assert 'href="/middleware/keys"' in answer.text


@pytest.mark.parametrize("digits", [19, 20, 400, 5000])
@pytest.mark.parametrize("path", ["", "/edit", "/reveal", "/wake", "/test", "/disable"])
def test_a_number_that_no_row_has_is_not_there(admin: FlaskClient, path: str, digits: int) -> None:
    address = f"/middleware/keys/{'9' * digits}{path}"
    assert admin.get(address).status_code == 404
    assert admin.post(address).status_code == 404


# -- filters ----------------------------------------------------------------------------------------------

ODD_FILTERS = [
    "before=--5",
    "limit=--5",
    "key_id=-",
    "client_id=9223372036854775808",
    "status=200" + "0" * 30,
    "status=" + "0" * 6 + "200" + "1" * 30,
    "since=nan",
    "until=1e400",
    "since=0001-01-01T00:00:00-23:59",
]


@pytest.mark.parametrize("query", ODD_FILTERS)
def test_a_filter_that_is_no_filter_is_refused_by_name(admin: FlaskClient, query: str) -> None:
    name = query.partition("=")[0]
    for path in ("/middleware/api/requests", "/middleware/requests/export.csv"):
        answer = admin.get(f"{path}?{query}")
        assert answer.status_code == 400, path
        assert name in answer.text
    for path in ("", "/list", "/more", "/new"):
        assert admin.get(f"/middleware/requests{path}?{query}").status_code == 200, path


# -- forms ------------------------------------------------------------------------------------------------

ODD_STATES = [
    "[" * 90_000,
    '{"a":' * 30_000,
    "[" * 900 + "]" * 900,
    json.dumps({"name": [[[]]], "priority": {"a": 1}, "models": 5, "target": [], "expires_at": True}),
    '{"name": "\\ud800", "note": "\\ud800"}',
    '{"priority": NaN, "expires_at": NaN}',
    '{"priority": 1e999, "expires_at": 1e999}',
    '{"name": "a", "name": "b"}',
    "null",
]


@pytest.mark.parametrize("was", ODD_STATES, ids=range(len(ODD_STATES)))
def test_what_a_form_claims_to_have_shown_may_be_anything(locked: Middleware, admin: FlaskClient, was: str) -> None:
    key_id = locked.add_key()
    client_id = admin.post("/middleware/api/clients", json={"name": "one"}).get_json()["id"]
    admin.put("/middleware/api/aliases", json={"alias": "model"})
    form = {"was": was, "name": "new", "priority": "2", "provider": "gemini", "target": "other", "alias": "alias"}
    form |= {"kind": "gemini", "input_per_million": "1", "output_per_million": "1", "active": "true"}
    for path in (
        f"keys/{key_id}/edit",
        f"clients/{client_id}/edit",
        "providers/gemini/edit",
        "models/aliases/edit?alias=alias",
        "models/aliases/delete?alias=alias",
        "models/prices/edit?model=x",
        "settings",
        "settings/reset",
    ):
        assert admin.post(f"/middleware/{path}", data=form).status_code < 500, path


def test_a_form_of_a_million_fields_is_refused_before_it_is_taken_apart(admin: FlaskClient) -> None:
    body = b"&".join([b"ids=1"] * (MAX_FIELDS + 1))
    answer = admin.post("/middleware/keys/bulk", data=body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 413
    assert str(MAX_FIELDS) in answer.text
    some = b"&".join([b"ids=1"] * 5000)
    answer = admin.post("/middleware/keys/delete", data=some, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 303


@pytest.mark.parametrize(
    "between", ["\t", " ,", ",", ";", ": ", ":\t"], ids=["tab", "comma", "commas", "semi", "colon", "ct"]
)
def test_a_paste_that_was_made_to_take_long_does_not(admin: FlaskClient, between: str) -> None:
    line = "a" + between * (8900 // len(between)) + "b c"
    form = {"text": "\n".join([line] * 100), "provider": "gemini", "priority": "1"}
    started = time.monotonic()
    assert admin.post("/middleware/keys/paste", data=form).status_code == 200
    assert time.monotonic() - started < 10  # by trying every place it took minutes
