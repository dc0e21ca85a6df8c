"""What is shown: tables in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bench.cases import CASES, Case
from bench.figures import Compare, Judgement, Sample, Target, Verdict, median
from bench.load import Plain

#: Value -> heading; a gateway's row shows those that it has.
_PLAIN_COLUMNS: Final[Mapping[str, str]] = {
    "done_per_s": "calls/s",
    "cpu_us_per_call": "CPU us/call",
    "user_us_per_call": "user",
    "system_us_per_call": "system",
    "p50_us": "p50 us",
    "p99_us": "p99 us",
    "pss_mib": "PSS MiB",
    "rss_mib": "RSS MiB",
    "errors": "failed",
}
_STREAM_COLUMNS: Final[Mapping[str, str]] = {
    "done_per_s": "events/s",
    "cpu_us_per_event": "CPU us/event",
    "first_p50_ms": "first p50 ms",
    "first_p99_ms": "first p99 ms",
    "total_p50_ms": "total p50 ms",
    "total_p99_ms": "total p99 ms",
    "pss_mib": "PSS MiB",
    "rss_mib": "RSS MiB",
    "errors": "failed",
}
#: From here on, other programs have disturbed.
NOISY_CPUS: Final = 0.1


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned, so that it can be read as it is."""
    every = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(headings))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in every
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def number(value: float | None) -> str:
    """Three digits that count, thousands with a comma; `-` for None."""
    if value is None:
        return "-"
    if abs(value) >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def summary(judgements: Sequence[Judgement]) -> str:
    """One row for each target."""
    headings = ("What", "Product", "Beside", "Figure", "Rounds", "Target", "Aim", "Verdict")
    return table(headings, [_summary_row(judgement) for judgement in judgements])


def _summary_row(judgement: Judgement) -> tuple[str, ...]:
    target = judgement.target
    beside = f"{target.against} {number(judgement.anchor)}" if target.against else "-"
    spread = "-" if judgement.low is None else f"{number(judgement.low)} to {number(judgement.high)}"
    return (
        target.title,
        number(judgement.product),
        beside,
        with_unit(judgement.figure, target.unit),
        spread,
        f"{target.bound.value} {with_unit(target.limit, target.unit)}",
        "-" if target.aim is None else with_unit(target.aim, target.unit),
        judgement.verdict.value,
    )


def with_unit(value: float | None, unit: str) -> str:
    if value is None or not unit:
        return number(value)
    return f"{number(value)}{unit}" if unit.startswith(("x", "%")) else f"{number(value)} {unit}"


def details(case: Case, samples: Sequence[Sample]) -> str:
    """Medians of one case: a row for each gateway."""
    columns = _PLAIN_COLUMNS if isinstance(case.load, Plain) else _STREAM_COLUMNS
    names = [name for name in case.gateways if any((s.case, s.gateway) == (case.name, name) for s in samples)]
    rows = [[name, *(number(median(samples, case.name, name, value)) for value in columns)] for name in names]
    return table(["gateway", *columns.values()], rows)


def recorded(samples: Sequence[Sample]) -> str:
    """What the product wrote down of what it was sent, summed over the rounds of each case."""
    rows = []
    for case, gateway in dict.fromkeys((sample.case, sample.gateway) for sample in samples if sample.books):
        mine = [sample for sample in samples if (sample.case, sample.gateway) == (case, gateway)]
        books = [sample.books for sample in mine if sample.books]
        sums = (sum(sample.calls for sample in mine), sum(b.counted for b in books), sum(b.rows for b in books))
        dropped = sum(b.dropped for b in books)
        complete = all(sample.books_complete for sample in mine)
        rows.append([case, gateway, *(f"{n:,}" for n in (*sums, dropped)), "yes" if complete else "**no**"])
    return table(("case", "gateway", "answered", "counted", "rows", "dropped", "all accounted for"), rows)


def notes(samples: Sequence[Sample], judgements: Iterable[Judgement], skipped: Mapping[str, str]) -> list[str]:
    """Sentences about what was left out, went wrong, or disturbed."""
    found = [f"{name}: left out, {why}." for name, why in skipped.items()]
    found += [
        f"{judgement.target.title}: {judgement.why.splitlines()[0]}"
        for judgement in judgements
        if judgement.verdict is Verdict.BROKEN and judgement.why
    ]
    for sample in samples:
        where = f"{sample.case}, {sample.gateway}, round {sample.round + 1}"
        if sample.problem:
            found.append(f"{where}: {sample.problem.splitlines()[0]}")
        elif sample.values.get("errors"):
            reasons = ", ".join(f"{reason} {count}" for reason, count in sample.failed.items())
            found.append(f"{where}: {sample.values['errors']:.0f} calls failed ({reasons}).")
        if not sample.books_complete:
            found.append(f"{where}: {sample.calls} calls were answered, but the product has {sample.books}.")
    return found + _disturbances(samples)


def _disturbances(samples: Iterable[Sample]) -> list[str]:
    others = [s.values["others_cpus"] for s in samples if "others_cpus" in s.values]
    noisy = [cpus for cpus in others if cpus > NOISY_CPUS]
    if not noisy:
        return []
    return [
        f"The machine was not quiet: in {len(noisy)} of {len(others)} runs other programs used more than "
        f"{NOISY_CPUS:g} CPU, at most {max(noisy):.2g}. Latencies and rates suffer from that; CPU time hardly does."
    ]


def good(judgements: Iterable[Judgement], samples: Iterable[Sample]) -> bool:
    """Whether every target that could be measured is met and every call is accounted for."""
    passed = (Verdict.AIM, Verdict.MET, Verdict.NOT_MEASURED)
    return all(judgement.verdict in passed for judgement in judgements) and all(s.books_complete for s in samples)


def document(
    facts: Mapping[str, str],
    judgements: Sequence[Judgement],
    samples: Sequence[Sample],
    skipped: Mapping[str, str],
) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results of the benchmark",
        "Written by `make bench-all`; [README.md](README.md) says what is measured and how. Figures are medians of the "
        "rounds, compared round by round; `Rounds` shows the least and the greatest.",
        table(("", ""), facts.items()),
        "## Targets",
        summary(judgements),
    ]
    remarks = notes(samples, judgements, skipped)
    if remarks:
        parts += ["## Notes", "\n".join(f"- {remark}" for remark in remarks)]
    parts.append("## Measured")
    for case in CASES:
        if any(sample.case == case.name for sample in samples):
            parts += [f"### {case.title[0].upper()}{case.title[1:]}", details(case, samples)]
    parts += ["## Recorded by the product", recorded(samples)]
    return "\n\n".join(parts) + "\n"


def profile(samples: Sequence[Sample], case: str) -> str:
    """User and system CPU time for each call, a row for each gateway."""
    values = ("user_us_per_call", "system_us_per_call", "cpu_us_per_call")
    names = dict.fromkeys(sample.gateway for sample in samples)
    rows = [[name, *(number(median(samples, case, name, value)) for value in values)] for name in names]
    return table(("gateway", "user us/call", "system us/call", "CPU us/call"), rows)


def chosen(targets: Iterable[Target], cases: Iterable[str], gateways: Iterable[str]) -> list[Target]:
    """The targets of these cases whose sides are both among the gateways."""
    names, sides = set(cases), set(gateways)
    return [
        target
        for target in targets
        if target.case in names
        and target.product in sides
        and (target.compare is Compare.VALUE or target.against in sides)
    ]
