"""The pages of keys in a real browser: with a mouse, by keyboard alone, without JavaScript, and under attack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.keys.base import Action, Ladder, Scope, Verdict
from tests.browser.ordinary import ordinary
from tests.browser.people import SIZES, THEMES, Person
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

PAGE = "/middleware/keys"
SCRIPT = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"


@pytest.fixture
def plain_person(browser: Browser, gateway: Gateway) -> Iterator[Person]:
    """Somebody whose browser runs no JavaScript."""
    with Person(browser, gateway.origin, javascript=False) as somebody:
        yield somebody


def crowd(gateway: Gateway, count: int) -> list[int]:
    """So many keys; returns their ids."""
    rows = [
        {"key": f"sk-crowd-{number:010d}", "name": f"key {number:03d}", "provider": ("openai", "gemini")[number % 2]}
        for number in range(count)
    ]
    assert not any(gateway.services.keys.add_many(rows))
    return [item["id"] for item in gateway.services.keys.list_keys()][-count:]


def names(page: Page) -> Locator:
    return page.locator("#key-rows tbody th.name a")


def state(gateway: Gateway, key_id: int) -> str:
    return str(gateway.services.keys.get(key_id)["status"])


def fail(gateway: Gateway, key_id: int, message: str, *, model: str | None = None) -> None:
    """What a request reports that the provider refused."""
    keys = gateway.services.keys
    scope = Scope.KEY_MODEL if model else Scope.KEY
    verdict = Verdict(Action.KEY_REST, scope, "rate_limited", message, ladder=Ladder(600, 1, 600))
    keys.failed(keys.lease_of(key_id, model), verdict, gateway.services.clock.monotonic(), 429)


# -- many keys -----------------------------------------------------------------------------------------


def test_five_hundred_keys_are_pasted_with_a_report_of_each(person: Person, gateway: Gateway) -> None:
    lines = [f"sk-paste-{number:010d}" for number in range(498)]
    lines[250:250] = ["too short", lines[0]]
    page = person.go(PAGE)
    page.get_by_role("button", name="Paste many").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Keys", exact=True).fill("\n".join(lines))
    dialog.get_by_label("Provider").select_option("openai")
    dialog.get_by_label("Names").fill("batch {n}")
    dialog.get_by_role("button", name="Add keys").click()

    expect(dialog.get_by_role("status")).to_contain_text("498 keys added; 1 repeated; 1 not usable.")
    expect(dialog.locator("tbody tr")).to_have_count(500)
    expect(dialog.locator("tbody tr").first).to_contain_text("251")
    assert lines[0] not in page.content()
    dialog.get_by_role("button", name="To the keys").click()
    expect(page.locator("#key-rows")).to_contain_text("1 to 50 of 498 keys")
    expect(names(page).first).to_have_text("batch 1")
    assert person.page.url.endswith(PAGE)


def test_an_export_comes_back_by_import(person: Person, gateway: Gateway, tmp_path: Path) -> None:
    (key_id, *_) = crowd(gateway, 3)
    page = person.go(PAGE)
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as whole:
        page.get_by_role("button", name="Export whole values").click()
    file = tmp_path / "keys.json"
    whole.value.save_as(file)
    page.locator("#dialog-close").click()
    gateway.services.keys.delete(key_id)
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("1 key imported, 2 skipped.")
    page.get_by_role("button", name="To the keys").click()
    expect(names(page)).to_have_text(["key 000", "key 001", "key 002"])


def test_chosen_keys_are_changed_tested_and_deleted_together(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    upstream.default(ordinary)
    ids = crowd(gateway, 4)
    page = person.go(PAGE)
    page.get_by_label("Choose key 000").check()
    page.get_by_label("Choose key 002").check()
    expect(page.locator("#chosen")).to_have_text("2 chosen:")
    page.get_by_role("button", name="Disable", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("2 keys disabled.")
    expect(page.locator("#status-Disabled")).to_contain_text("2")
    assert [state(gateway, key_id) for key_id in ids] == ["Disabled", "Healthy", "Disabled", "Healthy"]
    expect(page.get_by_label("Choose key 000")).to_be_checked()

    page.get_by_role("button", name="Test", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 of 2 keys are accepted by the provider.")
    dialog.get_by_role("button", name="Close", exact=True).last.click()

    page.get_by_role("button", name="Delete", exact=True).click()
    expect(dialog).to_contain_text("Delete 2 keys?")
    dialog.get_by_role("button", name="Delete 2 keys").click()
    expect(names(page)).to_have_text(["key 001", "key 003"])


# -- finding -------------------------------------------------------------------------------------------


def test_all_that_match_are_changed_beyond_the_page(person: Person, gateway: Gateway) -> None:
    ids = crowd(gateway, 120)
    page = person.go(f"{PAGE}?provider=openai&size=25")
    page.get_by_label("all 60 that match").check()
    expect(page.get_by_text("60 chosen:")).to_be_visible()
    page.get_by_role("button", name="Disable", exact=True).first.click()
    expect(page.get_by_text("60 keys disabled.")).to_be_visible()
    assert [state(gateway, key_id) for key_id in ids] == ["Disabled", "Healthy"] * 60

    page.get_by_label("all 60 that match").check()
    page.get_by_role("searchbox").fill("key 00")
    expect(names(page)).to_have_count(5)
    page.get_by_role("searchbox").fill("key 0")
    expect(page.get_by_label("all 50 that match")).not_to_be_checked()


def test_the_list_is_searched_as_one_types_and_the_address_follows(person: Person, gateway: Gateway) -> None:
    crowd(gateway, 120)
    page = person.go(PAGE)
    page.keyboard.press("/")
    page.keyboard.type("key 11")
    expect(names(page)).to_have_count(10)
    expect(page).to_have_url(re.compile(r"\?search=key\+11$"))
    page.get_by_label("Provider").select_option("gemini")
    expect(names(page)).to_have_text([f"key 11{digit}" for digit in (1, 3, 5, 7, 9)])
    page.locator("#sort-name").click()
    expect(names(page).first).to_have_text("key 119")
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "descending")
    # The list goes on with what is asked for, and so does whoever comes back.
    page.evaluate("htmx.trigger(document.getElementById('key-rows'), 'refresh')")
    expect(names(page).first).to_have_text("key 119")
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("key 11")
    expect(names(page).first).to_have_text("key 119")
    page.get_by_role("searchbox").fill("no such key")
    expect(page.locator("#key-rows")).to_contain_text("No key matches")


def test_everything_in_the_list_is_reached_by_keyboard(person: Person, gateway: Gateway) -> None:
    ids = crowd(gateway, 60)
    page = person.go(PAGE)
    page.locator("#page-2").focus()
    page.keyboard.press("Enter")
    expect(names(page).first).to_have_text("key 050")
    page.locator("#choose-all").focus()
    page.keyboard.press("Space")
    expect(page.locator("#chosen")).to_have_text("10 chosen:")
    page.keyboard.press("Space")
    expect(page.locator("#chosen")).to_have_text("With the chosen keys:")
    page.get_by_label("Choose key 050").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Rest 1 h").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#notices")).to_contain_text("1 key put to rest for an hour.")
    assert state(gateway, ids[50]) == "Resting"
    page.get_by_role("button", name="Edit: key 051").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Edit: key 051")).to_be_focused()


def test_the_report_of_a_paste_keeps_masked_values_on_one_line(person: Person) -> None:
    person.page.set_viewport_size({"width": 660, "height": 900})
    person.go(f"{PAGE}/paste")
    person.page.get_by_label("Keys", exact=True).fill("short\n" + "A name of many words " * 8 + ",sk-paste-0000000001")
    person.page.get_by_role("button", name="Add keys").click()
    values = person.page.locator("#paste-report code")
    expect(values).to_have_count(2)
    assert values.evaluate_all("codes => Math.max(...codes.map(code => code.offsetHeight))") < 30


def test_a_long_name_takes_three_lines_of_the_list_at_most(person: Person, gateway: Gateway) -> None:
    gateway.services.keys.add("sk-test-openai-key-long", provider="openai", name="X" * 200)
    box = names(person.go(PAGE)).first.bounding_box()
    assert box is not None
    assert box["height"] < 90


# -- what happens meanwhile ----------------------------------------------------------------------------


def test_a_key_that_rests_shows_up_without_losing_choice_or_place(person: Person, gateway: Gateway) -> None:
    ids = crowd(gateway, 40)
    page = person.go(PAGE)
    page.get_by_label("Choose key 030").check()
    page.evaluate("scrollTo(0, 600)")
    place = page.locator(f"#key-{ids[30]}").bounding_box()
    fail(gateway, ids[31], "Slow down, please.")
    row = page.locator(f"#key-{ids[31]}")
    expect(row).to_contain_text("Resting")
    expect(row).to_contain_text("Too many requests")
    expect(row).to_contain_text("429 Slow down, please.")
    expect(row.locator("time.countdown")).to_contain_text(re.compile(r"\d+ min|\d+ s"))
    expect(page.get_by_label("Choose key 030")).to_be_checked()
    assert page.locator(f"#key-{ids[30]}").bounding_box() == place

    state_of_key = person.new_page()
    state_of_key.goto(f"{gateway.origin}{PAGE}/{ids[31]}")
    expect(state_of_key.get_by_text(re.compile(r"^It wakes at .+, \d\d:\d\d:\d\d \(in \d+ .+\)\.$"))).to_be_visible()
    state_of_key.close()

    page.get_by_role("button", name="Wake now: key 031").click()
    expect(page.locator("#notices")).to_contain_text("key 031 is awake.")
    expect(row).to_contain_text("Healthy")
    assert state(gateway, ids[31]) == "Healthy"


def test_a_test_tells_what_the_provider_says_and_offers_the_next_step(
    person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    (key_id, *_) = crowd(gateway, 1)
    dead = json_reply({"error": {"code": "invalid_api_key", "message": "Incorrect API key provided."}}, 401)
    upstream.answers(dead)
    upstream.default(ordinary)
    page = person.go(PAGE)
    page.get_by_role("button", name="Test now: key 000").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("status")).to_contain_text("The provider does not know this key.")
    expect(dialog).to_contain_text("Incorrect API key provided.")
    expect(dialog).to_contain_text("Disabled")
    assert state(gateway, key_id) == "Disabled"

    dialog.get_by_label("Test with a model").fill("gpt-5-mini")
    dialog.get_by_role("button", name="Test", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("It answers.")
    dialog.get_by_role("button", name="Enable").click()
    expect(page.locator(f"#key-{key_id}")).to_contain_text("Healthy")


def test_the_later_of_two_editors_is_told_and_can_still_save(browser: Browser, gateway: Gateway) -> None:
    (key_id, *_) = crowd(gateway, 1)
    with Person(browser, gateway.origin) as first, Person(browser, gateway.origin) as second:
        second.expect("409 of POST")
        one, two = first.go(PAGE), second.go(PAGE)
        for page in (one, two):
            page.get_by_role("button", name="Edit: key 000").click()
            expect(page.get_by_role("dialog").get_by_label("Name")).to_have_value("key 000")
        one.get_by_role("dialog").get_by_label("Name").fill("theirs")
        one.get_by_role("button", name="Save").click()
        expect(names(one)).to_have_text(["theirs"])

        dialog = two.get_by_role("dialog")
        dialog.get_by_label("Name").fill("mine")
        dialog.get_by_label("Note").fill("my note")
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_contain_text("Somebody else has changed this meanwhile, to: theirs.")
        expect(dialog.get_by_label("Name")).to_have_value("mine")
        expect(dialog.get_by_label("Note")).to_have_value("my note")
        assert gateway.services.keys.get(key_id)["name"] == "theirs"
        assert gateway.services.keys.get(key_id)["note"] == ""
        dialog.get_by_role("button", name="Save").click()
        expect(names(two)).to_have_text(["mine"])
        assert gateway.services.keys.get(key_id)["note"] == "my note"


# -- without JavaScript --------------------------------------------------------------------------------


def test_without_javascript_keys_are_added_changed_and_deleted(plain_person: Person, gateway: Gateway) -> None:
    page = plain_person.go(PAGE)
    page.get_by_role("button", name="Add key").first.click()
    page.get_by_label("Key", exact=True).fill("sk-plain-0123456789")
    page.get_by_label("Provider").select_option("openai")
    page.get_by_label("Name").fill("plain")
    page.get_by_role("button", name="Add key").click()
    expect(page.locator("main .notice")).to_contain_text("plain is added.")

    page.get_by_role("button", name="Edit: plain").click()
    page.get_by_label("Name").fill("plainer")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main .notice")).to_contain_text("plainer is saved.")

    page.get_by_role("button", name="Disable: plainer").click()
    expect(page.locator("main .notice")).to_contain_text("plainer is disabled.")
    page.get_by_role("button", name="Delete: plainer").click()
    page.get_by_role("button", name="Delete 1 key").click()
    expect(page.locator("main .notice")).to_contain_text("1 key deleted.")
    assert [row for row in gateway.services.keys.list_keys() if row["provider"] != "demo"] == []


def test_without_javascript_keys_are_found_and_changed_together(
    plain_person: Person, gateway: Gateway, upstream: FakeProvider
) -> None:
    upstream.default(ordinary)
    ids = crowd(gateway, 60)
    page = plain_person.go(PAGE)
    page.get_by_role("searchbox").fill("key 05")
    page.get_by_role("button", name="Show").click()
    expect(names(page)).to_have_count(10)
    page.get_by_label("Choose key 050").check()
    page.get_by_label("Choose key 051").check()
    page.get_by_role("button", name="Rest 1 h").click()
    expect(page.locator("main .notice")).to_contain_text("2 keys put to rest for an hour.")
    expect(names(page)).to_have_count(10)
    assert [state(gateway, key_id) for key_id in ids[50:53]] == ["Resting", "Resting", "Healthy"]
    page.get_by_role("button", name="Test now: key 050").click()
    expect(page.locator("#test-result")).to_contain_text("The provider accepts this key.")
    page.get_by_role("button", name="Wake now").click()
    assert state(gateway, ids[50]) == "Healthy"
    page.get_by_label("Choose key 053").check()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete 1 key").click()
    expect(names(page)).to_have_count(9)


def test_without_javascript_many_keys_are_pasted(plain_person: Person) -> None:
    page = plain_person.go(PAGE + "/paste")
    page.get_by_label("Keys", exact=True).fill("one,sk-plain-0123456789\nbad")
    page.get_by_role("button", name="Add keys").click()
    expect(page.locator("main .notice")).to_contain_text("1 key added; 1 not usable.")


# -- text from outside ---------------------------------------------------------------------------------


def test_text_from_outside_never_runs(person: Person, gateway: Gateway, upstream: FakeProvider) -> None:
    """Scripts would show as dialogs and as errors of the content policy: `Person` fails on both."""
    upstream.default(json_reply({"error": {"code": "invalid_api_key", "message": SCRIPT}}, 401))
    keys = gateway.services.keys
    fields = {"name": SCRIPT, "note": SCRIPT, "group": SCRIPT[:100], "models": [SCRIPT]}
    resting = keys.add("sk-evil-0123456789", provider="openai", **fields)
    broken = keys.add("sk-evil-9876543210", provider="openai", **{**fields, "group": ""})
    fail(gateway, resting, SCRIPT)
    fail(gateway, broken, SCRIPT, model=SCRIPT)
    page = person.go(PAGE)
    expect(names(page).first).to_have_text(SCRIPT)
    page.get_by_role("button", name="Test now").last.click()
    expect(page.get_by_role("dialog")).to_contain_text("<script>alert(2)")
    page.locator("#dialog-close").click()
    page.get_by_role("button", name="Disable").last.click()
    expect(page.locator("#notices")).to_contain_text(SCRIPT)
    page.evaluate("htmx.trigger(document.getElementById('key-rows'), 'refresh')")
    for path in (f"/{resting}", f"/{broken}", f"/{resting}/edit", f"/{resting}/reveal", f"/delete?ids={resting}"):
        page = person.go(PAGE + path)
        expect(page.locator("#main")).to_contain_text("onerror")
    page = person.go(PAGE + "/paste")
    page.get_by_label("Keys", exact=True).fill(f"{SCRIPT},sk-evil-1111111111\n{SCRIPT}")
    page.get_by_role("button", name="Add keys").click()
    expect(page.locator("#paste-report")).to_contain_text("onerror")
    person.go(PAGE + "?search=" + "%3Cimg src=x onerror=alert(1)%3E&provider=%22%3E%3Cscript%3E")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


# -- looks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", THEMES)
def test_the_page_of_a_key_is_for_everyone(browser: Browser, gateway: Gateway, size: str, theme: str) -> None:
    ids = crowd(gateway, 2)
    fail(gateway, ids[0], "x" * 300)
    fail(gateway, ids[1], "Slow down.", model="a-model-with-a-rather-long-name-" * 3)
    gateway.services.keys.update(ids[0], {"name": "n" * 200, "note": "o" * 300, "group": "g" * 120})
    with Person(browser, gateway.origin, size=size, theme=theme) as somebody:
        for path in ("", *(f"/{key_id}" for key_id in ids), f"/{ids[0]}/edit", f"/delete?ids={ids[0]}"):
            somebody.go(PAGE + path)
            assert somebody.violations() == []
            assert somebody.overflow_px() <= 0
