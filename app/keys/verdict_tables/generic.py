"""
Verdicts on servers that nobody wrote a table for, and the last resort of every other table: the status alone.

Compatible servers (vLLM, Ollama, LM Studio, llama.cpp, Groq, DeepSeek, xAI ...) share OpenAI's codes where they
have any. An unknown 401 never disables: it rests the key for a minute, so that a repetition means something. HTML
and empty bodies come from a front end; they disable nothing.

Sources: RFC 9110 section 15, https://platform.openai.com/docs/guides/error-codes ,
https://api-docs.deepseek.com/quick_start/error_codes
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.verdict_tables.openai import BY_CODE
from app.keys.verdict_tables.row import (
    ANY_BODY,
    FRONT_END_BODY,
    LONG,
    MINUTES,
    MODEL_SKIP,
    SHORT,
    Row,
    Table,
    Wait,
    on,
)

GENERIC: Table = BY_CODE

_SERVER_ERRORS = frozenset(range(500, 600)) - on(503, 504, 529)

BY_STATUS: Table = (
    Row(Action.KEY_REST, "unauthorized", Scope.KEY, on(401), shapes=ANY_BODY, ladder=MINUTES, alert=True),
    Row(
        Action.KEY_REST,
        "payment_required",
        Scope.GROUP,
        on(402),
        shapes=ANY_BODY,
        wait=Wait.EXPLICIT,
        ladder=LONG,
        alert=True,
    ),
    Row(Action.PROVIDER, "front_end", statuses=on(403, 404), shapes=FRONT_END_BODY),
    Row(Action.CLIENT, "forbidden", statuses=on(403), shapes=ANY_BODY),
    Row(Action.MODEL_GONE, "not_found", Scope.KEY_MODEL, on(404), shapes=ANY_BODY, ladder=MODEL_SKIP),
    Row(Action.PROVIDER, "timeout", statuses=on(408), shapes=ANY_BODY),
    Row(Action.PROVIDER, "conflict", statuses=on(409), shapes=ANY_BODY),
    Row(Action.PROVIDER, "too_early", statuses=on(425), shapes=ANY_BODY),
    Row(Action.KEY_REST, "rate_limited", Scope.KEY_MODEL, on(429), names_model=True, shapes=ANY_BODY, ladder=SHORT),
    Row(Action.KEY_REST, "rate_limited", Scope.KEY, on(429), shapes=ANY_BODY, ladder=SHORT),
    Row(Action.PROVIDER, "cancelled", statuses=on(499), shapes=ANY_BODY),
    Row(Action.CLIENT, "invalid_request", statuses=frozenset(range(400, 500)), shapes=ANY_BODY),
    Row(Action.PROVIDER, "unavailable", statuses=on(503), shapes=ANY_BODY),
    Row(Action.PROVIDER, "timeout", statuses=on(504), shapes=ANY_BODY),
    Row(Action.PROVIDER, "overloaded", statuses=on(529), shapes=ANY_BODY),
    Row(Action.PROVIDER, "server_error", statuses=_SERVER_ERRORS, shapes=ANY_BODY),
    Row(Action.PROVIDER, "redirect", statuses=frozenset(range(300, 400)), shapes=ANY_BODY),
    Row(Action.PROVIDER, "unknown_error", shapes=ANY_BODY),
)
