"""The official OpenAI SDK against the running middleware."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator

import openai
import pytest

from tests import canned, canned_errors
from tests.fake_provider import Behavior, json_reply, reply, stream
from tests.stage import UNUSED, Stage

CHAT = canned.CHAT_REQUEST
TOOLS = [{"type": "function", "function": {"name": canned.TOOL_NAME, "parameters": {"type": "object"}}}]
RESPONSE_TOOLS = [{"type": "function", "name": canned.TOOL_NAME, "parameters": {"type": "object"}, "strict": False}]
BASES = ["", "/", "/v1", "/v1/", "/v1/v1", "/openai", "/openai/", "/openai/v1", "/openai/v1/"]


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stage.origin}/v1", api_key=UNUSED, max_retries=0) as made:
        yield made


def asynchronous(stage: Stage) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{stage.origin}/v1", api_key=UNUSED, max_retries=0)


# -- chat completions ---------------------------------------------------------------------------------


def test_a_chat_completion_comes_back_as_sent(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    answer = raw.parse()
    assert answer.choices[0].message.content == canned.TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == canned.INPUT_TOKENS + canned.OUTPUT_TOKENS
    assert answer._request_id == raw.headers["x-request-id"]
    (received,) = stage.upstream.received
    assert (received.path, received.key) == ("/v1/chat/completions", stage.keys["openai"][0])
    assert received.json == CHAT


def test_a_chat_stream_has_its_words_and_no_usage_chunk_that_was_not_asked_for(
    stage: Stage, client: openai.OpenAI
) -> None:
    stage.upstream.default(stream(canned.chat_stream()))
    with client.chat.completions.create(**CHAT, stream=True) as chunks:
        seen = list(chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == canned.TEXT
    assert all(chunk.choices for chunk in seen)
    assert stage.upstream.received[0].json["stream_options"] == {"include_usage": True}


def test_a_chat_stream_has_its_usage_chunk_where_it_was_asked_for(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream(canned.chat_stream()))
    with client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}) as chunks:
        seen = list(chunks)
    assert seen[-1].usage is not None
    assert seen[-1].usage.prompt_tokens == canned.INPUT_TOKENS


def test_the_chat_stream_helper_puts_the_completion_together(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream(canned.chat_stream()))
    with client.chat.completions.stream(**CHAT) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert text == final.choices[0].message.content == canned.TEXT


def test_tool_calls_of_a_chat_arrive_plain_and_streamed(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.answers(
        json_reply(canned.chat(calls=[canned.chat_call()])), stream(canned.chat_tool_stream(usage=False))
    )
    plain = client.chat.completions.create(**CHAT, tools=TOOLS).choices[0]
    with client.chat.completions.stream(**CHAT, tools=TOOLS) as events:
        streamed = events.get_final_completion().choices[0]
    for choice in (plain, streamed):
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert (call.id, call.function.name) == (canned.CALL_ID, canned.TOOL_NAME)
        assert json.loads(call.function.arguments) == canned.TOOL_ARGUMENTS
    assert all(received.json["tools"] == TOOLS for received in stage.upstream.received)


def test_async_chat_works_plain_and_streamed(stage: Stage) -> None:
    stage.upstream.answers(json_reply(canned.chat()), stream(canned.chat_stream()))

    async def ask() -> tuple[str | None, str]:
        async with asynchronous(stage) as client:
            plain = await client.chat.completions.create(**CHAT)
            async with await client.chat.completions.create(**CHAT, stream=True) as chunks:
                words = [chunk.choices[0].delta.content or "" async for chunk in chunks]
        return plain.choices[0].message.content, "".join(words)

    assert asyncio.run(ask()) == (canned.TEXT, canned.TEXT)


def test_many_async_calls_at_once_all_come_back(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))

    async def ask() -> list[openai.types.chat.ChatCompletion]:
        async with asynchronous(stage) as client:
            return await asyncio.gather(*(client.chat.completions.create(**CHAT) for _ in range(20)))

    assert {answer.choices[0].message.content for answer in asyncio.run(ask())} == {canned.TEXT}
    used = [received.key for received in stage.upstream.received]
    assert sorted(used.count(key) for key in stage.keys["openai"]) == [10, 10]


# -- responses ----------------------------------------------------------------------------------------


def test_a_response_comes_back_as_sent(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(json_reply(canned.response()))
    answer = client.responses.create(**canned.RESPONSES_REQUEST)
    assert answer.output_text == canned.TEXT
    assert stage.upstream.received[0].path == "/v1/responses"
    assert stage.upstream.received[0].json == canned.RESPONSES_REQUEST


def test_a_response_stream_and_the_helper_have_every_event(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream(canned.response_stream()))
    with client.responses.create(**canned.RESPONSES_REQUEST, stream=True) as events:
        kinds = [event.type for event in events]
    with client.responses.stream(**canned.RESPONSES_REQUEST) as helper:
        text = "".join(event.delta for event in helper if event.type == "response.output_text.delta")
        final = helper.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert len(kinds) == len(canned.response_stream())
    assert text == final.output_text == canned.TEXT


def test_a_function_call_of_a_response_arrives_streamed(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream(canned.response_tool_stream()))
    with client.responses.stream(**canned.RESPONSES_REQUEST, tools=RESPONSE_TOOLS) as helper:
        final = helper.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == (canned.TOOL_NAME, canned.TOOL_ARGUMENTS)


def test_async_responses_work_plain_and_with_the_stream_helper(stage: Stage) -> None:
    stage.upstream.answers(json_reply(canned.response()), stream(canned.response_stream()))

    async def ask() -> tuple[str, str]:
        async with asynchronous(stage) as client:
            plain = await client.responses.create(**canned.RESPONSES_REQUEST)
            async with client.responses.stream(**canned.RESPONSES_REQUEST) as helper:
                final = await helper.get_final_response()
        return plain.output_text, final.output_text

    assert asyncio.run(ask()) == (canned.TEXT, canned.TEXT)


def test_a_stored_response_is_fetched_with_the_key_that_made_it(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(json_reply(canned.response()))
    made = client.responses.create(**canned.RESPONSES_REQUEST)
    for _ in range(3):
        client.responses.retrieve(made.id)
    client.responses.create(**canned.RESPONSES_REQUEST, previous_response_id=made.id)
    used = {received.key for received in stage.upstream.received}
    assert len(used) == 1


def test_input_tokens_are_counted(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(json_reply({"object": "response.input_tokens", "input_tokens": 7}))
    assert client.responses.input_tokens.count(model="gpt-test", input="Hi").input_tokens == 7


# -- embeddings, models, files ------------------------------------------------------------------------


def test_embeddings_arrive_in_the_base64_that_the_sdk_asks_for(stage: Stage, client: openai.OpenAI) -> None:
    packed = base64.b64encode(struct.pack("<3f", *canned.VECTOR)).decode()
    body = canned.embeddings()
    body["data"][0]["embedding"] = packed
    stage.upstream.default(json_reply(body))
    answer = client.embeddings.create(**canned.EMBEDDINGS_REQUEST)
    assert answer.data[0].embedding == canned.VECTOR
    assert stage.upstream.received[0].json == {**canned.EMBEDDINGS_REQUEST, "encoding_format": "base64"}


def test_embeddings_arrive_as_numbers_where_they_are_asked_for(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(json_reply(canned.embeddings()))
    answer = client.embeddings.create(**canned.EMBEDDINGS_REQUEST, encoding_format="float")
    assert answer.data[0].embedding == canned.VECTOR


def test_models_of_one_provider_are_listed_and_retrieved(stage: Stage) -> None:
    stage.upstream.answers(
        json_reply(canned.openai_models("gpt-a", "gpt-b")),
        json_reply(canned.openai_models("gpt-a")["data"][0]),
    )
    with openai.OpenAI(base_url=f"{stage.origin}/openai/v1", api_key=UNUSED, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["gpt-a", "gpt-b"]
        assert client.models.retrieve("gpt-a").id == "gpt-a"
    assert [received.path for received in stage.upstream.received] == ["/v1/models", "/v1/models/gpt-a"]


def test_the_list_of_models_holds_those_of_every_provider_that_speaks_the_format(
    stage: Stage, client: openai.OpenAI
) -> None:
    stage.upstream.by_key(
        {
            stage.keys["openai"][0]: json_reply(canned.openai_models("gpt-a")),
            stage.keys["gemini"][0]: json_reply(canned.openai_models("gemini-a")),
        }
    )
    # A query of its own, so that nothing kept from another test answers.
    listed = client.models.with_raw_response.list(extra_query={"page": "own"})
    assert {model.id for model in listed.parse()} == {"gpt-a", "gemini-a"}
    assert listed.headers["x-request-id"] == stage.record()["request_id"]


def test_files_are_listed_uploaded_and_read_with_one_key(stage: Stage, client: openai.OpenAI) -> None:
    file = {
        "id": "file-1",
        "object": "file",
        "bytes": 9,
        "created_at": 1_790_000_000,
        "filename": "data.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    content = b'{"a": "\xff\x00\xe2\x80\xa8"}\r\n--not a boundary\r\n' * 50
    stage.upstream.answers(
        json_reply(file),
        reply(200, {"Content-Type": "application/octet-stream"}, content),
        json_reply({"object": "list", "data": [file], "has_more": False}),
    )
    uploaded = client.files.create(file=("data.jsonl", content), purpose="batch")
    assert client.files.content(uploaded.id).content == content
    assert [listed.id for listed in client.files.list()] == ["file-1"]
    upload, download, _ = stage.upstream.received
    assert content in upload.body
    assert upload.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert upload.body.rstrip().endswith(upload.headers["content-type"].partition("boundary=")[2].encode() + b"--")
    assert download.key == upload.key


# -- addresses and credentials ------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_every_usual_base_url_works(stage: Stage, base: str) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    with openai.OpenAI(base_url=stage.origin + base, api_key=UNUSED, max_retries=0) as client:
        client.chat.completions.create(**CHAT)
    assert stage.upstream.received[0].path == "/v1/chat/completions"


def test_the_openai_layer_of_gemini_is_reached_by_its_own_base_url(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat()))
    base_url = f"{stage.origin}/v1beta/openai/"
    with openai.OpenAI(base_url=base_url, api_key=UNUSED, max_retries=0) as client:
        client.chat.completions.create(**{**CHAT, "model": "gemini-test"})
    (received,) = stage.upstream.received
    assert received.path == "/v1beta/openai/chat/completions"
    assert received.headers["authorization"] == f"Bearer {stage.keys['gemini'][0]}"


def test_a_client_key_is_taken_as_bearer_and_never_goes_upstream(stage: Stage) -> None:
    client_id, token = stage.gateway.services.clients.create("sdk")
    stage.upstream.default(json_reply(canned.chat()))
    try:
        with openai.OpenAI(base_url=f"{stage.origin}/v1", api_key=token, max_retries=0) as client:
            client.chat.completions.create(**CHAT)
        with (
            openai.OpenAI(base_url=f"{stage.origin}/v1", api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError) as refused,
        ):
            stranger.chat.completions.create(**CHAT)
    finally:
        stage.gateway.services.clients.delete(client_id)
    assert refused.value.code == "invalid_api_key"
    assert len(stage.upstream.received) == 1
    assert token not in str(stage.upstream.received[0].header_list)


def test_organization_and_project_of_the_caller_stay_here(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned.chat(), headers={"openai-organization": "org-ours"}))
    base_url = f"{stage.origin}/v1"
    with openai.OpenAI(base_url=base_url, api_key=UNUSED, organization="org-1", project="p-1", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(**CHAT)
    names = set(stage.upstream.received[0].headers)
    assert not {name for name in names if name.startswith(("openai-org", "openai-proj", "x-stainless"))}
    assert "openai-organization" not in raw.headers


# -- errors and failover ------------------------------------------------------------------------------

ERRORS: list[tuple[int, canned.Json, type[openai.APIStatusError]]] = [
    (400, canned_errors.OPENAI_BAD_REQUEST, openai.BadRequestError),
    (404, canned_errors.openai_error("Invalid URL (POST /v1/nothing)"), openai.NotFoundError),
    (409, canned_errors.openai_error("Conflict."), openai.ConflictError),
    (422, canned_errors.openai_error("Unprocessable."), openai.UnprocessableEntityError),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_the_callers_own_fault_is_the_right_exception_at_once(
    stage: Stage, client: openai.OpenAI, status: int, body: canned.Json, kind: type[openai.APIStatusError]
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**CHAT)
    assert raised.value.status_code == status
    assert raised.value.body == body["error"]
    assert raised.value.request_id == stage.record()["request_id"]
    assert len(stage.upstream.received) == 1


EXHAUSTED: list[tuple[int, canned.Json, type[openai.APIStatusError], str]] = [
    (401, canned_errors.OPENAI_BAD_KEY, openai.InternalServerError, "no_keys"),
    (429, canned_errors.OPENAI_RATE_LIMIT, openai.RateLimitError, "all_keys_resting"),
    (404, canned_errors.OPENAI_NO_MODEL, openai.NotFoundError, ""),
    (500, canned_errors.OPENAI_SERVER, openai.InternalServerError, ""),
]


@pytest.mark.parametrize(("status", "body", "kind", "code"), EXHAUSTED)
def test_what_every_key_meets_is_the_right_exception_with_a_request_id(
    stage: Stage,
    client: openai.OpenAI,
    status: int,
    body: canned.Json,
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**CHAT)
    assert [received.key for received in stage.upstream.received] == stage.keys["openai"]
    assert raised.value.request_id == stage.record()["request_id"]
    if code:
        assert raised.value.code == code
        assert raised.value.body["request_id"] == raised.value.request_id  # type: ignore[index]


def test_an_error_of_ours_says_what_to_do(stage: Stage, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="`messages` must be a list") as raised:
        client.chat.completions.create(model="gpt-test", messages=[])
    assert raised.value.code == "invalid_messages"
    assert raised.value.body["request_id"] == raised.value.request_id  # type: ignore[index]


FAILING: list[Behavior] = [
    json_reply(canned_errors.OPENAI_RATE_LIMIT, 429, {"Retry-After": "30"}),
    json_reply(canned_errors.OPENAI_BAD_KEY, 401),
    json_reply(canned_errors.OPENAI_SERVER, 500),
    reply(502, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR),
]


@pytest.mark.parametrize("behavior", FAILING, ids=["429", "401", "500", "502"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_failover_is_invisible(stage: Stage, client: openai.OpenAI, behavior: Behavior, streamed: bool) -> None:
    good = stream(canned.chat_stream()) if streamed else json_reply(canned.chat())
    first, second = stage.keys["openai"]
    stage.upstream.by_key({first: behavior, second: good})
    if streamed:
        with client.chat.completions.create(**CHAT, stream=True) as chunks:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = client.chat.completions.create(**CHAT).choices[0].message.content or ""
    assert text == canned.TEXT
    assert [received.key for received in stage.upstream.received] == [first, second]
    assert stage.attempts()[-1] == "ok"


def test_an_error_event_before_the_first_word_is_invisible(stage: Stage, client: openai.OpenAI) -> None:
    failing = stream([canned.CHAT_ROLE, canned_errors.CHAT_ERROR_EVENT])
    stage.upstream.answers(failing, stream(canned.chat_stream()))
    with client.chat.completions.create(**CHAT, stream=True) as chunks:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == canned.TEXT
    assert stage.attempts() == ["PROVIDER", "ok"]


def test_an_error_after_the_first_word_is_raised(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream([*canned.chat_stream()[:2], canned_errors.CHAT_ERROR_EVENT]))
    with (
        client.chat.completions.create(**CHAT, stream=True) as chunks,
        pytest.raises(openai.APIError, match="The server had an error"),
    ):
        list(chunks)
    assert len(stage.upstream.received) == 1


def test_a_cut_stream_is_raised_and_not_taken_for_an_end(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.default(stream(canned.chat_stream()[:3], end="close"))
    with (
        client.chat.completions.create(**CHAT, stream=True) as chunks,
        pytest.raises(openai.APIError, match="broke off before its end") as raised,
    ):
        list(chunks)
    assert raised.value.code == "upstream_cut"


def test_a_failed_response_before_the_first_word_is_invisible(stage: Stage, client: openai.OpenAI) -> None:
    stage.upstream.answers(stream(canned.response_failed_stream()), stream(canned.response_stream()))
    with client.responses.stream(**canned.RESPONSES_REQUEST) as helper:
        assert helper.get_final_response().output_text == canned.TEXT
    assert stage.attempts() == ["PROVIDER", "ok"]


def test_the_sdks_own_retries_meet_a_wait_that_they_obey(stage: Stage) -> None:
    stage.upstream.default(json_reply(canned_errors.OPENAI_RATE_LIMIT, 429, {"Retry-After": "900"}))
    # One retry is allowed, but `x-should-retry: false` says that it is pointless: the call fails at once.
    with (
        openai.OpenAI(base_url=f"{stage.origin}/v1", api_key=UNUSED, max_retries=1) as client,
        pytest.raises(openai.RateLimitError) as raised,
    ):
        client.chat.completions.create(**CHAT)
    assert raised.value.response.headers["retry-after"] == "60"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert len(stage.upstream.received) == 2
