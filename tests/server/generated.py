"""Requests for property tests: well-formed ones, ones that smuggle, and ones with a few bytes changed."""

from __future__ import annotations

from hypothesis import strategies as st

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
TARGETS = (b"/", b"/v1/models", b"/a?b=c&d", b"/%2e%2e/x", b"/" + b"long/" * 40, b"/a#b", b"*", b"http://a/b", b"//a")
VERSIONS = (b"HTTP/1.1",) * 12 + (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/11")
HOSTS = (b"Host: a",) * 12 + (b"hOsT:\ta:80 ", b"Host: [::1]:1", b"Host:", b"Host: a b", b"Host: a/b", b"Host: u@a")
FIELDS = (
    b"X-A: b",
    b"X-Empty:",
    b"X-Blank:  \t ",
    b'X-Quoted: "a, b" ',
    b"X-Bytes: \xe9\xff",
    b"Accept: */*",
    b"Connection: close",
    b"Connection: keep-alive",
    b"connection: Keep-Alive, X-A",
    b"Connection: X-A, close",
    b"Connection: close, keep-alive",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
)
#: Each alone makes a request that two readers could understand in two ways, or that none should.
SMUGGLING = (
    b"Content-Length: 3",
    b"Content-Length: +3",
    b"Content-Length: -1",
    b"Content-Length: 0x3",
    b"Content-Length: 3, 3",
    b"Content-Length: 3 3",
    b"Content-Length: 3;x",
    b"Content-Length:",
    b"Content-Length: 18446744073709551616",
    b"Content-Length : 3",
    b"Content_Length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked ",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\r\n chunked",
    b" Transfer-Encoding: chunked",
    b"\tX: y",
    b"X-A: b\r\n c",
    b"X-A: b\nTransfer-Encoding: chunked",
    b"X-A: b\rTransfer-Encoding: chunked",
    b"X-A: b\x00",
    b"X-A: \x01",
    b"X-A: \x7f",
    b"X\x00A: b",
    b"X A: b",
    b"X\xe9: b",
    b": b",
    b"no colon",
    b"Host: b",
    b"Expect: 200-ok",
)
#: Beside a body that would be right.
BAD_LENGTHS = tuple(b"Content-Length: " + value for value in (b"+%d", b"%d,", b"%d, 7", b"0x%x", b"%d 0", b"%d\x0b"))
BAD_CODINGS = tuple(
    b"Transfer-Encoding: " + value
    for value in (b"gzip, chunked", b", chunked", b"chunked;q=1", b'"chunked"', b"chunked, chunked", b"chunked\x00")
)
SIZES = (b"%x", b"%X", b"0%x", b"00000000000000000000%x")
BAD_SIZES = (
    b"+%x",
    b"-%x",
    b"0x%x",
    b" %x",
    b"%x ",
    b"%x\t",
    b"%x_",
    b"%x,",
    b"",
    b"g",
    b"fffffffffffffffff",
    b"%x;\n",
)
EXTENSIONS = (b"", b"", b"", b"", b";a", b";a=b", b';a="b;c"', b";a;b=c")
BAD_EXTENSIONS = (b";", b" ;a", b"; a", b";a =b", b";a=", b';a="', b";\x00", b";a\rb", b";a\nb")
ENDS = (b"\r\n",) * 20 + (b"\n", b"\r", b"", b"\r\r\n", b"X\n", b"\r\nX")
TRAILERS = (b"", b"", b"", b"X-T: y\r\n", b"X-T: y\r\nX-U:\r\n", b"Host: evil\r\n", b"Authorization: evil\r\n")
BAD_TRAILERS = (b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"X-T: y\n", b" X: y\r\n", b"no colon\r\n")
#: What a change of one byte puts in.
SPECIAL = (b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"\x00", b"0", b"+", b"x", b"\x80", b"\r\n\r\n", b"#")


def rarely(draw: st.DrawFn, good: tuple[bytes, ...], bad: tuple[bytes, ...]) -> bytes:
    """Mostly a good one: each of many parts can spoil the whole."""
    return draw(st.sampled_from(bad if draw(st.integers(0, 19)) == 19 else good))


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunked body, now and then a broken one."""
    data = b""
    for _ in range(draw(st.integers(0, 3))):
        content = draw(st.binary(min_size=1, max_size=20))
        size = rarely(draw, SIZES, BAD_SIZES)
        size = size % len(content) if b"%" in size else size
        end = rarely(draw, (b"\r\n",), ENDS)
        data += size + rarely(draw, EXTENSIONS, BAD_EXTENSIONS) + b"\r\n" + content + end
    return data + b"0\r\n" + rarely(draw, TRAILERS, BAD_TRAILERS) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request with its body."""
    line = b" ".join([draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)), draw(st.sampled_from(VERSIONS))])
    fields = [draw(st.sampled_from(HOSTS)), *draw(st.lists(st.sampled_from(FIELDS), max_size=3))]
    body = b""
    match draw(st.sampled_from(["nothing", "length", "chunks"])):
        case "length":
            body = draw(st.binary(max_size=40))
            length = rarely(draw, (b"Content-Length: %d", b"content-length:\t00%d "), BAD_LENGTHS)
            fields.append(length % len(body))
        case "chunks":
            body = draw(chunks())
            fields.append(rarely(draw, (b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED "), BAD_CODINGS))
    if draw(st.integers(0, 4)) == 4:
        fields.append(draw(st.sampled_from(SMUGGLING)))
    fields = draw(st.permutations(fields))
    return b"".join([line, b"\r\n", *(field + b"\r\n" for field in fields), b"\r\n", body])


@st.composite
def connections(draw: st.DrawFn) -> bytes:
    """All that one client sends: requests one behind the other, a few bytes of them changed now and then."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=4)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from((b"", *SPECIAL))) + data[at + draw(st.integers(0, 2)) :]
    return data


def split(data: bytes, at: list[int]) -> list[bytes]:
    """`data` cut at these places, wherever they are."""
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[start:end] for start, end in zip(places, places[1:], strict=False) if start < end]
