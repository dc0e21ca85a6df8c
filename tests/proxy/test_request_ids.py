"""The ids that requests get when the caller gives none."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import uuid
from pathlib import Path

from app.proxy.adapters import RequestIds

ROOT = Path(__file__).parents[2]


def test_an_id_is_a_uuid_of_version_7_that_tells_the_time() -> None:
    ids = RequestIds(lambda: 1795176000.1239)

    for _ in range(3 * RequestIds.AT_ONCE):
        made = ids()
        assert re.fullmatch("[0-9a-f]{32}", made)
        read = uuid.UUID(hex=made)
        assert (read.version, read.variant) == (7, uuid.RFC_4122)
        assert int(made[:12], 16) == 1795176000123


def test_ids_follow_the_time() -> None:
    milliseconds = iter(range(600))
    ids = RequestIds(lambda: 1795176000.0 + next(milliseconds) / 1000 + 0.0005)
    made = [ids() for _ in range(600)]

    assert made == sorted(made)


def test_ids_of_one_moment_share_nothing_but_the_time() -> None:
    ids = RequestIds(lambda: 1795176000.0)
    made = [ids() for _ in range(20_000)]

    assert len(set(made)) == len(made)
    # Each of the 19 digits after the version takes all its values: a fixed or counted part would show here.
    for place in range(13, 32):
        assert len({text[place] for text in made}) == (4 if place == 16 else 16)


def test_threads_that_ask_at_once_never_get_the_same_id() -> None:
    ids = RequestIds()
    made: list[list[str]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own: own.extend(ids() for _ in range(5000)), args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len({text for own in made for text in own}) == 8 * 5000


def test_processes_never_make_the_same_id() -> None:
    program = (
        "from app.proxy.adapters import RequestIds; ids = RequestIds(lambda: 0.0); print([ids() for _ in range(9)])"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=30).stdout
        for _ in range(2)
    ]

    made = [set(re.findall(rb"[0-9a-f]{32}", output)) for output in outputs]
    assert [len(ids) for ids in made] == [9, 9]
    assert not made[0] & made[1]
