"""The live log in front of a person."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests import canned
from tests.browser.people import Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

ATTACK = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
LIVE = "Live: new lines appear by themselves."


def ask(gateway: Gateway, model: str = "gpt-test", **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return gateway.post("/v1/chat/completions", body, **headers).status


def tell(gateway: Gateway, *messages: str, color: str = "green") -> None:
    for message in messages:
        gateway.services.usage.live_log.add(message, color)
    gateway.settle()


def watch(person: Person) -> Page:
    page = person.go("/middleware/logs")
    expect(page.get_by_text(LIVE)).to_be_visible()
    page.mouse.move(0, 0)
    return page


def texts(page: Page) -> list[str]:
    return page.locator("#lines .line-text").all_inner_texts()


def test_a_call_shows_up_within_a_second_without_a_reload(
    gateway: Gateway, upstream: FakeProvider, person: Person
) -> None:
    gateway.add_keys("openai")
    upstream.default(json_reply(canned.chat()))
    page = watch(person)
    expect(page.get_by_text("Nothing has happened yet")).to_be_visible()
    assert ask(gateway, X_Request_ID="my-request-1") == 200
    line = page.locator(".line", has_text="200 success").filter(has_text="(my-request-1)")
    expect(line).to_be_visible(timeout=1500)
    expect(page.get_by_text("Nothing has happened yet")).to_be_hidden()
    expect(line.get_by_role("link", name="Look at this request")).to_have_attribute(
        "href", "/middleware/requests/my-request-1"
    )


def test_pausing_holds_lines_back_and_loses_none(gateway: Gateway, person: Person) -> None:
    tell(gateway, "before")
    page = watch(person)
    page.get_by_role("button", name="Pause").click()
    page.mouse.move(0, 0)
    tell(gateway, *(f"held {number}" for number in range(30)))
    expect(page.get_by_role("button", name="30 new lines: show")).to_be_visible()
    assert texts(page) == ["before"]
    expect(page.locator("#log-connection")).to_have_text("Paused: new lines wait.")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#log-connection")).to_contain_text("Live:")
    expect(page.locator(".line")).to_have_count(31)
    tell(gateway, "after")
    expect(page.locator(".line")).to_have_count(32)
    assert texts(page) == ["before", *(f"held {number}" for number in range(30)), "after"]


def test_nothing_moves_under_the_pointer_or_the_focus(gateway: Gateway, person: Person) -> None:
    tell(gateway, "before")
    page = watch(person)
    page.locator("#log-scroll").hover()
    tell(gateway, "under the pointer")
    expect(page.get_by_role("button", name="1 new line: show")).to_be_visible()
    assert texts(page) == ["before"]
    page.mouse.move(0, 0)
    expect(page.locator(".line")).to_have_count(2)
    page.locator("#log-scroll").focus()
    tell(gateway, "under the focus")
    button = page.get_by_role("button", name="1 new line: show")
    expect(button).to_be_visible()
    assert len(texts(page)) == 2
    button.press("Enter")
    expect(page.locator(".line")).to_have_count(3)


def test_lines_are_filtered_by_color_and_text_and_cleared(gateway: Gateway, person: Person) -> None:
    tell(gateway, "a green one", "another")
    tell(gateway, "a red one", color="red")
    page = watch(person)
    page.get_by_label("Answers").uncheck()
    expect(page.get_by_text("a green one")).to_be_hidden()
    expect(page.get_by_text("a red one")).to_be_visible()
    tell(gateway, "a later green one")
    tell(gateway, "a later red one", color="red")
    expect(page.get_by_text("a later red one")).to_be_visible()
    expect(page.get_by_text("a later green one")).to_be_hidden()
    page.get_by_label("Answers").check()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("LATER")
    expect(page.get_by_text("a red one", exact=True)).to_be_hidden()
    expect(page.get_by_text("a later green one")).to_be_visible()
    page.get_by_label("Text in the line").fill("")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Nothing has happened yet")).to_be_visible()
    tell(gateway, "afresh")
    expect(page.locator(".line")).to_have_count(1)


def test_whoever_scrolls_up_is_left_there(gateway: Gateway, person: Person) -> None:
    (tell(gateway, *(f"line {number}" for number in range(50))),)
    tell(gateway, *(f"more {number}" for number in range(50)))
    page = watch(person)
    at_end = "(it => it.scrollHeight - it.scrollTop - it.clientHeight < 3)(document.getElementById('log-scroll'))"
    assert page.evaluate(at_end)
    page.evaluate("document.getElementById('log-scroll').scrollTop = 40")
    expect(page.get_by_label("Follow")).not_to_be_checked()
    tell(gateway, "news")
    expect(page.locator(".line", has_text="news")).to_have_count(1)
    assert page.evaluate("document.getElementById('log-scroll').scrollTop") == 40
    page.get_by_label("Follow").check()
    assert page.evaluate(at_end)


def test_a_page_that_was_hidden_or_cut_off_catches_up(gateway: Gateway, person: Person) -> None:
    page = watch(person)
    tell(gateway, "one")
    expect(page.locator(".line")).to_have_count(1)
    person.context.set_offline(True)
    person.expect("ERR_INTERNET_DISCONNECTED")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
    tell(gateway, "two", "three")
    person.context.set_offline(False)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect(page.locator(".line")).to_have_count(3)
    assert texts(page) == ["one", "two", "three"]


def test_where_too_many_watch_the_page_asks_instead(gateway: Gateway, person: Person) -> None:
    gateway.lifecycle.most_watching = 0
    person.expect("503 of GET")
    page = person.go("/middleware/logs")
    expect(page.get_by_text("Live: new lines appear every two seconds.")).to_be_visible()
    tell(gateway, "asked for")
    expect(page.get_by_text("asked for")).to_be_visible()
    tell(gateway, "asked for again")
    expect(page.locator(".line")).to_have_count(2)


def test_text_in_lines_never_runs(gateway: Gateway, upstream: FakeProvider, person: Person) -> None:
    gateway.add_keys("openai")
    upstream.default(json_reply({"error": {"message": ATTACK, "type": "invalid_request_error"}}, 400))
    tell(gateway, ATTACK)
    page = watch(person)
    tell(gateway, f"pushed {ATTACK}")
    ask(gateway, ATTACK, User_Agent=ATTACK)
    gateway.request("POST", "/v1/models/%3Cscript%3Ealert(3)%3C/script%3E:generateContent", json_body={})
    expect(page.locator(".line", has_text=f"pushed {ATTACK}")).to_be_visible()
    expect(page.locator(".line", has_text=f"model {ATTACK}")).to_be_visible()
    assert page.locator("#lines img, #lines script").count() == 0
    page.reload()
    expect(page.locator(".line", has_text=f"model {ATTACK}")).to_be_visible()
    assert page.locator("#lines img, #lines script").count() == 0


def test_without_javascript_the_last_lines_are_there(browser: Browser, gateway: Gateway) -> None:
    tell(gateway, "one")
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go("/middleware/logs")
        expect(page.get_by_text("one", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        tell(gateway, "two")
        page.get_by_role("button", name="Reload").click()
        expect(page.get_by_text("two", exact=True)).to_be_visible()


def test_logging_out_elsewhere_ends_the_watching(browser: Browser, locked_gateway: Gateway) -> None:
    with Person(browser, locked_gateway.origin) as person:
        person.log_in("/middleware/logs")
        page = person.page
        expect(page.get_by_text(LIVE)).to_be_visible()
        with locked_gateway.services.database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM admin_sessions")
        page.wait_for_url("**/middleware/login?next=/middleware/logs", timeout=15_000)
