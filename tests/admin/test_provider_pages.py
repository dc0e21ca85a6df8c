"""The page of providers without JavaScript: the list, the forms, the test, and two people at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import canned
from tests.admin.build import PASSWORD, Middleware
from tests.admin.tab import Tab
from tests.fake_provider import FakeProvider, json_reply

PAGE = "/middleware/providers"
ATTACK = "<script>alert(1)</script>"
SECRET = "a-long-secret-value"


@pytest.fixture
def tab(middleware: Middleware) -> Tab:
    return Tab(middleware.client())


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


def add(middleware: Middleware, **fields: Any) -> None:
    entry = {"name": "local", "kind": "openai-compatible", "base_url": "http://127.0.0.1:9", **fields}
    middleware.services.providers.create(entry)


def row(middleware: Middleware, name: str = "local") -> dict[str, Any]:
    return middleware.services.providers.get(name)


def test_the_list_says_what_keeps_requests_away(middleware: Middleware, tab: Tab) -> None:
    page = tab.go(PAGE)
    assert page.text.count("It has no key, so no request goes there.") == 3
    key_id = middleware.add_key(provider="openai")
    assert "1 healthy" in tab.go(PAGE).text
    middleware.services.keys.bulk([key_id], "Resting")
    assert "All its usable keys rest" in tab.go(PAGE).text
    middleware.services.keys.bulk([key_id], "Disabled")
    assert "All its keys are disabled" in tab.go(PAGE).text


def test_a_provider_is_added_by_its_kind(middleware: Middleware, tab: Tab) -> None:
    page = tab.go(f"{PAGE}/new")
    assert "Any server that speaks OpenAI's chat completions" in page.text
    assert f"{PAGE}/new?kind=azure-openai" in page.links
    page = tab.go(f"{PAGE}/new?kind=openai-compatible")
    assert "What its documentation calls the base URL" in page.text
    page = tab.submit(
        "/new",
        name="local",
        base_url="http://127.0.0.1:11434/v1/",
        models="qwen*\r\nllama*",
        headers=f"x-team: {SECRET}",
    )
    assert "local is added" in page.text
    assert SECRET not in tab.answer.text
    found = row(middleware)
    assert (found["base_url"], found["models"], found["enabled"]) == (
        "http://127.0.0.1:11434",
        ["qwen*", "llama*"],
        True,
    )
    assert middleware.services.providers.snapshot.by_name["local"].headers == {"x-team": SECRET}


def test_a_wrong_form_is_shown_again_with_its_faults(middleware: Middleware, tab: Tab) -> None:
    tab.go(f"{PAGE}/new?kind=openai-compatible")
    page = tab.submit("/new", 422, name="Not A Name", base_url="file:///x", priority="first", headers="no colon")
    for words in ("Must be a whole number", "Write one on each line, as name: value."):
        assert words in page.text, words
    assert ("name", "Not A Name") in page.forms[-1].fields
    page = tab.submit("/new", 422, priority="1", headers="")
    assert "Must be 1 to 63 lower-case letters" in page.text
    page = tab.submit("/new", 422, name="local", base_url="", priority="1", headers="")
    assert "needs a base_url" in page.text
    page = tab.submit("/new", 422, name="local", base_url="http://169.254.169.254")
    assert "not allowed" in page.text
    page = tab.submit("/new", 422, name="openai", base_url="http://127.0.0.1:1")
    assert "exists already" in page.text
    assert len(middleware.services.providers.list()) == 3


def test_a_kind_that_does_not_exist_is_refused(tab: Tab) -> None:
    assert tab.client.post(f"{PAGE}/new", data={"kind": ATTACK, "name": "x"}).status_code == 400
    assert "Which kind is it?" in tab.go(f"{PAGE}/new?kind={ATTACK}").text


def test_a_masked_header_keeps_its_value(middleware: Middleware, tab: Tab) -> None:
    add(middleware, headers={"x-team": SECRET})
    page = tab.go(f"{PAGE}/local/edit")
    assert ("headers", "x-team: a-lo...alue") in page.forms[-1].fields
    tab.submit("/edit", headers="x-team: a-lo...alue\r\nx-other: another-secret", priority="7")
    headers = middleware.services.providers.snapshot.by_name["local"].headers
    assert headers == {"x-team": SECRET, "x-other": "another-secret"}
    assert row(middleware)["priority"] == 7


def test_formats_are_chosen_or_left_to_the_kind(middleware: Middleware, tab: Tab) -> None:
    add(middleware)
    tab.go(f"{PAGE}/local/edit")
    tab.submit("/edit", formats=["openai_chat", "anthropic_messages"])
    assert row(middleware)["formats"] == ["openai_chat", "anthropic_messages"]
    tab.go(f"{PAGE}/local/edit")
    tab.submit("/edit", formats=None)
    assert row(middleware)["formats"] == []


def test_saving_without_a_change_changes_nothing(middleware: Middleware, tab: Tab) -> None:
    add(
        middleware, models=["b*", "a*"], headers={"x-team": SECRET}, query={"api-version": "1"}, formats=["openai_chat"]
    )
    written = "SELECT MAX(updated_at * 1000000) FROM providers"
    before = middleware.services.database.number(written)
    tab.go(f"{PAGE}/local/edit")
    tab.submit("/edit")
    assert middleware.services.database.number(written) == before


def test_a_provider_is_switched_off_and_on(middleware: Middleware, tab: Tab) -> None:
    tab.go(PAGE)
    assert "no request goes there" in tab.submit("/openai/disable").text
    assert row(middleware, "openai")["enabled"] is False
    tab.submit("/openai/enable")
    assert row(middleware, "openai")["enabled"] is True


def test_deleting_asks_first_and_says_what_goes_with_it(middleware: Middleware, tab: Tab) -> None:
    add(middleware)
    middleware.services.providers.set_aliases({"fast": "local/qwen3", "other": "gpt-5"})
    middleware.services.live_settings.update({"model_provider": "local"})
    page = tab.go(f"{PAGE}/local/delete")
    assert "fast" in page.text
    assert "other" not in page.text
    assert "default provider" in page.text
    assert "local is deleted" in tab.submit("/delete").text
    tab.go(f"{PAGE}/local/delete", 404)


def test_a_provider_with_keys_is_not_deleted(middleware: Middleware, tab: Tab) -> None:
    add(middleware)
    tab.go(f"{PAGE}/local/delete")
    middleware.add_key(provider="local")
    assert "1 key belongs to it" in tab.submit("/delete", 409).text
    assert f"{PAGE}/local/delete" not in [form.action for form in tab.go(f"{PAGE}/local/delete").forms]


# -- testing -----------------------------------------------------------------------------------------------


def test_a_test_shows_what_came_back(middleware: Middleware, tab: Tab, upstream: FakeProvider) -> None:
    add(middleware, base_url=upstream.origin)
    middleware.add_key("sk-0123456789-local", provider="local", name="first")
    upstream.answers(json_reply(canned.openai_models("one", ATTACK)))
    tab.go(PAGE)
    page = tab.submit("/local/test")
    assert "It answered with 2 models." in page.text
    assert "local: It offers 2 models." in page.text
    assert ATTACK in page.text
    assert ATTACK not in tab.answer.text
    answer = tab.client.post(f"{PAGE}/local/test", headers={"HX-Request": "true"})
    assert (answer.status_code, "<html" in answer.text) == (200, False)


def test_a_failing_test_shows_the_verdict_and_no_secret(
    middleware: Middleware, tab: Tab, upstream: FakeProvider
) -> None:
    add(middleware, base_url=upstream.origin)
    middleware.add_key("sk-0123456789-local", provider="local")
    message = f"wrong key sk-0123456789-local {ATTACK}"
    upstream.answers(json_reply({"error": {"message": message, "code": "invalid_api_key"}}, 401))
    tab.go(PAGE)
    page = tab.submit("/local/test")
    assert "Status 401" in page.text
    assert "The provider says" in page.text
    assert "sk-0123456789-local" not in tab.answer.text
    assert ATTACK not in tab.answer.text


# -- two people at once ------------------------------------------------------------------------------------


def test_the_later_of_two_people_is_told_and_loses_nothing(middleware: Middleware, tab: Tab) -> None:
    add(middleware)
    other = Tab(middleware.client())
    tab.go(f"{PAGE}/local/edit")
    other.go(f"{PAGE}/local/edit")
    other.submit("/edit", priority="7", models="a*")
    page = tab.submit("/edit", 409, priority="9", enabled=None)
    assert "Somebody else has changed this meanwhile, to: 7." in page.text
    assert ("priority", "9") in page.forms[-1].fields
    found = row(middleware)
    assert (found["priority"], found["models"], found["enabled"]) == (7, ["a*"], True)
    tab.submit("/edit")
    found = row(middleware)
    assert (found["priority"], found["models"], found["enabled"]) == (9, ["a*"], False)


def test_a_provider_that_somebody_deleted_is_not_there_to_save(middleware: Middleware, tab: Tab) -> None:
    add(middleware)
    tab.go(f"{PAGE}/local/edit")
    middleware.services.providers.delete("local")
    assert "There is no provider named" in tab.submit("/edit", 404, priority="9").text


@pytest.mark.parametrize("path", ["/new", "/openai/edit", "/openai/delete", "/openai/test", "/openai/disable"])
def test_a_change_from_elsewhere_is_refused(locked: Middleware, path: str) -> None:
    client = locked.client()
    client.post("/middleware/login", data={"password": PASSWORD})
    assert client.post(PAGE + path, data={"name": "x"}).status_code == 403
    assert client.post(PAGE + path, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert len(locked.services.providers.list()) == 3


def test_texts_of_providers_stay_text(middleware: Middleware, tab: Tab) -> None:
    add(middleware, models=[ATTACK], query={"x": ATTACK}, headers={"x-a": f"{ATTACK}{ATTACK}"})
    for path in ("", "/list", "/local/edit", "/local/delete"):
        tab.go(PAGE + path)
        assert "<script>alert" not in tab.answer.text, path
