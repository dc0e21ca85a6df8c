"""
The shape of one row of a verdict table, and the ladders that rows choose from. Data only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from app.keys.base import Action, Ladder, Scope
from app.keys.error_bodies import ErrorReport, Shape, fold
from app.keys.resets import Quota, quotas

#: For a refusal that says nothing about its length.
SHORT = Ladder(first_s=5.0, factor=2.0, cap_s=600.0)
#: For limits that are known to last about a minute, and for refusals that have to repeat on different minutes to count.
MINUTES = Ladder(first_s=60.0, factor=2.0, cap_s=600.0)
#: For money and monthly limits: nothing comes back within minutes.
LONG = Ladder(first_s=3600.0, factor=2.0, cap_s=86_400.0)
#: For how long a key is not asked again for a model that it does not offer.
MODEL_SKIP = Ladder(first_s=3600.0, factor=1.0, cap_s=3600.0)

ANY_BODY: frozenset[Shape] = frozenset(Shape)
ERROR_BODY: frozenset[Shape] = frozenset({Shape.ERROR})
#: What a front end (a load balancer, a filter) answers in place of the API.
FRONT_END_BODY: frozenset[Shape] = frozenset({Shape.MARKUP, Shape.EMPTY})


class Wait(Enum):
    """Where the length of a rest comes from. What yields no number leaves it to `otherwise`, then to the ladder."""

    NAMED = "named"  # anything the answer says: delays, reset headers, quota periods
    EXPLICIT = "explicit"  # delays only: the rate-limit headers are about another limit than this one


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row: when all its conditions hold, its decision is the verdict. An unset condition always holds.

    statuses        -- HTTP status, or the one that an error event stands for
    codes           -- any of the error's codes, types, reasons (as the provider spells them; compared case-folded)
    message         -- only for errors that have no code of their own
    quota           -- the quota that was exceeded
    retry_after     -- whether the answer has a Retry-After header
    names_model     -- the error has to name a model
    coded           -- whether the error has a code that is a word
    shapes          -- bodies that the row may judge; markup and empty bodies only where named
    otherwise       -- a rest of this kind when the answer names none
    ladder          -- the growing rest when there is no number at all
    """

    action: Action
    reason: str
    scope: Scope = Scope.NONE
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    message: re.Pattern[str] | None = None
    quota: Quota | None = None
    retry_after: bool | None = None
    names_model: bool = False
    coded: bool | None = None
    shapes: frozenset[Shape] = ERROR_BODY
    wait: Wait = Wait.NAMED
    otherwise: Quota | None = None
    ladder: Ladder | None = None
    alert: bool = False
    max_tries: int | None = None

    def matches(self, status: int, report: ErrorReport, has_retry_after: bool) -> bool:
        """True when every condition of this row holds."""
        return (
            report.shape in self.shapes
            and (not self.statuses or status in self.statuses)
            and (not self.codes or not self.codes.isdisjoint(report.codes))
            and (self.message is None or self.message.search(report.message) is not None)
            and (self.quota is None or self.quota in quotas(report))
            and self.retry_after in (None, has_retry_after)
            and (not self.names_model or report.model is not None)
            and self.coded in (None, report.is_coded)
        )


Table = tuple[Row, ...]


def on(*statuses: int) -> frozenset[int]:
    """Statuses that a row is about."""
    return frozenset(statuses)


def codes(*names: str) -> frozenset[str]:
    """Codes that a row is about, as `ErrorReport.codes` holds them."""
    return fold(names)


def says(pattern: str) -> re.Pattern[str]:
    """A phrase that a row is about; letters of either case."""
    return re.compile(pattern, re.IGNORECASE)
