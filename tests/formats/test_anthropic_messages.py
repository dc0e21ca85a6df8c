"""Anthropic Messages: what a request must be, what its answers and streams say, how errors look to its SDK."""

from __future__ import annotations

import json

import orjson
import pytest
from anthropic.types import Message

from app import errors
from app.errors import BadRequest, InvalidJson, InvalidMessages
from app.formats import anthropic_stream, sse
from app.formats.anthropic_messages import AnthropicMessages
from app.formats.base import Call, Edits, Mark, Match, Operation, Usage

FORMAT = AnthropicMessages()


def match(path: str, method: str = "POST") -> Match:
    for endpoint in FORMAT.endpoints:
        found = endpoint.pattern.fullmatch(path)
        if found and method in endpoint.methods:
            return Match(FORMAT, endpoint, endpoint.upstream_path or path, found.groupdict().get("model"))
    raise AssertionError(f"{method} {path} is nobody's")


def read(body: object, path: str = "/v1/messages", headers: dict[str, str] | None = None) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read(match(path), headers or {}, "", raw)


def request(**more: object) -> dict[str, object]:
    return {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}


def event(kind: str, **members: object) -> bytes:
    return sse.encode(json.dumps({"type": kind, **members}).encode(), kind)


def watch(*events: bytes) -> tuple[list[Mark], anthropic_stream.AnthropicWatcher]:
    watcher = anthropic_stream.AnthropicWatcher()
    return [watcher.watch(one) for one in events], watcher


def delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


START = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 300,
            "output_tokens": 1,
        },
    },
)
PING = event("ping")
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
STOP = event("content_block_stop", index=0)
END = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 42})
MESSAGE_STOP = event("message_stop")

ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "hmm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hé\u2028llo", "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": [1, {"b": "ü"}]}},
        {"type": "tool_use", "id": "toolu_2", "name": "ping", "input": {}},
    ],
    "stop_reason": "stop_sequence",
    "stop_sequence": "END",
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 300, "output_tokens": 42},
}


# -- URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("POST", "/v1/messages", Operation.GENERATE),
        ("POST", "/v1/messages/stream", Operation.GENERATE),
        ("POST", "/v1/messages/count_tokens", Operation.COUNT),
        ("GET", "/v1/models", Operation.MODELS),
        ("GET", "/v1/models/claude-x", Operation.MODELS),
        ("POST", "/v1/messages/batches", Operation.OTHER),
        ("GET", "/v1/messages/batches/msgbatch_1/results", Operation.OTHER),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", Operation.OTHER),
        ("DELETE", "/v1/files/file_1", Operation.OTHER),
        ("GET", "/v1/files/file_1/content", Operation.OTHER),
    ],
)
def test_the_urls_of_the_api_are_recognised(method, path, operation):
    assert match(path, method).endpoint.operation is operation


@pytest.mark.parametrize("path", ["/v1/organizations/me", "/v1/messages/other", "/v1/files/../x", "/v1/messagesx"])
def test_administration_and_unknown_paths_are_nobodys(path):
    with pytest.raises(AssertionError):
        match(path)


# -- requests -----------------------------------------------------------------------------------------


def test_a_request_keeps_its_bytes_and_says_its_model_and_stream():
    body = b'{ "model":"claude-x","stream":true, "messages":[{"role":"user","content":"hi"}]}'

    call = read(body)

    assert call.body is body
    assert (call.model, call.stream, call.hints) == ("claude-x", True, ())
    assert FORMAT.edit(call, Edits()) is body


@pytest.mark.parametrize("messages", [None, [], {}, "hi", ["hi"], [{}], [{"role": 1, "content": "hi"}]])
def test_messages_that_are_missing_empty_or_no_list_are_refused(messages):
    with pytest.raises(InvalidMessages) as caught:
        read(request(messages=messages))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("model", [None, "", 7, "a\nb", "x" * 257])
def test_a_missing_or_impossible_model_is_refused(model):
    with pytest.raises(BadRequest) as caught:
        read(request(model=model))
    assert caught.value.param == "model"


@pytest.mark.parametrize("stream", [1, "true", None])
def test_stream_must_be_a_boolean(stream):
    with pytest.raises(BadRequest) as caught:
        read(request(stream=stream))
    assert caught.value.param == "stream"


def test_a_gemini_body_is_told_where_it_belongs():
    with pytest.raises(BadRequest, match="Gemini body") as caught:
        read({"model": "x", "contents": [{"parts": [{"text": "hi"}]}]})
    assert not isinstance(caught.value, InvalidMessages)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":"a","model":"b","messages":[{}]}'])
def test_a_body_that_is_no_single_object_is_refused(body):
    with pytest.raises(BadRequest):
        read(body)


def test_max_tokens_is_the_providers_to_ask_for():
    assert read({"model": "x", "messages": [{"role": "user", "content": "hi"}]}).model == "x"


def test_the_stream_alias_always_streams_and_its_upstream_body_says_so():
    body = b'{"model":"claude-x", "messages":[{"role":"user","content":"hi"}]}'

    call = read(body, "/v1/messages/stream")

    assert call.stream
    assert call.match.path == "/v1/messages"
    assert FORMAT.edit(call, Edits()) == b'{"stream":true,' + body[1:]
    assert orjson.loads(FORMAT.edit(read(request(stream=False), "/v1/messages/stream"), Edits()))["stream"] is True


def test_edits_touch_nothing_but_their_values():
    call = read(b'{"messages": [{"role":"user","content":"model"}] ,"model" : "claude-x", "stream":false}')

    edited = FORMAT.edit(call, Edits(model="other", stream=True))

    assert edited == b'{"messages": [{"role":"user","content":"model"}] ,"model" : "other", "stream":true}'
    assert FORMAT.edit(call, Edits(model="claude-x", stream=False)) is call.body


def test_counting_never_streams():
    call = read(request(stream=True), "/v1/messages/count_tokens")

    assert not call.stream


def test_a_batch_is_not_parsed_but_its_files_are_hints():
    call = read(b'{"requests": [{"params": {"file_id": "file_9"}}], broken', "/v1/messages/batches")

    assert call.json is None
    assert [(hint.key, hint.bound) for hint in call.hints] == [("res:file_9", True)]


# -- sessions -----------------------------------------------------------------------------------------


def test_hints_name_bound_state_first_then_the_session_then_the_user():
    image = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    result = {"type": "tool_result", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_2"}}]}
    call = read(
        request(
            messages=[{"role": "user", "content": [image, result]}],
            container={"id": "container_1"},
            metadata={"user_id": "u"},
        ),
        headers={"x-claude-code-session-id": "s"},
    )

    assert [hint.key for hint in call.hints[:3]] == ["res:container_1", "res:file_1", "res:file_2"]
    assert [hint.key.split(":")[0] for hint in call.hints[3:]] == ["session", "user"]
    assert [hint.bound for hint in call.hints] == [True, True, True, False, False]


@pytest.mark.parametrize(
    "name",
    [
        "x-claude-code-session-id",
        "x-session-id",
        "x-claude-session-id",
        "x-claude-session",
        "x-claude-conversation-id",
        "anthropic-session-id",
    ],
)
def test_a_session_header_ties_requests_together(name):
    one, same, other = (read(request(), headers={name: value}).hints for value in ("a", "a", "b"))

    assert one == same != other
    assert not one[0].bound


def test_what_a_tool_is_called_with_is_no_file_reference():
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {"file_id": "file_1"}}

    assert read(request(messages=[{"role": "assistant", "content": [call]}])).hints == ()


@pytest.mark.parametrize(("path", "key"), [("/v1/files/file_1/content", "file_1"), ("/v1/messages/batches/b_1", "b_1")])
def test_the_path_of_a_resource_is_a_bound_hint(path, key):
    call = FORMAT.read(match(path, "GET"), {}, "", b"")

    assert [(hint.key, hint.bound) for hint in call.hints] == [(f"res:{key}", True)]


def test_what_an_answer_creates_is_found_again_by_a_later_request():
    upload = read(b"--boundary", "/v1/files")
    message = read(request())

    assert FORMAT.resource_ids(upload, {"id": "file_1", "type": "file"}) == ["res:file_1"]
    assert FORMAT.resource_ids(upload, {"data": []}) == []
    assert FORMAT.resource_ids(message, {**ANSWER, "container": {"id": "c_1"}}) == ["res:c_1"]
    assert FORMAT.resource_ids(message, ANSWER) == []


# -- strip --------------------------------------------------------------------------------------------


def test_thinking_of_earlier_turns_is_dropped_and_turns_stay_valid():
    thinking = {"type": "thinking", "thinking": "t", "signature": "s"}
    text = {"type": "text", "text": "answer"}
    call = read(
        b'{"model":"m", "messages" : '
        + json.dumps(
            [
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": [thinking, {"type": "redacted_thinking", "data": "d"}]},
                {"role": "user", "content": [{"type": "text", "text": "two"}]},
                {"role": "assistant", "content": [thinking, text]},
                {"role": "user", "content": "three"},
            ]
        ).encode()
        + b' ,"max_tokens":1.0}'
    )

    stripped = FORMAT.strip_bound_state(call)

    assert stripped is not None
    assert stripped.startswith(b'{"model":"m", "messages" : [')
    assert stripped.endswith(b'] ,"max_tokens":1.0}')
    assert orjson.loads(stripped)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": [text]},
        {"role": "user", "content": "three"},
    ]
    assert call.json is not None
    assert call.json["messages"][3]["content"] == [thinking, text]


def test_nothing_is_stripped_where_there_is_no_thinking():
    assert FORMAT.strip_bound_state(read(request())) is None
    assert FORMAT.strip_bound_state(read(b"", "/v1/files")) is None


# -- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (json.dumps(ANSWER).encode(), ""),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', "error_in_answer"),
        (b'{"error":{"code":"429","message":"x"}}', "error_in_answer"),
        (b"", "empty_body"),
        (b" <html></html>", "html"),
        (b'{"type":"mess', "invalid_json"),
        (b"[]", "not_an_object"),
        (b"{}", "not_a_message"),
        (b'{"type":"message","content":"text"}', "not_a_message"),
    ],
)
def test_only_a_message_is_an_answer(body, reason):
    assert FORMAT.check_answer(read(request()), body)[1] == reason


def test_a_count_is_an_answer_of_its_own():
    call = read(request(), "/v1/messages/count_tokens")

    assert FORMAT.check_answer(call, b'{"input_tokens":0}') == ({"input_tokens": 0}, "")
    assert FORMAT.check_answer(call, json.dumps(ANSWER).encode())[1] == "no_input_tokens"


def test_other_answers_are_not_judged():
    assert FORMAT.check_answer(read(b"", "/v1/files"), b"anything") == (None, "")


def test_all_input_is_what_was_fresh_plus_what_the_cache_gave_and_took():
    usage = FORMAT.usage(
        {
            "usage": {
                "input_tokens": 5,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 300,
                "output_tokens": 42,
                "output_tokens_details": {"thinking_tokens": 30},
            }
        }
    )

    assert usage == Usage(325, 42, 300, 20, 30)


@pytest.mark.parametrize("usage", [None, "x", {"input_tokens": -1, "output_tokens": 2**60}, {"input_tokens": True}])
def test_absurd_numbers_count_as_not_said(usage):
    assert FORMAT.usage({"usage": usage}) == Usage()


def test_the_models_name_is_replaced_in_a_plain_answer_and_nothing_else():
    body = b'{"id":"m", "content":[{"text":"\\"model\\": \\"x\\"","model":"inner"}],"model": "real" ,"a":1}'

    assert FORMAT.rename_model(body, "alias") == body.replace(b'"real"', b'"alias"')
    assert FORMAT.rename_model(b'{"type":"error"}', "alias") == b'{"type":"error"}'
    assert FORMAT.rename_model(b"not json", "alias") == b"not json"


def test_the_models_name_is_replaced_in_the_event_that_opens_a_stream():
    assert FORMAT.rename_model(START, "alias") == START.replace(b'"claude-x"', b'"alias"')
    other = delta('message_start "model": "claude-x"')
    assert FORMAT.rename_model(other, "alias") is other
    assert FORMAT.rename_model(END, "alias") is END


# -- streams ------------------------------------------------------------------------------------------


def test_the_prologue_is_held_until_the_first_delta():
    marks, watcher = watch(START, PING, TEXT, PING, delta("Hi"), PING, STOP, END, MESSAGE_STOP)

    early, output = [Mark.PROLOGUE] * 4, [Mark.OUTPUT] * 3
    assert marks == [*early, *output, Mark.FINISH, Mark.TERMINATOR]
    assert watcher.state.finished
    assert watcher.state.terminated


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "at once"},
        {"type": "something_new"},
    ],
)
def test_a_block_that_says_something_is_output_at_its_start(block):
    marks, _ = watch(START, event("content_block_start", index=0, content_block=block))

    assert marks == [Mark.PROLOGUE, Mark.OUTPUT]


def test_a_heartbeat_or_a_comment_is_ignored_and_an_unreadable_event_is_output():
    assert watch(b"\n", b": keep\n\n", b"data: {broken\n\n")[0] == [Mark.IGNORED, Mark.IGNORED, Mark.OUTPUT]


def test_an_event_without_its_name_line_is_known_by_its_type():
    marks, watcher = watch(
        *(b"data: " + sse.data_of(one) + b"\r\n\r\n" for one in (START, delta("a"), END, MESSAGE_STOP))
    )

    assert marks == [Mark.PROLOGUE, Mark.OUTPUT, Mark.FINISH, Mark.TERMINATOR]
    assert watcher.state.terminated


def test_usage_comes_from_the_start_and_the_last_cumulative_delta():
    earlier = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 7})
    last = event(
        "message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"output_tokens": 42, "input_tokens": None, "output_tokens_details": {"thinking_tokens": 9}},
    )
    _, watcher = watch(START, delta("a"), earlier, last, MESSAGE_STOP)

    assert watcher.settle() == Usage(325, 42, 300, 20, 9)
    assert watcher.state.usage == Usage(325, 42, 300, 20, 9)


def test_a_cut_stream_is_not_finished_and_still_tells_its_input():
    _, watcher = watch(START, TEXT, delta("Hel"))

    assert not watcher.state.finished
    assert watcher.settle().input_tokens == 325


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 401),
        ("billing_error", 402),
        ("permission_error", 403),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("overloaded_error", 529),
        ("brand_new_error", 0),
    ],
)
def test_an_error_event_has_the_status_of_its_type(kind, status):
    failure = event("error", error={"type": kind, "message": "x"})
    marks, watcher = watch(START, failure)

    assert marks == [Mark.PROLOGUE, Mark.ERROR]
    assert watcher.state.error == sse.data_of(failure)
    assert watcher.state.error_status == status
    assert not watcher.state.finished


def test_an_azure_error_event_has_the_status_of_its_code():
    _, watcher = watch(b'event: error\ndata: {"error":{"code":"429","message":"slow down"}}\n\n')

    assert watcher.state.error_status == 429


def test_a_delta_that_quotes_another_event_is_still_a_delta():
    marks, watcher = watch(START, delta("a"), delta('event: error\n{"type":"error"} message_stop'))

    assert marks[-1] is Mark.OUTPUT
    assert watcher.state.error is None


def test_the_container_of_a_stream_is_remembered():
    last = event("message_delta", delta={"stop_reason": "end_turn", "container": {"id": "c_1"}}, usage={})

    assert watch(START, last)[1].state.resource_ids == ["res:c_1"]


def test_the_terminator_is_message_stop():
    assert FORMAT.terminator(read(request())) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


# -- plain and stream ---------------------------------------------------------------------------------


def events_of(stream: bytes) -> list[bytes]:
    splitter = sse.Splitter()
    events = splitter.feed(stream)
    assert splitter.rest() == b""
    return events


def test_an_answer_becomes_a_stream_and_the_stream_the_same_answer():
    stream = FORMAT.stream_from_answer(read(request()), ANSWER)

    events = events_of(stream)
    marks, watcher = watch(*events)
    assert marks[0] is Mark.PROLOGUE
    assert marks[-2:] == [Mark.FINISH, Mark.TERMINATOR]
    assert watcher.settle() == FORMAT.usage(ANSWER)
    assert all(sse.name_of(one).decode() == orjson.loads(sse.data_of(one))["type"] for one in events)
    assert FORMAT.answer_from_stream(read(request()), events) == ANSWER


def test_the_sdk_reads_the_answer_that_a_stream_adds_up_to():
    answer = FORMAT.answer_from_stream(
        read(request()), [START, TEXT, delta("Hel"), PING, delta("lo"), STOP, END, MESSAGE_STOP]
    )

    message = Message.model_validate(answer)
    assert message.content[0].text == "Hello"  # type: ignore[union-attr]
    assert (message.stop_reason, message.usage.output_tokens, message.usage.input_tokens) == ("end_turn", 42, 5)


def test_the_deltas_of_interleaved_blocks_go_to_their_own_block():
    def tool(index: int) -> bytes:
        block = {"type": "tool_use", "id": f"t{index}", "name": "n", "input": {}}
        return event("content_block_start", index=index, content_block=block)

    def part(index: int, text: str) -> bytes:
        return event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": text})

    answer = FORMAT.answer_from_stream(
        read(request()),
        [START, tool(0), tool(1), part(0, '{"a"'), part(1, '{"b":'), part(0, ":1}"), part(1, "2}"), END],
    )

    assert answer is not None
    assert [block["input"] for block in answer["content"]] == [{"a": 1}, {"b": 2}]


def test_a_tool_input_that_was_cut_off_is_kept_as_text():
    tool = event(
        "content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "n", "input": {}}
    )
    half = event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"a": "b'})

    answer = FORMAT.answer_from_stream(read(request()), [START, tool, half, END])

    assert answer is not None
    assert answer["content"][0]["input"] == {"_raw": '{"a": "b'}


@pytest.mark.parametrize(
    "events",
    [
        [],
        [START, TEXT, delta("a")],
        [TEXT, delta("a"), END, MESSAGE_STOP],
        [START, event("error", error={"type": "api_error", "message": "x"}), MESSAGE_STOP],
        [START, b"data: {broken\n\n", MESSAGE_STOP],
        [START, delta("no block"), END, MESSAGE_STOP],
    ],
)
def test_events_that_do_not_add_up_are_no_answer(events):
    assert FORMAT.answer_from_stream(read(request()), events) is None


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (InvalidJson("x"), "invalid_request_error"),
        (errors.Unauthorized("x"), "authentication_error"),
        (errors.Forbidden("x"), "permission_error"),
        (errors.ModelNotFound("x"), "not_found_error"),
        (errors.MethodNotAllowed("x"), "invalid_request_error"),
        (errors.RequestTooLarge("x"), "request_too_large"),
        (errors.RateLimited("x"), "rate_limit_error"),
        (errors.MiddlewareError("x"), "api_error"),
        (errors.UpstreamUnreachable("x"), "api_error"),
        (errors.UpstreamTimeout("x"), "timeout_error"),
        (errors.NoKeys("x"), "api_error"),
        (errors.Overloaded("x"), "overloaded_error"),
        (errors.UpstreamRefused("x", status=529), "overloaded_error"),
        (errors.UpstreamRefused("x", status=402), "billing_error"),
    ],
)
def test_errors_have_the_type_that_the_sdk_expects_for_their_status(error, kind):
    body = FORMAT.error_body(error, "req_1")

    assert body == {
        "type": "error",
        "error": {"type": kind, "message": "x", "code": error.code},
        "request_id": "req_1",
    }
    assert FORMAT.is_error_body(orjson.dumps(body))


def test_all_keys_resting_says_when_the_first_wakes():
    body = FORMAT.error_body(errors.AllKeysResting("x", wake_at=1_800_000_000.5, retry_after_s=7), "req_1")

    assert body["error"]["type"] == "rate_limit_error"
    assert body["error"]["wake_at"] == "2027-01-15T08:00:00+00:00"


def test_an_error_inside_a_stream_is_an_error_event():
    data = FORMAT.error_event(None, errors.UpstreamCut("cut"), "req_1")

    assert data == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"cut","code":"upstream_cut"},'
        b'"request_id":"req_1"}\n\n'
    )
    assert watch(data)[0] == [Mark.ERROR]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":{"message":"x","type":"y"}}', b'{"type":"error"}'])
def test_error_bodies_of_other_shapes_are_not_passed_on(body):
    assert not FORMAT.is_error_body(body)
