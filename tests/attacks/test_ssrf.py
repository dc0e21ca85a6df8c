"""
Where the middleware may be sent to: S25 to S27 as they concern providers. Loopback and private addresses are allowed
for providers on purpose (Ollama, vLLM); metadata services, addresses that are nobody's and disguised spellings are not.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.proxy import upstream as upstream_module
from tests import canned
from tests.attacks.dialects import CHAT, DIALECTS, Dialect, Target, target
from tests.fake_provider import FakeProvider, json_reply, redirect, reply
from tests.gateway import KEYS, WAIT_S, Gateway

FORBIDDEN_HOSTS = (
    "http://169.254.169.254",
    "http://169.254.169.254:80/latest/meta-data",
    "https://169.254.170.2/v2/credentials",
    "http://100.100.100.200",
    "http://192.0.0.192",
    "http://metadata.google.internal",
    "http://METADATA.google.internal.",
    "http://metadata",
    "http://instance-data",
    "http://0.0.0.0",
    "http://0.0.0.0:5000",
    "http://0",
    "http://0.1.2.3",
    "http://255.255.255.255",
    "http://240.0.0.1",
    "http://224.0.0.1",
    "http://[::]",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:a9fe:a9fe]",
    "http://[::169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[64:ff9b:1::a9fe:a9fe]",
    "http://[2002:a9fe:a9fe::1]",
    "http://[2001:0:a9fe:a9fe::1]",
    "http://[fe80::1]",
    "http://[fe80::1%25eth0]",
    "http://[ff02::1]",
    "http://[fd00:ec2::254]",
    "http://2130706433",
    "http://2852039166",
    "http://0x7f.1",
    "http://0x7f000001",
    "http://0xa9fea9fe",
    "http://127.1",
    "http://127.0.0.1.",
    "http://0251.0376.0251.0376",
    "http://0177.0.0.1",
    "http://169.254.43518",
    "http://\uff11\uff16\uff19.254.169.254",
    "http://169\u3002254\u3002169\u3002254",
    "http://\u24db\u24de\u24d2alhost",
    "http://%31%36%39.254.169.254",
    "http://-evil.example",
)
NO_ADDRESSES = (
    "http://ok@evil.example",
    "http://ok:secret@169.254.169.254",
    "http://ok#@evil.example",
    "http://ok?@evil.example",
    "http://ok/?x=1",
    "http://evil.example\\@ok",
    "http://ok\t.example",
    "http://ok .example",
    "http://ok\r\nX-Evil: y",
    "http://",
    "http://:80",
    "http://ok:0",
    "http://ok:99999",
    "http://ok:port",
    "http://[::1",
    "http:/ok",
    "http:ok",
    "//ok",
    "ok",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "ftp://ok",
    "dict://ok",
    "unix:///run/x.sock",
    "javascript:alert(1)",
    "data:text/plain,x",
    "x" * 3000,
)
ALLOWED = (
    "http://127.0.0.1:11434",
    "http://[::1]:11434",
    "http://localhost:8000/v1",
    "http://10.0.0.3",
    "http://192.168.1.5:8080",
    "https://api.example.com",
    "https://my-resource.openai.azure.com",
    "http://host.docker.internal:1234",
    "http://my_service:80",
    "http://3com.example",
    "https://xn--bcher-kva.example",
)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("ssrf")
    with target(folder) as running:
        yield running


def add_provider(attacked: Target, base_url: Any) -> tuple[int, dict[str, Any]]:
    entry = {"name": "elsewhere", "kind": "openai-compatible", "base_url": base_url}
    answer = attacked.gateway.post("/middleware/api/providers", entry)
    return answer.status, answer.json


@pytest.mark.parametrize("base_url", FORBIDDEN_HOSTS)
def test_s25_a_forbidden_host_is_refused_with_the_same_words_as_every_other(attacked: Target, base_url: str) -> None:
    with attacked.untouched():
        status, answer = add_provider(attacked, base_url)
        assert status == 400
        assert answer["error"] == "base_url: this host is not allowed for a provider."
        changed = attacked.gateway.request("PUT", "/middleware/api/providers/openai", json_body={"base_url": base_url})
        assert changed.status == 400
    attacked.works()


@pytest.mark.parametrize("base_url", NO_ADDRESSES, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_s25_what_is_no_plain_address_is_refused(attacked: Target, base_url: str) -> None:
    status, answer = add_provider(attacked, base_url)
    assert status == 400
    assert answer["param"] == "base_url"
    attacked.works()


@pytest.mark.parametrize("base_url", [None, True, 7, ["http://ok"], {"url": "http://ok"}])
def test_s25_what_is_no_text_is_refused(attacked: Target, base_url: Any) -> None:
    assert add_provider(attacked, base_url)[0] == 400


@pytest.mark.parametrize("base_url", ALLOWED)
def test_s25_servers_of_ones_own_are_allowed(attacked: Target, base_url: str) -> None:
    assert add_provider(attacked, base_url)[0] == 201
    assert attacked.gateway.request("DELETE", "/middleware/api/providers/elsewhere").status == 200


@pytest.mark.parametrize("origin", ["http://169.254.169.254", "http://[fd00:ec2::254]", "http://[::ffff:a9fe:a9fe]"])
def test_s25_a_forbidden_address_from_the_environment_is_never_dialled(tmp_path: Path, origin: str) -> None:
    with Gateway(tmp_path, openai=origin, settings={"connect_timeout": 1}) as gateway:
        gateway.add_keys("openai")
        answer = gateway.post(CHAT.path, CHAT.body)
        assert answer.status == 502
        CHAT.check_error(502, answer.headers["content-type"], answer.body)


# -- S26 -----------------------------------------------------------------------------------------------------


@contextmanager
def listener(address: str, port: int) -> Iterator[list[bytes]]:
    """A server that only notes what it is told."""
    heard: list[bytes] = []
    with socket.create_server((address, port)) as server:
        server.settimeout(0.05)
        stopping = threading.Event()

        def listen() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(WAIT_S)
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            stopping.set()
            thread.join(WAIT_S)


def test_s26_a_name_that_leads_elsewhere_the_second_time_gets_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that is judged is the one that was connected to, not an earlier answer of the resolver."""
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.2"])
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **more: Any) -> Any:
        return real(next(answers) if host == "rebinding.example" else host, *args, **more)

    with FakeProvider() as provider:
        provider.default(json_reply(canned.chat()))
        with (
            listener("127.0.0.2", provider.port) as heard,
            Gateway(
                tmp_path,
                openai=f"http://rebinding.example:{provider.port}",
                settings={"connection_pooling_enabled": False},
            ) as gateway,
        ):
            gateway.add_keys("openai")
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            # The metadata address of this test: nothing beyond loopback is dialled.
            monkeypatch.setattr(upstream_module, "_METADATA", frozenset({"127.0.0.2"}))
            assert gateway.post(CHAT.path, CHAT.body).status == 200
            answer = gateway.post(CHAT.path, CHAT.body)
            assert answer.status == 502
            assert len(provider.received) == 1
        assert b"".join(heard) == b""


# -- S27 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 304, 399])
def test_s27_a_redirect_is_not_followed_and_the_key_goes_nowhere(tmp_path: Path, dialect: Dialect, status: int) -> None:
    with FakeProvider() as attacker, FakeProvider() as provider:
        attacker.default(json_reply(dialect.answer))
        provider.default(redirect(f"{attacker.origin}{dialect.path}", status))
        with Gateway(tmp_path, **dict.fromkeys(KEYS, provider.origin)) as gateway:
            gateway.add_keys(dialect.provider, 2)
            answer = gateway.request("POST", dialect.path, json_body=dialect.body)
            assert answer.status == 502
            assert "location" not in answer.headers
            assert attacker.origin not in answer.body.decode()
            dialect.check_error(502, answer.headers["content-type"], answer.body)
        assert attacker.received == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Location": "{evil}/v1"},
        {"Refresh": "0; url={evil}"},
        {"Alt-Svc": 'h2="{evil}"'},
        {"Content-Location": "{evil}"},
        {"Link": "<{evil}>; rel=preload"},
        {"Access-Control-Allow-Origin": "*"},
        {"Set-Cookie": "middleware_session=x; Path=/"},
        {"Strict-Transport-Security": "max-age=99999999"},
        {"X-Middleware-Key": "99"},
        {"WWW-Authenticate": 'Bearer resource_metadata="{evil}"'},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_s27_a_header_that_leads_elsewhere_stays_here(attacked: Target, headers: dict[str, str]) -> None:
    sent = {name: value.format(evil="http://evil.example") for name, value in headers.items()}
    attacked.upstream.answers(json_reply(canned.chat(), headers=sent))
    answer = attacked.gateway.post(CHAT.path, CHAT.body)
    assert answer.status == 200
    name, value = next(iter(sent.items()))
    assert answer.headers.get(name.lower()) != value
    assert "evil" not in str(answer.headers)


def test_s27_a_redirect_inside_an_error_page_is_no_page_for_the_caller(attacked: Target) -> None:
    page = b'<html><meta http-equiv="refresh" content="0; url=http://evil.example"></html>'
    strange = reply(404, {"Content-Type": "text/html"}, page)
    attacked.upstream.answers(strange, strange)
    answer = attacked.gateway.post(CHAT.path, CHAT.body)
    CHAT.check_error(answer.status, answer.headers["content-type"], answer.body)
    assert answer.status >= 400
    assert b"evil.example" not in answer.body
