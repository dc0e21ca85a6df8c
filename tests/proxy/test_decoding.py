"""Content encodings: decoded the same for every slicing, and never beyond their limits."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.proxy.decoding import FREE_BYTES, DecodingFailed, decoder

TEXT = b'{"text": "Hello from upstream, hello again."}' * 20
LIMIT = 1 << 30


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "x-gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    " GZip ": lambda data: gzip.compress(data, mtime=0),
    "identity": bytes,
    "": bytes,
}


def decode(encoding: str, *pieces: bytes, max_bytes: int = LIMIT, max_ratio: float = 200) -> bytes:
    undo = decoder(encoding, max_bytes, max_ratio)
    decoded = b"".join(undo.feed(piece) for piece in pieces)
    undo.end()
    return decoded


@pytest.mark.parametrize("encoding", PACKERS)
def test_what_was_encoded_comes_out_again_byte_by_byte_and_in_one_piece(encoding: str) -> None:
    packed = PACKERS[encoding](TEXT)

    assert decode(encoding, packed) == TEXT
    assert decode(encoding, *(packed[at : at + 1] for at in range(len(packed)))) == TEXT


def test_deflate_without_its_wrapper_is_read_too_byte_by_byte_and_in_one_piece() -> None:
    packed = _raw_deflate(TEXT)

    assert decode("deflate", packed) == TEXT
    assert decode("deflate", *(packed[at : at + 1] for at in range(len(packed)))) == TEXT


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000), st.integers(1, 50))
def test_any_bytes_survive_gzip_in_any_slices(data: bytes, size: int) -> None:
    packed = gzip.compress(data)

    assert decode("gzip", *(packed[at : at + size] for at in range(0, len(packed), size))) == data


def test_the_members_of_a_gzip_series_are_joined_wherever_it_is_cut() -> None:
    packed = gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(b"and more")

    for cut in range(1, len(packed)):
        assert decode("gzip", packed[:cut], packed[cut:]) == TEXT + b"and more"


def test_a_body_flushed_event_by_event_comes_out_event_by_event() -> None:
    packer = zlib.compressobj(wbits=31)
    undo = decoder("gzip", LIMIT, 200)

    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert undo.feed(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)) == event
    assert undo.feed(packer.flush()) == b""
    undo.end()


def test_no_data_at_all_is_an_empty_body() -> None:
    assert decode("gzip") == b""
    assert decode("gzip", b"") == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_end_in_the_middle_is_an_error_wherever_it_is(encoding: str) -> None:
    packed = PACKERS[encoding](TEXT)

    for cut in range(1, len(packed)):
        with pytest.raises(DecodingFailed):
            decode(encoding, packed[:cut])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("data", [b"plain text", b"\x1f\x8b and no more", b"\x00", b"\xff" * 40])
def test_what_is_not_encoded_as_declared_is_an_error(encoding: str, data: bytes) -> None:
    with pytest.raises(DecodingFailed):
        decode(encoding, data)


def test_a_changed_byte_is_noticed() -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[len(packed) // 2] ^= 1

    with pytest.raises(DecodingFailed):
        decode("gzip", bytes(packed))


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "rot13", "x" * 5000])
def test_an_encoding_that_is_not_known_is_refused_in_a_short_sentence(encoding: str) -> None:
    with pytest.raises(DecodingFailed) as refusal:
        decoder(encoding, LIMIT)
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize("size", [999, 1000, 1001])
def test_the_limit_counts_to_the_byte(size: int) -> None:
    packed = gzip.compress(bytes(size))

    for pieces in ([packed], [packed[at : at + 1] for at in range(len(packed))]):
        if size <= 1000:
            assert decode("gzip", *pieces, max_bytes=1000) == bytes(size)
        else:
            with pytest.raises(DecodingFailed, match="limit"):
                decode("gzip", *pieces, max_bytes=1000)


def test_the_limit_counts_over_all_members() -> None:
    with pytest.raises(DecodingFailed, match="limit"):
        decode("gzip", gzip.compress(bytes(600)) * 2, max_bytes=1000)


def test_what_grows_like_a_bomb_is_refused_before_it_takes_memory() -> None:
    packed = gzip.compress(bytes(64 << 20))
    undo = decoder("gzip", LIMIT, 200)
    sizes: list[int] = []

    with pytest.raises(DecodingFailed, match="limit"):
        sizes.extend(len(undo.feed(packed[at : at + 1024])) for at in range(0, len(packed), 1024))

    assert sum(sizes) <= FREE_BYTES


def test_a_bomb_in_one_piece_is_refused_too() -> None:
    with pytest.raises(DecodingFailed, match="limit"):
        decode("gzip", gzip.compress(bytes(64 << 20)))


def test_a_small_body_may_shrink_as_it_likes() -> None:
    assert decode("gzip", gzip.compress(bytes(FREE_BYTES))) == bytes(FREE_BYTES)


def test_long_ordinary_text_is_no_bomb() -> None:
    events = b"".join(
        b'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [{"delta": {"content": "%d"}}]}\n\n'
        % number
        for number in range(100_000)
    )

    assert decode("gzip", gzip.compress(events, 9)) == events
