"""Provider entries as the API and the pages make, change and test them. What an entry may be, the store decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.admin import http
from app.admin.overview import demonstration_answers
from app.context import Services
from app.errors import Conflict, NotFound
from app.keys.base import Status
from app.model_offers import Offer
from app.providers import DEMO_NAME, Provider

Json = dict[str, Any]

FIELDS: Final[Mapping[str, http.Check]] = {
    "name": http.text(64, min_length=1),
    "kind": http.text(32, min_length=1),
    "base_url": http.text(2000),
    "formats": http.texts(16, http.text(32, min_length=1)),
    "models": http.texts(200, http.text(256, min_length=1)),
    "headers": http.text_map(50, http.text(128, min_length=1), http.text(4000)),
    "query": http.text_map(50, http.text(128, min_length=1), http.text(2000)),
    "priority": http.integer(0, 1_000_000),
    "enabled": http.boolean,
    # In answers too, so that an answer can be sent back changed; they decide nothing.
    "effective": http.anything,
    "keys": http.anything,
}
DERIVED: Final = frozenset({"effective", "keys"})
MAX_SAMPLE: Final = 20


def listed(services: Services) -> list[Json]:
    """Every entry by priority, with the number of its keys in each state as `keys`."""
    states = services.keys.states()
    rows = sorted(services.providers.list(), key=lambda row: (row["priority"], row["name"]))
    return [row | {"keys": _counts(states.get(row["name"], {}))} for row in rows]


def _counts(states: Mapping[Status, int]) -> dict[str, int]:
    return {status.value: states.get(status, 0) for status in Status}


def create(services: Services, values: Mapping[str, Any]) -> Json:
    """Add an entry. Raises BadRequest naming the field, or Conflict."""
    return services.providers.create({name: value for name, value in values.items() if name not in DERIVED})


def update(
    services: Services, name: str, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> Json:
    """
    Change some fields; a header whose value is sent masked keeps its value.

    expected -- values that must still be there

    Raises BadRequest, NotFound, Conflict.
    """
    wanted = {field: value for field, value in changes.items() if field not in DERIVED}
    return services.providers.update(name, wanted, expected)


def delete(services: Services, name: str) -> None:
    """Remove an entry without keys. Raises NotFound, or Conflict."""
    services.providers.delete(name)


def entry(services: Services, name: str) -> Provider:
    """The entry that requests are routed by; the demonstration too, while it answers. Raises NotFound, Conflict."""
    known = services.providers.snapshot
    found = known.by_name.get(name)
    if name == DEMO_NAME and known.demo is not None and demonstration_answers(services):
        return known.demo
    if found is not None:
        return found
    services.providers.get(name)
    raise Conflict(f"The provider {name!r} is of a kind that this version does not know.")


def asked(services: Services) -> list[Provider]:
    """The entries whose models can be asked for: the enabled ones in order, then the demonstration while it answers."""
    known = services.providers.snapshot
    entries = [found for found in known.ordered if found.enabled]
    if known.demo is not None and demonstration_answers(services):
        entries.append(known.demo)
    return entries


def test(services: Services, name: str) -> Offer:
    """Ask the provider for its models with one of its keys. Raises NotFound; what the provider does is told."""
    return services.model_offers.ask(entry(services, name))


def tested(services: Services, name: str, offer: Offer) -> Json:
    """The outcome of a test, as the API answers it and as the page shows it."""
    key: Json | None = None
    if offer.key_id is not None:
        try:
            row = services.keys.get(offer.key_id)
            key = {"id": row["id"], "name": row["name"], "key_value": row["key_value"]}
        except NotFound:  # deleted meanwhile
            key = None
    return {
        "provider": name,
        "ok": offer.ok,
        "status": offer.status,
        "verdict": offer.verdict,
        "reason": offer.reason,
        "message": offer.words,
        "provider_message": offer.message,
        "duration_ms": offer.duration_ms,
        "key": key,
        "models": len(offer.models) if offer.ok else None,
        "sample": list(offer.models[:MAX_SAMPLE]) if offer.ok else [],
    }
