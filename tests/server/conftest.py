"""The scripted upstream of the server tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as found:
        found.default(json_reply(canned.chat()))
        yield found
