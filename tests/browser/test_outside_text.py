"""
Text from outside never becomes HTML: evil text goes in wherever somebody outside can put it, and each page is looked at
with the content policy switched off, so that whatever slipped in would run.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.looks import PAGES
from tests.browser.ordinary import ordinary
from tests.browser.people import SIZES, Person
from tests.fake_behaviors import json_reply
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

EVIL = """"'><img src=nowhere onerror="window.ran=1"><script>window.ran=1</script><svg onload=window.ran=1>{{7*7}}"""
SHORT = "<b onclick=window.ran=1>evil"
#: What would be there if any of it had become HTML.
INTRUDERS = "img[src=nowhere], script:not([src]), svg[onload], b[onclick], [onerror]"
#: Pages that must show some of it, or the test would look at the wrong places.
SHOWING = ("keys", "requests", "logs", "clients", "aliases", "prices")
KEYS = ("sk-proj-evil-key-number-0001", "sk-proj-evil-key-number-0002", "sk-proj-evil-key-number-0003")


def bring_in(gateway: Gateway, upstream: FakeProvider) -> None:
    """Evil text in keys, clients, aliases, prices, calls and a provider's words."""
    services = gateway.services
    for value in KEYS:
        services.keys.add(value, provider="openai", name=EVIL, note=EVIL, group=SHORT, models=["*"])
    services.clients.create(EVIL)
    services.providers.set_aliases({SHORT: "openai/" + SHORT})
    services.prices.replace({SHORT: {"input_per_million": 1.0, "output_per_million": 2.0, "cached_per_million": None}})
    _, client_key = services.clients.create("caller")
    refusal = {"error": {"message": EVIL, "code": "invalid_api_key", "type": EVIL}}
    upstream.default(ordinary)
    upstream.by_key({KEYS[0]: json_reply(refusal, 401), KEYS[1]: json_reply({"error": {"message": EVIL}}, 429)})
    for model in ("gpt-5-mini", SHORT, EVIL[:200]):
        for _ in range(3):
            body = {"model": model, "messages": [{"role": "user", "content": EVIL}]}
            headers = {"Authorization": f"Bearer {client_key}", "User-Agent": EVIL, "X-Request-ID": SHORT}
            gateway.request("POST", "/v1/chat/completions", json_body=body, headers=headers)
    gateway.get("/v1/" + "%3Cimg%20src=nowhere%20onerror=window.ran=1%3E", Authorization=f"Bearer {client_key}")
    gateway.settle()


@pytest.mark.parametrize("size", SIZES)
def test_no_page_makes_html_of_text_from_outside(
    browser: Browser, gateway: Gateway, upstream: FakeProvider, size: str
) -> None:
    gateway.set(log_request_body=True, log_response_body=True)
    bring_in(gateway, upstream)
    request_id = gateway.records()[-1]["id"]
    key_id = gateway.key(KEYS[0])["id"]
    client_id = gateway.services.clients.list()[0]["id"]
    details = [f"/middleware/requests/{request_id}", f"/middleware/keys/{key_id}", f"/middleware/clients/{client_id}"]
    shown = set()
    with Person(browser, gateway.origin, size=size, content_policy=False) as person:
        for address in [*PAGES.values(), *details]:
            page = person.go(address)
            assert page.evaluate("window.ran") is None, address
            assert page.locator(INTRUDERS).count() == 0, address
            text = page.locator("#main").inner_text()
            if "onerror=" in text or "onclick=" in text:
                shown.add(address)
    assert {PAGES[name] for name in SHOWING} | set(details) <= shown
