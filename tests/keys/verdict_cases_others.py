"""Truth tables of Databricks, OpenRouter and servers without a table of their own, and of failures below HTTP."""

from __future__ import annotations

from typing import Any

from app.keys.base import Action, Phase, Scope
from tests.canned_errors import HTML_ERROR, openai_error
from tests.keys.verdict_case import LONG, MINUTES, MODEL_SKIP, SHORT, Case


def databricks(
    id: str, status: int, code: object, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any
) -> Case:
    body = {"error_code": code, "message": more.pop("message", "Words."), "details": []}
    return Case(f"databricks: {id}", "databricks", status, body, action, reason, scope, **more)


INNER = '{"error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}}'

DATABRICKS = [
    databricks(
        "403",
        403,
        "PERMISSION_DENIED",
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
        message="Invalid token.",
    ),
    databricks("401", 401, "UNAUTHENTICATED", Action.KEY_DEAD, "invalid_api_key", Scope.KEY, alert=True),
    databricks(
        "403 grant on one endpoint",
        403,
        "PERMISSION_DENIED",
        Action.MODEL_GONE,
        "endpoint_permission_missing",
        Scope.KEY_MODEL,
        ladder=MODEL_SKIP,
        alert=True,
        message="User does not have permission 'Query' on Endpoint 'chat'.",
    ),
    *(
        Case(
            f"databricks: 403 {name}",
            "databricks",
            403,
            body,
            Action.KEY_REST,
            "unauthorized",
            Scope.KEY,
            ladder=MINUTES,
            alert=True,
        )
        for name, body in (
            ("number in quotes", {"error_code": "403", "message": "Invalid access token."}),
            ("number", {"error_code": 403, "message": "Invalid access token."}),
            ("without a code", {"message": "Invalid access token."}),
            ("text", b"Invalid access token."),
        )
    ),
    databricks("403 another code", 403, "FEATURE_DISABLED", Action.CLIENT, "forbidden"),
    Case("databricks: 403 HTML", "databricks", 403, HTML_ERROR, Action.PROVIDER, "front_end"),
    *(
        databricks(f"429 {code}", 429, code, Action.KEY_REST, "rate_limited", Scope.PROVIDER, ladder=SHORT)
        for code in ("RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED", 429)
    ),
    databricks(
        "429 with a wait",
        429,
        "REQUEST_LIMIT_EXCEEDED",
        Action.KEY_REST,
        "rate_limited",
        Scope.PROVIDER,
        rest=9.0,
        ladder=SHORT,
        headers={"retry-after": "9"},
    ),
    *(
        databricks(
            f"404 {code}", 404, code, Action.MODEL_GONE, "endpoint_not_found", Scope.KEY_MODEL, ladder=MODEL_SKIP
        )
        for code in ("ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST")
    ),
    *(
        databricks(f"400 {code}", 400, code, Action.CLIENT, "invalid_request")
        for code in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", 400)
    ),
    databricks("503", 503, "TEMPORARILY_UNAVAILABLE", Action.PROVIDER, "unavailable"),
    databricks("504", 504, "DEADLINE_EXCEEDED", Action.PROVIDER, "deadline_exceeded"),
    databricks("400 inner error", 400, "BAD_REQUEST", Action.CLIENT, "invalid_request", message=INNER),
    databricks("500 inner error", 500, 500, Action.PROVIDER, "server_error", message=INNER),
]


def openrouter(
    id: str, status: int, metadata: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any
) -> Case:
    code = more.pop("code", status)
    body = {"error": {"code": code, "message": more.pop("message", "Words."), "metadata": metadata}}
    return Case(f"openrouter: {id}", "openrouter", status, body, action, reason, scope, **more)


MODERATION = {"reasons": ["violence"], "flagged_input": "...", "provider_name": "One"}
PER_DAY_HEADERS = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795219200000"}

OPENROUTER = [
    openrouter("400", 400, {}, Action.CLIENT, "invalid_request"),
    openrouter("401", 401, None, Action.KEY_DEAD, "invalid_api_key", Scope.KEY, alert=True),
    openrouter("402", 402, {}, Action.KEY_REST, "credit_exhausted", Scope.GROUP, ladder=LONG, alert=True),
    openrouter(
        "402 with a wait",
        402,
        {"error_type": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"},
        Action.KEY_REST,
        "budget_in_flight",
        Scope.GROUP,
        rest=3.0,
        ladder=SHORT,
        headers={"retry-after": "3"},
    ),
    openrouter(
        "402 too expensive",
        402,
        {"error_type": "weight_exceeds_budget", "limit_source": "openrouter_credits"},
        Action.CLIENT,
        "request_too_expensive",
    ),
    openrouter(
        "402 too expensive, in words", 402, {}, Action.CLIENT, "request_too_expensive", message="weight_exceeds_budget"
    ),
    openrouter(
        "402 transient without a wait",
        402,
        {"limit_source": "openrouter_in_flight_budget"},
        Action.KEY_REST,
        "budget_in_flight",
        Scope.GROUP,
        ladder=SHORT,
    ),
    openrouter("403", 403, MODERATION, Action.CLIENT, "moderated"),
    openrouter(
        "403 budget of the key",
        403,
        {"limit_source": "openrouter_key_limit", "resets_at": "2026-11-20T13:00:00Z"},
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.KEY,
        rest=3600.0,
        ladder=LONG,
        alert=True,
    ),
    openrouter(
        "403 budget of the workspace",
        403,
        {"limit_source": "openrouter_workspace_budget"},
        Action.KEY_REST,
        "spend_limit_reached",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    openrouter("429", 429, {}, Action.KEY_REST, "rate_limited", Scope.GROUP, ladder=SHORT),
    openrouter(
        "429 reset in the metadata",
        429,
        {"headers": PER_DAY_HEADERS},
        Action.KEY_REST,
        "rate_limited",
        Scope.GROUP,
        rest=43_200.0,
        ladder=SHORT,
    ),
    openrouter("408", 408, {}, Action.PROVIDER, "timeout"),
    openrouter("502", 502, {"raw": INNER}, Action.PROVIDER, "server_error", message=INNER),
    openrouter("503 with a wait", 503, {}, Action.PROVIDER, "server_error", rest=4.0, headers={"retry-after": "4"}),
    openrouter("stream 502", 200, {}, Action.PROVIDER, "server_error", code=502, phase=Phase.STREAM),
    openrouter(
        "stream 429", 200, {}, Action.KEY_REST, "rate_limited", Scope.GROUP, ladder=SHORT, code=429, phase=Phase.STREAM
    ),
]


def generic(
    id: str, status: int, body: Any, action: Action, reason: str, scope: Scope = Scope.NONE, **more: Any
) -> Case:
    return Case(f"generic: {id}", "generic", status, body, action, reason, scope, **more)


def gone(id: str, body: Any, reason: str = "not_found", **more: Any) -> Case:
    return generic(id, 404, body, Action.MODEL_GONE, reason, Scope.KEY_MODEL, ladder=MODEL_SKIP, **more)


def unauthorized(id: str, body: Any) -> Case:
    return generic(id, 401, body, Action.KEY_REST, "unauthorized", Scope.KEY, ladder=MINUTES, alert=True)


GROQ = openai_error(
    "Rate limit reached for model `model-1` in organization `org_1` on tokens per day. Please try again in 7m12s.",
    "tokens",
    "rate_limit_exceeded",
)

GENERIC = [
    unauthorized("401 error is a string", {"error": "unauthorized"}),
    unauthorized("401 detail", {"detail": "Unauthorized"}),
    unauthorized("401 message", {"message": "Unauthorized"}),
    unauthorized("401 text", b"Unauthorized"),
    unauthorized("401 HTML", HTML_ERROR),
    unauthorized("401 empty", b""),
    generic(
        "401 code",
        401,
        openai_error("Wrong key.", code="invalid_api_key"),
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    generic(
        "401 type",
        401,
        openai_error("Authentication Fails.", "authentication_error", "invalid_request_error"),
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        alert=True,
    ),
    generic(
        "402 balance",
        402,
        openai_error("Insufficient Balance", "unknown_error"),
        Action.KEY_REST,
        "payment_required",
        Scope.GROUP,
        ladder=LONG,
        alert=True,
    ),
    generic("403", 403, {"error": "forbidden"}, Action.CLIENT, "forbidden"),
    generic("403 HTML", 403, HTML_ERROR, Action.PROVIDER, "front_end"),
    generic("404 HTML", 404, HTML_ERROR, Action.PROVIDER, "front_end"),
    generic("404 empty", 404, b"", Action.PROVIDER, "front_end"),
    gone("404 Ollama", {"error": "model 'model-1' not found, try pulling it first"}),
    gone(
        "404 vLLM", {"object": "error", "message": "The model `model-9` does not exist.", "code": 404}, named="model-9"
    ),
    gone("404 code", openai_error("No model.", code="model_not_found"), "model_not_found"),
    gone("404 text", b"404 page not found"),
    generic("404 without a model", 404, {"error": "no"}, Action.CLIENT, "not_found", model=None),
    generic("408", 408, {"error": "slow"}, Action.PROVIDER, "timeout"),
    generic("409", 409, {"error": "conflict"}, Action.PROVIDER, "conflict"),
    generic("425", 425, b"", Action.PROVIDER, "too_early"),
    generic("499", 499, b"", Action.PROVIDER, "cancelled"),
    generic("413", 413, HTML_ERROR, Action.CLIENT, "invalid_request"),
    generic("414", 414, b"", Action.CLIENT, "invalid_request"),
    generic(
        "422",
        422,
        {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]},
        Action.CLIENT,
        "invalid_request",
    ),
    generic("418", 418, b"teapot", Action.CLIENT, "invalid_request"),
    generic("429", 429, {"error": "slow"}, Action.KEY_REST, "rate_limited", Scope.KEY, ladder=SHORT),
    generic("429 HTML", 429, HTML_ERROR, Action.KEY_REST, "rate_limited", Scope.KEY, ladder=SHORT),
    generic(
        "429 names a model",
        429,
        {"error": "Model 'model-2' is busy. Please try again in 120ms."},
        Action.KEY_REST,
        "rate_limited",
        Scope.KEY_MODEL,
        rest=1.0,
        ladder=SHORT,
        named="model-2",
    ),
    generic("429 Groq", 429, GROQ, Action.KEY_REST, "rate_limited", Scope.GROUP_MODEL, rest=432.0, ladder=SHORT),
    generic(
        "429 no model",
        429,
        GROQ,
        Action.KEY_REST,
        "rate_limited",
        Scope.GROUP_MODEL,
        rest=432.0,
        ladder=SHORT,
        model=None,
        named="model-1",
    ),
    generic(
        "429 code, no model",
        429,
        openai_error("Slow.", code="rate_limit_exceeded"),
        Action.KEY_REST,
        "rate_limited",
        Scope.GROUP,
        ladder=SHORT,
        model=None,
    ),
    *(
        generic(f"{status} HTML", status, HTML_ERROR, Action.PROVIDER, reason)
        for status, reason in (
            (500, "server_error"),
            (502, "server_error"),
            (503, "unavailable"),
            (504, "timeout"),
            (520, "server_error"),
            (529, "overloaded"),
        )
    ),
    generic("503 loading", 503, {"error": {"code": 503, "message": "Loading model"}}, Action.PROVIDER, "unavailable"),
    generic("302", 302, b"", Action.PROVIDER, "redirect"),
    generic("308", 308, HTML_ERROR, Action.PROVIDER, "redirect"),
    generic("101", 101, b"", Action.PROVIDER, "unknown_error"),
    generic("999", 999, b"", Action.PROVIDER, "unknown_error"),
    generic("stream unknown", 200, {"error": "boom"}, Action.PROVIDER, "unknown_error", phase=Phase.STREAM),
    generic(
        "stream vLLM",
        200,
        {"object": "error", "message": "Bad.", "code": 400},
        Action.CLIENT,
        "invalid_request",
        phase=Phase.STREAM,
    ),
]

BELOW_HTTP = [
    *(
        Case(f"connect: {word}", "openai", 0, b"", Action.PROVIDER, word, phase=Phase.CONNECT, error=word)
        for word in ("dns", "refused", "tls", "connect_timeout")
    ),
    *(
        Case(f"send: {word}", "gemini", 0, b"", Action.PROVIDER, word, phase=Phase.SEND, error=word)
        for word in ("reset", "first_byte_timeout", "protocol")
    ),
    *(
        Case(f"body: {word}", "anthropic", 200, body, Action.PROVIDER, word, phase=Phase.BODY, error=word)
        for word, body in (
            ("incomplete", b'{"id": "msg'),
            ("invalid_body", HTML_ERROR),
            ("empty", b""),
            ("error_in_answer", b'{"error": {"code": "invalid_api_key", "message": "No."}}'),
            ("error_as_answer", b'{"type": "error", "error": {"type": "authentication_error", "message": "No."}}'),
        )
    ),
]

CASES = [*DATABRICKS, *OPENROUTER, *GENERIC, *BELOW_HTTP]
