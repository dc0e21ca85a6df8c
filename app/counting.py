"""What counts as what in every statistic, so that none contradicts another."""

from __future__ import annotations

from typing import Final, NamedTuple

from app.keys.base import Action
from app.records import AttemptRecord, RequestRecord

#: Verdicts that tell nothing about the key; the empty one is an attempt that never came to an end.
NEUTRAL_VERDICTS: Final = frozenset({"", Action.CLIENT.value, "client_gone"})
NETWORK_ERROR: Final = "599"
#: Operations whose answers are booked as generations: their tokens and models count.
BOOKED_OPERATIONS: Final = frozenset({"generate", "embed"})
#: Sums stay exact in JSON and JavaScript.
MAX_SUM: Final = 2**53 - 1


class Tokens(NamedTuple):
    """What a provider counted."""

    input: int
    output: int
    cached: int


NO_TOKENS: Final = Tokens(0, 0, 0)


def tokens_of(record: RequestRecord) -> Tokens:
    """The tokens of a request that count."""
    if record.operation not in BOOKED_OPERATIONS:
        return NO_TOKENS
    return Tokens(*(_clamped(number) for number in (record.input_tokens, record.output_tokens, record.cached_tokens)))


def succeeded(outcome: str, status: int) -> bool:
    """Whether a request succeeded: it was answered whole, and not with an error."""
    return outcome == "success" and status < 400


def error_code(attempt: AttemptRecord) -> str:
    """The code under which a failed attempt is counted: its HTTP status, or 599 where no error status came."""
    return str(attempt.status) if 400 <= attempt.status <= 599 else NETWORK_ERROR


def add_count(counts: dict[str, int], name: str, count: int) -> None:
    """Add to one of the counts."""
    counts[name] = min(counts.get(name, 0) + count, MAX_SUM)


def _clamped(number: int | None) -> int:
    return 0 if number is None else max(0, min(number, MAX_SUM))
