"""
A database that has seen years: thousands of keys with a month of statistics, a million requests, clients and prices.
Written with plain SQL into a database that the product has made itself; every run makes the same.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

KEYS: Final = 5_000
REQUESTS: Final = 1_000_000
DAYS: Final = 30
CLIENTS: Final = 200
SHAPES: Final = 2_000
MODELS: Final = tuple(f"model-{number:02d}" for number in range(40))
_DAY_S: Final = 86_400
_FAILURES: Final = (
    (429, "resting", "all_keys_resting"),
    (400, "client_error", "invalid_request"),
    (502, "upstream_error", "upstream_error"),
    (499, "client_gone", ""),
)
_FAILED_ATTEMPT: Final = {
    "status": 429,
    "verdict": "KEY_REST",
    "reason": "rate_limited",
    "message": "Rate limit reached",
}

Row = tuple[Any, ...]


def key_values() -> list[str]:
    """The values of the keys, the same in each run."""
    return [f"sk-crowd-{number:05d}-{random.Random(number).getrandbits(64):016x}" for number in range(KEYS)]


def fill(path: Path) -> None:
    """
    Add statistics and requests for the keys that are in the database at `path`, which nobody else uses meanwhile.

    Raises sqlite3.Error where the tables are not what they were when this was written.
    """
    choose = random.Random(1)
    now = time.time()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    with connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM keys WHERE provider = 'openai' ORDER BY id")]
        _rest_and_disable(connection, ids, now)
        for table, columns, rows in (
            ("daily_stats", _DAILY, _daily(choose, ids, now)),
            ("model_stats", _MODEL, _models(choose, ids, now)),
            ("period_stats", _PERIOD, _periods(choose, now)),
            ("client_stats", _CLIENT, _clients(choose, now)),
            ("request_shapes", _SHAPE, _shapes(choose, now)),
            ("requests", _REQUEST, _requests(choose, ids, now)),
        ):
            places = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _rest_and_disable(connection: sqlite3.Connection, ids: list[int], now: float) -> None:
    evidence = json.dumps({"status": 429, "message": "Rate limit reached for this organization."})
    rested = (
        "UPDATE keys SET status = 'Resting', disabled_until = ?, reason = 'rate_limited', evidence = ? WHERE id = ?"
    )
    connection.executemany(rested, [(now + 3_600 + id_, evidence, id_) for id_ in ids[::10]])
    disabled = "UPDATE keys SET status = 'Disabled', reason = 'invalid_key' WHERE id = ?"
    connection.executemany(disabled, [(id_,) for id_ in ids[5::50]])


def _date(now: float, ago: int) -> str:
    return datetime.fromtimestamp(now - ago * _DAY_S, UTC).strftime("%Y-%m-%d")


_DAILY: Final = (
    "key_id", "date", "requests", "successes", "errors", "tokens_in", "tokens_out", "total_latency_ms", "error_codes",
    "model_usage",
)  # fmt: skip


def _daily(choose: random.Random, ids: list[int], now: float) -> Iterator[Row]:
    for ago in range(DAYS):
        date = _date(now, ago)
        for id_ in ids:
            count, errors = choose.randint(1, 400), choose.randint(0, 5)
            usage = json.dumps({choose.choice(MODELS): count})
            codes = json.dumps({"429": errors} if errors else {})
            yield id_, date, count + errors, count, errors, count * 900, count * 250, count * 800, codes, usage


_MODEL: Final = ("key_id", "date", "model", "requests", "tokens_in", "tokens_out", "cached_tokens")


def _models(choose: random.Random, ids: list[int], now: float) -> Iterator[Row]:
    for ago in range(DAYS):
        date = _date(now, ago)
        for id_ in ids:
            count = choose.randint(1, 400)
            yield id_, date, choose.choice(MODELS), count, count * 900, count * 250, count * 100


_PERIOD: Final = (
    "period", "requests", "successes", "tokens_in", "tokens_out", "cached_tokens", "outcomes", "statuses", "verdicts",
    "error_codes", "latencies", "first_tokens",
)  # fmt: skip


def _periods(choose: random.Random, now: float) -> Iterator[Row]:
    hours = [datetime.fromtimestamp(now - ago * 3_600, UTC).strftime("%Y-%m-%dT%H") for ago in range(DAYS * 24)]
    for period in hours + [_date(now, ago) for ago in range(DAYS)]:
        count = choose.randint(1_000, 2_000) * (1 if "T" in period else 24)
        failed = count // 50
        histogram = json.dumps({str(bucket): choose.randint(1, 40) for bucket in range(20, 90)})
        outcomes = json.dumps({"success": count - failed, "upstream_error": failed})
        statuses = json.dumps({"200": count - failed, "502": failed})
        verdicts = json.dumps({"ok": count - failed, "PROVIDER": failed, "KEY_REST": failed * 2})
        codes = json.dumps({"429": failed * 2, "502": failed})
        good = count - failed
        yield (
            period, count, good, count * 900, count * 250, count * 100, outcomes, statuses, verdicts, codes, histogram,
            histogram,
        )  # fmt: skip


_CLIENT: Final = ("date", "client_id", "model", "requests", "successes", "tokens_in", "tokens_out", "cached_tokens")


def _clients(choose: random.Random, now: float) -> Iterator[Row]:
    for ago in range(DAYS):
        date = _date(now, ago)
        for client in range(CLIENTS + 1):
            for model in choose.sample(MODELS, 3):
                count = choose.randint(1, 2_000)
                yield date, client, model, count, count - count // 50, count * 900, count * 250, count * 100


_SHAPE: Final = (
    "id", "method", "path", "dialect", "operation", "model", "upstream_model", "provider", "client_id", "stream",
    "status", "outcome", "error_code", "peer", "user_agent", "seen_at",
)  # fmt: skip


def _shapes(choose: random.Random, now: float) -> Iterator[Row]:
    for id_ in range(1, SHAPES + 1):
        model, client = choose.choice(MODELS), choose.randint(0, CLIENTS) or None
        status, outcome, code = choose.choice(_FAILURES) if id_ % 20 == 0 else (200, "success", "")
        yield (
            id_, "POST", "/v1/chat/completions", "openai_chat", "generate", model, model, "openai", client, id_ % 2,
            status, outcome, code, "127.0.0.1", "OpenAI/Python 3.52.0", now,
        )  # fmt: skip


_REQUEST: Final = (
    "shape_id", "request_id", "started_at", "key_id", "duration_ms", "first_byte_ms", "request_bytes",
    "response_bytes", "input_tokens", "output_tokens", "attempts",
)  # fmt: skip


def _requests(choose: random.Random, ids: list[int], now: float) -> Iterator[Row]:
    step_s = DAYS * _DAY_S / REQUESTS
    for number in range(REQUESTS):
        key, shape = choose.choice(ids), choose.randint(1, SHAPES)
        took_ms = choose.randint(200, 20_000)
        attempts = ""
        if number % 25 == 0:
            failed = {"number": 1, "provider": "openai", "key_id": choose.choice(ids), "wait_ms": 0, "duration_ms": 90}
            last = {"number": 2, "provider": "openai", "key_id": key, "status": 200, "verdict": "ok", "reason": ""}
            attempts = json.dumps(
                [failed | _FAILED_ATTEMPT, last | {"message": "", "wait_ms": 5, "duration_ms": took_ms}]
            )
        started = now - (REQUESTS - number) * step_s
        yield shape, f"{number:032x}", started, key, took_ms, took_ms // 4, 900, 4_000, 900, 250, attempts
