"""The official Anthropic SDK against the running middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anthropic
import pytest

from tests import canned, canned_errors
from tests.fake_provider import Behavior, json_reply, reply, stream
from tests.stage import UNUSED, Stage

ASKED = canned.MESSAGES_REQUEST
TOOLS = [{"name": canned.TOOL_NAME, "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
BASES = ["", "/", "/v1", "/v1/", "/anthropic", "/anthropic/", "/anthropic/v1", "/anthropic/v1/"]


@pytest.fixture
def client(stage: Stage) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stage.origin, api_key=UNUSED, max_retries=0) as made:
        yield made


def asynchronous(stage: Stage) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=stage.origin, api_key=UNUSED, max_retries=0)


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# -- messages -----------------------------------------------------------------------------------------


def test_a_message_comes_back_as_sent(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(json_reply(canned.message(), headers={"request-id": "req_upstream"}))
    answer = client.messages.create(**ASKED)
    assert text_of(answer) == canned.TEXT
    assert answer.usage.input_tokens == canned.INPUT_TOKENS
    assert answer._request_id == "req_upstream"
    (received,) = stage.upstream.received
    assert (received.path, received.headers["x-api-key"]) == ("/v1/messages", stage.keys["anthropic"][0])
    assert received.json == ASKED
    assert "authorization" not in received.headers


def test_version_and_betas_go_upstream_as_the_sdk_sent_them(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(json_reply(canned.message()))
    betas = ["context-1m-2025-08-07", "files-api-2025-04-14"]
    client.beta.messages.create(**ASKED, betas=betas, extra_query={"beta": "true"})
    client.messages.create(**ASKED, extra_headers={"anthropic-version": "2099-12-31"})
    first, second = stage.upstream.received
    assert first.headers["anthropic-beta"] == "context-1m-2025-08-07,files-api-2025-04-14"
    assert first.target == "/v1/messages?beta=true"
    assert second.headers["anthropic-version"] == "2099-12-31"
    assert not [name for name in first.headers if name.startswith("x-stainless")]


def test_a_message_stream_has_every_event(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(stream(canned.message_stream()))
    with client.messages.create(**ASKED, stream=True) as events:
        kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_delta") == len(canned.WORDS)


def test_the_stream_helper_puts_the_message_together(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(stream(canned.message_stream()))
    with client.messages.stream(**ASKED) as helper:
        text = "".join(helper.text_stream)
        final = helper.get_final_message()
    assert text == text_of(final) == canned.TEXT
    assert (final.usage.input_tokens, final.usage.output_tokens) == (canned.INPUT_TOKENS, canned.OUTPUT_TOKENS)


def test_tool_use_arrives_plain_and_streamed(stage: Stage, client: anthropic.Anthropic) -> None:
    plain_body = canned.message(content=[canned.message_call()], stop_reason="tool_use")
    stage.upstream.answers(json_reply(plain_body), stream(canned.message_tool_stream()))
    plain = client.messages.create(**ASKED, tools=TOOLS)
    with client.messages.stream(**ASKED, tools=TOOLS) as helper:
        streamed = helper.get_final_message()
    for answer in (plain, streamed):
        (block,) = answer.content
        assert block.type == "tool_use"
        assert (block.name, block.input) == (canned.TOOL_NAME, canned.TOOL_ARGUMENTS)
        assert answer.stop_reason == "tool_use"
    assert all(received.json["tools"] == TOOLS for received in stage.upstream.received)


def test_async_messages_work_plain_streamed_and_with_the_helper(stage: Stage) -> None:
    streamed = stream(canned.message_stream())
    stage.upstream.answers(json_reply(canned.message()), streamed, streamed)

    async def ask() -> list[str]:
        async with asynchronous(stage) as client:
            plain = await client.messages.create(**ASKED)
            async with await client.messages.create(**ASKED, stream=True) as events:
                words = [
                    event.delta.text
                    async for event in events
                    if event.type == "content_block_delta" and event.delta.type == "text_delta"
                ]
            async with client.messages.stream(**ASKED) as helper:
                final = await helper.get_final_message()
        return [text_of(plain), "".join(words), text_of(final)]

    assert asyncio.run(ask()) == [canned.TEXT] * 3


def test_tokens_are_counted_and_not_booked_as_a_generation(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(json_reply(canned.COUNT_TOKENS))
    counted = client.messages.count_tokens(model="claude-test", messages=ASKED["messages"])
    assert counted.input_tokens == canned.INPUT_TOKENS
    assert stage.upstream.received[0].path == "/v1/messages/count_tokens"
    assert stage.record()["operation"] == "count"


def test_models_are_listed_and_retrieved_in_the_shape_of_the_sdk(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.answers(
        json_reply(canned.anthropic_models("claude-a", "claude-b")),
        json_reply(canned.anthropic_models("claude-a")["data"][0]),
    )
    assert [model.id for model in client.models.list()] == ["claude-a", "claude-b"]
    assert client.models.retrieve("claude-a").display_name == "claude-a"


def test_a_file_is_uploaded_as_sent_and_read_with_the_same_key(stage: Stage, client: anthropic.Anthropic) -> None:
    file = {
        "id": "file_1",
        "type": "file",
        "filename": "a.bin",
        "mime_type": "application/octet-stream",
        "size_bytes": 4,
        "created_at": "2026-01-01T00:00:00Z",
    }
    stage.upstream.default(json_reply(file))
    content = bytes(range(256)) * 8
    uploaded = client.beta.files.upload(file=("a.bin", content, "application/octet-stream"))
    client.beta.files.retrieve_metadata(uploaded.id)
    upload, read = stage.upstream.received
    assert content in upload.body
    assert read.key == upload.key


# -- addresses and credentials ------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_every_usual_base_url_works(stage: Stage, base: str) -> None:
    stage.upstream.default(json_reply(canned.message()))
    with anthropic.Anthropic(base_url=stage.origin + base, api_key=UNUSED, max_retries=0) as client:
        client.messages.create(**ASKED)
    assert stage.upstream.received[0].path == "/v1/messages"


@pytest.mark.parametrize("place", ["api_key", "auth_token"])
def test_a_client_key_is_taken_from_both_places_of_the_sdk(stage: Stage, place: str) -> None:
    client_id, token = stage.gateway.services.clients.create("sdk")
    stage.upstream.default(json_reply(canned.message()))
    try:
        with anthropic.Anthropic(base_url=stage.origin, max_retries=0, **{place: token}) as client:  # type: ignore[arg-type]
            client.messages.create(**ASKED)
        with (
            anthropic.Anthropic(base_url=stage.origin, max_retries=0, **{place: "wrong"}) as stranger,  # type: ignore[arg-type]
            pytest.raises(anthropic.AuthenticationError, match="not a client key") as refused,
        ):
            stranger.messages.create(**ASKED)
    finally:
        stage.gateway.services.clients.delete(client_id)
    assert refused.value.type == "authentication_error"
    assert len(stage.upstream.received) == 1
    assert token not in str(stage.upstream.received[0].header_list)


# -- errors and failover ------------------------------------------------------------------------------

ERRORS: list[tuple[int, canned.Json, type[anthropic.APIStatusError]]] = [
    (400, canned_errors.ANTHROPIC_BAD_REQUEST, anthropic.BadRequestError),
    (413, canned_errors.anthropic_error("request_too_large", "Too large."), anthropic.APIStatusError),
    (409, canned_errors.anthropic_error("invalid_request_error", "Conflict."), anthropic.ConflictError),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
def test_the_callers_own_fault_is_the_right_exception_at_once(
    stage: Stage, client: anthropic.Anthropic, status: int, body: canned.Json, kind: type[anthropic.APIStatusError]
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.messages.create(**ASKED)
    assert raised.value.status_code == status
    assert raised.value.body == body
    assert raised.value.request_id == stage.record()["request_id"]
    assert len(stage.upstream.received) == 1


EXHAUSTED: list[tuple[int, canned.Json, type[anthropic.APIStatusError]]] = [
    (401, canned_errors.ANTHROPIC_BAD_KEY, anthropic.InternalServerError),
    (429, canned_errors.ANTHROPIC_RATE_LIMIT, anthropic.RateLimitError),
    (404, canned_errors.ANTHROPIC_NO_MODEL, anthropic.NotFoundError),
    (529, canned_errors.ANTHROPIC_OVERLOADED, anthropic.OverloadedError),
]


@pytest.mark.parametrize(("status", "body", "kind"), EXHAUSTED)
def test_what_every_key_meets_is_the_right_exception(
    stage: Stage, client: anthropic.Anthropic, status: int, body: canned.Json, kind: type[anthropic.APIStatusError]
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.messages.create(**ASKED)
    assert [received.key for received in stage.upstream.received] == stage.keys["anthropic"]
    assert raised.value.response.headers["x-request-id"] == stage.record()["request_id"]


def test_an_error_of_ours_carries_its_sentence_and_the_request_id(stage: Stage, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages") as raised:
        client.messages.create(model="claude-test", max_tokens=5, messages=[])
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id == stage.record()["request_id"]
    assert raised.value.body["request_id"] == raised.value.request_id  # type: ignore[index]


FAILING: list[Behavior] = [
    json_reply(canned_errors.ANTHROPIC_RATE_LIMIT, 429, {"retry-after": "30"}),
    json_reply(canned_errors.ANTHROPIC_BAD_KEY, 401),
    json_reply(canned_errors.ANTHROPIC_LOW_CREDIT, 400),
    json_reply(canned_errors.ANTHROPIC_OVERLOADED, 529),
    reply(502, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR),
]


@pytest.mark.parametrize("behavior", FAILING, ids=["429", "401", "credit", "529", "502"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_failover_is_invisible(stage: Stage, client: anthropic.Anthropic, behavior: Behavior, streamed: bool) -> None:
    first, second = stage.keys["anthropic"]
    good = stream(canned.message_stream()) if streamed else json_reply(canned.message())
    stage.upstream.by_key({first: behavior, second: good})
    if streamed:
        with client.messages.stream(**ASKED) as helper:
            answer = helper.get_final_message()
    else:
        answer = client.messages.create(**ASKED)
    assert text_of(answer) == canned.TEXT
    assert [received.key for received in stage.upstream.received] == [first, second]


def test_an_error_event_before_the_first_word_is_invisible(stage: Stage, client: anthropic.Anthropic) -> None:
    failing = stream([canned.MESSAGE_START, canned.MESSAGE_PING, canned_errors.ANTHROPIC_ERROR_EVENT])
    stage.upstream.answers(failing, stream(canned.message_stream()))
    with client.messages.stream(**ASKED) as helper:
        assert text_of(helper.get_final_message()) == canned.TEXT
    assert stage.attempts() == ["PROVIDER", "ok"]


def test_an_error_event_after_the_first_word_is_raised(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(stream([*canned.message_stream()[:4], canned_errors.ANTHROPIC_ERROR_EVENT]))
    with client.messages.stream(**ASKED) as helper, pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        helper.get_final_message()
    assert len(stage.upstream.received) == 1


def test_a_cut_stream_is_raised_and_not_taken_for_an_end(stage: Stage, client: anthropic.Anthropic) -> None:
    stage.upstream.default(stream(canned.message_stream()[:4], end="close"))
    with client.messages.stream(**ASKED) as helper, pytest.raises(anthropic.APIStatusError, match="before its end"):
        helper.get_final_message()
