"""From runs to figures, and from figures to verdicts. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Books:
    """
    What the product says it has recorded since its database was made.

    rows     -- request rows that were written, counted by the id of the newest: old rows are deleted meanwhile
    counted  -- requests in the metrics
    dropped  -- rows and sums that were given up because the database could not keep up
    """

    rows: int
    counted: int
    dropped: int

    def __sub__(self, earlier: Books) -> Books:
        return Books(self.rows - earlier.rows, self.counted - earlier.counted, self.dropped - earlier.dropped)

    def are_complete(self, sent: int, in_flight: int) -> bool:
        """
        Whether every request of a run is accounted for: `sent` were answered, and up to `in_flight` more were broken
        off by the load generator's end, which it does not count.
        """
        return sent <= self.counted <= sent + in_flight and self.rows <= self.counted <= self.rows + self.dropped


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One run of one gateway in one case.

    values   -- what was measured, by name with unit
    problem  -- why there is nothing, or nothing that can be used; empty when all is well
    failed   -- calls that went wrong, by what the load generator calls it, and by what the product recorded of them
    calls    -- what was sent; `books`: what the product recorded of it, and whether that is all
    """

    case: str
    gateway: str
    round: int
    values: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    failed: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    books: Books | None = None
    books_complete: bool = True


class Compare(Enum):
    """
    How a figure is made of the product's value and the anchor's.

    VALUE           -- the product's alone
    RATIO           -- product / anchor
    TIMES_LESS      -- anchor / product
    EXCESS_PERCENT  -- how much more than the anchor's
    """

    VALUE = "value"
    RATIO = "ratio"
    TIMES_LESS = "times less"
    EXCESS_PERCENT = "excess"


class Bound(Enum):
    AT_MOST = "<="
    BELOW = "<"
    AT_LEAST = ">="

    def holds(self, figure: float, limit: float) -> bool:
        if self is Bound.AT_LEAST:
            return figure >= limit
        return figure <= limit if self is Bound.AT_MOST else figure < limit


class Verdict(Enum):
    """What became of a target; BROKEN: a run of the product went wrong, so that its figures mean nothing."""

    AIM = "met, and the aim"
    MET = "met"
    MISSED = "**missed**"
    BROKEN = "**broken**"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """
    What is asked of the product.

    case, value  -- which measured value counts
    against      -- the anchor; empty for Compare.VALUE
    aim          -- the better limit that is wished for; None where there is none
    worst        -- the worst round counts, not the median
    """

    title: str
    case: str
    value: str
    limit: float
    bound: Bound = Bound.AT_MOST
    compare: Compare = Compare.VALUE
    against: str = ""
    aim: float | None = None
    product: str = "product"
    unit: str = ""
    worst: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    figure        -- over all rounds; None where nothing was measured
    low, high     -- of single rounds
    product, anchor  -- medians of the values that it was made of
    why           -- what went wrong, for BROKEN and NOT_MEASURED
    """

    target: Target
    verdict: Verdict
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    product: float | None = None
    anchor: float | None = None
    why: str = ""


def median(samples: Iterable[Sample], case: str, gateway: str, value: str) -> float | None:
    """Over the rounds that have this value; None where none has."""
    found = list(by_round(samples, case, gateway, value).values())
    return statistics.median(found) if found else None


def by_round(samples: Iterable[Sample], case: str, gateway: str, value: str) -> dict[int, float]:
    """Round -> value, for the runs that went well enough to have it."""
    return {
        sample.round: sample.values[value]
        for sample in samples
        if (sample.case, sample.gateway) == (case, gateway) and not sample.problem and value in sample.values
    }


def compared(compare: Compare, product: float, anchor: float) -> float | None:
    """The figure of one round; None where it would be a division by zero."""
    if compare is Compare.VALUE:
        return product
    divisor = product if compare is Compare.TIMES_LESS else anchor
    if not divisor:
        return None
    if compare is Compare.TIMES_LESS:
        return anchor / product
    return product / anchor if compare is Compare.RATIO else (product / anchor - 1) * 100


def judge(target: Target, samples: Sequence[Sample]) -> Judgement:
    """
    Compare round by round, so that a slow drift of the machine hits both sides, then take the median (or, where one
    failure is too much, the worst) of the rounds.
    """
    problem = why_unusable(target, samples)
    if problem:
        return Judgement(target, Verdict.BROKEN, why=problem)
    products = by_round(samples, target.case, target.product, target.value)
    anchors = by_round(samples, target.case, target.against, target.value) if target.against else products
    rounds = sorted(products.keys() & anchors.keys())
    figures = [figure for at in rounds if (figure := compared(target.compare, products[at], anchors[at])) is not None]
    if not figures:
        return Judgement(target, Verdict.NOT_MEASURED, why=_why_not_measured(target, samples))
    figure = _overall(target, figures)
    return Judgement(
        target,
        verdict_of(target, figure),
        figure,
        min(figures),
        max(figures),
        statistics.median(products.values()),
        statistics.median(anchors.values()) if target.against else None,
    )


def verdict_of(target: Target, figure: float) -> Verdict:
    if not target.bound.holds(figure, target.limit):
        return Verdict.MISSED
    return Verdict.AIM if target.aim is not None and target.bound.holds(figure, target.aim) else Verdict.MET


def why_unusable(target: Target, samples: Iterable[Sample]) -> str:
    """
    What spoils a target: a run of the product that broke off, or calls of it that failed, which may be cheaper than
    those that go well. Failed calls are no obstacle where they are what is counted.
    """
    for sample in samples:
        if (sample.case, sample.gateway) != (target.case, target.product):
            continue
        if sample.problem:
            return sample.problem
        errors = sample.values.get("errors", 0)
        if errors and target.value != "errors":
            return f"{errors:.0f} calls failed in round {sample.round + 1}"
    return ""


def _why_not_measured(target: Target, samples: Iterable[Sample]) -> str:
    wanted = {target.product, target.against}
    problems = [s.problem for s in samples if s.case == target.case and s.gateway in wanted and s.problem]
    return problems[0] if problems else ""


def _overall(target: Target, figures: Sequence[float]) -> float:
    if not target.worst:
        return statistics.median(figures)
    return min(figures) if target.bound is Bound.AT_LEAST else max(figures)
