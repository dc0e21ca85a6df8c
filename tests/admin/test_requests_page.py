"""The pages of the request log."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.admin.pages import request_export, requests
from app.admin.pages.request_words import BAR_UNITS, OUTCOMES, VERDICTS, bar
from app.keys.base import Action
from app.records import AttemptRecord, RequestRecord
from tests.admin.build import Middleware

ATTACK = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
PAGE = "/middleware/requests"


def record(middleware: Middleware, number: int, **fields: Any) -> None:
    values: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "dialect": "openai_chat",
        "operation": "generate",
        "model": "gpt-5",
        "provider": "openai",
        "status": 200,
        "outcome": "success",
        "duration_ms": 120,
        "attempts": [AttemptRecord(1, "openai", fields.get("key_id"), 200, "ok", duration_ms=120)],
        **fields,
    }
    given = RequestRecord(request_id=f"request-{number}", started_at=middleware.time.now, **values)
    middleware.services.usage.record(given)


def failed_over(middleware: Middleware, number: int, *key_ids: int, message: str = "Rate limit reached") -> None:
    first, second = key_ids
    limited = AttemptRecord(1, "openai", first, 429, "KEY_REST", "rate_limited", message, duration_ms=80)
    served = AttemptRecord(2, "openai", second, 200, "ok", wait_ms=20, duration_ms=100)
    record(middleware, number, key_id=second, duration_ms=205, attempts=[limited, served])


def written(middleware: Middleware) -> FlaskClient:
    assert middleware.services.writer.flush(5.0)
    return middleware.client()


def test_an_empty_log_says_what_will_be_there(middleware: Middleware) -> None:
    text = middleware.client().get(PAGE).text
    assert "No request yet" in text
    assert 'id="rows"' not in text


def test_rows_say_what_happened(middleware: Middleware) -> None:
    first = middleware.add_key("sk-0000000000000001", provider="openai", name="primary")
    second = middleware.add_key("sk-0000000000000002", provider="openai", name="spare")
    failed_over(middleware, 1, first, second)
    record(middleware, 2, model="alias", upstream_model="gpt-real", stream=True, input_tokens=12345, output_tokens=6)
    client = written(middleware)
    text = client.get(PAGE).text
    for words in ("request-1", "request-2", "spare", "200 Success", "alias", "gpt-real", "12,345", "205 ms", "stream"):
        assert words in text, words
    trail = client.get(f"{PAGE}/1/trail").text
    for words in (
        "primary",
        "Key rests",
        "status 429",
        "rate_limited",
        "Rate limit reached",
        "waited 20 ms",
        "Answered",
    ):
        assert words in trail, words
    assert "<html" not in trail
    page = client.get(f"{PAGE}/request-1").text
    for words in ("2 attempts", "Key rests", "spare", "As the API shows it"):
        assert words in page, words


def test_filters_are_kept_in_the_form_and_wrong_ones_are_named(middleware: Middleware) -> None:
    record(middleware, 1)
    record(middleware, 2, status=404, outcome="client_error", error_code="not_found", attempts=[])
    client = written(middleware)
    text = client.get(f"{PAGE}?status=404&outcome=client_error&unknown=ignored").text
    assert 'value="404"' in text
    assert '<option value="client_error" selected>' in text
    assert "request-2" in text
    assert "request-1" not in text
    text = client.get(f"{PAGE}?status=banana&since=tomorrow").text
    assert "This filter was left out" in text
    assert 'value="banana"' in text
    assert "request-1" in text
    text = client.get(f"{PAGE}?model=nothing-like-this").text
    assert "No request matches" in text
    assert 'value="nothing-like-this"' in text
    assert client.get(f"{PAGE}?key=nobody").status_code == 200


def test_pages_lead_to_older_and_newer_rows(middleware: Middleware) -> None:
    for number in range(120):
        record(middleware, number, model="m")
    client = written(middleware)
    first = client.get(f"{PAGE}?model=m").text
    assert first.count('id="request-') == 50
    assert f'href="{PAGE}?model=m&amp;before=71"' in first
    assert 'rel="prev"' not in first
    second = client.get(f"{PAGE}?model=m&before=71").text
    assert f'href="{PAGE}?model=m&amp;after=70"' in second
    last = client.get(f"{PAGE}?model=m&before=21").text
    assert last.count('id="request-') == 20
    assert "That is all there is." in last
    up = client.get(f"{PAGE}?model=m&after=20").text
    assert 'id="request-70"' in up
    assert 'id="request-71"' not in up
    assert "There are no rows beyond this point." in client.get(f"{PAGE}?before=1").text


def test_a_long_search_says_how_far_it_came_and_goes_on(
    middleware: Middleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.request_log._FIRST_WINDOW", 2)
    monkeypatch.setattr("app.request_log._LARGEST_WINDOW", 2)
    monkeypatch.setattr(requests, "SEARCH_S", -1.0)
    record(middleware, 0, model="rare")
    for number in range(1, 5):
        record(middleware, number)
    client = written(middleware)
    text = client.get(f"{PAGE}?model=rare").text
    assert "Go on searching" in text
    assert 'hx-get="/middleware/requests/more?model=rare&amp;before=4&amp;limit=50"' in text
    assert "request-0" not in client.get(f"{PAGE}/more?model=rare&before=4&limit=50").text
    text = client.get(f"{PAGE}/more?model=rare&before=2&limit=50").text
    assert 'hx-swap-oob="beforeend:#rows"' in text
    assert "request-0" in text
    assert "That is all there is." in text


def test_new_requests_are_told_as_a_number(middleware: Middleware) -> None:
    record(middleware, 1)
    client = written(middleware)
    assert 'hx-get="/middleware/requests/new?&amp;after=1"' in client.get(PAGE).text
    assert client.get(f"{PAGE}/new?after=1").text.strip() == ""
    record(middleware, 2)
    record(middleware, 3, model="other")
    written(middleware)
    assert "2 new requests: show" in client.get(f"{PAGE}/new?after=1").text
    assert "1 new request: show" in client.get(f"{PAGE}/new?after=1&model=other").text


def test_the_rows_alone_come_with_the_address_of_their_page(middleware: Middleware) -> None:
    record(middleware, 1)
    client = written(middleware)
    answer = client.get(f"{PAGE}/list?model=gpt-5&status=&search=", headers={"HX-Request": "true"})
    assert answer.headers["HX-Replace-Url"] == f"{PAGE}?model=gpt-5"
    assert "<html" not in answer.text
    assert "HX-Replace-Url" not in client.get(f"{PAGE}/list?status=banana").headers


def test_a_view_is_exported_as_csv_and_json(middleware: Middleware) -> None:
    failed_over(middleware, 1, 7, 8)
    record(middleware, 2, model="=cmd|' /C calc'!A0", user_agent="@SUM(1)", error_code="with,comma")
    record(middleware, 3, model="other")
    client = written(middleware)
    answer = client.get(f"{PAGE}/export.csv?verdict=failed")
    assert answer.mimetype == "text/csv"
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["request_id"] for row in rows] == ["request-1"]
    assert (rows[0]["attempts"], rows[0]["verdicts"], rows[0]["key_id"]) == ("2", "KEY_REST ok", "8")
    rows = list(csv.DictReader(io.StringIO(client.get(f"{PAGE}/export.csv").text)))
    assert [row["request_id"] for row in rows] == ["request-3", "request-2", "request-1"]
    assert rows[1]["model"].startswith("'=cmd")
    assert rows[1]["user_agent"] == "'@SUM(1)"
    answer = client.get(f"{PAGE}/export.json?model=other")
    assert [row["request_id"] for row in json.loads(answer.text)] == ["request-3"]
    assert json.loads(client.get(f"{PAGE}/export.json?model=nobody").text) == []
    assert client.get(f"{PAGE}/export.csv?status=banana").status_code == 400
    assert client.get(f"{PAGE}/export.xml").status_code == 404


def test_an_export_is_bounded(middleware: Middleware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_export, "MAX_ROWS", 3)
    for number in range(5):
        record(middleware, number)
    client = written(middleware)
    assert len(json.loads(client.get(f"{PAGE}/export.json").text)) == 3


@pytest.mark.parametrize("identity", ["nothing", "999", "0", "9" * 30, "%00", "..%2f"])
def test_what_is_not_there_is_not_found(middleware: Middleware, identity: str) -> None:
    assert middleware.client().get(f"{PAGE}/{identity}").status_code == 404


def test_text_from_outside_stays_text(middleware: Middleware) -> None:
    key_id = middleware.add_key("sk-0000000000000001", provider="openai", name=ATTACK)
    attempt = AttemptRecord(1, ATTACK, key_id, 400, ATTACK, ATTACK, ATTACK)
    texts = {name: ATTACK for name in ("path", "method", "model", "upstream_model", "provider", "user_agent", "peer")}
    record(middleware, 1, **texts, key_id=key_id, outcome=ATTACK, error_code=ATTACK, attempts=[attempt])
    client = written(middleware)
    for address in (
        PAGE,
        f"{PAGE}/1",
        f"{PAGE}/1/trail",
        f"{PAGE}/list",
        f"{PAGE}/new?after=0",
        "/middleware/logs",
    ):
        text = client.get(address).text
        assert "<img" not in text, address
        assert "<script>alert" not in text, address
    for name in ("search", "model", "status", "key", "outcome", "provider", "client_id", "since", "before"):
        for address in (PAGE, f"{PAGE}/list", f"{PAGE}/more", f"{PAGE}/new"):
            text = client.get(address, query_string={name: ATTACK}).text
            assert "<img" not in text, (name, address)
            assert "<script>alert" not in text, (name, address)


def test_every_verdict_and_outcome_has_its_words() -> None:
    assert set(VERDICTS) == {"ok", "client_gone", *(action.value for action in Action)}
    assert all(word.meaning for word in (*VERDICTS.values(), *OUTCOMES.values()))


def test_the_bar_shows_waits_and_attempts_in_their_proportion() -> None:
    attempts = [
        {"verdict": "KEY_REST", "wait_ms": 0, "duration_ms": 100},
        {"verdict": "ok", "wait_ms": 100, "duration_ms": 200},
    ]
    segments = bar({"duration_ms": 400, "attempts": attempts})
    assert [(one.level, one.start, one.width) for one in segments] == [
        ("warn", 0, 250),
        ("wait", 250, 250),
        ("good", 500, 500),
    ]
    assert bar({"duration_ms": 0, "attempts": []}) == []
    for strange in ({"verdict": None, "wait_ms": "x", "duration_ms": -5}, {}):
        assert all(one.start + one.width <= BAR_UNITS for one in bar({"duration_ms": 1, "attempts": [strange] * 400}))
