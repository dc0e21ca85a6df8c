"""
Sums of all requests by the hour and day, and by client, day and model: what the dashboard and the pages of clients are
made of. Every finished request counts here once, whatever became of it. Gathered in memory; `app.totals` writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from app.clock import HOUR_S, utc_date, utc_hour
from app.counting import (
    BOOKED_OPERATIONS,
    NEUTRAL_VERDICTS,
    NO_TOKENS,
    Tokens,
    add_count,
    error_code,
    succeeded,
    tokens_of,
)
from app.histograms import add_values
from app.records import RequestRecord
from app.shapes import MAX_INT32, OK, Shape, clamp

#: How long the date in an hour is, `YYYY-MM-DDTHH`.
DATE_CHARS: Final = 10
#: The client of requests that came without a client key.
NO_CLIENT: Final = 0

#: key id -> requests, milliseconds until they were answered, tokens in, tokens out, tokens from a cache.
#: None is the key of requests that needed none.
KeySums = dict[int | None, tuple[int, int, int, int, int]]


class Alike:
    """
    Requests of one shape and one hour that were answered at their first attempt.

    durations    -- {milliseconds to the end: how often}
    first_bytes  -- {milliseconds to the first byte of a stream: how often}; None where it had no byte
    """

    __slots__ = ("durations", "first_bytes", "sums")

    def __init__(self) -> None:
        self.sums: KeySums = {}
        self.durations: Counter[int] = Counter()
        self.first_bytes: Counter[int | None] = Counter()

    @property
    def requests(self) -> int:
        return sum(sums[0] for sums in self.sums.values())

    @property
    def tokens(self) -> Tokens:
        return Tokens(*(sum(sums[place] for sums in self.sums.values()) for place in (2, 3, 4)))


@dataclass(slots=True)
class PeriodTotals:
    """
    All requests that began in one hour, or on one day, since the last write.

    statuses      -- of the answers to callers
    verdicts      -- on attempts at providers
    error_codes   -- of attempts at providers that failed, as the statistics of keys count them
    latencies     -- a histogram of the milliseconds to the end of each request that succeeded
    first_tokens  -- the same to the first byte, of streams
    """

    requests: int = 0
    successes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    error_codes: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, int] = field(default_factory=dict)
    first_tokens: dict[str, int] = field(default_factory=dict)

    def add(self, other: PeriodTotals) -> None:
        """Add the sums and counts of another period."""
        for column in fields(self):
            own, added = getattr(self, column.name), getattr(other, column.name)
            if isinstance(own, dict):
                for name, count in added.items():
                    add_count(own, name, count)
            else:
                setattr(self, column.name, own + added)


@dataclass(slots=True)
class ClientTotals:
    """What one client asked of one model on one day, since the last write."""

    requests: int = 0
    successes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0


class _Sums(Protocol):
    requests: int
    successes: int
    tokens_in: int
    tokens_out: int
    cached_tokens: int


@dataclass(slots=True)
class Rollups:
    """
    hours    -- by hour, `YYYY-MM-DDTHH` in UTC
    clients  -- by (date, client id, model)
    """

    hours: dict[tuple[str], PeriodTotals] = field(default_factory=dict)
    clients: dict[tuple[str, int, str], ClientTotals] = field(default_factory=dict)

    def book(self, record: RequestRecord, shape: Shape) -> None:
        """Add one finished request."""
        hour = self._add(shape, record.started_at, 1, tokens_of(record))
        for attempt in record.attempts:
            add_count(hour.verdicts, attempt.verdict or "none", 1)
            if attempt.verdict != OK and attempt.verdict not in NEUTRAL_VERDICTS:
                add_count(hour.error_codes, error_code(attempt), 1)
        if succeeded(shape.outcome, shape.status):
            add_values(hour.latencies, {clamp(record.duration_ms, MAX_INT32): 1})
            if shape.stream and record.first_byte_ms is not None:
                add_values(hour.first_tokens, {clamp(record.first_byte_ms, MAX_INT32): 1})

    def book_alike(self, shape: Shape, hour_number: int, alike: Alike) -> None:
        """Add requests that were alike."""
        count = alike.requests
        tokens = alike.tokens if shape.operation in BOOKED_OPERATIONS else NO_TOKENS
        hour = self._add(shape, hour_number * HOUR_S, count, tokens)
        add_count(hour.verdicts, OK, count)
        if succeeded(shape.outcome, shape.status):
            add_values(hour.latencies, alike.durations)
            if shape.stream:
                begun = {first: times for first, times in alike.first_bytes.items() if first is not None}
                add_values(hour.first_tokens, begun)

    def periods(self) -> dict[tuple[str], PeriodTotals]:
        """The hours and the days that they make."""
        periods = dict(self.hours)
        for (hour,), totals in self.hours.items():
            periods.setdefault((hour[:DATE_CHARS],), PeriodTotals()).add(totals)
        return periods

    def _add(self, shape: Shape, started_at: float, count: int, tokens: Tokens) -> PeriodTotals:
        hour = self.hours.setdefault((utc_hour(started_at),), PeriodTotals())
        add_count(hour.outcomes, shape.outcome or "none", count)
        add_count(hour.statuses, str(shape.status), count)
        identity = (utc_date(started_at), shape.client_id or NO_CLIENT, shape.model_name)
        client = self.clients.setdefault(identity, ClientTotals())
        good = count if succeeded(shape.outcome, shape.status) else 0
        _add_all((hour, client), count, good, tokens)
        return hour


def _add_all(places: Iterable[_Sums], count: int, good: int, tokens: Tokens) -> None:
    for place in places:
        place.requests += count
        place.successes += good
        place.tokens_in += tokens.input
        place.tokens_out += tokens.output
        place.cached_tokens += tokens.cached
