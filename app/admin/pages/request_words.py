"""
What the request log says in words: outcomes, verdicts and what they mean for the key, and the time bar of a request's
attempts. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: The bar is so many units wide.
BAR_UNITS: Final = 1000
_LEAST_UNITS: Final = 4


class Word(NamedTuple):
    """
    meaning -- what it means for the key, or the caller
    level   -- `good`, `warn`, `bad` or `neutral`
    """

    words: str
    level: str
    meaning: str = ""


OUTCOMES: Final[Mapping[str, Word]] = {
    "success": Word("Success", "good", "The caller has a whole answer."),
    "client_error": Word("Caller's fault", "warn", "The request itself was wrong, and the caller was told how."),
    "refused": Word("Refused", "warn", "A limit, or a missing or wrong client key."),
    "resting": Word("All keys rest", "warn", "Every key that could serve was out of play."),
    "no_keys": Word("No key", "bad", "No key could serve this model."),
    "upstream_error": Word("Provider failed", "bad", "The provider failed or could not be reached."),
    "upstream_cut": Word("Cut off", "bad", "The provider broke off after the caller had a part of the answer."),
    "client_gone": Word("Caller left", "neutral", "The caller left before the end."),
    "drained": Word("Server stopped", "neutral", "The server was stopping."),
    "internal_error": Word("Our fault", "bad", "The middleware itself failed: look at its log."),
}

VERDICTS: Final[Mapping[str, Word]] = {
    "ok": Word("Answered", "good", "The key works."),
    "CLIENT": Word("Caller's fault", "warn", "The request itself was wrong. The key was left alone."),
    "KEY_REST": Word("Key rests", "warn", "The key was put out of play for a while, and another one was tried."),
    "KEY_DEAD": Word("Key disabled", "bad", "The provider does not accept this key any more. Look at it."),
    "MODEL_GONE": Word("No such model", "warn", "This key does not offer the model. It is skipped for this model."),
    "PROVIDER": Word("Provider's trouble", "bad", "Not the key's fault. The key was left alone."),
    "EGRESS": Word("Network or region", "bad", "Our network or address was refused, or did not come through."),
    "STATE": Word("Another key's state", "neutral", "The conversation belongs to another key. The key was left alone."),
    "client_gone": Word("Caller left", "neutral", "The caller left during this attempt. The key was left alone."),
}
UNKNOWN: Final = Word("Unknown", "neutral")


def outcome(code: str) -> Word:
    return OUTCOMES.get(code) or UNKNOWN._replace(words=code or "Unknown")


def verdict(code: Any) -> Word:
    return VERDICTS.get(str(code)) or UNKNOWN._replace(words=str(code) or "Unknown")


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A piece of the bar.

    level        -- of its verdict, or `wait`
    start, width -- in units of the bar
    """

    level: str
    start: int
    width: int
    words: str


def bar(row: Mapping[str, Any]) -> list[Segment]:
    """The attempts of a request one after the other, with the waits before them."""
    attempts: Sequence[Mapping[str, Any]] = row["attempts"]
    # What took less than a millisecond is seen too.
    spent_ms = sum(_ms(attempt, "wait_ms") + max(1, _ms(attempt, "duration_ms")) for attempt in attempts)
    total_ms = max(1, spent_ms, _ms(row, "duration_ms"))
    found: list[Segment] = []
    at_ms = 0
    for number, attempt in enumerate(attempts, 1):
        wait_ms, duration_ms = _ms(attempt, "wait_ms"), _ms(attempt, "duration_ms")
        if wait_ms:
            found.append(_segment("wait", at_ms, wait_ms, total_ms, f"Waited {wait_ms:,} ms"))
        at_ms += wait_ms
        said = verdict(attempt.get("verdict"))
        words = f"Attempt {number}: {said.words}, {duration_ms:,} ms"
        found.append(_segment(said.level, at_ms, max(1, duration_ms), total_ms, words))
        at_ms += max(1, duration_ms)
    return found


def _segment(level: str, at_ms: int, length_ms: int, total_ms: int, words: str) -> Segment:
    width = max(_LEAST_UNITS, round(BAR_UNITS * length_ms / total_ms))
    start = min(round(BAR_UNITS * at_ms / total_ms), BAR_UNITS - _LEAST_UNITS)
    return Segment(level, start, min(width, BAR_UNITS - start), words)


def _ms(source: Mapping[str, Any], name: str) -> int:
    value = source.get(name)
    return max(0, int(value)) if isinstance(value, int | float) else 0
