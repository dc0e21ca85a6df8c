"""
The truth about provider errors, as data: which table judges which family of providers.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.keys.verdict_tables.anthropic import ANTHROPIC
from app.keys.verdict_tables.azure import AZURE_ANTHROPIC, AZURE_OPENAI
from app.keys.verdict_tables.databricks import DATABRICKS
from app.keys.verdict_tables.gemini import GEMINI
from app.keys.verdict_tables.generic import BY_STATUS, GENERIC
from app.keys.verdict_tables.openai import OPENAI
from app.keys.verdict_tables.openrouter import OPENROUTER
from app.keys.verdict_tables.row import Row, Table, Wait

__all__ = ["BY_STATUS", "FAMILIES", "IMPLIED_STATUS", "WRAPPING_FAMILIES", "Row", "Table", "Wait"]

#: Family -> its rows, the first match wins; `BY_STATUS` follows each of them. An unknown family is judged as `generic`.
FAMILIES: Mapping[str, Table] = {
    "gemini": GEMINI,
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "azure-openai": AZURE_OPENAI,
    "azure-anthropic": AZURE_ANTHROPIC,
    "databricks": DATABRICKS,
    "openrouter": OPENROUTER,
    "generic": GENERIC,
}

#: Families that pass on errors about keys which are not ours: JSON inside their messages is not read.
WRAPPING_FAMILIES = frozenset({"databricks", "openrouter"})

#: The HTTP status that an error event without a number stands for, by its code. The first code found wins, so that
#: the codes which say most come first.
IMPLIED_STATUS: Mapping[str, int] = {
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "quota_exceeded": 429,
    "overloaded_error": 529,
    "billing_error": 402,
    "payment_required": 402,
    "authentication_error": 401,
    "authentication": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "not_found": 404,
    "request_too_large": 413,
    "server_error": 500,
    "api_error": 500,
    "internal": 500,
    "service_unavailable_error": 503,
    "unavailable": 503,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "cancelled": 499,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "invalid_request": 400,
    "parameter_unknown": 400,
}
