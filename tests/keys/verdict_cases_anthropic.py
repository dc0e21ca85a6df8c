"""Truth tables of Anthropic and of Anthropic models on Azure."""

from __future__ import annotations

from typing import Any

from app.keys.base import Action, Phase, Scope
from tests.canned_errors import HTML_ERROR
from tests.canned_errors import anthropic_error as error
from tests.keys.verdict_case import LONG, MINUTES, MODEL_SKIP, SHORT, Case, until_next_month


def case(id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any) -> Case:
    return Case(f"anthropic: {id}", "anthropic", status, body, action, reason, scope, **more)


def client(id: str, status: int, body: Any, **more: Any) -> Case:
    return case(id, status, body, Action.CLIENT, "invalid_request", **more)


def long_rest(id: str, status: int, body: Any, reason: str, rest: Any = None) -> Case:
    return case(id, status, body, Action.KEY_REST, reason, Scope.GROUP, rest=rest, ladder=LONG, alert=True)


def limited(id: str, body: Any, rest: float | None = None, reason: str = "rate_limited", **more: Any) -> Case:
    return case(id, 429, body, Action.KEY_REST, reason, Scope.GROUP_MODEL, rest=rest, ladder=SHORT, **more)


def provider(id: str, status: int, body: Any, reason: str, **more: Any) -> Case:
    return case(id, status, body, Action.PROVIDER, reason, **more)


def invalid(message: str, error_code: str | None = None) -> dict[str, Any]:
    return error("invalid_request_error", message, error_code)


RATE = error("rate_limit_error", "This request would exceed your organization's rate limit.")
RATE_HEADERS = {
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-11-20T14:00:00Z",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-20T12:00:41Z",
}

REQUESTS = [
    client("400", 400, invalid("max_tokens: Field required")),
    *(
        client(f"400 {code}", 400, invalid("No.", code))
        for code in ("claude_code_version_too_old", "tool_name_conflict", "request_body_encoding_invalid")
    ),
    client("400 prefill", 400, invalid("This model does not support assistant message prefill.")),
    client(
        "400 credit balance inside the text", 400, invalid("messages.0: 'Your credit balance is too low to access'")
    ),
    *(client(str(status), status, invalid("No.")) for status in (409, 412, 431, 501)),
    client("413", 413, error("request_too_large", "Request exceeds the maximum size")),
    case(
        "400 signature",
        400,
        invalid("messages.1.content.0: Invalid `signature` in `thinking` block"),
        Action.STATE,
        "foreign_signature",
    ),
    case("404 file", 404, error("not_found_error", "File file_1 not found."), Action.STATE, "foreign_resource"),
    case(
        "404 model",
        404,
        error("not_found_error", "model: claude-9"),
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        named="claude-9",
    ),
    case(
        "429 long context",
        429,
        error("rate_limit_error", "Extra usage is required for long context requests."),
        Action.CLIENT,
        "long_context_not_allowed",
    ),
]

KEYS = [
    case(
        "401",
        401,
        error("authentication_error", "invalid x-api-key"),
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    case(
        "400 on hold",
        400,
        invalid("This organization is on hold.", "organization_on_hold"),
        Action.KEY_DEAD,
        "organization_on_hold",
        Scope.GROUP,
        alert=True,
    ),
    case(
        "403 scope",
        403,
        error("permission_error", "Not allowed.", "api_key_scope_missing"),
        Action.MODEL_GONE,
        "key_scope_missing",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
    ),
    case("403 HTML", 403, HTML_ERROR, Action.EGRESS, "front_end_refused", Scope.PROVIDER, ladder=MINUTES, alert=True),
]

MONEY = [
    long_rest(
        "400 credit balance",
        400,
        invalid("Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."),
        "credit_exhausted",
    ),
    long_rest(
        "400 own spend limit",
        400,
        invalid("You have reached your specified API usage limits. You will regain access on 2026-12-01."),
        "spend_limit_reached",
        until_next_month,
    ),
    *(
        long_rest(f"402 {code}", 402, error("billing_error", "Billing.", code), "billing_error")
        for code in ("linked_organization_billing_unavailable", "linked_organization_spend_limit_reached")
    ),
    long_rest(
        "429 monthly cap of the tier",
        429,
        error("rate_limit_error", "You have reached your API usage limits.", "enforced_spend_limit_reached"),
        "spend_limit_reached",
        until_next_month,
    ),
    case(
        "429 contract",
        429,
        error("rate_limit_error", "Contract limit.", "contract_spend_limit_reached"),
        Action.KEY_DEAD,
        "contract_spend_limit_reached",
        Scope.GROUP,
        alert=True,
    ),
]

LIMITS = [
    limited("429 retry-after", RATE, 12.0, headers={**RATE_HEADERS, "retry-after": "12"}),
    limited("429 exhausted dimension", RATE, 41.0, headers=RATE_HEADERS),
    limited("429 says nothing", RATE),
    limited(
        "429 ramp",
        error("rate_limit_error", "Usage grew too fast.", "ramp_limit_exceeded"),
        30.0,
        "ramp_limited",
        headers={"retry-after": "30"},
    ),
]

SERVER = [
    provider("499", 499, error("api_error", "Client closed request"), "cancelled"),
    provider("500", 500, error("api_error", "Internal server error"), "server_error"),
    provider("503", 503, error("api_error", "Unavailable"), "server_error"),
    provider("504", 504, error("timeout_error", "Timed out"), "timeout"),
    provider("529", 529, error("overloaded_error", "Overloaded"), "overloaded"),
    provider("500 that says overloaded", 500, error("overloaded_error", "Overloaded"), "overloaded"),
    provider("529 without that type", 529, error("api_error", "Overloaded"), "overloaded"),
    provider("529 compaction", 529, error("overloaded_error", "Overloaded", "compaction_unavailable"), "overloaded"),
]

STREAMS = [
    provider("stream overloaded", 200, error("overloaded_error", "Overloaded"), "overloaded", phase=Phase.STREAM),
    provider("stream api_error", 200, error("api_error", "Error"), "server_error", phase=Phase.STREAM),
    provider("stream error of tomorrow", 200, error("a_new_error", "?"), "unknown_error", phase=Phase.STREAM),
    limited("stream rate limit", RATE, phase=Phase.STREAM),
    client("stream invalid request", 200, invalid("No."), phase=Phase.STREAM),
]


def azure(id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any) -> Case:
    return Case(f"azure-anthropic: {id}", "azure-anthropic", status, body, action, reason, scope, **more)


AZURE = [
    azure(
        "401 shape of Anthropic",
        401,
        error("authentication_error", "invalid x-api-key"),
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    azure(
        "401 shape of Azure",
        401,
        {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}},
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    azure(
        "404 deployment",
        404,
        {"error": {"code": "DeploymentNotFound", "message": "Does not exist."}},
        Action.MODEL_GONE,
        "deployment_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
    ),
    azure(
        "404 model",
        404,
        error("not_found_error", "model: model-1"),
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
    ),
    azure("429 shape of Anthropic", 429, RATE, Action.KEY_REST, "rate_limited", Scope.KEY_MODEL, ladder=SHORT),
    azure(
        "429 shape of Azure",
        429,
        {"error": {"code": "too_many_requests", "message": "Too many."}},
        Action.KEY_REST,
        "rate_limited",
        Scope.KEY_MODEL,
        ladder=SHORT,
    ),
    azure("529", 529, error("overloaded_error", "Overloaded"), Action.PROVIDER, "overloaded"),
    azure("400", 400, invalid("max_tokens: Field required"), Action.CLIENT, "invalid_request"),
]

CASES = [*REQUESTS, *KEYS, *MONEY, *LIMITS, *SERVER, *STREAMS, *AZURE]
