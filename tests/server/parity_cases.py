"""
What both drivers must treat alike: requests as bytes, what the upstream does about them, and what holds meanwhile.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests import canned, canned_errors
from tests.fake_provider import (
    Behavior,
    chunked_without_end,
    close_without_answer,
    deflate_body,
    early_hints_then,
    encoded_body,
    garbage_status_line,
    gzip_body,
    head,
    huge_header,
    json_reply,
    many_headers,
    pieces,
    redirect,
    reply,
    reset,
    reset_after,
    reset_before_status,
    send,
    short_content_length,
    silence,
    sliced,
    stream,
    switching_protocols,
    truncated_gzip,
)
from tests.gateway import Gateway
from tests.proxy.stream_cases import CASES as STREAMS
from tests.proxy.stream_cases import StreamCase

Json = dict[str, Any]

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-test"
JSON = {"Content-Type": "application/json"}
PAGE = "https://page.example"
#: Where a client key that was made for the case belongs in its request.
CLIENT = b"{client-key}"
CHAT_STREAMED = canned.CHAT_REQUEST | {"stream": True}
CHAT_STREAMED_WITH_USAGE = CHAT_STREAMED | {"stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Case:
    """
    upstream  -- one behavior for each attempt
    settings  -- live settings while it runs
    aliases   -- model aliases while it runs
    client    -- fields of a client key that exists while it runs
    times     -- so often the request is sent, one after the other
    crowded   -- another request is under way meanwhile
    made_id   -- the request id is one that the server made
    """

    request: bytes
    upstream: tuple[Behavior, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    client: Mapping[str, Any] | None = None
    times: int = 1
    crowded: bool = False
    made_id: bool = False


def request(method: str, path: str, *headers: str, body: bytes | None = None, request_id: str = "same") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"X-Request-ID: {request_id}"] * bool(request_id)
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + (body or b"")


def post(path: str, body: Json | bytes, *headers: str, **more: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("POST", path, *headers, body=data, **more)


def asking(case: StreamCase) -> bytes:
    return post(case.dialect.path, case.dialect.request)


def chat(*upstream: Behavior, **more: Any) -> Case:
    return Case(post(CHAT, canned.CHAT_REQUEST), upstream, **more)


def chat_stream(*upstream: Behavior, **more: Any) -> Case:
    return Case(post(CHAT, CHAT_STREAMED), upstream, **more)


GOOD = json_reply(canned.chat())
GOOD_STREAM = stream(canned.chat_stream())
BAD_GATEWAY = reply(502, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR)


def plain_and_streamed() -> Iterator[tuple[str, Case]]:
    """The four formats, each way of asking."""
    for case in STREAMS:
        answer = case.plain_reply()
        plain = case.as_plain()
        yield f"{case} plain", Case(post(plain.path, plain.request), (answer,))
        yield f"{case} streamed", Case(asking(case), (case.streams(),))
        yield f"{case} answered plain although a stream was asked for", Case(asking(case), (answer,))
        yield f"{case} in single bytes", Case(asking(case), (case.streams(*sliced(case.body)),))
        yield f"{case} framed by the closing", Case(asking(case), (closed_after(case),))
        yield f"{case} with a length", Case(asking(case), (with_length(case),))
        yield f"{case} compressed", Case(asking(case), (gzip_body(case.body, case.content_type),))
        if not case.is_array:
            crlf, lf = (replace_ends(case.body, end) for end in (b"\r\n", b"\n"))
            yield f"{case} in lines with CRLF", Case(asking(case), (case.streams(crlf),))
            yield f"{case} in lines with LF", Case(asking(case), (case.streams(lf),))
            noted = b": a note\n\nretry: 100\n\n" + case.body.replace(b"\n\n", b"\n\n: another\n\n", 2)
            yield f"{case} with comments", Case(asking(case), (case.streams(noted),))
            unasked = case.as_plain()
            yield f"{case} streamed unasked", Case(post(unasked.path, unasked.request), (case.streams(),))
            yield f"{case} without its last blank line", Case(asking(case), (case.streams(case.body.rstrip()),))


def replace_ends(data: bytes, end: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", end)


def closed_after(case: StreamCase) -> Behavior:
    return stream([case.body], chunked=False, content_type=case.content_type)


def with_length(case: StreamCase) -> Behavior:
    return reply(200, {"Content-Type": case.content_type}, case.body)


def broken_streams() -> Iterator[tuple[str, Case]]:
    """Cuts at every stage, errors inside, missing ends."""
    for case in STREAMS:
        first, events = case.prologue, case.events
        for end in ("end", "close", "reset"):
            yield f"{case} cut in its prologue by {end}", Case(asking(case), (case.streams(*first, end=end),) * 2)
            some = (*first, *case.content[:2])
            yield f"{case} cut after content by {end}", Case(asking(case), (case.streams(*some, end=end),))
            half = (*some, case.content[2][: len(case.content[2]) // 2])
            yield f"{case} cut in an event by {end}", Case(asking(case), (case.streams(*half, end=end),))
        chunk = b"%x\r\n%b" % (len(case.body), b"".join(events[:4]))
        framed = send(head(200, {"Content-Type": case.content_type, "Transfer-Encoding": "chunked"}) + chunk)
        yield f"{case} cut in a chunk", Case(asking(case), (pieces(framed, reset()),))
        without = case.events[:-1]
        yield f"{case} without its last event", Case(asking(case), (case.streams(*without),))
        good = case.streams()
        yield f"{case} error before content", Case(asking(case), (case.streams(*first, case.in_band), good))
        late = case.streams(*first, *case.content[:1], case.in_band)
        yield f"{case} error after content", Case(asking(case), (late,))
        yield (
            f"{case} silent for too long",
            Case(asking(case), (case.streams(*first, case.content[0], silence()),), {"streaming_timeout": 0.3}),
        )
        failed = (case.streams(*first, end="reset"), good)
        yield f"{case} moved on from a broken prologue", Case(asking(case), failed)


def edited() -> Iterator[tuple[str, Case]]:
    """Answers that are changed on their way: usage, names."""
    yield "usage added and stripped", chat_stream(GOOD_STREAM)
    yield "usage asked for", Case(post(CHAT, CHAT_STREAMED_WITH_USAGE), (GOOD_STREAM,))
    yield "usage that does not come", chat_stream(stream(canned.chat_stream(usage=False)))
    yield "usage not added", chat_stream(GOOD_STREAM, settings={"openai_include_usage": False})
    for path, body, answer, events, provider in (
        (CHAT, canned.CHAT_REQUEST, canned.chat(), canned.chat_stream(), "openai"),
        (RESPONSES, canned.RESPONSES_REQUEST, canned.response(), canned.response_stream(), "openai"),
        (MESSAGES, canned.MESSAGES_REQUEST, canned.message(), canned.message_stream(), "anthropic"),
    ):
        aliases = {"fast": f"{provider}/real-1"}
        named = body | {"model": "fast"}
        yield f"{path} by an alias", Case(post(path, named), (json_reply(answer),), aliases=aliases)
        streamed = (stream(sliced(b"".join(events), 7)),)
        yield f"{path} by an alias, streamed", Case(post(path, named | {"stream": True}), streamed, aliases=aliases)
    gemini = {"fast": "gemini/gemini-test"}
    verb = "/v1beta/models/fast:generateContent"
    yield "gemini by an alias", Case(post(verb, canned.GEMINI_REQUEST), (json_reply(canned.gemini()),), aliases=gemini)
    array = stream(canned.gemini_array(), content_type="application/json")
    verb = "/v1beta/models/fast:streamGenerateContent"
    yield "gemini array by an alias", Case(post(verb, canned.GEMINI_REQUEST), (array,), aliases=gemini)
    path = "/openai/v1/chat/completions"
    yield "by the provider's prefix", Case(post(path, canned.CHAT_REQUEST), (GOOD,))
    yield "without a version", Case(post("/chat/completions", canned.CHAT_REQUEST), (GOOD,))


def framed() -> Iterator[tuple[str, Case]]:
    """Ways in which an upstream frames and codes a plain answer."""
    body = json.dumps(canned.chat()).encode()
    yield "chunked", chat(stream([body[:9], body[9:]], content_type="application/json"))
    yield "closed", chat(stream([body], chunked=False, content_type="application/json"))
    yield "closed too early", chat(stream([body[:50]], chunked=False, content_type="application/json"), GOOD)
    yield "gzip", chat(gzip_body(body))
    yield "deflate", chat(deflate_body(body))
    yield "no gzip", chat(encoded_body("gzip", body), GOOD)
    yield "brotli", chat(encoded_body("br", body), GOOD)
    yield "half a gzip", chat(truncated_gzip(body), GOOD)
    yield "compressed error", chat(compressed_error())
    yield "early hints", chat(early_hints_then(GOOD, times=3))
    yield "continue", chat(early_hints_then(GOOD, status=100))
    yield "more than the answer", chat(GOOD.then(b"HTTP/1.1 200 OK\r\n\r\n"))
    yield "huge header", chat(huge_header(), GOOD)
    yield "many headers", chat(many_headers(), GOOD)
    file = reply(200, {"Content-Type": "text/plain", "Content-Disposition": "attachment"}, b"x" * 300_000)
    yield "file", Case(request("GET", "/v1/files/file-1/content"), (file,))
    partial = reply(206, {"Content-Type": "text/plain", "Content-Range": "bytes 0-4/9"}, b"12345")
    yield "part of a file", Case(request("GET", "/v1/files/file-1/content", "Range: bytes=0-4"), (partial,))
    cut = short_content_length(b"x" * 70_000, 100_000)
    yield "file that breaks off", Case(request("GET", "/v1/files/file-1/content"), (cut,))
    yield "nothing", Case(request("DELETE", "/v1/files/file-1"), (reply(204),))


def compressed_error() -> Behavior:
    """The caller's own fault, in gzip."""
    coded = gzip.compress(json.dumps(canned_errors.OPENAI_BAD_REQUEST).encode(), mtime=0)
    return reply(400, {**JSON, "Content-Encoding": "gzip"}, coded)


def failing() -> Iterator[tuple[str, Case]]:
    """Every verdict, once as the end and once with a key that serves."""
    wait = {"Retry-After": "7"}
    openai = {
        "bad key": json_reply(canned_errors.OPENAI_BAD_KEY, 401),
        "rate limit": json_reply(canned_errors.OPENAI_RATE_LIMIT, 429, wait),
        "no quota": json_reply(canned_errors.OPENAI_NO_QUOTA, 429),
        "no model": json_reply(canned_errors.OPENAI_NO_MODEL, 404),
        "bad request": json_reply(canned_errors.OPENAI_BAD_REQUEST, 400),
        "server": json_reply(canned_errors.OPENAI_SERVER, 500),
        "country": json_reply(canned_errors.openai_error("no", code="unsupported_country_region_territory"), 403),
        "state": json_reply(canned_errors.openai_error("no", code="invalid_encrypted_content"), 400),
        "html": BAD_GATEWAY,
        "error in a 200": json_reply(canned_errors.OPENAI_SERVER, 200),
        "empty": reply(200, JSON),
        "no content": reply(204),
        "empty choices": json_reply(canned.chat() | {"choices": []}),
        "html in a 200": reply(200, {"Content-Type": "text/html"}, canned_errors.HTML_ERROR),
        "no JSON": reply(200, JSON, b'{"id": '),
        "redirect": redirect("http://127.0.0.1:9/"),
        "closed": close_without_answer(),
        "reset": reset_before_status(),
        "reset in the head": reset_after(b"HTTP/1.1 200 OK\r\nContent-"),
        "short": short_content_length(),
        "short and reset": short_content_length(rst=True),
        "chunked without end": chunked_without_end(),
        "garbage": garbage_status_line(),
        "101": switching_protocols(),
    }
    for name, behavior in openai.items():
        yield f"{name} everywhere", chat(*[behavior] * 4)
        yield f"{name} at first", chat(behavior, GOOD)
        yield f"{name} at first, streamed", chat_stream(behavior, GOOD_STREAM)
    anthropic = {
        "bad key": json_reply(canned_errors.ANTHROPIC_BAD_KEY, 401),
        "rate limit": json_reply(canned_errors.ANTHROPIC_RATE_LIMIT, 429, wait),
        "low credit": json_reply(canned_errors.ANTHROPIC_LOW_CREDIT, 400),
        "bad request": json_reply(canned_errors.ANTHROPIC_BAD_REQUEST, 400),
        "overloaded": json_reply(canned_errors.ANTHROPIC_OVERLOADED, 529),
        "html": BAD_GATEWAY,
    }
    for name, behavior in anthropic.items():
        body = post(MESSAGES, canned.MESSAGES_REQUEST)
        yield f"anthropic {name} everywhere", Case(body, (behavior,) * 4)
        yield f"anthropic {name} at first", Case(body, (behavior, json_reply(canned.message())))
    gemini = {
        "bad key": json_reply(canned_errors.GEMINI_BAD_KEY, 400),
        "per minute": json_reply(canned_errors.GEMINI_PER_MINUTE, 429),
        "per day": json_reply(canned_errors.GEMINI_PER_DAY, 429),
        "bad request": json_reply(canned_errors.GEMINI_BAD_REQUEST, 400),
        "no model": json_reply(canned_errors.GEMINI_NO_MODEL, 404),
        "overloaded": json_reply(canned_errors.GEMINI_OVERLOADED, 503),
        "in an array": json_reply([canned_errors.GEMINI_PER_MINUTE], 429),
    }
    for name, behavior in gemini.items():
        body = post(GEMINI + ":generateContent", canned.GEMINI_REQUEST)
        yield f"gemini {name} everywhere", Case(body, (behavior,) * 4)
        yield f"gemini {name} at first", Case(body, (behavior, json_reply(canned.gemini())))


def refused() -> Iterator[tuple[str, Case]]:
    """Limits, client keys, addresses, bodies."""
    small = {"max_request_size": 1024}
    yield "too large", Case(post(CHAT, b" " * 2000), settings=small)
    chunks = b"400\r\n" + b" " * 1024 + b"\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n0\r\n\r\n"
    chunked = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked") + chunks
    yield "too large in chunks", Case(chunked, settings=small)
    rate = {"enable_rate_limiting": True, "requests_per_minute": 1, "burst_allowance": 0}
    yield "rate limited", chat(GOOD, settings=rate, times=3)
    yield "concurrency", chat(GOOD, settings={"max_concurrent_requests": 1}, crowded=True)
    yield (
        "blocked agent",
        Case(post(CHAT, canned.CHAT_REQUEST, "User-Agent: scraper/1"), settings={"blocked_user_agents": "scraper"}),
    )
    with_key = post(CHAT, canned.CHAT_REQUEST, f"Authorization: Bearer {CLIENT.decode()}")
    yield "client key", Case(with_key, (GOOD,), client={})
    yield "client key missing", Case(post(CHAT, canned.CHAT_REQUEST), client={})
    yield "client key unknown", Case(post(CHAT, canned.CHAT_REQUEST, "x-api-key: nobody"), client={})
    yield "client key expired", Case(with_key, client={"expires_at": 1.0})
    yield "client key inactive", Case(with_key, client={"active": False})
    yield "model not allowed", Case(with_key, client={"models": ["claude-*"]})
    two = post(CHAT, canned.CHAT_REQUEST, f"Authorization: Bearer {CLIENT.decode()}", "x-api-key: another")
    yield "two client keys", Case(two, client={})
    for path, body in ((MESSAGES, canned.MESSAGES_REQUEST), (GEMINI + ":generateContent", canned.GEMINI_REQUEST)):
        yield f"client key missing at {path}", Case(post(path, body), client={})
    for name, body in {"no JSON": b'{"model":', "no model": b"{}", "twice": b'{"model": "a", "model": "b"}'}.items():
        yield f"body with {name}", Case(post(CHAT, body))
    yield "empty body", Case(post(MESSAGES, b""))
    yield "coded body", Case(post(CHAT, b"x", "Content-Encoding: br"))
    yield "damaged body", Case(post(CHAT, b"x", "Content-Encoding: gzip"))
    for target in ("/v1/nothing", "/nothing", "/v1/../v1/models", "/v1/%2e%2e/x", "/v1//models", "/v1/models/a%00b"):
        yield f"target {target}", Case(request("GET", target))
    yield "wrong method", Case(post("/v1/models", {}))
    yield "WebSocket", Case(request("GET", RESPONSES, "Upgrade: websocket"))
    yield "foreign host", Case(post(CHAT, canned.CHAT_REQUEST).replace(b"Host: localhost", b"Host: evil.example"))


def met_by_pages() -> Iterator[tuple[str, Case]]:
    """HEAD, OPTIONS, CORS, ids, lists."""
    cors = {"enable_cors": True, "cors_origins": PAGE}
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-a")
    yield "preflight", Case(request("OPTIONS", CHAT, f"Origin: {PAGE}", *asked), settings=cors)
    yield (
        "preflight of another page",
        Case(request("OPTIONS", CHAT, "Origin: https://b.example", *asked), settings=cors),
    )
    yield "preflight without CORS", Case(request("OPTIONS", CHAT, f"Origin: {PAGE}", *asked))
    yield "OPTIONS", Case(request("OPTIONS", CHAT))
    page = post(CHAT, canned.CHAT_REQUEST, f"Origin: {PAGE}")
    yield "page", Case(page, (GOOD,), settings=cors)
    yield "page, streamed", Case(post(CHAT, CHAT_STREAMED, f"Origin: {PAGE}"), (GOOD_STREAM,), settings=cors)
    yield "foreign page", Case(post(CHAT, canned.CHAT_REQUEST, "Origin: https://b.example"), settings=cors)
    model = json_reply({"id": "gpt-test", "object": "model"})
    yield "HEAD", Case(request("HEAD", "/v1/models/gpt-test"), (model,))
    yield "HEAD of a file", Case(request("HEAD", "/v1/files/file-1/content"), (reply(200, {}, b"x" * 999),))
    yield "HEAD of nothing", Case(request("HEAD", "/v1/nothing"))
    yield "id made", Case(post(CHAT, canned.CHAT_REQUEST, request_id=""), (GOOD,), made_id=True)
    yield "id that is none", Case(post(CHAT, canned.CHAT_REQUEST, request_id="a b"), (GOOD,), made_id=True)
    yield "id not told", chat(GOOD, settings={"enable_request_id_injection": False})
    openai = json_reply(canned.openai_models())
    yield "list of OpenAI", Case(request("GET", "/v1/models"), (openai,), times=2)
    anthropic = json_reply(canned.anthropic_models())
    version = "anthropic-version: 2023-06-01"
    yield "list of Anthropic", Case(request("GET", "/v1/models", version), (anthropic,), times=2)
    yield "list of Gemini", Case(request("GET", "/v1beta/models"), (json_reply(canned.gemini_models()),), times=2)
    yield "one model", Case(request("GET", "/v1/models/gpt-test"), (model,))
    twice = post(MESSAGES, canned.MESSAGES_REQUEST, "anthropic-beta: a", "anthropic-beta: b")
    yield "a header twice", Case(twice, (json_reply(canned.message()),))
    yield "embeddings", Case(post("/v1/embeddings", canned.EMBEDDINGS_REQUEST), (json_reply(canned.embeddings()),))
    count = post(MESSAGES + "/count_tokens", {k: v for k, v in canned.MESSAGES_REQUEST.items() if k != "max_tokens"})
    yield "count", Case(count, (json_reply(canned.COUNT_TOKENS),))
    excerpts = {"log_request_body": True, "log_response_body": True}
    yield "logged", chat_stream(GOOD_STREAM, settings=excerpts)


SOURCES = (plain_and_streamed, broken_streams, edited, framed, failing, refused, met_by_pages)


def _all() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for source in SOURCES:
        for name, case in source():
            assert name not in found, name
            found[name] = case
    return found


CASES = _all()


@contextmanager
def held(gateway: Gateway, case: Case) -> Iterator[Case]:
    """Settings, aliases and client key of a case are in force; yields it with its client key filled in."""
    services = gateway.services
    client_id, token = services.clients.create("parity", **case.client) if case.client is not None else (0, "")
    services.providers.set_aliases(dict(case.aliases))
    live = services.live_settings
    usual = live._base
    live._base = replace(usual, **case.settings)  # also beyond the ranges that people may set
    live.refresh()
    try:
        yield replace(case, request=case.request.replace(CLIENT, token.encode()))
    finally:
        live._base = usual
        live.refresh()
        if client_id:
            services.clients.delete(client_id)
