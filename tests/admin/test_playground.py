"""The playground's side of the server: the call that a chat is, the programs that make it, and whose key it uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.admin.chats import DIALECTS, Chat, Turn, call_of
from app.admin.snippets import KEY_VARIABLE, snippets
from tests import canned
from tests.fake_provider import FakeProvider, json_reply, stream
from tests.gateway import Answer, Gateway

API = "/middleware/api/playground"
WAIT_S = 60
#: Everything that a shell, Python or JavaScript could take for something of its own.
NASTY = (
    "'\"'\"' \" ''' \"\"\" \\ \\n \\u0041 $HOME ${PATH} `id` $(id) !! % %s {0} ${x} "
    "</script><b> # // /* é 漢 😀 \u2028 \t\n"
    "second line\\"
)
ANSWERS: dict[str, tuple[Any, list[bytes]]] = {
    "openai_chat": (canned.chat(), canned.chat_stream()),
    "openai_responses": (canned.response(), canned.response_stream()),
    "anthropic_messages": (canned.message(), canned.message_stream()),
    "gemini": (canned.gemini(), canned.gemini_stream()),
}
MODELS = {"openai_chat": "gpt-test", "openai_responses": "gpt-test", "anthropic_messages": "claude-test"}


def a_chat(dialect: str, *, streamed: bool = False, **more: Any) -> Chat:
    turns = (Turn("user", NASTY), Turn("assistant", "Yes?" + NASTY), Turn("user", "Again: " + NASTY))
    knobs = {"system": "Be kind. " + NASTY, "max_tokens": 99, "temperature": 0.5, **more}
    return Chat(dialect, MODELS.get(dialect, "gemini-test"), turns, stream=streamed, **knobs)


def asked(**more: Any) -> dict[str, Any]:
    return {"dialect": "openai_chat", "model": "gpt-test", "turns": [{"role": "user", "text": "Hi"}], **more}


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Path, upstream: FakeProvider) -> Iterator[Gateway]:
    origin = upstream.origin
    with Gateway(tmp_path, openai=origin, anthropic=origin, gemini=origin) as gateway:
        for provider in ("openai", "anthropic", "gemini"):
            gateway.add_keys(provider)
        yield gateway


ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
dialects = pytest.mark.parametrize("dialect", DIALECTS)


def script(upstream: FakeProvider, dialect: str, streamed: bool) -> None:
    whole, events = ANSWERS[dialect]
    upstream.default(stream(events) if streamed else json_reply(whole))


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=WAIT_S, env={**os.environ, **environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the call ----------------------------------------------------------------------------------------


@dialects
@ways
def test_the_call_of_a_chat_is_one_that_the_proxy_takes_in_each_dialect(
    gateway: Gateway, upstream: FakeProvider, dialect: str, streamed: bool
) -> None:
    script(upstream, dialect, streamed)
    call = call_of(a_chat(dialect, streamed=streamed))

    answer = gateway.post(call.path, call.body)

    assert answer.status == 200
    assert upstream.received[0].json == call.body
    assert answer.headers["content-type"].startswith("text/event-stream" if streamed else "application/json")


@dialects
def test_only_what_was_asked_for_is_sent(dialect: str) -> None:
    chat = Chat(dialect, "m", (Turn("user", "Hi"),), stream=False)
    sent = json.dumps(call_of(chat).body)
    assert not any(word in sent for word in ("temperature", "system", "instructions", "stream", "null"))


def test_the_api_shows_the_call_and_its_programs_and_sends_nothing(gateway: Gateway, upstream: FakeProvider) -> None:
    answer = gateway.post(API, asked(system="Be kind", stream=False)).json

    assert (answer["method"], answer["path"]) == ("POST", "/v1/chat/completions")
    assert answer["body"]["messages"] == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
    ]
    assert (answer["key_header"], answer["key_prefix"]) == ("Authorization", "Bearer ")
    assert all(gateway.origin in program for program in answer["snippets"].values())
    assert upstream.received == []


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"dialect": "smoke"}, "dialect"),
        ({"model": ""}, "model"),
        ({"turns": []}, "turns"),
        ({"turns": "Hi"}, "turns"),
        ({"turns": [{"role": "assistant", "text": "Hi"}]}, "turns"),
        ({"turns": [{"role": "system", "text": "Hi"}]}, "role"),
        ({"turns": [{"role": "user"}]}, "text"),
        ({"turns": [{"role": "user", "text": ""}]}, "turns"),
        ({"turns": ["Hi"]}, "turns"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_no_chat_is_refused_by_name(gateway: Gateway, wrong: dict[str, Any], param: str) -> None:
    answer = gateway.post(API, asked(**wrong))
    assert (answer.status, answer.json["param"]) == (400, param)


# -- the programs ------------------------------------------------------------------------------------


@dialects
@ways
def test_the_curl_command_sends_what_was_typed(
    gateway: Gateway, upstream: FakeProvider, dialect: str, streamed: bool
) -> None:
    script(upstream, dialect, streamed)
    chat = a_chat(dialect, streamed=streamed)

    said = run("sh", "-c", snippets(chat, gateway.origin)["curl"])

    assert upstream.received[0].json == call_of(chat).body
    assert canned.WORDS[-1] in said


@dialects
@ways
def test_the_python_program_runs_with_the_official_sdk(
    gateway: Gateway, upstream: FakeProvider, dialect: str, streamed: bool
) -> None:
    script(upstream, dialect, streamed)
    chat = a_chat(dialect, streamed=streamed)

    said = run(sys.executable, "-X", "utf8", "-c", snippets(chat, gateway.origin)["python"])

    assert said == canned.TEXT + "\n"
    sent = upstream.received[0].json
    if dialect == "gemini":
        sent["systemInstruction"].pop("role")  # the SDK's own addition
    assert sent == call_of(chat).body


#: Stands for the official SDK: notes how it was made and called, and answers with nothing.
RECORDER = """
const seen = [];
const answer = { choices: [{ message: {} }], content: [], async *[Symbol.asyncIterator]() {} };
const path = (names) => new Proxy(() => {}, {
  get: (_, name) => path([...names, name]),
  apply: async (_, __, given) => (console.log(JSON.stringify({ called: names.join("."), given })), answer),
});
export default class Client {
  constructor(options) {
    console.log(JSON.stringify({ options }));
    return path([]);
  }
}
export { Client as GoogleGenAI };
"""


@dialects
@ways
@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js is installed")
def test_the_javascript_program_calls_its_sdk_with_what_was_typed(tmp_path: Path, dialect: str, streamed: bool) -> None:
    for name in ("openai", "@anthropic-ai/sdk", "@google/genai"):
        package = tmp_path / "node_modules" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"type": "module", "main": "index.js"}))
        (package / "index.js").write_text(RECORDER)
    chat = a_chat(dialect, streamed=streamed)
    program = tmp_path / "program.mjs"
    program.write_text(snippets(chat, "http://middleware.example")["javascript"], encoding="utf-8")

    made, called = (json.loads(line) for line in run("node", str(program), **{KEY_VARIABLE: "mw-1"}).split("\n")[:2])

    assert made["options"]["apiKey"] == "mw-1"
    assert "http://middleware.example" in json.dumps(made)
    (given,) = called["given"]
    if dialect == "gemini":
        assert called["called"] == ("models.generateContentStream" if streamed else "models.generateContent")
        assert given["contents"] == call_of(chat).body["contents"]
        assert given["config"] == {"systemInstruction": chat.system, "maxOutputTokens": 99, "temperature": 0.5}
    else:
        assert given == call_of(chat).body


def test_the_programs_take_the_key_from_the_environment(gateway: Gateway, upstream: FakeProvider) -> None:
    script(upstream, "openai_chat", streamed=False)
    _, key = gateway.services.clients.create("laptop")
    chat = Chat("openai_chat", "gpt-test", (Turn("user", "Hi"),), stream=False)

    for program in (("sh", "-c", "curl"), (sys.executable, "-c", "python")):
        code = snippets(chat, gateway.origin)[program[2]]
        assert canned.TEXT in run(*program[:2], code, **{KEY_VARIABLE: key})
    refused = run("sh", "-c", snippets(chat, gateway.origin)["curl"])
    assert "invalid_api_key" in refused


# -- the key -----------------------------------------------------------------------------------------


def key_of(gateway: Gateway) -> Answer:
    return gateway.post(f"{API}/key", {})


def test_while_the_proxy_is_open_no_client_key_is_made(gateway: Gateway) -> None:
    assert key_of(gateway).json["key"] is None
    assert gateway.services.clients.list() == []


def test_where_client_keys_are_required_the_playground_has_one_that_works(
    gateway: Gateway, upstream: FakeProvider
) -> None:
    script(upstream, "openai_chat", streamed=False)
    gateway.services.clients.create("laptop")

    key = key_of(gateway).json["key"]

    assert gateway.post("/v1/chat/completions", canned.CHAT_REQUEST, Authorization="Bearer " + key).status == 200
    assert gateway.post("/v1/chat/completions", canned.CHAT_REQUEST).status == 401
    assert [row["name"] for row in gateway.services.clients.list()] == ["Playground", "laptop"]


def test_the_key_is_the_same_at_every_use_and_after_a_restart(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with Gateway(tmp_path, environ={"CLIENT_AUTH": "required"}) as gateway:
            keys += [key_of(gateway).json["key"], key_of(gateway).json["key"]]
            names = [row["name"] for row in gateway.services.clients.list()]
    assert len(set(keys)) == 1
    assert names.count("Playground") == 1


def test_a_key_that_was_switched_off_stays_off_and_a_deleted_one_never_works_again(gateway: Gateway) -> None:
    clients = gateway.services.clients
    clients.create("laptop")
    first = key_of(gateway).json["key"]
    row = clients.list()[0]

    clients.update(row["id"], {"active": False, "name": "renamed"})
    refused = key_of(gateway)
    assert (refused.status, refused.json["code"]) == (403, "playground_key_refused")
    assert "switched off" in refused.json["error"]
    assert len(clients.list()) == 2

    clients.update(row["id"], {"active": True})
    assert key_of(gateway).json["key"] == first

    clients.delete(row["id"])
    second = key_of(gateway).json["key"]
    assert second != first
    assert clients.refusal(first) == "unknown"


def test_the_key_is_only_for_those_who_are_logged_in_and_never_for_another_site(tmp_path: Path) -> None:
    with Gateway(tmp_path, environ={"MIDDLEWARE_PASSWORD": "a long password", "CLIENT_AUTH": "required"}) as gateway:
        assert gateway.post(f"{API}/key", {}).status == 401
        assert gateway.get(f"{API}/key").status == 401

        page = gateway.request(
            "POST",
            "/middleware/login",
            body=b"password=a+long+password",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert page.status in (200, 303)
        token = gateway.post("/middleware/api/login", {"password": "a long password"}).json["token"]
        assert gateway.post(f"{API}/key", {}, Authorization="Bearer " + token).json["key"].startswith("mw-")
    with Gateway(tmp_path, environ={"CLIENT_AUTH": "required"}) as gateway:
        assert gateway.post(f"{API}/key", {}, Origin="https://evil.example").status == 403
