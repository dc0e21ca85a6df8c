"""What proxies in front say about the caller is believed as far as they are trusted, and no farther."""

import pytest

from app.server.forwarded import believed
from tests import canned
from tests.gateway import Gateway

PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("given", "hops", "peer"),
    [
        ([], 1, PEER),
        (["1.1.1.1"], 1, "1.1.1.1"),
        (["6.6.6.6, 1.1.1.1"], 1, "1.1.1.1"),
        (["6.6.6.6", "1.1.1.1"], 1, "1.1.1.1"),
        (["6.6.6.6, 1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"),
        (["2.2.2.2"], 2, PEER),
        ([" , "], 1, PEER),
    ],
)
def test_the_address_is_the_one_that_the_farthest_trusted_proxy_saw(given, hops, peer):
    headers = [("Host", "inside"), *(("X-Forwarded-For", value) for value in given)]
    assert believed(headers, PEER, hops) == (headers, peer)


def test_the_host_is_the_one_that_was_asked_for_there():
    headers = [("host", "inside"), ("X-Forwarded-Host", "evil.example, shop.example")]
    assert believed(headers, PEER, 1)[0] == [("host", "shop.example"), headers[1]]


@pytest.mark.parametrize("driver", ["threads", "loop"])
@pytest.mark.parametrize(("hops", "peer", "status"), [(0, "127.0.0.1", 200), (1, "1.1.1.1", 403)])
def test_proxied_calls_know_their_caller_with_either_driver(tmp_path, provider, driver, hops, peer, status):
    """The host counts too: without client keys only names of this machine lead here."""
    with Gateway(tmp_path, openai=provider.origin, driver=driver, environ={"TRUSTED_PROXIES": str(hops)}) as gateway:
        gateway.add_keys("openai")
        forwarded = {"X-Forwarded-For": "6.6.6.6, 1.1.1.1", "X-Forwarded-Host": "shop.example"}
        answer = gateway.post("/v1/chat/completions", canned.CHAT_REQUEST, **forwarded)
        assert answer.status == status
        assert gateway.records()[-1]["peer"] == peer
