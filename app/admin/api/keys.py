"""
Upstream keys: list, add, change, delete, rest and wake, export and import.

A value goes in whole and comes out masked. The whole value is shown by two calls only, `reveal` and an export that asks
for it, and both want the password once more. A mask that is sent back changes nothing.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.overview import demonstration_answers
from app.auth import confirm_password
from app.errors import BadRequest
from app.keys.fields import DEFAULT_PROVIDER, MAX_VALUE_CHARS, MIN_VALUE_CHARS
from app.keys.manager import DELETE
from app.providers import DEMO_NAME
from app.usage_queries import UNUSED, KeyUsage
from app.vault import mask

bp = Blueprint("keys", __name__, url_prefix="/keys")

MAX_IMPORT_BYTES = 10 * http.MIB

#: What `vault.mask` makes of a value.
_MASKED = re.compile(r".{4}\.\.\..{4}|\*+")


def _value(_name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_VALUE_CHARS:
        raise BadRequest("Invalid key.", code="invalid_key", param="key")
    return value.strip()


_FIELDS: dict[str, http.Check] = {
    "key": _value,
    "name": http.text(200),
    "note": http.text(10_000, lines=True),
    "priority": http.integer(-1_000_000, 1_000_000),
    "provider": http.text(64, min_length=1),
    "group": http.text(128),
    "models": http.texts(200, http.text(256, min_length=1)),
}
_CHANGES: dict[str, http.Check] = {**_FIELDS, "status": http.anything}


# -- one key -----------------------------------------------------------------------------------------


@bp.get("")
def list_keys() -> Response:
    """
    All keys with their state and today's figures; `key_value` shows the first and the last 4 characters.

    The demonstration's own keys are among them while it answers, marked `"demonstration": true`.
    """
    usage = http.services().usage_queries.key_usage()
    hidden = "" if demonstration_answers(http.services()) else DEMO_NAME
    return http.answer(
        [
            _shown(item, usage.get(item["id"], UNUSED))
            for item in http.services().keys.list_keys()
            if item["provider"] != hidden
        ]
    )


@bp.post("")
def add_key() -> Response:
    """Add a key: `key`, and if wanted name, note, priority, provider (gemini), group, models."""
    values = http.fields(http.read_object(), _FIELDS)
    value = values.pop("key", "")
    if _MASKED.fullmatch(value):
        raise BadRequest("Invalid key.", code="invalid_key", param="key")
    _check_provider(values.get("provider", DEFAULT_PROVIDER))
    _hide([value])
    key_id = http.services().keys.add(value, **values)
    return http.answer({"success": True, "message": "Key added.", "id": key_id}, 201)


@bp.get("/<key_id>")
def get_key(key_id: str) -> Response:
    """One key as in the list."""
    identity = _identity(key_id)
    item = http.services().keys.get(identity)
    return http.answer(_shown(item, http.services().usage_queries.key_usage().get(identity, UNUSED)))


@bp.put("/<key_id>")
def update_key(key_id: str) -> Response:
    """Change the fields that are given; `status` may be Healthy or Disabled."""
    identity = _identity(key_id)
    changes = http.fields(http.read_object(), _CHANGES)
    if not changes:
        raise BadRequest("No valid data.")
    if "key" in changes and _MASKED.fullmatch(changes["key"]):
        shown = http.services().keys.get(identity)["key_value"]
        if changes.pop("key") != shown:
            raise BadRequest("Invalid key.", code="invalid_key", param="key")
    if "provider" in changes:
        _check_provider(changes["provider"])
    if "key" in changes:
        _hide([changes["key"]])
    if changes:
        http.services().keys.update(identity, changes)
    return http.answer({"success": True, "message": "Key updated."})


@bp.delete("/<key_id>")
def delete_key(key_id: str) -> Response:
    """Remove a key with its statistics."""
    http.services().keys.delete(_identity(key_id))
    return http.answer({"success": True, "message": "Key deleted."})


@bp.post("/<key_id>/wake")
def wake_key(key_id: str) -> Response:
    """End every rest of a key, whole or for single models."""
    identity = _identity(key_id)
    http.fields(http.read_object(optional=True), {})
    http.services().keys.wake(identity)
    return http.answer({"success": True, "message": "Key woken."})


@bp.post("/<key_id>/reveal")
def reveal_key(key_id: str) -> Response:
    """`{"password"}` -> the whole value as `key_value`. No password is needed while none is set."""
    identity = _identity(key_id)
    confirm_password(http.fields(http.read_object(optional=True), {"password": http.anything}))
    value = http.services().keys.reveal(identity)
    return http.answer({"success": True, "id": identity, "key_value": value})


# -- many keys ---------------------------------------------------------------------------------------


@bp.post("/bulk-action")
def bulk_action() -> Response:
    """`{"key_ids": [...], "status": Healthy, Disabled, Resting (for an hour) or delete}`."""
    body = http.fields(http.read_object(), {"key_ids": http.anything, "status": http.anything})
    status = body.get("status")
    count = http.services().keys.bulk(body.get("key_ids"), status)
    done = "deleted" if status == DELETE else f"updated to {status}"
    return http.answer({"success": True, "message": f"{count} keys {done}.", "count": count})


@bp.get("/export")
def export_masked() -> Response:
    """All keys in the shape that import takes, values masked. `?reveal=true` works only while no password is set."""
    wanted = http.parameters({"reveal": http.choice("true", "false")})
    if wanted.get("reveal") != "true":
        return http.answer([{**row, "key_value": mask(row["key_value"])} for row in _exported()])
    if http.services().auth.password_set:
        raise BadRequest(
            'For whole values: POST /middleware/api/keys/export {"password": "..."}.', code="password_required"
        )
    return http.answer(_exported())


@bp.post("/export")
def export_whole() -> Response:
    """`{"password"}` -> all keys with their whole values, in the shape that import takes."""
    confirm_password(http.fields(http.read_object(optional=True), {"password": http.anything}))
    return http.answer(_exported())


@bp.post("/import")
def import_keys() -> Response:
    """
    Add the keys of an export: a list. Skipped and counted are values that are known, too short or masked, and rows of
    the demonstration or of a provider that does not exist here.
    """
    rows = http.read_list(max_bytes=MAX_IMPORT_BYTES)
    known = http.services().providers.snapshot.by_name.keys() - {DEMO_NAME}
    whole = [_instant_as_seconds(row) for row in rows if not _is_masked(row) and _provider_of(row) in known]
    masked = sum(map(_is_masked, rows))
    _hide([row["key_value"] for row in whole if isinstance(row, dict) and isinstance(row.get("key_value"), str)])
    imported, skipped = http.services().keys.import_(whole)
    skipped += len(rows) - len(whole)
    message = f"Import complete. Imported {imported}, skipped {skipped}."
    return http.answer(
        {"success": True, "message": message, "imported": imported, "skipped": skipped, "masked": masked}
    )


# -- parts -------------------------------------------------------------------------------------------


def _identity(key_id: str) -> int:
    return http.identity(key_id, "Key")


def _hide(values: list[str]) -> None:
    """Take these out of every text from now on: a key may be used, and said back, as soon as it is stored."""
    http.services().redactor.learn(value for value in values if len(value) >= MIN_VALUE_CHARS)


def _check_provider(name: str) -> None:
    known = http.services().providers.snapshot.by_name
    if name not in known:
        raise BadRequest(
            f"There is no provider named {name!r}. Known: {', '.join(sorted(known))}.",
            code="unknown_provider",
            param="provider",
        )


def _shown(item: dict[str, Any], usage: KeyUsage) -> dict[str, Any]:
    return {
        **item,
        "demonstration": item["provider"] == DEMO_NAME,
        "kpi": usage.kpi,
        "usage_today": usage.usage_today,
        "total_usage": usage.total_usage,
        "last_used": http.iso(item["last_used"]),
        "disabled_until": http.iso(item["disabled_until"]),
        "model_rests": [{**rest, "until": http.iso(rest["until"])} for rest in item["model_rests"]],
    }


def _exported() -> list[dict[str, Any]]:
    rows = [row for row in http.services().keys.export() if row["provider"] != DEMO_NAME]
    for row in rows:
        if "disabled_until" in row:
            row["disabled_until"] = http.iso(row["disabled_until"])
    return rows


def _is_masked(row: Any) -> bool:
    value = row.get("key_value") if isinstance(row, dict) else None
    return isinstance(value, str) and _MASKED.fullmatch(value.strip()) is not None


def _provider_of(row: Any) -> str | None:
    """The provider that a row of an import is for; None where that is no name."""
    if not isinstance(row, dict):
        return None
    name = row.get("provider")
    if name is None:
        return DEFAULT_PROVIDER
    return name.strip() if isinstance(name, str) else None


def _instant_as_seconds(row: Any) -> Any:
    """The row with `disabled_until` in Unix seconds; an instant that is none is left out."""
    if not isinstance(row, dict) or "disabled_until" not in row:
        return row
    try:
        return {**row, "disabled_until": http.instant("disabled_until", row["disabled_until"])}
    except BadRequest:
        return {name: value for name, value in row.items() if name != "disabled_until"}
