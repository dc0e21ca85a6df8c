"""An answer that ends by itself and holds nothing is no answer; whatever else ends without content is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import formats
from app.formats.base import Call, Mark
from tests import canned

Json = dict[str, Any]

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
LEGACY, GENERATE, INTERACTIONS = "/v1/completions", "/v1beta/models/m:generateContent", "/v1beta/interactions"
STREAMS = "/v1beta/models/m:streamGenerateContent"
ASKED: Json = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Hi"}],
    "prompt": "Hi",
    "input": "Hi",
    "contents": [{"parts": [{"text": "Hi"}]}],
}


def call_of(path: str, query: str = "", **more: Any) -> Call:
    match = formats.match("POST", path, {}, query)
    return match.format.read(match, {}, query, json.dumps({**ASKED, **more}).encode())


def reason(path: str, answer: Json) -> str:
    call = call_of(path)
    return call.match.format.check_answer(call, json.dumps(answer).encode())[1]


def chat(message: Json, finish: str | None = "stop", output: int | None = 0) -> Json:
    usage = None if output is None else canned.chat_usage(output_tokens=output)
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def legacy(text: str, finish: str = "stop") -> Json:
    return {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def response(*output: Json, status: str = "completed", tokens: int | None = 0) -> Json:
    usage = None if tokens is None else {"input_tokens": 3, "output_tokens": tokens}
    return canned.response(output=output, status=status, usage=usage)


def message(*content: Json, stop: str | None = "end_turn", output: int | None = 0) -> Json:
    usage = {"input_tokens": 3} if output is None else {"input_tokens": 3, "output_tokens": output}
    return canned.message(content=content, stop_reason=stop, usage=usage)


def gemini(*parts: Json, finish: str = "STOP", **usage: int) -> Json:
    return canned.gemini(parts=parts, finish=finish, usageMetadata={"promptTokenCount": 3, **usage})


def interaction(status: str = "completed", output: int = 0, **more: Any) -> Json:
    return {"id": "i1", "status": status, "usage": {"total_input_tokens": 3, "total_output_tokens": output}, **more}


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
SEVERAL = {"choices": [chat({"content": ""})["choices"][0], {**chat({"content": "a"})["choices"][0], "index": 1}]}

EMPTY = [
    (CHAT, chat({"content": ""})),
    (CHAT, chat({"content": None, "refusal": None, "tool_calls": [], "reasoning_content": ""}, output=None)),
    (LEGACY, legacy("")),
    (RESPONSES, response()),
    (RESPONSES, response(tokens=None)),
    (RESPONSES, response(canned.response_message(""))),
    (RESPONSES, response({**canned.response_message(""), "content": []})),
    (MESSAGES, message()),
    (MESSAGES, message({"type": "text", "text": ""}, output=None)),
    (GENERATE, gemini()),
    (GENERATE, gemini({"text": ""})),
    (GENERATE, {"candidates": [{"finishReason": "STOP"}]}),
    (INTERACTIONS, interaction()),
    (INTERACTIONS, {"id": "i1", "status": "completed", "outputs": []}),
]
LEFT_ALONE = [
    (CHAT, chat({"content": ""}, output=1)),
    (CHAT, chat({"content": ""}, finish="length")),
    (CHAT, chat({"content": ""}, finish="content_filter")),
    (CHAT, chat({"content": ""}, finish="tool_calls")),
    (CHAT, chat({"content": ""}, finish=None)),
    (CHAT, chat({"content": " "})),
    (CHAT, chat({"content": None, "refusal": "No."})),
    (CHAT, chat({"content": None, "tool_calls": [canned.chat_call()]})),
    (CHAT, chat({"content": "", "reasoning_content": "Hm."})),
    (CHAT, chat({"content": None, "audio": {"id": "a", "data": "AA=="}})),
    (CHAT, chat({"content": "", "images": [{"type": "image_url"}]})),
    (CHAT, {**chat({"content": ""}), **SEVERAL}),
    (LEGACY, legacy("a")),
    (LEGACY, legacy("", "length")),
    (RESPONSES, response(tokens=1)),
    (RESPONSES, response(status="incomplete")),
    (RESPONSES, response(status="queued", tokens=None)),
    (RESPONSES, response(REASONING)),
    (RESPONSES, response(canned.response_call())),
    (RESPONSES, response(canned.response_message("a"))),
    (RESPONSES, response({"type": "message", "content": [{"type": "refusal", "refusal": "No."}]})),
    (RESPONSES, response({"type": "image_generation_call", "result": "AA=="})),
    (RESPONSES + "/compact", {"id": "c", "object": "response.compaction", "output": []}),
    (MESSAGES, message(output=2)),
    (MESSAGES, message(stop="max_tokens")),
    (MESSAGES, message(stop="refusal")),
    (MESSAGES, message(stop="pause_turn")),
    (MESSAGES, message(stop="stop_sequence")),
    (MESSAGES, message(canned.message_call())),
    (MESSAGES, message({"type": "thinking", "thinking": "", "signature": "x"})),
    (GENERATE, gemini(finish="MAX_TOKENS")),
    (GENERATE, gemini(finish="SAFETY")),
    (GENERATE, gemini(thoughtsTokenCount=4)),
    (GENERATE, gemini(candidatesTokenCount=4)),
    (GENERATE, gemini(canned.gemini_call())),
    (GENERATE, gemini({"text": "", "thoughtSignature": "x"})),
    (GENERATE, gemini({"inlineData": {"mimeType": "image/png", "data": "AA=="}})),
    (GENERATE, {"promptFeedback": {"blockReason": "SAFETY"}}),
    (INTERACTIONS, interaction(output=1)),
    (INTERACTIONS, interaction("in_progress")),
    (INTERACTIONS, interaction(outputs=[{"type": "text", "text": "a"}])),
    (MESSAGES + "/count_tokens", {"input_tokens": 0}),
]


@pytest.mark.parametrize(("path", "answer"), EMPTY)
def test_a_natural_end_without_content_or_tokens_is_an_empty_answer(path, answer):
    assert reason(path, answer) == "empty_answer"


@pytest.mark.parametrize(("path", "answer"), LEFT_ALONE)
def test_what_holds_or_costs_something_or_was_ended_is_an_answer(path, answer):
    assert reason(path, answer) == ""


# -- streams ------------------------------------------------------------------------------------------------


def chunk(delta: Json, finish: str | None = None, **more: Any) -> bytes:
    return canned.chat_chunk(delta, finish, **more)


def usage_event(output: int) -> bytes:
    return canned.data_event({"choices": [], "usage": canned.chat_usage(output_tokens=output)})


def message_start(output: int = 0) -> bytes:
    opened = canned.message(content=[], stop_reason=None, usage={"input_tokens": 3, "output_tokens": output})
    return canned.named_event({"type": "message_start", "message": opened})


def message_end(stop: str = "end_turn", **usage: int) -> bytes:
    return canned.named_event({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage})


def block(*deltas: bytes) -> list[bytes]:
    opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [canned.named_event(opened), *deltas, canned.named_event({"type": "content_block_stop", "index": 0})]


def ending(answer: Json) -> bytes:
    return canned.named_event({"type": f"response.{answer['status']}", "response": answer})


def framed(text: str) -> list[bytes]:
    """The events of a message in a Responses stream."""
    events = canned.response_stream([text])
    return events[:-1]


def parts(*answers: Json) -> list[bytes]:
    return [canned.data_event(answer, newline="\r\n") for answer in answers]


def steps(*events: Json) -> list[bytes]:
    return [canned.data_event(event) for event in events]


STOP = chunk({}, "stop")
CREATED = {"event_type": "interaction.created", "interaction": {"id": "i1", "status": "in_progress"}}
COMPLETED = {"event_type": "interaction.completed", "interaction": interaction()}

EMPTY_STREAMS = [
    (CHAT, [canned.CHAT_ROLE, STOP, canned.DONE]),
    (CHAT, [STOP]),
    (CHAT, [canned.CHAT_ROLE, chunk({"content": ""}), STOP, usage_event(0), canned.DONE]),
    (CHAT, [usage_event(0), STOP]),
    (RESPONSES, [*framed("")[:2], ending(response())]),
    (RESPONSES, [*framed(""), ending(response(canned.response_message("")))]),
    (MESSAGES, [message_start(), message_end(output_tokens=0), canned.MESSAGE_STOP]),
    (MESSAGES, [message_start(1), *block(), message_end(output_tokens=0), canned.MESSAGE_STOP]),
    (MESSAGES, [message_start(), *block(canned.text_delta("")), message_end(), canned.MESSAGE_STOP]),
    (STREAMS, parts(gemini())),
    (STREAMS, parts(canned.gemini(parts=[], finish=None, usageMetadata={}), gemini({"text": ""}))),
    (INTERACTIONS, steps(CREATED, COMPLETED)),
]
FULL_STREAMS = [
    (CHAT, canned.chat_stream()),
    (CHAT, canned.chat_stream(["a"], usage=False)),
    (CHAT, canned.chat_tool_stream()),
    (CHAT, [chunk({"role": "assistant", "content": "a"}, "stop"), canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, chunk({"refusal": "No."}), STOP, canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, STOP, usage_event(3), canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, chunk({}, "stop", usage=canned.chat_usage(output_tokens=1)), canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, chunk({}, "length"), canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, STOP, chunk({"content": "late"}), canned.DONE]),
    (CHAT, [canned.CHAT_ROLE, canned.DONE]),
    (LEGACY, [canned.data_event(legacy("a")), canned.DONE]),
    (RESPONSES, canned.response_stream()),
    (RESPONSES, canned.response_stream(["a"])),
    (RESPONSES, canned.response_tool_stream()),
    (RESPONSES, [*framed("")[:2], ending(response(tokens=2))]),
    (RESPONSES, [*framed("")[:2], ending(response(status="incomplete"))]),
    (RESPONSES, [*framed("")[:2], ending(response(canned.response_message("a")))]),
    (MESSAGES, canned.message_stream()),
    (MESSAGES, canned.message_tool_stream()),
    (MESSAGES, [message_start(1), message_end(), canned.MESSAGE_STOP]),
    (MESSAGES, [message_start(), message_end(output_tokens=2), canned.MESSAGE_STOP]),
    (MESSAGES, [message_start(), message_end("refusal", output_tokens=0), canned.MESSAGE_STOP]),
    (STREAMS, parts(gemini({"text": "a"}))),
    (STREAMS, parts(gemini(), gemini({"text": "late"}))),
    (STREAMS, parts(gemini(thoughtsTokenCount=3))),
    (STREAMS, parts(gemini(finish="SAFETY"))),
    (STREAMS, parts({"promptFeedback": {"blockReason": "SAFETY"}})),
    (STREAMS, parts(gemini(canned.gemini_call()))),
    (INTERACTIONS, steps(CREATED, {"event_type": "step.delta", "delta": {"text": "a"}}, COMPLETED)),
    (INTERACTIONS, steps(CREATED, {**COMPLETED, "interaction": interaction(output=4)})),
    (INTERACTIONS, steps(CREATED, {**COMPLETED, "interaction": interaction("failed")})),
]


def watched(path: str, events: list[bytes]) -> tuple[list[Mark], bool]:
    call = call_of(path, "alt=sse" if path == STREAMS else "", stream=True)
    watcher = call.match.format.watcher(call)
    return [watcher.watch(event) for event in events], watcher.state.empty


@pytest.mark.parametrize(("path", "events"), EMPTY_STREAMS)
def test_a_stream_that_ends_by_itself_without_output_is_empty(path, events):
    marks, empty = watched(path, events)

    assert empty
    assert Mark.OUTPUT not in marks


@pytest.mark.parametrize(("path", "events"), FULL_STREAMS)
def test_a_stream_that_says_or_costs_something_is_not_empty(path, events):
    assert not watched(path, events)[1]


def test_of_several_choices_one_that_speaks_is_enough():
    call = call_of(CHAT, stream=True, n=2)
    watcher = call.match.format.watcher(call)
    second = canned.data_event({"choices": [{"index": 1, "delta": {"content": "a"}, "finish_reason": None}]})

    watcher.watch(STOP)
    assert watcher.state.empty
    watcher.watch(second)
    assert not watcher.state.empty


@pytest.mark.parametrize(("code", "status"), [(400, 400), (503, 503), (200, 0), ("odd", 0), (None, 0)])
@pytest.mark.parametrize("before", [[], [canned.CHAT_ROLE, chunk({"content": "a"})]], ids=["first", "later"])
def test_an_error_of_vllm_is_an_error_wherever_it_comes(before, code, status):
    call = call_of(CHAT, stream=True)
    watcher = call.match.format.watcher(call)
    for event in before:
        watcher.watch(event)

    mark = watcher.watch(canned.data_event({"object": "error", "message": "Bad.", "type": "Odd", "code": code}))

    assert (mark, watcher.state.error_status) == (Mark.ERROR, status)
    assert b"Bad." in (watcher.state.error or b"")


def test_text_about_errors_is_text():
    call = call_of(CHAT, stream=True)
    watcher = call.match.format.watcher(call)
    texts = ['{"object": "error", "message": "x"}', '"object":"error"']

    assert {watcher.watch(chunk({"content": text})) for text in texts} == {Mark.OUTPUT}
