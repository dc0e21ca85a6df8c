"""The pages of keys without a browser: what they show, what they change, and what they refuse."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.admin.build import PASSWORD, Middleware

KEYS = "/middleware/keys"
VALUE = "sk-0123456789abcdef"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def client(middleware: Middleware) -> FlaskClient:
    return middleware.client()


def value(number: int) -> str:
    return f"sk-value-{number:012d}"


def add(middleware: Middleware, **fields: Any) -> int:
    keys = middleware.services.keys
    return keys.add(fields.pop("key", VALUE), **{"provider": "openai", "name": "first", **fields})


def names(answer: TestResponse) -> list[str]:
    """The keys of the list, from top to bottom."""
    assert answer.status_code == 200
    return [unescape(name) for name in re.findall(r'class="name"><a href="[^"]*">([^<]*)</a>', answer.text)]


def was(answer: TestResponse) -> str:
    (shown,) = re.findall(r'name="was" value="([^"]*)"', answer.text)
    return unescape(shown)


def notice(client: FlaskClient, answer: TestResponse) -> str:
    """What the page says that the browser is sent to."""
    assert answer.status_code == 303, answer.text
    page = client.get(answer.headers["Location"]).text
    (said,) = re.findall(r'role="status">.*?<p>(.*?)</p>', page, re.DOTALL)
    return unescape(said)


# -- the list ------------------------------------------------------------------------------------------


def test_without_a_key_the_page_leads_to_the_first_steps(client: FlaskClient) -> None:
    page = client.get(KEYS).text
    assert "No key yet" in page
    assert 'href="/middleware/welcome"' in page
    assert "demonstration answers" in page


def test_the_list_has_every_column(middleware: Middleware, client: FlaskClient) -> None:
    add(middleware, note="a note", group="team", priority=7)
    page = client.get(KEYS).text
    for text in ("first", "sk-0...cdef", "a note", "openai", "team", ">7<", "Healthy", "never"):
        assert text in page
    for column in ("Name", "Key", "Provider", "Priority", "Status", "Today", "Total", "KPI", "Last used"):
        assert re.search(rf">{column}[^a-z]", page)
    assert VALUE not in page


@pytest.fixture
def crowd(middleware: Middleware) -> FlaskClient:
    """60 keys of two providers, 3 of them disabled, 2 resting."""
    rows = [
        {
            "key": value(number),
            "name": f"key {number:02d}",
            "provider": ("openai", "gemini")[number % 2],
            "priority": 100 - number,
            "note": "special" if number == 30 else "",
            "group": "crew" if number in (4, 5) else "",
        }
        for number in range(60)
    ]
    assert not any(middleware.services.keys.add_many(rows))
    ids = [item["id"] for item in middleware.services.keys.list_keys()][-60:]
    middleware.services.keys.bulk(ids[:3], "Disabled")
    middleware.services.keys.bulk(ids[3:5], "Resting")
    return middleware.client()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("search=special", ["key 30"]),
        ("search=CREW", ["key 04", "key 05"]),
        ("search=key+1&provider=openai", ["key 10", "key 12", "key 14", "key 16", "key 18"]),
        ("status=Disabled", ["key 00", "key 01", "key 02"]),
        ("status=Resting&order=down", ["key 04", "key 03"]),
        ("status=Resting&provider=gemini", ["key 03"]),
        ("search=nothing+like+it", []),
        ("search=%00%ff", []),
    ],
)
def test_searching_and_filtering_find_the_keys(crowd: FlaskClient, query: str, expected: list[str]) -> None:
    assert names(crowd.get(f"{KEYS}?{query}")) == expected


@pytest.mark.parametrize("sort", ["name", "key", "provider", "priority", "status", "today", "total", "kpi", "used"])
def test_every_column_sorts_both_ways(crowd: FlaskClient, sort: str) -> None:
    up = names(crowd.get(f"{KEYS}?size=100&sort={sort}"))
    down = names(crowd.get(f"{KEYS}?size=100&sort={sort}&order=down"))
    assert sorted(up) == sorted(down)
    assert len(up) == 60
    if sort == "priority":
        assert up == list(reversed(down))
        assert up[0] == "key 59"
    if sort == "status":
        assert set(up[:3]) == {"key 00", "key 01", "key 02"}


def test_names_with_numbers_are_sorted_as_people_count(middleware: Middleware, client: FlaskClient) -> None:
    for number, name in enumerate(["Key 10", "key 9", "Key 100", "Alpha", "9 lives", "key"]):
        middleware.services.keys.add(f"sk-natural-{number:08d}", name=name)
    found = re.findall(r'<th[^>]*class="name"[^>]*>\s*<a[^>]*>([^<]*)</a>', client.get("/middleware/keys").text)
    assert found == ["9 lives", "Alpha", "key", "key 9", "Key 10", "Key 100"]


def test_pages_follow_each_other_and_one_beyond_the_end_is_the_last(crowd: FlaskClient) -> None:
    first, second = names(crowd.get(f"{KEYS}?size=25")), names(crowd.get(f"{KEYS}?size=25&page=2"))
    assert (first[0], first[-1], second[0]) == ("key 00", "key 24", "key 25")
    assert names(crowd.get(f"{KEYS}?size=25&page=99")) == [f"key {number:02d}" for number in range(50, 60)]
    assert "26 to 50 of 60 keys" in crowd.get(f"{KEYS}?size=25&page=2").text


def test_what_makes_no_sense_counts_as_not_given(crowd: FlaskClient) -> None:
    strange = "?sort=password&order=sideways&page=-1&size=1000000&status=Odd&page=%C2%B2"
    assert names(crowd.get(KEYS + strange)) == names(crowd.get(KEYS))


def test_the_filters_count_the_keys_of_each_status(crowd: FlaskClient) -> None:
    page = crowd.get(KEYS).text
    counts = dict(re.findall(r'id="status-(\w+)".*?<span class="muted">([\d,]+)</span>', page))
    assert counts == {"all": "60", "Healthy": "55", "Resting": "2", "Disabled": "3"}


def test_a_search_by_htmx_keeps_a_plain_address(crowd: FlaskClient) -> None:
    headers = {**HTMX, "HX-Trigger": "key-filters", "HX-Target": "key-list"}
    answer = crowd.get(f"{KEYS}?search=special&provider=&size=50&status=&sort=name&order=", headers=headers)
    assert answer.headers["HX-Push-Url"] == "/middleware/keys?search=special"
    assert "<html" not in answer.text


def test_figures_of_the_list_agree_with_the_api(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware)
    shown = client.get(f"/middleware/api/keys/{key_id}").get_json()
    page = client.get(KEYS).text
    for label, figure in (("Today", shown["usage_today"]), ("Total", shown["total_usage"]), ("KPI", shown["kpi"])):
        assert re.search(rf'data-label="{label}"[^>]*>{figure}<', page)


# -- one key -------------------------------------------------------------------------------------------


def test_a_key_is_added_by_the_form(middleware: Middleware, client: FlaskClient) -> None:
    form = {"key": f" {VALUE} ", "name": "new", "provider": "openai", "priority": "3", "group": "", "note": "a\r\nb"}
    answer = client.post(f"{KEYS}/add", data={**form, "models": "gpt-*\no3, o4"})
    assert notice(client, answer) == "new is added."
    row = middleware.services.keys.list_keys()[-1]
    assert (row["name"], row["priority"], row["note"], row["models"]) == ("new", 3, "a\nb", ["gpt-*", "o3", "o4"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"key": ""}, "key"),
        ({"key": "short"}, "key"),
        ({"key": "sk-0...cdef"}, "key"),
        ({"provider": "nobody"}, "provider"),
        ({"priority": "many"}, "priority"),
        ({"name": "n" * 201}, "name"),
    ],
)
def test_a_form_with_a_fault_comes_back_with_what_was_typed(
    client: FlaskClient, changes: dict[str, str], field: str
) -> None:
    form = {
        "key": VALUE,
        "name": "<b>mine",
        "provider": "openai",
        "priority": "1",
        "group": "",
        "note": "",
        "models": "",
    }
    answer = client.post(f"{KEYS}/add", data=form | changes)
    assert answer.status_code == 422
    assert f'id="field-{field}-fault"' in answer.text
    if field != "name":
        assert "&lt;b&gt;mine" in answer.text


def test_editing_changes_what_was_changed_and_keeps_the_value(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware, note="old")
    form = client.get(f"{KEYS}/{key_id}/edit")
    fields = {
        "name": "second",
        "note": "old",
        "provider": "openai",
        "priority": "1",
        "group": "",
        "models": "",
        "key": "",
    }
    answer = client.post(f"{KEYS}/{key_id}/edit", data={**fields, "was": was(form)})
    assert notice(client, answer) == "second is saved."
    assert middleware.services.keys.reveal(key_id) == VALUE
    assert middleware.services.keys.get(key_id)["name"] == "second"


def test_the_later_of_two_who_edit_is_told_and_loses_nothing(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware, note="old")
    shown = was(client.get(f"{KEYS}/{key_id}/edit"))
    fields = {
        "name": "first",
        "note": "old",
        "provider": "openai",
        "priority": "1",
        "group": "",
        "models": "",
        "key": "",
    }
    address = f"{KEYS}/{key_id}/edit"
    assert client.post(address, data={**fields, "name": "theirs", "was": shown}).status_code == 303
    late = client.post(address, data={**fields, "name": "mine", "note": "my note", "was": shown})
    assert late.status_code == 409
    assert "theirs" in late.text
    assert 'value="mine"' in late.text
    assert "my note" in late.text
    stored = middleware.services.keys.get(key_id)
    assert (stored["name"], stored["note"]) == ("theirs", "old")
    again = client.post(address, data={**fields, "name": "mine", "note": "my note", "was": was(late)})
    assert again.status_code == 303
    assert middleware.services.keys.get(key_id)["name"] == "mine"


def test_two_who_change_different_fields_both_win(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware, note="old")
    shown = was(client.get(f"{KEYS}/{key_id}/edit"))
    fields = {
        "name": "first",
        "note": "old",
        "provider": "openai",
        "priority": "1",
        "group": "",
        "models": "",
        "key": "",
    }
    for change in ({"name": "theirs"}, {"note": "mine"}):
        answer = client.post(f"{KEYS}/{key_id}/edit", data={**fields, **change, "was": shown})
        assert answer.status_code == 303
    stored = middleware.services.keys.get(key_id)
    assert (stored["name"], stored["note"]) == ("theirs", "mine")


def test_a_value_that_somebody_else_replaced_is_not_replaced_unseen(
    middleware: Middleware, client: FlaskClient
) -> None:
    key_id = add(middleware)
    shown = was(client.get(f"{KEYS}/{key_id}/edit"))
    middleware.services.keys.update(key_id, {"key": value(1)})
    fields = {"name": "first", "note": "", "provider": "openai", "priority": "1", "group": "", "models": ""}
    answer = client.post(f"{KEYS}/{key_id}/edit", data={**fields, "key": value(2), "was": shown})
    assert answer.status_code == 409
    assert middleware.services.keys.reveal(key_id) == value(1)


def test_a_key_that_is_gone_is_a_page_that_says_so(client: FlaskClient) -> None:
    for path in ("/999", "/999/edit", "/999/reveal", "/999/state"):
        assert client.get(KEYS + path).status_code == 404
    for path in ("/999/wake", "/999/enable", "/999/test", "/999/edit"):
        assert client.post(KEYS + path, data={}).status_code == 404


def test_a_key_is_disabled_enabled_and_woken(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware)
    assert notice(client, client.post(f"{KEYS}/{key_id}/disable")) == "first is disabled."
    assert "disabled" in notice(client, client.post(f"{KEYS}/{key_id}/wake")).lower()
    assert middleware.services.keys.get(key_id)["status"] == "Disabled"
    assert notice(client, client.post(f"{KEYS}/{key_id}/enable")) == "first is enabled."
    middleware.services.keys.bulk([key_id], "Resting")
    assert notice(client, client.post(f"{KEYS}/{key_id}/wake")) == "first is awake."
    assert middleware.services.keys.get(key_id)["status"] == "Healthy"


def test_a_change_leads_back_to_where_it_was_made_and_nowhere_else(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware)
    for given, expected in (
        ("/middleware/keys?search=fi&page=2", "/middleware/keys?search=fi&page=2"),
        (f"/middleware/keys/{key_id}", f"/middleware/keys/{key_id}"),
        ("//evil.example/middleware/keys", "/middleware/keys"),
        ("https://evil.example/middleware/keys", "/middleware/keys"),
        ("http://localhost/middleware/keys?page=2", "/middleware/keys?page=2"),
        (f"/middleware/keys/{key_id}/edit", "/middleware/keys"),
        ("/middleware/logout", "/middleware/keys"),
        ("/middleware/keys\\..\\..", "/middleware/keys"),
        ("javascript:alert(1)", "/middleware/keys"),
        ("/middleware/keys?search=\u65e5\u672c", "/middleware/keys"),
        ("/middleware/keys?a\r\nSet-Cookie: b=c", "/middleware/keys"),
        ("/middleware/keys/../logout", "/middleware/keys"),
        ("http://[", "/middleware/keys"),
    ):
        answer = client.post(f"{KEYS}/{key_id}/disable", data={"next": given})
        assert answer.headers["Location"] == expected


def test_htmx_gets_the_list_of_the_same_filters_and_a_message(crowd: FlaskClient) -> None:
    page = crowd.get(f"{KEYS}?status=Disabled").text
    (key_id,) = re.findall(r'id="choose-(\d+)" aria-label="Choose key 01"', page)
    headers = {**HTMX, "HX-Target": "key-list"}
    answer = crowd.post(f"{KEYS}/{key_id}/enable", data={"next": "/middleware/keys?status=Disabled"}, headers=headers)
    assert names(answer) == ["key 00", "key 02"]
    assert "key 01 is enabled" in answer.headers["HX-Trigger"]


# -- many keys -----------------------------------------------------------------------------------------


def test_chosen_keys_are_changed_together(middleware: Middleware, client: FlaskClient) -> None:
    ids = [add(middleware, key=value(number), name=f"n{number}") for number in range(3)]

    def states() -> list[str]:
        return [middleware.services.keys.get(key_id)["status"] for key_id in ids]

    def bulk(action: str) -> str:
        return notice(client, client.post(f"{KEYS}/bulk", data={"ids": ids[:2], "action": action}))

    assert bulk("disable") == "2 keys disabled."
    assert states() == ["Disabled", "Disabled", "Healthy"]
    assert bulk("wake") == "None of these keys rests."
    assert bulk("enable") == "2 keys enabled."
    assert bulk("rest") == "2 keys put to rest for an hour."
    assert states() == ["Resting", "Resting", "Healthy"]
    assert bulk("wake") == "2 keys woken."
    assert states() == ["Healthy"] * 3


def test_waking_many_does_not_enable_those_that_are_disabled(middleware: Middleware, client: FlaskClient) -> None:
    resting, disabled = add(middleware, key=value(1)), add(middleware, key=value(2))
    middleware.services.keys.bulk([resting], "Resting")
    middleware.services.keys.bulk([disabled], "Disabled")
    answer = client.post(f"{KEYS}/bulk", data={"ids": [resting, disabled], "action": "wake"})
    assert notice(client, answer) == "1 key woken."
    assert middleware.services.keys.get(disabled)["status"] == "Disabled"


def test_deletion_is_confirmed_first(middleware: Middleware, client: FlaskClient) -> None:
    ids = [add(middleware, key=value(number), name=f"n{number}") for number in range(3)]
    asked = client.post(f"{KEYS}/bulk", data={"ids": ids[:2], "action": "delete"})
    assert asked.status_code == 200
    assert "Delete 2 keys?" in asked.text
    assert len(middleware.real_keys()) == 3
    assert client.get(f"{KEYS}/delete?ids={ids[0]}").status_code == 200
    assert len(middleware.real_keys()) == 3
    answer = client.post(f"{KEYS}/delete", data={"ids": ids[:2], "next": f"/middleware/keys/{ids[0]}"})
    assert answer.headers["Location"] == "/middleware/keys"
    assert [row["id"] for row in middleware.real_keys()] == ids[2:]


def test_without_a_choice_nothing_happens_and_it_is_said(middleware: Middleware, client: FlaskClient) -> None:
    add(middleware)
    assert "No key is chosen" in notice(client, client.post(f"{KEYS}/bulk", data={"action": "delete"}))
    bad = client.post(f"{KEYS}/bulk", data={"action": "delete", "ids": ["x", "1' OR 1=1", "٣"]})
    assert "No key is chosen" in notice(client, bad)
    assert client.post(f"{KEYS}/bulk", data={"action": "explode", "ids": [1]}).status_code == 400


# -- in and out ----------------------------------------------------------------------------------------


def test_a_paste_is_reported_line_by_line_and_masked(middleware: Middleware, client: FlaskClient) -> None:
    text = f"one,{value(1)}\r\n{value(1)}\r\nbad one here\r\n<script>alert(1)</script>,{value(2)}"
    form = {"text": text, "provider": "openai", "priority": "1", "name": "", "group": "", "models": ""}
    answer = client.post(f"{KEYS}/paste", data=form)
    assert answer.status_code == 200
    assert "2 keys added; 1 repeated; 1 not usable." in answer.text
    assert value(1) not in answer.text
    assert "<script>alert" not in answer.text
    assert len(middleware.real_keys()) == 2


def test_a_paste_with_a_fault_comes_back_whole(client: FlaskClient) -> None:
    form = {"text": "# nothing", "provider": "openai", "priority": "x", "name": "", "group": "", "models": ""}
    answer = client.post(f"{KEYS}/paste", data=form)
    assert answer.status_code == 422
    assert "# nothing" in answer.text


def test_a_paste_of_ten_thousand_long_keys_is_taken(middleware: Middleware, client: FlaskClient) -> None:
    text = "\n".join(f"sk-{number:0160d}" for number in range(10_000))
    form = {"text": text, "provider": "openai", "priority": "1", "name": "", "group": "", "models": ""}
    answer = client.post(f"{KEYS}/paste", data=form)
    assert "10,000 keys added." in answer.text


def test_an_export_and_an_import_move_keys(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware, note="kept", group="team", priority=4)
    exported = client.post(f"{KEYS}/export")
    assert "attachment" in exported.headers["Content-Disposition"]
    assert json.loads(exported.data)[0]["key_value"] == VALUE
    masked = client.get(f"{KEYS}/export/masked")
    assert json.loads(masked.data)[0]["key_value"] == "sk-0...cdef"
    middleware.services.keys.delete(key_id)
    for data, words in (
        (exported.data, "1 key imported"),
        (exported.data, "1 skipped"),
        (masked.data, "masked values"),
    ):
        answer = client.post(f"{KEYS}/import", data={"file": (io.BytesIO(data), "keys.json")})
        assert words in answer.text
    (row,) = middleware.real_keys()
    assert (row["note"], row["group"], row["priority"]) == ("kept", "team", 4)


@pytest.mark.parametrize("data", [b"", b"no json", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_export_is_refused(client: FlaskClient, data: bytes) -> None:
    answer = client.post(f"{KEYS}/import", data={"file": (io.BytesIO(data), "keys.json")})
    assert answer.status_code == 422


def test_whole_values_want_the_password_once_more(locked: Middleware) -> None:
    locked.add_key(VALUE)
    (key_id,) = [row["id"] for row in locked.real_keys()]
    client = locked.client()
    assert client.post("/middleware/login", data={"password": PASSWORD}).status_code in (302, 303)
    (token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', client.get(f"{KEYS}/export").text))
    for path in (f"/{key_id}/reveal", "/export"):
        for given in ("", "wrong"):
            answer = client.post(KEYS + path, data={"password": given, "csrf_token": token})
            assert answer.status_code == 422
            assert VALUE not in answer.text
        assert client.post(KEYS + path, data={"password": PASSWORD}).status_code in (400, 403)
        assert VALUE in client.post(KEYS + path, data={"password": PASSWORD, "csrf_token": token}).text


def test_every_page_of_keys_wants_a_login(locked: Middleware) -> None:
    key_id = locked.add_key(VALUE)
    for path in ("", "/add", "/paste", "/import", "/export", "/export/masked", f"/{key_id}", f"/{key_id}/state"):
        answer = locked.client().get(KEYS + path)
        assert answer.status_code in (302, 303)
        assert "/middleware/login" in answer.headers["Location"]


# -- the page of a key ---------------------------------------------------------------------------------


def test_the_page_of_a_key_shows_state_figures_and_charts(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware, note="line one\nline two", models=["gpt-*"])
    assert "Not used yet" in client.get(f"{KEYS}/{key_id}").text
    _seed_days(middleware, key_id)
    page = client.get(f"{KEYS}/{key_id}").text
    for title in (
        "Requests a day",
        "Answered, in percent",
        "Average time of an answer, in ms",
        "Tokens a day",
        "Models",
        "Errors",
    ):
        assert f">{title}</figcaption>" in page
    assert "line one\nline two" in page
    assert f"/middleware/requests?key_id={key_id}" in page


def test_charts_have_a_place_for_each_of_the_thirty_days(middleware: Middleware, client: FlaskClient) -> None:
    key_id = add(middleware)
    _seed_days(middleware, key_id)
    (spec,) = re.findall(r'id="chart-requests" data-chart="([^"]*)"', client.get(f"{KEYS}/{key_id}").text)
    chart = json.loads(unescape(spec))
    assert len(chart["labels"]) == 30
    assert [len(series["values"]) for series in chart["series"]] == [30, 30]
    assert chart["series"][0]["values"][-1] == 8


def _seed_days(middleware: Middleware, key_id: int) -> None:
    from app.storage.schema import daily_stats
    from app.totals import utc_date

    now = middleware.services.clock.wall()
    row = {"requests": 10, "successes": 8, "errors": 2, "tokens_in": 5, "tokens_out": 6, "total_latency_ms": 800}
    texts = {"error_codes": '{"429": 2}', "model_usage": '{"gpt-1": 8}'}
    with middleware.services.database.transaction() as connection:
        for ago in (0, 3):
            date = utc_date(now - ago * 86400)
            connection.execute(daily_stats.insert().values(key_id=key_id, date=date, **row, **texts))
