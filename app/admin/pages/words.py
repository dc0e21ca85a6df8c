"""
How figures are said to people: grouped numbers, bytes, durations, money. The filters of the templates. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

_BYTE_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
NOTHING: Final = "–"


def grouped(number: float | None) -> str:
    """12345 -> `12,345`; None -> a dash."""
    if number is None:
        return NOTHING
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


def bytes_(number: float | None) -> str:
    """33554432 -> `32 MiB`."""
    if number is None:
        return NOTHING
    size, unit = float(number), 0
    while abs(size) >= 1024 and unit < len(_BYTE_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    text = f"{size:.0f}" if unit == 0 or size >= 100 or size == int(size) else f"{size:.1f}"
    return f"{text} {_BYTE_UNITS[unit]}"


def milliseconds(duration_ms: float | None) -> str:
    """43 -> `43 ms`, 1540 -> `1.54 s`, 90000 -> `1 min 30 s`."""
    if duration_ms is None:
        return NOTHING
    if duration_ms < 1000:
        return f"{duration_ms:.0f} ms"
    if duration_ms < 60_000:
        return f"{duration_ms / 1000:.2f} s" if duration_ms < 10_000 else f"{duration_ms / 1000:.1f} s"
    return seconds(duration_ms / 1000)


def seconds(duration_s: float | None) -> str:
    """45 -> `45 s`, 90 -> `1 min 30 s`, 7200 -> `2 h`, 200000 -> `2 d 7 h`."""
    if duration_s is None:
        return NOTHING
    whole = max(0, round(duration_s))
    parts = (("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60))
    said = [f"{count} {unit}" for unit, count in parts if count]
    return " ".join(said[:2]) or "0 s"


def money(dollars: float | None) -> str:
    """US dollars: 1234.5 -> `$1,234.50`, 0.050635 -> `$0.0506`, 0.00042 -> `$0.00042`."""
    if dollars is None:
        return NOTHING
    if dollars == 0 or abs(dollars) >= 1:
        return f"${dollars:,.2f}"
    places = min(2 - math.floor(math.log10(abs(dollars))), 9)
    return "$" + f"{dollars:.{places}f}".rstrip("0").ljust(4, "0")


def price(dollars: float | None) -> str:
    """US dollars to the last digit that counts: 2.5 -> `$2.50`, 0.1375 -> `$0.1375`."""
    if dollars is None:
        return NOTHING
    whole, _, cents = f"{dollars:,.10f}".rstrip("0").partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"


def percent(share: float | None) -> str:
    """0.9876 -> `98.8 %`; only a whole share is 100 %."""
    if share is None:
        return NOTHING
    shown = min(share * 100, 99.9) if share < 1 else share * 100
    return f"{shown:.1f} %" if 0 < shown < 100 else f"{shown:.0f} %"


def instant(at: float | None) -> str:
    """Unix seconds as ISO 8601 in UTC, for the `datetime` of a time element."""
    return datetime.fromtimestamp(at or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(at: float | None) -> str:
    """Unix seconds as people read them, with the zone: `2026-11-20 13:47:05 UTC`."""
    return datetime.fromtimestamp(at or 0, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plural(count: int, one: str, many: str = "") -> str:
    """`1 key`, `2 keys`, `1,000 keys`."""
    return f"{grouped(count)} {one if count == 1 else many or one + 's'}"


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "grouped": grouped,
    "bytes": bytes_,
    "milliseconds": milliseconds,
    "seconds": seconds,
    "money": money,
    "price": price,
    "percent": percent,
    "instant": instant,
    "utc": utc,
    "plural": plural,
}
