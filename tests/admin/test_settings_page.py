"""The settings page without a browser: what it shows, what it saves, and what it tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app.settings import SETTINGS
from tests.gateway import Answer, Gateway

PAGE = "/middleware/settings"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path, environ={"REQUEST_TIMEOUT": "300"}) as running:
        yield running


def post(gateway: Gateway, path: str, fields: dict[str, Any] | list[tuple[str, str]], **headers: str) -> Answer:
    """What a browser sends for a form; the redirect after it is not followed."""
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    with gateway.raw() as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        data = urlencode(fields)
        client.send(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(data)}\r\n\r\n{data}".encode()
        )
        status, found = client.head()
        length = int(found.get("content-length", 0))
        return Answer(status, found, client.exactly(length))


def was(page: str) -> dict[str, Any]:
    (shown,) = re.findall(r'name="was" value="([^"]*)"', page)
    return json.loads(unescape(unescape(shown)) if "&#34;" not in shown else unescape(shown))


def typed(page: str, **changes: str) -> dict[str, str]:
    """The fields as a browser would send them, after somebody typed."""
    shown = was(page)
    fields = {"was": json.dumps(shown)}
    for row in SETTINGS:
        if row.kind == "boolean":
            fields |= {row.name: "true"} if shown[row.name] else {}
        else:
            fields[row.name] = str(shown[row.name])
    return fields | changes


def text(answer: Answer) -> str:
    return answer.body.decode()


def values(gateway: Gateway) -> Any:
    return gateway.get("/middleware/api/settings").json


def row_of(page: str, name: str) -> str:
    start = page.index(f'data-setting="{name}"')
    following = page.find("data-setting=", start + 20)
    return unescape(page[start : following if following > 0 else len(page)])


def test_each_setting_is_shown_with_meaning_range_value_default_and_source(gateway: Gateway) -> None:
    gateway.services.live_settings.update({"max_request_size": 1048576})
    page = text(gateway.get(PAGE))

    for row in SETTINGS:
        shown = row_of(page, row.name)
        assert row.help in shown
        assert f"<code>{row.name}</code>" in shown
        assert "Default" in shown
        if row.maximum is not None:
            assert f"{row.minimum:,} to {row.maximum:,}" in shown
    size, timeout, retries = (row_of(page, name) for name in ("max_request_size", "request_timeout", "max_retries"))
    assert "saved here" in size
    assert "= 1 MiB" in size
    assert "33,554,432 bytes (32 MiB)" in size
    assert "from REQUEST_TIMEOUT" in timeout
    assert 'data-changed="true"' in timeout
    assert "saved here" not in retries
    assert 'data-changed="false"' in retries


def test_only_what_was_changed_is_saved(gateway: Gateway) -> None:
    page = text(gateway.get(PAGE))
    gateway.services.live_settings.update({"retry_total": 9})

    answer = post(gateway, PAGE, typed(page, max_retries="4", enable_cors="true"))

    assert (answer.status, answer.headers["location"]) == (303, PAGE)
    after = values(gateway)
    assert (after["max_retries"], after["enable_cors"], after["retry_total"]) == (4, True, 9)
    sources = {row["key"]: row["source"] for row in gateway.get("/middleware/api/settings?describe=true").json}
    assert [name for name, source in sources.items() if source == "saved"] == [
        "max_retries",
        "retry_total",
        "enable_cors",
    ]


def test_a_switch_that_is_turned_off_is_saved(gateway: Gateway) -> None:
    fields = typed(text(gateway.get(PAGE)))
    del fields["enable_metrics_collection"]
    post(gateway, PAGE, fields)
    assert values(gateway)["enable_metrics_collection"] is False


def test_every_fault_is_shown_at_its_field_what_was_typed_stays_and_nothing_is_saved(gateway: Gateway) -> None:
    page = text(gateway.get(PAGE))
    wrong = {"max_retries": "99", "connect_timeout": "soon", "model_provider": "<b>nosuch", "retry_total": "5"}

    answer = post(gateway, PAGE, typed(page, **wrong))

    assert answer.status == 400
    again = text(answer)
    assert "Must be between 1 and 20." in row_of(again, "max_retries")
    assert "Must be between 1 and 60 and a whole number." in row_of(again, "connect_timeout")
    assert "Must be empty or one of" in row_of(again, "model_provider")
    assert 'value="soon"' in row_of(again, "connect_timeout")
    assert 'value="5"' in row_of(again, "retry_total")
    assert "<b>nosuch" not in again
    assert values(gateway)["retry_total"] == 3


def test_what_somebody_else_changed_meanwhile_is_told_and_a_second_save_overwrites(gateway: Gateway) -> None:
    page = text(gateway.get(PAGE))
    gateway.services.live_settings.update({"max_retries": 9, "streaming_timeout": 60})

    answer = post(gateway, PAGE, typed(page, max_retries="4", retry_total="5"))

    assert answer.status == 409
    again = text(answer)
    shown = row_of(again, "max_retries")
    assert 'value="4"' in shown
    assert "it is now <strong>9</strong>" in shown
    assert 'value="5"' in row_of(again, "retry_total")
    assert (values(gateway)["max_retries"], values(gateway)["retry_total"]) == (9, 3)

    fields = typed(again, max_retries="4", retry_total="5")
    assert post(gateway, PAGE, fields).status == 303
    after = values(gateway)
    assert (after["max_retries"], after["retry_total"], after["streaming_timeout"]) == (4, 5, 60)


def test_what_others_changed_and_this_person_did_not_touch_is_left_alone_after_a_conflict(gateway: Gateway) -> None:
    page = text(gateway.get(PAGE))
    gateway.services.live_settings.update({"max_retries": 9, "streaming_timeout": 60})

    again = text(post(gateway, PAGE, typed(page, max_retries="4")))

    assert was(again)["streaming_timeout"] == 60
    assert 'value="60"' in row_of(again, "streaming_timeout")


def test_a_fault_does_not_hide_what_somebody_else_changed_meanwhile(gateway: Gateway) -> None:
    page = text(gateway.get(PAGE))
    gateway.services.live_settings.update({"max_retries": 9})

    again = text(post(gateway, PAGE, typed(page, max_retries="99")))
    fields = typed(again, max_retries="4")

    assert post(gateway, PAGE, fields).status == 409
    assert values(gateway)["max_retries"] == 9


def test_nothing_changed_saves_nothing(gateway: Gateway) -> None:
    answer = post(gateway, PAGE, typed(text(gateway.get(PAGE))))
    assert answer.status == 303
    assert {row["source"] for row in gateway.get("/middleware/api/settings?describe=true").json} == {
        "default",
        "environment",
    }


@pytest.mark.parametrize("shown", ["", "[]", "{}", "nonsense", '{"nope": 1}', '{"max_retries": 700}'])
def test_a_form_that_is_not_ours_is_refused(gateway: Gateway, shown: str) -> None:
    assert post(gateway, PAGE, {"was": shown, "max_retries": "4"}).status == 400
    assert values(gateway)["max_retries"] == 7


def test_settings_are_found_by_name_and_meaning_and_the_rest_is_not_touched_by_a_save(gateway: Gateway) -> None:
    page = text(gateway.get(f"{PAGE}?q=stream+SILENCE"))
    assert re.findall(r'data-setting="(\w+)"', page) == ["streaming_timeout"]

    post(gateway, PAGE, {"was": json.dumps(was(page)), "streaming_timeout": "20"})
    assert values(gateway)["streaming_timeout"] == 20
    assert values(gateway)["enable_metrics_collection"] is True

    assert "data-setting=" not in text(gateway.get(f"{PAGE}?q=%3Cscript%3E"))
    changed = text(gateway.get(f"{PAGE}?changed=true"))
    assert set(re.findall(r'data-setting="(\w+)"', changed)) == {
        "request_timeout",
        "retry_backoff_factor",
        "streaming_timeout",
    }


def test_a_reset_shows_what_would_change_and_does_only_that(gateway: Gateway) -> None:
    live = gateway.services.live_settings
    live.update({"max_retries": 9, "request_timeout": 60, "retry_total": 5})

    one = text(gateway.get(f"{PAGE}/reset?name=request_timeout"))
    assert "60 seconds (1 min)" in one
    assert "300 seconds (5 min)" in one
    assert "max_retries" not in one
    fields = [("was", json.dumps(was(one))), ("name", "request_timeout")]
    assert post(gateway, f"{PAGE}/reset", fields).status == 303
    assert (live.current.request_timeout, live.current.max_retries) == (300, 9)

    every = text(gateway.get(f"{PAGE}/reset"))
    fields = [("was", json.dumps(was(every))), ("name", "max_retries"), ("name", "retry_total")]
    live.update({"retry_total": 6})
    answer = post(gateway, f"{PAGE}/reset", fields)
    assert answer.status == 409
    assert "somebody else changed retry_total" in text(answer)
    assert (live.current.max_retries, live.current.retry_total) == (9, 6)

    fields[0] = ("was", json.dumps(was(text(answer))))
    assert post(gateway, f"{PAGE}/reset", fields).status == 303
    assert (live.current.max_retries, live.current.retry_total) == (7, 3)
    assert "Nothing to reset" in text(gateway.get(f"{PAGE}/reset"))


def test_a_reset_of_what_is_no_setting_is_refused(gateway: Gateway) -> None:
    assert gateway.get(f"{PAGE}/reset?name=nope").status == 400
    assert post(gateway, f"{PAGE}/reset", [("was", '{"max_retries": 7}'), ("name", "nope")]).status == 400


def test_for_htmx_a_save_answers_with_the_page_s_main_part_and_a_message(gateway: Gateway) -> None:
    fields = typed(text(gateway.get(PAGE)), max_retries="4")
    answer = post(gateway, PAGE, fields, **{"HX-Request": "true"})
    assert answer.status == 200
    assert "1 setting saved: max_retries" in answer.headers["hx-trigger"]
    assert "<html" not in text(answer)
    assert "saved here" in row_of(text(answer), "max_retries")
