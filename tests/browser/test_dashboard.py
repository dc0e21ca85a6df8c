"""The dashboard, looked at while things happen."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import canned
from tests.browser.people import Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

CHAT: dict[str, Any] = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
LIMITED = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
SCRIPT = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
POLL_MS = 5_000


def unwell(page: Page) -> Any:
    return page.get_by_role("region", name="Resting and disabled keys")


def figure(page: Page, name: str) -> Any:
    return page.locator(".figure", has_text=name).locator(".figure-value")


def test_a_key_rests_and_wakes_before_the_eyes_of_the_dashboard(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    gateway.add_keys("openai", 2)
    upstream.default(json_reply(canned.chat()))
    page = person.go("/middleware/")
    page.evaluate("window.neverReloaded = true")
    expect(unwell(page)).to_contain_text("Every key serves.")

    upstream.answers(json_reply(LIMITED, 429, {"Retry-After": "12"}))
    assert gateway.post("/v1/chat/completions", CHAT).status == 200

    resting = unwell(page).get_by_role("listitem")
    expect(resting).to_have_count(1)
    expect(resting).to_contain_text("Resting")
    expect(resting).to_contain_text("Too many requests (429): “Rate limit reached”")
    expect(figure(page, "Requests today")).to_have_text("1")
    countdown = resting.locator("time")
    before = countdown.text_content()
    assert before
    expect(countdown).not_to_have_text(before)
    expect(unwell(page)).to_contain_text("Every key serves.")
    expect(resting).to_have_count(0)
    assert page.evaluate("window.neverReloaded")


def test_the_dashboard_works_without_data_and_looks_again_within_five_seconds(person: Person) -> None:
    page = person.go("/middleware/")
    for name in ("Requests today", "Success rate", "Latency", "Tokens today"):
        expect(page.locator(".figure", has_text=name)).to_be_visible()
    expect(page.get_by_text("No request today.")).to_be_visible()
    expect(page.locator(".figure", has_text="Keys that serve")).to_contain_text("of the demonstration")
    expect(page.get_by_text("No MCP server is configured.")).to_be_visible()
    expect(page.locator("figure.chart canvas")).to_have_count(3)
    with page.expect_response("**/middleware/dashboard?days=1", timeout=POLL_MS + 1_500):
        pass


def test_what_the_reader_has_opened_and_scrolled_to_stays_while_figures_change(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    gateway.add_keys("openai", 1)
    upstream.default(json_reply(canned.chat()))
    page = person.go("/middleware/")
    page.locator("#chart-hours summary").click()
    page.evaluate("document.querySelector('#chart-hours canvas').marked = true")
    page.evaluate("scrollTo(0, 300)")

    for _ in range(3):
        gateway.post("/v1/chat/completions", CHAT)

    expect(figure(page, "Requests today")).to_have_text("3")
    assert page.locator("#chart-hours details").get_attribute("open") is not None
    expect(page.locator("#chart-hours tbody tr").last.locator("td").first).to_have_text("3")
    assert page.evaluate("document.querySelector('#chart-hours canvas').marked")
    drawn = "Chart.getChart(document.querySelector('#chart-hours canvas')).data.datasets[0].data.at(-1)"
    assert page.evaluate(drawn) == 3
    assert page.evaluate("scrollY") == 300


def test_names_models_and_messages_are_shown_as_text(person: Person, gateway: Gateway, upstream: FakeProvider) -> None:
    for number in (1, 2):
        gateway.services.keys.add(f"sk-test-openai-key-{number}", provider="openai", name=f"{SCRIPT}{number}")
    error = {"error": {**LIMITED["error"], "message": SCRIPT}}
    upstream.answers(json_reply(error, 429, {"Retry-After": "600"}))
    upstream.default(json_reply(canned.chat()))
    gateway.post("/v1/chat/completions", {**CHAT, "model": SCRIPT})
    gateway.settle()

    page = person.go("/middleware/")

    expect(unwell(page).get_by_role("link", name=SCRIPT)).to_be_visible()
    expect(unwell(page).get_by_role("listitem")).to_contain_text(f"“{SCRIPT}")
    expect(unwell(page).get_by_role("listitem")).to_contain_text("Too many requests (429)")
    expect(page.locator("main img, main script")).to_have_count(0)
    with page.expect_response("**/middleware/dashboard?days=1"):
        pass
    expect(page.locator("main img, main script")).to_have_count(0)


@pytest.mark.parametrize("javascript", [True, False])
def test_the_range_is_chosen_by_links(browser: Browser, gateway: Gateway, javascript: bool) -> None:
    with Person(browser, gateway.origin, javascript=javascript) as person:
        page = person.go("/middleware/")
        page.get_by_role("link", name="30 days").click()
        expect(page).to_have_url(f"{gateway.origin}/middleware/?days=30")
        expect(figure(page, "Requests in 30 days")).to_have_text("0")
        expect(page.get_by_role("link", name="30 days")).to_have_attribute("aria-current", "true")


def test_the_figures_of_the_charts_are_there_without_javascript(
    browser: Browser, gateway: Gateway, upstream: FakeProvider
) -> None:
    gateway.add_keys("openai", 1)
    upstream.default(json_reply(canned.chat()))
    gateway.post("/v1/chat/completions", CHAT)
    gateway.settle()
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go("/middleware/")
        page.locator("#chart-models summary").click()
        expect(page.locator("#chart-models tbody")).to_contain_text("gpt-test")
