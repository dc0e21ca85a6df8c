"""The event loop by itself: timers, calls from elsewhere, and callbacks that fail."""

import socket
import threading
import time

import pytest

from app.server.loop import FEW_TIMERS, GONE, READ, Alarm, Loop, Sender

WAIT_S = 5.0


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def turn_until(loop, condition):
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "it never happened"
        loop.turn()


def test_timers_ring_in_their_order(loop):
    rung = []
    now = time.monotonic()
    for delay_s in (0.03, 0.01, 0.02):
        loop.at(now + delay_s, lambda delay_s=delay_s: rung.append(delay_s))
    turn_until(loop, lambda: len(rung) == 3)
    assert rung == [0.01, 0.02, 0.03]


def test_a_cancelled_timer_does_not_ring_and_keeps_nothing(loop):
    rung = []
    timers = [loop.at(time.monotonic() + 600, rung.append) for _ in range(10 * FEW_TIMERS)]
    for timer in timers:
        loop.cancel(timer)
        loop.cancel(timer)
    assert len(loop._timers) <= FEW_TIMERS + 1
    loop.at(time.monotonic(), lambda: rung.append("other"))
    turn_until(loop, lambda: rung)
    assert rung == ["other"]


def test_an_alarm_that_is_moved_later_rings_late_and_once(loop):
    rung = []
    alarm = Alarm(loop, lambda: rung.append(time.monotonic()))
    began = time.monotonic()
    alarm.move(began + 0.01)
    alarm.move(began + 0.05)
    turn_until(loop, lambda: rung)
    assert rung[0] >= began + 0.05

    alarm.move(began + 600)
    alarm.move(time.monotonic() + 0.01)
    turn_until(loop, lambda: len(rung) == 2)


def test_an_alarm_that_is_taken_back_does_not_ring(loop):
    rung = []
    alarm = Alarm(loop, lambda: rung.append("alarm"))
    alarm.move(time.monotonic() + 0.01)
    alarm.move(None)
    loop.at(time.monotonic() + 0.03, lambda: rung.append("after"))
    turn_until(loop, lambda: rung)
    assert rung == ["after"]


def test_a_call_from_another_thread_wakes_the_loop_at_once(loop):
    called = []
    threading.Timer(0.05, lambda: loop.call_soon(lambda: called.append(time.monotonic()))).start()
    began = time.monotonic()
    turn_until(loop, lambda: called)
    assert called[0] - began < 0.5


def test_a_callback_that_fails_ends_nothing_but_itself(loop, caplog):
    called = []
    reader, writer = socket.socketpair()

    def broken(_event):
        raise ValueError("a defect")

    loop.register(reader.fileno(), READ, broken)
    writer.send(b"x")
    loop.call_soon(lambda: 1 / 0)
    loop.at(time.monotonic(), lambda: 1 / 0)
    loop.at(time.monotonic() + 0.02, lambda: called.append("still here"))
    turn_until(loop, lambda: called)
    assert [record.message for record in caplog.records] == ["a callback failed on the event loop"] * 3
    reader.close()
    writer.close()


def test_what_came_for_a_closed_socket_is_not_given_to_the_next_one_with_its_number(loop):
    first, first_far = socket.socketpair()
    other, other_far = socket.socketpair()
    seen, opened = [], []

    def replace(_event):
        loop.unregister(first.fileno())
        number = other.fileno()
        loop.unregister(number)
        other.close()
        opened.extend(socket.socketpair())  # the system gives the lowest free number
        assert opened[0].fileno() == number
        loop.register(number, READ | GONE, seen.append)

    loop.register(first.fileno(), READ, replace)
    loop.register(other.fileno(), READ | GONE, seen.append)
    first_far.send(b"x")
    other_far.close()
    loop.turn()
    opened[1].send(b"y")
    loop.turn()

    assert seen == [READ]
    for end in (first, first_far, *opened):
        end.close()


class Held(Sender):
    def __init__(self, done, fails=False):
        self.done, self.fails = done, fails

    def send_held(self):
        self.done.append(self)
        if self.fails:
            raise ValueError


def test_what_is_held_goes_out_when_all_that_came_in_the_turn_is_read(loop):
    done = []
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, theirs in pairs:

        def ready(_event, ours=ours):
            done.append(ours.recv(1))
            loop.holding.append(Held(done))

        loop.register(ours.fileno(), READ, ready)
        theirs.sendall(b"x")
    loop.turn()
    assert done[:3] == [b"x"] * 3
    assert [type(each) for each in done[3:]] == [Held] * 3
    assert loop.holding == []
    for ours, theirs in pairs:
        loop.unregister(ours.fileno())
        ours.close()
        theirs.close()


def test_one_that_fails_to_send_leaves_the_others_theirs(loop):
    done = []
    loop.holding += [Held(done, fails=True), Held(done)]
    loop.call_soon(lambda: None)
    loop.turn()
    assert len(done) == 2
