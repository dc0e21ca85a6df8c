"""What each kind of provider receives: the exact URL, the signature, the headers and the body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import canned, canned_errors
from tests.fake_provider import json_reply
from tests.stage import Stage

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
DATED = {"api-version": "2024-10-21"}
PREVIEW = {"api-version": "2025-04-01-preview"}
BEARER, API_KEY = {"authorization": "Bearer {}"}, {"api-key": "{}"}
FOUNDRY = {"x-api-key": "{}", "api-key": "{}", "anthropic-version": "2023-06-01"}
INVOCATIONS = "/serving-endpoints/databricks-claude/invocations"


@dataclass(frozen=True)
class Row:
    """
    base      -- path of the entry's base URL
    path      -- as the caller calls it, behind the provider's name
    target    -- what has to arrive
    signed    -- headers with the key in the place of `{}`
    """

    kind: str
    base: str
    path: str
    target: str
    signed: dict[str, str]
    model: str | None = "my-model"
    query: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.base}{'?' if self.query else ''} {self.path}"


ROWS = [
    Row("openai", "", CHAT, CHAT, BEARER),
    Row("openai", "/proxy/v1", CHAT, "/proxy/v1/chat/completions", BEARER),
    Row("openai", "", "/v1beta/openai/chat/completions", CHAT, BEARER),
    Row("azure-openai", "", CHAT, "/openai/v1/chat/completions", API_KEY),
    Row("azure-openai", "/openai", CHAT, "/openai/v1/chat/completions", API_KEY),
    Row("azure-openai", "/openai/v1", CHAT, "/openai/v1/chat/completions", API_KEY),
    Row("azure-openai", "/openai/v1/", RESPONSES, "/openai/v1/responses", API_KEY),
    Row("azure-openai", "", "/v1/models", "/openai/v1/models", API_KEY, model=None),
    Row(
        "azure-openai",
        "",
        CHAT,
        "/openai/deployments/my-model/chat/completions?api-version=2024-10-21",
        API_KEY,
        query=DATED,
    ),
    Row(
        "azure-openai",
        "/openai",
        CHAT,
        "/openai/deployments/my%20model%2F%C3%BC/chat/completions?api-version=2024-10-21",
        API_KEY,
        model="my model/\u00fc",
        query=DATED,
    ),
    Row(
        "azure-openai",
        "",
        "/v1/embeddings",
        "/openai/deployments/my-model/embeddings?api-version=2024-10-21",
        API_KEY,
        query=DATED,
    ),
    Row(
        "azure-openai",
        "",
        RESPONSES,
        "/openai/responses?api-version=2025-04-01-preview",
        API_KEY,
        query=PREVIEW,
    ),
    Row("azure-openai", "", "/v1/files", "/openai/files?api-version=2024-10-21", API_KEY, model=None, query=DATED),
    Row("azure-anthropic", "/anthropic", MESSAGES, "/anthropic/v1/messages", FOUNDRY),
    Row("azure-anthropic", "/anthropic/", MESSAGES + "?beta=true", "/anthropic/v1/messages?beta=true", FOUNDRY),
    Row("azure-anthropic", "/anthropic/v1/messages", MESSAGES, "/anthropic/v1/messages", FOUNDRY),
    Row("azure-anthropic", "/anthropic", "/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens", FOUNDRY),
    Row("databricks", "", CHAT, INVOCATIONS, BEARER, model="databricks-claude"),
    Row("databricks", "/serving-endpoints", CHAT, INVOCATIONS, BEARER, model="databricks-claude"),
    Row("databricks", INVOCATIONS, CHAT, INVOCATIONS, BEARER, model="whatever"),
    Row("databricks", "", "/v1/embeddings", "/serving-endpoints/bge/invocations", BEARER, model="bge"),
    Row("databricks", "", CHAT, "/serving-endpoints/a%2Fb%3Fc/invocations", BEARER, model="a/b?c"),
    Row("openai-compatible", "", CHAT, CHAT, BEARER),
    Row("openai-compatible", "/v1", CHAT, CHAT, BEARER),
    Row("openai-compatible", "/openai/v1/", CHAT, "/openai/v1/chat/completions", BEARER),
    Row("openai-compatible", "/api/paas/v4", CHAT, "/api/paas/v4/chat/completions", BEARER),
    Row("openai-compatible", "/v1beta/openai", CHAT, "/v1beta/openai/chat/completions", BEARER),
    Row("openai-compatible", "/client/v4/accounts/a/ai", CHAT, "/client/v4/accounts/a/ai/v1/chat/completions", BEARER),
    Row("gemini", "", CHAT, "/v1beta/openai/chat/completions", BEARER),
    Row("gemini", "", "/v1beta/openai/chat/completions", "/v1beta/openai/chat/completions", BEARER),
    Row("gemini", "", "/v1/embeddings", "/v1beta/openai/embeddings", BEARER),
    Row("gemini", "", "/v1/models", "/v1beta/openai/models", BEARER, model=None),
    Row(
        "gemini",
        "",
        "/v1beta/models/my-model:generateContent",
        "/v1beta/models/my-model:generateContent",
        {"x-goog-api-key": "{}"},
    ),
    Row("anthropic", "", MESSAGES, MESSAGES, {"x-api-key": "{}", "anthropic-version": "2023-06-01"}),
    Row("anthropic", "/v1", MESSAGES, MESSAGES, {"x-api-key": "{}", "anthropic-version": "2023-06-01"}),
]
_CREDENTIALS = {"authorization", "x-api-key", "api-key", "x-goog-api-key"}


def exchange(path: str, model: str | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """A request and its answer."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "completions": (canned.CHAT_REQUEST, canned.chat()),
        "responses": (canned.RESPONSES_REQUEST, canned.response()),
        "messages": (canned.MESSAGES_REQUEST, canned.message()),
        "count_tokens": (canned.MESSAGES_REQUEST, canned.COUNT_TOKENS),
        "embeddings": (canned.EMBEDDINGS_REQUEST, canned.embeddings()),
        "my-model:generateContent": (canned.GEMINI_REQUEST, canned.gemini()),
    }
    if model is None:
        return None, canned.openai_models()
    asked, answer = found[path.partition("?")[0].rpartition("/")[2]]
    return ({**asked, "model": model} if "model" in asked else asked), answer


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_call_arrives_where_this_kind_expects_it_and_signed_as_it_expects(stage: Stage, row: Row) -> None:
    asked, answer = exchange(row.path, row.model)
    stage.upstream.default(json_reply(answer))
    with stage.provider(row.kind, row.base, query=row.query) as (name, keys):
        method = "GET" if asked is None else "POST"
        told = stage.gateway.request(method, f"/{name}{row.path}", json_body=asked)
    assert (told.status, told.json) == (200, answer)
    sent = stage.sent()
    assert sent.target == row.target
    assert {each: sent.headers[each] for each in row.signed} == {
        each: value.format(keys[0]) for each, value in row.signed.items()
    }
    assert _CREDENTIALS & set(sent.headers) == _CREDENTIALS & set(row.signed)
    assert sent.headers["host"] == stage.upstream.origin.removeprefix("http://")
    if asked is not None:
        assert sent.json == asked


@pytest.mark.parametrize("model", [".", ".."])
@pytest.mark.parametrize(("kind", "query"), [("azure-openai", DATED), ("databricks", {})])
def test_a_model_that_would_climb_out_of_its_place_goes_nowhere(
    stage: Stage, kind: str, query: dict[str, str], model: str
) -> None:
    with stage.provider(kind, query=query) as (name, _):
        answers = [
            stage.gateway.post(f"/{name}{CHAT}", {**canned.CHAT_REQUEST, "model": model}),
            stage.gateway.post(CHAT, {**canned.CHAT_REQUEST, "model": f"{name}/{model}"}),
        ]
    assert [answer.status for answer in answers] == [404, 404]
    assert stage.upstream.received == []


def test_fixed_headers_and_query_of_an_entry_go_along_and_win(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    fixed = {"HTTP-Referer": "https://example.com", "OpenAI-Beta": "fixed=1"}
    with stage.provider("openai-compatible", headers=fixed, query={"a b": "c&d"}) as (name, _):
        stage.gateway.request(
            "POST",
            f"/{name}{CHAT}?x=1",
            json_body=canned.CHAT_REQUEST,
            headers={"OpenAI-Beta": "mine", "HTTP-Referer": "https://mine.example.com"},
        )
    sent = stage.sent()
    assert sent.target == f"{CHAT}?x=1&a%20b=c%26d"
    assert (sent.headers["http-referer"], sent.headers["openai-beta"]) == ("https://example.com", "fixed=1")


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
def test_the_callers_own_version_of_anthropic_wins(stage: Stage, version: str) -> None:
    stage.upstream.default(json_reply(canned.message()))
    stage.gateway.post(MESSAGES, canned.MESSAGES_REQUEST, anthropic_version=version)
    assert stage.sent().headers["anthropic-version"] == version


def test_both_headers_of_foundry_change_with_the_key(stage: Stage) -> None:
    with stage.provider("azure-anthropic", "/anthropic") as (name, keys):
        limited = json_reply(canned_errors.ANTHROPIC_RATE_LIMIT, 429)
        stage.upstream.by_key({keys[0]: limited, keys[1]: json_reply(canned.message())})
        assert stage.gateway.post(f"/{name}{MESSAGES}", canned.MESSAGES_REQUEST).status == 200
    first, second = stage.upstream.received
    assert (first.headers["x-api-key"], first.headers["api-key"]) == (keys[0], keys[0])
    assert (second.headers["x-api-key"], second.headers["api-key"]) == (keys[1], keys[1])


@pytest.mark.parametrize(
    ("kind", "path", "asked"),
    [
        ("databricks", MESSAGES, canned.MESSAGES_REQUEST),
        ("azure-anthropic", CHAT, canned.CHAT_REQUEST),
        ("openai-compatible", RESPONSES, canned.RESPONSES_REQUEST),
        ("gemini", MESSAGES, canned.MESSAGES_REQUEST),
    ],
)
def test_a_format_that_the_provider_does_not_speak_is_a_clear_400(
    stage: Stage, kind: str, path: str, asked: dict[str, Any]
) -> None:
    with stage.provider(kind, "/x") as (name, _):
        answer = stage.gateway.post(f"/{name}{path}", asked)
    assert answer.status == 400
    assert "does not speak" in str(answer.json)
    assert stage.upstream.received == []
