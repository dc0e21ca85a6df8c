"""The middleware's own calls to providers: how they are signed, what they cost, and what goes wrong on the way."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.clock import Clock
from app.errors import BadRequest, Conflict
from app.keys.base import Action
from app.provider_calls import MAX_ANSWER_BYTES, Outcome, ProviderCalls
from app.provider_requests import ask_credential, ask_generation, ask_models, read_models
from app.providers import BY_NAME, Provider
from app.proxy import upstream
from app.redaction import Redactor
from app.settings import Settings
from tests import canned
from tests.fake_provider import (
    FakeProvider,
    close_without_answer,
    closed_port,
    garbage_status_line,
    hang,
    json_reply,
    redirect,
    reply,
)

KEY = "sk-test-0123456789abcdefghij"


def entry(kind: str, base_url: str = "", **fields: Any) -> Provider:
    found = BY_NAME[kind]
    return Provider(kind, found, base_url or found.base_url or "https://host.example", found.formats, **fields)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def calls() -> ProviderCalls:
    return ProviderCalls(lambda: Settings(model_cache_timeout=0.3, connect_timeout=1, read_timeout=1), str, Clock())


# -- what comes back, and from where --------------------------------------------------------------------


def test_a_key_that_a_provider_puts_into_its_list_is_not_passed_on(
    calls: ProviderCalls, provider: FakeProvider
) -> None:
    names = [KEY, f"prefix-{KEY}", "gpt-1", "a\nb", "\u202egpt-2"]
    provider.answers(json_reply({"data": [{"id": name} for name in names]}))
    found = calls.list_models(entry("openai", provider.origin), KEY)
    assert found.models == ("[redacted]", "prefix-[redacted]", "gpt-1")


def test_a_name_that_leads_elsewhere_the_second_time_gets_no_key(
    calls: ProviderCalls, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(upstream, "_METADATA", {"127.0.0.1"})

    def resolve(host: str, port: Any, *_rest: Any, **_more: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    outcome = calls.list_models(entry("openai", f"http://rebinding.example:{provider.port}"), KEY)
    assert (outcome.ok, outcome.reason) == (False, "refused")
    assert asked
    assert provider.received == []


# -- questions -----------------------------------------------------------------------------------------

LISTS = [
    ("openai", "", "https://api.openai.com/v1/models", ("Authorization", f"Bearer {KEY}")),
    ("anthropic", "", "https://api.anthropic.com/v1/models?limit=1000", ("x-api-key", KEY)),
    (
        "gemini",
        "",
        "https://generativelanguage.googleapis.com/v1beta/models?pageSize=1000",
        ("x-goog-api-key", KEY),
    ),
    ("azure-openai", "", "https://host.example/openai/models", ("api-key", KEY)),
    ("databricks", "", "https://host.example/api/2.0/serving-endpoints", ("Authorization", f"Bearer {KEY}")),
    ("openai-compatible", "https://h.example/api/v4", "https://h.example/api/v4/models", ("Authorization", None)),
    ("openai-compatible", "https://h.example/api", "https://h.example/api/v1/models", ("Authorization", None)),
]


@pytest.mark.parametrize(("kind", "base_url", "url", "signature"), LISTS, ids=[case[0] + case[1] for case in LISTS])
def test_each_kind_is_asked_for_its_models_at_its_own_address_and_signed_in_its_way(
    kind: str, base_url: str, url: str, signature: tuple[str, str | None]
) -> None:
    question = ask_models(entry(kind, base_url), KEY)
    assert question.method == "GET"
    assert question.url.startswith(url.replace("/openai/models", "/openai/v1/models")) or question.url == url
    assert question.headers[signature[0]] == (signature[1] or f"Bearer {KEY}")
    assert KEY not in repr(question)


def test_what_the_entry_adds_goes_along() -> None:
    azure = entry("azure-openai", query={"api-version": "2024-10-21"}, headers={"x-team": "blue"})
    question = ask_models(azure, KEY)
    assert question.url == "https://host.example/openai/models?api-version=2024-10-21"
    assert question.headers["x-team"] == "blue"


def test_where_the_list_of_models_is_open_to_all_something_else_proves_the_key() -> None:
    router = entry("openai-compatible", "https://openrouter.ai/api")
    assert ask_models(router, KEY).url == "https://openrouter.ai/api/v1/models"
    assert ask_credential(router, KEY).url == "https://openrouter.ai/api/v1/key"


GENERATIONS = [
    ("openai", "/v1/chat/completions", {"model": "m", "max_completion_tokens": 16}),
    ("anthropic", "/v1/messages", {"model": "m", "max_tokens": 1}),
    ("gemini", "/v1beta/models/m:generateContent", {"generationConfig": {"maxOutputTokens": 1}}),
    ("openai-compatible", "/v1/chat/completions", {"model": "m", "max_tokens": 1}),
    ("databricks", "/serving-endpoints/m/invocations", {"max_tokens": 1}),
    ("azure-anthropic", "/v1/messages", {"max_tokens": 1}),
]


@pytest.mark.parametrize(("kind", "path", "part"), GENERATIONS, ids=[case[0] for case in GENERATIONS])
def test_a_generation_asks_for_a_few_tokens_at_most(kind: str, path: str, part: dict[str, Any]) -> None:
    question = ask_generation(entry(kind), KEY, "m")
    assert question.url.endswith(path)
    body = json.loads(question.body or b"")
    assert body.items() >= part.items()
    assert question.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("model", ["", "../../admin", "a/./b", "x" * 257, "a\nb", "a\x00"])
def test_a_name_that_no_model_has_is_refused(model: str) -> None:
    with pytest.raises(BadRequest):
        ask_generation(entry("gemini"), KEY, model)


def test_the_name_of_a_model_cant_leave_its_place_in_the_url() -> None:
    url = ask_generation(entry("gemini"), KEY, "a?b#c%2e/d e").url
    assert "/v1beta/models/a%3Fb%23c%252e/d%20e:generateContent" in url


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ({"data": [{"id": "b"}, {"id": "a"}, {"id": "b"}, {"id": 3}, "x"]}, ["b", "a"]),
        ({"models": [{"name": "models/gemini-2"}]}, ["gemini-2"]),
        ({"endpoints": [{"name": "dbrx"}]}, ["dbrx"]),
        ([{"id": "a"}], ["a"]),
        ({"data": []}, []),
        ({"data": {}}, None),
        ({}, None),
        ("text", None),
    ],
)
def test_names_are_read_from_every_shape_of_list(answer: Any, names: list[str] | None) -> None:
    assert read_models(json.dumps(answer).encode()) == names


def test_what_is_no_json_is_no_list() -> None:
    assert read_models(b"<html>") is None


# -- calls ---------------------------------------------------------------------------------------------


def test_the_models_that_a_provider_offers_are_listed(provider: FakeProvider, calls: ProviderCalls) -> None:
    provider.answers(json_reply({"data": [{"id": "gpt-a"}, {"id": "gpt-b"}]}))
    outcome = calls.list_models(entry("openai", provider.origin), KEY)
    assert (outcome.ok, outcome.status, outcome.models, outcome.reason) == (True, 200, ("gpt-a", "gpt-b"), "")
    (received,) = provider.received
    assert (received.method, received.target, received.key) == ("GET", "/v1/models", KEY)
    assert received.headers["accept-encoding"] == "identity"


def test_a_generation_is_sent_with_its_body(provider: FakeProvider, calls: ProviderCalls) -> None:
    provider.answers(json_reply(canned.chat()))
    outcome = calls.generate(entry("openai", provider.origin), KEY, "gpt-a")
    assert (outcome.ok, outcome.models) == (True, None)
    assert provider.received[0].json["model"] == "gpt-a"


Ask = Callable[[ProviderCalls, Provider], Outcome]


def _list(calls: ProviderCalls, found: Provider) -> Outcome:
    return calls.list_models(found, KEY)


def _generate(calls: ProviderCalls, found: Provider) -> Outcome:
    return calls.generate(found, KEY, "gpt-a")


@pytest.mark.parametrize("ask", [_list, _generate])
@pytest.mark.parametrize(
    ("behavior", "action", "reason"),
    [
        (json_reply({"error": {"code": "invalid_api_key", "message": "No."}}, 401), Action.KEY_DEAD, "invalid_api_key"),
        (json_reply({"error": {"code": "insufficient_quota", "message": "No."}}, 429), Action.KEY_REST, None),
        (json_reply({"error": "boom"}, 500), Action.PROVIDER, "server_error"),
        (json_reply({"error": {"message": "odd"}}, 200), None, None),
        (reply(body=b"<html>hello</html>"), Action.PROVIDER, "invalid_body"),
        (redirect("http://127.0.0.1:1/elsewhere"), Action.PROVIDER, "redirect"),
        (close_without_answer(), Action.PROVIDER, "reset"),
        (garbage_status_line(), Action.PROVIDER, "reset"),
    ],
)
def test_each_failure_gets_the_verdict_of_an_attempt(
    provider: FakeProvider, calls: ProviderCalls, ask: Ask, behavior: Any, action: Action | None, reason: str | None
) -> None:
    provider.default(behavior)
    outcome = ask(calls, entry("openai", provider.origin))
    assert not outcome.ok
    assert outcome.verdict is not None
    assert action is None or outcome.verdict.action is action
    assert reason is None or outcome.reason == reason
    assert len(provider.received) == 1


def test_silence_ends_with_the_time_limit(provider: FakeProvider, calls: ProviderCalls) -> None:
    provider.default(hang())
    outcome = calls.list_models(entry("openai", provider.origin), KEY)
    assert (outcome.ok, outcome.status, outcome.reason) == (False, 0, "first_byte_timeout")


@pytest.mark.parametrize(
    ("origin", "reason"),
    [("http://does-not-exist.invalid", "dns"), ("http://169.254.169.254", "refused"), ("http://a..b", "dns")],
)
def test_a_host_that_is_none_gets_no_call(calls: ProviderCalls, origin: str, reason: str) -> None:
    outcome = calls.list_models(entry("openai", origin), KEY)
    assert (outcome.ok, outcome.reason) == (False, reason)


def test_a_closed_port_is_refused(calls: ProviderCalls) -> None:
    assert calls.list_models(entry("openai", closed_port()), KEY).reason == "refused"


def test_a_certificate_that_nobody_vouches_for_is_refused(calls: ProviderCalls) -> None:
    with FakeProvider(tls="valid") as provider:
        assert calls.list_models(entry("openai", provider.origin), KEY).reason == "tls"
        assert provider.received == []


def test_a_key_in_the_providers_sentence_is_taken_out(provider: FakeProvider) -> None:
    provider.default(json_reply({"error": {"code": "invalid_api_key", "message": f"Bad key {KEY} <b>x</b>"}}, 401))
    calls = ProviderCalls(Settings, Redactor().text, Clock())
    outcome = calls.list_models(entry("openai", provider.origin), KEY)
    assert KEY not in outcome.message
    assert "Bad key" in outcome.message


def test_a_long_answer_is_cut(provider: FakeProvider, calls: ProviderCalls) -> None:
    body = json.dumps({"choices": [], "filler": "x" * (4 * MAX_ANSWER_BYTES)}).encode()
    provider.default(reply(body=body))
    outcome = calls.generate(entry("openai", provider.origin), KEY, "gpt-a")
    assert (outcome.ok, outcome.status, outcome.reason) == (False, 200, "invalid_body")


def test_the_machines_own_credentials_stay_at_home(
    provider: FakeProvider, calls: ProviderCalls, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    provider.default(json_reply({"data": []}))
    calls.list_models(entry("openai", provider.origin), KEY)
    assert provider.received[0].key == KEY


def test_a_provider_without_an_address_is_told_so(calls: ProviderCalls) -> None:
    with pytest.raises(Conflict):
        calls.list_models(dataclasses.replace(entry("openai"), base_url=""), KEY)
