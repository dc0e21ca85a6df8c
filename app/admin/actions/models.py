"""What changes the names and the prices of models, however it was asked for: by the API or by the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from app.admin import http
from app.context import Services
from app.price_store import MAX_PRICES, Price, Prices
from app.provider_checks import MAX_ALIASES

__all__ = ["MAX_ALIASES", "MAX_PRICES", "PRICE_FIELDS", "TARGET", "change_aliases", "change_prices"]

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
