"""The pieces of a JSON array that arrives in reads of any size."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats import json_array
from app.formats.json_array import Splitter

ARRAY = b'[{"a": "x]},{\\"\\\\"}\r\n,\r\n{"b": [1, {"c": {}}]}\n]'
PIECES = [b'[{"a": "x]},{\\"\\\\"}', b'\r\n,\r\n{"b": [1, {"c": {}}]}']


def split(data: bytes, cuts: list[int]) -> tuple[list[bytes], Splitter]:
    splitter = Splitter()
    pieces: list[bytes] = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        pieces += splitter.feed(data[start:end])
    return pieces, splitter


def test_each_piece_is_one_object_with_what_stands_before_it():
    pieces, splitter = split(ARRAY, [])

    assert pieces == PIECES
    assert splitter.closed
    assert splitter.rest() == b"\n]"
    assert splitter.rest() == b""


@pytest.mark.parametrize("cut", range(len(ARRAY) + 1))
def test_the_pieces_are_the_same_wherever_a_read_ends(cut):
    assert split(ARRAY, [cut])[0] == PIECES


def test_one_byte_at_a_time_gives_the_same_pieces():
    assert split(ARRAY, list(range(len(ARRAY))))[0] == PIECES


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{},:\n\u2028é😀'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
objects = st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4), max_size=5)


@given(objects, st.lists(st.integers(0, 400), max_size=20), st.sampled_from([None, 1]), st.booleans())
def test_joined_pieces_are_the_input_and_each_holds_its_object(expected, cuts, indent, ascii_only):
    data = json.dumps(expected, indent=indent, ensure_ascii=ascii_only).encode()

    pieces, splitter = split(data, cuts)

    assert splitter.closed
    assert [json.loads(json_array.object_of(piece)) for piece in pieces] == expected
    assert b"".join(pieces) + splitter.rest() == data


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_garbage_comes_out_as_it_went_in(data, cuts):
    pieces, splitter = split(data, cuts)

    assert b"".join(pieces) + splitter.rest() == data
    assert pieces == split(data, [])[0]


def test_an_array_that_was_cut_is_not_closed_and_its_rest_is_given_back():
    pieces, splitter = split(b'[{"a":1},\n{"b":', [])

    assert pieces == [b'[{"a":1}']
    assert not splitter.closed
    assert splitter.rest() == b',\n{"b":'
    assert splitter.rest() == b""


def test_an_empty_array_has_no_piece():
    pieces, splitter = split(b"[ ]\n", [])

    assert pieces == []
    assert splitter.closed
    assert splitter.rest() == b"[ ]\n"


def test_what_comes_after_the_array_is_no_piece():
    pieces, splitter = split(b'[{"a":1}] {"b":2}', [10, 12])

    assert pieces == [b'[{"a":1}']
    assert splitter.rest() == b'] {"b":2}'


def test_an_object_without_an_array_is_a_piece_and_closes_nothing():
    pieces, splitter = split(b' {"error": {"code": 400}} ', [5])

    assert pieces == [b' {"error": {"code": 400}}']
    assert not splitter.closed


def test_an_object_beyond_the_limit_comes_out_in_parts():
    splitter = Splitter(max_object_bytes=100)
    data = b'[{"a":"' + b"x" * 500 + b'"},{"b":1}]'

    pieces = [piece for start in range(0, len(data), 40) for piece in splitter.feed(data[start : start + 40])]

    assert b"".join(pieces) + splitter.rest() == data
    assert splitter.oversized
    assert splitter.closed
    assert max(map(len, pieces)) <= 140


def test_a_long_object_in_small_reads_takes_linear_time():
    data = b'[{"a":"' + b'\\"x' * 700_000 + b'"}]'
    splitter = Splitter()

    started = time.monotonic()
    pieces = [piece for start in range(0, len(data), 100) for piece in splitter.feed(data[start : start + 100])]

    assert b"".join(pieces) + splitter.rest() == data
    assert time.monotonic() - started < 5
