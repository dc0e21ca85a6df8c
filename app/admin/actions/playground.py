"""
The client key with which the playground calls the proxy where client keys are required.

Its value is derived from the vault's key and from the characters that the list of clients shows, so that it can be
given out again though only its hash is stored. It is a row like any other: seen, limited and revoked in that list. One
that was deleted never works again, because the next one begins with other characters.
"""

from __future__ import annotations

import secrets
from typing import Final

from app.admin.actions.clients import door
from app.clients import PREFIX, SHOWN_CHARS
from app.context import Services
from app.errors import Forbidden

NAME: Final = "Playground"
_PURPOSE: Final = "client key of the playground: "
_REFUSALS: Final = {
    "inactive": "is switched off. Switch it on again under Clients, or enter another client key.",
    "expired": "has expired. Give it a later end under Clients, or enter another client key.",
}


def client_key(services: Services) -> str | None:
    """The key to call the proxy with; None while none is needed, and then none is made: it would close an open proxy.

    Raises Forbidden while an operator has switched the playground's key off.
    """
    if not door(services).required:
        return None
    known = [token for token in _candidates(services) if services.clients.refusal(token) != "unknown"]
    usable = [token for token in known if not services.clients.refusal(token)]
    if usable:
        return usable[0]
    if known:
        why = _REFUSALS[services.clients.refusal(known[0])]
        raise Forbidden(f"The client key “{NAME}” {why}", code="playground_key_refused")
    return _make(services)


def _candidates(services: Services) -> list[str]:
    return [_derived(services, row["key_prefix"]) for row in services.clients.list()]


def _make(services: Services) -> str:
    token = _derived(services, PREFIX + secrets.token_urlsafe(SHOWN_CHARS)[: SHOWN_CHARS - len(PREFIX)])
    services.clients.create(NAME, token=token)
    return token


def _derived(services: Services, shown: str) -> str:
    return shown + services.vault.derived(_PURPOSE + shown)
