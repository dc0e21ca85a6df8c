"""Whatever bytes a client sends, the connection answers what the strict reader takes for requests, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server import strict_http
from tests.server.generated import connections, split
from tests.server.in_process import Echo, LoopServer, answers, talk
from tests.server.strict_http import Ask

EXAMPLES = settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
REFUSALS = (400, 417, 431, 501, 505)


@pytest.fixture(scope="module")
def server() -> Iterator[LoopServer]:
    with LoopServer(Echo) as server:
        yield server


@EXAMPLES
@given(connections(), st.lists(st.integers(0, 1 << 16), max_size=6))
def test_every_request_is_answered_once_in_order_and_nothing_else_is(
    server: LoopServer, data: bytes, at: list[int]
) -> None:
    expected = strict_http.read(data)
    before = len(server.handlers)

    everything = talk(server, split(data, at))
    # The answer to a HEAD has no body, also where it refuses what came behind the head.
    received = answers(everything, [handler.request.method for handler in server.handlers[before:]])

    asked = len(expected.asked)
    served, refused = received[:asked], received[asked:]
    assert [status for status, _, _ in served] == [200] * asked
    assert [echoed(ask) for ask in expected.asked if ask.method != "HEAD"] == [
        json.loads(body) for _, _, body in served if body
    ]
    # A body at fault has a handler that is told so; a head at fault has none.
    assert len(server.handlers) - before in (asked, asked + 1)
    if expected.ended == "refused":
        assert len(refused) == 1
    assert [status for status, _, _ in refused if status not in REFUSALS] == []
    assert [headers["connection"] for _, headers, _ in refused] == ["close"] * len(refused)
    assert refused == [] or expected.ended != "end"


def echoed(ask: Ask) -> dict[str, object]:
    lines = [list(line) for line in ask.headers]
    return {"method": ask.method, "target": ask.target, "headers": lines, "body": ask.body.decode("latin-1")}
