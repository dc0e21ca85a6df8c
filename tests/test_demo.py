"""The demonstration upstream answers the official SDKs in every format, and is strict about what reaches it."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import anthropic
import openai
import pytest
import urllib3
from google import genai
from google.genai import types

from app.demo import DEMO_KEYS, DEMO_MODELS, DemoUpstream
from app.demo.mind import MARK, Prompt, compose, count_tokens, example, split_words

HEALTHY = DEMO_KEYS[0].value
LIMITED, REVOKED, FAILING = (key.value for key in DEMO_KEYS[-3:])
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 2}},
    "required": ["city", "days"],
}
ARGUMENTS = {"city": "Oslo", "days": 2}


@pytest.fixture(scope="module")
def origin():
    upstream = DemoUpstream(word_delay_s=0.0)
    yield upstream.start()
    upstream.stop()


@pytest.fixture
def pool():
    with urllib3.PoolManager(retries=False, timeout=10) as manager:
        yield manager


@pytest.fixture
def openai_client(origin):
    with openai.OpenAI(base_url=f"{origin}/v1", api_key=HEALTHY, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(origin):
    with anthropic.Anthropic(base_url=origin, api_key=HEALTHY, max_retries=0) as client:
        yield client


@pytest.fixture
def gemini_client(origin):
    with genai.Client(api_key=HEALTHY, http_options={"base_url": origin}) as client:
        yield client


CHAT = ("/v1/chat/completions", {"model": "demo-fast", "messages": [{"role": "user", "content": "Hi"}]})
RESPONSES = ("/v1/responses", {"model": "demo-fast", "input": "Hi"})
MESSAGES = ("/v1/messages", {"model": "demo-fast", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]})
GEMINI = ("/v1beta/models/demo-fast:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]})
DIALECTS = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES, "gemini": GEMINI}


def signed(dialect, key=HEALTHY):
    return {
        "messages": {"x-api-key": key, "anthropic-version": "2023-06-01"},
        "gemini": {"x-goog-api-key": key},
    }.get(dialect, {"Authorization": f"Bearer {key}"})


def post(pool, origin, dialect, body=None, *, key=HEALTHY, headers=None, path=None):
    own_path, own_body = DIALECTS[dialect]
    data = body if isinstance(body, bytes) else json.dumps(own_body if body is None else body).encode()
    headers = signed(dialect, key) if headers is None else headers
    sent = {"Content-Type": "application/json", **headers}
    return pool.request("POST", origin + (path or own_path), headers=sent, body=data)


# -- official SDKs ------------------------------------------------------------------------------------


def test_chat_completions_answer_plainly_and_in_a_stream_with_figures_that_add_up(openai_client):
    asked = {"model": "demo-fast", "messages": [{"role": "user", "content": "Hello there"}]}
    plain = openai_client.chat.completions.create(**asked)
    chunks = list(openai_client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))

    text = plain.choices[0].message.content
    assert text.startswith(MARK)
    assert "Hello there" in text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage == plain.usage
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    assert plain.usage.completion_tokens == count_tokens(text)


def test_a_chat_stream_has_no_usage_chunk_unless_asked(openai_client):
    chunks = list(openai_client.chat.completions.create(**CHAT[1], stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_chat_completions_call_a_tool_and_use_its_result(openai_client):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    messages = [{"role": "user", "content": "Please use get_weather."}]
    asked = {"model": "demo-fast", "tools": tools}

    message = openai_client.chat.completions.create(**asked, messages=messages).choices[0].message
    with openai_client.chat.completions.stream(**asked, messages=messages) as stream:
        streamed = stream.get_final_completion().choices[0]
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    final = openai_client.chat.completions.create(**asked, messages=[*messages, message, result]).choices[0]

    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", ARGUMENTS)
    assert json.loads(streamed.message.tool_calls[0].function.arguments) == ARGUMENTS
    assert streamed.finish_reason == "tool_calls"
    assert "21 degrees" in final.message.content


def test_responses_answer_plainly_in_a_stream_and_with_tools(openai_client):
    plain = openai_client.responses.create(**RESPONSES[1])
    with openai_client.responses.stream(**RESPONSES[1]) as stream:
        streamed = stream.get_final_response()
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
    asked = {"model": "demo-tools", "tools": [tool]}
    called = openai_client.responses.create(**asked, input="Anything").output[0]
    with openai_client.responses.stream(**asked, input="Anything") as stream:
        streamed_call = stream.get_final_response().output[0]
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "21 degrees"}
    final = openai_client.responses.create(**asked, input=[called.to_dict(), result])

    assert plain.output_text == streamed.output_text
    assert plain.output_text.startswith(MARK)
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens
    assert json.loads(called.arguments) == json.loads(streamed_call.arguments) == ARGUMENTS
    assert "21 degrees" in final.output_text


def test_messages_answer_plainly_in_a_stream_and_with_tools(anthropic_client):
    plain = anthropic_client.messages.create(**MESSAGES[1])
    with anthropic_client.messages.stream(**MESSAGES[1]) as stream:
        streamed = stream.get_final_message()
    messages = [{"role": "user", "content": "Anything"}]
    tool = {"name": "get_weather", "input_schema": SCHEMA}
    asked = {"model": "demo-tools", "max_tokens": 99, "tools": [tool]}
    called = anthropic_client.messages.create(**asked, messages=messages)
    with anthropic_client.messages.stream(**asked, messages=messages) as stream:
        streamed_call = stream.get_final_message()
    block = called.content[0]
    result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "21 degrees"}]}
    messages += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    final = anthropic_client.messages.create(**asked, messages=messages)

    assert plain.content[0].text == streamed.content[0].text
    assert plain.content[0].text.startswith(MARK)
    assert plain.usage.output_tokens == streamed.usage.output_tokens == count_tokens(plain.content[0].text)
    assert (called.stop_reason, block.input) == ("tool_use", ARGUMENTS)
    assert (streamed_call.stop_reason, streamed_call.content[0].input) == ("tool_use", ARGUMENTS)
    assert "21 degrees" in final.content[0].text


def test_generate_content_answers_plainly_in_a_stream_and_with_tools(gemini_client):
    models = gemini_client.models
    plain = models.generate_content(model="demo-fast", contents="Hi")
    parts = list(models.generate_content_stream(model="demo-fast", contents="Hi"))
    function = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[function])])
    called = models.generate_content(model="demo-tools", contents="Anything", config=config)
    (streamed_call,) = models.generate_content_stream(model="demo-tools", contents="Anything", config=config)
    result = types.Part.from_function_response(name="get_weather", response={"output": "21 degrees"})
    turns = [types.UserContent("Anything"), called.candidates[0].content, types.Content(role="user", parts=[result])]
    final = models.generate_content(model="demo-tools", contents=turns, config=config)

    assert plain.text.startswith(MARK)
    assert "".join(part.text for part in parts) == plain.text
    assert [part.candidates[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].usage_metadata == plain.usage_metadata
    usage = plain.usage_metadata
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count
    assert called.function_calls[0].args == streamed_call.function_calls[0].args == ARGUMENTS
    assert "21 degrees" in final.text


def test_embeddings_counts_and_models_in_every_dialect(openai_client, anthropic_client, gemini_client):
    openai_vectors = openai_client.embeddings.create(model="demo-fast", input=["a", "b"], dimensions=8).data
    gemini_vectors = gemini_client.models.embed_content(model="demo-fast", contents=["a", "b"]).embeddings
    count = anthropic_client.messages.count_tokens(model="demo-fast", messages=MESSAGES[1]["messages"]).input_tokens

    assert [len(found.embedding) for found in openai_vectors] == [8, 8]
    assert len(gemini_vectors) == 2
    assert count == 1
    assert gemini_client.models.count_tokens(model="demo-fast", contents="Hi there").total_tokens == 2
    assert openai_client.responses.input_tokens.count(**RESPONSES[1]).input_tokens == 1
    assert [model.id for model in openai_client.models.list()] == list(DEMO_MODELS)
    assert [model.id for model in anthropic_client.models.list()] == list(DEMO_MODELS)
    assert [model.name for model in gemini_client.models.list()] == [f"models/{name}" for name in DEMO_MODELS]
    assert openai_client.models.retrieve("demo-echo").id == "demo-echo"


def test_the_models_are_of_one_age_in_every_dialect(openai_client, anthropic_client):
    told = {model.created for model in openai_client.models.list()}

    assert told == {int(model.created_at.timestamp()) for model in anthropic_client.models.list()}
    assert told == {int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())}


# -- details ------------------------------------------------------------------------------------------


def test_the_echo_model_says_back_the_last_user_text_and_the_header_still_marks_it(origin, pool):
    answer = post(pool, origin, "chat", {"model": "demo-echo", "messages": [{"role": "user", "content": "Ping 1 2"}]})

    assert answer.json()["choices"][0]["message"]["content"] == "Ping 1 2"
    assert answer.headers["X-Demonstration"] == MARK


def test_a_gemini_stream_without_sse_is_one_json_array(origin, pool):
    answer = post(pool, origin, "gemini", path="/v1beta/models/demo-fast:streamGenerateContent")

    assert answer.headers["Content-Type"] == "application/json"
    elements = answer.json()
    assert len(elements) > 5
    assert elements[-1]["candidates"][0]["finishReason"] == "STOP"


def test_gemini_keys_open_googles_openai_paths_as_bearer_too(origin, pool):
    answer = post(pool, origin, "chat", path="/v1beta/openai/chat/completions")
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("dialect", "limit", "reason"),
    [
        ("chat", {"max_tokens": 3}, lambda body: body["choices"][0]["finish_reason"] == "length"),
        ("responses", {"max_output_tokens": 3}, lambda body: body["status"] == "incomplete"),
        ("messages", {"max_tokens": 3}, lambda body: body["stop_reason"] == "max_tokens"),
        (
            "gemini",
            {"generationConfig": {"maxOutputTokens": 3}},
            lambda body: body["candidates"][0]["finishReason"] == "MAX_TOKENS",
        ),
    ],
)
def test_a_limit_on_the_output_cuts_the_text_and_says_so(origin, pool, dialect, limit, reason):
    body = post(pool, origin, dialect, {**DIALECTS[dialect][1], **limit}).json()
    assert reason(body)
    assert "This is the" in json.dumps(body)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_third_request_of_the_limited_key_is_refused_in_the_dialects_shape(pool, dialect):
    upstream = DemoUpstream(word_delay_s=0.0)
    origin = upstream.start()
    answers = [post(pool, origin, dialect, key=LIMITED) for _ in range(6)]
    upstream.stop()

    assert [answer.status for answer in answers] == [200, 200, 429] * 2
    assert answers[2].headers["Retry-After"] == "5"
    error = answers[2].json()["error"]
    expected = {"messages": ("type", "rate_limit_error"), "gemini": ("status", "RESOURCE_EXHAUSTED")}
    name, value = expected.get(dialect, ("code", "rate_limit_exceeded"))
    assert error[name] == value


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("key", [REVOKED, "not-a-demo-key", "", "Bearer"])
def test_revoked_and_unknown_keys_are_refused_as_the_provider_does(origin, pool, dialect, key):
    answer = post(pool, origin, dialect, key=key)

    assert answer.status == (400 if dialect == "gemini" else 401)
    assert {"messages": "authentication_error", "gemini": "API_KEY_INVALID"}.get(dialect, "invalid_api_key") in (
        answer.data.decode()
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_failing_key_is_a_500(origin, pool, dialect):
    assert post(pool, origin, dialect, key=FAILING).status == 500


FOREIGN_HEADERS = [
    (dialect, name)
    for dialect in DIALECTS
    for name in ("x-api-key", "x-goog-api-key", "api-key")
    if name not in signed(dialect)
]


@pytest.mark.parametrize(("dialect", "name"), FOREIGN_HEADERS)
def test_a_credential_in_another_dialects_header_is_refused(origin, pool, dialect, name):
    answer = post(pool, origin, dialect, headers={**signed(dialect), name: HEALTHY})
    assert answer.status in (400, 401)
    assert name in answer.json()["error"]["message"]


def test_two_different_keys_are_refused(origin, pool):
    headers = {**signed("messages"), "Authorization": f"Bearer {DEMO_KEYS[1].value}"}
    assert post(pool, origin, "messages", headers=headers).status == 401


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 2000,
        b'{"a":' * 2000,
        b'{"model": NaN}',
        b"\xff\xfe",
        {},
        {"model": 7, "messages": [1], "input": 7, "contents": "x", "max_tokens": "many"},
        {"model": "demo-fast", "messages": [], "input": [], "contents": [], "max_tokens": 1},
        {"model": "demo-fast", "messages": [{"role": 5}], "input": [[]], "contents": [{"parts": 1}], "max_tokens": 1},
    ],
    ids=lambda body: str(body)[:20],
)
def test_malformed_bodies_are_a_400_in_the_dialects_shape(origin, pool, dialect, body):
    answer = post(pool, origin, dialect, body)
    assert answer.status == 400
    assert answer.json()["error"]["message"]


def test_odd_text_is_no_error(origin, pool):
    body = b'{"model": "demo-echo", "messages": [{"role": "user", "content": "\\ud800 \\u0000 \xe2\x80\xa8"}]}'
    assert post(pool, origin, "chat", body).json()["choices"][0]["message"]["content"] == "\ud800 \0 \u2028"


def test_unknown_models_paths_and_methods_say_so(origin, pool):
    unknown = post(pool, origin, "chat", {**CHAT[1], "model": "gpt-5"})
    missing = post(pool, origin, "chat", path="/v1/files")
    wrong = pool.request("GET", origin + CHAT[0], headers=signed("chat"))

    assert (unknown.status, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (missing.status, wrong.status) == (404, 405)


def test_anthropic_requests_need_their_version(origin, pool):
    answer = post(pool, origin, "messages", headers={"x-api-key": HEALTHY})
    assert (answer.status, answer.json()["error"]["message"]) == (400, "anthropic-version: header is required")


def test_stopping_cuts_a_stream_so_that_it_cannot_pass_for_complete(pool):
    upstream = DemoUpstream(word_delay_s=30)
    origin = upstream.start()
    body = json.dumps({**CHAT[1], "stream": True})
    headers = {"Content-Type": "application/json", **signed("chat")}
    answer = pool.request("POST", origin + CHAT[0], headers=headers, body=body, preload_content=False)
    chunks = answer.stream()
    next(chunks)

    upstream.stop()

    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(chunks)
    answer.release_conn()


def test_it_runs_alone_and_ends_on_a_signal():
    command = [sys.executable, "-m", "app.demo", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        first = process.stderr.readline()
        process.terminate()
        process.communicate(timeout=10)
    assert "listens on http://127.0.0.1:" in first
    assert process.returncode == 0


# -- the mind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "STRING"}, "demonstration"),
        ({"type": ["null", "integer"]}, 1),
        ({"const": 3}, 3),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, 1.0),
        ({"$ref": "#/$defs/city", "$defs": {"city": {"enum": ["Oslo"]}}}, "Oslo"),
        ({"properties": {"a": {"type": "integer"}, "b": {}}}, {"a": 1, "b": "demonstration"}),
        ({}, "demonstration"),
    ],
)
def test_arguments_fit_their_schema(schema, value):
    assert example(schema, schema) == value


def test_a_schema_that_contains_itself_ends():
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert "next" in example(schema, schema)


def test_words_add_up_to_the_text():
    for text in ("a b  c", " a\nb ", "one", "  "):
        assert "".join(split_words(text)) == text


def test_no_tool_is_called_when_the_choice_is_none():
    from app.demo.mind import Tool

    prompt = Prompt("demo-tools", "x", 1, tools=(Tool("t", {}),), tool_choice="none")
    assert compose(prompt, "id", 0).call is None
