"""
Verdicts on Databricks model serving.

`error_code` decides where it is a word; an integer there is ignored. Limits belong to the workspace, so they rest
the whole provider entry. Endpoints that wrap a model of somebody else pass the inner error's text through: it is
about a key that is not ours, so it is never read, and the status decides.

Source: https://docs.databricks.com/machine-learning/foundation-model-apis/limits and /api/workspace/introduction
"""

from __future__ import annotations

from app.keys.base import Action, Scope
from app.keys.error_bodies import Shape
from app.keys.verdict_tables.row import MINUTES, MODEL_SKIP, SHORT, Row, Table, codes, on, says

# Markup and empty bodies come from a front end.
_JSON_OR_TEXT = frozenset({Shape.ERROR, Shape.TEXT})

DATABRICKS: Table = (
    # A grant on one endpoint is missing: the key may well serve others.
    Row(
        Action.MODEL_GONE,
        "endpoint_permission_missing",
        Scope.KEY_MODEL,
        on(403),
        codes("PERMISSION_DENIED"),
        says(r"\bpermissions?\b.{0,80}\bon (?:the )?(?:serving )?(?:endpoint|model|function)\b"),
        ladder=MODEL_SKIP,
        alert=True,
    ),
    Row(
        Action.KEY_DEAD,
        "invalid_api_key",
        Scope.KEY,
        on(401, 403),
        codes("PERMISSION_DENIED", "UNAUTHENTICATED"),
        alert=True,
    ),
    # "Invalid access token." comes with a number for a code: as little as an unknown 401, so the key rests like there.
    Row(
        Action.KEY_REST,
        "unauthorized",
        Scope.KEY,
        on(403),
        coded=False,
        shapes=_JSON_OR_TEXT,
        ladder=MINUTES,
        alert=True,
    ),
    Row(
        Action.KEY_REST,
        "rate_limited",
        Scope.PROVIDER,
        codes=codes("RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED"),
        ladder=SHORT,
    ),
    Row(Action.KEY_REST, "rate_limited", Scope.PROVIDER, on(429), ladder=SHORT),
    Row(
        Action.MODEL_GONE,
        "endpoint_not_found",
        Scope.KEY_MODEL,
        codes=codes("ENDPOINT_NOT_FOUND", "RESOURCE_DOES_NOT_EXIST"),
        ladder=MODEL_SKIP,
    ),
    Row(Action.CLIENT, "invalid_request", codes=codes("BAD_REQUEST", "INVALID_PARAMETER_VALUE")),
    Row(Action.PROVIDER, "unavailable", codes=codes("TEMPORARILY_UNAVAILABLE")),
    Row(Action.PROVIDER, "deadline_exceeded", codes=codes("DEADLINE_EXCEEDED")),
)
