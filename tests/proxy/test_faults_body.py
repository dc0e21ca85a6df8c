"""
Faults in the body of an answer: an incomplete or unusable one is never passed off as complete, and as long as nothing
has reached the caller the next key serves instead.
"""

from __future__ import annotations

import gzip
import json
import resource
import threading
import zlib
from pathlib import Path

import pytest

from tests import canned
from tests.fake_provider import (
    Behavior,
    big_body,
    chunked_without_end,
    close,
    deflate_body,
    encoded_body,
    gzip_body,
    gzip_bomb,
    head,
    json_reply,
    pieces,
    reply,
    reset,
    short_content_length,
    sliced,
    stream,
    truncated_gzip,
    wait_for,
)
from tests.proxy.dialects import BOTH_WAYS, CHAT, GEMINI, MESSAGES, PLAIN, Dialect, Site, site, streamed

pytestmark = pytest.mark.usefixtures("driver")

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20
_BOMB = gzip_bomb(128 * MIB)


@pytest.fixture(params=BOTH_WAYS, ids=str)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture(params=PLAIN, ids=str)
def plain(request: pytest.FixtureRequest) -> Dialect:
    return request.param


def content_type(dialect: Dialect) -> str:
    return "text/event-stream" if dialect.streams else "application/json"


def assert_each_rotates(here: Site, faults: dict[str, Behavior], *reasons: str) -> None:
    """Each fault alone costs one attempt of the first key and nothing else; met everywhere, it is a 502."""
    for name, fault in faults.items():
        here.script(fault)
        answer = here.ask()
        assert (name, answer.status, answer.body) == (name, 200, here.dialect.good_body)
        (verdict, reason), last = here.verdicts()
        assert (name, verdict, last) == (name, "PROVIDER", ("ok", ""))
        assert not reasons or reason in reasons, (name, reason)
        assert here.states() == ["Healthy", "Healthy"]
    here.script(*[next(iter(faults.values()))] * 2)
    answer = here.ask()
    assert answer.status == 502
    here.dialect.says_error(answer.body)
    assert (here.record()["outcome"], here.states()) == ("upstream_error", ["Healthy", "Healthy"])
    here.assert_serves()


# -- F21 and F22 --------------------------------------------------------------------------------------


def test_f21_an_answer_shorter_than_its_content_length_rotates(tmp_path: Path, plain: Dialect) -> None:
    whole = plain.good_body
    faults = {
        "half": short_content_length(whole[: len(whole) // 2], len(whole)),
        "all but the last byte": short_content_length(whole[:-1], len(whole)),
        "whole JSON, yet fewer bytes than promised": short_content_length(whole, len(whole) + 10),
        "nothing": short_content_length(b"", len(whole)),
        "half, then reset": short_content_length(whole[:9], len(whole), rst=True),
    }
    with site(tmp_path, plain) as here:
        assert_each_rotates(here, faults, "incomplete", "reset")


def test_f21_a_stream_with_a_content_length_that_ends_early_rotates_before_its_first_output(tmp_path: Path) -> None:
    for way in (streamed(CHAT), streamed(MESSAGES)):
        start = head(200, {"Content-Type": "text/event-stream", "Content-Length": "5000"})
        folder = tmp_path / way.name
        folder.mkdir()
        with site(folder, way) as here:
            here.script(pieces(start + way.events[0], close()))

            here.assert_rotated(here.ask(), "incomplete")


def test_f22_a_chunked_answer_without_its_final_chunk_rotates(tmp_path: Path, plain: Dialect) -> None:
    whole = plain.good_body
    faults = {
        "half": chunked_without_end([whole[: len(whole) // 2]]),
        "whole JSON": chunked_without_end([whole]),
        "nothing": chunked_without_end([]),
        "whole JSON, then reset": chunked_without_end([whole], rst=True),
        "in the middle of a chunk": pieces(
            head(200, {**JSON, "Transfer-Encoding": "chunked"}) + b"ffff\r\n" + whole, close()
        ),
    }
    with site(tmp_path, plain) as here:
        assert_each_rotates(here, faults, "incomplete", "reset")


def test_f22_an_answer_that_ends_with_its_connection_must_be_whole_json(tmp_path: Path, plain: Dialect) -> None:
    whole = plain.good_body
    start = head(200, {**JSON, "Connection": "close"})
    with site(tmp_path, plain) as here:
        here.script(pieces(start + whole[:-1], close()))
        assert here.ask().body == whole
        assert [verdict for verdict, _ in here.verdicts()] == ["PROVIDER", "ok"]

        here.script(*[pieces(start + whole, close())] * 2)
        here.assert_good(here.ask())
        assert here.verdicts() == [("ok", "")]


def test_f22_a_file_that_breaks_off_reaches_the_caller_visibly_incomplete(tmp_path: Path) -> None:
    chunked = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
    with site(tmp_path, CHAT) as here:
        here.script(*[pieces(head(200, chunked) + b"4\r\nabcd\r\n", reset())] * 2)
        with here.gateway.raw() as client:
            client.send(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, headers = client.head()
            assert (status, headers["transfer-encoding"]) == (200, "chunked")
            assert client.rest() == (b"abcd", False)
        here.quiet()
        record = here.record()
        assert (record["outcome"], record["error_code"], record["response_bytes"]) == (
            "upstream_cut",
            "upstream_cut",
            4,
        )
        assert here.states() == ["Healthy", "Healthy"]


# -- F23 ----------------------------------------------------------------------------------------------


def encodings(body: bytes, content_type: str) -> dict[str, Behavior]:
    raw = zlib.compressobj(wbits=-15)
    packed = gzip.compress(body, mtime=0)
    members = gzip.compress(body[:40], mtime=0) + gzip.compress(body[40:], mtime=0)
    start = head(200, {"Content-Type": content_type, "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"})
    return {
        "gzip": gzip_body(body, content_type),
        "x-gzip": encoded_body("X-GZIP", packed, content_type),
        "deflate": deflate_body(body, content_type),
        "raw deflate": encoded_body("deflate", raw.compress(body) + raw.flush(), content_type),
        "identity": encoded_body("identity", body, content_type),
        "two gzip members": encoded_body("gzip", members, content_type),
        "gzip, byte by byte": pieces(start, *[b"1\r\n%b\r\n" % bytes([byte]) for byte in packed], b"0\r\n\r\n"),
    }


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f23_a_compressed_answer_is_decoded_once_and_passed_on_plain(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        for name, behavior in encodings(dialect.good_body, content_type(dialect)).items():
            here.script(behavior, behavior)

            answer = here.ask()

            assert (name, answer.status, answer.body) == (name, 200, dialect.good_body)
            assert "content-encoding" not in answer.headers
            assert here.verdicts() == [("ok", "")]
            assert here.record()["output_tokens"] == (None if dialect == streamed(CHAT) else canned.OUTPUT_TOKENS)
        here.assert_serves()


def test_f23_what_cannot_be_decoded_rotates(tmp_path: Path, dialect: Dialect) -> None:
    body, kind = dialect.good_body, content_type(dialect)
    packed = gzip.compress(body, mtime=0)
    faults = {
        "truncated gzip": encoded_body("gzip", packed[:30], kind),
        "plain text declared as gzip": encoded_body("gzip", body, kind),
        "plain text declared as deflate": encoded_body("deflate", body, kind),
        "br": encoded_body("br", b"\x0b\x02\x80" + body, kind),
        "zstd": encoded_body("zstd", b"\x28\xb5\x2f\xfd" + body, kind),
        "gzip twice, said once": encoded_body("gzip", gzip.compress(packed), kind),
        "an encoding that nobody knows": encoded_body("rot13", body, kind),
        "no encoding": encoded_body("gzip", b"", kind),
    }
    with site(tmp_path, dialect) as here:
        assert_each_rotates(here, faults)


def test_f23_gzip_without_its_end_rotates_although_the_length_is_right(tmp_path: Path, plain: Dialect) -> None:
    with site(tmp_path, plain) as here:
        here.script(truncated_gzip(plain.good_body))

        here.assert_rotated(here.ask(), "content_encoding")
        here.assert_serves()


@pytest.mark.parametrize("way", [CHAT, streamed(CHAT), streamed(MESSAGES), GEMINI], ids=str)
def test_f23_a_gzip_bomb_is_a_502_and_costs_little_memory(tmp_path: Path, way: Dialect) -> None:
    with site(tmp_path, way) as here:
        here.script()
        here.assert_good(here.ask())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        here.script(_BOMB, _BOMB)

        answer = here.ask()

        assert answer.status == 502
        way.says_error(answer.body)
        assert here.states() == ["Healthy", "Healthy"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        here.assert_serves()


def test_f23_a_bomb_inside_an_error_is_judged_by_its_status(tmp_path: Path, plain: Dialect) -> None:
    packed = gzip.compress(bytes(4 * MIB))
    with site(tmp_path, plain) as here:
        here.script(*[reply(503, {**JSON, "Content-Encoding": "gzip"}, packed)] * 2)

        answer = here.ask()

        assert answer.status == 503
        plain.says_error(answer.body)
        here.assert_serves()


def test_f23_a_compressed_error_is_read(tmp_path: Path, plain: Dialect) -> None:
    error = json.dumps(plain.errors["bad_request"]).encode()
    with site(tmp_path, plain) as here:
        here.script(*[reply(400, {**JSON, "Content-Encoding": "gzip"}, gzip.compress(error))] * 2)

        answer = here.ask()

        assert (answer.status, answer.body, len(here.provider.received)) == (400, error, 1)
        assert "content-encoding" not in answer.headers


def test_f23_the_callers_accept_encoding_does_not_go_upstream(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script()
        answer = here.gateway.request(
            "POST", dialect.path, json_body=dialect.request, headers={"Accept-Encoding": "gzip, br, zstd"}
        )

        here.assert_good(answer)
        assert here.provider.received[0].headers["accept-encoding"] == "identity"


# -- F24 ----------------------------------------------------------------------------------------------


def test_f24_a_huge_answer_passes_in_bounded_memory(tmp_path: Path) -> None:
    total = 200 * MIB
    answer_json = json.dumps(canned.chat()).encode()
    with site(tmp_path, CHAT, keys=1) as here:
        here.script()
        here.assert_good(here.ask())
        here.script(big_body(total, before=answer_json[:-1], after=b"}"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with here.asking() as client:
            status, headers = client.head()
            assert (status, int(headers["content-length"])) == (200, total)
            received = bytearray(len(client._buffer))
            count = len(received)
            window = bytearray(MIB)
            while count < total:
                part = client.socket.recv_into(window)
                assert part, "the answer broke off"
                count += part
        assert count == total
        here.quiet()
        # The answer, the provider and the caller live in one process: what is held of 200 MB must be little.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        assert (here.record()["outcome"], here.record()["response_bytes"]) == ("success", total)
        here.assert_serves()


def test_f24_a_huge_answer_that_breaks_off_is_visibly_incomplete(tmp_path: Path) -> None:
    start = head(200, {**JSON, "Transfer-Encoding": "chunked"})
    block = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
    with site(tmp_path, CHAT, keys=1, max_buffered_answer=MIB) as here:
        # A reset takes with it what was not read yet: it comes when the caller has seen the beginning.
        begun = threading.Event()
        here.script(pieces(start, *[block] * 4, wait_for(begun), reset()))
        with here.asking() as client:
            assert client.head()[0] == 200
            begun.set()
            body, complete = client.rest()
        assert (set(body), complete) == ({32}, False)
        here.quiet()
        assert here.record()["outcome"] == "upstream_cut"
        assert here.states() == ["Healthy"]
        here.assert_serves()


def test_f24_a_stream_that_nobody_asked_for_is_collected_up_to_the_limit(tmp_path: Path) -> None:
    words = [canned.chat_chunk({"content": "x" * 4096})] * 64
    endless = stream([canned.CHAT_ROLE, *words, canned.CHAT_FINISH, canned.DONE])
    with site(tmp_path, CHAT, max_buffered_answer=65536) as here:
        here.script(endless)

        here.assert_rotated(here.ask(), "too_large")
        here.assert_serves()


# -- F25 ----------------------------------------------------------------------------------------------


def test_f25_what_is_no_strict_json_rotates_and_never_becomes_a_traceback(tmp_path: Path, plain: Dialect) -> None:
    whole = plain.good_body
    bodies = {
        "cut JSON": whole[:-1],
        "two documents": whole + whole,
        "trailing text": whole + b" and more",
        "invalid UTF-8": whole.replace(b"upstream", b"up\xff\xfestream"),
        "latin-1": whole.replace(b"upstream", "Übung".encode("latin-1")),
        "a lone surrogate half": whole.replace(b"upstream", b"\xed\xa0\x80"),
        "a byte order mark": b"\xef\xbb\xbf" + whole,
        "UTF-16": whole.decode().encode("utf-16"),
        "NaN": whole[:-1] + b', "logprob": NaN}',
        "Infinity": whole[:-1] + b', "logprob": -Infinity}',
        "single quotes": whole.replace(b'"', b"'"),
        "a raw control character": whole.replace(b"upstream", b"up\x00stream"),
        "nesting without end": b'{"choices": ' + b"[" * 100_000,
    }
    with site(tmp_path, plain) as here:
        assert_each_rotates(here, {name: reply(200, JSON, body) for name, body in bodies.items()})


def test_f25_odd_but_valid_json_passes_as_it_is(tmp_path: Path, plain: Dialect) -> None:
    whole = plain.good_body
    bodies = {
        "white space around": b"\r\n\t " + whole + b"\n\n",
        "escapes": whole.replace(b"upstream", b"\\u00dcbung \\ud83d\\ude00"),
        "a number with many digits": whole[:-1] + b', "x": 3.14159265358979323846264338327950288}',
        "a member twice": whole[:-1] + b', "x": 1, "x": 2}',
        "deep": whole[:-1] + b', "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    }
    with site(tmp_path, plain) as here:
        for name, body in bodies.items():
            here.script(*[reply(200, JSON, body)] * 2)
            answer = here.ask()
            assert (name, answer.status, answer.body) == (name, 200, body)
            assert here.verdicts() == [("ok", "")]


def test_f25_absurd_numbers_of_tokens_count_as_not_said(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 2**63, "completion_tokens": -1, "total_tokens": "many"}
    with site(tmp_path, CHAT) as here:
        here.script(json_reply(canned.chat(usage=usage)))

        assert here.ask().json == canned.chat(usage=usage)

        record = here.record()
        assert (record["outcome"], record["input_tokens"], record["output_tokens"]) == ("success", None, None)


def test_f25_an_answer_in_single_bytes_is_the_same_answer(tmp_path: Path, dialect: Dialect) -> None:
    start = head(200, {"Content-Type": content_type(dialect), "Content-Length": str(len(dialect.good_body))})
    with site(tmp_path, dialect) as here:
        here.script(pieces(*sliced(start + dialect.good_body)))

        here.assert_good(here.ask())
        assert here.verdicts() == [("ok", "")]
