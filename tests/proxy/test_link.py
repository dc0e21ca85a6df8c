"""One attempt's connection, where somebody else has begun the attempt."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from app.proxy.events import Send
from app.proxy.link import Begun, Link
from app.proxy.upstream import Connection, PoolLimits, Upstreams

SEND = Send("http://127.0.0.1:9", "POST", "/", [], b"", connect_timeout_s=1.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Connection]]:
    there, here = socket.socketpair()
    here.setblocking(False)
    connection = Connection(SEND.origin, here)
    yield there, connection
    connection.close()
    there.close()


def link_of(begun: Begun) -> Link:
    return Link(SEND, Upstreams(PoolLimits), begun)


def test_what_had_come_is_read_first_and_then_the_socket(pair: tuple[socket.socket, Connection]) -> None:
    there, connection = pair
    link = link_of(Begun(connection, received=b"before"))
    there.send(b"after")
    assert [link.read(64), link.read(64), link.read(64)] == [b"before", b"after", None]


def test_a_reset_that_had_come_follows_what_came_before_it(pair: tuple[socket.socket, Connection]) -> None:
    link = link_of(Begun(pair[1], received=b"before", is_reset=True))
    assert link.read(64) == b"before"
    with pytest.raises(ConnectionResetError):
        link.read(64)
