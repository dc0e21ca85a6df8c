"""Which headers cross, both ways: what is on a list and nothing else, whatever its name and its value."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.proxy.headers import ANSWER_ALLOWED, REQUEST_ALLOWED
from tests import canned, canned_errors
from tests.fake_provider import json_reply, reply, stream
from tests.stage import Stage

CHAT = "/v1/chat/completions"
#: What every request upstream has, whoever sent it: our own, not the caller's.
OURS_UPSTREAM = {"host", "user-agent", "accept-encoding", "content-length", "authorization", "x-api-key"}
#: What the server and the gateway put on every answer.
OURS_TO_CALLER = {
    "server",
    "date",
    "connection",
    "content-length",
    "transfer-encoding",
    "cache-control",
    "x-accel-buffering",
    "x-request-id",
    "request-id",
    "x-middleware-provider",
    "x-middleware-key",
    "x-middleware-attempts",
}
#: They frame the message itself: an HTTP library would not send them as they are.
FRAMING = {"host", "connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer"}

NEVER_UPSTREAM = [
    "Cookie",
    "Proxy-Authorization",
    "OpenAI-Organization",
    "OpenAI-Project",
    "X-Stainless-Lang",
    "X-Stainless-Retry-Count",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "Forwarded",
    "X-Real-IP",
    "Via",
    "Referer",
    "X-Request-ID",
    "Traceparent",
    "X-Goog-User-Project",
    "X-Goog-Api-Client",
    "X-Server-Timeout",
    "X-Claude-Code-Session-Id",
    "X-Gemini-Api-Privileged-User-Id",
    "Anthropic-Organization-Id",
    "X-Middleware-Provider",
    "CF-Connecting-IP",
]
NEVER_TO_CALLER = [
    "Set-Cookie",
    "OpenAI-Organization",
    "OpenAI-Project",
    "Anthropic-Organization-Id",
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Tokens",
    "Anthropic-RateLimit-Requests-Remaining",
    "Retry-After-MS",
    "CF-Ray",
    "Via",
    "Alt-Svc",
    "Strict-Transport-Security",
    "Access-Control-Allow-Origin",
    "X-Goog-Api-Key",
    "Authorization",
    "WWW-Authenticate",
    "X-Middleware-Secret",
    "Server-Timing",
    "X-Envoy-Upstream-Service-Time",
]
MARK = "must-not-cross"


@pytest.mark.parametrize("name", NEVER_UPSTREAM)
def test_it_never_goes_upstream(stage: Stage, name: str) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={name: MARK})
    assert MARK not in str(stage.sent().header_list)
    assert name.lower() not in stage.sent().headers


def test_the_origin_of_a_page_never_goes_upstream(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    origin = {"Origin": stage.gateway.origin}
    stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers=origin)
    assert "origin" not in stage.sent().headers


@pytest.mark.parametrize("name", sorted(REQUEST_ALLOWED))
def test_it_goes_upstream(stage: Stage, name: str) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    value = "application/json" if name == "content-type" else "crosses, 2"
    stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={name: value})
    assert stage.sent().headers[name] == value


@pytest.mark.parametrize("name", NEVER_TO_CALLER)
@pytest.mark.parametrize("kind", ["plain", "stream", "error"])
def test_it_never_comes_back(stage: Stage, name: str, kind: str) -> None:
    headers = {name: MARK}
    stage.upstream.default(
        {
            "plain": json_reply(canned.chat(), headers=headers),
            "stream": stream(canned.chat_stream(), headers=headers),
            "error": json_reply(canned_errors.OPENAI_BAD_REQUEST, 400, headers),
        }[kind]
    )
    answer = stage.gateway.post(CHAT, {**canned.CHAT_REQUEST, "stream": kind == "stream"})
    assert MARK not in str(answer.headers)
    assert name.lower() not in answer.headers


@pytest.mark.parametrize("name", sorted(ANSWER_ALLOWED))
def test_it_comes_back(stage: Stage, name: str) -> None:
    value = "application/json; v=1" if name == "content-type" else "crosses 2"
    stage.upstream.default(
        reply(200, {"Content-Type": "application/json", name: value}, b'{"choices":[{"message":{}}]}')
    )
    if name == "content-type":
        stage.upstream.default(reply(200, {name: value}, b'{"choices":[{"message":{}}]}'))
    answer = stage.gateway.post(CHAT, canned.CHAT_REQUEST)
    assert answer.headers[name] == value


TOKENS = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,24}", fullmatch=True).filter(lambda name: name.lower() not in FRAMING)
VALUES = st.from_regex(r"[!-~]([ -~]{0,40}[!-~])?", fullmatch=True)
LIKELY = st.sampled_from([*NEVER_UPSTREAM, *NEVER_TO_CALLER, *sorted(REQUEST_ALLOWED), *sorted(ANSWER_ALLOWED)])
NAMES = st.one_of(TOKENS, LIKELY).filter(lambda name: not name.lower().startswith("x-middleware"))
HEADERS = st.dictionaries(NAMES, VALUES, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=HEADERS, told=HEADERS)
def test_nothing_outside_the_lists_crosses(stage: Stage, asked: dict[str, str], told: dict[str, str]) -> None:
    asked = {
        name: value
        for name, value in asked.items()
        if name.lower() not in ("content-type", "content-encoding", "origin", "host")
    }
    told = {name: value for name, value in told.items() if name.lower() not in ("content-type", "content-encoding")}
    stage.upstream.default(json_reply(canned.message(), headers=told))
    answer = stage.gateway.request("POST", "/v1/messages", json_body=canned.MESSAGES_REQUEST, headers=asked)
    received = stage.upstream.received[-1]
    assert set(received.headers) <= REQUEST_ALLOWED | OURS_UPSTREAM
    assert received.headers["x-api-key"] in stage.keys["anthropic"]
    assert "authorization" not in received.headers
    assert received.headers["user-agent"] == "ai-api-middleware"
    assert set(answer.headers) <= ANSWER_ALLOWED | OURS_TO_CALLER
    assert answer.status == 200


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "x-goog-api-key", "api-key"])
def test_what_the_caller_sends_as_a_key_is_replaced_by_ours(stage: Stage, name: str) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    stage.gateway.request("POST", CHAT + "?key=k-1&key=k-2", json_body=canned.CHAT_REQUEST, headers={name: MARK})
    sent = stage.sent()
    assert sent.headers["authorization"] == f"Bearer {stage.keys['openai'][0]}"
    assert MARK not in str(sent.header_list)
    assert sent.target == CHAT
    assert [each for each in sent.headers if each in ("x-api-key", "x-goog-api-key", "api-key")] == []


# -- request ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_id", ["abc", "0191-a.b:c@d/e", "x" * 128])
def test_a_request_id_of_the_caller_is_kept_and_told(stage: Stage, given_id: str) -> None:
    stage.upstream.default(json_reply(canned.chat(), headers={"x-request-id": "req-of-upstream"}))
    answer = stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={"X-Request-ID": given_id})
    assert answer.headers["x-request-id"] == given_id == stage.record()["request_id"]
    assert "x-request-id" not in stage.sent().headers


@pytest.mark.parametrize("given_id", ["", "two words", "x" * 129, "a,b", "<script>", "\u00e9"])
def test_a_request_id_that_is_none_is_replaced(stage: Stage, given_id: str) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    headers = {"X-Request-ID": given_id.encode("latin-1").decode("latin-1")}
    answer = stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers=headers)
    told = answer.headers["x-request-id"]
    assert told != given_id
    assert len(told) == 32
    assert told == stage.record()["request_id"]


def test_each_request_without_an_id_gets_its_own(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    answers = [stage.gateway.post(CHAT, canned.CHAT_REQUEST) for _ in range(3)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


def test_the_header_can_be_switched_off_and_the_record_still_has_it(stage: Stage) -> None:
    stage.gateway.services.live_settings.update({"enable_request_id_injection": False})
    stage.upstream.default(json_reply(canned.chat(), headers={"x-request-id": "req-of-upstream"}))
    answer = stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={"X-Request-ID": "abc"})
    assert "x-request-id" not in answer.headers
    assert stage.record()["request_id"] == "abc"


# -- what the gateway says about itself ---------------------------------------------------------------


def test_an_answer_names_the_provider_the_key_and_the_attempts(stage: Stage) -> None:
    first, second = stage.keys["openai"]
    stage.upstream.by_key({first: json_reply(canned_errors.OPENAI_BAD_KEY, 401), second: json_reply(canned.chat())})
    answer = stage.gateway.post(CHAT, canned.CHAT_REQUEST)
    assert answer.headers["x-middleware-provider"] == "openai"
    assert answer.headers["x-middleware-key"] == str(stage.gateway.key(second)["id"])
    assert answer.headers["x-middleware-attempts"] == "2"


def test_a_refusal_before_any_attempt_names_none(stage: Stage) -> None:
    answer = stage.gateway.post(CHAT, {"model": "gpt-test"})
    assert answer.status == 400
    assert not [name for name in answer.headers if name.startswith("x-middleware")]


@pytest.mark.parametrize(("wait", "told", "pointless"), [("7", "7", False), ("60", "60", False), ("900", "60", True)])
def test_a_wait_that_the_provider_named_is_cut_to_what_clients_bear(
    stage: Stage, wait: str, told: str, pointless: bool
) -> None:
    stage.upstream.default(json_reply(canned_errors.OPENAI_SERVER, 503, {"Retry-After": wait}))
    answer = stage.gateway.post(CHAT, canned.CHAT_REQUEST)
    assert answer.headers["retry-after"] == told
    assert (answer.headers.get("x-should-retry") == "false") is pointless
