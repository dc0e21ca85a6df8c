"""
What is done to upstream keys, however it was asked for: by the API or by the pages. Parsing and answering is theirs.

A value goes in whole and comes out masked; a mask that is sent back changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.admin import http
from app.admin.actions.paste import MAX_LINES, PastedKey
from app.admin.overview import demonstration_answers
from app.context import Services
from app.errors import BadRequest
from app.keys.fields import DEFAULT_PROVIDER, MAX_VALUE_CHARS, MIN_VALUE_CHARS, WHAT_A_KEY_IS, is_value
from app.providers import DEMO_NAME
from app.usage_queries import UNUSED, KeyUsage
from app.vault import mask

Item = dict[str, Any]

MAX_IMPORT_BYTES = 10 * http.MIB
#: What `vault.mask` makes of a value.
_MASKED = re.compile(r".{4}\.\.\..{4}|\*+")


def check_value(_name: str, value: Any) -> str:
    """The check of the field `key`; the store refuses what is no key."""
    if not isinstance(value, str) or len(value) > MAX_VALUE_CHARS:
        raise BadRequest("Invalid key.", code="invalid_key", param="key")
    return value.strip()


FIELDS: dict[str, http.Check] = {
    "key": check_value,
    "name": http.text(200),
    "note": http.text(10_000, lines=True),
    "priority": http.integer(-1_000_000, 1_000_000),
    "provider": http.text(64, min_length=1),
    "group": http.text(128),
    "models": http.texts(200, http.text(256, min_length=1)),
}


# -- showing -----------------------------------------------------------------------------------------


def visible(services: Services) -> list[Item]:
    """All keys as the key manager shows them, without the demonstration's where it does not answer."""
    hidden = "" if demonstration_answers(services) else DEMO_NAME
    return [item for item in services.keys.list_keys() if item["provider"] != hidden]


def shown(item: Item, usage: KeyUsage = UNUSED) -> Item:
    """A key as the API shows it."""
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


def real(services: Services) -> list[Item]:
    """All keys as the key manager shows them but the demonstration's."""
    return [item for item in services.keys.list_keys() if item["provider"] != DEMO_NAME]


# -- one key -----------------------------------------------------------------------------------------


def add(services: Services, values: Mapping[str, Any]) -> int:
    """Add a key of checked `FIELDS`; returns its id. Raises BadRequest."""
    fields = dict(values)
    value = fields.pop("key", "")
    if _MASKED.fullmatch(value):
        raise BadRequest("Invalid key.", code="invalid_key", param="key")
    check_provider(services, fields.get("provider", DEFAULT_PROVIDER))
    _hide(services, [value])
    return services.keys.add(value, **fields)


def update(
    services: Services, key_id: int, values: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> None:
    """
    Change checked `FIELDS` and `status`.

    expected  -- what the one who changes them saw; see `KeyManager.update`

    Raises BadRequest, NotFound, Conflict.
    """
    changes = dict(values)
    if not changes:
        raise BadRequest("No valid data.")
    if "key" in changes and _MASKED.fullmatch(changes["key"]):
        known = services.keys.get(key_id)["key_value"]
        if changes.pop("key") != known:
            raise BadRequest("Invalid key.", code="invalid_key", param="key")
    if "provider" in changes:
        check_provider(services, changes["provider"])
    if "key" in changes:
        _hide(services, [changes["key"]])
    if changes:
        services.keys.update(key_id, changes, expected)


def check_provider(services: Services, name: str) -> None:
    """Raises BadRequest for a provider that does not exist here."""
    known = services.providers.snapshot.by_name
    if name not in known:
        raise BadRequest(
            f"There is no provider named {name!r}. Known: {', '.join(sorted(known))}.",
            code="unknown_provider",
            param="provider",
        )


# -- many keys ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineReport:
    """
    What became of one line of a paste.

    key_value  -- masked
    result     -- `added`, `exists` (it was there before), `repeated` (an earlier line has it) or `invalid`
    reason     -- a sentence for what was not added
    """

    line: int
    name: str
    key_value: str
    result: str
    reason: str = ""


_RESULTS = {
    "": ("added", ""),
    "key_exists": ("exists", "This key is there already."),
    "repeated": ("repeated", "An earlier line has the same key."),
    "invalid_key": ("invalid", WHAT_A_KEY_IS),
}
_MASK_PASTED = ("invalid", "This is a masked value: paste the whole key.")
_OTHER_FAULT = ("invalid", "The name or the note is too long or has characters that cannot be stored.")


def add_many(
    services: Services, pasted: Sequence[PastedKey], fields: Mapping[str, Any], name: str = ""
) -> list[LineReport]:
    """
    Add the keys of a paste, all in one transaction, and report each.

    fields  -- checked provider, group, priority and models, for all of them
    name    -- for keys whose line has none; `{n}` is the number of the key in the paste

    Raises BadRequest for too many lines, or a provider that is not there.
    """
    if not pasted:
        raise BadRequest("There is no key in this text. Paste one on each line.", code="invalid_key", param="text")
    if len(pasted) > MAX_LINES:
        raise BadRequest(f"At most {MAX_LINES:,} keys can be added at once.", code="invalid_field", param="text")
    check_provider(services, fields.get("provider", DEFAULT_PROVIDER))
    pattern = _name_pattern(name or fields.get("provider", DEFAULT_PROVIDER), alone=len(pasted) == 1)
    rows = [
        {**fields, "key": line.value, "name": line.name or pattern.replace("{n}", str(number)), "note": line.note}
        for number, line in enumerate(pasted, 1)
    ]
    _hide(services, filter(is_value, (line.value for line in pasted)))
    masked = [_MASKED.fullmatch(line.value) is not None for line in pasted]
    codes = iter(services.keys.add_many(row for row, is_mask in zip(rows, masked, strict=True) if not is_mask))
    return [
        LineReport(line.line, row["name"][:200], mask(line.value), *_result(is_mask, codes))
        for line, row, is_mask in zip(pasted, rows, masked, strict=True)
    ]


def _name_pattern(name: str, *, alone: bool) -> str:
    return name if "{n}" in name or alone else name + " {n}"


def _result(is_mask: bool, codes: Iterator[str]) -> tuple[str, str]:
    return _MASK_PASTED if is_mask else _RESULTS.get(next(codes), _OTHER_FAULT)


def counted(report: Iterable[LineReport]) -> dict[str, int]:
    """How many lines of a report came to what; all results are present."""
    return {"added": 0, "exists": 0, "repeated": 0, "invalid": 0} | Counter(line.result for line in report)


def words(counts: Mapping[str, int]) -> str:
    """The counts of a report in a sentence."""
    said = {"exists": "there already", "repeated": "repeated", "invalid": "not usable"}
    rest = [f"{counts[result]:,} {what}" for result, what in said.items() if counts[result]]
    added = f"{counts['added']:,} {'key' if counts['added'] == 1 else 'keys'} added"
    return "; ".join([added, *rest]) + "."


def exported(services: Services, *, whole: bool) -> list[Item]:
    """All keys in the shape that import takes; values masked unless `whole`."""
    rows = [row for row in services.keys.export() if row["provider"] != DEMO_NAME]
    for row in rows:
        if "disabled_until" in row:
            row["disabled_until"] = http.iso(row["disabled_until"])
        if not whole:
            row["key_value"] = mask(row["key_value"])
    return rows


@dataclass(frozen=True, slots=True)
class Imported:
    """How many rows of an import were added and how many not; `masked` of these because their values are masks."""

    imported: int
    skipped: int
    masked: int

    @property
    def message(self) -> str:
        return f"Import complete. Imported {self.imported}, skipped {self.skipped}."


def import_rows(services: Services, rows: Sequence[Any]) -> Imported:
    """
    Add the keys of an export. Skipped are values that are known, too short or masked, and rows of the demonstration or
    of a provider that does not exist here.
    """
    known = services.providers.snapshot.by_name.keys() - {DEMO_NAME}
    whole = [_instant_as_seconds(row) for row in rows if not _is_masked(row) and _provider_of(row) in known]
    masked = sum(map(_is_masked, rows))
    _hide(services, [row["key_value"] for row in whole if isinstance(row.get("key_value"), str)])
    imported, skipped = services.keys.import_(whole)
    return Imported(imported, skipped + len(rows) - len(whole), masked)


# -- parts -------------------------------------------------------------------------------------------


def _hide(services: Services, values: Iterable[str]) -> None:
    """Take these out of every text from now on: a key may be used, and said back, as soon as it is stored."""
    services.redactor.learn(value for value in values if len(value) >= MIN_VALUE_CHARS)


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


def _instant_as_seconds(row: Item) -> Item:
    """The row with `disabled_until` in Unix seconds; an instant that is none is left out."""
    if "disabled_until" not in row:
        return row
    try:
        return {**row, "disabled_until": http.instant("disabled_until", row["disabled_until"])}
    except BadRequest:
        return {name: value for name, value in row.items() if name != "disabled_until"}
