"""
`python -m bench`: how the product compares with nginx, in two to three minutes. `all` takes every case and every
gateway that is installed and writes RESULTS.md; `profile` shows where the CPU time of a plain call goes.

Exit status: 0 every target that was measured is met; 1 one is missed, or a run went wrong; 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.cases import CASES, Case, targets
from bench.figures import Sample, judge
from bench.gateways import GATEWAYS, anchors_folder
from bench.programs import ProgramFailed
from bench.runner import Plan, run_case, tools

LEAST_ROUNDS = 3
#: Left out of the short benchmark.
SLOW_GATEWAYS = ("portkey", "litellm")
PROFILE_CASE = "plain"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = read_options(arguments)
    # SystemExit, so that everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        machine.check()
        return run(options)
    except (machine.Missing, ProgramFailed) as error:
        print(error, file=sys.stderr)
        return 2


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Ends the program when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", nargs="?", default="quick", choices=("quick", "all", "profile"))
    parser.add_argument("--rounds", type=_positive, default=LEAST_ROUNDS, help="how often each gateway is loaded")
    parser.add_argument("--seconds", type=_positive, help="length of a load of plain calls (quick 1, else 3)")
    parser.add_argument("--cases", type=_names({case.name for case in CASES}), help="only these, by commas")
    parser.add_argument("--gateways", type=_names(set(GATEWAYS)), help="only these, by commas")
    parser.add_argument("--results", type=Path, help="where `all` writes its results (bench/RESULTS.md)")
    options = parser.parse_args(arguments)
    if options.what == "all" and options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds: results are medians of at least {LEAST_ROUNDS}")
    if options.seconds is None:
        options.seconds = 1 if options.what == "quick" else 3
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _names(known: set[str]) -> Any:
    """What reads a comma list of known names."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = ", ".join(name for name in names if name not in known)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {unknown}; there are {', '.join(sorted(known))}")
        return names

    return read


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """The cases to run, in their own order."""
    if options.cases:
        return [case for case in CASES if case.name in options.cases]
    if options.what == "profile":
        return [case for case in CASES if case.name == PROFILE_CASE]
    return [case for case in CASES if case.quick or options.what == "all"]


def chosen_gateways(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The gateways to run, and those that are left out with the reason."""
    wanted = options.gateways or [name for name in GATEWAYS if options.what == "all" or name not in SLOW_GATEWAYS]
    skipped = {name: why for name in wanted if (why := GATEWAYS[name].missing())}
    return [name for name in wanted if name not in skipped], skipped


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status. Raises Missing or ProgramFailed."""
    cases = chosen_cases(options)
    gateways, skipped = chosen_gateways(options)
    for name, why in skipped.items():
        print(f"{name} is left out: {why} (bench/install_anchors.sh puts it into {anchors_folder()})")
    machine.RUN.mkdir(exist_ok=True)
    raw = machine.RUN / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
    plan = Plan(options.rounds, options.seconds, raw, lambda text: print(text, flush=True))
    samples: list[Sample] = []
    with tools() as used:
        for case in cases:
            samples += run_case(case, [name for name in case.gateways if name in gateways], plan, used)
    return show(options, cases, gateways, skipped, samples, raw)


def show(
    options: argparse.Namespace,
    cases: Sequence[Case],
    gateways: Sequence[str],
    skipped: dict[str, str],
    samples: Sequence[Sample],
    raw: Path,
) -> int:
    """Print, and for `all` write, what was measured; the exit status."""
    if options.what == "profile":
        print("\n" + report.profile(samples, cases[0].name))
        return 1 if any(sample.problem for sample in samples) else 0
    spread = machine.cpus_for(machine.Placing.SPREAD, machine.available_cpus())
    wanted = targets(spread)
    if options.what == "quick" or options.cases or options.gateways:
        wanted = report.chosen(wanted, [case.name for case in cases], gateways)
    judgements = [judge(target, samples) for target in wanted]
    print("\n" + report.summary(judgements) + "\n\n" + report.recorded(samples))
    for remark in report.notes(samples, judgements, skipped):
        print(f"- {remark}")
    print(f"Raw runs: {raw}")
    if options.what == "all":
        target = options.results or machine.HERE / "RESULTS.md"
        target.write_text(report.document(facts(options, raw), judgements, samples, skipped))
        print(f"Written: {target}")
    return 0 if report.good(judgements, samples) else 1


def facts(options: argparse.Namespace, raw: Path) -> dict[str, str]:
    """Name -> value of everything that one has to know to read the figures."""
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Product": product_version(),
        "Rounds": f"{options.rounds}, plain calls for {options.seconds} s each",
        **machine.facts(),
        **anchor_versions(),
        "Raw runs": raw.name,
    }


def product_version() -> str:
    """The version of the tree and, where git knows it, its commit."""
    text = (machine.ROOT / "pyproject.toml").read_text()
    command = ["git", "-C", str(machine.ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown commit"
    return f"{machine.version_in(text)} ({commit})"


def anchor_versions() -> dict[str, str]:
    """Those of the anchors that are installed."""
    found = {}
    package = anchors_folder() / "portkey/node_modules/@portkey-ai/gateway/package.json"
    if package.exists():
        found["Portkey"] = machine.version_in(package.read_text())
        found["Node"] = machine.version_of("node", "--version")
    for folder in (anchors_folder() / "litellm").glob("lib/python3*/site-packages/litellm-*.dist-info"):
        found["LiteLLM"] = machine.version_in(folder.name.removesuffix(".dist-info"))
    return found


if __name__ == "__main__":
    sys.exit(main())
