"""Connections to upstreams: kept and reused, dialled straight or through a proxy, verified, and never held for long."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.proxy.upstream import Connection, DialFailed, PoolLimits, Upstreams
from tests.fake_provider import FakeProvider, black_hole, close, closed_port, pieces, reply
from tests.proxy.dialects import CHAT, MESSAGES, site, streamed

WAIT_S = 5.0


class Pool:
    """Upstreams whose limits a test can change, closed with everything that was dialled."""

    def __init__(self, **limits: Any) -> None:
        self.verify_with: str | None = limits.pop("verify_with", None)
        self.limits = PoolLimits(**limits)
        self.upstreams = Upstreams(lambda: self.limits, verify_with=self.verify_with)
        self._dialled: list[Connection] = []

    def set(self, **limits: Any) -> None:
        self.limits = replace(self.limits, **limits)

    def dial(self, origin: str, timeout_s: float = WAIT_S) -> Connection:
        connection = self.upstreams.dial(origin, timeout_s).result(WAIT_S)
        self._dialled.append(connection)
        return connection

    def give(self, origin: str, count: int = 1) -> list[Connection]:
        """So many new connections, used and given back in this order."""
        connections = [self.dial(origin) for _ in range(count)]
        for connection in connections:
            self.upstreams.give(connection)
        return connections

    def close(self) -> None:
        self.upstreams.close()
        for connection in self._dialled:
            connection.close()


@contextmanager
def pool(**limits: Any) -> Iterator[Pool]:
    with closing(Pool(**limits)) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake.default(reply(200, {}, b"ok"))


def is_open(connection: Connection) -> bool:
    return connection.socket.fileno() >= 0


def exchange(connection: Connection, target: str = "/") -> bytes:
    """One GET on the connection; returns what came back."""
    connection.socket.settimeout(WAIT_S)
    connection.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    data = b""
    while not data.endswith(b"ok"):
        part = connection.socket.recv(4096)
        assert part, data
        data += part
    connection.socket.setblocking(False)
    return data


def refusal(made: Pool, origin: str, timeout_s: float = WAIT_S) -> str:
    with pytest.raises(DialFailed) as failed:
        made.dial(origin, timeout_s)
    return failed.value.code


# -- the pool -------------------------------------------------------------------------------------------


def test_an_empty_pool_gives_nothing() -> None:
    with pool() as made:
        assert made.upstreams.take("http://127.0.0.1:9") is None


def test_a_connection_that_was_given_back_is_taken_again(provider: FakeProvider) -> None:
    with pool() as made:
        dialled = made.dial(provider.origin)
        assert not dialled.reused
        assert exchange(dialled).endswith(b"ok")
        made.upstreams.give(dialled)

        taken = made.upstreams.take(provider.origin)

        assert taken is dialled
        assert taken.reused
        assert made.upstreams.take(provider.origin) is None
        assert exchange(taken).endswith(b"ok")
        assert provider.total_connections == 1


def test_the_newest_connection_is_taken_first(provider: FakeProvider) -> None:
    with pool() as made:
        first, second, third = made.give(provider.origin, 3)

        taken = [made.upstreams.take(provider.origin) for _ in range(3)]

        assert taken == [third, second, first]


def test_origins_are_kept_apart(provider: FakeProvider) -> None:
    with pool() as made, FakeProvider() as other:
        [here], [there] = made.give(provider.origin), made.give(other.origin)

        assert made.upstreams.take(other.origin) is there
        assert made.upstreams.take(other.origin) is None
        assert made.upstreams.take(provider.origin) is here


def test_an_idle_connection_expires(provider: FakeProvider) -> None:
    with pool() as made:
        old, new = made.give(provider.origin, 2)
        made.set(idle_s=30.0)
        old.idle_since -= 31
        new.idle_since -= 29

        assert made.upstreams.take(provider.origin) is new
        assert made.upstreams.take(provider.origin) is None
        assert not is_open(old)


def test_expired_connections_are_closed_when_another_comes_back(provider: FakeProvider) -> None:
    with pool(idle_s=30.0) as made:
        old = made.give(provider.origin, 3)
        for connection in old:
            connection.idle_since -= 31

        [fresh] = made.give(provider.origin)

        assert made.upstreams.idle_count(provider.origin) == 1
        assert [is_open(connection) for connection in (*old, fresh)] == [False, False, False, True]


def test_at_most_so_many_idle_connections_are_kept_for_an_origin(provider: FakeProvider) -> None:
    with pool(max_idle_per_origin=2) as made:
        connections = made.give(provider.origin, 4)

        assert made.upstreams.idle_count(provider.origin) == 2
        assert [is_open(connection) for connection in connections] == [False, False, True, True]


def test_at_most_so_many_origins_keep_idle_connections_and_the_longest_unused_goes() -> None:
    with pool(max_origins=2) as made, ExitStack() as stack:
        origins = [stack.enter_context(FakeProvider()).origin for _ in range(3)]
        [first] = made.give(origins[0])
        made.give(origins[1])
        made.give(origins[0])
        made.give(origins[2])

        assert [made.upstreams.idle_count(origin) for origin in origins] == [2, 0, 1]
        assert is_open(first)


def test_a_connection_that_the_upstream_closed_is_dropped(provider: FakeProvider) -> None:
    with pool() as made:
        alive, dead = made.give(provider.origin, 2)
        provider.stop()
        for connection in (alive, dead):
            assert wait_until(connection.is_dead)

        assert made.upstreams.take(provider.origin) is None
        assert not is_open(alive)
        assert not is_open(dead)


def test_a_connection_on_which_bytes_came_that_nobody_asked_for_is_dropped() -> None:
    with pool() as made, socket.create_server(("127.0.0.1", 0)) as server:
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
        [connection] = made.give(origin)
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            assert wait_until(connection.is_dead)

            assert made.upstreams.take(origin) is None


def test_without_pooling_nothing_is_kept(provider: FakeProvider) -> None:
    with pool(pooling=False) as made:
        [connection] = made.give(provider.origin)

        assert (made.upstreams.idle_count(provider.origin), is_open(connection)) == (0, False)


def test_pooling_that_is_switched_off_counts_for_what_is_kept_already(provider: FakeProvider) -> None:
    with pool() as made:
        [connection] = made.give(provider.origin)
        made.set(pooling=False)

        assert made.upstreams.take(provider.origin) is None
        assert not is_open(connection)


def test_the_live_settings_switch_pooling_off(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1, connection_pooling_enabled=False) as here:
        for _ in range(3):
            here.assert_serves()
        assert here.provider.total_connections == 3


def test_closing_ends_every_idle_connection(provider: FakeProvider) -> None:
    made = Pool()
    connections = made.give(provider.origin, 3)

    made.close()

    assert not any(map(is_open, connections))


def test_many_threads_never_share_a_connection(provider: FakeProvider) -> None:
    with pool() as made:
        made.give(provider.origin, 8)
        taken: list[Connection] = []
        threads = [
            threading.Thread(target=lambda: taken.extend(filter(None, [made.upstreams.take(provider.origin)])))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)

        assert len(taken) == len({id(connection) for connection in taken}) == 8


# -- dialling --------------------------------------------------------------------------------------------


def test_a_closed_port_is_refused() -> None:
    with pool() as made:
        assert refusal(made, closed_port()) == "refused"


def test_an_address_that_does_not_answer_is_given_up_after_the_connect_timeout() -> None:
    with pool() as made, black_hole() as origin:
        began = time.monotonic()
        assert refusal(made, origin, 0.2) == "connect_timeout"
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b", "x" * 300 + ".example"])
def test_a_name_that_leads_nowhere_is_a_dns_failure(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pool() as made:
        assert refusal(made, f"http://{host}") == "dns"


def test_a_resolver_that_hangs_does_not_hold_the_caller_nor_other_origins(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, real = threading.Event(), socket.getaddrinfo

    def resolve(host: Any, *args: Any, **more: Any) -> Any:
        if str(host).endswith(".test"):
            release.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pool() as made:
        began = time.monotonic()
        pending = [made.upstreams.dial("http://hangs.test", 0.1) for _ in range(100)]
        made.dial(provider.origin)
        assert time.monotonic() - began < 2
        assert not any(future.done() for future in pending)
        for future in pending:
            made.upstreams.forget(future)
        release.set()


def test_a_connection_that_comes_after_its_caller_has_left_is_closed(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, real = threading.Event(), socket.getaddrinfo

    def resolve(*args: Any, **more: Any) -> Any:
        release.wait(WAIT_S)
        return real(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    origin = provider.origin.replace("127.0.0.1", "localhost")  # a name: an address of this machine takes no thread
    with pool() as made:
        pending = made.upstreams.dial(origin, WAIT_S)
        assert wait_until(pending.running)
        made.upstreams.forget(pending)
        release.set()

        assert wait_until(lambda: provider.total_connections == 1)
        assert provider.wait_closed(0)
        assert made.upstreams.idle_count(origin) == 0


def test_ipv6_loopback_serves() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server, pool() as made:
        connection = made.dial(f"http://[::1]:{server.getsockname()[1]}")
        peer, _ = server.accept()
        with peer:
            connection.socket.send(b"hello")
            assert peer.recv(5) == b"hello"


def test_a_second_address_of_a_name_is_tried_when_the_first_refuses(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        nobody = ("127.0.0.1", int(closed_port().rpartition(":")[2]))
        addresses = [nobody, ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pool() as made:
        assert exchange(made.dial(f"http://two-addresses.test:{provider.port}")).endswith(b"ok")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "169.254.1.1",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_addresses_that_are_no_upstreams_are_refused_without_a_connection(
    host: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _never)
    with pool() as made:
        assert refusal(made, f"{scheme}://{host}:80") == "refused"


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing may be looked up")


def test_a_name_that_leads_to_a_refused_address_gets_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(_host: Any, port: Any, *args: Any, **more: Any) -> Any:
        return real("127.0.0.1", port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("app.proxy.upstream._METADATA", frozenset({"127.0.0.1"}))
    with pool() as made, FakeProvider() as inner:
        assert refusal(made, f"http://metadata.test:{inner.port}") == "refused"
        assert inner.received == []
        assert wait_until(lambda: inner.open_connections == 0)


# -- TLS ---------------------------------------------------------------------------------------------------


def test_a_right_certificate_is_accepted_and_the_connection_reused() -> None:
    with FakeProvider(tls="valid") as secure, pool(verify_with=secure.ca_file) as made:
        secure.default(reply(200, {}, b"ok"))
        connection = made.dial(secure.origin)
        assert isinstance(connection.socket, ssl.SSLSocket)
        assert exchange(connection).endswith(b"ok")
        made.upstreams.give(connection)

        # What TLS itself sends after the handshake is no sign of death.
        assert made.upstreams.take(secure.origin) is connection
        assert exchange(connection).endswith(b"ok")


@pytest.mark.parametrize("certificate", ["expired", "wrong_host"])
def test_a_certificate_that_is_not_right_is_refused(certificate: str) -> None:
    with FakeProvider(tls=certificate) as secure, pool(verify_with=secure.ca_file) as made:
        assert refusal(made, secure.origin) == "tls"
        assert secure.received == []


def test_an_authority_that_is_not_known_is_refused() -> None:
    with FakeProvider(tls="valid") as secure, pool() as made:
        assert refusal(made, secure.origin) == "tls"


def test_plain_http_on_an_https_port_is_refused() -> None:
    with FakeProvider() as plain, pool() as made:
        plain.on_connect(pieces(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", close()))
        assert refusal(made, plain.origin.replace("http:", "https:")) == "tls"


def test_a_server_that_never_shakes_hands_is_given_up_after_the_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pool() as made:
        origin = f"https://127.0.0.1:{silent.getsockname()[1]}"
        assert refusal(made, origin, 0.2) == "connect_timeout"


# -- proxies -----------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """
    A small HTTP proxy. It tunnels CONNECT to wherever `leads_to` says, and answers absolute requests itself.

    heads  -- what clients asked of it
    """

    leads_to: int = 0
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    heads: list[bytes] = field(default_factory=list)
    server: socket.socket = field(init=False)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Proxy:
        self.server = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for thread in self.threads:
            thread.join(WAIT_S)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.getsockname()[1]}"

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self.server.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(WAIT_S)
            while head := self._head(client):
                self.heads.append(head)
                if head.startswith(b"CONNECT"):
                    client.sendall(self.answer)
                    if b" 200 " in self.answer:
                        self._tunnel(client)
                    return
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @staticmethod
    def _head(client: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            part = client.recv(1)
            if not part:
                return b""
            data += part
        return data

    def _tunnel(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.leads_to), WAIT_S) as target:
            self._start(self._pump, target, client)
            self._pump(client, target)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_https_goes_through_a_tunnel_and_the_certificate_is_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeProvider(tls="valid") as secure, Proxy(secure.port) as proxy, pool(verify_with=secure.ca_file) as made:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        secure.default(reply(200, {}, b"ok"))

        connection = made.dial(f"https://localhost:{secure.port}")

        assert not connection.absolute
        assert exchange(connection).endswith(b"ok")
        assert proxy.heads[0].split(b"\r\n")[0].startswith(b"CONNECT localhost:%d " % secure.port)
        assert refusal(made, f"https://elsewhere.example:{secure.port}") == "tls"
        assert len(secure.received) == 1
        connection.close()


def test_http_goes_to_the_proxy_with_absolute_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, pool() as made:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")

        connection = made.dial("http://upstream.example")

        assert connection.absolute
        assert exchange(connection, "http://upstream.example/v1/models").endswith(b"ok")
        assert proxy.heads[0].startswith(b"GET http://upstream.example/v1/models HTTP/1.1\r\n")
        connection.close()


def test_a_whole_request_passes_through_an_http_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for way in (CHAT, streamed(MESSAGES)):
        folder = tmp_path / str(way)
        folder.mkdir()
        with FakeProvider() as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://us%40er:pa%3Ass@127.0.0.1:{proxy.port}")
            with site(folder, way, origin="http://upstream.example/base") as here:
                proxy.default(way.good)

                here.assert_good(here.ask())

                request = proxy.received[0]
                assert request.target == "http://upstream.example/base" + way.path
                assert request.headers["host"] == "upstream.example"
                login = base64.b64encode(b"us@er:pa:ss").decode()
                assert request.headers["proxy-authorization"] == f"Basic {login}"
                assert request.key == here.keys[0]


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "localhost,127.0.0.1", "*", "127.0.0.1:{port}"])
def test_no_proxy_leads_straight_to_the_upstream(
    provider: FakeProvider, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_port())
    monkeypatch.setenv("NO_PROXY", no_proxy.format(port=provider.port))
    with pool() as made:
        assert exchange(made.dial(provider.origin)).endswith(b"ok")


def test_a_server_on_this_machine_is_connected_to_at_once_unless_a_proxy_stands_before_it(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Upstreams.connect_here(provider.origin)
    assert connection is not None
    with closing(connection):
        assert exchange(connection).endswith(b"ok")
    assert Upstreams.connect_here(closed_port()) is None
    assert Upstreams.connect_here("http://localhost:80") is None
    assert Upstreams.connect_here(provider.origin.replace("http:", "https:")) is None

    monkeypatch.setenv("HTTP_PROXY", closed_port())
    assert Upstreams.connect_here(provider.origin) is None
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    assert Upstreams.connect_here(provider.origin) is None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with closing(Upstreams.connect_here(provider.origin) or connection) as straight:
        assert straight is not connection


def test_no_proxy_for_another_host_changes_nothing(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_port())
    monkeypatch.setenv("NO_PROXY", "other.example, 10.0.0.1")
    with pool() as made:
        assert refusal(made, provider.origin) == "refused"


def test_a_proxy_named_without_a_scheme_is_an_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, pool() as made:
        monkeypatch.setenv("http_proxy", proxy.address)
        connection = made.dial("http://upstream.example")
        assert exchange(connection, "http://upstream.example/").endswith(b"ok")
        connection.close()


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "http://"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_kind_of_proxy_is_refused_rather_than_gone_around(
    provider: FakeProvider, address: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", address)
    with pool() as made:
        assert refusal(made, f"{scheme}://127.0.0.1:{provider.port}") == "refused"
        assert provider.total_connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\r\n",
        b"",
    ],
    ids=["407", "502", "another protocol", "an empty line", "nothing"],
)
def test_a_proxy_that_does_not_make_a_tunnel_is_a_refusal(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(answer=answer) as proxy, pool() as made:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        assert refusal(made, "https://upstream.example") == "refused"


def test_a_proxy_is_no_way_around_the_refused_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, pool() as made:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert refusal(made, "http://169.254.169.254") == "refused"
        assert proxy.heads == []


def test_a_closed_proxy_sends_the_request_on_to_nobody(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_port())
    with pool() as made:
        assert refusal(made, provider.origin) == "refused"
        assert provider.total_connections == 0


def wait_until(condition: Callable[[], bool]) -> bool:
    """Poll, at most for `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True
