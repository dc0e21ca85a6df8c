"""The scripted upstream of the server tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply
from tests.server import server


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as found:
        found.default(json_reply(canned.chat()))
        yield found


@pytest.fixture(params=["threads", "loop"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each driver."""
    name: str = request.param
    monkeypatch.setattr(server, "DRIVER", name)
    return name
