"""
Verdicts on the Anthropic API.

`error.details.error_code` decides, then `error.type`; sentences only where the provider gives no code: an empty
credit balance, a spend limit that the owner set, a foreign signature. Limits belong to an organization and a class
of models. An overloaded provider (529) is no key's fault.

Sources: https://platform.claude.com/docs/en/api/errors , https://platform.claude.com/docs/en/api/rate-limits
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.error_bodies import Shape
from app.keys.resets import Quota
from app.keys.verdict_tables.row import LONG, MINUTES, MODEL_SKIP, SHORT, Row, Table, Wait, codes, on, says

_ACCOUNT: Table = (
    Row(Action.KEY_DEAD, "organization_on_hold", Scope.GROUP, codes=codes("organization_on_hold"), alert=True),
    Row(
        Action.KEY_DEAD,
        "contract_spend_limit_reached",
        Scope.GROUP,
        codes=codes("contract_spend_limit_reached"),
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.GROUP,
        codes=codes("enforced_spend_limit_reached"),
        wait=Wait.EXPLICIT,
        otherwise=Quota.MONTH,
        ladder=LONG,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.GROUP,
        on(400),
        message=says(r"^you have reached your specified (?:workspace )?api usage limits\b"),
        wait=Wait.EXPLICIT,
        otherwise=Quota.MONTH,
        ladder=LONG,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        on(400, 402),
        message=says(r"^your credit balance is too low to access the anthropic api\b"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(Action.KEY_REST, "billing_error", Scope.GROUP, on(402), wait=Wait.EXPLICIT, ladder=LONG, alert=True),
    Row(Action.KEY_DEAD, "invalid_api_key", Scope.KEY, on(401), codes("authentication_error"), alert=True),
    Row(
        Action.MODEL_GONE,
        "key_scope_missing",
        Scope.KEY_MODEL,
        on(403),
        codes("permission_error", "api_key_scope_missing"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(
        Action.EGRESS,
        "front_end_refused",
        Scope.PROVIDER,
        on(403),
        shapes=frozenset({Shape.MARKUP}),
        ladder=MINUTES,
        alert=True,
    ),
)

_REQUEST: Table = (
    Row(
        Action.STATE,
        "foreign_signature",
        statuses=on(400),
        message=says(r"\binvalid .?signature.? in .?(?:redacted_)?thinking.? block\b"),
    ),
    Row(
        Action.CLIENT,
        "long_context_not_allowed",
        statuses=on(429),
        message=says(r"^extra usage is required for long context requests\b"),
    ),
    Row(Action.STATE, "foreign_resource", statuses=on(404), message=says(r"^(?:file|container)\b.* not found\b")),
    Row(
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        on(404),
        codes("not_found_error"),
        ladder=MODEL_SKIP,
    ),
    Row(Action.CLIENT, "invalid_request", statuses=on(400, 409, 412, 413, 422, 431, 501)),
)

_LIMITS: Table = (
    Row(
        Action.KEY_REST,
        "ramp_limited",
        Scope.GROUP_MODEL,
        codes=codes("ramp_limit_exceeded"),
        ladder=SHORT,
    ),
    Row(Action.KEY_REST, "rate_limited", Scope.GROUP_MODEL, on(429), codes("rate_limit_error"), ladder=SHORT),
)

_SERVER: Table = (
    Row(Action.PROVIDER, "overloaded", codes=codes("overloaded_error")),
    Row(Action.PROVIDER, "overloaded", statuses=on(529)),
    Row(Action.PROVIDER, "cancelled", statuses=on(499)),
    Row(Action.PROVIDER, "timeout", statuses=on(504)),
    Row(Action.PROVIDER, "server_error", statuses=on(500, 503)),
)

ANTHROPIC: Table = (*_SERVER, *_ACCOUNT, *_REQUEST, *_LIMITS)
