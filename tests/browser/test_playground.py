"""The playground in a real browser: real calls through the real gateway to a scripted upstream."""

from __future__ import annotations

import json
import threading

import pytest
from playwright.sync_api import Browser, Page, expect

from app.admin.chats import DIALECTS
from tests import canned, canned_errors
from tests.browser.people import PASSWORD, SIZES, THEMES, Person
from tests.fake_provider import FakeProvider, json_reply, stream, wait_for
from tests.gateway import Gateway

PAGE = "/middleware/playground"
ANSWERS = {
    "openai_chat": ("gpt-test", canned.chat(), canned.chat_stream()),
    "openai_responses": ("gpt-test", canned.response(), canned.response_stream()),
    "anthropic_messages": ("claude-test", canned.message(), canned.message_stream()),
    "gemini": ("gemini-test", canned.gemini(), canned.gemini_stream()),
}
EVIL = '<img src=x onerror=alert(1)><script>alert(2)</script>\n<b>bold</b> & "quoted"'


def with_keys(gateway: Gateway) -> None:
    for provider in ("openai", "anthropic", "gemini"):
        gateway.add_keys(provider)


def choose(page: Page, dialect: str, model: str = "", *, streamed: bool = True) -> None:
    page.get_by_label("Wire format").select_option(dialect)
    page.get_by_label("Model", exact=True).fill(model or ANSWERS[dialect][0])
    page.get_by_role("switch", name="Stream").set_checked(streamed)


def send(page: Page, text: str = "Hi") -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Control+Enter")


def facts(page: Page) -> str:
    page.get_by_role("tab", name="Response").click()
    return page.locator("#facts").inner_text()


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_chat_is_answered_in_each_dialect(
    person: Person, gateway: Gateway, upstream: FakeProvider, dialect: str, streamed: bool
) -> None:
    with_keys(gateway)
    _, whole, events = ANSWERS[dialect]
    upstream.default(stream(events) if streamed else json_reply(whole))
    page = person.go(PAGE)
    choose(page, dialect, streamed=streamed)
    page.get_by_text("System prompt, limits").click()
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Max tokens").fill("77")
    page.get_by_label("Temperature").fill("0.5")
    send(page)

    expect(page.locator(".turn--assistant .turn-text")).to_have_text(canned.TEXT)
    expect(page.locator("#state")).to_contain_text("Answered in")
    sent = upstream.received[0]
    assert ("stream" in sent.target) or (sent.json.get("stream", False) is streamed)
    assert all(part in json.dumps(sent.json) for part in ("Be kind.", "77", "0.5", "Hi"))
    shown = facts(page)
    assert "200" in shown
    assert f"{canned.INPUT_TOKENS} in, {canned.OUTPUT_TOKENS} out" in shown
    expect(page.locator("#response-body")).to_contain_text("upstream." if not streamed else "data: ")
    expect(page.locator("#response-head")).to_contain_text("x-middleware-provider")
    request_id = gateway.records()[-1]["request_id"]
    expect(page.locator("#facts").get_by_role("link", name=request_id)).to_have_attribute(
        "href", f"/middleware/requests/{request_id}"
    )
    page.get_by_role("tab", name="Request").click()
    assert json.loads(page.locator("#request-body").inner_text())


def test_a_conversation_goes_on_with_all_its_turns_until_it_is_cleared(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    with_keys(gateway)
    upstream.default(stream(canned.chat_stream()))
    page = person.go(PAGE)
    choose(page, "openai_chat")
    for number, text in enumerate(("One", "Two"), start=1):
        send(page, text)
        expect(page.locator(".turn--assistant")).to_have_count(number)
        expect(page.locator("#state")).to_contain_text("Answered in")
    said = [turn["content"] for turn in upstream.received[1].json["messages"]]
    assert said == ["One", canned.TEXT, "Two"]

    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    send(page, "Three")
    expect(page.locator(".turn--assistant .turn-text")).to_have_text(canned.TEXT)
    assert len(upstream.received[2].json["messages"]) == 1


def test_an_answer_is_shown_as_it_comes_and_can_be_stopped(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    with_keys(gateway)
    never = threading.Event()
    words = canned.chat_stream(["Hello "], usage=False)
    upstream.default(stream([*words[:2], wait_for(never)], end="hang"))
    page = person.go(PAGE)
    choose(page, "openai_chat")
    send(page)
    expect(page.locator(".turn--assistant .turn-text")).to_have_text("Hello ")
    expect(page.locator("#state")).to_contain_text("Answering")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("Stopped.")
    expect(page.locator(".turn--assistant .turn-end")).to_contain_text("Stopped after")
    assert upstream.wait_closed(0)
    never.set()
    gateway.quiet()
    assert gateway.records()[-1]["outcome"] == "client_gone"

    upstream.default(stream(canned.chat_stream()))
    send(page, "Again")
    expect(page.locator(".turn--assistant .turn-text").last).to_have_text(canned.TEXT)
    assert [turn["content"] for turn in upstream.received[1].json["messages"]] == ["Hi", "Hello ", "Again"]


def test_errors_are_shown_in_full_and_the_message_can_be_sent_again(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    person.expect("429 of POST")
    person.expect("404 of POST")
    gateway.add_keys("openai", 2)
    upstream.default(json_reply(canned_errors.OPENAI_RATE_LIMIT, 429, {"Retry-After": "60"}))
    page = person.go(PAGE)
    choose(page, "openai_chat")
    send(page)
    failed = page.locator(".turn--error")
    expect(failed).to_contain_text("429:")
    expect(failed).to_contain_text("all_keys_resting")
    expect(failed).to_contain_text("Try again in")
    expect(page.locator("#response-body")).to_contain_text("all_keys_resting")
    expect(page.get_by_label("Message")).to_have_value("Hi")

    choose(page, "openai_chat", "demo-fast")
    send(page)
    expect(page.locator(".turn--error").last).to_contain_text("404:")
    upstream.default(json_reply(canned.chat()))
    choose(page, "openai_chat", "another-model", streamed=False)
    gateway.add_keys("anthropic")
    gateway.services.keys.add("sk-a-key-that-is-not-resting-0003", provider="openai", name="fresh")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn--assistant .turn-text").last).to_have_text(canned.TEXT)
    assert [turn["content"] for turn in upstream.received[-1].json["messages"]] == ["Hi"]
    gateway.settle()
    page.get_by_role("link", name="in the log").last.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("equest")


def test_a_stream_that_breaks_off_is_told(person: Person, gateway: Gateway, upstream: FakeProvider) -> None:
    with_keys(gateway)
    seen = threading.Event()
    upstream.default(stream([*canned.chat_stream(usage=False)[:3], wait_for(seen)], end="reset"))
    page = person.go(PAGE)
    choose(page, "openai_chat")
    person.expect("ERR_")
    send(page)
    expect(page.locator(".turn--assistant .turn-text")).to_contain_text("Hello")
    seen.set()
    expect(page.locator(".turn--error")).to_contain_text("Hello")
    expect(page.locator(".turn--error")).to_contain_text("broke")


def test_text_of_answers_and_errors_is_never_run(person: Person, gateway: Gateway, upstream: FakeProvider) -> None:
    person.expect("400 of POST")
    with_keys(gateway)
    page = person.go(PAGE)
    for dialect, whole, events in (
        ("openai_chat", canned.chat(EVIL), canned.chat_stream([EVIL])),
        ("anthropic_messages", canned.message(EVIL), canned.message_stream([EVIL])),
        ("gemini", canned.gemini(EVIL), canned.gemini_stream([EVIL])),
    ):
        for streamed in (False, True):
            upstream.default(stream(events) if streamed else json_reply(whole))
            choose(page, dialect, streamed=streamed)
            count = page.locator(".turn--assistant").count()
            send(page, EVIL)
            expect(page.locator(".turn--assistant")).to_have_count(count + 1)
            expect(page.locator("#state")).to_contain_text("Answered in")
            assert page.locator(".turn-text").last.inner_text() == EVIL
    upstream.default(json_reply({"error": {"message": EVIL, "type": "invalid_request_error", "code": EVIL}}, 400))
    choose(page, "openai_chat")
    send(page, EVIL)
    expect(page.locator(".turn--error")).to_contain_text("<img src=x")
    page.get_by_role("tab", name="Code").click()
    expect(page.locator("#code-curl")).to_contain_text("<img src=x")
    assert page.locator("main :is(img, script, b)").count() == 0


def test_where_client_keys_are_required_the_page_has_its_own_or_takes_another(
    browser: Browser, locked_gateway: Gateway, upstream: FakeProvider
) -> None:
    with_keys(locked_gateway)
    upstream.default(stream(canned.chat_stream()))
    clients = locked_gateway.services.clients
    _, typed = clients.create("laptop")
    with Person(browser, locked_gateway.origin) as person:
        page = person.log_in(PAGE)
        choose(page, "openai_chat")
        send(page)
        expect(page.locator(".turn--assistant .turn-text")).to_have_text(canned.TEXT)
        row = clients.list()[0]
        assert row["name"] == "Playground"
        page.get_by_role("tab", name="Request").click()
        expect(page.locator("#request-head")).to_contain_text("Authorization: Bearer …")

        clients.update(row["id"], {"active": False})
        person.expect("403 of POST")
        send(page)
        expect(page.locator(".turn--error")).to_contain_text("switched off")
        page.get_by_text("System prompt, limits").click()
        page.get_by_label("Client key").fill(typed)
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn--assistant .turn-text")).to_have_text([canned.TEXT, canned.TEXT])
        assert locked_gateway.records()[-1]["client_id"] == clients.list()[1]["id"]

        person.context.clear_cookies()
        person.expect("401 of POST")
        page.get_by_label("Client key").fill("")
        send(page, "Not lost")
        expect(page.get_by_role("link", name="Log in again")).to_be_visible()
        expect(page.get_by_text("Your session has ended.")).to_be_visible()
        expect(page.get_by_label("Message")).to_have_value("Not lost")
        clients.update(row["id"], {"active": True})
        other = person.new_page()
        other.goto(f"{locked_gateway.origin}/middleware/login")
        other.get_by_label("Password").fill(PASSWORD)
        other.get_by_role("button", name="Log in").click()
        other.locator("body.frame").wait_for()
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn--assistant .turn-text").last).to_have_text(canned.TEXT)


def test_what_is_wrong_is_shown_at_its_field(person: Person, page: Page) -> None:
    person.expect("400 of POST")
    person.go(PAGE)
    choose(page, "openai_chat", " ")
    send(page)
    expect(page.get_by_label("Model", exact=True)).to_be_focused()
    expect(page.locator("#field-model-fault")).to_contain_text("Must be")
    page.get_by_label("Model", exact=True).fill("gpt-test")
    page.get_by_text("System prompt, limits").click()
    page.get_by_label("Temperature").fill("hot")
    send(page)
    expect(page.locator("#field-temperature-fault")).to_contain_text("Must be a number from 0 to 2")
    page.get_by_label("Temperature").fill("")
    send(page, "")
    expect(page.locator("#field-message-fault")).to_contain_text("Write a message first")


def test_programs_can_be_copied_before_anything_is_sent(
    person: Person, page: Page, gateway: Gateway, upstream: FakeProvider
) -> None:
    person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    person.go(PAGE)
    choose(page, "anthropic_messages")
    page.get_by_label("Message").fill('It\'s "me"')
    page.get_by_role("tab", name="Code").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#notices")).to_contain_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f'Anthropic(base_url="{gateway.origin}"'.replace('"', "'") in copied.replace('"', "'")
    compile(copied, "copied", "exec")
    assert upstream.received == []
    page.keyboard.press("Tab")
    page.get_by_role("tab", name="Code").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Request")).to_be_focused()


def test_the_demonstration_answers_before_any_key_exists(person: Person, page: Page) -> None:
    person.go(PAGE)
    expect(page.get_by_label("Model", exact=True)).to_have_value("demo-fast")
    send(page)
    expect(page.locator(".turn--assistant .turn-text")).to_contain_text("demonstration")


def test_without_javascript_the_form_makes_the_command(
    browser: Browser, gateway: Gateway, upstream: FakeProvider
) -> None:
    with Person(browser, gateway.origin, javascript=False) as person:
        person.expect("400 of POST")
        page = person.go(PAGE)
        expect(page.get_by_text("Sending from this page needs JavaScript")).to_be_visible()
        page.get_by_label("Model", exact=True).fill("gpt-test")
        page.get_by_label("Message").fill("It's me")
        page.get_by_role("button", name="Show the call").click()
        expect(page.locator("#code-curl")).to_contain_text("curl -N")
        expect(page.locator("#request-body")).to_contain_text("It's me")
        expect(page.get_by_label("Message")).to_have_value("It's me")
        page.get_by_label("Message").fill("")
        page.get_by_role("button", name="Show the call").click()
        expect(page.locator("#field-message-fault")).to_contain_text("Write a message first")
        assert upstream.received == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_used_playground_fits_and_is_accessible(
    browser: Browser, gateway: Gateway, upstream: FakeProvider, size: str, theme: str
) -> None:
    with_keys(gateway)
    with Person(browser, gateway.origin, size=size, theme=theme) as person:
        person.expect("400 of POST")
        page = person.go(PAGE)
        upstream.default(json_reply(canned_errors.OPENAI_BAD_REQUEST, 400))
        choose(page, "openai_chat")
        send(page, "wide" * 200)
        expect(page.locator(".turn--error")).to_be_visible()
        upstream.default(stream(canned.chat_stream(["word " * 50, "wide" * 200])))
        send(page)
        expect(page.locator("#state")).to_contain_text("Answered in")
        page.get_by_text("System prompt, limits").click()
        for tab in ("Request", "Response", "Code"):
            page.get_by_role("tab", name=tab).click()
            assert person.violations() == []
            assert person.overflow_px() == 0
