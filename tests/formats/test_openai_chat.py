"""Chat Completions: what is read, edited, watched and said in errors."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app import formats
from app.errors import AllKeysResting, BadRequest, InvalidJson, InvalidMessages, Unauthorized, UpstreamCut
from app.formats import sse
from app.formats.base import Edits, Mark, Usage

CHAT = formats.OPENAI_CHAT
HELLO = {"role": "user", "content": "hello"}


def read(body, path="/v1/chat/completions", headers=None, method="POST"):
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return CHAT.read(formats.match(method, path, {}, ""), headers or {}, "", raw)


def chat(**members):
    return read({"model": "m", "messages": [HELLO], **members})


def event(data):
    return sse.encode(data if isinstance(data, bytes) else orjson.dumps(data))


def chunk(delta=None, finish=None, index=0, **more):
    return event(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}],
            **more,
        }
    )


DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
USAGE_EVENT = event(
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": USAGE}
)

# -- requests --------------------------------------------------------------------------------------------


def test_a_request_is_read_and_its_body_kept():
    body = b'{"model": "m", "messages":[{"role":"user","content":"x"}], "stream":true, "new_field": 1.50}'

    call = read(body)

    assert (call.model, call.stream, call.body, call.hints) == ("m", True, body, ())


@pytest.mark.parametrize("messages", [None, [], {}, "hello", [1], [{}], [HELLO, {"role": 1}], [HELLO, {"role": None}]])
def test_messages_must_be_a_list_with_a_message(messages):
    with pytest.raises(InvalidMessages) as caught:
        chat(messages=messages)

    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_messages", "messages")


@pytest.mark.parametrize("model", [None, "", 1, ["m"], "m" * 257, "a\r\nb", "a\x00"])
def test_the_model_must_be_a_name(model):
    with pytest.raises(BadRequest) as caught:
        chat(model=model)

    assert caught.value.param == "model"


@pytest.mark.parametrize("stream", ["true", 1, [], {}])
def test_stream_must_be_boolean(stream):
    with pytest.raises(BadRequest) as caught:
        chat(stream=stream)

    assert caught.value.param == "stream"


def test_stream_null_is_no_stream():
    assert chat(stream=None).stream is False


def test_a_gemini_body_is_recognised_and_the_right_path_named():
    with pytest.raises(BadRequest, match="Gemini body.*generateContent"):
        read({"model": "m", "contents": [{"parts": [{"text": "x"}]}]})


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b"[" * 2048])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidJson):
        read(body)


def test_embeddings_and_legacy_completions_need_no_messages():
    assert read({"model": "e", "input": "x", "stream": True}, "/v1/embeddings").stream is False
    assert read({"model": "c", "prompt": "x", "stream": True}, "/v1/completions").stream is True


def test_the_model_of_a_form_is_found_and_the_form_left_alone():
    head = b"--b\r\nContent-Disposition: form-data; name="
    form = head + b'"file"; filename="a"\r\n\r\n\x00\xff\r\n' + head + b'"model"\r\n\r\nwhisper-1\r\n--b--\r\n'

    call = read(form, "/v1/audio/transcriptions", {"content-type": "multipart/form-data; boundary=b"})

    assert (call.model, call.json, call.body) == ("whisper-1", None, form)
    assert CHAT.edit(call, Edits(model="other", stream=True)) is form


def test_a_form_with_two_models_is_refused():
    field = b'Content-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b\r\n'

    with pytest.raises(BadRequest) as caught:
        read(field % b"a" + field % b"b", "/v1/images/edits", {"content-type": "multipart/form-data; boundary=b"})

    assert caught.value.code == "duplicate_key"


def test_the_model_of_a_relayed_json_call_is_found():
    headers = {"content-type": "application/json"}

    assert read({"model": "image-1", "prompt": "x"}, "/v1/images/generations", headers).model == "image-1"
    assert read(b"{broken", "/v1/images/generations", headers).json is None


def test_the_model_in_the_path_is_the_model():
    assert read(b"", "/v1/models/org/x", method="GET").model == "org/x"


def test_hints_are_explicit_and_bound_state_comes_first():
    message = {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}
    call = CHAT.read(
        formats.match("POST", "/v1/chat/completions", {}, ""),
        {"x-session-id": "s1"},
        "",
        orjson.dumps({"model": "m", "messages": [message], "prompt_cache_key": "k"}),
    )

    assert [(hint.key, hint.bound) for hint in call.hints] == [
        ("res:file-1", True),
        ("cache:k", False),
        ("session:s1", False),
    ]


def test_a_file_is_found_again_at_the_key_that_took_it():
    upload = read(b"", "/v1/files", method="POST")
    made = CHAT.resource_ids(upload, {"id": "file-9", "object": "file"})

    for call in (
        read(b"", "/v1/files/file-9/content", method="GET"),
        read({"input_file_id": "file-9"}, "/v1/batches", {"content-type": "application/json"}),
    ):
        assert [hint.key for hint in call.hints] == made


def test_a_thought_signature_binds_and_can_be_replaced():
    message = {"role": "assistant", "tool_calls": [tool_call("c1", "f", "{}", signature="SIG")]}
    answer = {"choices": [{"message": message}]}
    call = chat(messages=[HELLO, message])

    assert [hint.key for hint in call.hints] == CHAT.resource_ids(chat(), answer)
    stripped = orjson.loads(CHAT.strip_bound_state(call))
    google = stripped["messages"][1]["tool_calls"][0]["extra_content"]["google"]
    assert google == {"thought_signature": "skip_thought_signature_validator"}
    assert orjson.loads(call.body)["messages"][1] == answer["choices"][0]["message"]


def test_there_is_nothing_to_strip_from_a_plain_request():
    assert CHAT.strip_bound_state(chat()) is None


# -- edits -----------------------------------------------------------------------------------------------


def test_no_edit_returns_the_very_body():
    call = chat(stream=True, stream_options={"include_usage": True})

    assert CHAT.edit(call, Edits()) is call.body
    assert CHAT.edit(call, Edits(model="m", stream=True, include_usage=True)) is call.body


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"stream":true', b'"stream_options":{"include_usage":true},'),
        (b'"stream":true,"stream_options":null', b'"stream_options":{"include_usage":true}'),
        (b'"stream":true,"stream_options": { "x":1 }', b'"stream_options": {"include_usage":true, "x":1 }'),
        (b'"stream":true,"stream_options":{}', b'"stream_options":{"include_usage":true}'),
        (b'"stream":true,"stream_options":{"include_usage":false, "x":1.0}', b'{"include_usage":true, "x":1.0}'),
    ],
)
def test_the_usage_chunk_is_asked_for_by_a_splice(before, after):
    body = b'{"model":"m",%s, "messages":[{"role":"user"}],"f":1.50}' % before

    edited = CHAT.edit(read(body), Edits(include_usage=True))

    assert after in edited
    assert edited.endswith(b' "messages":[{"role":"user"}],"f":1.50}')
    assert orjson.loads(edited)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    ("members", "lacks"),
    [
        ({}, False),
        ({"stream": True}, True),
        ({"stream": True, "stream_options": {}}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
    ],
)
def test_a_stream_lacks_usage_unless_the_caller_asked_for_it(members, lacks):
    assert CHAT.lacks_usage(chat(**members)) is lacks


def test_usage_is_not_asked_for_without_a_stream():
    call = chat()

    assert CHAT.edit(call, Edits(include_usage=True)) is call.body


def test_turning_a_stream_off_takes_its_options_along():
    edited = CHAT.edit(chat(stream=True, stream_options={"include_usage": True}), Edits(stream=False))

    assert orjson.loads(edited)["stream"] is False
    assert orjson.loads(edited)["stream_options"] is None


def test_the_model_is_replaced_and_nothing_else():
    body = b'{ "messages" : [{"role":"user","content":"\\u00e9 \\"model\\": 1"}],\n "model" : "a", "t": 1e0 }'

    assert CHAT.edit(read(body), Edits(model="b")) == body.replace(b'"a"', b'"b"')


# -- answers ---------------------------------------------------------------------------------------------


def tool_call(identifier, name, arguments, signature=None):
    call = {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {**call, "extra_content": {"google": {"thought_signature": signature}}} if signature else call


def answer(*messages, usage=USAGE):
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", **message},
            "logprobs": None,
            "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
        }
        for index, message in enumerate(messages)
    ]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (orjson.dumps(answer({"content": "x"})), ""),
        (orjson.dumps(answer({"content": None, "tool_calls": [tool_call("a", "f", "{}")]})), ""),
        (b"", "invalid_json"),
        (b"<html>", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'\xef\xbb\xbf{"choices":[]}', "invalid_json"),
        (b"[]", "not_an_object"),
        (b'{"error":{"message":"x"}}', "error_in_answer"),
        (b'{"error":"x"}', "error_in_answer"),
        (b"{}", "no_choices"),
        (b'{"choices":[]}', "no_choices"),
        (b'{"choices":[{}]}', "no_message"),
    ],
)
def test_an_answer_is_judged(body, reason):
    assert CHAT.check_answer(chat(), body)[1] == reason


def test_embeddings_are_judged_as_such():
    call = read({"model": "e", "input": "x"}, "/v1/embeddings")

    assert CHAT.check_answer(call, b'{"data":[{"embedding":"AAAA"}]}')[1] == ""
    assert CHAT.check_answer(call, b'{"data":[]}')[1] == "no_embeddings"


def test_relayed_answers_are_not_judged():
    assert CHAT.check_answer(read(b"", "/v1/models", method="GET"), b"<html>") == (None, "")


def test_usage_is_read_with_its_details():
    expected = Usage(input_tokens=10, output_tokens=7, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=5)

    assert CHAT.usage({"usage": USAGE}) == expected


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, 2**63, None])
def test_absurd_usage_counts_as_not_said(value):
    assert CHAT.usage({"usage": {"prompt_tokens": value, "prompt_tokens_details": value}}) == Usage()
    assert CHAT.usage({"usage": value}) == Usage()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a","choices":[]}', b'{"model":"b","choices":[]}'),
        (b'data: {"x":{"model":"k"}, "model" : "a"}\r\n\r\n', b'data: {"x":{"model":"k"}, "model" : "b"}\r\n\r\n'),
        (b'{"choices":[{"model":"k"}]}', b'{"choices":[{"model":"k"}]}'),
        (b'{"model":null}', b'{"model":null}'),
        (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
        (b'data: "model" {', b'data: "model" {'),
        (b'{"model', b'{"model'),
        (b'{"\\x":"model", "model":"a"}', b'{"\\x":"model", "model":"b"}'),
    ],
)
def test_only_the_answering_model_is_renamed(before, after):
    assert CHAT.rename_model(before, "b") == after


# -- streams ---------------------------------------------------------------------------------------------


def watch(events, **members):
    watcher = CHAT.watcher(chat(stream=True, **members))
    return watcher, [watcher.watch(each) for each in events]


def test_a_stream_is_classified_event_by_event():
    watcher, marks = watch(
        [
            b": comment\n\n",
            b"\n",
            chunk({"role": "assistant", "content": "", "refusal": None}),
            chunk({"content": "hel"}),
            chunk({"content": "lo"}),
            chunk(finish="stop"),
            USAGE_EVENT,
            DONE,
        ]
    )

    assert marks == [
        Mark.IGNORED,
        Mark.IGNORED,
        Mark.PROLOGUE,
        Mark.OUTPUT,
        Mark.OUTPUT,
        Mark.FINISH,
        Mark.USAGE_ONLY,
        Mark.TERMINATOR,
    ]
    assert watcher.state.finished
    assert watcher.state.terminated
    assert watcher.settle().input_tokens == 10
    assert watcher.state.usage.reasoning_tokens == 5


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"role": "assistant", "content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"audio": {"id": "a"}},
    ],
)
def test_whatever_says_something_is_output(delta):
    assert watch([chunk(delta)])[1] == [Mark.OUTPUT]


def test_a_first_chunk_without_choices_is_prologue():
    assert watch([event({"choices": [], "prompt_filter_results": []})])[1] == [Mark.PROLOGUE]


@pytest.mark.parametrize("data", [b"{broken", b"[]", b'"x"', b"plain text", b'{"strange":1}'])
def test_what_cannot_be_read_is_output(data):
    assert watch([event(data)])[1] == [Mark.OUTPUT]


@pytest.mark.parametrize(
    "form",
    [
        lambda data: b"data:" + data + b"\n\n",
        lambda data: b"data: " + data + b"\r\n\r\n",
        lambda data: b"data: " + data + b"\r\r",
        lambda data: b"data: " + data,
        lambda data: b"\xef\xbb\xbfdata: " + data + b"\n\n",
        lambda data: b"id: 1\nevent: message\ndata: " + data + b"\n\n",
    ],
)
def test_the_spelling_of_an_event_does_not_matter(form):
    events = [form(sse.data_of(each)) for each in (chunk({"content": "a"}), chunk(finish="stop"), USAGE_EVENT, DONE)]

    assert watch(events)[1] == [Mark.OUTPUT, Mark.FINISH, Mark.USAGE_ONLY, Mark.TERMINATOR]


@pytest.mark.parametrize("before", [[], [chunk({"content": "x"})]])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "slow", "type": "requests", "code": "rate_limit_exceeded"}, 429),
        ({"message": "slow", "code": 429}, 429),
        ({"message": "slow", "code": "503"}, 503),
        ({"message": "x", "type": "server_error"}, 500),
        ({"message": "x"}, 0),
        ("plain", 0),
    ],
)
def test_an_error_inside_the_stream_is_seen_with_its_status(before, error, status):
    watcher, marks = watch([*before, event({"error": error})])

    assert marks[-1] is Mark.ERROR
    assert orjson.loads(watcher.state.error) == {"error": error}
    assert watcher.state.error_status == status
    assert not watcher.state.finished


def test_an_aggregator_s_error_chunk_is_an_error():
    watcher, marks = watch([chunk({"content": ""}, finish="error", error={"code": 502, "message": "gone"})])

    assert (marks, watcher.state.error_status) == ([Mark.ERROR], 502)


def test_a_named_error_event_is_an_error():
    assert watch([sse.encode(b'{"message":"x"}', "error")])[1] == [Mark.ERROR]


def test_text_that_looks_like_an_error_or_an_end_is_text():
    text = '"error": {"x"} "finish_reason":"stop" data: [DONE]\n\n'
    watcher, marks = watch([chunk({"content": "a"}), chunk({"content": text}), chunk({"content": "[DONE]"})])

    assert marks == [Mark.OUTPUT] * 3
    assert not watcher.state.finished


def test_the_finish_may_come_with_the_last_text():
    watcher, marks = watch([chunk({"content": "all"}, finish="length")])

    assert marks == [Mark.FINISH]
    assert watcher.state.finished


def test_with_several_choices_all_must_finish():
    watcher, _ = watch([chunk({"content": "a"}), chunk(finish="stop", index=1)], n=2)
    assert not watcher.state.finished

    watcher.watch(chunk(finish="stop", index=0))
    assert watcher.state.finished


def test_the_last_usage_counts():
    growing = [chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": n}) for n in (1, 2, 3)]
    watcher, marks = watch([*growing, chunk(finish="stop", usage=None)])

    assert marks == [Mark.OUTPUT] * 3 + [Mark.FINISH]
    assert watcher.settle().output_tokens == 3


def test_a_cut_stream_is_neither_finished_nor_terminated():
    watcher, _ = watch([chunk({"content": "a"})])

    assert (watcher.state.finished, watcher.state.terminated) == (False, False)
    assert watcher.settle() == Usage()


def test_a_signature_in_the_stream_is_remembered():
    signed = {"index": 0, **tool_call("c1", "f", "{}", signature="SIG")}
    watcher, _ = watch([chunk({"content": "a"}), chunk({"tool_calls": [signed]})])

    whole = answer({"tool_calls": [tool_call("c1", "f", "{}", signature="SIG")]})
    assert watcher.state.resource_ids == CHAT.resource_ids(chat(), whole)


MESSAGES = [
    {"content": "hello"},
    {"content": ""},
    {"content": None, "refusal": "no"},
    {"content": "hello", "reasoning_content": "thinking"},
    {"content": None, "tool_calls": [tool_call("a", "f", '{"x":1}'), tool_call("b", "g", "")]},
    {"content": "both", "tool_calls": [tool_call("a", "f", "{}", signature="S")]},
    {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "p", "input": "*** patch"}}]},
    {"content": "cited", "annotations": [{"type": "url_citation"}]},
]


@pytest.mark.parametrize("message", MESSAGES)
def test_an_answer_survives_the_way_into_a_stream_and_back(message):
    call = chat(stream=True, stream_options={"include_usage": True})
    whole = answer(message)

    stream = CHAT.stream_from_answer(call, whole)

    events = sse.Splitter().feed(stream)
    assert b"".join(events) == stream
    assert events[-1] == DONE
    assert CHAT.answer_from_stream(call, events) == whole


@pytest.mark.parametrize("message", MESSAGES)
def test_a_made_up_stream_is_what_the_sdk_expects(message):
    events = sse.Splitter().feed(CHAT.stream_from_answer(chat(stream=True), answer(message, message)))

    chunks = [orjson.loads(sse.data_of(each)) for each in events[:-1]]
    if not any(call["type"] == "custom" for call in message.get("tool_calls", [])):
        assert all(ChatCompletionChunk.model_validate(each, strict=True) for each in chunks)
    assert all("usage" not in each for each in chunks)
    assert {choice["index"] for each in chunks for choice in each["choices"]} == {0, 1}


def test_a_made_up_stream_is_watched_to_a_clean_end():
    call = chat(stream=True, stream_options={"include_usage": True})
    watcher = CHAT.watcher(call)

    marks = [
        watcher.watch(each) for each in sse.Splitter().feed(CHAT.stream_from_answer(call, answer({"content": "x"})))
    ]

    assert marks == [Mark.PROLOGUE, Mark.OUTPUT, Mark.FINISH, Mark.USAGE_ONLY, Mark.TERMINATOR]
    assert watcher.state.finished


def test_a_real_stream_adds_up_to_its_answer():
    calls = [
        [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": '{"y"'}}],
        [{"index": 0, "function": {"arguments": '{"x"'}}, {"index": 1, "function": {"arguments": ":2}"}}],
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}}],
    ]
    events = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"reasoning_content": text}) for text in ("th", "ink")),
        *(chunk({"content": text}) for text in ("hel", "lo\u2028")),
        *(chunk({"tool_calls": delta}) for delta in calls),
        b": comment\n\n",
        chunk(finish="tool_calls"),
        USAGE_EVENT,
        DONE,
    ]

    whole = CHAT.answer_from_stream(chat(stream=True), events)

    assert ChatCompletion.model_validate(whole, strict=True)
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("hello\u2028", "think")
    assert message["tool_calls"] == [tool_call("a", "f", '{"x":1}'), tool_call("b", "g", '{"y":2}')]
    assert whole["usage"] == USAGE


def test_calls_without_an_index_stay_apart_by_their_id():
    deltas = [{"id": "a", "function": {"name": "f", "arguments": "{"}}, {"function": {"arguments": "}"}}, {"id": "b"}]
    events = [chunk({"tool_calls": [delta]}) for delta in deltas] + [chunk(finish="tool_calls")]

    calls = CHAT.answer_from_stream(chat(), events)["choices"][0]["message"]["tool_calls"]

    assert calls == [{"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"id": "b"}]


def test_legacy_completions_stream_both_ways():
    call = read({"model": "m", "prompt": "x", "stream": True}, "/v1/completions")
    choice = {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}
    whole = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    events = sse.Splitter().feed(CHAT.stream_from_answer(call, whole))

    assert CHAT.check_answer(call, orjson.dumps(whole))[1] == ""
    assert CHAT.answer_from_stream(call, events) == whole


@pytest.mark.parametrize(
    "events",
    [[], [chunk({"content": "x"})], [chunk({"content": "x"}, finish="stop"), event({"error": {"message": "x"}})]],
)
def test_a_stream_that_did_not_end_adds_up_to_nothing(events):
    assert CHAT.answer_from_stream(chat(), events) is None


# -- errors ----------------------------------------------------------------------------------------------


def test_an_error_is_told_in_the_api_s_shape():
    assert CHAT.error_body(Unauthorized("Send a client key."), "req-1") == {
        "error": {
            "message": "Send a client key.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
            "request_id": "req-1",
        }
    }


def test_resting_keys_say_when_they_wake():
    body = CHAT.error_body(AllKeysResting("All rest.", wake_at=1_800_000_000, retry_after_s=7), "r")

    assert body["error"]["type"] == "rate_limit_error"
    assert body["error"]["code"] == "all_keys_resting"
    assert body["error"]["wake_at"] == "2027-01-15T08:00:00+00:00"


def test_an_error_inside_a_stream_is_one_event_without_done():
    told = CHAT.error_event(None, UpstreamCut("The upstream broke off."), "r")

    assert watch([told])[1] == [Mark.ERROR]
    assert b"[DONE]" not in told


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"x","type":"y"}}', True),
        (b'{"error":"x"}', False),
        (b'{"error":{"code":1}}', False),
        (b'{"detail":"x"}', False),
        (b"[]", False),
        (b"<html>", False),
        (b"", False),
    ],
)
def test_the_api_s_own_error_bodies_are_recognised(body, expected):
    assert CHAT.is_error_body(body) is expected


# -- both OpenAI formats: nothing that a caller or an upstream sends makes them fail -------------------------


WORDS = st.sampled_from(
    [
        "model",
        "messages",
        "input",
        "stream",
        "stream_options",
        "include_usage",
        "choices",
        "delta",
        "message",
        "content",
    ]
    + ["tool_calls", "index", "id", "type", "function", "arguments", "name", "finish_reason", "usage", "prompt_tokens"]
    + ["error", "code", "output", "response", "reasoning", "summary", "text", "encrypted_content", "extra_content"]
    + ["google", "thought_signature", "conversation", "file_ids", "prompt", "function_call", "output_text", "status"]
    + ["response.completed", "response.failed", "response.output_item.done", "item", "output_index", "store", "n"]
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 2**64 - 1) | st.floats(allow_nan=False) | WORDS | st.text(max_size=3)
)
VALUES = st.recursive(LEAVES, lambda each: st.lists(each, max_size=3) | st.dictionaries(WORDS, each, max_size=4))
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=6)
BOTH = [(formats.OPENAI_CHAT, "/v1/chat/completions"), (formats.OPENAI_RESPONSES, "/v1/responses")]


@pytest.mark.parametrize(("each", "path"), BOTH)
@settings(deadline=None)
@given(body=OBJECTS, likely=st.booleans())
def test_any_request_is_read_or_refused(each, path, body, likely):
    if likely:
        body = {**body, "model": "m", "stream": True}
        body.setdefault("messages", [dict(body)])
    try:
        call = each.read(formats.match("POST", path, {}, ""), {}, "", orjson.dumps(body))
    except BadRequest:
        return
    edited = each.edit(call, Edits(model="other", stream=False, include_usage=True))
    assert orjson.loads(edited)["model"] == "other"
    assert each.edit(call, Edits(stream=True, include_usage=True))
    stripped = each.strip_bound_state(call)
    assert stripped is None or orjson.loads(stripped)


@pytest.mark.parametrize(("each", "path"), BOTH)
@settings(deadline=None)
@given(events=st.lists(OBJECTS | VALUES, max_size=5))
def test_any_answer_and_any_stream_can_be_watched(each, path, events):
    call = each.read(
        formats.match("POST", path, {}, ""), {}, "", b'{"model":"m","messages":[{"role":"user"}],"stream":true}'
    )
    encoded = [sse.encode(orjson.dumps(each)) for each in events]
    watcher = each.watcher(call)

    for one in encoded:
        assert isinstance(watcher.watch(one), Mark)
        assert each.rename_model(one, "m")
    watcher.settle()
    each.answer_from_stream(call, encoded)
    for value in events:
        answer, reason = each.check_answer(call, orjson.dumps(value))
        if answer is not None:
            each.usage(answer)
            each.resource_ids(call, answer)
            if not reason:
                assert each.stream_from_answer(call, answer)


@pytest.mark.parametrize(("each", "path"), BOTH)
def test_deep_nesting_breaks_nothing(each, path):
    names = ["a", "id", "response", "error", "delta", "message", "content", "tool_calls", "input", "conversation"]
    for name in names:
        deep = f'{{"{name}":'.encode() * 1000 + b"1" + b"}" * 1000
        body = (
            b'{"model":"m","messages":[{"role":"user"}],"input":[{"type":"reasoning"},%s],"conversation":%s,"error":%s}'
        )
        call = each.read(formats.match("POST", path, {}, ""), {}, "", body % (deep, deep, deep))
        event = b'data: {"choices":[{"delta":%s,"finish_reason":"x"}],"model":1,"response":%s}\n\n' % (deep, deep)
        error = b'data: {"error":%s,"type":"error"}\n\n' % deep

        each.strip_bound_state(call)
        each.rename_model(event, "x")
        each.answer_from_stream(call, [event, event, error])
        assert each.watcher(call).watch(error) is Mark.ERROR
        each.watcher(call).watch(event)
