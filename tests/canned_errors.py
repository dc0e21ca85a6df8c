"""Error bodies of each provider for the common cases, and the events that carry an error inside a stream."""

from __future__ import annotations

from typing import Any

from tests.canned import Json, data_event, named_event


def openai_error(message: str, error_type: str = "invalid_request_error", code: str | None = None) -> Json:
    return {"error": {"message": message, "type": error_type, "param": None, "code": code}}


def anthropic_error(error_type: str, message: str, error_code: str | None = None) -> Json:
    error: Json = {"type": error_type, "message": message}
    if error_code:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": "req_1"}


def gemini_error(code: int, status: str, message: str, *details: Json) -> Json:
    error: Json = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = list(details)
    return {"error": error}


def google_detail(kind: str, **fields: Any) -> Json:
    """An entry of `details`: `ErrorInfo`, `QuotaFailure`, `RetryInfo` ..."""
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def gemini_quota(quota_id: str, *, retry_delay: str | None = None, model: str = "gemini-test") -> Json:
    """A 429 that names a quota."""
    violation = {"quotaId": quota_id, "quotaDimensions": {"model": model, "location": "global"}, "quotaValue": "10"}
    details = [google_detail("QuotaFailure", violations=[violation])]
    if retry_delay:
        details.append(google_detail("RetryInfo", retryDelay=retry_delay))
    return gemini_error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", *details)


_INFO = google_detail("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")
GEMINI_BAD_KEY = gemini_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", _INFO)
GEMINI_BAD_REQUEST = gemini_error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.")
GEMINI_NO_MODEL = gemini_error(404, "NOT_FOUND", "models/gemini-test is not found for API version v1beta.")
GEMINI_PER_MINUTE = gemini_quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", retry_delay="34.07s")
GEMINI_PER_DAY = gemini_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
GEMINI_OVERLOADED = gemini_error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")

OPENAI_BAD_KEY = openai_error("Incorrect API key provided.", code="invalid_api_key")
OPENAI_BAD_REQUEST = openai_error("Unsupported parameter.", code="unsupported_parameter")
OPENAI_NO_MODEL = openai_error("The model does not exist or you do not have access to it.", code="model_not_found")
OPENAI_RATE_LIMIT = openai_error("Rate limit reached.", "requests", "rate_limit_exceeded")
OPENAI_NO_QUOTA = openai_error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota")
OPENAI_SERVER = openai_error("The server had an error.", "server_error")

ANTHROPIC_BAD_KEY = anthropic_error("authentication_error", "invalid x-api-key")
ANTHROPIC_BAD_REQUEST = anthropic_error("invalid_request_error", "max_tokens: Field required")
ANTHROPIC_NO_MODEL = anthropic_error("not_found_error", "model: claude-test")
ANTHROPIC_RATE_LIMIT = anthropic_error("rate_limit_error", "This request would exceed your rate limit.")
ANTHROPIC_LOW_CREDIT = anthropic_error(
    "invalid_request_error", "Your credit balance is too low to access the Anthropic API."
)
ANTHROPIC_OVERLOADED = anthropic_error("overloaded_error", "Overloaded")
ANTHROPIC_ERROR_EVENT = named_event(ANTHROPIC_OVERLOADED)
CHAT_ERROR_EVENT = data_event(OPENAI_SERVER)
GEMINI_ERROR_EVENT = data_event(GEMINI_OVERLOADED, newline="\r\n")
HTML_ERROR = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
