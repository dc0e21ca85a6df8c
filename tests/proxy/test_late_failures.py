"""An answer that fails after its first output: it can't be saved, but it is not booked as a success."""

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply, stream
from tests.gateway import Gateway, RawClient

CHAT = {"model": "gpt-test", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
LIMITED = b'data: {"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}\n\n'


@pytest.fixture
def upstream():
    with FakeProvider() as provider:
        provider.default(json_reply(canned.chat()))
        yield provider


@pytest.fixture
def gateway(tmp_path, upstream):
    with Gateway(tmp_path, openai=upstream.origin) as gateway:
        gateway.add_keys("openai", 2)
        yield gateway


def ask(gateway):
    with RawClient(gateway.port) as client:
        client.post("/v1/chat/completions", CHAT)
        assert client.head()[0] == 200
        return client.rest()


@pytest.mark.parametrize("end", ["reset", "close", "end"])
def test_a_cut_stream_is_a_failed_attempt_and_leaves_the_key_alone(gateway, upstream, end):
    upstream.answers(stream(canned.chat_stream()[:3], end=end))

    _, whole = ask(gateway)

    assert not whole
    [record] = gateway.records()
    assert record["outcome"] == "upstream_cut"
    assert [(attempt["verdict"], attempt["reason"]) for attempt in record["attempts"]] == [("PROVIDER", "upstream_cut")]
    statistics = gateway.services.usage_queries.key_stats(record["key_id"])
    assert (statistics["successful_requests"], statistics["failed_requests"]) == (0, 1)
    assert gateway.services.keys.get(record["key_id"])["status"] == "Healthy"


def test_a_rate_limit_in_the_middle_of_a_stream_rests_the_key_for_later_requests(gateway, upstream):
    upstream.answers(stream([*canned.chat_stream()[:3], LIMITED]))

    body, whole = ask(gateway)

    assert not whole
    assert b"rate_limit_exceeded" in body
    [record] = gateway.records()
    assert (record["outcome"], record["attempts"][0]["verdict"]) == ("upstream_error", "KEY_REST")
    for _ in range(3):
        assert gateway.post("/v1/chat/completions", {**CHAT, "stream": False}).status == 200
    assert upstream.received[0].key not in {received.key for received in upstream.received[1:]}
