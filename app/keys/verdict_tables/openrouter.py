"""
Verdicts on OpenRouter and aggregators like it.

The integer `error.code` repeats the status; `error.metadata` says more. A 402 that names a wait is transient, one
that does not means that the money is gone. A 403 is moderation, not the key, unless the metadata names a spent
budget. Limits belong to the account.

Sources: https://openrouter.ai/docs/api-reference/errors , https://openrouter.ai/docs/api-reference/limits
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.verdict_tables.row import LONG, SHORT, Row, Table, Wait, codes, on, says

OPENROUTER: Table = (
    Row(Action.CLIENT, "request_too_expensive", statuses=on(402), codes=codes("weight_exceeds_budget")),
    Row(Action.CLIENT, "request_too_expensive", statuses=on(402), message=says(r"\bweight_exceeds_budget\b")),
    Row(Action.KEY_REST, "budget_in_flight", Scope.GROUP, on(402), retry_after=True, ladder=SHORT),
    Row(
        Action.KEY_REST,
        "budget_in_flight",
        Scope.GROUP,
        on(402),
        codes("in_flight_budget_exhausted", "openrouter_in_flight_budget"),
        ladder=SHORT,
    ),
    Row(Action.KEY_REST, "credit_exhausted", Scope.GROUP, on(402), wait=Wait.EXPLICIT, ladder=LONG, alert=True),
    Row(
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.KEY,
        on(403),
        codes("openrouter_key_limit", "openrouter_guardrail_budget"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.GROUP,
        on(403),
        codes("openrouter_workspace_budget"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(Action.CLIENT, "moderated", statuses=on(403)),
    Row(Action.CLIENT, "invalid_request", statuses=on(400)),
    Row(Action.KEY_DEAD, "invalid_api_key", Scope.KEY, on(401), alert=True),
    Row(Action.KEY_REST, "rate_limited", Scope.GROUP, on(429), ladder=SHORT),
    Row(Action.PROVIDER, "timeout", statuses=on(408)),
    Row(Action.PROVIDER, "server_error", statuses=on(500, 502, 503)),
)
