"""
The state of the middleware in a few figures and one sentence, for the overview page and the statistics.

The demonstration counts only while it answers: as soon as a real key exists, its keys are left out everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.context import Services
from app.keys.base import Status
from app.providers import DEMO_NAME


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """How many keys of one provider are in which state."""

    name: str
    kind: str
    enabled: bool
    healthy: int
    resting: int
    disabled: int

    @property
    def total(self) -> int:
        return self.healthy + self.resting + self.disabled


@dataclass(frozen=True, slots=True)
class Overview:
    """
    level  -- `good`, `warn` or `bad`
    words  -- the state in one sentence
    """

    level: str
    words: str


def provider_rows(services: Services) -> list[ProviderRow]:
    """The configured providers in order of preference. The demonstration is not among them."""
    states = services.keys.states()
    return [
        ProviderRow(
            name=entry.name,
            kind=entry.kind.name,
            enabled=entry.enabled,
            healthy=states.get(entry.name, {}).get(Status.HEALTHY, 0),
            resting=states.get(entry.name, {}).get(Status.RESTING, 0),
            disabled=states.get(entry.name, {}).get(Status.DISABLED, 0),
        )
        for entry in services.providers.snapshot.ordered
    ]


def demonstration_answers(services: Services) -> bool:
    """Whether the demonstration answers: it does until a real key exists, in whatever state."""
    return services.providers.snapshot.demo is not None and not services.keys.any_real()


def health_status(services: Services) -> dict[str, int]:
    """Number of keys by state, zeros included."""
    hidden = "" if demonstration_answers(services) else DEMO_NAME
    counts = {status.value: 0 for status in Status}
    for provider, states in services.keys.states().items():
        if provider != hidden:
            for status, count in states.items():
                counts[status] += count
    return counts


def overview(rows: list[ProviderRow], demonstration: bool) -> Overview:
    """The state in one sentence, worst news first."""
    enabled = [row for row in rows if row.enabled]
    healthy, resting = sum(row.healthy for row in enabled), sum(row.resting for row in enabled)
    disabled = sum(row.disabled for row in enabled)
    if healthy:
        rest = f", {resting:,} resting, {disabled:,} disabled" if resting or disabled else ""
        return Overview(
            "warn" if disabled else "good",
            f"Serving: {healthy:,} {'key is' if healthy == 1 else 'keys are'} healthy{rest}.",
        )
    if resting:
        return Overview("bad", "All keys rest: requests are answered with 429 until the first one wakes.")
    if disabled:
        return Overview("bad", "All keys are disabled: enable one, or add another.")
    if demonstration:
        return Overview("warn", "No key yet: only the demonstration answers.")
    return Overview("bad", "No key yet: add one, and requests will be served.")
