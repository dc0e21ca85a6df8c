"""
Adopting a database file of the older application: its tables `keys`, `daily_stats` and `settings`, with plain keys
and ISO times, become ours, with all their data. Runs inside the transaction of the first migration.

Columns may be missing (their defaults are used) or unknown (they are left out); rows of one key that occurs twice are
merged. What cannot be kept (a key without a value, statistics without their key, a setting that does not exist or
is out of range) is counted in one log line. Other tables of the file stay; one whose name we need is renamed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from .. import settings as live
from ..errors import BadRequest
from ..keys.base import Status
from . import schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from ..vault import Vault

_logger = logging.getLogger(__name__)

_SUFFIX: Final = "_before_adoption"
_OLD_TABLES: Final = ("keys", "daily_stats", "settings")
_COUNTS: Final = ("requests", "successes", "errors", "tokens_in", "tokens_out", "total_latency_ms")
_MAX_COUNT: Final = 2**62
_STATUSES: Final = {status.value.lower(): status for status in Status}
_BATCH_ROWS: Final = 500

_Row = Mapping[str, Any]


#: The old application stored its defaults as if somebody had chosen them: these give way to ours.
_OLD_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "buffer_size": ("8192",),
    "enable_cors": ("true",),
    "max_concurrent_requests": ("100",),
    "max_request_size": ("10485760",),
    "read_timeout": ("60", "60.0"),
    "request_timeout": ("30", "30.0"),
    "retry_total": ("50",),
    "streaming_timeout": ("120", "120.0"),
}


@dataclass
class _Lost:
    """What could not be kept, counted."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def is_old_file(connection: Connection) -> bool:
    """Whether the tables are those of the older application: `keys` with plain values, or at least its settings."""
    columns = _columns(connection, "keys")
    if columns:
        return "key_value" in columns and "key_hmac" not in columns
    return {"key", "value"} <= _columns(connection, "settings")


def set_aside(connection: Connection) -> None:
    """Rename the tables whose names we need. Foreign keys of other tables go on naming the new ones."""
    taken = set(sa.inspect(connection).get_table_names())
    for name in sorted(taken & set(schema.metadata.tables)):
        connection.exec_driver_sql(f'ALTER TABLE "{name}" RENAME TO "{name}{_SUFFIX}"')
        _drop_indexes(connection, f"{name}{_SUFFIX}")


def bring_back(connection: Connection, vault: Vault) -> None:
    """Copy the rows that were set aside into the new tables, then drop the old three."""
    lost = _Lost()
    now = time.time()
    new_ids = _copy_keys(connection, vault, now, lost)
    _copy_stats(connection, new_ids, lost)
    _copy_settings(connection, now, lost)
    for name in _OLD_TABLES:
        connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{name}{_SUFFIX}"')
    if lost.counts:
        told = ", ".join(f"{count} {what}" for what, count in sorted(lost.counts.items()))
        _logger.warning("Could not be kept from the older version's file: %s", told)


def _columns(connection: Connection, table: str) -> set[str]:
    return {str(row[1]) for row in connection.exec_driver_sql(f'PRAGMA table_info("{table}")')}


def _drop_indexes(connection: Connection, table: str) -> None:
    """Old indexes keep their names when a table is renamed, and may be in the way of ours."""
    for row in connection.exec_driver_sql(f'PRAGMA index_list("{table}")').fetchall():
        if row[3] == "c":  # made by CREATE INDEX, not by a constraint
            connection.exec_driver_sql(f'DROP INDEX "{row[1]}"')


def _rows(connection: Connection, table: str) -> Iterator[_Row]:
    """The rows of a table that was set aside, oldest first; none when there is no such table."""
    if _columns(connection, table + _SUFFIX):
        for row in connection.exec_driver_sql(f'SELECT * FROM "{table}{_SUFFIX}" ORDER BY 1').mappings():
            yield {str(name): value for name, value in row.items()}


def _copy_keys(connection: Connection, vault: Vault, now: float, lost: _Lost) -> dict[int, int]:
    """Insert the keys. Returns old id -> new id: the same, but for the later rows of a key that occurs twice."""
    by_hmac: dict[str, dict[str, Any]] = {}
    new_ids: dict[int, int] = {}
    for number, row in enumerate(_rows(connection, "keys"), start=1):
        value = _text(row.get("key_value")).strip()
        if not value:
            lost.add("keys without a value")
            continue
        old_id = _whole(row.get("id"), number)
        key = _key(row, old_id, value, vault, now)
        first = by_hmac.setdefault(key["key_hmac"], key)
        new_ids[old_id] = first["id"]
        if first is not key:
            _merge_key(first, key)
    _insert(connection, schema.keys, list(by_hmac.values()))
    return new_ids


def _key(row: _Row, key_id: int, value: str, vault: Vault, now: float) -> dict[str, Any]:
    status, until = _state(row)
    return {
        "id": key_id,
        "name": _text(row.get("name")).strip() or "Unnamed",
        "key_value": vault.encrypt(value),
        "key_hmac": vault.hmac(value),
        "key_hint": vault.mask(value),
        "provider": "gemini",
        "status": status,
        "disabled_until": until,
        "note": _text(row.get("note")),
        "priority": _whole(row.get("priority"), 1),
        "last_rotated_at": unix_seconds(row.get("last_rotated_at")) or 0.0,
        "state_at": now,
        "created_at": now,
    }


def _state(row: _Row) -> tuple[str, float | None]:
    """A state that is not known becomes Disabled, so that a person looks at it."""
    text = _text(row.get("status")).strip().lower()
    status = _STATUSES.get(text, Status.DISABLED) if text else Status.HEALTHY
    if status is not Status.RESTING:
        return status.value, None
    until = unix_seconds(row.get("disabled_until"))
    return (Status.HEALTHY.value, None) if until is None else (status.value, until)


def _merge_key(first: dict[str, Any], other: Mapping[str, Any]) -> None:
    """A key that a person disabled stays disabled; the rest comes from the first row, notes from both."""
    if other["status"] == Status.DISABLED:
        first["status"], first["disabled_until"] = other["status"], None
    if first["name"] == "Unnamed":
        first["name"] = other["name"]
    if other["note"] and other["note"] not in first["note"]:
        first["note"] = "\n".join(note for note in (first["note"], other["note"]) if note)
    first["last_rotated_at"] = max(first["last_rotated_at"], other["last_rotated_at"])


def _copy_stats(connection: Connection, new_ids: Mapping[int, int], lost: _Lost) -> None:
    days: dict[tuple[int, str], dict[str, Any]] = {}
    totals: dict[int, int] = {}
    for row in _rows(connection, "daily_stats"):
        key_id, day = new_ids.get(_whole(row.get("key_id"), -1)), _day(row.get("date"))
        if key_id is None or day is None:
            lost.add("days of statistics without their key or date")
            continue
        _add_day(days.setdefault((key_id, day), _empty_day(key_id, day)), row)
    for (key_id, _), day_row in days.items():
        totals[key_id] = totals.get(key_id, 0) + day_row["requests"]
        for name in ("error_codes", "model_usage"):
            day_row[name] = json.dumps(day_row[name])
    _insert(connection, schema.daily_stats, list(days.values()))
    for key_id, total in totals.items():
        connection.execute(sa.update(schema.keys).where(schema.keys.c.id == key_id).values(total_requests=total))


def _empty_day(key_id: int, day: str) -> dict[str, Any]:
    return {"key_id": key_id, "date": day, "error_codes": {}, "model_usage": {}, **dict.fromkeys(_COUNTS, 0)}


def _add_day(total: dict[str, Any], row: _Row) -> None:
    for name in _COUNTS:
        total[name] += max(0, _whole(row.get(name), 0))
    for name in ("error_codes", "model_usage"):
        for label, count in _counters(row.get(name)).items():
            total[name][label] = total[name].get(label, 0) + count


def _counters(raw: object) -> dict[str, int]:
    """The counts in a JSON object; empty when it is none."""
    try:
        decoded = json.loads(_text(raw) or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(decoded, dict):
        return {}
    return {label: count for label, value in decoded.items() if (count := _whole(value, 0)) > 0}


def _copy_settings(connection: Connection, now: float, lost: _Lost) -> None:
    kept: dict[str, dict[str, Any]] = {}
    for row in _rows(connection, "settings"):
        name = _text(row.get("key"))
        try:
            value = live.to_text(live.parse(name, _text(row.get("value"))))
        except BadRequest:
            lost.add("settings that do not exist any more or are out of range")
            continue
        if value in _OLD_DEFAULTS.get(name, ()):
            continue
        kept[name] = {
            "key": name,
            "value": value,
            "created_at": unix_seconds(row.get("created_at")) or now,
            "updated_at": unix_seconds(row.get("updated_at")) or now,
        }
    _insert(connection, schema.settings, list(kept.values()))


def _insert(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _BATCH_ROWS):
        connection.execute(sa.insert(table), rows[start : start + _BATCH_ROWS])


def _text(raw: object) -> str:
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "replace")
    return "" if raw is None else str(raw)


def _whole(raw: object, default: int) -> int:
    """SQLite keeps whatever was written into a column, also text and fractions."""
    try:
        number = int(float(_text(raw))) if not isinstance(raw, int) else raw
    except (ValueError, OverflowError):
        return default
    return number if abs(number) <= _MAX_COUNT else default


def _day(raw: object) -> str | None:
    try:
        return date.fromisoformat(_text(raw).strip()[:10]).isoformat()
    except ValueError:
        return None


def unix_seconds(raw: object) -> float | None:
    """Unix seconds of an ISO 8601 instant (without an offset: UTC) or of a number; None when it is neither."""
    text = _text(raw).strip()
    try:
        return max(0.0, float(text)) if abs(float(text)) < 1e11 else None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
