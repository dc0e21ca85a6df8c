"""Idle upstream connections on the loop: newest first, gone at once when the other side ends them, never too old."""

import time

import pytest

from app.proxy.upstream import PoolLimits, Upstreams
from app.server.idle import IdleConnections
from app.server.loop import READ, Loop
from tests.fake_provider import FakeProvider

WAIT_S = 5.0


class Bench:
    def __init__(self, provider):
        self.limits = PoolLimits()
        self.loop = Loop()
        self.upstreams = Upstreams(lambda: self.limits)
        self.idle = IdleConnections(self.loop, self.upstreams, lambda: self.limits)
        self.origin = provider.origin

    def connection(self):
        """A new connection, registered as one that has just served."""
        made = self.idle.dial(self.origin, 5.0).result(WAIT_S)
        self.loop.register(made.socket.fileno(), READ, lambda _event: None)
        return made

    def turn_until(self, condition):
        until = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < until
            self.loop.turn()


@pytest.fixture
def provider():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def bench(provider):
    bench = Bench(provider)
    yield bench
    bench.idle.close()
    bench.upstreams.close()
    bench.loop.close()


def test_the_newest_is_taken_first_and_is_known_as_used(bench):
    first, second = bench.connection(), bench.connection()
    bench.idle.give(first)
    bench.idle.give(second)
    assert bench.idle.take(bench.origin) is second
    assert second.reused
    assert bench.idle.take(bench.origin) is first
    assert bench.idle.take(bench.origin) is None
    for connection in (first, second):
        bench.loop.unregister(connection.socket.fileno())
        connection.close()


def test_a_connection_that_the_upstream_ends_is_gone_at_once(bench, provider):
    bench.idle.give(bench.connection())
    provider.stop()
    bench.turn_until(lambda: bench.idle.count(bench.origin) == 0)
    assert bench.idle.take(bench.origin) is None


def test_one_that_was_idle_too_long_is_not_handed_out(bench):
    connection = bench.connection()
    bench.idle.give(connection)
    connection.idle_since -= 31
    assert bench.idle.take(bench.origin) is None
    assert connection.socket.fileno() == -1


def test_no_more_are_kept_than_the_limits_allow(bench):
    bench.limits = PoolLimits(max_idle_per_origin=2)
    made = [bench.connection() for _ in range(4)]
    for connection in made:
        bench.idle.give(connection)
    assert bench.idle.count(bench.origin) == 2
    assert [connection.socket.fileno() == -1 for connection in made] == [True, True, False, False]


def test_without_pooling_nothing_is_kept(bench):
    bench.limits = PoolLimits(pooling=False)
    bench.idle.give(bench.connection())
    assert bench.idle.count(bench.origin) == 0
