"""A middleware that has seen some use: keys in every state, clients, calls that succeeded and calls that did not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser.ordinary import ordinary
from tests.fake_behaviors import json_reply
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

CALLS = 40


@contextmanager
def middleware_in_use(folder: Path, *, password: str = "") -> Iterator[Gateway]:
    """A gateway with data in it; its providers lead to a scripted upstream."""
    with FakeProvider() as upstream:
        environ = {"MIDDLEWARE_PASSWORD": password} if password else {}
        origins = {name: upstream.origin for name in ("openai", "anthropic", "gemini")}
        with Gateway(folder, **origins, environ=environ) as gateway:  # type: ignore[arg-type]
            _use(gateway, upstream)
            yield gateway


def _use(gateway: Gateway, upstream: FakeProvider) -> None:
    names = ("Team budget", "Alice, personal", "Night jobs", "Old laptop", "Research")
    values = [f"sk-proj-{index:02d}-of-the-screenshots-{index:04d}" for index in range(len(names))]
    for name, value in zip(names, values, strict=True):
        gateway.services.keys.add(value, provider="openai", name=name, note=f"Made for {name.lower()}.")
    gateway.services.keys.add("AIza-of-the-screenshots-0001", provider="gemini", name="Gemini, free tier")
    upstream.by_key(
        {
            values[2]: json_reply(
                {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}},
                429,
                {"Retry-After": "1800"},
            ),
            values[3]: json_reply({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401),
        }
    )
    upstream.default(ordinary)
    for number in range(CALLS):
        model = ("gpt-5-mini", "gpt-5", "gpt-4o")[number % 3]
        gateway.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    gateway.settle()
