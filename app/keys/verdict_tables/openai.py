"""
Verdicts on the OpenAI API: chat completions, Responses, embeddings and the rest.

The code decides, then the type; sentences only where an error has neither. Limits belong to an organization or
project and a model. Compatible servers share the codes (`BY_CODE`) but not the sentences.

Sources: https://platform.openai.com/docs/guides/error-codes , https://platform.openai.com/docs/guides/rate-limits ,
the types of the `openai` package (types/responses/response_error.py)
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.resets import Quota
from app.keys.verdict_tables.row import LONG, MINUTES, MODEL_SKIP, SHORT, Row, Table, Wait, codes, on, says

BY_CODE: Table = (
    Row(
        Action.STATE,
        "foreign_state",
        codes=codes("invalid_encrypted_content", "previous_response_not_found", "conversation_not_found"),
    ),
    Row(
        Action.EGRESS,
        "region_unsupported",
        Scope.PROVIDER,
        codes=codes("unsupported_country_region_territory"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(Action.EGRESS, "ip_blocked", Scope.KEY, codes=codes("ip_not_authorized"), ladder=MINUTES, alert=True),
    Row(
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        codes=codes("invalid_api_key", "account_deactivated", "organization_membership_required"),
        alert=True,
    ),
    Row(Action.KEY_DEAD, "invalid_api_key", Scope.KEY, on(401), codes("authentication_error"), alert=True),
    Row(Action.MODEL_GONE, "model_not_found", Scope.KEY_MODEL, codes=codes("model_not_found"), ladder=MODEL_SKIP),
    Row(
        Action.MODEL_GONE,
        "key_scope_missing",
        Scope.KEY_MODEL,
        on(401, 403),
        codes("missing_scope", "insufficient_permissions"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.GROUP,
        codes=codes(
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        ),
        wait=Wait.EXPLICIT,
        otherwise=Quota.MONTH,
        ladder=LONG,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        codes=codes("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"),
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(Action.KEY_REST, "slow_down", Scope.PROVIDER, codes=codes("slow_down"), ladder=SHORT),
    Row(Action.KEY_REST, "rate_limited", Scope.GROUP_MODEL, codes=codes("rate_limit_exceeded"), ladder=SHORT),
    Row(
        Action.KEY_REST,
        "rate_limited",
        Scope.GROUP_MODEL,
        on(429),
        codes("rate_limit_error", "requests", "tokens"),
        ladder=SHORT,
    ),
    Row(Action.PROVIDER, "overloaded", codes=codes("server_is_overloaded")),
    Row(Action.PROVIDER, "server_error", codes=codes("server_error")),
    Row(
        Action.CLIENT,
        "invalid_request",
        codes=codes(
            "context_length_exceeded",
            "unsupported_parameter",
            "unsupported_value",
            "content_policy_violation",
            "string_above_max_length",
            "invalid_prompt",
            "data_residency_mismatch",
            "bio_policy",
            "misalignment_policy_violation",
            "vector_store_timeout",
        ),
    ),
)

_BY_SENTENCE: Table = (
    Row(
        Action.EGRESS,
        "ip_blocked",
        Scope.KEY,
        on(401),
        message=says(r"^(?:your|the request) ip (?:address )?.{0,60}\bnot (?:authorized|allowed|in the)\b"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        on(401),
        message=says(
            r"^(?:incorrect api key provided\b|your account has been deactivated\b"
            r"|you must be a member of an organization\b)"
        ),
        alert=True,
    ),
    Row(
        Action.MODEL_GONE,
        "no_model_access",
        Scope.KEY_MODEL,
        on(403),
        message=says(r"\bdoes not have access to model\b|^you have insufficient permissions for this operation\b"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(Action.CLIENT, "unknown_url", statuses=on(404), message=says(r"^invalid url \(")),
    Row(
        Action.STATE,
        "foreign_resource",
        statuses=on(400, 404),
        message=says(
            r"^(?:previous response|conversation|response|item|file|vector store|container)\b.* not found\b"
            r"|^no such (?:file|response|conversation|vector store|container)\b"
        ),
    ),
)

_BY_STATUS: Table = (Row(Action.CLIENT, "invalid_request", statuses=on(400, 409, 413, 422)),)

OPENAI: Table = (*BY_CODE, *_BY_SENTENCE, *_BY_STATUS)
