"""What the codes mean by which a key rests or is disabled, in words. Pure."""

from __future__ import annotations

from typing import Final

_WORDS: Final = {
    "manual": "Set by a person",
    "brake": "Many keys failed alike, so none was spent on it",
    "circuit_open": "The provider failed too often in a row",
    "unauthorized": "The provider does not accept the key",
    "invalid_api_key": "The provider does not know this key",
    "key_reported_leaked": "The provider reports the key as leaked",
    "key_refused": "The provider refuses the key",
    "key_restricted": "The key is restricted to other uses",
    "key_scope_missing": "The key lacks a permission",
    "ip_blocked": "The key may not be used from our address",
    "rate_limited": "Too many requests",
    "rate_limited_per_minute": "Too many requests this minute",
    "rate_limited_per_day": "The quota of the day is used up",
    "rate_limited_per_month": "The quota of the month is used up",
    "credit_exhausted": "The credit is used up",
    "spend_limit_reached": "The spending limit is reached",
    "billing_required": "The account has no billing",
    "payment_required": "The account has to be paid",
    "model_not_found": "The key does not offer the model",
    "no_model_access": "The key has no access to the model",
    "not_found": "The key does not offer the model",
    "no_quota_for_model": "The key has no quota for the model",
    "refused": "The connection was refused",
    "dns": "The host name does not resolve",
    "tls": "TLS failed: the certificate or the protocol is not right",
    "connect_timeout": "No connection within the time limit",
    "first_byte_timeout": "No answer within the time limit",
    "reset": "The connection broke off",
    "incomplete": "The answer broke off",
    "invalid_body": "The answer was no JSON",
    "redirect": "The provider redirects elsewhere",
    "server_error": "The provider failed",
    "no_model_list": "The provider has no list of models",
}


def in_words(reason: str) -> str:
    """A reason as people read it; a code without words of its own is spelled out."""
    if not reason:
        return ""
    return _WORDS.get(reason) or reason.replace("_", " ").capitalize()
