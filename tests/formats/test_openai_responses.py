"""The Responses API: what is read, edited, watched and said in errors."""

from __future__ import annotations

import orjson
import pytest
from openai.types.responses import Response, ResponseErrorEvent, ResponseFailedEvent, ResponseStreamEvent
from pydantic import TypeAdapter

from app import formats
from app.errors import BadRequest, InvalidJson, UpstreamCut
from app.formats import sse
from app.formats.base import Edits, Mark, Usage

RESPONSES = formats.OPENAI_RESPONSES
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "SECRET-1"}


def read(body, path="/v1/responses", headers=None, method="POST"):
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return RESPONSES.read(formats.match(method, path, {}, ""), headers or {}, "", raw)


def ask(**members):
    return read({"model": "m", "input": "hello", **members})


def event(kind, **members):
    return sse.encode(orjson.dumps({"type": kind, "sequence_number": 1, **members}), kind)


def text_item(text="hello"):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 17,
}


def answer(*output, **members):
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "m",
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE,
        **members,
    }


CREATED = event("response.created", response=answer(status="in_progress", usage=None))
DELTA = event("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta="x", logprobs=[])
COMPLETED = event("response.completed", response=answer(text_item()))

# -- requests --------------------------------------------------------------------------------------------


def test_a_request_is_read_and_its_body_kept():
    body = b'{"model": "m", "input":[], "stream":true, "new_field": 1.50}'

    call = read(body)

    assert (call.model, call.stream, call.body, call.hints) == ("m", True, body, ())


def test_input_is_left_to_the_provider():
    assert read({"model": "m"}).model == "m"


def test_a_stored_prompt_brings_its_own_model():
    assert read({"prompt": {"id": "pmpt_1"}}).model is None


@pytest.mark.parametrize("body", [{}, {"model": 1}, {"model": ""}])
def test_the_model_must_be_named(body):
    with pytest.raises(BadRequest) as caught:
        read(body)

    assert caught.value.param == "model"


def test_counting_needs_no_model():
    assert read({"input": "x"}, "/v1/responses/input_tokens").model is None


def test_stream_must_be_boolean():
    with pytest.raises(BadRequest) as caught:
        ask(stream="yes")

    assert caught.value.param == "stream"


def test_broken_json_is_refused():
    with pytest.raises(InvalidJson):
        read(b'{"model":')


def test_hints_name_bound_state_first():
    item = {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}
    call = read(
        {
            "model": "m",
            "input": [REASONING, item],
            "previous_response_id": "resp_0",
            "conversation": {"id": "conv_1"},
            "prompt_cache_key": "k",
        },
        headers={"session_id": "s"},
    )

    hints = [(hint.key, hint.bound) for hint in call.hints]
    assert hints[0][0].startswith("enc:")
    assert hints[0][1] is True
    assert hints[1:] == [
        ("res:resp_0", True),
        ("res:conv_1", True),
        ("res:file-1", True),
        ("cache:k", False),
        ("session:s", False),
    ]


def test_an_answer_is_found_again_by_whatever_refers_to_it():
    made = RESPONSES.resource_ids(ask(), answer(REASONING, text_item(), conversation={"id": "conv_1"}))

    users = [
        ask(previous_response_id="resp_1"),
        ask(conversation="conv_1"),
        ask(input=[REASONING]),
        read(b"", "/v1/responses/resp_1", method="GET"),
        read(b"", "/v1/responses/resp_1/cancel"),
        read(b"", "/v1/conversations/conv_1/items/msg_1", method="GET"),
    ]
    assert len(made) == 3
    assert all(call.hints[0].key in made for call in users)
    assert all(call.hints[0].bound for call in users)


def test_an_answer_that_is_not_stored_is_only_known_by_its_reasoning():
    made = RESPONSES.resource_ids(ask(store=False), answer(REASONING, text_item()))

    assert made == [ask(input=[REASONING]).hints[0].key]


@pytest.mark.parametrize("value", [7, None, [], {"id": 7}, ""])
def test_hints_of_the_wrong_type_are_no_hints(value):
    assert ask(previous_response_id=value, conversation=value, prompt_cache_key=value, input=value).hints == ()


# -- edits -----------------------------------------------------------------------------------------------


def test_edits_are_splices():
    body = b'{ "input":"\\"model\\"", "model" : "a", "f":1.50, "stream": true }'

    assert RESPONSES.edit(read(body), Edits(model="b")) == body.replace(b'"a"', b'"b"')
    assert RESPONSES.edit(read(body), Edits(stream=False)) == body.replace(b"true", b"false")
    assert RESPONSES.edit(read(body), Edits(model="a", stream=True, include_usage=True)) == body


def test_reasoning_is_stripped_with_the_ids_that_were_tied_to_it():
    call_item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "id": "fo_1", "call_id": "call_1", "output": "ok"}
    body = orjson.dumps({"model": "m", "input": [REASONING, call_item, output], "f": 1.5})

    stripped = RESPONSES.strip_bound_state(read(body))

    kept = {name: value for name, value in call_item.items() if name != "id"}
    assert orjson.loads(stripped) == {"model": "m", "input": [kept, output], "f": 1.5}


@pytest.mark.parametrize("value", ["text", [], [{"role": "user", "content": "x"}], [1, None]])
def test_there_is_nothing_to_strip_without_reasoning(value):
    assert RESPONSES.strip_bound_state(ask(input=value)) is None


# -- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (orjson.dumps(answer(text_item())), ""),
        (orjson.dumps(answer(status="incomplete")), ""),
        (orjson.dumps(answer(status="failed", error={"code": "server_error", "message": "x"})), "error_in_answer"),
        (orjson.dumps(answer(status="failed")), "error_in_answer"),
        (b'{"error":{"message":"x"}}', "error_in_answer"),
        (b'{"object":"response"}', "no_output"),
        (b"", "invalid_json"),
        (b"[]", "not_an_object"),
    ],
)
def test_an_answer_is_judged(body, reason):
    assert RESPONSES.check_answer(ask(), body)[1] == reason


def test_a_count_is_judged_as_such():
    call = read({"model": "m", "input": "x"}, "/v1/responses/input_tokens")

    assert RESPONSES.check_answer(call, b'{"object":"response.input_tokens","input_tokens":7}')[1] == ""
    assert RESPONSES.check_answer(call, b'{"input_tokens":-7}')[1] == "no_count"
    assert RESPONSES.resource_ids(call, {"input_tokens": 7}) == []


def test_usage_is_read_with_its_details():
    expected = Usage(input_tokens=10, output_tokens=7, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=5)

    assert RESPONSES.usage(answer()) == expected


def test_the_model_is_renamed_in_a_body_and_in_events():
    body = b'{"id":"r", "tools":[{"model":"k"}], "model" : "a"}'
    wrapped = b'event: response.created\ndata: {"type":"response.created","response":' + body + b"}\n\n"

    assert RESPONSES.rename_model(body, "b") == body.replace(b'"a"', b'"b"')
    assert RESPONSES.rename_model(wrapped, "b") == wrapped.replace(b'"a"', b'"b"')
    assert RESPONSES.rename_model(DELTA, "b") is DELTA


# -- streams ---------------------------------------------------------------------------------------------


def watch(events, **members):
    watcher = RESPONSES.watcher(ask(stream=True, **members))
    return watcher, [watcher.watch(each) for each in events]


def test_a_stream_is_classified_event_by_event():
    watcher, marks = watch(
        [
            b": comment\n\n",
            b"\r\n",
            CREATED,
            event("response.queued", response={}),
            event("response.in_progress", response={}),
            event("response.output_item.added", item={}),
            DELTA,
            event("response.a_new_kind", value=1),
            COMPLETED,
            b"data: [DONE]\n\n",
        ]
    )

    assert marks == [
        *[Mark.IGNORED] * 2,
        *[Mark.PROLOGUE] * 3,
        *[Mark.OUTPUT] * 3,
        Mark.TERMINATOR,
        Mark.IGNORED,
    ]
    assert watcher.state.finished
    assert watcher.state.terminated
    assert watcher.settle().output_tokens == 7
    assert watcher.state.usage.cached_tokens == 4
    assert watcher.state.resource_ids == ["res:resp_1"]


def test_an_incomplete_answer_is_an_end():
    watcher, marks = watch([event("response.incomplete", response=answer(status="incomplete"))])

    assert marks == [Mark.TERMINATOR]
    assert watcher.state.finished


def test_the_id_is_known_from_the_first_event_on():
    assert watch([CREATED])[0].state.resource_ids == ["res:resp_1"]
    assert watch([CREATED], store=False)[0].state.resource_ids == []


def test_reasoning_in_the_stream_is_remembered():
    watcher, _ = watch([event("response.completed", response=answer(REASONING))], store=False)

    assert watcher.state.resource_ids == [ask(input=[REASONING]).hints[0].key]


@pytest.mark.parametrize(
    "form",
    [
        lambda kind, data: b"data: " + data + b"\n\n",
        lambda kind, data: b"data:" + data + b"\r\n\r\n",
        lambda kind, data: b"event: " + kind + b"\r\ndata: " + data + b"\r\n\r\n",
        lambda kind, data: b"event:" + kind + b"\rdata:" + data + b"\r\r",
        lambda kind, data: b"\xef\xbb\xbfdata: " + data,
        lambda kind, data: b"data: " + orjson.dumps(dict(reversed(orjson.loads(data).items()))) + b"\n\n",
    ],
)
def test_the_spelling_of_an_event_does_not_matter(form):
    events = [form(sse.name_of(each), sse.data_of(each)) for each in (CREATED, DELTA, COMPLETED)]
    watcher, marks = watch(events)

    assert marks == [Mark.PROLOGUE, Mark.OUTPUT, Mark.TERMINATOR]
    assert watcher.settle().input_tokens == 10


@pytest.mark.parametrize("data", [b"{broken", b"[]", b"plain", b'{"strange":1}', b'{"type":7}'])
def test_what_cannot_be_read_is_output(data):
    assert watch([sse.encode(data)])[1] == [Mark.OUTPUT]


def test_text_that_looks_like_an_end_is_text():
    text = 'data: {"type":"response.completed"}\n\nevent: error'
    watcher, marks = watch([event("response.output_text.delta", delta=text), sse.encode(orjson.dumps({"delta": text}))])

    assert marks == [Mark.OUTPUT, Mark.OUTPUT]
    assert not watcher.state.terminated


@pytest.mark.parametrize(
    ("code", "status"),
    [("rate_limit_exceeded", 429), ("server_error", 500), ("server_is_overloaded", 503), ("invalid_prompt", 400)],
)
def test_a_failed_response_has_a_status_by_its_code(code, status):
    error = {"code": code, "message": "x"}
    watcher, marks = watch([CREATED, event("response.failed", response=answer(status="failed", error=error))])

    assert marks == [Mark.PROLOGUE, Mark.ERROR]
    assert orjson.loads(watcher.state.error) == {"error": error}
    assert watcher.state.error_status == status
    assert (watcher.state.finished, watcher.state.terminated) == (False, True)
    assert watcher.settle().input_tokens == 10


@pytest.mark.parametrize(
    "members",
    [
        {"code": "rate_limit_exceeded", "message": "x", "param": None},
        {"error": {"code": "rate_limit_exceeded", "message": "x", "param": None}},
    ],
)
def test_an_error_event_is_read_in_both_shapes(members):
    watcher, marks = watch([event("error", **members)])

    assert marks == [Mark.ERROR]
    assert orjson.loads(watcher.state.error)["error"]["code"] == "rate_limit_exceeded"
    assert watcher.state.error_status == 429


@pytest.mark.parametrize("data", [b'{"error":{"code":429,"message":"x"}}', b'{"error":"x"}', b'{"type":"error"}'])
def test_errors_of_other_shapes_are_errors(data):
    assert watch([sse.encode(data)])[1] == [Mark.ERROR]


ITEMS = [
    [text_item()],
    [
        REASONING | {"summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]},
        text_item(),
    ],
    [{"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "a", "name": "f", "arguments": "{}"}]
    * 2,
    [{"id": "ct_1", "type": "custom_tool_call", "status": "completed", "call_id": "a", "name": "p", "input": "*** x"}],
    [text_item() | {"content": [{"type": "refusal", "refusal": "no"}]}],
    [{"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}],
    [],
]


@pytest.mark.parametrize("output", ITEMS)
@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_an_answer_survives_the_way_into_a_stream_and_back(output, status):
    whole = answer(*output, status=status)

    stream = RESPONSES.stream_from_answer(ask(stream=True), whole)

    events = sse.Splitter().feed(stream)
    assert b"".join(events) == stream
    assert RESPONSES.answer_from_stream(ask(), events) == whole


@pytest.mark.parametrize("output", ITEMS)
def test_a_made_up_stream_is_what_the_sdk_expects(output):
    adapter = TypeAdapter(ResponseStreamEvent)
    events = sse.Splitter().feed(RESPONSES.stream_from_answer(ask(stream=True), answer(*output)))

    numbers = []
    for each in events:
        parsed = adapter.validate_python(orjson.loads(sse.data_of(each)))
        assert parsed.type == sse.name_of(each).decode()
        numbers.append(parsed.sequence_number)
    assert numbers == list(range(len(events)))


def test_a_made_up_stream_is_watched_to_a_clean_end():
    stream = RESPONSES.stream_from_answer(ask(stream=True), answer(text_item()))
    watcher, marks = watch(sse.Splitter().feed(stream))

    assert marks[:4] == [Mark.PROLOGUE] * 4  # nothing is in it before the first delta
    assert set(marks[4:-1]) == {Mark.OUTPUT}
    assert marks[-1] is Mark.TERMINATOR
    assert watcher.settle().input_tokens == 10


def test_items_fill_an_end_that_lacks_them():
    events = [
        event("response.output_item.done", output_index=1, item=text_item("b")),
        event("response.output_item.done", output_index=0, item=text_item("a")),
        event("response.completed", response=answer()),
    ]

    assert RESPONSES.answer_from_stream(ask(), events) == answer(text_item("a"), text_item("b"))


@pytest.mark.parametrize("events", [[], [CREATED, DELTA], [event("error", code="x", message="y")]])
def test_a_stream_that_did_not_end_adds_up_to_nothing(events):
    assert RESPONSES.answer_from_stream(ask(), events) is None


@pytest.mark.parametrize(
    "output", [["x"], [None], [{"type": "message"}], [{"type": "reasoning", "summary": [1]}], "x", None]
)
def test_an_odd_answer_still_makes_a_stream(output):
    stream = RESPONSES.stream_from_answer(ask(), answer() | {"output": output})

    assert sse.Splitter().feed(stream)[-1].startswith(b"event: response.completed\n")


# -- errors ----------------------------------------------------------------------------------------------


def test_an_error_inside_a_stream_is_an_error_event_and_a_failed_response():
    told = sse.Splitter().feed(RESPONSES.error_event(ask(), UpstreamCut("The upstream broke off."), "req-1"))

    error, failed = (orjson.loads(sse.data_of(each)) for each in told)
    assert ResponseErrorEvent.model_validate(error).message == "The upstream broke off."
    assert error["error"]["request_id"] == "req-1"
    assert failed["response"]["error"] == {"code": "upstream_cut", "message": "The upstream broke off."}
    assert ResponseFailedEvent.model_construct(**failed).response.status == "failed"
    assert error["sequence_number"] < failed["sequence_number"]
    assert watch(told)[1] == [Mark.ERROR, Mark.ERROR]


def test_an_error_before_a_call_was_read_can_be_told():
    assert RESPONSES.error_event(None, UpstreamCut("x"), "r")


def test_a_plain_error_has_the_shape_of_the_api():
    body = RESPONSES.error_body(UpstreamCut("x"), "r")

    assert body["error"]["type"] == "server_error"
    assert RESPONSES.is_error_body(orjson.dumps(body))


def test_there_is_no_terminator_to_make_up():
    assert RESPONSES.terminator(ask()) == b""


def test_the_test_answer_is_what_the_sdk_expects():
    assert Response.model_validate(answer(text_item()))
