"""Both drivers run the same core: the same requests meet the same upstream and get the same answers, byte for byte."""

import json

import pytest

from tests import canned, canned_errors
from tests.attacks.server import Server
from tests.fake_provider import (
    FakeProvider,
    chunked_without_end,
    close_without_answer,
    gzip_body,
    json_reply,
    reply,
    short_content_length,
    stream,
)
from tests.gateway import unchunk

CHAT = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = {"model": "claude-test", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
GENERATE = "/v1beta/models/gemini-test"


def post(path, body, *headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(data)}", "X-Request-ID: same", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def get(path, *headers):
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", "Host: localhost", "X-Request-ID: same", "Connection: close", *headers, "", ""]
    ).encode()


def chunked_post(path, body):
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "X-Request-ID: same"]
    head = "\r\n".join([*lines, "Connection: close", "Transfer-Encoding: chunked", "", ""]).encode()
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"


#: name -> (the request's bytes, what the upstream does, one behavior for each attempt)
CASES = {
    "chat": (post("/v1/chat/completions", CHAT), [json_reply(canned.chat())]),
    "chat stream": (post("/v1/chat/completions", CHAT | {"stream": True}), [stream(canned.chat_stream())]),
    "responses stream": (
        post("/v1/responses", {"model": "gpt-test", "input": "hi", "stream": True}),
        [stream(canned.response_stream())],
    ),
    "messages": (post("/v1/messages", MESSAGES), [json_reply(canned.message())]),
    "messages stream": (post("/v1/messages", MESSAGES | {"stream": True}), [stream(canned.message_stream())]),
    "messages stream path": (post("/v1/messages/stream", MESSAGES), [stream(canned.message_stream())]),
    "gemini": (post(GENERATE + ":generateContent", CONTENTS), [json_reply(canned.gemini())]),
    "gemini events": (
        post(GENERATE + ":streamGenerateContent?alt=sse", CONTENTS),
        [stream(canned.gemini_stream())],
    ),
    "gemini array": (
        post(GENERATE + ":streamGenerateContent", CONTENTS),
        [stream(canned.gemini_array(), content_type="application/json")],
    ),
    "chunked request": (chunked_post("/v1/chat/completions", CHAT), [json_reply(canned.chat())]),
    "failover": (
        post("/v1/chat/completions", CHAT),
        [json_reply(canned_errors.OPENAI_RATE_LIMIT, status=429), json_reply(canned.chat())],
    ),
    "server error twice": (post("/v1/chat/completions", CHAT), [reply(500, {}, b"<html>")] * 3),
    "closed without an answer": (
        post("/v1/chat/completions", CHAT),
        [close_without_answer(), json_reply(canned.chat())],
    ),
    "short answer": (
        post("/v1/chat/completions", CHAT),
        [short_content_length(b'{"id"', 100), json_reply(canned.chat())],
    ),
    "cut stream": (
        post("/v1/chat/completions", CHAT | {"stream": True}),
        [chunked_without_end(canned.chat_stream()[:3])],
    ),
    "compressed": (post("/v1/chat/completions", CHAT), [gzip_body(json.dumps(canned.chat()).encode())]),
    "client error": (
        post("/v1/chat/completions", CHAT),
        [json_reply({"error": {"message": "bad", "type": "invalid_request_error", "code": "x"}}, status=400)],
    ),
    "file": (get("/v1/files/file-1/content"), [reply(200, {"Content-Type": "text/plain"}, b"x" * 200_000)]),
    "model list": (get("/v1/models/gpt-test"), [json_reply({"id": "gpt-test", "object": "model"})]),
    "bad JSON": (post("/v1/chat/completions", b'{"model":'), []),
    "no such path": (get("/v1/nothing"), []),
    "no such page": (get("/nothing"), []),
    "climbing path": (get("/v1/../middleware/api/keys"), []),
    "absolute target": (get("http://evil.example/v1/models"), []),
    "wrong method": (post("/v1/models", CHAT), []),
    "empty body": (post("/v1/messages", b""), []),
    "WebSocket": (get("/v1/responses", "Upgrade: websocket", "Connection: Upgrade"), []),
    "liveness": (get("/livez"), []),
    "landing page": (get("/"), []),
    "admin API": (get("/middleware/api/aliases"), []),
}

#: Differ by nature: when, by whom, how.
VOLATILE = {"date", "server", "connection"}


def talk(folder, driver):
    """What the client gets and what the upstream sees, for every case."""
    seen = {}
    with FakeProvider() as provider:
        origins = {f"{name}_BASE_URL": provider.origin for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
        keys = {
            "OPENAI_API_KEYS": "sk-parity-000001,sk-parity-000002,sk-parity-000003",
            "ANTHROPIC_API_KEYS": "sk-ant-parity-01,sk-ant-parity-02",
            "GEMINI_API_KEYS": "AIza-parity-0001,AIza-parity-0002",
        }
        with Server(folder, DRIVER=driver, FAILOVER_STRATEGY="priority", **origins, **keys) as server:
            for name, (request, behaviors) in CASES.items():
                before = len(provider.received)
                provider.answers(*behaviors)
                answer = server.raw(request)
                asked = [
                    (one.method, one.target.replace(provider.origin, ""), one.key, one.body)
                    for one in provider.received[before:]
                ]
                seen[name] = (comparable(answer), asked)
                wake(server)
    return seen


def wake(server):
    """Every key healthy again, so that each case begins alike."""
    rows = server.request("GET", "/middleware/api/keys").json()
    ids = [row["id"] for row in rows if not row["demonstration"]]
    body = json.dumps({"key_ids": ids, "status": "Healthy"}).encode()
    answer = server.request(
        "POST", "/middleware/api/keys/bulk-action", body=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 200


def comparable(answer):
    status, headers, body = answer
    whole = True
    if headers.get("transfer-encoding") == "chunked":
        body, whole = unchunk(body)
    return status, {name: value for name, value in headers.items() if name not in VOLATILE}, body, whole


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return {driver: talk(tmp_path_factory.mktemp(driver), driver) for driver in ("threads", "loop")}


@pytest.mark.parametrize("name", CASES)
def test_both_drivers_give_the_same_answer_to(name, answers):
    assert answers["loop"][name] == answers["threads"][name]
