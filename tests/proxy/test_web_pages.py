"""Without a client key, programs on this machine are served, and the web pages that somebody opens on it are not."""

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply
from tests.gateway import Gateway

CHAT = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


@pytest.fixture
def upstream():
    with FakeProvider() as provider:
        provider.default(json_reply(canned.chat()))
        yield provider


@pytest.fixture
def gateway(tmp_path, upstream):
    with Gateway(tmp_path, openai=upstream.origin) as gateway:
        gateway.add_keys("openai")
        yield gateway


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1", "[::1]:80", "app.localhost"])
def test_a_program_that_uses_a_name_of_this_machine_is_served(gateway, host):
    assert gateway.post(PATH, CHAT, Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "localhost.evil.example", "192.168.1.2"])
def test_a_name_that_was_pointed_at_this_machine_leads_nowhere(gateway, upstream, host):
    answer = gateway.post(PATH, CHAT, Host=host)
    assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
    assert upstream.received == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_a_page_of_another_site_is_refused(gateway, upstream, origin):
    answer = gateway.post(PATH, CHAT, Origin=origin)
    assert answer.status == 403
    assert upstream.received == []


def test_a_page_of_this_server_is_served(gateway):
    assert gateway.post(PATH, CHAT, Origin=gateway.origin).status == 200


def test_a_page_whose_origin_the_operator_named_is_served(gateway):
    gateway.services.live_settings.update({"enable_cors": True, "cors_origins": "https://good.example"})
    answer = gateway.post(PATH, CHAT, Origin="https://good.example")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert gateway.post(PATH, CHAT, Origin="https://evil.example").status == 403


def test_with_a_client_key_name_and_origin_do_not_matter(gateway):
    _, key = gateway.services.clients.create("somebody")
    answer = gateway.post(
        PATH, CHAT, Host="gateway.example", Origin="https://any.example", Authorization=f"Bearer {key}"
    )
    assert answer.status == 200


def test_an_operator_who_opens_the_proxy_on_purpose_may_use_any_name(tmp_path, upstream):
    with Gateway(tmp_path, openai=upstream.origin, environ={"CLIENT_AUTH": "open"}) as gateway:
        gateway.add_keys("openai")
        assert gateway.post(PATH, CHAT, Host="gateway.example").status == 200
        assert gateway.post(PATH, CHAT, Host="gateway.example", Origin="https://evil.example").status == 403
