"""The demonstration's models and keys. The keys open nothing but the demonstration, so they may stand here in clear."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What happens to the requests of a key."""

    HEALTHY = "healthy"
    RATE_LIMITED = "rate_limited"
    REVOKED = "revoked"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class DemoKey:
    """One key of the demonstration. `what` is a sentence for the key's note."""

    name: str
    value: str
    fate: Fate
    what: str


#: The rate-limited key refuses every n-th request, for this many seconds.
RATE_LIMIT_EVERY = 3
RETRY_AFTER_S = 5

DEMO_KEYS: tuple[DemoKey, ...] = (
    DemoKey("Demo key 1", "demo-key-healthy-0001", Fate.HEALTHY, "Always answers."),
    DemoKey("Demo key 2", "demo-key-healthy-0002", Fate.HEALTHY, "Always answers."),
    DemoKey("Demo key 3", "demo-key-healthy-0003", Fate.HEALTHY, "Always answers."),
    DemoKey(
        "Demo key, rate-limited",
        "demo-key-limited-0004",
        Fate.RATE_LIMITED,
        f"Refuses every {RATE_LIMIT_EVERY}rd request with 429 and Retry-After {RETRY_AFTER_S}, so that it rests.",
    ),
    DemoKey(
        "Demo key, revoked", "demo-key-revoked-0005", Fate.REVOKED, "Is refused as invalid, so that it is disabled."
    ),
    DemoKey("Demo key, failing", "demo-key-failing-0006", Fate.FAILING, "Answers every request with a 500."),
)

#: When the models came to be, as lists of models tell it: Unix seconds, 2026-01-01T00:00:00Z.
MODELS_CREATED = 1_767_225_600
#: Name and what it does.
DEMO_MODELS: dict[str, str] = {
    "demo-fast": "Answers with a fixed text and what you said.",
    "demo-stream-slow": "The same, a quarter of a second per word when it streams.",
    "demo-tools": "Calls the first tool that the request offers, then answers with the tool's result.",
    "demo-echo": "Says back the last text of the user, nothing else.",
}
SLOW_MODEL, TOOLS_MODEL, ECHO_MODEL = "demo-stream-slow", "demo-tools", "demo-echo"
