"""The first run: from an empty middleware to the first answered curl, through the pages alone."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from playwright.sync_api import Browser, Page, expect

from app.admin.pages.welcome import good_model
from tests.browser.ordinary import ordinary
from tests.browser.people import Person
from tests.fake_behaviors import json_reply
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

KEY = "sk-proj-the-first-key-of-this-house"
REFUSED = {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}


def add_key(page: Page, key: str = KEY) -> None:
    page.get_by_label("Provider", exact=True).select_option("openai")
    page.get_by_label("Name", exact=True).fill("House account")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Add and test").click()


def run_shell(script: str) -> str:
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, env=environment).stdout


def test_the_first_run_leads_to_an_answered_curl(
    browser: Browser, locked_gateway: Gateway, upstream: FakeProvider
) -> None:
    upstream.default(ordinary)
    with Person(browser, locked_gateway.origin) as person:
        page = person.log_in()
        page.get_by_role("button", name="First steps").click()
        add_key(page)
        expect(page.get_by_text("Key added: openai accepts it and offers 3 models.")).to_be_visible()
        assert KEY not in page.content()
        page.get_by_text("Make a client key", exact=True).first.click()
        page.get_by_label("Whose key is it?").fill("Alice")
        page.get_by_role("button", name="Make a client key").click()
        expect(page.get_by_text("shown only now")).to_be_visible()
        export = page.locator("#step-2 ~ .snippet code").inner_text()
        curl = page.locator("#step-3 ~ details code").first.inner_text()
        assert '"model": "gpt-5-mini"' in curl
        answer = json.loads(run_shell(f"{export}\n{curl}"))
        assert answer["choices"][0]["message"]["content"]
        expect(page.get_by_text("It arrived", exact=True)).to_be_visible()
        page.reload()
        assert export not in page.content()
        page.get_by_role("link", name="playground", exact=True).click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("gpt-5-mini")


@pytest.mark.parametrize("javascript", [True, False], ids=["script", "no-script"])
def test_a_key_that_its_provider_refuses_says_so(
    browser: Browser, gateway: Gateway, upstream: FakeProvider, javascript: bool
) -> None:
    upstream.default(json_reply(REFUSED, 401))
    with Person(browser, gateway.origin, javascript=javascript) as person:
        page = person.go("/middleware/welcome")
        add_key(page)
        expect(page.get_by_text("Key added, but it did not work: Incorrect API key provided.")).to_be_visible()
        expect(page.get_by_text("Disabled")).to_be_visible()
        step = page.get_by_role("region", name="Add a key of a provider")
        expect(step.get_by_label("Key", exact=True)).to_be_visible()
        expect(step.locator(".step-number")).to_have_text("1")


def test_a_form_with_a_fault_keeps_what_was_typed(page: Page, person: Person, gateway: Gateway) -> None:
    person.expect("422 of POST")
    person.go("/middleware/welcome")
    add_key(page, "short")
    expect(page.get_by_text("Invalid key. A key has at least 10 characters, no blanks")).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_value("House account")
    expect(page.get_by_label("Provider", exact=True)).to_have_value("openai")


def test_a_client_key_wants_a_name(page: Page, person: Person, gateway: Gateway) -> None:
    person.expect("422 of POST")
    person.go("/middleware/welcome")
    page.get_by_text("Make a client key", exact=True).first.click()
    page.get_by_label("Whose key is it?").fill("   ")
    page.get_by_role("button", name="Make a client key").click()
    expect(page.get_by_text("Give it a name")).to_be_visible()
    assert not gateway.services.clients.list()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("text-embedding-3-small", "gpt-4o", "gpt-4o-mini"), "gpt-4o-mini"),
        (("claude-opus-4-5", "claude-haiku-4-5"), "claude-haiku-4-5"),
        (("text-embedding-3-small", "my-own-model"), "my-own-model"),
        (("text-embedding-3-small",), "YOUR-MODEL"),
        ((), "YOUR-MODEL"),
    ],
)
def test_the_example_takes_a_cheap_model_that_chats(names: tuple[str, ...], chosen: str) -> None:
    assert good_model(names) == chosen
