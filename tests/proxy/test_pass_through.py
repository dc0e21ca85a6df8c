"""What passes through keeps every byte, both ways, in every format; the few documented splices change nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from tests import canned
from tests.fake_provider import gzip_body, json_reply, reply, sliced, stream
from tests.gateway import Answer
from tests.stage import Stage

JSON = {"Content-Type": "application/json"}
USAGE_SPLICE = b'"stream_options":{"include_usage":true},'

#: Members that no format knows, in spellings that a parser and a writer would not bring back.
UNKNOWN = (
    '"zeta" :  1.0e-7 , "a\\u006cpha":[ ],"path":"a\\/b", "big":12345678901234567890,'
    '"text\u2028":"\u2028 \u00fc \U0001f680 \\ud83d\\ude80 \\u00fc",'
    '"deep":{"z":{"y":[1,2.50,[{"x":null}]]},"y":-0.0},"\\"quoted\\"":"data: [DONE]\\n\\n","zeta":2'
).encode()


@dataclass(frozen=True)
class Way:
    """One operation: where it goes, what is asked and what is answered."""

    path: str
    asked: dict[str, Any]
    answer: Any

    def __str__(self) -> str:
        return self.path


GENERATIONS = [
    Way("/v1/chat/completions", canned.CHAT_REQUEST, canned.chat()),
    Way("/v1/responses", canned.RESPONSES_REQUEST, canned.response()),
    Way("/v1/messages", canned.MESSAGES_REQUEST, canned.message()),
    Way("/v1/messages?beta=true", canned.MESSAGES_REQUEST, canned.message()),
    Way("/v1/models/gemini-test:generateContent", canned.GEMINI_REQUEST, canned.gemini()),
    Way("/v1beta/models/gemini-test:generateContent", canned.GEMINI_REQUEST, canned.gemini()),
    Way("/v1/completions", {"model": "gpt-test", "prompt": "Hi"}, {"choices": [{"text": "Yes", "index": 0}]}),
]
OTHERS = [
    Way("/v1/embeddings", canned.EMBEDDINGS_REQUEST, canned.embeddings()),
    Way("/v1/messages/count_tokens", canned.MESSAGES_REQUEST, canned.COUNT_TOKENS),
    Way("/v1/responses/input_tokens", canned.RESPONSES_REQUEST, {"object": "x", "input_tokens": 3}),
    Way("/v1beta/models/gemini-test:countTokens", canned.GEMINI_REQUEST, canned.GEMINI_COUNT_TOKENS),
    Way("/v1beta/models/gemini-test:embedContent", {"content": {"parts": []}}, canned.GEMINI_EMBEDDING),
    Way("/v1beta/models/gemini-test:batchEmbedContents", {"requests": [{}]}, canned.GEMINI_EMBEDDINGS),
    Way("/v1/moderations", {"input": "Hi", "model": "omni-moderation-latest"}, {"id": "modr-1", "results": []}),
    Way("/v1/images/generations", {"prompt": "A cat", "model": "dall-e-3"}, {"created": 1, "data": []}),
    Way("/v1beta/cachedContents", {"model": "models/gemini-test"}, {"name": "cachedContents/abc"}),
    Way("/v1/messages/batches", {"requests": []}, {"id": "msgbatch_1", "type": "message_batch"}),
]


def odd(asked: dict[str, Any], *more: bytes) -> bytes:
    """The same request as nobody would write it: blanks, order, unknown members in front and behind."""
    members = [
        UNKNOWN,
        *(
            json.dumps(name).encode() + b" :\t" + json.dumps(value, indent=1, ensure_ascii=False).encode()
            for name, value in reversed(asked.items())
        ),
        *more,
        b'"omega":\r\n[{ }]',
    ]
    return b" \r\n{\t" + b" ,\n ".join(members) + b"\n}\r\n "


def digest(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def post(stage: Stage, path: str, body: bytes, **headers: str) -> Answer:
    return stage.gateway.request("POST", path, body=body, headers=headers)


def assert_whole(stage: Stage, answer: Answer, body: bytes) -> None:
    assert answer.status == 200, answer.body
    assert digest(answer.body) == digest(body)
    assert answer.headers["x-request-id"] == stage.record()["request_id"]
    assert stage.record()["outcome"] == "success"


# -- plain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*GENERATIONS, *OTHERS], ids=str)
def test_an_odd_body_and_an_odd_answer_arrive_byte_for_byte(stage: Stage, way: Way) -> None:
    asked, answer = odd(way.asked), odd(way.answer)
    stage.upstream.default(reply(200, {"Content-Type": "application/json; charset=utf-8"}, answer))
    told = post(stage, way.path, asked)
    assert_whole(stage, told, answer)
    assert told.headers["content-type"] == "application/json; charset=utf-8"
    assert told.headers["content-length"] == str(len(answer))
    received = stage.sent()
    assert digest(received.body) == digest(asked)
    assert received.target == way.path
    assert received.headers["content-length"] == str(len(asked))
    assert "transfer-encoding" not in received.headers


@pytest.mark.parametrize("way", GENERATIONS[:5], ids=str)
@pytest.mark.parametrize("size", [5_000_000, 12_000_000], ids=["checked", "beyond the buffer"])
def test_big_bodies_arrive_byte_for_byte(stage: Stage, way: Way, size: int) -> None:
    filler = b'"filler":"' + b"\xe2\x80\xa8abc\\n" * (size // 8) + b'"'
    asked, answer = odd(way.asked, filler), odd(way.answer, filler)
    stage.upstream.default(reply(200, JSON, answer))
    assert_whole(stage, post(stage, way.path, asked), answer)
    assert digest(stage.sent().body) == digest(asked)


def test_a_gzipped_request_and_a_gzipped_answer_arrive_decoded(stage: Stage) -> None:
    import gzip

    asked, answer = odd(canned.CHAT_REQUEST), odd(canned.chat())
    stage.upstream.default(gzip_body(answer))
    told = post(stage, "/v1/chat/completions", gzip.compress(asked), **{"Content-Encoding": "gzip", **JSON})
    assert_whole(stage, told, answer)
    assert digest(stage.sent().body) == digest(asked)
    assert "content-encoding" not in {*stage.sent().headers, *told.headers}
    assert stage.sent().headers["accept-encoding"] == "identity"


UPLOADS = {
    "/v1/files": "multipart/form-data; boundary=bo-un-da-ry",
    "/v1/audio/transcriptions": "multipart/form-data; boundary=bo-un-da-ry",
    "/upload/v1beta/files": "text/plain",
}


@pytest.mark.parametrize("path", UPLOADS)
def test_an_upload_arrives_byte_for_byte(stage: Stage, path: str) -> None:
    part = b'--bo-un-da-ry\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xbc.bin"\r\n\r\n'
    body = part + bytes(range(256)) * 4096 + b"\r\n--bo-un-da-ry--\r\n"
    stage.upstream.default(json_reply({"id": "file-1"}))
    answer = stage.gateway.request("POST", path, body=body, headers={"Content-Type": UPLOADS[path]})
    assert answer.status == 200
    assert digest(stage.sent().body) == digest(body)
    assert stage.sent().headers["content-type"] == UPLOADS[path]


def test_binary_answers_arrive_byte_for_byte_with_what_describes_them(stage: Stage) -> None:
    audio = bytes(range(256)) * 8192
    described = {"Content-Type": "audio/mpeg", "Content-Disposition": "attachment", "ETag": '"1"'}
    stage.upstream.default(reply(200, described, audio))
    told = post(stage, "/v1/audio/speech", odd({"model": "tts-1", "input": "Hi"}))
    assert digest(told.body) == digest(audio)
    assert {name: told.headers[name.lower()] for name in described} == described


def test_a_part_of_a_file_is_passed_on_as_a_part(stage: Stage) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Range": "bytes 2-4/9"}
    stage.upstream.default(reply(206, headers, b"cde"))
    told = stage.gateway.get("/v1/files/file-1/content", Range="bytes=2-4")
    assert (told.status, told.body, told.headers["content-range"]) == (206, b"cde", "bytes 2-4/9")
    assert stage.sent().headers["range"] == "bytes=2-4"


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_calls_without_a_body_go_without_one(stage: Stage, method: str) -> None:
    stage.upstream.default(reply(200, JSON, b'{"id":"file-1" , "deleted":true}'))
    answer = stage.gateway.request(method, "/v1/files/file-1?a=b&key2=c&q=%C3%BC%20+%2B")
    assert answer.body == b'{"id":"file-1" , "deleted":true}'
    assert stage.sent().body == b""
    assert stage.sent().target == "/v1/files/file-1?a=b&key2=c&q=%C3%BC%20+%2B"
    assert "content-length" not in stage.sent().headers


def test_a_204_stays_a_204(stage: Stage) -> None:
    stage.upstream.default(reply(204))
    answer = stage.gateway.request("DELETE", "/v1beta/files/abc")
    assert (answer.status, answer.body) == (204, b"")


# -- streams ------------------------------------------------------------------------------------------

CRLF = b"\r\n"
ODD_EVENTS = [
    b": OPENROUTER PROCESSING\n\n",
    b"retry: 3000\n\n",
    b"id: 7\nevent: message\n: a comment inside\n",
]
GEMINI_STREAM = "/v1beta/models/gemini-test:streamGenerateContent"


def with_oddities(events: list[bytes]) -> bytes:
    """A stream with comments, `retry`, ids, blank lines, text that looks like line ends and like a terminator."""
    first, *rest = events
    return b"\n" + ODD_EVENTS[0] + first + ODD_EVENTS[1] + ODD_EVENTS[2] + b"".join(rest)


def text_with_traps(event: bytes, text: bytes) -> bytes:
    """The event with `text` in the place of its first word."""
    assert canned.WORDS[0].encode() in event
    return event.replace(canned.WORDS[0].encode(), text, 1)


TRAPS = "\u2028 \u2029 \u0085 \U0001f680 data: [DONE]".encode()


@dataclass(frozen=True)
class Streamed:
    name: str
    path: str
    asked: dict[str, Any]
    events: list[bytes]
    comments: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def bytes(self) -> bytes:
        events = [text_with_traps(each, TRAPS) if canned.WORDS[0].encode() in each else each for each in self.events]
        # What follows the bracket of an array is not waited for.
        return with_oddities(events) if self.comments else b"".join(events).removesuffix(b"]\n") + b"]" * self.is_array

    @property
    def is_array(self) -> bool:
        return "array" in self.name


CHAT_ASKED = {**canned.CHAT_REQUEST, "stream": True, "stream_options": {"include_usage": True}}
STREAMS = [
    Streamed("chat", "/v1/chat/completions", CHAT_ASKED, canned.chat_stream()),
    Streamed("chat with a call", "/v1/chat/completions", CHAT_ASKED, canned.chat_tool_stream()),
    Streamed("responses", "/v1/responses", {**canned.RESPONSES_REQUEST, "stream": True}, canned.response_stream()),
    Streamed("messages", "/v1/messages", {**canned.MESSAGES_REQUEST, "stream": True}, canned.message_stream()),
    Streamed("gemini", f"{GEMINI_STREAM}?alt=sse", canned.GEMINI_REQUEST, canned.gemini_stream(), comments=False),
    Streamed("gemini array", GEMINI_STREAM, canned.GEMINI_REQUEST, canned.gemini_array(), comments=False),
]


@pytest.mark.parametrize("streamed", STREAMS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in sevens", "in one"])
def test_a_stream_arrives_byte_for_byte_however_it_is_cut(stage: Stage, streamed: Streamed, size: int) -> None:
    body, asked = streamed.bytes, odd(streamed.asked)
    kind = "application/json" if streamed.is_array else "text/event-stream; charset=utf-8"
    stage.upstream.default(stream(sliced(body, size), content_type=kind))
    answer = post(stage, streamed.path, asked)
    assert_whole(stage, answer, body)
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == "no-cache"
    assert digest(stage.sent().body) == digest(asked)
    assert stage.record()["output_tokens"] == canned.OUTPUT_TOKENS


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
@pytest.mark.parametrize("streamed", [each for each in STREAMS if "gemini" not in each.name], ids=str)
def test_a_stream_with_other_line_ends_arrives_byte_for_byte(stage: Stage, streamed: Streamed, line_end: bytes) -> None:
    body = streamed.bytes.replace(b"\n", line_end)
    stage.upstream.default(stream(sliced(body, 5)))
    assert_whole(stage, post(stage, streamed.path, odd(streamed.asked)), body)


@pytest.mark.parametrize("streamed", STREAMS, ids=str)
def test_a_stream_that_ends_with_its_connection_arrives_whole(stage: Stage, streamed: Streamed) -> None:
    kind = "application/json" if streamed.is_array else "text/event-stream"
    stage.upstream.default(stream([streamed.bytes], chunked=False, content_type=kind))
    assert_whole(stage, post(stage, streamed.path, odd(streamed.asked)), streamed.bytes)


def test_a_big_stream_arrives_byte_for_byte(stage: Stage) -> None:
    words = [f"word {number} \u2028 " * 20 for number in range(10_000)]
    body = b"".join(canned.chat_stream(words))
    assert len(body) > 5_000_000
    stage.upstream.default(stream(sliced(body, 60_000)))
    assert_whole(stage, post(stage, "/v1/chat/completions", odd(CHAT_ASKED)), body)


def test_the_wish_for_usage_is_one_splice_and_its_chunk_is_taken_out_again(stage: Stage) -> None:
    asked = odd({**canned.CHAT_REQUEST, "stream": True})
    stage.upstream.default(stream(sliced(b"".join(canned.chat_stream()), 11)))
    answer = post(stage, "/v1/chat/completions", asked)
    assert_whole(stage, answer, b"".join(canned.chat_stream(usage=False)))
    body = stage.sent().body
    assert body.count(USAGE_SPLICE) == 1
    assert digest(body.replace(USAGE_SPLICE, b"")) == digest(asked)
    assert stage.record()["input_tokens"] == canned.INPUT_TOKENS


def test_the_wish_for_usage_joins_options_that_are_there(stage: Stage) -> None:
    asked = odd({**canned.CHAT_REQUEST, "stream": True}, b'"stream_options": { "include_obfuscation" : false }')
    stage.upstream.default(stream(canned.chat_stream()))
    answer = post(stage, "/v1/chat/completions", asked)
    assert digest(answer.body) == digest(b"".join(canned.chat_stream(usage=False)))
    assert digest(stage.sent().body.replace(b'"include_usage":true,', b"")) == digest(asked)


def test_the_wish_for_usage_can_be_switched_off(stage: Stage) -> None:
    stage.gateway.services.live_settings.update({"openai_include_usage": False})
    asked = odd({**canned.CHAT_REQUEST, "stream": True})
    stage.upstream.default(stream(canned.chat_stream(usage=False)))
    post(stage, "/v1/chat/completions", asked)
    assert digest(stage.sent().body) == digest(asked)


def test_nothing_is_spliced_into_a_plain_chat(stage: Stage) -> None:
    asked = odd({**canned.CHAT_REQUEST, "stream": False})
    stage.upstream.default(json_reply(canned.chat()))
    post(stage, "/v1/chat/completions", asked)
    assert digest(stage.sent().body) == digest(asked)


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", GENERATIONS[:5], ids=str)
def test_an_error_of_the_provider_arrives_byte_for_byte(stage: Stage, way: Way) -> None:
    error = {"code": 400, "message": "No \u2028.", "status": "INVALID_ARGUMENT", "type": "invalid_request_error"}
    body = odd({"error": error, "type": "error"})
    stage.upstream.default(reply(400, JSON, body))
    answer = post(stage, way.path, odd(way.asked))
    assert answer.status == 400
    assert digest(answer.body) == digest(body)


def test_the_tests_cover_every_format(tmp_path: Path) -> None:
    from app.formats import FORMATS, match

    covered = {match("POST", way.path.partition("?")[0], {}, "").format.name for way in GENERATIONS}
    assert covered == {each.name for each in FORMATS}
