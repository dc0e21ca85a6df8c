"""Client keys as the API and the pages make and change them, and what the door to the proxy does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.admin import http
from app.clients import Client
from app.context import Services
from app.errors import BadRequest
from app.proxy.adapters import ClientDoor

_GLOBS = http.texts(200, http.text(256, min_length=1))

FIELDS: Final[Mapping[str, http.Check]] = {
    "name": http.text(200),
    "active": http.boolean,
    "models": _GLOBS,
    "scopes": _GLOBS,
    "expires_at": http.optional(http.instant),
}
MAX_DAYS: Final = 366
DEFAULT_DAYS: Final = 30
ACTIVE, INACTIVE, EXPIRED = "active", "inactive", "expired"


@dataclass(frozen=True, slots=True)
class Door:
    """
    Who may call the proxy.

    mode      -- CLIENT_AUTH: `auto`, `required` or `open`
    required  -- whether a client key is needed now
    follows   -- whether that depends on there being a client key: the first closes the proxy, the last opens it
    """

    mode: str
    required: bool
    follows: bool


def door(services: Services) -> Door:
    """How the door stands now."""
    config = services.config
    required = ClientDoor(services.clients, config.client_auth, exposed=not config.is_loopback).required()
    return Door(config.client_auth, required, config.client_auth == "auto" and config.is_loopback)


def state_of(client: Mapping[str, Any], now: float) -> str:
    """`active`, `inactive` or `expired`, as the door sees this client."""
    if not client["active"]:
        return INACTIVE
    return EXPIRED if client["expires_at"] is not None and client["expires_at"] <= now else ACTIVE


def caller(client: Mapping[str, Any]) -> Client:
    """The client as the proxy knows it."""
    return Client(client["id"], client["name"], client["active"], client["expires_at"], (), tuple(client["models"]))


def create(services: Services, values: Mapping[str, Any]) -> tuple[int, str]:
    """Make a client key; returns its id and the whole key. Raises BadRequest."""
    if not values.get("name"):
        raise BadRequest("Name required", code="missing_field", param="name")
    return services.clients.create(**values)


def update(
    services: Services, client_id: int, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    Change some fields; the next request of the client already meets them. Returns the client as it is now.

    expected -- values that must still be there

    Raises BadRequest, NotFound, Conflict.
    """
    services.clients.update(client_id, changes, expected)
    return services.clients.get(client_id)


def delete(services: Services, client_id: int) -> None:
    """Remove a client key: whoever holds it is refused from now on. Raises NotFound."""
    services.clients.delete(client_id)


def usage(services: Services, client_id: int, days: int = DEFAULT_DAYS) -> dict[str, Any]:
    """What one client used in the last `days` days: see `RollupQueries.client_days`."""
    return services.rollups.client_days(client_id, days, services.prices.price_list())


def usage_of_all(services: Services) -> tuple[dict[int, Any], dict[int, Any]]:
    """By client id, 0 for requests without a client key: what they used today, and in the last 30 days."""
    prices = services.prices.price_list()
    return services.rollups.client_usage(1, prices), services.rollups.client_usage(DEFAULT_DAYS, prices)
