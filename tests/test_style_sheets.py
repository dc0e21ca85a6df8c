"""The style sheets are whole: a brace that is missing would take everything below it along."""

from __future__ import annotations

from pathlib import Path

import pytest

SHEETS = sorted((Path(__file__).parent.parent / "static" / "css").glob("*.css"))


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_every_section_of_a_style_sheet_begins_outside_of_all_braces(sheet: Path) -> None:
    depth = 0
    for number, line in enumerate(sheet.read_text(encoding="utf-8").splitlines(), 1):
        assert not (line.startswith("/* --") and depth), f"line {number}: {line}"
        depth += line.count("{") - line.count("}")
        assert depth >= 0, f"line {number}"
    assert depth == 0
