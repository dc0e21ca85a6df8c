"""The official google-genai SDK against the running middleware, on both versions of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types

from tests import canned, canned_errors
from tests.fake_provider import Behavior, json_reply, reply, stream
from tests.stage import UNUSED, Stage

VERSIONS = ["v1", "v1beta"]
BASES = ["", "/", "/gemini", "/gemini/"]
TOOL = types.Tool(function_declarations=[types.FunctionDeclaration(name=canned.TOOL_NAME)])
BY_HAND = types.AutomaticFunctionCallingConfig(disable=True)


def connect(stage: Stage, version: str | None = None, *, base: str = "", key: str = UNUSED) -> genai.Client:
    options = types.HttpOptions(base_url=stage.origin + base, api_version=version)
    return genai.Client(api_key=key, http_options=options)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(stage: Stage, version: str) -> Iterator[genai.Client]:
    with connect(stage, version) as made:
        yield made


# -- generateContent ----------------------------------------------------------------------------------


def test_generated_content_comes_back_as_sent(stage: Stage, client: genai.Client, version: str) -> None:
    stage.upstream.default(json_reply(canned.gemini()))
    answer = client.models.generate_content(model="gemini-test", contents="Hi")
    assert answer.text == canned.TEXT
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.total_token_count == canned.INPUT_TOKENS + canned.OUTPUT_TOKENS
    (received,) = stage.upstream.received
    assert received.target == f"/{version}/models/gemini-test:generateContent"
    assert received.headers["x-goog-api-key"] == stage.keys["gemini"][0]
    assert received.json["contents"][0]["parts"] == [{"text": "Hi"}]


def test_a_stream_has_its_words_and_its_end(stage: Stage, client: genai.Client, version: str) -> None:
    stage.upstream.default(stream(canned.gemini_stream()))
    chunks = list(client.models.generate_content_stream(model="gemini-test", contents="Hi"))
    assert [chunk.text for chunk in chunks] == list(canned.WORDS)
    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert stage.upstream.received[0].target == f"/{version}/models/gemini-test:streamGenerateContent?alt=sse"


def test_function_calls_arrive_plain_and_streamed(stage: Stage, client: genai.Client) -> None:
    called = canned.gemini(parts=[canned.gemini_call()])
    stage.upstream.answers(json_reply(called), stream([canned.data_event(called, newline="\r\n")]))
    config = types.GenerateContentConfig(tools=[TOOL], automatic_function_calling=BY_HAND)
    asked = {"model": "gemini-test", "contents": "Hi", "config": config}
    plain = client.models.generate_content(**asked)
    (streamed,) = client.models.generate_content_stream(**asked)
    for answer in (plain, streamed):
        (call,) = answer.function_calls or []
        assert (call.name, call.args) == (canned.TOOL_NAME, canned.TOOL_ARGUMENTS)
    for received in stage.upstream.received:
        assert received.json["tools"][0]["functionDeclarations"][0]["name"] == canned.TOOL_NAME


def test_a_chat_keeps_its_history(stage: Stage, client: genai.Client) -> None:
    stage.upstream.default(json_reply(canned.gemini()))
    chat = client.chats.create(model="gemini-test")
    chat.send_message("One")
    chat.send_message("Two")
    assert [content["role"] for content in stage.upstream.received[1].json["contents"]] == ["user", "model", "user"]


def test_async_content_works_plain_and_streamed(stage: Stage, version: str) -> None:
    stage.upstream.answers(json_reply(canned.gemini()), stream(canned.gemini_stream()))

    async def ask() -> tuple[str | None, str]:
        async with connect(stage, version).aio as client:
            plain = await client.models.generate_content(model="gemini-test", contents="Hi")
            chunks = await client.models.generate_content_stream(model="gemini-test", contents="Hi")
            words = [chunk.text or "" async for chunk in chunks]
        return plain.text, "".join(words)

    assert asyncio.run(ask()) == (canned.TEXT, canned.TEXT)


# -- counting, embeddings, models, files --------------------------------------------------------------


def test_tokens_are_counted_and_not_booked_as_a_generation(stage: Stage, client: genai.Client, version: str) -> None:
    stage.upstream.default(json_reply(canned.GEMINI_COUNT_TOKENS))
    assert client.models.count_tokens(model="gemini-test", contents="Hi").total_tokens == canned.INPUT_TOKENS
    assert stage.upstream.received[0].path == f"/{version}/models/gemini-test:countTokens"
    assert stage.record()["operation"] == "count"


def test_embeddings_arrive(stage: Stage, client: genai.Client, version: str) -> None:
    stage.upstream.default(json_reply(canned.GEMINI_EMBEDDINGS))
    answer = client.models.embed_content(model="text-embedding-004", contents=["Hi"])
    assert answer.embeddings is not None
    assert answer.embeddings[0].values == canned.VECTOR
    assert stage.upstream.received[0].path == f"/{version}/models/text-embedding-004:batchEmbedContents"
    assert stage.record()["operation"] == "embed"


def test_models_are_listed_and_retrieved_in_the_shape_of_the_sdk(stage: Stage, client: genai.Client) -> None:
    stage.upstream.answers(
        json_reply(canned.gemini_models("gemini-a", "gemini-b")),
        json_reply(canned.gemini_models("gemini-a")["models"][0]),
    )
    assert [model.name for model in client.models.list()] == ["models/gemini-a", "models/gemini-b"]
    assert client.models.get(model="gemini-a").name == "models/gemini-a"


def test_files_are_listed_and_a_file_is_read_with_the_key_that_has_it(stage: Stage, client: genai.Client) -> None:
    file = {"name": "files/abc", "uri": "https://example.com/v1beta/files/abc", "mimeType": "text/plain"}
    stage.upstream.default(json_reply(file))
    for _ in range(3):
        assert client.files.get(name="files/abc").name == "files/abc"
    assert len({received.key for received in stage.upstream.received}) == 1
    stage.upstream.default(json_reply({"files": [file]}))
    assert [listed.name for listed in client.files.list()] == ["files/abc"]


# -- addresses and credentials ------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_every_usual_base_url_works(stage: Stage, version: str, base: str) -> None:
    stage.upstream.default(json_reply(canned.gemini()))
    with connect(stage, version, base=base) as client:
        client.models.generate_content(model="gemini-test", contents="Hi")
    assert stage.upstream.received[0].path == f"/{version}/models/gemini-test:generateContent"


@pytest.mark.parametrize("base", ["/v1", "/v1beta", "/gemini/v1beta"])
def test_a_base_url_with_a_version_of_its_own_is_forgiven(stage: Stage, base: str) -> None:
    stage.upstream.default(json_reply(canned.gemini()))
    with connect(stage, "v1beta", base=base) as client:
        client.models.generate_content(model="gemini-test", contents="Hi")
    assert stage.upstream.received[0].path == "/v1beta/models/gemini-test:generateContent"


def test_a_client_key_is_taken_and_never_goes_upstream(stage: Stage, version: str) -> None:
    client_id, token = stage.gateway.services.clients.create("sdk")
    stage.upstream.default(json_reply(canned.gemini()))
    try:
        with connect(stage, version, key=token) as client:
            client.models.generate_content(model="gemini-test", contents="Hi")
        with connect(stage, version, key="wrong") as stranger, pytest.raises(errors.ClientError) as refused:
            stranger.models.generate_content(model="gemini-test", contents="Hi")
    finally:
        stage.gateway.services.clients.delete(client_id)
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    assert len(stage.upstream.received) == 1
    assert token not in str(stage.upstream.received[0].header_list)


def test_headers_that_name_the_sdk_stay_here(stage: Stage, client: genai.Client) -> None:
    stage.upstream.default(json_reply(canned.gemini()))
    client.models.generate_content(model="gemini-test", contents="Hi")
    headers = stage.upstream.received[0].headers
    assert not {"x-goog-api-client", "x-server-timeout"} & set(headers)
    assert headers["user-agent"] == "ai-api-middleware"


# -- errors and failover ------------------------------------------------------------------------------

ERRORS: list[tuple[int, canned.Json, type[errors.APIError], str]] = [
    (400, canned_errors.GEMINI_BAD_REQUEST, errors.ClientError, "INVALID_ARGUMENT"),
    (413, canned_errors.gemini_error(413, "INVALID_ARGUMENT", "Too large."), errors.ClientError, "INVALID_ARGUMENT"),
    (
        403,
        canned_errors.gemini_error(403, "PERMISSION_DENIED", "The caller does not have permission"),
        errors.ClientError,
        "PERMISSION_DENIED",
    ),
]


@pytest.mark.parametrize(("status", "body", "kind", "name"), ERRORS)
def test_the_callers_own_fault_is_the_right_exception_at_once(
    stage: Stage, client: genai.Client, status: int, body: canned.Json, kind: type[errors.APIError], name: str
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.models.generate_content(model="gemini-test", contents="Hi")
    assert (raised.value.code, raised.value.status, raised.value.details) == (status, name, body)
    assert len(stage.upstream.received) == 1


EXHAUSTED: list[tuple[int, canned.Json, type[errors.APIError], int]] = [
    (400, canned_errors.GEMINI_BAD_KEY, errors.ServerError, 503),
    (429, canned_errors.GEMINI_PER_MINUTE, errors.ClientError, 429),
    (404, canned_errors.GEMINI_NO_MODEL, errors.ClientError, 404),
    (503, canned_errors.GEMINI_OVERLOADED, errors.ServerError, 503),
]


@pytest.mark.parametrize(("status", "body", "kind", "told"), EXHAUSTED)
def test_what_every_key_meets_is_the_right_exception(
    stage: Stage, client: genai.Client, status: int, body: canned.Json, kind: type[errors.APIError], told: int
) -> None:
    stage.upstream.default(json_reply(body, status))
    with pytest.raises(kind) as raised:
        client.models.generate_content(model="gemini-test", contents="Hi")
    assert raised.value.code == told
    assert [received.key for received in stage.upstream.received] == stage.keys["gemini"]


def test_an_error_of_ours_carries_its_code_and_the_request_id(stage: Stage, client: genai.Client) -> None:
    stage.upstream.default(json_reply(canned_errors.GEMINI_PER_MINUTE, 429))
    with pytest.raises(errors.ClientError, match="All keys") as raised:
        client.models.generate_content(model="gemini-test", contents="Hi")
    info, retry = raised.value.details["error"]["details"]
    assert info["reason"] == "ALL_KEYS_RESTING"
    assert info["metadata"]["request_id"] == stage.record()["request_id"]
    assert 30 < float(retry["retryDelay"].removesuffix("s")) <= 35


FAILING: list[Behavior] = [
    json_reply(canned_errors.GEMINI_PER_DAY, 429),
    json_reply(canned_errors.GEMINI_BAD_KEY, 400),
    json_reply(canned_errors.GEMINI_OVERLOADED, 503),
    reply(502, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR),
]


@pytest.mark.parametrize("behavior", FAILING, ids=["429", "400", "503", "502"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_failover_is_invisible(stage: Stage, client: genai.Client, behavior: Behavior, streamed: bool) -> None:
    first, second = stage.keys["gemini"]
    good = stream(canned.gemini_stream()) if streamed else json_reply(canned.gemini())
    stage.upstream.by_key({first: behavior, second: good})
    if streamed:
        chunks = client.models.generate_content_stream(model="gemini-test", contents="Hi")
        text = "".join(chunk.text or "" for chunk in chunks)
    else:
        text = client.models.generate_content(model="gemini-test", contents="Hi").text or ""
    assert text == canned.TEXT
    assert [received.key for received in stage.upstream.received] == [first, second]


def test_an_error_event_before_the_first_word_is_invisible(stage: Stage, client: genai.Client) -> None:
    stage.upstream.answers(stream([canned_errors.GEMINI_ERROR_EVENT]), stream(canned.gemini_stream()))
    chunks = client.models.generate_content_stream(model="gemini-test", contents="Hi")
    assert "".join(chunk.text or "" for chunk in chunks) == canned.TEXT
    assert stage.attempts() == ["PROVIDER", "ok"]


def test_an_error_event_after_the_first_word_is_raised(stage: Stage, client: genai.Client) -> None:
    stage.upstream.default(stream([canned.gemini_stream()[0], canned_errors.GEMINI_ERROR_EVENT]))
    chunks = client.models.generate_content_stream(model="gemini-test", contents="Hi")
    with pytest.raises(errors.ServerError, match="overloaded"):
        list(chunks)


def test_a_cut_stream_is_raised_and_not_taken_for_an_end(stage: Stage, client: genai.Client) -> None:
    stage.upstream.default(stream(canned.gemini_stream()[:1], end="close"))
    chunks = client.models.generate_content_stream(model="gemini-test", contents="Hi")
    with pytest.raises(errors.ServerError, match="before its end"):
        list(chunks)
