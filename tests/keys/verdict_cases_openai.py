"""Truth tables of OpenAI and of Azure OpenAI."""

from __future__ import annotations

from typing import Any

from app.keys.base import Action, Phase, Scope
from tests.canned_errors import openai_error as error
from tests.keys.verdict_case import LONG, MINUTES, MODEL_SKIP, SHORT, Case, until_next_month


def case(id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any) -> Case:
    return Case(f"openai: {id}", "openai", status, body, action, reason, scope, **more)


def client(id: str, status: int, body: Any, **more: Any) -> Case:
    return case(id, status, body, Action.CLIENT, "invalid_request", **more)


def dead(id: str, body: Any) -> Case:
    return case(id, 401, body, Action.KEY_DEAD, "invalid_api_key", Scope.KEY, alert=True)


def limited(id: str, body: Any, rest: float | None = None, **more: Any) -> Case:
    return case(id, 429, body, Action.KEY_REST, "rate_limited", Scope.GROUP_MODEL, rest=rest, ladder=SHORT, **more)


def failed(code: str) -> dict[str, Any]:
    response = {"id": "resp_1", "object": "response", "status": "failed", "error": {"code": code, "message": "No."}}
    return {"type": "response.failed", "sequence_number": 3, "response": response}


RATE = error("Rate limit reached.", "requests", "rate_limit_exceeded")
RATE_WITH_WAIT = error(
    "Rate limit reached for model-1 in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000. "
    "Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits.",
    "tokens",
    "rate_limit_exceeded",
)
LONG_CONTEXT = error("This model's maximum context length is 128000 tokens.", code="context_length_exceeded")

REQUESTS = [
    client("400 context", 400, LONG_CONTEXT),
    client("400 parameter", 400, error("Unsupported parameter.", code="unsupported_parameter")),
    client("400 value", 400, error("Unsupported value.", code="unsupported_value")),
    client("400 image", 400, error("Invalid image.", code="invalid_image_format")),
    client("400 policy", 400, error("Rejected.", code="content_policy_violation")),
    client("400 string", 400, error("Too long.", code="string_above_max_length")),
    client("400 key words in the text", 400, error("invalid_api_key insufficient_quota: Incorrect API key provided")),
    client("409", 409, error("Conflict.")),
    client("413", 413, error("Too large.")),
    client("422", 422, error("Unprocessable.")),
    case(
        "400 encrypted reasoning",
        400,
        error("The encrypted content could not be verified.", code="invalid_encrypted_content"),
        Action.STATE,
        "foreign_state",
    ),
    case(
        "400 previous response",
        400,
        error("Previous response with id 'resp_1' not found.", code="previous_response_not_found"),
        Action.STATE,
        "foreign_state",
    ),
    *(
        case(f"404 {words}", 404, error(words), Action.STATE, "foreign_resource")
        for words in (
            "Previous response with id 'resp_1' not found.",
            "Conversation with id 'conv_1' not found.",
            "No such File object: file-1",
        )
    ),
    case("404 URL", 404, error("Invalid URL (POST /v1/nothing)"), Action.CLIENT, "unknown_url"),
]

KEYS = [
    dead("401 key", error("Incorrect API key provided: sk-ab***cd.", code="invalid_api_key")),
    dead("401 key without code", error("Incorrect API key provided: sk-ab***cd.")),
    dead("401 deactivated", error("Your account has been deactivated.", code="account_deactivated")),
    dead("401 member", error("You must be a member of an organization to use the API.")),
    *(
        case(f"401 address, {name}", 401, body, Action.EGRESS, "ip_blocked", Scope.KEY, ladder=MINUTES, alert=True)
        for name, body in (
            ("code", error("Your IP is not authorized.", code="ip_not_authorized")),
            ("sentence", error("Your IP address 203.0.113.9 is not authorized for this project.")),
        )
    ),
    case(
        "401 unknown",
        401,
        error("Something about this key."),
        Action.KEY_REST,
        "unauthorized",
        Scope.KEY,
        ladder=MINUTES,
        alert=True,
    ),
    case(
        "403 region",
        403,
        error(
            "Country, region, or territory not supported", "request_forbidden", "unsupported_country_region_territory"
        ),
        Action.EGRESS,
        "region_unsupported",
        Scope.PROVIDER,
        ladder=MINUTES,
        alert=True,
    ),
    case(
        "403 project without the model",
        403,
        error("Project `proj_1` does not have access to model `model-1`", code="model_not_found"),
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
    ),
    case(
        "403 project without the model, no code",
        403,
        error("Project `proj_1` does not have access to model `model-1`"),
        Action.MODEL_GONE,
        "no_model_access",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
    ),
    case(
        "403 scope",
        403,
        error("Missing scopes: model.request", code="missing_scope"),
        Action.MODEL_GONE,
        "key_scope_missing",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
    ),
    case(
        "404 model",
        404,
        error("The model `model-9` does not exist or you do not have access to it.", code="model_not_found"),
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        named="model-9",
    ),
]

LIMITS = [
    limited("429 rate", RATE),
    limited("429 message", RATE_WITH_WAIT, 432.0),
    limited("429 retry-after", RATE, 7.0, headers={"retry-after": "7"}),
    limited("429 retry-after-ms", RATE, 1.5, headers={"retry-after-ms": "1500", "retry-after": "9"}),
    limited(
        "429 exhausted dimension",
        RATE,
        360.0,
        headers={
            "x-ratelimit-remaining-requests": "12",
            "x-ratelimit-reset-requests": "1h2m3s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "6m0s",
        },
    ),
    limited("429 type only", error("Slow.", "tokens")),
    case(
        "429 slow down",
        429,
        error("Slow down.", "rate_limit_error", "slow_down"),
        Action.KEY_REST,
        "slow_down",
        Scope.PROVIDER,
        ladder=SHORT,
    ),
    *(
        case(
            f"429 {code}",
            429,
            error("You exceeded your current quota.", "insufficient_quota", code),
            Action.KEY_REST,
            "credit_exhausted",
            Scope.GROUP,
            ladder=LONG,
            alert=True,
            headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"},
        )
        for code in ("insufficient_quota", "credit_balance_exhausted", None)
    ),
    *(
        case(
            f"429 {code}",
            429,
            error("Limit reached.", "insufficient_quota", code),
            Action.KEY_REST,
            "spend_limit_reached",
            Scope.GROUP,
            rest=until_next_month,
            ladder=LONG,
            alert=True,
        )
        for code in (
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    ),
]

SERVER = [
    *(
        case(str(status), status, error("Error.", "server_error"), Action.PROVIDER, "server_error")
        for status in (500, 502, 504)
    ),
    case(
        "503",
        503,
        error("Overloaded.", "service_unavailable_error", "server_is_overloaded"),
        Action.PROVIDER,
        "overloaded",
    ),
]

STREAMS = [
    case("failed: server_error", 200, failed("server_error"), Action.PROVIDER, "server_error", phase=Phase.STREAM),
    limited("failed: rate limit", failed("rate_limit_exceeded"), phase=Phase.STREAM),
    *(
        client(f"failed: {code}", 200, failed(code), phase=Phase.STREAM)
        for code in (
            "invalid_prompt",
            "data_residency_mismatch",
            "bio_policy",
            "misalignment_policy_violation",
            "vector_store_timeout",
            "image_content_policy_violation",
            "invalid_base64_image",
            "a_code_of_tomorrow",
        )
    ),
    client(
        "bare error event",
        200,
        {"type": "error", "code": "invalid_prompt", "message": "No.", "param": None, "sequence_number": 1},
        phase=Phase.STREAM,
    ),
    case(
        "bare error event of the server",
        200,
        {"type": "error", "code": "server_error", "message": "No.", "param": None, "sequence_number": 1},
        Action.PROVIDER,
        "server_error",
        phase=Phase.STREAM,
    ),
    case(
        "bare error event without code",
        200,
        {"type": "error", "code": None, "message": "No.", "param": None, "sequence_number": 1},
        Action.PROVIDER,
        "unknown_error",
        phase=Phase.STREAM,
    ),
    case("chat chunk", 200, error("Error.", "server_error"), Action.PROVIDER, "server_error", phase=Phase.STREAM),
    limited("plain answer that failed", failed("rate_limit_exceeded")["response"], phase=Phase.BODY, error="failed"),
]


def azure(id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any) -> Case:
    return Case(f"azure-openai: {id}", "azure-openai", status, body, action, reason, scope, **more)


def azure_error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


FILTERED = azure_error(
    "content_filter",
    "The response was filtered.",
    param="prompt",
    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
)
BUSY = azure_error("429", "Requests have exceeded the call rate limit. Please retry after 26 seconds.")

AZURE = [
    azure(
        "401",
        401,
        azure_error("401", "Access denied due to invalid subscription key or wrong API endpoint."),
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    azure(
        "401 gateway",
        401,
        {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid or expired."},
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    azure(
        "403 virtual network",
        403,
        azure_error("403", "Access denied due to Virtual Network/Firewall rules."),
        Action.EGRESS,
        "network_rules",
        Scope.PROVIDER,
        ladder=MINUTES,
        alert=True,
    ),
    azure(
        "403 access denied",
        403,
        azure_error("AccessDenied", "Denied."),
        Action.EGRESS,
        "access_denied",
        Scope.PROVIDER,
        ladder=MINUTES,
        alert=True,
    ),
    azure(
        "403 role",
        403,
        azure_error("PermissionDenied", "The principal `p-1` lacks the required data action."),
        Action.KEY_DEAD,
        "role_missing",
        Scope.KEY,
        alert=True,
    ),
    *(
        azure(
            f"404 {name}",
            404,
            azure_error(name, words),
            Action.MODEL_GONE,
            "deployment_not_found",
            Scope.KEY_MODEL,
            ladder=MODEL_SKIP,
            alert=True,
        )
        for name, words in (
            ("DeploymentNotFound", "The API deployment for this resource does not exist."),
            ("404", "Resource not found"),
        )
    ),
    azure(
        "404 wrong api-version",
        404,
        {"statusCode": 404, "message": "Resource not found"},
        Action.MODEL_GONE,
        "deployment_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
    ),
    azure("400 filter", 400, FILTERED, Action.CLIENT, "content_filtered"),
    azure("400", 400, LONG_CONTEXT, Action.CLIENT, "invalid_request"),
    azure("429", 429, BUSY, Action.KEY_REST, "rate_limited", Scope.KEY_MODEL, rest=26.0, ladder=SHORT),
    azure(
        "429 retry-after-ms",
        429,
        azure_error("RateLimitReached", "System is experiencing high demand."),
        Action.KEY_REST,
        "rate_limited",
        Scope.KEY_MODEL,
        rest=2.25,
        ladder=SHORT,
        headers={"retry-after-ms": "2250", "retry-after": "3"},
    ),
    azure("429 shape of OpenAI", 429, RATE, Action.KEY_REST, "rate_limited", Scope.KEY_MODEL, ladder=SHORT),
    azure("408", 408, azure_error("Timeout", "The operation was timeout."), Action.PROVIDER, "timeout"),
    azure("500", 500, azure_error("InternalServerError", "Error."), Action.PROVIDER, "server_error"),
    azure("503", 503, azure_error("ServiceUnavailable", "Down."), Action.PROVIDER, "server_error"),
]

CASES = [*REQUESTS, *KEYS, *LIMITS, *SERVER, *STREAMS, *AZURE]
