"""The page of clients in a browser: a key that is shown once, the warnings, attacks, and the call that it allows."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from tests import canned
from tests.browser.people import Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

ATTACK = "<img src=x onerror=\"document.title='owned'\">"
CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}]}


def test_a_client_key_is_made_used_and_not_shown_again(
    person: Person, page: Page, gateway: Gateway, upstream: FakeProvider
) -> None:
    upstream.default(json_reply(canned.chat()))
    gateway.add_keys("openai")
    assert gateway.request("POST", "/v1/chat/completions", json_body=CHAT).status == 200
    person.go("/middleware/clients")
    expect(page.get_by_text("Every program on this machine may call without a key")).to_be_visible()
    page.get_by_role("button", name="Make client key").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("This is the first client key: it closes the proxy.")).to_be_visible()
    dialog.get_by_label("Name").fill("Ada")
    dialog.get_by_role("button", name="Make client key").click()

    page.wait_for_url("**/key")
    token = page.get_by_label("Client key").inner_text().strip()
    assert re.fullmatch(r"mw-[A-Za-z0-9_-]{43}", token)
    expect(page.get_by_text(f"curl {gateway.origin}/v1/chat/completions")).to_be_visible()
    assert gateway.request("POST", "/v1/chat/completions", json_body=CHAT).status == 401
    key = {"Authorization": f"Bearer {token}"}
    assert gateway.request("POST", "/v1/chat/completions", json_body=CHAT, headers=key).status == 200
    page.reload()
    expect(page.get_by_role("heading", name="It was shown once")).to_be_visible()
    assert token not in page.content()

    gateway.settle()
    page.get_by_role("link", name="Ada").click()
    expect(page.get_by_text("1 today")).to_be_visible()
    expect(page.locator("#client-requests-canvas")).to_be_visible()
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_text("Ada is refused from now on.")).to_be_visible()
    assert gateway.request("POST", "/v1/chat/completions", json_body=CHAT, headers=key).status == 401
    page.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_text("It is the last client key: without it the proxy is open.")).to_be_visible()
    dialog.get_by_role("button", name="Delete client key").click()
    expect(page.get_by_text("Ada is deleted. The proxy is open again to programs on this machine.")).to_be_visible()
    assert gateway.request("POST", "/v1/chat/completions", json_body=CHAT).status == 200


def test_making_a_key_works_without_javascript(browser: Browser, gateway: Gateway) -> None:
    with Person(browser, gateway.origin, javascript=False) as person:
        page = person.go("/middleware/clients/new")
        page.get_by_label("Name").fill("Ada")
        page.get_by_role("button", name="Make client key").click()
        expect(page.get_by_text("Copy it now")).to_be_visible()
        page.reload()
        expect(page.get_by_text("It was shown once")).to_be_visible()


def test_two_people_edit_a_client_at_once(browser: Browser, gateway: Gateway) -> None:
    client_id, _ = gateway.services.clients.create("Ada")
    with Person(browser, gateway.origin) as one, Person(browser, gateway.origin) as other:
        for person in (one, other):
            person.go(f"/middleware/clients/{client_id}/edit")
        other.page.get_by_label("Models").fill("gpt-5*")
        other.page.get_by_role("button", name="Save").click()
        expect(other.page.get_by_text("Ada is saved.")).to_be_visible()
        one.expect("409 of POST")
        one.page.get_by_label("Models").fill("claude-*")
        one.page.get_by_role("button", name="Save").click()
        expect(one.page.get_by_text("Somebody else has changed this meanwhile, to: gpt-5*.")).to_be_visible()
        assert gateway.services.clients.get(client_id)["models"] == ["gpt-5*"]


def test_names_of_clients_never_run(person: Person, page: Page, gateway: Gateway) -> None:
    client_id, _ = gateway.services.clients.create(ATTACK, models=[ATTACK], scopes=[ATTACK])
    base = f"/middleware/clients/{client_id}"
    for path in ("/middleware/clients", base, base + "/edit", base + "/delete", base + "/key"):
        person.go(path)
        assert "onerror" in page.inner_text("main"), path
        assert "owned" not in page.title().replace(ATTACK, ""), path
        assert page.locator("main img").count() == 0, path


def test_a_long_name_stays_inside_the_list(person: Person, page: Page, gateway: Gateway) -> None:
    gateway.services.clients.create("X" * 200)
    for width_px in (1440, 768, 390):
        page.set_viewport_size({"width": width_px, "height": 900})
        person.go("/middleware/clients")
        assert person.overflow_px() == 0
        box = page.locator("tbody th a").first.bounding_box()
        assert box is not None
        assert box["height"] < 90


def test_the_pages_of_a_client_have_no_serious_fault_of_accessibility(browser: Browser, gateway: Gateway) -> None:
    client_id, _ = gateway.services.clients.create("Ada", models=["gpt-5*"])
    base = f"/middleware/clients/{client_id}"
    for size in ("desk", "phone"):
        with Person(browser, gateway.origin, size=size, theme="dark") as person:
            for path in (base, base + "/edit", base + "/delete", base + "/key"):
                person.go(path)
                assert person.violations() == [], path
                assert person.overflow_px() <= 0, path
