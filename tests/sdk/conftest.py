"""
What the SDK tests share: one gateway for all of them, and for each test a scripted upstream of its own with two fresh
keys for each provider, so that no test meets the rests of another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

PROVIDERS = ("openai", "anthropic", "gemini")
#: The placeholder that SDKs want where the gateway is open; it must never arrive upstream.
UNUSED = "a-key-of-the-caller"

_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDKs' own deprecation of their older calls is not news to us; everything else stays an error."""
    for item in items:
        if "/tests/sdk/" in str(item.path):
            for reason in _TOLERATED:
                item.add_marker(pytest.mark.filterwarnings(reason))


_TOLERATED: tuple[str, ...] = ()


@dataclass
class Stage:
    """One test's surroundings. `keys[provider]` are the values of its two keys, in the order in which they serve."""

    gateway: Gateway
    upstream: FakeProvider
    keys: dict[str, list[str]]

    @property
    def origin(self) -> str:
        return self.gateway.origin

    def attempts(self) -> list[str]:
        """Verdicts of the last request's attempts."""
        return [attempt["verdict"] for attempt in self.gateway.records()[-1]["attempts"]]


@pytest.fixture(scope="package")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("sdk"), settings={"pool_brake_threshold": 0}) as gateway:
        yield gateway


@pytest.fixture
def stage(shared_gateway: Gateway) -> Iterator[Stage]:
    services = shared_gateway.services
    with FakeProvider() as upstream:
        keys: dict[str, list[str]] = {}
        ids: list[int] = []
        for provider in PROVIDERS:
            services.providers.update(provider, {"base_url": upstream.origin})
            keys[provider] = [f"upstream-key-of-{provider}-{next(_numbers):05d}" for _ in range(2)]
            ids += [services.keys.add(value, provider=provider) for value in keys[provider]]
        yield Stage(shared_gateway, upstream, keys)
        for key_id in ids:
            services.keys.delete(key_id)
        assert upstream.unscripted == []
        assert upstream.problems == []
        for request in upstream.received:
            assert UNUSED not in str(request.header_list) + request.target
