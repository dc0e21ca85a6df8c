from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.live_log import MAX_ENTRIES_PER_WRITE, status_color
from app.storage.schema import events
from tests.usage_cases import NOON, SECRET, Bench, a_record, an_attempt, bench_at


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        yield bench


def lines(bench: Bench) -> list[tuple[str, str]]:
    bench.written()
    return [(line["msg"], line["color"]) for line in bench.live_log.recent()]


def test_a_request_is_a_blue_line_and_its_answer_a_green_one(bench: Bench) -> None:
    bench.show(a_record(7, stream=True, attempts=[an_attempt(3), an_attempt(7)]))

    assert lines(bench) == [
        ("POST /v1/chat/completions model gpt-5 stream (req-1)", "blue"),
        ("200 success in 120 ms, openai, key 7, 2 attempts (req-1)", "green"),
    ]


@pytest.mark.parametrize(
    ("status", "color"),
    [
        (200, "green"),
        (204, "green"),
        (301, "yellow"),
        (304, "yellow"),
        (404, "red"),
        (499, "red"),
        (503, "red"),
        (0, "red"),
    ],
)
def test_the_color_of_an_answer_follows_its_status(status: int, color: str) -> None:
    assert status_color(status) == color


def test_a_stream_that_was_cut_is_red_although_its_status_was_200(bench: Bench) -> None:
    bench.show(a_record(outcome="upstream_cut", error_code="upstream_cut"))

    assert lines(bench)[1] == ("200 upstream_cut in 120 ms, openai, key 1, 1 attempt, upstream_cut (req-1)", "red")


@pytest.mark.parametrize(("new", "color"), [("Healthy", "green"), ("Resting", "yellow"), ("Disabled", "red")])
def test_a_change_of_a_key_is_a_line_in_the_color_of_its_state(bench: Bench, new: str, color: str) -> None:
    bench.live_log.key_changed("alpha", new)

    assert lines(bench) == [(f'Key "alpha" is {new}', color)]


def test_bodies_show_when_the_record_has_them_and_are_cut_at_500_characters(bench: Bench) -> None:
    bench.show(a_record(request_excerpt="q" * 600, response_excerpt="a" * 500))

    shown = [text for text, _ in lines(bench) if "body" in text]
    assert shown == [f"Request body: {'q' * 499}…", f"Response body: {'a' * 500}"]


def test_times_are_iso_8601_in_utc_and_lines_come_oldest_first(bench: Bench) -> None:
    bench.show(a_record())
    bench.live_log.add("earlier", "blue", at=NOON - 1)
    bench.written()

    shown = bench.live_log.recent()
    assert [line["time"] for line in shown] == [
        "2026-11-20T11:59:59.000Z",
        "2026-11-20T12:00:00.000Z",
        "2026-11-20T12:00:00.120Z",
    ]
    assert set(shown[0]) == {"time", "msg", "color"}


def test_the_last_fifty_lines_are_shown_unless_asked_otherwise(bench: Bench) -> None:
    for number in range(60):
        bench.live_log.add(f"line {number}", "blue", at=NOON + number)
        bench.written()

    shown = bench.live_log.recent()
    assert (len(shown), shown[0]["msg"], shown[-1]["msg"]) == (50, "line 10", "line 59")
    assert [line["msg"] for line in bench.live_log.recent(2)] == ["line 58", "line 59"]
    assert bench.live_log.recent(-1) == []


def test_a_burst_writes_only_its_newest_entries(bench: Bench) -> None:
    with bench.database.transaction():  # nothing can be written meanwhile
        for number in range(500):
            bench.live_log.add(f"line {number}", "blue", at=NOON + number)
    bench.written()

    stored = [row["message"] for row in bench.rows(events)]
    assert len(stored) <= MAX_ENTRIES_PER_WRITE
    assert stored[-1] == "line 499"


def test_no_secret_no_query_string_and_no_control_character_gets_in(bench: Bench) -> None:
    bench.show(a_record(path=f"/v1/{SECRET}\r\n\x1b[31m\u202e\ud800?key={SECRET}", model="m\nx"))
    bench.live_log.key_changed(f"name {SECRET}", "Disabled", "bad\0")

    told = " ".join(text for text, _ in lines(bench))
    assert SECRET not in told
    assert "key=" not in told
    assert not any(character in told for character in "\r\n\x1b\u202e\0")
    assert "/v1/[redacted]" in told


def test_a_very_long_path_is_cut(bench: Bench) -> None:
    bench.show(a_record(path="/" + "p" * 5000))

    assert len(lines(bench)[0][0]) == 1000


def test_another_worker_shows_the_same_lines(bench: Bench, tmp_path: Path) -> None:
    bench.live_log.add("hello", "blue")
    bench.written()

    with bench_at(tmp_path) as other:
        assert [line["msg"] for line in other.live_log.recent()] == ["hello"]
