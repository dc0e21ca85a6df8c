"""How figures are said."""

from __future__ import annotations

import pytest

from app.admin.pages import words


@pytest.mark.parametrize(
    ("say", "figure", "said"),
    [
        ("grouped", 1234567, "1,234,567"),
        ("grouped", 1234.56, "1,234.6"),
        ("grouped", None, "–"),
        ("bytes", 0, "0 bytes"),
        ("bytes", 1023, "1023 bytes"),
        ("bytes", 1536, "1.5 KiB"),
        ("bytes", 33554432, "32 MiB"),
        ("milliseconds", 43, "43 ms"),
        ("milliseconds", 1540, "1.54 s"),
        ("milliseconds", 15400, "15.4 s"),
        ("milliseconds", 90_000, "1 min 30 s"),
        ("milliseconds", None, "–"),
        ("seconds", 0, "0 s"),
        ("seconds", 200_000, "2 d 7 h"),
        ("money", 1234.5, "$1,234.50"),
        ("money", 0.050635, "$0.0506"),
        ("money", 0.00042, "$0.00042"),
        ("money", 0.5, "$0.50"),
        ("money", 0, "$0.00"),
        ("price", 0.01125, "$0.01125"),
        ("price", 1234.5, "$1,234.50"),
        ("price", 0, "$0.00"),
        ("price", None, "–"),
        ("money", 1e-12, "$0.00"),
        ("percent", 0.98765, "98.8 %"),
        ("percent", 0.99999, "99.9 %"),
        ("percent", 1.0, "100 %"),
        ("percent", 0.0, "0 %"),
        ("instant", 1_795_000_000.0, "2026-11-18T11:06:40Z"),
        ("utc", 1_795_000_000.0, "2026-11-18 11:06:40 UTC"),
    ],
)
def test_a_figure_is_said_as_people_read_it(say: str, figure: float | None, said: str) -> None:
    assert words.FILTERS[say](figure) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 keys"), (1, "1 key"), (1000, "1,000 keys")])
def test_a_count_has_its_plural(count: int, said: str) -> None:
    assert words.plural(count, "key") == said
