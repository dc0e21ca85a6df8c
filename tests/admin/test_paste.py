"""Keys pasted as text: which line means what."""

from __future__ import annotations

import time

import pytest

from app.admin.actions.paste import PastedKey, read_paste

LINES = [
    ("sk-0123456789", ("sk-0123456789", "", "")),
    ("  sk-0123456789  ", ("sk-0123456789", "", "")),
    ("work,sk-0123456789", ("sk-0123456789", "work", "")),
    ("work, team A ,  sk-0123456789", ("sk-0123456789", "work, team A", "")),
    ("work: sk-0123456789", ("sk-0123456789", "work", "")),
    ("work:\tsk-0123456789", ("sk-0123456789", "work", "")),
    ("work\tsk-0123456789", ("sk-0123456789", "work", "")),
    ("id:secret0123456789", ("id:secret0123456789", "", "")),
    ("sk-0123456789 # paid until May", ("sk-0123456789", "", "paid until May")),
    ("work,sk-0123456789 # a note, with: signs", ("sk-0123456789", "work", "a note, with: signs")),
    ("sk-0123#456789", ("sk-0123#456789", "", "")),
    ('"sk-0123456789",', ("sk-0123456789", "", "")),
    ("'my key','sk-0123456789'", ("sk-0123456789", "my key", "")),
    ("OPENAI_API_KEY=sk-0123456789", ("sk-0123456789", "OPENAI_API_KEY", "")),
    ("export OPENAI_API_KEY='sk-0123456789'", ("sk-0123456789", "OPENAI_API_KEY", "")),
    ("QUJDREVGR0g==", ("QUJDREVGR0g==", "", "")),
    ("two words here", ("two words here", "", "")),
    ("<img src=x onerror=alert(1)>,sk-0123456789", ("sk-0123456789", "<img src=x onerror=alert(1)>", "")),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_a_line_gives_value_name_and_note(line: str, expected: tuple[str, str, str]) -> None:
    value, name, note = expected
    assert read_paste(line) == [PastedKey(1, value, name, note)]


def test_blank_lines_and_comments_are_left_out_and_lines_keep_their_numbers() -> None:
    text = "\r\n# my keys\r\nsk-0123456789\n\n   \nsk-9876543210\n"
    assert [(key.line, key.value) for key in read_paste(text)] == [(3, "sk-0123456789"), (6, "sk-9876543210")]


def test_endless_lines_are_taken_as_they_are_at_once() -> None:
    started = time.monotonic()
    assert len(read_paste("\n".join([", " * 4_000, ", " * 1_000_000]))) == 2
    assert time.monotonic() - started < 5
