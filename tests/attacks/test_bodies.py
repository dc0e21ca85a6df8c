"""
Bodies that no reader should trust: every one is refused in the caller's own dialect, before a key is chosen.

S21 to S23 of the security plan, and the list of bad input: wrong JSON, wrong types, deep nesting, lone surrogates,
numbers beyond a double, members given twice, nothing at all, too much, and compressed too well.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.dialects import CHAT, DIALECTS, GEMINI, KEY_HEADERS, MESSAGES, RESPONSES, Dialect, Target, target
from tests.gateway import Answer

MAX_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("bodies")
    with target(folder, settings={"max_request_size": MAX_BYTES}) as running:
        yield running


def send(attacked: Target, dialect: Dialect, body: bytes, **headers: str) -> Answer:
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return attacked.gateway.request("POST", dialect.path, body=body, headers=sent)


def assert_refused(attacked: Target, dialect: Dialect, body: bytes, *statuses: int, **headers: str) -> dict[str, Any]:
    with attacked.untouched():
        answer = send(attacked, dialect, body, **headers)
        assert answer.status in (statuses or (400,)), (answer.status, answer.body[:300])
        return dialect.check_error(answer.status, answer.headers["content-type"], answer.body)


def with_member(dialect: Dialect, raw: str) -> bytes:
    """The dialect's good body with `raw` as the value of one more member."""
    return json.dumps(dialect.body)[:-1].encode() + b', "extra": ' + raw.encode() + b"}"


BROKEN = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "half": b'{"model": "m", "messages": [',
    "two values": b"{} {}",
    "trailing comma": b'{"model": "m",}',
    "single quotes": b"{'model': 'm'}",
    "comment": b'{"model": "m" /* x */}',
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "text": b'"text"',
    "list": b"[]",
    "list of objects": b'[{"model": "m"}]',
    "not json": b"model=m&messages=x",
    "html": b"<html><body>x</body></html>",
    "gzip without a header": gzip.compress(b"{}", mtime=0),
    "utf-16": '{"model": "m"}'.encode("utf-16"),
    "utf-32": '{"model": "m"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "bad utf-8": b'{"model": "\xff\xfe"}',
    "overlong utf-8": b'{"model": "\xc0\xaf"}',
    "raw surrogate": b'{"model": "\xed\xa0\x80"}',
    "nul": b'{"model": "m"}\x00',
    "control character": b'{"model": "a\x01b"}',
    "1000 brackets": b"[" * 1000,
    "2 kB of brackets": b"[" * 1024 + b"]" * 1024,
    "2 kB of braces": b'{"a":' * 400,
    "100,000 brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("body", BROKEN.values(), ids=list(BROKEN))
def test_a_body_that_is_no_json_object_is_refused(attacked: Target, dialect: Dialect, body: bytes) -> None:
    assert_refused(attacked, dialect, body)


STRANGE = {
    "2 kB of nested lists": "[" * 1024 + "]" * 1024,
    "100,000 levels": "[" * 100_000 + "]" * 100_000,
    "50,000 objects": '{"a":' * 30_000 + "1" + "}" * 30_000,
    "lone surrogate": '"\\ud800"',
    "surrogates the wrong way round": '"\\udc00\\ud800"',
    "lone surrogate as a name": '{"\\udfff": 1}',
    "infinity": "1e999999",
    "minus infinity": "-1e999999",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "hexadecimal": "0x10",
    "leading zero": "007",
    "plus": "+1",
    "half a number": "1.",
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("raw", STRANGE.values(), ids=list(STRANGE))
def test_s21_a_value_that_two_readers_take_differently_is_refused(attacked: Target, dialect: Dialect, raw: str) -> None:
    assert_refused(attacked, dialect, with_member(dialect, raw))


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s21_a_number_of_many_digits_does_no_harm(attacked: Target, dialect: Dialect) -> None:
    started = time.monotonic()
    answer = send(attacked, dialect, with_member(dialect, "9" * 200_000))
    assert time.monotonic() - started < 2.0
    assert answer.status in (200, 400)
    if answer.status == 400:
        dialect.check_error(400, answer.headers["content-type"], answer.body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("name", ["model", "stream", "tools"])
@pytest.mark.parametrize("escaped", [False, True])
def test_s21_a_member_that_decides_something_is_given_once(
    attacked: Target, dialect: Dialect, name: str, escaped: bool
) -> None:
    spelt = f"\\u{ord(name[0]):04x}{name[1:]}" if escaped else name
    value = {"model": '"other"', "stream": "false", "tools": "[]"}[name]
    body = json.dumps({name: json.loads(value), **dialect.body})[:-1] + f', "{spelt}": {value}}}'
    error = assert_refused(attacked, dialect, body.encode())
    assert name in error["message"]


WRONG_TYPES: dict[str, tuple[tuple[Dialect, ...], dict[str, Any]]] = {
    "model is a number": ((CHAT, RESPONSES, MESSAGES), {"model": 7}),
    "model is a list": ((CHAT, RESPONSES, MESSAGES), {"model": ["gpt-test"]}),
    "model is an object": ((CHAT, RESPONSES, MESSAGES), {"model": {"name": "gpt-test"}}),
    "model is null": ((CHAT, RESPONSES, MESSAGES), {"model": None}),
    "model is empty": ((CHAT, RESPONSES, MESSAGES), {"model": ""}),
    "model is true": ((CHAT, RESPONSES, MESSAGES), {"model": True}),
    "model is too long": ((CHAT, RESPONSES, MESSAGES), {"model": "m" * 10_000}),
    "stream is text": ((CHAT, RESPONSES, MESSAGES), {"stream": "true"}),
    "stream is a number": ((CHAT, RESPONSES, MESSAGES), {"stream": 1}),
    "stream is a list": ((CHAT, RESPONSES, MESSAGES), {"stream": [True]}),
    "messages is text": ((CHAT, MESSAGES), {"messages": "Hi"}),
    "messages is an object": ((CHAT, MESSAGES), {"messages": {"role": "user"}}),
    "messages is null": ((CHAT, MESSAGES), {"messages": None}),
    "messages is empty": ((CHAT, MESSAGES), {"messages": []}),
    "messages holds no objects": ((CHAT, MESSAGES), {"messages": [1, 2]}),
    "contents is text": ((GEMINI,), {"contents": 5}),
    "contents is null": ((GEMINI,), {"contents": None}),
    "contents is empty": ((GEMINI,), {"contents": []}),
}


@pytest.mark.parametrize(("dialects", "change"), WRONG_TYPES.values(), ids=list(WRONG_TYPES))
def test_a_value_of_the_wrong_type_is_refused(
    attacked: Target, dialects: tuple[Dialect, ...], change: dict[str, Any]
) -> None:
    for dialect in dialects:
        assert_refused(attacked, dialect, json.dumps({**dialect.body, **change}).encode())


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s21_a_body_over_the_limit_is_too_large(attacked: Target, dialect: Dialect) -> None:
    error = assert_refused(attacked, dialect, with_member(dialect, '"' + "x" * MAX_BYTES + '"'), 413)
    assert str(MAX_BYTES) in error["message"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_s21_a_compressed_bomb_is_too_large(attacked: Target, dialect: Dialect, coding: str) -> None:
    bomb = gzip.compress(b" " * (200 * MAX_BYTES), mtime=0)
    assert len(bomb) < MAX_BYTES
    assert_refused(attacked, dialect, bomb, 413, Content_Encoding=coding)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", b"{}", 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(b'{"model": "m"}', mtime=0)[:-6], 400),
        ("deflate", b"\x00\x01\x02", 400),
        ("br", b"{}", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), 415),
        ("zstd", b"{}", 415),
        ("x" * 5000, b"{}", 415),
    ],
)
def test_s21_an_encoding_that_cannot_be_undone_is_refused(
    attacked: Target, dialect: Dialect, coding: str, body: bytes, status: int
) -> None:
    assert_refused(attacked, dialect, body, status, Content_Encoding=coding)


def test_s21_a_form_of_many_parts_is_passed_on_in_time(attacked: Target) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'
    started = time.monotonic()
    answer = attacked.gateway.request(
        "POST", "/v1/files", body=part * 4000 + b"--b--", headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status < 500
    assert time.monotonic() - started < 2.0


SMUGGLED = {
    "api_base": "http://127.0.0.1:9/",
    "base_url": "http://127.0.0.1:9/",
    "api_key": "sk-of-the-attacker",
    "user_config": {"api_base": "http://127.0.0.1:9/", "model_list": []},
    "extra_headers": {"Authorization": "Bearer x", "X-Evil": "1"},
    "custom_llm_provider": "anthropic",
    "provider": "anthropic",
    "metadata": {"base_url": "http://127.0.0.1:9/"},
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s22_a_body_does_not_choose_where_it_goes_or_with_which_key(attacked: Target, dialect: Dialect) -> None:
    answer = send(attacked, dialect, json.dumps({**dialect.body, **SMUGGLED}).encode())
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.headers["x-middleware-provider"] == dialect.provider
        last = attacked.upstream.received[-1]
        assert last.key == {"openai": "sk-test-openai-key-0001", "anthropic": "sk-ant-test-key-0001"}.get(
            dialect.provider, "AIza-test-gemini-key-0001"
        )
        assert "x-evil" not in last.headers
        assert last.headers["host"] == attacked.upstream.origin.removeprefix("http://")


def hostile_tools(dialect: Dialect) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}, "b": {"$ref": "#"}},
        "$defs": {"x": {"$ref": "#/$defs/x"}},
    }
    if dialect is GEMINI:
        tool: dict[str, Any] = {"functionDeclarations": [{"name": "f", "parameters": schema}]}
    elif dialect is MESSAGES:
        tool = {"name": "f", "input_schema": schema}
    elif dialect is RESPONSES:
        tool = {"type": "function", "name": "f", "parameters": schema}
    else:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return {**dialect.body, "tools": [tool] * 1000}


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_s23_hostile_schemas_and_many_tools_take_less_than_a_second(attacked: Target, dialect: Dialect) -> None:
    body = json.dumps(hostile_tools(dialect)).encode()
    assert len(body) < MAX_BYTES
    started = time.monotonic()
    answer = send(attacked, dialect, body)
    assert answer.status in (200, 400)
    assert time.monotonic() - started < 1.0


METHODS = ("PUT", "PATCH", "OPTIONS", "TRACE", "PURGE", "PROPFIND")


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_the_path_does_not_have_is_refused_in_the_dialect(
    attacked: Target, dialect: Dialect, method: str
) -> None:
    with attacked.untouched():
        # The path alone does not always tell the format; the SDK's own header does.
        answer = attacked.gateway.request(method, dialect.path, headers={KEY_HEADERS[dialect.provider]: "x"})
        assert answer.status == 405, answer.body
        assert "POST" in answer.headers["allow"].split(", ")
        dialect.check_error(405, answer.headers["content-type"], answer.body)


def test_nothing_of_all_this_is_kept_as_a_defect(attacked: Target) -> None:
    attacked.works()
    assert [row for row in attacked.gateway.records() if row["outcome"] == "internal_error"] == []
