"""What the clock brings to an exchange, and when. All instants are made up."""

from __future__ import annotations

import dataclasses

import pytest

from app.formats.base import Operation
from app.proxy.deadlines import FINISHED_SILENCE_S, LINGER_S, Deadlines, Due, Pace, State
from app.settings import Settings

SETTINGS = Settings(
    request_timeout=100, read_timeout=30, streaming_timeout=20, heartbeat_interval=10, model_cache_timeout=5
)
WAITING = Pace(started=False)
HELD = Pace(started=False, beats=True)
FLOWING = Pace(started=True, beats=True)


def deadlines(now: float = 1000.0, settings: Settings = SETTINGS) -> Deadlines:
    return Deadlines(settings, now)


@pytest.mark.parametrize("state", [State.NEW, State.BODY, State.WAIT, State.HEAD, State.ERROR, State.ANSWER])
def test_the_whole_request_has_a_limit_until_its_answer_begins(state: State) -> None:
    limits = deadlines()
    limits.heard(1099.9)
    limits.retry_at = 1200

    assert limits.due(state, 1100, WAITING) is Due.EXPIRED
    assert limits.due(state, 1100, Pace(started=True)) is not Due.EXPIRED


def test_a_long_answer_that_keeps_coming_is_never_cut() -> None:
    limits = deadlines()
    for now in range(1000, 5000, 5):
        limits.heard(now)
        limits.spoke(now)
        assert limits.due(State.ANSWER, now + 5, FLOWING) is None


def test_before_a_body_is_read_only_the_limit_on_the_whole_is_set() -> None:
    assert deadlines().next(State.BODY, WAITING) == 1100


def test_a_retry_is_due_at_its_instant() -> None:
    limits = deadlines()
    limits.retry_at = 1003

    assert limits.next(State.WAIT, WAITING) == 1003
    assert limits.due(State.WAIT, 1002.9, WAITING) is None
    assert limits.due(State.WAIT, 1003, WAITING) is Due.RETRY


@pytest.mark.parametrize("state", [State.HEAD, State.ERROR])
def test_f8_the_first_byte_has_a_limit_for_each_attempt(state: State) -> None:
    limits = deadlines()
    limits.heard(1010)

    assert limits.next(state, WAITING) == 1040
    assert limits.due(state, 1040, WAITING) is Due.NO_FIRST_BYTE


def test_a_list_of_models_has_a_shorter_limit() -> None:
    limits = deadlines()
    limits.operation = Operation.MODELS

    assert limits.next(State.HEAD, WAITING) == 1005


def test_f31_silence_is_counted_from_the_last_byte() -> None:
    limits = deadlines()
    limits.heard(1050)
    limits.spoke(1069)

    assert limits.due(State.ANSWER, 1069, FLOWING) is None
    assert limits.due(State.ANSWER, 1070, FLOWING) is Due.SILENCE


def test_f35_a_stream_that_told_its_end_is_not_waited_for() -> None:
    limits = deadlines()
    limits.heard(1050)
    pace = Pace(started=True, beats=True, finished=True)

    assert limits.next(State.ANSWER, pace) == min(1050 + FINISHED_SILENCE_S, 1010)
    assert limits.due(State.ANSWER, 1050 + FINISHED_SILENCE_S, pace) is Due.SILENCE


def test_f30_a_heartbeat_is_due_when_the_caller_has_heard_nothing_for_a_while() -> None:
    limits = deadlines()
    limits.answered(1000)
    limits.spoke(1004)
    limits.heard(1012)

    assert limits.due(State.ANSWER, 1013.9, FLOWING) is None
    assert limits.due(State.ANSWER, 1014, FLOWING) is Due.BEAT
    limits.spoke(1014)
    assert limits.due(State.ANSWER, 1014, FLOWING) is None


def test_f30_a_held_prologue_is_let_go_a_while_after_the_head_however_often_the_upstream_pings() -> None:
    limits = deadlines()
    limits.answered(1020)
    for now in range(1021, 1030):
        limits.heard(now)

    assert limits.due(State.ANSWER, 1029, HELD) is None
    assert limits.due(State.ANSWER, 1030, HELD) is Due.BEAT


def test_there_is_no_heartbeat_inside_an_event_in_a_plain_answer_and_where_it_is_switched_off() -> None:
    limits = deadlines()
    off = deadlines(settings=dataclasses.replace(SETTINGS, heartbeat_interval=0))

    assert limits.next(State.ANSWER, Pace(started=True)) == 1020
    assert off.next(State.ANSWER, FLOWING) == 1020


def test_the_end_of_the_upstreams_framing_is_waited_for_only_briefly() -> None:
    limits = deadlines()
    limits.linger(1050)

    assert limits.next(State.LINGER, FLOWING) == 1050 + LINGER_S
    assert limits.due(State.LINGER, 1050 + LINGER_S, FLOWING) is Due.LINGERED


def test_nothing_is_due_when_all_is_over() -> None:
    assert deadlines().next(State.OVER, Pace(started=True)) is None


def test_of_several_things_due_the_most_final_counts() -> None:
    limits = deadlines()
    limits.retry_at = 1001

    assert limits.due(State.WAIT, 2000, WAITING) is Due.EXPIRED
    assert limits.due(State.ANSWER, 2000, FLOWING) is Due.SILENCE
