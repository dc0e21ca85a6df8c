"""
Verdicts on Azure OpenAI and on Anthropic models in Azure (Foundry).

Azure's own bodies (`error: {code, message, innererror}` and the gateway's `{statusCode, message}`) are judged here;
what has the shape of the model's maker is judged by that maker's table, with one change: a limit belongs to the
deployment, so it rests the key for that deployment and nothing else. A refusal by the network rules is about our
address, not the key.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/how-to/quota and its troubleshooting pages
"""

from __future__ import annotations

from dataclasses import replace

from app.keys.base import Action, Scope
from app.keys.verdict_tables.anthropic import ANTHROPIC
from app.keys.verdict_tables.openai import OPENAI
from app.keys.verdict_tables.row import MINUTES, MODEL_SKIP, SHORT, Row, Table, codes, on, says

_AZURE: Table = (
    Row(
        Action.CLIENT,
        "content_filtered",
        statuses=on(400),
        codes=codes("content_filter", "content_filter_error", "ResponsibleAIPolicyViolation"),
    ),
    Row(
        Action.EGRESS,
        "network_rules",
        Scope.PROVIDER,
        on(403),
        message=says(r"\bvirtual network\b|\bfirewall rules\b|\bpublic access is disabled\b"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(
        Action.KEY_DEAD,
        "role_missing",
        Scope.KEY,
        on(401, 403),
        codes("PermissionDenied", "AuthorizationFailed"),
        alert=True,
    ),
    Row(
        Action.EGRESS,
        "access_denied",
        Scope.PROVIDER,
        on(403),
        codes("403", "AccessDenied", "Forbidden"),
        ladder=MINUTES,
        alert=True,
    ),
    Row(Action.KEY_DEAD, "invalid_api_key", Scope.KEY, on(401), alert=True),
    Row(
        Action.MODEL_GONE,
        "deployment_not_found",
        Scope.KEY_MODEL,
        on(404),
        codes("DeploymentNotFound", "ResourceNotFound", "NotFound", "404", "unknown_model"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(
        Action.MODEL_GONE,
        "deployment_not_found",
        Scope.KEY_MODEL,
        on(404),
        message=says(r"^resource not found\b"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(Action.PROVIDER, "timeout", statuses=on(408)),
    Row(Action.PROVIDER, "server_error", statuses=on(500, 503)),
)

_DEPLOYMENT_LIMIT = Row(Action.KEY_REST, "rate_limited", Scope.KEY_MODEL, on(429), ladder=SHORT)


def _per_deployment(table: Table) -> Table:
    return tuple(replace(row, scope=Scope.KEY_MODEL) if row.scope is Scope.GROUP_MODEL else row for row in table)


AZURE_OPENAI: Table = (*_AZURE, *_per_deployment(OPENAI), _DEPLOYMENT_LIMIT)
AZURE_ANTHROPIC: Table = (*_AZURE, *_per_deployment(ANTHROPIC), _DEPLOYMENT_LIMIT)
