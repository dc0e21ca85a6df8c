"""Request bodies are read strictly and edited without touching a byte that was not asked for."""

from __future__ import annotations

import json
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, InvalidJson
from app.formats import json_body
from app.formats.json_body import FEW_BYTES, Names, parse_object, short_quoted

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)
json_objects = st.dictionaries(st.text() | st.sampled_from(["model", "stream", "tools"]), json_values, max_size=6)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":1,}',
        b'{"a":1}{}',
        b"{'a':1}",
        b'{"a":"\x01"}',
        b'{"a"',
        b"\x1f\x8b\x08gzip",
        nested(1000_000),
        b"[" * 2048,
    ],
)
def test_what_is_not_strict_json_is_refused_with_a_sentence_and_a_position(body):
    with pytest.raises(InvalidJson, match=r"at line \d+, column \d+\.$"):
        json_body.parse_object(body)


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_an_empty_body_is_named_as_such(body):
    with pytest.raises(InvalidJson, match=r"^The request body is empty\."):
        json_body.parse_object(body)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_refused_and_utf8_is_named(encoding):
    with pytest.raises(InvalidJson, match="UTF-8"):
        json_body.parse_object('{"model":"é"}'.encode(encoding))


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null"])
def test_a_body_that_is_not_an_object_is_refused(body):
    with pytest.raises(InvalidJson, match="must be a JSON object"):
        json_body.parse_object(body)


def test_the_message_never_quotes_the_body():
    with pytest.raises(InvalidJson) as caught:
        json_body.parse_object(b'{"key": sk-secret-secret}')

    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","messages":[{"model":1}],"model":"b"}', "model"),
        (b'{"mod\\u0065l":"a","model":"b"}', "model"),
        (b'{"mod\\u0065l":"a","\\u006Dodel":"b"}', "model"),
        (b'{"model":"a","\\u006dode\\u006C":"b"}', "model"),
        (b'{ "stream" : true , "stream":false}', "stream"),
        (b'{"tools":[{"name":"tools"}], "x":"tools","tools" :[]}', "tools"),
        (b'{"a\\"model":1,"model":1,"b":{"model":2},"model":3}', "model"),
    ],
)
def test_a_member_that_we_act_on_given_twice_is_refused(body, name):
    with pytest.raises(BadRequest) as caught:
        json_body.parse_object(body)

    assert (caught.value.code, caught.value.param) == ("duplicate_key", name)


@pytest.mark.parametrize(
    "body",
    [
        b'{"mod\\u0065l":"a"}',
        b'{"model":"a","x":{"model":"b"},"y":[{"model":1,"model":2}]}',
        b'{"model":"model","contents":[{"role":"model"},{"role":"model"}]}',
        b'{"a\\"model":1,"model":1}',
        b'{"x":1,"x":2,"model":"m"}',
        b'{"model":"a","text":"\\u006d \\"model\\": 1"}',
    ],
)
def test_members_of_that_name_elsewhere_are_no_duplicates(body):
    assert json_body.parse_object(body) == orjson.loads(body)


@settings(deadline=None)
@given(json_objects, json_objects)
def test_duplicates_are_found_whatever_surrounds_them(first, second):
    body = orjson.dumps(first)[:-1] + (b"," if first and second else b"") + orjson.dumps(second)[1:]
    twice = {"model", "stream", "tools"} & set(first) & set(second)

    if twice:
        with pytest.raises(BadRequest) as caught:
            json_body.parse_object(body)
        assert caught.value.code == "duplicate_key"
    else:
        assert json_body.parse_object(body) == {**first, **second}


@settings(deadline=None)
@given(json_objects)
def test_the_members_of_an_object_are_found_with_their_values(value):
    for body in (orjson.dumps(value), orjson.dumps(value, option=orjson.OPT_INDENT_2)):
        found = {member.name: orjson.loads(body[member.start : member.end]) for member in json_body.members(body)}
        assert found == value


@settings(deadline=None)
@given(json_objects)
def test_a_splice_replaces_what_is_there_and_puts_the_rest_in_front(value):
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2)

    edited = json_body.splice(body, {"model": b'"new"', "stream": b"true"})

    assert orjson.loads(edited) == {**value, "model": "new", "stream": True}


def test_a_splice_leaves_every_other_byte_as_it_was():
    body = b' {\t"a" : 1.0e5,\n "model" :  "old" , "z":["model", {"model":"x"}] }\r\n'

    edited = json_body.splice(body, {"model": b'"new"'})

    assert edited == body.replace(b'"old"', b'"new"')


def test_a_splice_inserts_into_an_empty_object():
    assert json_body.splice(b" { } ", {"a": b"1", "b": b"2"}) == b' {"a":1,"b":2 } '


def test_a_splice_finds_a_member_whose_name_is_escaped():
    assert json_body.splice(b'{"mod\\u0065l":"a"}', {"model": b'"b"'}) == b'{"mod\\u0065l":"b"}'


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (7, 7), (2**53, 2**53), (2**53 + 1, None), (-1, None)])
def test_a_token_count_is_a_whole_number_in_range(value, expected):
    assert json_body.count(value) == expected


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], {}])
def test_what_is_not_a_whole_number_is_no_token_count(value):
    assert json_body.count(value) is None


def test_scanning_is_linear_and_quick():
    messages = [{"role": "user", "content": 'text with "quotes" and [brackets] ' * 20} for _ in range(1500)]
    body = orjson.dumps({"messages": messages, "deep": [[[[]]]] * 1000, "model": "m", "stream": False})
    image = b'{"image":"' + b"A" * 20_000_000 + b'","model":"m"}'

    started = time.perf_counter()
    json_body.splice(body, {"model": b'"n"'})
    json_body.splice(image, {"model": b'"n"'})

    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("depth", [900, 1020])
def test_deep_nesting_up_to_the_limit_is_scanned_without_recursion(depth):
    body = nested(depth)[:-1] + b',"model":"a"}'

    json_body.parse_object(body)

    assert json_body.splice(body, {"model": b'"b"'}) == body.replace(b'"a"}', b'"b"}')


@settings(deadline=None)
@given(json_values)
def test_values_beyond_the_writer_s_depth_are_written_too(value):
    for _ in range(300):
        value = {"a": [value, 1], 'b"': "\u00e9"}

    assert orjson.loads(json_body.dumps(value)) == value
    assert json_body.dumps(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_what_is_not_json_is_not_written():
    with pytest.raises(TypeError):
        json_body.dumps({"a": object()})


@pytest.mark.parametrize("padding", [b"", b" " * FEW_BYTES, b'"' * 3 * FEW_BYTES, b"x" * 3 * FEW_BYTES])
@pytest.mark.parametrize("around", [b'{"a": 1, %b: 2}', b'"%b"', b'%b,"model"', b'\\"%b\\"', b'"a"%b"b"'])
def test_a_name_in_quotation_marks_is_found_in_small_and_large_bodies(around: bytes, padding: bytes) -> None:
    for body in (padding + around % b'"model"', around % b'"model"' + padding, padding + around % b'"model"' + padding):
        names = Names(body)
        assert names.hold(b'"other"', b'"model"')
        assert names.hold(b'"model2"') is (b'"model2"' in body)
        assert names.repeat((b'"other"', b'"model"')) is (body.count(b'"model"') > 1)
        assert Names(body.replace(b"model", b"mode")).hold(b'"model"') is False


@given(st.lists(st.sampled_from([b'"', b"model", b"x" * 40, b":", b",", b"\\", b" " * 3000]), max_size=40))
def test_what_stands_in_quotation_marks_is_never_missed(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    found = short_quoted(body)
    assert found is not None
    assert found.count(b"model") >= body.count(b'"model"')
    assert (b"model" in found) is (b'"model"' in body)


@pytest.mark.parametrize("size", [10, 10 * FEW_BYTES])
def test_a_member_that_stands_twice_is_refused_in_small_and_large_bodies(size: int) -> None:
    text = b'"messages": "%b"' % (b"x" * size)
    parse_object(b'{"model": "a", %b}' % text)
    with pytest.raises(BadRequest):
        parse_object(b'{"model": "a", %b, "model": "b"}' % text)
