"""An answer without content is asked for again at another key; the caller never gets a 200 with nothing in it."""

from __future__ import annotations

import json

import pytest

from app import formats
from app.formats.base import Call, Json
from app.keys.base import Action, Failure, Phase
from app.keys.verdicts import judge
from app.proxy.deadlines import FINISHED_SILENCE_S
from app.proxy.events import CloseUpstream, Send, UpstreamBytes, UpstreamFailed, UpstreamHead
from app.proxy.readers import CollectReader, Ending, PlainReader, Progress, Reader, StreamReader, choose
from tests import canned
from tests.fake_behaviors import sliced
from tests.fake_provider import FakeProvider, json_reply, stream
from tests.gateway import Gateway
from tests.proxy.test_exchange import SSE, STREAM_BODY, Run, kinds

CHAT = {**canned.CHAT_REQUEST, "stream": True}
STOP = canned.CHAT_FINISH
NO_TOKENS = canned.data_event({"choices": [], "usage": canned.chat_usage(output_tokens=0)})
TOKENS = canned.data_event({"choices": [], "usage": canned.chat_usage(output_tokens=4)})
EMPTY_ANSWER = canned.chat("", usage=canned.chat_usage(output_tokens=0))
EMPTY_GEMINI = canned.gemini(parts=[], usageMetadata={"promptTokenCount": 3})


def call_of(path: str, body: Json, query: str = "") -> Call:
    match = formats.match("POST", path, {}, query)
    return match.format.read(match, {}, query, json.dumps(body).encode())


def reader_of(call: Call, content_type: str = "text/event-stream", *, strip_usage: bool = False) -> Reader:
    return choose(
        call, content_type, max_buffered=1 << 20, rename=None, strip_usage=strip_usage, clean=lambda data: data
    )


def run(reader: Reader, *pieces: bytes) -> Progress:
    whole = Progress()
    for piece in (*pieces, None):
        step = reader.end() if piece is None else reader.feed(piece)
        whole.out += step.out
        whole.ending, whole.failure = step.ending, step.failure
        if step.failure is not None or step.ending is not Ending.OPEN:
            break
    return whole


def assert_empty(progress: Progress) -> None:
    assert progress.out == []
    assert progress.failure == Failure(Phase.BODY, 200, {}, b"", "empty_answer")


# -- the readers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    "events",
    [
        [canned.CHAT_ROLE, STOP, canned.DONE],
        [canned.CHAT_ROLE, STOP, NO_TOKENS, canned.DONE],
        [canned.CHAT_ROLE, STOP],  # the terminator never comes
        [NO_TOKENS, STOP],
    ],
)
def test_an_empty_stream_is_a_failed_attempt_and_nothing_of_it_goes_out(events: list[bytes], size: int) -> None:
    reader = reader_of(call_of("/v1/chat/completions", CHAT))

    assert isinstance(reader, StreamReader)
    assert_empty(run(reader, *sliced(b"".join(events), size)))
    assert not reader.committed


@pytest.mark.parametrize("query", ["alt=sse", ""])
def test_an_empty_stream_of_gemini_is_too(query: str) -> None:
    call = call_of("/v1beta/models/m:streamGenerateContent", canned.GEMINI_REQUEST, query)
    sent = canned.data_event(EMPTY_GEMINI) if query else b"[" + json.dumps(EMPTY_GEMINI).encode() + b"]"

    assert_empty(run(reader_of(call, "text/event-stream" if query else "application/json"), sent))


@pytest.mark.parametrize(
    "events",
    [
        [canned.CHAT_ROLE, STOP, TOKENS, canned.DONE],
        [canned.CHAT_ROLE, canned.chat_chunk({}, "length"), canned.DONE],
        [canned.CHAT_ROLE, canned.DONE],
        [TOKENS, canned.CHAT_ROLE, canned.chat_chunk({"content": "a"}, "stop"), canned.DONE],
        canned.chat_tool_stream(),
    ],
)
def test_what_was_held_goes_out_as_it_came(events: list[bytes]) -> None:
    progress = run(reader_of(call_of("/v1/chat/completions", CHAT)), *events)

    assert (b"".join(progress.out), progress.ending) == (b"".join(events), Ending.COMPLETE)


def test_usage_that_only_we_wanted_still_tells_that_tokens_were_counted() -> None:
    reader = reader_of(call_of("/v1/chat/completions", CHAT), strip_usage=True)

    progress = run(reader, canned.CHAT_ROLE, STOP, TOKENS, canned.DONE)

    assert b"".join(progress.out) == canned.CHAT_ROLE + STOP + canned.DONE
    assert reader.usage.output_tokens == 4


def test_a_finish_with_text_in_it_goes_out_at_once() -> None:
    call = call_of("/v1beta/models/m:streamGenerateContent", canned.GEMINI_REQUEST, "alt=sse")
    reader = reader_of(call)

    assert reader.feed(canned.data_event(canned.gemini("Hi"))).out != []
    assert reader.committed


def test_after_a_heartbeat_an_empty_stream_passes_as_it_is() -> None:
    reader = reader_of(call_of("/v1/chat/completions", CHAT))
    reader.feed(canned.CHAT_ROLE)
    reader.feed(STOP)

    held = reader.release()
    progress = run(reader, canned.DONE)

    assert held == [canned.CHAT_ROLE, STOP]
    assert (progress.out, progress.ending) == ([canned.DONE], Ending.COMPLETE)


def test_one_choice_that_is_done_does_not_let_the_prologue_go() -> None:
    reader = reader_of(call_of("/v1/chat/completions", {**CHAT, "n": 2}))

    progress = run(reader, canned.CHAT_ROLE, STOP)

    assert progress.failure is not None
    assert progress.failure.error == "incomplete"


def test_an_empty_answer_is_seen_whatever_form_it_has() -> None:
    plain = reader_of(call_of("/v1/chat/completions", canned.CHAT_REQUEST), "application/json")
    collected = reader_of(call_of("/v1/chat/completions", canned.CHAT_REQUEST))

    assert isinstance(plain, PlainReader)
    failure = run(plain, json.dumps(EMPTY_ANSWER).encode()).failure
    assert failure is not None
    assert failure.error == "empty_answer"
    assert isinstance(collected, CollectReader)
    assert_empty(run(collected, canned.CHAT_ROLE, STOP, canned.DONE))


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini", "databricks", "generic"])
@pytest.mark.parametrize("body", [b"", json.dumps(EMPTY_ANSWER).encode(), json.dumps(canned.response("")).encode()])
def test_an_empty_answer_is_the_providers_failure(family: str, body: bytes) -> None:
    verdict = judge(family, Failure(Phase.BODY, 200, {}, body, "empty_answer"), "m", 0.0)

    assert (verdict.action, verdict.reason) == (Action.PROVIDER, "empty_answer")


# -- the exchange -------------------------------------------------------------------------------------------


def test_an_empty_finish_that_nothing_follows_is_another_attempt_after_a_moment() -> None:
    run = Run(STREAM_BODY, heartbeat_interval=0)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(canned.CHAT_ROLE + STOP))

    assert run.out == b""
    assert run.wait_s == FINISHED_SILENCE_S
    assert kinds(run.tick()) == [CloseUpstream, Send]
    assert run.keys.log == [("failed", 1, "empty_answer")]


def test_an_empty_finish_before_a_broken_connection_is_another_attempt() -> None:
    run = Run(STREAM_BODY)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(canned.CHAT_ROLE + STOP))

    run.feed(UpstreamFailed("reset", connected=True, reused=False))

    assert (run.out, len(run.sends)) == (b"", 2)
    assert run.keys.log == [("failed", 1, "empty_answer")]


def test_a_heartbeat_lets_an_empty_finish_go() -> None:
    run = Run(STREAM_BODY, heartbeat_interval=3)
    run.feed(UpstreamHead(200, SSE), UpstreamBytes(canned.CHAT_ROLE + STOP))

    run.tick()
    assert run.out == canned.CHAT_ROLE + STOP
    run.feed(UpstreamBytes(canned.DONE))
    assert (run.out, len(run.sends)) == (canned.CHAT_ROLE + STOP + canned.DONE, 1)
    assert run.record.outcome == "success"


# -- over HTTP ----------------------------------------------------------------------------------------------

EMPTY = {
    False: json_reply(EMPTY_ANSWER),
    True: stream([canned.CHAT_ROLE, STOP, NO_TOKENS, canned.DONE]),
}


@pytest.fixture
def upstream():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path, upstream):
    with Gateway(tmp_path, openai=upstream.origin) as gateway:
        gateway.add_keys("openai", 2)
        yield gateway


@pytest.mark.parametrize("streamed", [False, True])
def test_another_key_is_asked_and_its_answer_is_all_that_the_caller_sees(gateway, upstream, streamed):
    good = stream(canned.chat_stream()) if streamed else json_reply(canned.chat())
    upstream.answers(EMPTY[streamed], good)

    answer = gateway.post("/v1/chat/completions", {**CHAT, "stream": streamed})

    assert answer.status == 200
    assert b"upstream." in answer.body
    [record] = gateway.records()
    told = [(attempt["verdict"], attempt["reason"]) for attempt in record["attempts"]]
    assert told == [("PROVIDER", "empty_answer"), ("ok", "")]
    assert record["attempts"][0]["key_id"] != record["attempts"][1]["key_id"]
    states = [gateway.services.keys.get(attempt["key_id"])["status"] for attempt in record["attempts"]]
    assert states == ["Healthy", "Healthy"]


@pytest.mark.parametrize("streamed", [False, True])
def test_when_every_answer_is_empty_the_caller_is_told_so(gateway, upstream, streamed):
    upstream.default(EMPTY[streamed])

    answer = gateway.post("/v1/chat/completions", {**CHAT, "stream": streamed})

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_error")
    assert "empty" in answer.json["error"]["message"]
    assert len(upstream.received) == 2
    [record] = gateway.records()
    assert record["outcome"] == "upstream_error"
