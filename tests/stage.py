"""
One gateway for many tests: each test brings a scripted upstream of its own and fresh keys, so that no test meets the
rests, the sessions or the requests of another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.fake_provider import FakeProvider, Received
from tests.gateway import Gateway

PROVIDERS = ("openai", "anthropic", "gemini")
#: What SDKs are given where the gateway asks for no key; it must never arrive upstream.
UNUSED = "a-key-of-the-caller"

_numbers = count(1)


@dataclass
class Stage:
    """One test's surroundings. `keys[provider]` are the values of its two keys, in the order in which they serve."""

    gateway: Gateway
    upstream: FakeProvider
    keys: dict[str, list[str]]

    @property
    def origin(self) -> str:
        return self.gateway.origin

    def record(self) -> dict[str, Any]:
        """The row of the last request."""
        return self.gateway.records()[-1]

    def attempts(self) -> list[str]:
        """Verdicts of the last request's attempts."""
        return [attempt["verdict"] for attempt in self.record()["attempts"]]

    def sent(self) -> Received:
        """The one request that went upstream."""
        (received,) = self.upstream.received
        return received

    @contextmanager
    def provider(self, kind: str, base_path: str = "", **fields: Any) -> Iterator[tuple[str, list[str]]]:
        """Another provider entry that leads to the same upstream, with two keys: (its name, their values)."""
        services = self.gateway.services
        name = f"entry-{next(_numbers)}"
        wanted = {"name": name, "kind": kind, "base_url": self.upstream.origin + base_path, **fields}
        services.providers.create(wanted)
        values = [f"upstream-key-{next(_numbers):05d}" for _ in range(2)]
        ids = [services.keys.add(value, provider=name) for value in values]
        yield name, values
        for key_id in ids:
            services.keys.delete(key_id)
        services.providers.delete(name)


@contextmanager
def staged(gateway: Gateway) -> Iterator[Stage]:
    """
    The built-in providers of `gateway` lead to a new scripted upstream and have two new keys each. Afterwards all is as
    before, and the upstream must have met nothing unforeseen.
    """
    services = gateway.services
    with FakeProvider() as upstream:
        keys: dict[str, list[str]] = {}
        ids: list[int] = []
        for provider in PROVIDERS:
            services.providers.update(provider, {"base_url": upstream.origin})
            keys[provider] = [f"upstream-key-of-{provider}-{next(_numbers):05d}" for _ in range(2)]
            ids += [services.keys.add(value, provider=provider) for value in keys[provider]]
        yield Stage(gateway, upstream, keys)
        for key_id in ids:
            services.keys.delete(key_id)
        services.providers.set_aliases({})
        services.live_settings.reset()
        assert upstream.unscripted == []
        assert upstream.problems == []
        for request in upstream.received:
            assert UNUSED not in str(request.header_list) + request.target
