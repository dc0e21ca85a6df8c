"""The models that providers offer, their other names and their prices, as the API and the pages change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.admin import http
from app.admin.actions import providers
from app.context import Services
from app.price_store import MAX_PRICES as MAX_PRICES
from app.price_store import Price, Prices
from app.provider_checks import MAX_ALIASES as MAX_ALIASES
from app.providers import Provider

Json = dict[str, Any]

ALIAS: Final = http.text(256, min_length=1)
PATTERN: Final = http.text(256, min_length=1)
#: What an alias stands for: `model` or `provider/model`.
TARGET: Final = http.text(320, min_length=1)

_DOLLARS = http.number(0, 1_000_000)
PRICE_FIELDS: Final[Mapping[str, http.Check]] = {
    "input_per_million": _DOLLARS,
    "output_per_million": _DOLLARS,
    "cached_per_million": http.optional(_DOLLARS),
}


def change_aliases(
    services: Services, changes: Mapping[str, str | None], expected: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Add, change and (None) delete single aliases; see `ProviderStore.change_aliases`."""
    return services.providers.change_aliases(changes, expected)


def change_prices(
    services: Services, changes: Mapping[str, Price | None], expected: Mapping[str, Price | None] | None = None
) -> Prices:
    """Add, change and (None) delete single prices; see `PriceStore.change`."""
    return services.prices.change(changes, expected)


def offered(services: Services) -> list[Json]:
    """
    A row for each enabled provider, and for the demonstration while it answers: {provider, kind, ok, models, asked_at,
    listed_at, message, provider_message, status, verdict, reason, duration_ms}; `asked_at` is None where nobody asked.
    """
    return [_offer(services, entry) for entry in providers.asked(services)]


def _offer(services: Services, entry: Provider) -> Json:
    offer = services.model_offers.known(entry)
    row: Json = {"provider": entry.name, "kind": entry.kind.name, "ok": False, "models": [], "message": ""}
    row |= dict.fromkeys(("asked_at", "listed_at")) | {"provider_message": "", "status": 0, "verdict": ""}
    row |= {"reason": "", "duration_ms": 0}
    if offer is None:
        obstacle = services.model_offers.obstacle(entry)
        return row if obstacle is None else row | {"reason": obstacle[0], "message": obstacle[1]}
    same = ("ok", "status", "verdict", "reason", "duration_ms", "asked_at", "listed_at")
    row |= {name: getattr(offer, name) for name in same}
    return row | {"models": list(offer.models), "message": offer.words, "provider_message": offer.message}


def refresh(services: Services, name: str | None = None) -> None:
    """Ask one provider, or all enabled ones, for their models. Raises NotFound; what providers do is remembered."""
    wanted = providers.asked(services) if name is None else [providers.entry(services, name)]
    services.model_offers.ask_all(wanted)
