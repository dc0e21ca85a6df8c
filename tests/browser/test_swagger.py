"""The API page: Swagger UI reads the document, and its calls really go out with the right credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.auth_store import SessionKind
from tests import canned
from tests.browser.people import SIZES, THEMES, Person
from tests.fake_behaviors import json_reply
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

ADDRESS = "/middleware/swagger/"


@pytest.fixture
def admin(browser: Browser, locked_gateway: Gateway) -> Iterator[Person]:
    """Somebody who is logged in, in front of the API page."""
    with Person(browser, locked_gateway.origin) as somebody:
        somebody.log_in(ADDRESS)
        yield somebody


def opened(page: Page, tag: str, operation: str) -> Locator:
    """A call of the page, with its details shown."""
    call = page.locator(f"#operations-{tag}-{operation}")
    if not call.count():
        page.locator(f"#operations-tag-{tag}").click()
    call.locator(".opblock-summary-control").click()
    return call


def executed(call: Locator, status: int) -> str:
    """Send the call and wait until the page shows an answer with this status: its body."""
    call.get_by_role("button", name="Execute").click()
    answer = call.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_contain_text(str(status))
    body: str = answer.locator(".response-col_description pre, .response-col_description code").first.inner_text()
    return body


def authorize(page: Page, label: str, value: str) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    scheme = page.locator(".auth-container", has_text=label).first
    scheme.locator("input").fill(value)
    scheme.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="Close").last.click()


def test_calls_go_with_the_session_and_changes_with_its_token(admin: Person, locked_gateway: Gateway) -> None:
    admin.ready()
    added = opened(admin.page, "Keys", "add_key")
    added.locator("textarea").fill('{"key": "sk-proj-0123456789abcdef", "name": "From the API page"}')

    assert '"Key added."' in executed(added, 201)

    assert "From the API page" in executed(opened(admin.page, "Keys", "list_keys"), 200)
    assert [row["name"] for row in locked_gateway.services.keys.list_keys() if row["provider"] == "gemini"] == [
        "From the API page"
    ]


def test_calls_go_with_a_token_that_is_filled_in(admin: Person, locked_gateway: Gateway) -> None:
    token, _ = locked_gateway.services.auth.open_session(SessionKind.BEARER)
    page = admin.ready()
    authorize(page, "of POST /middleware/api/login", token)
    admin.context.clear_cookies()

    assert "key_value" in executed(opened(page, "Keys", "list_keys"), 200)


def test_a_wrong_token_is_not_saved_by_the_session(admin: Person) -> None:
    page = admin.ready()
    authorize(page, "of POST /middleware/api/login", "not a token")
    admin.expect("401 of GET")

    assert "login_required" in executed(opened(page, "Keys", "list_keys"), 401)


def test_the_proxy_is_called_with_a_client_key(admin: Person, locked_gateway: Gateway, upstream: FakeProvider) -> None:
    upstream.default(json_reply(canned.chat()))
    locked_gateway.services.keys.add("sk-proj-0123456789abcdef", provider="openai")
    _, client_key = locked_gateway.services.clients.create(name="Ada")
    admin.ready()
    admin.expect("401 of POST")
    call = opened(admin.page, "OpenAI", "post_v1_chat_completions")
    executed(call, 401)

    authorize(admin.page, "as OpenAI's SDKs send theirs", client_key)

    assert '"chat.completion"' in executed(call, 200)
    assert [request.key for request in upstream.received] == ["sk-proj-0123456789abcdef"]


def test_the_token_of_the_session_goes_nowhere_else(admin: Person) -> None:
    page = admin.ready()
    module = page.locator("script[src*='js/swagger.js']").get_attribute("src")

    def header(method: str, url: str) -> Any:
        return page.evaluate(
            "async ([module, method, url]) => (await (await import(module)).withToken({method, url, headers: {}}))"
            ".headers['X-CSRF-Token'] ?? null",
            [module, method, url],
        )

    assert header("POST", "/middleware/api/keys")
    assert header("GET", "/middleware/api/keys") is None
    assert header("POST", "/v1/chat/completions") is None
    assert header("POST", "https://example.com/middleware/api/keys") is None
    assert header("POST", "//example.com/middleware/api/keys") is None


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_an_opened_call_fits_its_window_and_has_no_serious_fault_of_accessibility(
    browser: Browser, gateway: Gateway, size: str, theme: str
) -> None:
    with Person(browser, gateway.origin, size=size, theme=theme) as person:
        page = person.go(ADDRESS)
        expect(opened(page, "Keys", "update_key").get_by_role("button", name="Execute")).to_be_visible()
        assert person.violations() == []
        assert person.overflow_px() == 0


def test_colors_follow_the_readers_choice(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, theme="dark") as person:
        page = person.go(ADDRESS)
        expect(page.locator("html.dark-mode")).to_be_attached()
        page.get_by_role("button", name="Light", exact=True).click()
        expect(page.locator("html.dark-mode")).not_to_be_attached()


def test_without_javascript_all_calls_are_listed(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go(ADDRESS)
        expect(page.get_by_role("cell", name="/middleware/api/keys", exact=True).first).to_be_visible()
        expect(page.get_by_role("cell", name="Chat completion", exact=True)).to_be_visible()
        assert page.get_by_role("row").count() > 250
