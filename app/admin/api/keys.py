"""
Upstream keys: list, add, change, delete, rest and wake, test, export and import.

A value goes in whole and comes out masked. The whole value is shown by two calls only, `reveal` and an export that asks
for it, and both want the password once more. A mask that is sent back changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import keys as actions
from app.admin.actions.paste import MAX_LINES, PastedKey, read_paste
from app.auth import confirm_password
from app.errors import BadRequest
from app.key_tests import MAX_TESTS
from app.keys.manager import DELETE
from app.usage_queries import UNUSED

bp = Blueprint("keys", __name__, url_prefix="/keys")

_CHANGES: dict[str, http.Check] = {**actions.FIELDS, "status": http.anything}
_BULK_FIELDS: dict[str, http.Check] = {
    **{name: actions.FIELDS[name] for name in ("name", "priority", "provider", "group", "models")},
    "text": http.text(actions.MAX_IMPORT_BYTES, lines=True),
    "keys": http.texts(MAX_LINES, http.text(actions.MAX_IMPORT_BYTES)),
}
_TEST_FIELDS: dict[str, http.Check] = {"model": http.optional(http.text(256, min_length=1))}


# -- one key -----------------------------------------------------------------------------------------


@bp.get("")
def list_keys() -> Response:
    """
    All keys with their state and today's figures; `key_value` shows the first and the last 4 characters.

    The demonstration's own keys are among them while it answers, marked `"demonstration": true`.
    """
    usage = http.services().usage_queries.key_usage()
    return http.answer(
        [actions.shown(item, usage.get(item["id"], UNUSED)) for item in actions.visible(http.services())]
    )


@bp.post("")
def add_key() -> Response:
    """Add a key: `key`, and if wanted name, note, priority, provider (gemini), group, models."""
    key_id = actions.add(http.services(), http.fields(http.read_object(), actions.FIELDS))
    return http.answer({"success": True, "message": "Key added.", "id": key_id}, 201)


@bp.get("/<key_id>")
def get_key(key_id: str) -> Response:
    """One key as in the list."""
    identity = _identity(key_id)
    item = http.services().keys.get(identity)
    usage = http.services().usage_queries.key_usage([identity])
    return http.answer(actions.shown(item, usage.get(identity, UNUSED)))


@bp.put("/<key_id>")
def update_key(key_id: str) -> Response:
    """Change the fields that are given; `status` may be Healthy or Disabled."""
    identity = _identity(key_id)
    actions.update(http.services(), identity, http.fields(http.read_object(), _CHANGES))
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


@bp.post("/<key_id>/test")
def test_key(key_id: str) -> Response:
    """
    Call the provider with this key now. Without a model its list of models is asked for, which is free; with
    `{"model"}` a few tokens are generated. A failure that is about the key counts like that of a request.
    """
    identity = _identity(key_id)
    wanted = http.fields(http.read_object(optional=True), _TEST_FIELDS)
    found = http.services().key_tests.test(identity, wanted.get("model"))
    return http.answer({"success": True, **found.data(), "key_status": http.services().keys.get(identity)["status"]})


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


@bp.post("/bulk-test")
def bulk_test() -> Response:
    """`{"key_ids": [...]}` -> the result of each, as `test` gives it."""
    body = http.fields(http.read_object(), {"key_ids": _ids}, ("key_ids",))
    found = http.services().key_tests.test_many(body["key_ids"])
    return http.answer({"success": True, "results": [test.data() for test in found]})


@bp.post("/bulk-add")
def bulk_add() -> Response:
    """
    Add many keys: `text` with one on each line (`value`, `name,value`, `name: value`, a note after ` #`), or `keys`, a
    list of values. `provider`, `group`, `priority` and `models` are for all of them, `name` for those without one; its
    `{n}` is the number of the key. The answer reports each line.
    """
    wanted = http.fields(http.read_object(max_bytes=actions.MAX_IMPORT_BYTES), _BULK_FIELDS)
    text, values, name = wanted.pop("text", None), wanted.pop("keys", None), wanted.pop("name", "")
    if (text is None) == (values is None):
        raise BadRequest("Send either `text` or `keys`.", code="missing_field", param="text")
    pasted = read_paste(text) if values is None else [PastedKey(number, key) for number, key in enumerate(values, 1)]
    report = actions.add_many(http.services(), pasted, wanted, name)
    counts = actions.counted(report)
    answer = {"success": True, "message": actions.words(counts), **counts, "lines": [asdict(line) for line in report]}
    return http.answer(answer)


@bp.get("/export")
def export_masked() -> Response:
    """All keys in the shape that import takes, values masked. `?reveal=true` works only while no password is set."""
    wanted = http.parameters({"reveal": http.choice("true", "false")})
    whole = wanted.get("reveal") == "true"
    if whole and http.services().auth.password_set:
        raise BadRequest(
            'For whole values: POST /middleware/api/keys/export {"password": "..."}.', code="password_required"
        )
    return http.answer(actions.exported(http.services(), whole=whole))


@bp.post("/export")
def export_whole() -> Response:
    """`{"password"}` -> all keys with their whole values, in the shape that import takes."""
    confirm_password(http.fields(http.read_object(optional=True), {"password": http.anything}))
    return http.answer(actions.exported(http.services(), whole=True))


@bp.post("/import")
def import_keys() -> Response:
    """
    Add the keys of an export: a list. Skipped and counted are values that are known, too short or masked, and rows of
    the demonstration or of a provider that does not exist here.
    """
    done = actions.import_rows(http.services(), http.read_list(max_bytes=actions.MAX_IMPORT_BYTES))
    return http.answer({"success": True, "message": done.message, **asdict(done)})


# -- parts -------------------------------------------------------------------------------------------


def _identity(key_id: str) -> int:
    return http.identity(key_id, "Key")


def _ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TESTS:
        raise http.wrong(name, f"a list of 1 to {MAX_TESTS} key IDs")
    if not all(type(item) is int and 0 < item <= http.MAX_ID for item in value):
        raise http.wrong(name, "a list of key IDs")
    return value
