"""The frame around every page: navigation, colors, menu, dialogs, the end of a session."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.looks import BARE_PAGES, PAGES
from tests.browser.people import SIZES, THEMES, Person
from tests.gateway import Gateway

ADDRESSES = {**PAGES, **BARE_PAGES}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_its_window_and_has_no_serious_fault_of_accessibility(
    browser: Browser, locked_gateway: Gateway, size: str, theme: str
) -> None:
    with Person(browser, locked_gateway.origin, size=size, theme=theme) as person:
        person.expect("404 of GET")
        faults = {}
        for name, address in ADDRESSES.items():
            if name == "dashboard":
                person.log_in()
            person.go(address)
            found = person.violations()
            if person.overflow_px() > 0:
                found.append(f"reaches {person.overflow_px()} px beyond the window")
            if found:
                faults[name] = found
        assert not faults


def test_colors_follow_the_system_until_somebody_chooses(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, theme="dark") as person:
        page = person.go("/middleware/")
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(16, 19, 26)"
        with page.expect_response("**/middleware/appearance"):
            page.get_by_role("button", name="Light").click()
        assert page.evaluate(ground) == "rgb(244, 245, 249)"
        page.reload()
        assert page.evaluate(ground) == "rgb(244, 245, 249)"
        assert page.get_by_role("button", name="Light").get_attribute("aria-pressed") == "true"
        with page.expect_response("**/middleware/appearance"):
            page.get_by_role("button", name="Like the system").click()
        page.reload()
        assert page.evaluate(ground) == "rgb(16, 19, 26)"


def test_colors_can_be_chosen_without_javascript(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go("/middleware/")
        page.get_by_role("button", name="Dark").click()
        expect(page).to_have_url(f"{gateway.origin}/middleware/")
        assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"


def test_the_menu_opens_and_closes_on_a_phone(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, size="phone") as person:
        page = person.go("/middleware/")
        link = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Dashboard")
        expect(link).to_be_hidden()
        page.get_by_role("button", name="Menu").click()
        expect(link).to_be_visible()
        page.keyboard.press("Escape")
        expect(link).to_be_hidden()
        expect(page.get_by_role("button", name="Menu")).to_be_focused()


def test_the_menu_is_below_the_page_without_javascript(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, size="phone", javascript=False) as person:
        page = person.go("/middleware/")
        expect(page.get_by_role("navigation", name="Pages").get_by_role("link", name="Dashboard")).to_be_visible()


def test_logging_out_asks_first_and_ends_the_session(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin) as person:
        page = person.log_in()
        page.get_by_role("link", name="Log out").click()
        dialog = page.get_by_role("dialog", name="Log out?")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Stay").click()
        expect(dialog).to_be_hidden()
        page.get_by_role("link", name="Log out").click()
        dialog.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/middleware/login")
        person.go("/middleware/")
        assert "/middleware/login?next=" in page.url


def test_the_login_stands_in_the_middle(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin) as person:
        box = person.go("/middleware/login").locator("section.card").bounding_box()
        assert box is not None
        assert abs(box["x"] * 2 + box["width"] - SIZES["desk"]["width"]) < 30


def test_logging_in_and_out_works_without_javascript(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin, javascript=False) as person:
        page = person.log_in()
        expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
        page.get_by_role("link", name="Log out").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()


def test_a_part_of_a_page_whose_session_has_ended_leads_to_the_login_and_back(
    browser: Browser, locked_gateway: Gateway
) -> None:
    with Person(browser, locked_gateway.origin) as person:
        page = person.log_in()
        person.context.clear_cookies()
        person.expect("401 of GET")
        person.expect("Response Status Error Code 401")
        page.get_by_role("link", name="Log out").click()
        page.wait_for_url("**/middleware/login?next=/middleware/")
        person.log_in(page.url)
        expect(page).to_have_url(f"{locked_gateway.origin}/middleware/")


def test_a_keyboard_reaches_the_content_first(page: object, person: Person) -> None:
    tab = person.go("/middleware/")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.locator("main")).to_be_focused()


def test_a_page_that_cannot_be_kept_current_says_so_once(person: Person) -> None:
    person.expect("503 of GET")
    person.expect("Response Status Error Code 503")
    tab = person.go("/middleware/welcome")
    tab.route("**/welcome/first-call", lambda route: route.fulfill(status=503, body="no"))
    for _ in range(2):
        with tab.expect_response("**/welcome/first-call"):
            pass
    expect(tab.locator("#notices .notice")).to_have_count(1)
    expect(tab.locator("#notices")).to_contain_text("The server answers with 503. This page goes on trying.")


def test_the_end_of_a_session_does_not_take_away_what_is_being_typed(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin) as person:
        person.expect("401 of GET")
        person.expect("Response Status Error Code 401")
        page = person.log_in("/middleware/welcome")
        page.get_by_label("Name", exact=True).fill("House account")
        locked_gateway.services.auth.end_session(
            next(cookie["value"] for cookie in person.context.cookies() if cookie["name"] == "middleware_session")
        )
        expect(page.locator("#notices")).to_contain_text("Your session has ended.")
        expect(page.get_by_label("Name", exact=True)).to_have_value("House account")
        page.reload()
        expect(page.get_by_text("Your session has ended. Log in to go on.")).to_be_visible()
