"""The settings page in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests import canned
from tests.browser.people import PASSWORD, SIZES, THEMES, Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

PAGE = "/middleware/settings"


def field(page: Page, name: str) -> Locator:
    return page.locator(f"#setting-{name}")


def test_a_change_takes_effect_on_the_next_proxied_call(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    gateway.add_keys("openai")
    upstream.default(json_reply(canned.chat()))
    big = {**canned.CHAT_REQUEST, "messages": [{"role": "user", "content": "x" * 2000}]}
    assert gateway.post("/v1/chat/completions", big).status == 200

    page = person.go(PAGE)
    expect(page.get_by_role("button", name="Save changes")).to_be_disabled()
    field(page, "max_request_size").fill("1024")
    expect(page.locator("#changes")).to_have_text("1 changed: max_request_size")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("#notices")).to_contain_text("1 setting saved: max_request_size.")

    assert gateway.post("/v1/chat/completions", big).status == 413
    expect(page.locator("#max_request_size")).to_contain_text("saved here")
    expect(page.locator("#changes")).to_have_text("Nothing is changed.")


def test_all_faults_are_shown_and_what_was_typed_stays(person: Person, gateway: Gateway) -> None:
    person.expect("400 of POST")
    page = person.go(PAGE)
    field(page, "max_retries").fill("99")
    field(page, "connect_timeout").fill("soon")
    field(page, "retry_total").fill("5")
    page.keyboard.press("Control+s")

    expect(page.get_by_role("alert")).to_contain_text("Nothing was saved: 2 settings")
    expect(page.locator("#max_retries")).to_contain_text("Must be between 1 and 20.")
    expect(field(page, "connect_timeout")).to_have_value("soon")
    expect(field(page, "max_retries")).to_be_focused()
    expect(page.locator("#changes")).to_contain_text("3 changed")

    field(page, "max_retries").fill("3")
    field(page, "connect_timeout").fill("20")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("#notices")).to_contain_text("3 settings saved")
    now = gateway.services.live_settings.current
    assert (now.max_retries, now.connect_timeout, now.retry_total) == (3, 20, 5)


def test_two_admins_at_once_lose_nothing_silently(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin) as first, Person(browser, gateway.origin) as second:
        second.expect("409 of POST")
        one, two = first.go(PAGE), second.go(PAGE)
        field(one, "max_retries").fill("9")
        field(one, "session_ttl").fill("7200")
        one.get_by_role("button", name="Save changes").click()
        expect(one.locator("#notices")).to_contain_text("2 settings saved")

        field(two, "max_retries").fill("4")
        field(two, "retry_total").fill("5")
        two.get_by_role("button", name="Save changes").click()
        expect(two.get_by_role("alert")).to_contain_text("somebody else changed 1 setting")
        expect(two.locator("#max_retries")).to_contain_text("it is now 9")
        expect(field(two, "max_retries")).to_have_value("4")
        expect(field(two, "session_ttl")).to_have_value("7200")
        assert gateway.services.live_settings.current.retry_total == 3

        two.get_by_role("button", name="Take theirs").click()
        expect(two.locator("#changes")).to_have_text("1 changed: retry_total")
        two.get_by_role("button", name="Save changes").click()
        expect(two.locator("#notices")).to_contain_text("1 setting saved: retry_total")
        now = gateway.services.live_settings.current
        assert (now.max_retries, now.retry_total, now.session_ttl) == (9, 5, 7200)


def test_what_was_typed_outlives_the_session(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin) as person:
        person.expect("401 of POST")
        person.expect("403 of POST")
        page = person.log_in(PAGE)
        field(page, "max_retries").fill("4")
        person.context.clear_cookies()
        page.get_by_role("button", name="Save changes").click()
        expect(page.locator("#notices")).to_contain_text("Your session has ended.")
        expect(field(page, "max_retries")).to_have_value("4")

        other = person.new_page()
        other.goto(f"{locked_gateway.origin}/middleware/login")
        other.get_by_label("Password").fill(PASSWORD)
        other.get_by_role("button", name="Log in").click()
        other.locator("body.frame").wait_for()
        page.get_by_role("button", name="Save changes").click()
        expect(page.locator("#notices")).to_contain_text("1 setting saved: max_retries.")
        assert locked_gateway.services.live_settings.current.max_retries == 4
        field(page, "max_retries").fill("5")
        page.get_by_role("button", name="Save changes").click()
        expect(page.locator("#max_retries")).to_contain_text("saved here")
        expect(page.locator("#changes")).to_have_text("Nothing is changed.")
        assert locked_gateway.services.live_settings.current.max_retries == 5


def test_settings_are_found_while_one_types_and_changes_can_be_discarded(page: Page, person: Person) -> None:
    person.go(PAGE)
    page.keyboard.press("/")
    page.keyboard.type("stream silence")
    expect(page.locator("[data-setting]:visible")).to_have_count(1)
    expect(page.get_by_role("heading", name="Limits")).to_be_hidden()
    field(page, "streaming_timeout").fill("7200")
    expect(page.locator("#streaming_timeout")).to_contain_text("= 2 h")

    page.get_by_role("searchbox").fill("no such thing")
    expect(page.get_by_text("No such setting")).to_be_visible()
    expect(page.locator("#changes")).to_have_text("1 changed: streaming_timeout")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("#changes")).to_have_text("Nothing is changed.")
    page.get_by_role("searchbox").fill("")
    expect(field(page, "streaming_timeout")).to_have_value("300")


def test_a_reset_asks_first_in_a_dialog(page: Page, person: Person, gateway: Gateway) -> None:
    gateway.services.live_settings.update({"max_retries": 9, "retry_total": 5})
    person.go(PAGE)
    page.get_by_role("link", name="Reset max_retries").click()
    dialog = page.get_by_role("dialog", name="Reset max_retries?")
    expect(dialog).to_contain_text("7")
    dialog.get_by_role("button", name="Reset").click()
    expect(page.locator("main").get_by_role("status").first).to_contain_text("1 setting reset: max_retries.")
    now = gateway.services.live_settings.current
    assert (now.max_retries, now.retry_total) == (7, 5)


def test_saving_and_resetting_work_without_javascript(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go(PAGE)
        page.get_by_role("searchbox").fill("cors")
        page.get_by_role("button", name="Find").click()
        expect(page.locator("[data-setting]")).to_have_count(2)
        field(page, "enable_cors").check()
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("status").first).to_contain_text("1 setting saved: enable_cors.")
        assert gateway.services.live_settings.current.enable_cors is True

        page.get_by_role("button", name="Reset 1 saved setting").click()
        page.get_by_role("button", name="Reset").click()
        expect(page.get_by_role("status").first).to_contain_text("1 setting reset: enable_cors.")
        assert gateway.services.live_settings.current.enable_cors is False


def test_text_in_settings_is_never_run(page: Page, person: Person, gateway: Gateway) -> None:
    evil = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"
    gateway.services.live_settings.update({"model_default": evil, "blocked_user_agents": evil})
    person.expect("400 of POST")
    person.go(f"{PAGE}?q={evil.replace('&', '')}")
    person.go(PAGE)
    expect(field(page, "model_default")).to_have_value(evil)
    field(page, "max_retries").fill(evil)
    page.get_by_role("button", name="Save changes").click()
    expect(field(page, "max_retries")).to_have_value(evil)
    page.get_by_role("link", name="Reset model_default").click()
    expect(page.get_by_role("dialog")).to_contain_text(evil)
    assert page.locator("main img, dialog img").count() == 0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_faults_conflicts_and_the_reset_are_accessible(
    browser: Browser, gateway: Gateway, size: str, theme: str
) -> None:
    with Person(browser, gateway.origin, size=size, theme=theme) as person:
        person.expect("400 of POST")
        page = person.go(PAGE)
        field(page, "max_retries").fill("99")
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert person.violations() == []
        assert person.overflow_px() == 0
        gateway.services.live_settings.update({"max_retries": 9})
        field(page, "max_retries").fill("8")
        person.expect("409 of POST")
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("button", name="Take theirs")).to_be_visible()
        assert person.violations() == []
        page.get_by_role("button", name="Discard").click()
        page.get_by_role("link", name="Reset max_retries").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert person.violations() == []
        assert person.overflow_px() == 0
