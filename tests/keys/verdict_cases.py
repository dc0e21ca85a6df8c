"""The whole truth table: every row of every provider, as data that other tests can run end to end."""

from __future__ import annotations

from tests.keys import verdict_cases_anthropic, verdict_cases_gemini, verdict_cases_openai, verdict_cases_others
from tests.keys.verdict_case import Case

#: 2026-11-20 12:00:00 UTC, 04:00 in Los Angeles. Some cases hold instants that are counted from here.
WALL_NOW = 1_795_176_000.0

CASES: list[Case] = [
    *verdict_cases_gemini.CASES,
    *verdict_cases_openai.CASES,
    *verdict_cases_anthropic.CASES,
    *verdict_cases_others.CASES,
]
