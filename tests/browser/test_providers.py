"""The pages of providers and models in a browser: tests and lists that arrive by themselves, dialogs, attacks."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import canned
from tests.browser.people import Person
from tests.fake_provider import FakeProvider, closed_port, json_reply
from tests.gateway import Gateway

ATTACKS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{7*7}}${7*7}",
)


@pytest.fixture
def local(gateway: Gateway, upstream: FakeProvider) -> FakeProvider:
    """`local` is the upstream, `dead` a closed port; each has a key."""
    for name, origin in (("local", upstream.origin), ("dead", closed_port())):
        gateway.services.providers.create({"name": name, "kind": "openai-compatible", "base_url": origin})
        gateway.services.keys.add(f"sk-0123456789-{name}", provider=name, name=f"key of {name}")
    return upstream


def test_a_provider_is_added_tested_and_deleted_in_dialogs(
    person: Person, page: Page, gateway: Gateway, upstream: FakeProvider
) -> None:
    upstream.default(json_reply(canned.openai_models("one", "two")))
    person.go("/middleware/providers")
    page.get_by_role("button", name="Add provider").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("link", name="OpenAI-compatible").click()
    dialog.get_by_label("Name").fill("local")
    dialog.get_by_label("Base URL").fill("not an address")
    person.expect("422 of POST")
    dialog.get_by_role("button", name="Add provider").click()
    expect(dialog.get_by_text("must be an address such as")).to_be_visible()
    expect(dialog.get_by_label("Name")).to_have_value("local")
    dialog.get_by_label("Base URL").fill(upstream.origin)
    dialog.get_by_role("button", name="Add provider").click()
    expect(page.get_by_text("local is added.")).to_be_visible()

    card = page.get_by_role("region", name="local", exact=True)
    expect(card.get_by_text("It has no key")).to_be_visible()
    gateway.services.keys.add("sk-0123456789-local", provider="local")
    expect(card.get_by_text("1 healthy")).to_be_visible()
    card.get_by_role("button", name="Test").click()
    expect(card.get_by_text("It answered with 2 models.")).to_be_visible()

    card.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_text("1 key belongs to it.")).to_be_visible()
    dialog.get_by_role("button", name="Close").last.click()
    expect(dialog).to_be_hidden()


def test_lists_of_models_arrive_by_themselves(person: Person, page: Page, local: FakeProvider) -> None:
    local.default(json_reply(canned.openai_models(*[f"model-{number:03d}" for number in range(300)])))
    person.go("/middleware/models")
    offer = page.get_by_role("region", name="local")
    expect(offer.get_by_text("300 models")).to_be_visible()
    expect(offer.locator("time[data-ago]")).to_have_text("just now")
    expect(page.get_by_role("region", name="dead").get_by_text("No answer came from this address.")).to_be_visible()
    page.get_by_role("searchbox").fill("model-27")
    expect(offer.get_by_text("10 models of 300")).to_be_visible()
    expect(offer.get_by_role("row")).to_have_count(11)
    expect(page.get_by_role("searchbox")).to_be_focused()
    assert "q=model-27" in page.url


def test_a_route_is_explained_in_place(person: Person, page: Page, gateway: Gateway, local: FakeProvider) -> None:
    gateway.services.providers.set_aliases({"fast": "local/model-1"})
    person.go("/middleware/models/route")
    page.get_by_role("combobox", name="Model", exact=True).fill("fast")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("heading", name="It goes to local")).to_be_visible()
    expect(page.get_by_text("is next in turn")).to_be_visible()
    assert local.keys == []
    page.reload()
    expect(page.get_by_role("heading", name="It goes to local")).to_be_visible()


def test_two_people_edit_a_provider_at_once(browser: Browser, gateway: Gateway, local: FakeProvider) -> None:
    with Person(browser, gateway.origin) as one, Person(browser, gateway.origin) as other:
        for person in (one, other):
            page = person.go("/middleware/providers")
            page.get_by_role("region", name="local").get_by_role("button", name="Edit").click()
            expect(page.get_by_role("dialog").get_by_label("Priority")).to_have_value("100")
        other.page.get_by_label("Priority").fill("7")
        other.page.get_by_role("button", name="Save").click()
        expect(other.page.get_by_text("local is saved.")).to_be_visible()

        one.expect("409 of POST")
        one.page.get_by_label("Priority").fill("9")
        one.page.get_by_role("button", name="Save").click()
        expect(one.page.get_by_text("Somebody else has changed this meanwhile, to: 7.")).to_be_visible()
        expect(one.page.get_by_label("Priority")).to_have_value("9")
        assert gateway.services.providers.get("local")["priority"] == 7
        one.page.get_by_role("button", name="Save").click()
        expect(one.page.get_by_text("local is saved.")).to_be_visible()
        assert gateway.services.providers.get("local")["priority"] == 9


def test_texts_from_outside_never_run(person: Person, page: Page, gateway: Gateway, local: FakeProvider) -> None:
    services = gateway.services
    local.default(json_reply(canned.openai_models(*ATTACKS)))
    services.providers.update("local", {"models": list(ATTACKS), "query": {"x": ATTACKS[0]}})
    services.providers.set_aliases({attack: "local/" + ATTACKS[1] for attack in ATTACKS})
    price = {"input_per_million": 1.0, "output_per_million": 1.0, "cached_per_million": None}
    services.prices.replace(dict.fromkeys(ATTACKS, price))
    services.model_offers.ask(services.providers.snapshot.by_name["local"])
    for path in (
        "/middleware/providers",
        "/middleware/providers/local/edit",
        "/middleware/models",
        "/middleware/models/aliases",
        "/middleware/models/prices",
        "/middleware/models/route",
    ):
        person.go(path)
        assert "owned" in page.content(), path
        assert "owned" not in page.title(), path
        assert page.locator("main img, main svg[onload], a[href^='javascript:']").count() == 0, path
    person.go("/middleware/providers")
    page.get_by_role("region", name="local").get_by_role("button", name="Test").click()
    expect(page.get_by_role("region", name="local").get_by_text("just now")).to_be_visible()
    assert "owned" not in page.title()
