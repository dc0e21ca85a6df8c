"""The request log in front of a person."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from app.admin.pages import requests
from tests import canned
from tests.browser.people import Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

ATTACK = '"><img src=x onerror="alert(1)"><script>alert(2)</script>'
PAGE = "/middleware/requests"


def ask(gateway: Gateway, request_id: str, model: str = "gpt-test", **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    status = gateway.post("/v1/chat/completions", body, X_Request_ID=request_id, **headers).status
    gateway.settle()
    return status


def limited(message: str = "Rate limit reached for gpt-test") -> object:
    return json_reply({"error": {"message": message, "code": "rate_limit_exceeded"}}, 429, {"Retry-After": "7"})


def failed_over(gateway: Gateway, upstream: FakeProvider, request_id: str) -> None:
    """The first key that is asked is limited, the next one answers."""
    upstream.answers(limited())  # type: ignore[arg-type]
    assert ask(gateway, request_id) == 200


@pytest.fixture
def served(gateway: Gateway, upstream: FakeProvider) -> Gateway:
    """Two keys, and three plain answers."""
    upstream.default(json_reply(canned.chat()))
    gateway.add_keys("openai", 2)
    for number in range(3):
        assert ask(gateway, f"plain-{number}", "gpt-test" if number else "gpt-other") == 200
    return gateway


def ids(page: Page) -> list[str]:
    names = [link.get_attribute("aria-label") or "" for link in page.locator("#rows a[data-unfold]").element_handles()]
    return [name.removeprefix("Attempts of request ") for name in names]


def test_a_failover_shows_which_key_failed_how_and_which_answered(
    served: Gateway, upstream: FakeProvider, person: Person
) -> None:
    failed_over(served, upstream, "failover-1")
    page = person.go(PAGE)
    link = page.get_by_role("link", name="Attempts of request failover-1")
    expect(link).to_have_attribute("data-unfold", re.compile("trail-"))
    link.press("Enter")
    trail = page.locator(".trail-row:not([hidden]) .trail")
    expect(trail.locator(".attempt")).to_have_count(2)
    first, second = trail.locator(".attempt").all()
    expect(first).to_contain_text("Key rests")
    expect(first).to_contain_text("status 429")
    expect(first).to_contain_text("Rate limit reached for gpt-test")
    expect(first).to_contain_text("another one was tried")
    expect(second).to_contain_text("Answered")
    assert first.locator("a").inner_text() != second.locator("a").inner_text()
    expect(trail.locator("svg rect").first).to_be_visible()
    expect(link).to_have_attribute("aria-expanded", "true")
    link.press("Enter")
    expect(trail).to_have_count(0)
    page.get_by_label("Verdict of an attempt").select_option("KEY_REST")
    expect(page.locator("#rows a[data-unfold]")).to_have_count(1)
    assert page.url.endswith("?verdict=KEY_REST")
    page.locator(".request-cell a").first.click()
    expect(page.get_by_role("heading", name="2 attempts")).to_be_visible()


def test_filters_work_by_keyboard_as_one_types_and_live_in_the_address(served: Gateway, person: Person) -> None:
    page = person.go(PAGE)
    expect(page.locator("#rows a[data-unfold]")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("plain-1")
    expect(page.locator("#rows a[data-unfold]")).to_have_count(1)
    expect(page).to_have_url(f"{served.origin}{PAGE}?search=plain-1")
    expect(page.get_by_label("Path or request id")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.press("Backspace")
    expect(page.locator("#rows a[data-unfold]")).to_have_count(3)
    expect(page).to_have_url(f"{served.origin}{PAGE}")
    page.get_by_label("Model").fill("gpt-other")
    expect(page.locator("#rows a[data-unfold]")).to_have_count(1)
    page.reload()
    assert ids(page) == ["plain-0"]
    expect(page.get_by_label("Model")).to_have_value("gpt-other")
    page.get_by_label("Status").fill("99")
    expect(page.get_by_text("This filter was left out")).to_be_visible()
    page.get_by_label("Status").fill("5xx")
    expect(page.get_by_role("heading", name="No request matches")).to_be_visible()
    page.locator("#results").get_by_role("button", name="Clear filters").click()
    expect(page.locator("#rows a[data-unfold]")).to_have_count(3)


def test_times_are_typed_in_the_readers_zone_and_sent_as_utc(served: Gateway, person: Person) -> None:
    page = person.go(f"{PAGE}?since=2026-07-01T10:00:00Z")
    expect(page.get_by_label("From")).to_have_value("2026-07-01T12:00")
    expect(page.get_by_label("From")).to_be_visible()
    page.get_by_label("Until").fill("2026-07-01T12:30:00")
    expect(page).to_have_url(re.compile(r"until=2026-07-01T10%3A30%3A00Z"))
    assert "since=2026-07-01T10%3A00%3A00Z" in page.url
    expect(page.get_by_role("heading", name="No request matches")).to_be_visible()


def test_new_requests_are_offered_and_do_not_move_the_list(
    served: Gateway, person: Person, upstream: FakeProvider
) -> None:
    page = person.go(PAGE)
    before = ids(page)
    page.get_by_role("link", name="Attempts of request plain-1").click()
    expect(page.locator(".trail-row:not([hidden]) .attempt")).to_have_count(1)
    top = page.locator("#rows").bounding_box()
    ask(served, "late-1")
    ask(served, "late-2")
    show = page.get_by_role("button", name="2 new requests: show")
    expect(show).to_be_visible(timeout=12_000)
    assert ids(page) == before
    assert page.locator("#rows").bounding_box() == top
    expect(page.locator(".trail-row:not([hidden]) .attempt")).to_have_count(1)
    show.click()
    expect(page.locator("#rows a[data-unfold]")).to_have_count(5)
    assert ids(page)[:2] == ["late-2", "late-1"]
    expect(show).to_be_hidden()


def test_a_long_search_goes_on_by_itself(served: Gateway, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.request_log._FIRST_WINDOW", 1)
    monkeypatch.setattr("app.request_log._LARGEST_WINDOW", 1)
    monkeypatch.setattr(requests, "SEARCH_S", -1.0)
    page = person.go(f"{PAGE}?model=gpt-other")
    expect(page.get_by_text("That is all there is.")).to_be_visible()
    assert ids(page) == ["plain-0"]
    page.get_by_role("link", name="Attempts of request plain-0").click()
    expect(page.locator(".trail-row:not([hidden]) .attempt")).to_have_count(1)


def test_the_log_works_without_javascript(browser: Browser, served: Gateway, upstream: FakeProvider) -> None:
    failed_over(served, upstream, "failover-1")
    with Person(browser, served.origin, javascript=False) as person:
        page = person.go(PAGE)
        page.get_by_label("Model").fill("gpt-test")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#rows a[data-unfold]")).to_have_count(3)
        page.get_by_label("Verdict of an attempt").select_option("failed")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Attempts of request failover-1").click()
        expect(page.get_by_role("heading", name="2 attempts")).to_be_visible()
        expect(page.get_by_text("Rate limit reached for gpt-test").first).to_be_visible()


def test_a_view_is_downloaded(served: Gateway, person: Person) -> None:
    page = person.go(f"{PAGE}?model=gpt-other")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    text = download.value.path().read_text()
    assert "plain-0" in text
    assert "plain-1" not in text


def test_text_from_callers_and_upstreams_never_runs(gateway: Gateway, upstream: FakeProvider, person: Person) -> None:
    gateway.services.keys.add("sk-test-openai-key-0001", provider="openai", name=ATTACK)
    gateway.services.keys.add("sk-test-openai-key-0002", provider="openai", name=ATTACK)
    upstream.answers(limited(ATTACK))  # type: ignore[arg-type]
    upstream.default(json_reply({"error": {"message": ATTACK, "type": ATTACK, "code": ATTACK}}, 400))
    ask(gateway, ATTACK, ATTACK, User_Agent=ATTACK)
    gateway.request("POST", "/v1/%3Cimg%20src=x%20onerror=alert(1)%3E", json_body={"model": ATTACK})
    gateway.settle()
    page = person.go(PAGE)
    for link in page.locator("#rows a[data-unfold]").all():
        link.click()
    expect(page.locator(".attempt-message").first).to_contain_text("<img src=x")
    person.go(f"{PAGE}?search=onerror&model={'%3Cscript%3Ealert(3)%3C/script%3E'}")
    for row_id in (1, 2):
        person.go(f"{PAGE}/{row_id}")
        page.get_by_text("As the API shows it").click()
    assert page.locator("main img, main script").count() == 0


def test_rows_stay_low_in_a_narrow_window(served: Gateway, person: Person) -> None:
    person.page.set_viewport_size({"width": 768, "height": 900})
    page = person.go(PAGE)
    box = page.locator(".at-request").first.bounding_box()
    assert box is not None
    assert box["height"] < 90
    assert person.overflow_px() == 0


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_an_unfolded_row_is_fit_for_everybody(
    browser: Browser, served: Gateway, upstream: FakeProvider, size: str
) -> None:
    failed_over(served, upstream, "failover-1")
    with Person(browser, served.origin, size=size) as person:
        page = person.go(f"{PAGE}?range=1h&stream=false")
        page.get_by_role("link", name="Attempts of request failover-1").click()
        expect(page.locator(".trail-row:not([hidden]) .attempt")).to_have_count(2)
        assert person.violations() == []
        assert person.overflow_px() == 0
        person.go(f"{PAGE}/failover-1")
        assert person.violations() == []
        assert person.overflow_px() == 0
