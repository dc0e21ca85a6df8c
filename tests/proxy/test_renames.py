"""Aliases, the default model and `provider/model`: the name changes on its way out and back, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import canned
from tests.fake_provider import json_reply, reply, sliced, stream
from tests.stage import Stage

JSON = {"Content-Type": "application/json"}

#: path, request, answer, provider of the format.
BODIES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("/v1/chat/completions", canned.CHAT_REQUEST, canned.chat(), "openai"),
    ("/v1/responses", canned.RESPONSES_REQUEST, canned.response(), "openai"),
    ("/v1/messages", canned.MESSAGES_REQUEST, canned.message(), "anthropic"),
    ("/v1/embeddings", canned.EMBEDDINGS_REQUEST, canned.embeddings(), "openai"),
]
STREAMS: list[tuple[str, dict[str, Any], list[bytes], str]] = [
    ("/v1/chat/completions", canned.CHAT_REQUEST, canned.chat_stream(usage=False), "openai"),
    ("/v1/responses", canned.RESPONSES_REQUEST, canned.response_stream(), "openai"),
    ("/v1/messages", canned.MESSAGES_REQUEST, canned.message_stream(), "anthropic"),
]
GENERATE = "/v1beta/models/{}:generateContent"


def raw(value: dict[str, Any], model: str) -> bytes:
    """The object as odd JSON in which `model` stands in the middle."""
    members = [f"{json.dumps(name)} :  {json.dumps(item)}" for name, item in value.items() if name != "model"]
    half = len(members) // 2
    return ("{ " + " ,\n".join([*members[:half], f'"model"\t: {json.dumps(model)}', *members[half:]]) + " }").encode()


def alias(stage: Stage, target: str, name: str = "fast") -> None:
    stage.gateway.services.providers.set_aliases({name: target})


@pytest.mark.parametrize(("path", "asked", "answer", "provider"), BODIES, ids=[body[0] for body in BODIES])
def test_an_alias_is_renamed_out_and_back_and_every_other_byte_stays(
    stage: Stage, path: str, asked: dict[str, Any], answer: dict[str, Any], provider: str
) -> None:
    alias(stage, f"{provider}/real-model-1")
    # An upstream may answer with a dated name: the caller gets the one that it asked for.
    stage.upstream.default(reply(200, JSON, raw(answer, "real-model-1-2026-11-20")))
    told = stage.gateway.request("POST", path, body=raw(asked, "fast"))
    assert stage.sent().body == raw(asked, "real-model-1")
    assert told.body == raw(answer, "fast")
    record = stage.record()
    assert (record["model"], record["upstream_model"], record["provider"]) == ("fast", "real-model-1", provider)


@pytest.mark.parametrize(("path", "asked", "events", "provider"), STREAMS, ids=[each[0] for each in STREAMS])
def test_an_alias_is_renamed_in_every_event_of_a_stream(
    stage: Stage, path: str, asked: dict[str, Any], events: list[bytes], provider: str
) -> None:
    alias(stage, f"{provider}/real-model-1")
    model = str(asked["model"]).encode()
    sent_events = b"".join(events).replace(b'"' + model + b'"', b'"real-model-1"')
    stage.upstream.default(stream(sliced(sent_events, 13)))
    told = stage.gateway.request("POST", path, json_body={**asked, "model": "fast", "stream": True})
    assert told.body == b"".join(events).replace(b'"' + model + b'"', b'"fast"')
    assert b"real-model-1" not in told.body
    assert stage.sent().json["model"] == "real-model-1"


def test_an_alias_may_leave_the_provider_to_the_rules(stage: Stage) -> None:
    alias(stage, "claude-real")
    stage.upstream.default(json_reply(canned.message()))
    stage.gateway.post("/v1/messages", {**canned.MESSAGES_REQUEST, "model": "fast"})
    assert stage.sent().json["model"] == "claude-real"


def test_a_model_without_an_alias_comes_back_under_the_name_that_answered(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat(model="gpt-test-2026-11-20")))
    assert stage.gateway.post("/v1/chat/completions", canned.CHAT_REQUEST).json["model"] == "gpt-test-2026-11-20"


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent?alt=sse", "countTokens", "embedContent"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_an_alias_is_renamed_in_a_path_of_gemini(stage: Stage, version: str, verb: str) -> None:
    alias(stage, "gemini-real")
    answers = {
        "generateContent": json_reply(canned.gemini()),
        "streamGenerateContent?alt=sse": stream(canned.gemini_stream()),
        "countTokens": json_reply(canned.GEMINI_COUNT_TOKENS),
        "embedContent": json_reply(canned.GEMINI_EMBEDDING),
    }
    stage.upstream.default(answers[verb])
    asked = {**canned.GEMINI_REQUEST, "content": {"parts": [{"text": "Hi"}]}}
    body = json.dumps(asked, indent=3).encode()
    # The verb and the version hold letters of the alias: only the name itself may change.
    answer = stage.gateway.request("POST", f"/{version}/models/fast:{verb}", body=body)
    assert answer.status == 200
    assert stage.sent().target == f"/{version}/models/gemini-real:{verb}"
    assert stage.sent().body == body


@pytest.mark.parametrize("name", ["models", "v1beta", "generateContent", "e", "v"])
def test_an_alias_that_looks_like_another_part_of_the_path_is_renamed_in_its_own_place(stage: Stage, name: str) -> None:
    alias(stage, "gemini-real", name)
    stage.upstream.default(json_reply(canned.gemini()))
    assert stage.gateway.post(GENERATE.format(name), canned.GEMINI_REQUEST).status == 200
    assert stage.sent().target == GENERATE.format("gemini-real")


@pytest.mark.parametrize(
    ("verb", "body", "renamed"),
    [
        (
            "countTokens",
            b'{ "generateContentRequest" : {"model":"models/fast","contents":[{"parts":[{"text":"x"}]}]} , "z":1.0 }',
            b'{ "generateContentRequest" : '
            b'{"model":"models/gemini-real","contents":[{"parts":[{"text":"x"}]}]} , "z":1.0 }',
        ),
        (
            "batchEmbedContents",
            b'{ "requests":[{"model":"models/fast","content":{"parts":[]}}], "z":1.0 }',
            b'{ "requests":[{"model":"models/gemini-real","content":{"parts":[]}}], "z":1.0 }',
        ),
        (
            "embedContent",
            b'{ "model" : "models/fast" , "content":{"parts":[{"text":"x"}]}}',
            b'{ "model" : "models/gemini-real" , "content":{"parts":[{"text":"x"}]}}',
        ),
    ],
)
def test_a_body_of_gemini_that_repeats_the_model_is_renamed_too(
    stage: Stage, verb: str, body: bytes, renamed: bytes
) -> None:
    alias(stage, "gemini-real")
    answer = {**canned.GEMINI_COUNT_TOKENS, **canned.GEMINI_EMBEDDING}
    stage.upstream.default(json_reply(answer))
    assert stage.gateway.request("POST", f"/v1beta/models/fast:{verb}", body=body).status == 200
    assert stage.sent().body == renamed


def test_an_alias_is_renamed_where_a_model_is_looked_up(stage: Stage) -> None:
    alias(stage, "openai/gpt-real")
    stage.upstream.default(json_reply(canned.openai_models("gpt-real")["data"][0]))
    assert stage.gateway.get("/v1/models/fast").status == 200
    assert stage.sent().target == "/v1/models/gpt-real"


@pytest.mark.parametrize(
    ("path", "asked", "answer"),
    [
        ("/v1/chat/completions", canned.CHAT_REQUEST, canned.chat(model="the-default")),
        ("/v1/messages", canned.MESSAGES_REQUEST, canned.message(model="the-default")),
        (GENERATE.format("gemini-test"), canned.GEMINI_REQUEST, canned.gemini()),
    ],
)
def test_the_default_model_replaces_every_model_that_generates(
    stage: Stage, path: str, asked: dict[str, Any], answer: dict[str, Any]
) -> None:
    stage.gateway.services.live_settings.update({"model_default": "the-default"})
    stage.upstream.default(json_reply(answer))
    told = stage.gateway.post(path, asked)
    if "model" in asked:
        assert stage.sent().json["model"] == "the-default"
        assert told.json["model"] == asked["model"]
    else:
        assert stage.sent().target == GENERATE.format("the-default")


def test_the_default_model_leaves_embeddings_alone(stage: Stage) -> None:
    stage.gateway.services.live_settings.update({"model_default": "the-default"})
    stage.upstream.default(json_reply(canned.embeddings()))
    stage.gateway.post("/v1/embeddings", canned.EMBEDDINGS_REQUEST)
    assert stage.sent().json["model"] == "embed-test"


@pytest.mark.parametrize(
    ("path", "asked", "answer", "target", "model"),
    [
        (
            "/v1/chat/completions",
            {**canned.CHAT_REQUEST, "model": "openai/org/some-model"},
            canned.chat(),
            "/v1/chat/completions",
            "org/some-model",
        ),
        (
            "/v1/chat/completions",
            {**canned.CHAT_REQUEST, "model": "gemini/gemini-x"},
            canned.chat(),
            "/v1beta/openai/chat/completions",
            "gemini-x",
        ),
        (
            "/v1/messages",
            {**canned.MESSAGES_REQUEST, "model": "anthropic/claude-x"},
            canned.message(),
            "/v1/messages",
            "claude-x",
        ),
        (GENERATE.format("gemini/gemini-x"), canned.GEMINI_REQUEST, canned.gemini(), GENERATE.format("gemini-x"), None),
        (
            GENERATE.format("gemini%2Fgemini-x"),
            canned.GEMINI_REQUEST,
            canned.gemini(),
            GENERATE.format("gemini-x"),
            None,
        ),
    ],
)
def test_a_model_with_its_provider_in_front_goes_there_without_it(
    stage: Stage, path: str, asked: dict[str, Any], answer: dict[str, Any], target: str, model: str | None
) -> None:
    stage.upstream.default(json_reply(answer))
    told = stage.gateway.post(path, asked)
    assert told.status == 200
    assert stage.sent().target == target
    if model is not None:
        assert stage.sent().json["model"] == model
        assert told.json["model"] == asked["model"]


def test_a_name_with_a_slash_that_is_no_provider_is_a_name(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    stage.gateway.post("/v1/chat/completions", {**canned.CHAT_REQUEST, "model": "meta-llama/llama-4"})
    assert stage.sent().json["model"] == "meta-llama/llama-4"
