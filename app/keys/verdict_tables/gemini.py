"""
Verdicts on the Gemini API (generativelanguage.googleapis.com), v1 and v1beta, the Interactions API included.

Limits belong to a Google Cloud project and a model, never to a key: rests cover the group and the model. A 400 can be
about the key, a 403 need not be. Free text never disables a key, but for leaked ones, which have no code.

Sources: https://ai.google.dev/gemini-api/docs/troubleshooting , https://ai.google.dev/gemini-api/docs/api-errors ,
https://ai.google.dev/gemini-api/docs/rate-limits , https://ai.google.dev/gemini-api/docs/billing ,
https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.resets import Quota
from app.keys.verdict_tables.row import LONG, MINUTES, MODEL_SKIP, Row, Table, Wait, codes, on, says

_KEY: Table = (
    Row(Action.KEY_DEAD, "invalid_api_key", Scope.KEY, codes=codes("API_KEY_INVALID"), alert=True),
    Row(
        Action.KEY_DEAD,
        "key_reported_leaked",
        Scope.KEY,
        on(403),
        message=says(r"^(?:(?:your|the|this) )?api key\b.{0,60}\breported as leaked\b"),
        alert=True,
    ),
    Row(Action.KEY_DEAD, "project_suspended", Scope.GROUP, codes=codes("CONSUMER_SUSPENDED"), alert=True),
    Row(Action.KEY_DEAD, "service_disabled", Scope.KEY, codes=codes("SERVICE_DISABLED"), alert=True),
    Row(
        Action.KEY_DEAD,
        "key_restricted",
        Scope.KEY,
        codes=codes(
            "API_KEY_SERVICE_BLOCKED",
            "API_KEY_HTTP_REFERRER_BLOCKED",
            "API_KEY_ANDROID_APP_BLOCKED",
            "API_KEY_IOS_APP_BLOCKED",
        ),
        alert=True,
    ),
    Row(Action.KEY_DEAD, "key_scope_missing", Scope.KEY, codes=codes("ACCESS_TOKEN_SCOPE_INSUFFICIENT"), alert=True),
    Row(Action.EGRESS, "ip_blocked", Scope.KEY, codes=codes("API_KEY_IP_ADDRESS_BLOCKED"), ladder=MINUTES, alert=True),
    Row(Action.KEY_DEAD, "unauthenticated", Scope.KEY, on(401), codes("UNAUTHENTICATED", "authentication"), alert=True),
)

_REQUEST: Table = (
    Row(
        Action.STATE,
        "foreign_thought_signature",
        statuses=on(400),
        message=says(r"\bcorrupted thought signature\b|\bthought signature is not valid\b"),
    ),
    Row(
        Action.EGRESS,
        "location_unsupported",
        Scope.PROVIDER,
        on(400),
        codes("FAILED_PRECONDITION"),
        says(r"^user location is not supported\b"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "billing_required",
        Scope.GROUP,
        on(400),
        codes("FAILED_PRECONDITION"),
        says(r"^(?:the )?gemini api free tier is not available\b|\bplease enable billing on your project\b"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "billing_required",
        Scope.GROUP,
        codes=codes("BILLING_DISABLED"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    # The phrase without its code: not enough to disable a key, enough to try another one.
    Row(
        Action.KEY_REST,
        "key_refused",
        Scope.KEY,
        on(400),
        message=says(r"^(?:api key (?:not valid|not found|expired)\b|please pass a valid api key\b)"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(Action.CLIENT, "invalid_request", statuses=on(400, 413, 416)),
    Row(
        Action.STATE,
        "foreign_resource",
        statuses=on(403, 404),
        message=says(r"\b(?:file|cached ?content|tuned ?model|interaction)s?\b(?!.*\bis not found for api version\b)"),
    ),
    Row(Action.CLIENT, "permission_denied", statuses=on(403)),
    Row(Action.MODEL_GONE, "model_not_found", Scope.KEY_MODEL, on(404), ladder=MODEL_SKIP),
)

_QUOTA: Table = (
    Row(
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        on(402),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    # The same sentence came as a 429 until the middle of 2026.
    Row(
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        on(429),
        message=says(r"^your prepayment credits are depleted\b"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(Action.MODEL_GONE, "no_quota_for_model", Scope.KEY_MODEL, on(429), quota=Quota.NONE, ladder=MODEL_SKIP),
    Row(Action.KEY_REST, "rate_limited_per_month", Scope.GROUP_MODEL, on(429), quota=Quota.MONTH, ladder=MINUTES),
    Row(Action.KEY_REST, "rate_limited_per_day", Scope.GROUP_MODEL, on(429), quota=Quota.DAY, ladder=MINUTES),
    Row(
        Action.KEY_REST,
        "rate_limited_per_day",
        Scope.GROUP_MODEL,
        on(429),
        codes("quota_exceeded"),
        otherwise=Quota.DAY,
        ladder=MINUTES,
    ),
    Row(Action.KEY_REST, "spend_limited", Scope.GROUP_MODEL, on(429), quota=Quota.SPEND, ladder=MINUTES),
    Row(Action.KEY_REST, "rate_limited_per_minute", Scope.GROUP_MODEL, on(429), quota=Quota.MINUTE, ladder=MINUTES),
    Row(Action.KEY_REST, "rate_limited", Scope.GROUP_MODEL, on(429), ladder=MINUTES),
)

_SERVER: Table = (
    Row(Action.PROVIDER, "cancelled", statuses=on(499)),
    Row(Action.PROVIDER, "server_error", statuses=on(500), max_tries=2),
    Row(Action.PROVIDER, "model_overloaded", statuses=on(503)),
    Row(Action.PROVIDER, "model_overloaded", codes=codes("MODEL_CAPACITY_EXHAUSTED")),
    Row(Action.PROVIDER, "deadline_exceeded", statuses=on(504)),
)

# Capacity comes first: a model without capacity answers 429 at times, and no key can help it.
GEMINI: Table = (*_SERVER, *_KEY, *_REQUEST, *_QUOTA)
