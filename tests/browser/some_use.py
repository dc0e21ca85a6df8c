"""
A middleware that has seen some use: keys in every state, clients, prices, a month of requests that succeeded and
requests that did not, and calls of this very moment.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.records import AttemptRecord, RequestRecord
from tests.browser.ordinary import ordinary
from tests.fake_behaviors import json_reply
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway

CALLS = 40
DAYS = 30
REQUESTS_A_DAY = 90
#: (model, dialect, path, share of all requests)
MODELS = (
    ("gpt-5-mini", "openai_chat", "/v1/chat/completions", 5),
    ("gpt-5", "openai_responses", "/v1/responses", 3),
    ("gpt-4o", "openai_chat", "/v1/chat/completions", 1),
)
NAMES = ("Team budget", "Alice, personal", "Night jobs", "Old laptop", "Research")
#: (name, models)
CLIENTS = (("Editor plugin", []), ("Nightly evaluation", ["gpt-5*"]), ("Support bot", ["gpt-5-mini"]))
PRICES = {"gpt-5-mini": (0.25, 2.0, 0.025), "gpt-5": (1.25, 10.0, 0.125)}
_DAY_S = 86_400


@contextmanager
def middleware_in_use(folder: Path, *, password: str = "") -> Iterator[Gateway]:
    """A gateway with data in it; its providers lead to a scripted upstream."""
    with FakeProvider() as upstream:
        environ = {"MIDDLEWARE_PASSWORD": password} if password else {}
        origins = {name: upstream.origin for name in ("openai", "anthropic", "gemini")}
        with Gateway(folder, **origins, environ=environ) as gateway:  # type: ignore[arg-type]
            use(gateway, upstream)
            yield gateway


def use(gateway: Gateway, upstream: FakeProvider) -> None:
    """Fill `gateway` with a history, then call it a few times."""
    services = gateway.services
    values = [f"sk-proj-{index:02d}-of-the-screenshots-{index:04d}" for index in range(len(NAMES))]
    ids = [
        services.keys.add(value, provider="openai", name=name, note=f"Made for {name.lower()}.")
        for name, value in zip(NAMES, values, strict=True)
    ]
    services.keys.add("AIza-of-the-screenshots-0001", provider="gemini", name="Gemini, free tier")
    services.providers.set_aliases({"fast": "gpt-5-mini", "best": "openai/gpt-5"})
    services.prices.replace(
        {
            model: {"input_per_million": given, "output_per_million": made, "cached_per_million": cached}
            for model, (given, made, cached) in PRICES.items()
        }
    )
    made = [services.clients.create(name, models=models) for name, models in CLIENTS]
    _history(gateway, ids, [client_id for client_id, _ in made])
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
        body = {"model": MODELS[number % 3][0], "messages": [{"role": "user", "content": "Hello"}]}
        gateway.post("/v1/chat/completions", body, Authorization=f"Bearer {made[0][1]}")
    gateway.settle()


def _history(gateway: Gateway, key_ids: list[int], client_ids: list[int]) -> None:
    choose = random.Random(7)
    now = time.time()
    for ago in range(DAYS - 1, -1, -1):
        weekend = time.gmtime(now - ago * _DAY_S).tm_wday >= 5
        count = int(REQUESTS_A_DAY * choose.uniform(0.6, 1.3) * (0.35 if weekend else 1) * (1.6 - ago / DAYS))
        for started_at in sorted(now - (ago + choose.random()) * _DAY_S for _ in range(count)):
            gateway.services.usage.record(_record(choose, started_at, key_ids, client_ids))
    gateway.settle()


def _record(choose: random.Random, started_at: float, key_ids: list[int], client_ids: list[int]) -> RequestRecord:
    model, dialect, path, _ = choose.choices(MODELS, [share for *_, share in MODELS])[0]
    key_id = choose.choices(key_ids, [6, 4, 3, 1, 2])[0]
    duration_ms = int(choose.lognormvariate(7.6, 0.7))
    record = RequestRecord(
        request_id=f"{choose.getrandbits(128):032x}",
        started_at=started_at,
        method="POST",
        path=path,
        dialect=dialect,
        operation="generate",
        model=model,
        upstream_model=model,
        provider="openai",
        key_id=key_id,
        client_id=choose.choice(client_ids),
        stream=choose.random() < 0.6,
        status=200,
        outcome="success",
        duration_ms=duration_ms,
        first_byte_ms=min(duration_ms, int(choose.lognormvariate(6.2, 0.5))),
        request_bytes=choose.randint(300, 9_000),
        response_bytes=choose.randint(800, 30_000),
        input_tokens=choose.randint(200, 6_000),
        output_tokens=choose.randint(50, 1_500),
        cached_tokens=choose.choice((0, 0, 1_024)),
        peer="127.0.0.1",
        user_agent="OpenAI/Python 3.52.0",
    )
    record.attempts = [AttemptRecord(1, "openai", key_id, 200, "ok", "", "", 0, duration_ms)]
    chance = choose.random()
    if chance < 0.05:
        other = choose.choice([id_ for id_ in key_ids if id_ != key_id])
        limited = AttemptRecord(1, "openai", other, 429, "KEY_REST", "rate_limited", "Rate limit reached", 0, 80)
        record.attempts = [limited, AttemptRecord(2, "openai", key_id, 200, "ok", "", "", 5, duration_ms - 85)]
    elif chance < 0.07:
        record.status, record.outcome, record.error_code = 400, "client_error", "context_length_exceeded"
        record.attempts[0].status, record.attempts[0].verdict = 400, "CLIENT"
        record.input_tokens = record.output_tokens = record.cached_tokens = None
    elif chance < 0.08:
        record.status, record.outcome, record.error_code = 502, "upstream_error", "upstream_error"
        record.attempts[0].status, record.attempts[0].verdict = 503, "PROVIDER"
        record.input_tokens = record.output_tokens = record.cached_tokens = None
    return record
