"""Truth table of the Gemini API."""

from __future__ import annotations

from typing import Any

from app.keys.base import Action, Phase, Scope
from tests.canned_errors import gemini_error as error
from tests.canned_errors import google_detail as detail
from tests.keys.verdict_case import LONG, MINUTES, MODEL_SKIP, Case, until_midnight, until_next_month

PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_MINUTE_TOKENS = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
KEY = "AIzaSyD-0123456789abcdefghijklmnopqrstu"


def info(reason: str, **metadata: str) -> dict[str, Any]:
    return detail("ErrorInfo", reason=reason, domain="googleapis.com", metadata=metadata)


def quota(*quota_ids: str, limit: str = "10", model: str = "model-1") -> dict[str, Any]:
    dimensions = {"location": "global", "model": model}
    return detail(
        "QuotaFailure",
        violations=[
            {"quotaId": name, "quotaMetric": "m/requests", "quotaDimensions": dimensions, "quotaValue": limit}
            for name in quota_ids
        ],
    )


def retry(delay: str) -> dict[str, Any]:
    return detail("RetryInfo", retryDelay=delay)


def exhausted(*details: dict[str, Any], message: str = "You exceeded your current quota.") -> dict[str, Any]:
    return error(429, "RESOURCE_EXHAUSTED", message, *details)


def case(id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any) -> Case:
    return Case(f"gemini: {id}", "gemini", status, body, action, reason, scope, **more)


def dead(id: str, status: int, body: Any, reason: str, scope: Scope = Scope.KEY) -> Case:
    return case(id, status, body, Action.KEY_DEAD, reason, scope, alert=True)


def limited(id: str, body: Any, reason: str, rest: Any = None, **more: Any) -> Case:
    return case(id, 429, body, Action.KEY_REST, reason, Scope.GROUP_MODEL, rest=rest, ladder=MINUTES, **more)


def invalid(message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return error(400, "INVALID_ARGUMENT", message, *details)


BAD_KEY = invalid("API key not valid. Please pass a valid API key.", info("API_KEY_INVALID"))

KEYS = [
    dead("400 key not valid", 400, BAD_KEY, "invalid_api_key"),
    dead("400 key expired", 400, invalid("API key expired.", info("API_KEY_INVALID")), "invalid_api_key"),
    dead("400 key not found", 400, invalid("API Key not found.", info("API_KEY_INVALID")), "invalid_api_key"),
    dead("400 key not valid, in an array", 400, [BAD_KEY], "invalid_api_key"),
    dead(
        "403 leaked key",
        403,
        error(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key."),
        "key_reported_leaked",
    ),
    dead(
        "403 project suspended",
        403,
        error(
            403,
            "PERMISSION_DENIED",
            f"Permission denied: Consumer 'api_key:{KEY}' has been suspended.",
            info("CONSUMER_SUSPENDED", consumer="projects/1"),
        ),
        "project_suspended",
        Scope.GROUP,
    ),
    dead("403 service off", 403, error(403, "PERMISSION_DENIED", "Off.", info("SERVICE_DISABLED")), "service_disabled"),
    *(
        dead(f"403 {word}", 403, error(403, "PERMISSION_DENIED", "Blocked.", info(word)), "key_restricted")
        for word in (
            "API_KEY_SERVICE_BLOCKED",
            "API_KEY_HTTP_REFERRER_BLOCKED",
            "API_KEY_ANDROID_APP_BLOCKED",
            "API_KEY_IOS_APP_BLOCKED",
        )
    ),
    dead(
        "403 scope",
        403,
        error(403, "PERMISSION_DENIED", "Scopes.", info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")),
        "key_scope_missing",
    ),
    case(
        "403 address of the caller",
        403,
        error(
            403, "PERMISSION_DENIED", "The provided API key has an IP restriction.", info("API_KEY_IP_ADDRESS_BLOCKED")
        ),
        Action.EGRESS,
        "ip_blocked",
        Scope.KEY,
        ladder=MINUTES,
        alert=True,
    ),
    dead("401 token", 401, error(401, "UNAUTHENTICATED", "Request had invalid credentials."), "unauthenticated"),
    dead(
        "401 Interactions API",
        401,
        {"error": {"code": "authentication", "message": "The API key is invalid."}},
        "unauthenticated",
    ),
    case(
        "400 words of a bad key without its code",
        400,
        invalid("API key not valid. Please pass a valid API key."),
        Action.KEY_REST,
        "key_refused",
        Scope.KEY,
        ladder=MINUTES,
        alert=True,
    ),
]

REQUESTS = [
    *(
        case(f"400 {words}", 400, invalid(words), Action.CLIENT, "invalid_request")
        for words in (
            "Invalid JSON payload received. Unknown name \"oneOf\" at 'tools[0]': Cannot find field.",
            "Please ensure that multiturn requests alternate between user and model.",
            "Function call is missing a thought_signature in functionCall parts.",
            "Unable to process input image.",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "Request payload size exceeds the limit: 20971520 bytes.",
            "Invalid value: the prompt says 'API key not valid, reported as leaked'",
            "Invalid value at 'role', \"please enable billing on your project\"",
        )
    ),
    case("413 size", 413, error(413, "INVALID_ARGUMENT", "Too large."), Action.CLIENT, "invalid_request"),
    case(
        "400 corrupted signature",
        400,
        invalid("Corrupted thought signature."),
        Action.STATE,
        "foreign_thought_signature",
    ),
    case(
        "400 foreign signature",
        400,
        invalid("Thought signature is not valid."),
        Action.STATE,
        "foreign_thought_signature",
    ),
    case(
        "400 location",
        400,
        error(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        Action.EGRESS,
        "location_unsupported",
        Scope.PROVIDER,
        ladder=MINUTES,
        alert=True,
    ),
    case(
        "400 billing",
        400,
        error(
            400,
            "FAILED_PRECONDITION",
            "Gemini API free tier is not available in your country. Please enable billing on your project.",
        ),
        Action.KEY_REST,
        "billing_required",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    case(
        "403 billing",
        403,
        error(403, "PERMISSION_DENIED", "This API method requires billing to be enabled.", info("BILLING_DISABLED")),
        Action.KEY_REST,
        "billing_required",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    *(
        case(f"403 {words}", 403, error(403, "PERMISSION_DENIED", words), Action.STATE, "foreign_resource")
        for words in (
            "You do not have permission to access the File abc-123 or it may not exist.",
            "CachedContent not found (or permission denied)",
            "You do not have permission to access tuned model tunedModels/mine-1.",
        )
    ),
    case("404 file", 404, error(404, "NOT_FOUND", "File abc-123 not found."), Action.STATE, "foreign_resource"),
    case(
        "403 without a known code",
        403,
        error(403, "PERMISSION_DENIED", "The caller does not have permission"),
        Action.CLIENT,
        "permission_denied",
    ),
    case(
        "404 model",
        404,
        error(404, "NOT_FOUND", "models/model-9 is not found for API version v1, or is not supported."),
        Action.MODEL_GONE,
        "model_not_found",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        named="model-9",
    ),
]

LIMITS = [
    case(
        "402 prepaid credit",
        402,
        error(402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please go to AI Studio."),
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    case(
        "429 prepaid credit, as it was before",
        429,
        exhausted(message="Your prepayment credits are depleted. Please go to AI Studio."),
        Action.KEY_REST,
        "credit_exhausted",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    limited(
        "429 per minute with delay", exhausted(quota(PER_MINUTE), retry("34.07s")), "rate_limited_per_minute", 34.07
    ),
    limited("429 per minute", exhausted(quota(PER_MINUTE)), "rate_limited_per_minute", 60.0),
    limited("429 tokens per minute", exhausted(quota(PER_MINUTE_TOKENS)), "rate_limited_per_minute", 60.0),
    limited("429 per minute, array", [exhausted(quota(PER_MINUTE))], "rate_limited_per_minute", 60.0),
    limited("429 per day", exhausted(quota(PER_DAY)), "rate_limited_per_day", until_midnight),
    limited("429 per day with delay", exhausted(quota(PER_DAY), retry("10h17m5.7s")), "rate_limited_per_day", 37_025.7),
    limited(
        "429 per day, delay in the message",
        exhausted(quota(PER_DAY), message="Quota exceeded. Please retry in 10h17m5.7s."),
        "rate_limited_per_day",
        37_025.7,
    ),
    limited(
        "429 several quotas: the longest", exhausted(quota(PER_MINUTE, PER_DAY)), "rate_limited_per_day", until_midnight
    ),
    limited(
        "429 per month", exhausted(quota("RequestsPerMonthPerProject")), "rate_limited_per_month", until_next_month
    ),
    limited("429 header first", exhausted(quota(PER_DAY)), "rate_limited_per_day", 7.0, headers={"retry-after": "7"}),
    limited(
        "429 names another model",
        exhausted(quota(PER_MINUTE, model="model-2")),
        "rate_limited_per_minute",
        60.0,
        named="model-2",
    ),
    limited("429 no details", exhausted(message="Resource has been exhausted (e.g. check quota)."), "rate_limited"),
    limited("429 message only", exhausted(message="Please retry in 20.04s."), "rate_limited", 20.04),
    limited(
        "429 spend", exhausted(message="You exceeded the spend-based rate limit of your tier."), "spend_limited", 600.0
    ),
    limited(
        "429 ErrorInfo only",
        exhausted(info("RATE_LIMIT_EXCEEDED", quota_limit="RequestsPerMinutePerProject", quota_limit_value="60")),
        "rate_limited_per_minute",
        60.0,
    ),
    limited(
        "429 Interactions API, day",
        {"error": {"code": "quota_exceeded", "message": "Daily."}},
        "rate_limited_per_day",
        until_midnight,
    ),
    limited("429 Interactions API", {"error": {"code": "rate_limit_exceeded", "message": "Slow."}}, "rate_limited"),
    *(
        case(
            f"429 no quota at all: {name}",
            429,
            body,
            Action.MODEL_GONE,
            "no_quota_for_model",
            Scope.KEY_MODEL,
            ladder=MODEL_SKIP,
        )
        for name, body in (
            ("value", exhausted(quota(PER_DAY, PER_MINUTE, limit="0"), retry("51s"))),
            (
                "message",
                exhausted(retry("51s"), message="Quota exceeded for metric: requests, limit: 0, model: model-1"),
            ),
        )
    ),
]

SERVER = [
    case("499", 499, error(499, "CANCELLED", "The operation was cancelled."), Action.PROVIDER, "cancelled"),
    case("500", 500, error(500, "INTERNAL", "An internal error."), Action.PROVIDER, "server_error", max_tries=2),
    case("503", 503, error(503, "UNAVAILABLE", "The model is overloaded."), Action.PROVIDER, "model_overloaded"),
    case(
        "429 capacity",
        429,
        exhausted(info("MODEL_CAPACITY_EXHAUSTED", model="model-1")),
        Action.PROVIDER,
        "model_overloaded",
    ),
    case("504", 504, error(504, "DEADLINE_EXCEEDED", "Too slow."), Action.PROVIDER, "deadline_exceeded"),
]

STREAMS = [
    limited(
        "stream 429", exhausted(quota(PER_MINUTE), retry("5s")), "rate_limited_per_minute", 5.0, phase=Phase.STREAM
    ),
    case(
        "stream 503", 200, error(503, "UNAVAILABLE", "Busy."), Action.PROVIDER, "model_overloaded", phase=Phase.STREAM
    ),
    case("stream 400", 200, invalid("Bad."), Action.CLIENT, "invalid_request", phase=Phase.STREAM),
    case(
        "stream bad key",
        200,
        BAD_KEY,
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
        phase=Phase.STREAM,
    ),
    case(
        "stream bad key without a number",
        200,
        {"error": {"message": "No.", "details": [info("API_KEY_INVALID")]}},
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
        phase=Phase.STREAM,
    ),
    case(
        "stream Interactions API",
        200,
        {"event_type": "error", "error": {"code": "not_found", "message": "Failed to get completed interaction."}},
        Action.STATE,
        "foreign_resource",
        phase=Phase.STREAM,
    ),
]

CASES = [*KEYS, *REQUESTS, *LIMITS, *SERVER, *STREAMS]
