"""Calls from browsers, attempts at a WebSocket, and the cache of model lists, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests import canned, canned_errors
from tests.fake_provider import Behavior, FakeProvider, json_reply, reply, stream
from tests.gateway import Answer, Gateway
from tests.proxy.dialects import MovingClock
from tests.stage import Stage

CHAT = "/v1/chat/completions"
PAGE = "https://app.example.com"
ASKED = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, x-a",
}


# -- CORS ---------------------------------------------------------------------------------------------


def allow(stage: Stage, origins: str) -> None:
    stage.gateway.services.live_settings.update({"enable_cors": True, "cors_origins": origins})


def preflight(stage: Stage, **headers: str) -> Answer:
    return stage.gateway.request("OPTIONS", CHAT, headers={**ASKED, **headers})


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_without_the_setting_no_page_is_allowed(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    answer = stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={"Origin": PAGE})
    assert answer.status == 403
    assert cors(answer) == {}
    refused = preflight(stage)
    assert refused.status in (403, 405)
    assert cors(refused) == {}


@pytest.mark.parametrize(("origins", "told"), [("*", "*"), (f"https://b.example.com, {PAGE}", PAGE)])
def test_a_preflight_is_answered_with_each_header_once(stage: Stage, origins: str, told: str) -> None:
    allow(stage, origins)
    answer = preflight(stage)
    assert (answer.status, answer.body) == (204, b"")
    # Two values would come joined by a comma, and a browser takes that for neither.
    assert answer.headers["access-control-allow-origin"] == told
    assert answer.headers["access-control-allow-headers"] == "authorization, x-a"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers


def test_a_preflight_needs_no_client_key(stage: Stage) -> None:
    allow(stage, PAGE)
    client_id, _ = stage.gateway.services.clients.create("page")
    try:
        assert preflight(stage).status == 204
        refused = stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={"Origin": PAGE})
    finally:
        stage.gateway.services.clients.delete(client_id)
    # Without these the page could not read why.
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "https://app.example.com.evil.test"])
def test_a_page_of_another_origin_is_not_allowed(stage: Stage, origin: str) -> None:
    allow(stage, PAGE)
    stage.upstream.default(json_reply(canned.chat()))
    answers = [
        preflight(stage, Origin=origin),
        stage.gateway.request("POST", CHAT, json_body=canned.CHAT_REQUEST, headers={"Origin": origin}),
    ]
    assert [cors(answer) for answer in answers] == [{}, {}]
    assert all(answer.headers["vary"] == "Origin" for answer in answers)


@pytest.mark.parametrize("kind", ["plain", "stream", "error"])
def test_every_kind_of_answer_may_be_read_by_an_allowed_page(stage: Stage, kind: str) -> None:
    allow(stage, PAGE)
    upstream_says = {"Access-Control-Allow-Origin": "https://other.example.com", "Vary": "Accept"}
    stage.upstream.default(
        {
            "plain": json_reply(canned.chat(), headers=upstream_says),
            "stream": stream(canned.chat_stream(), headers=upstream_says),
            "error": json_reply(canned_errors.OPENAI_BAD_REQUEST, 400, upstream_says),
        }[kind]
    )
    asked = {**canned.CHAT_REQUEST, "stream": kind == "stream"}
    answer = stage.gateway.request("POST", CHAT, json_body=asked, headers={"Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


# -- WebSockets ---------------------------------------------------------------------------------------

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses?model=gpt-test", "/openai/v1/responses"])
def test_a_websocket_is_refused_so_that_clients_go_on_over_http(stage: Stage, path: str) -> None:
    answer = stage.gateway.request("GET", path, headers=UPGRADE)
    assert answer.status == 426
    assert answer.json["error"]["code"] == "upgrade_refused"
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == "false"
    assert stage.upstream.received == []


# -- model lists --------------------------------------------------------------------------------------

LISTS = {
    "/openai/v1/models": ("openai", canned.openai_models("gpt-a"), {}),
    "/openai/v1/models/gpt-a": ("openai", canned.openai_models("gpt-a")["data"][0], {}),
    "/anthropic/v1/models?limit=5": ("anthropic", canned.anthropic_models(), {"anthropic-version": "2023-06-01"}),
    "/gemini/v1beta/models": ("gemini", canned.gemini_models(), {}),
}


def ask(stage: Stage, path: str) -> Answer:
    return stage.gateway.request("GET", path, headers=LISTS[path][2])


def until_kept(stage: Stage, path: str, headers: dict[str, str] | None = None) -> Answer:
    """The kept answer. The stage's own changes empty the cache a moment later, so that the first one may get lost."""
    answers: list[Answer] = []

    def hit() -> bool:
        asked = len(stage.upstream.received)
        answers.append(stage.gateway.request("GET", path, headers=headers))
        kept = answers[-1].headers.get("x-middleware-cache") == "hit"
        assert len(stage.upstream.received) == (asked if kept else asked + 1)
        return kept

    until(hit)
    return answers[-1]


@pytest.mark.parametrize("path", LISTS)
def test_a_kept_list_is_not_asked_for_again(stage: Stage, path: str) -> None:
    provider, listed, headers = LISTS[path]
    stage.upstream.default(json_reply(listed))
    fetched = ask(stage, path)
    assert "x-middleware-cache" not in fetched.headers
    kept = until_kept(stage, path, headers)
    assert (fetched.status, fetched.json) == (kept.status, kept.json) == (200, listed)
    assert fetched.headers["content-type"] == kept.headers["content-type"]
    assert kept.headers["x-middleware-provider"] == provider
    assert kept.headers["x-request-id"] == stage.record()["request_id"] != fetched.headers["x-request-id"]


def test_another_query_is_another_list_and_the_callers_key_is_no_part_of_it(stage: Stage) -> None:
    for query in ("", "?pageSize=1", "?pageSize=1&pageToken=x"):
        listed = canned.gemini_models(f"gemini{len(query)}")
        stage.upstream.default(json_reply(listed))
        path = f"/gemini/v1beta/models{query}"
        assert until_kept(stage, path).json == listed
        assert until_kept(stage, f"{path}&key=k" if query else f"{path}?key=k").json == listed
    assert {"key=k" in received.target for received in stage.upstream.received} == {False}


def test_the_cache_can_be_switched_off(stage: Stage) -> None:
    stage.gateway.services.live_settings.update({"model_cache_enabled": False})
    stage.upstream.default(json_reply(canned.openai_models()))
    assert [ask(stage, "/openai/v1/models").status for _ in range(3)] == [200] * 3
    assert len(stage.upstream.received) == 3


BAD_LISTS = {
    "400": (json_reply(canned_errors.OPENAI_BAD_REQUEST, 400), 400),
    "503": (json_reply(canned_errors.OPENAI_SERVER, 503), 503),
    "an error in a 200": (json_reply(canned_errors.OPENAI_SERVER), 200),
    "HTML": (reply(200, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR), 200),
    "nothing": (reply(200, {"Content-Type": "application/json"}, b""), 200),
}


@pytest.mark.parametrize(("bad", "status"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_what_is_no_list_is_never_kept(stage: Stage, bad: Behavior, status: int) -> None:
    stage.upstream.default(bad)
    assert ask(stage, "/openai/v1/models").status == status
    stage.upstream.default(json_reply(canned.openai_models()))
    assert ask(stage, "/openai/v1/models").json == canned.openai_models()


def changes() -> dict[str, Callable[[Gateway], object]]:
    return {
        "provider": lambda gateway: gateway.services.providers.update("openai", {"priority": 5}),
        "key": lambda gateway: gateway.services.keys.add("one-more-upstream-key-1", provider="openai"),
        "alias": lambda gateway: gateway.services.providers.set_aliases({"a": "b"}),
        "setting": lambda gateway: gateway.services.live_settings.update({"max_retries": 3}),
    }


@pytest.mark.parametrize("what", changes())
def test_a_change_of_configuration_empties_the_cache(tmp_path_factory: pytest.TempPathFactory, what: str) -> None:
    with FakeProvider() as upstream, Gateway(tmp_path_factory.mktemp(what), openai=upstream.origin) as gateway:
        gateway.add_keys("openai")
        upstream.default(json_reply(canned.openai_models("old")))
        until(lambda: gateway.get("/v1/models").headers.get("x-middleware-cache") == "hit")
        upstream.default(json_reply(canned.openai_models("new")))
        changes()[what](gateway)
        until(lambda: gateway.get("/v1/models").json == canned.openai_models("new"))


def test_a_list_is_kept_for_cache_timeout_seconds(tmp_path_factory: pytest.TempPathFactory) -> None:
    moving = MovingClock()
    folder = tmp_path_factory.mktemp("timeout")
    with FakeProvider() as upstream, Gateway(folder, openai=upstream.origin, clock=moving.clock) as gateway:
        gateway.add_keys("openai")
        gateway.services.live_settings.update({"cache_timeout": 120})
        upstream.default(json_reply(canned.openai_models()))
        until_the_cache_stays(gateway)
        asked = len(upstream.received)
        moving.advance(110)
        gateway.get("/v1/models")
        assert len(upstream.received) == asked
        moving.advance(11)
        gateway.get("/v1/models")
        assert len(upstream.received) == asked + 1


def until_the_cache_stays(gateway: Gateway) -> None:
    """Until the last change has come through: three times as long as that takes, every list is kept."""
    since = time.monotonic()

    def stays() -> bool:
        nonlocal since
        if gateway.get("/v1/models").headers.get("x-middleware-cache") != "hit":
            since = time.monotonic()
        return time.monotonic() - since > 0.3

    until(stays)


def until(condition: Callable[[], bool], longest_s: float = 5.0) -> None:
    """Ask again and again, since the change comes by way of another thread."""
    end = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
