"""Runs cases: starts what a case needs, loads one gateway after the other in rounds, and reads what it cost."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from bench import load, machine, processes
from bench.cases import Case
from bench.certificates import make_certificate
from bench.figures import Sample
from bench.gateways import DIRECT, GATEWAYS, PATH, Gateway, Site, nginx_recipe, running
from bench.machine import Cpus, Placing, cpus_for
from bench.processes import Memory, Usage
from bench.programs import Program, ProgramFailed, Recipe, free_port, plain_environment

#: A gateway's work for a run is over when it uses less than this in one look, or after the longest wait.
SETTLED_CPU_S: Final = 0.02
_LOOK_S: Final = 0.25
_LONGEST_SETTLING_S: Final = 30.0
_LONGEST_BOOKING_S: Final = 30.0
_MICRO: Final = 1_000_000
#: What is sent before the first round, so that connections are open and code is warm.
_WARM_UP_S: Final = 1
_WARM_UP_STREAMS: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """
    rounds   -- how often each gateway of a case is loaded
    seconds  -- how long each load of plain calls lasts
    raw      -- the file to which each sample is added as a line of JSON
    say      -- what tells the user how far it is
    """

    rounds: int
    seconds: int
    raw: Path
    say: Callable[[str], None]


@dataclass(slots=True)
class Cost:
    """What a gateway and the machine used from `begin` to `end`."""

    root: int
    before: Usage
    ticks: processes.Ticks
    own_cpu_s: float
    at: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, root: int) -> Cost:
        return cls(root, processes.usage(root), processes.machine_ticks(), processes.own_cpu_s())

    def end(self, count: int, per: str) -> dict[str, float]:
        """
        Values by name: CPU time for each of `count`, and how many CPUs were kept busy by programs that are not ours,
        on average. Raises ProgramFailed when a process of the gateway is gone, and its time with it.
        """
        after = processes.usage(self.root)
        if self.before.pids - after.pids:
            raise ProgramFailed("one of its processes ended during the run")
        ticks = processes.machine_ticks()
        wall_s = time.monotonic() - self.at
        others_s = ticks.busy_s - self.ticks.busy_s - (processes.own_cpu_s() - self.own_cpu_s)
        user_s, system_s = after.user_s - self.before.user_s, after.system_s - self.before.system_s
        return {
            f"cpu_us_per_{per}": (user_s + system_s) * _MICRO / count,
            f"user_us_per_{per}": user_s * _MICRO / count,
            f"system_us_per_{per}": system_s * _MICRO / count,
            "others_cpus": max(0.0, others_s / wall_s),
            "steal_s": ticks.steal_s - self.ticks.steal_s,
        }


class Peak:
    """The most memory that was seen."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.memory = Memory(0.0, 0.0)

    def look(self) -> None:
        seen = processes.memory(self._root)
        self.memory = Memory(max(self.memory.pss_mib, seen.pss_mib), max(self.memory.rss_mib, seen.rss_mib))


# -- the site -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tools:
    """What a case is run with: the site of its gateways, what stands on the mock's side, and the stream client."""

    site: Site
    upstreams: Sequence[Program]
    streams: Path


@contextlib.contextmanager
def tools() -> Iterator[Tools]:
    """Compile the C programs and start the mock, plain and over TLS. Raises Missing or ProgramFailed."""
    machine.RUN.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="work-", dir=machine.RUN)))
        # nginx gives up root, and its workers have to reach their folders.
        folder.chmod(0o755)
        mock_program, streams = machine.build("mock", folder), machine.build("streams", folder)
        cpus = cpus_for(Placing.APART, machine.available_cpus()).mock
        logs = machine.RUN / "logs"
        port = free_port()
        recipe = Recipe("mock", [str(mock_program), str(port)], port, folder, plain_environment(folder))
        mock = stack.enter_context(Program(recipe, cpus, logs / "mock.log"))
        tls_port = free_port()
        site = Site(folder, logs, mock, tls_port, make_certificate(folder))
        over_tls = nginx_recipe("tls_mock.conf", site, "tls-mock", tls_port, port)
        upstreams = [mock, stack.enter_context(Program(over_tls, cpus, logs / "tls-mock.log"))]
        yield Tools(site, upstreams, streams)


# -- cases --------------------------------------------------------------------------------------------


def run_case(case: Case, names: Sequence[str], plan: Plan, used: Tools) -> list[Sample]:
    """
    All samples of a case. A gateway that does not start, or fails in a run, has a problem in its samples; it does not
    stop the others. Gateways are new in each case, so that no case inherits what another left.
    """
    cpus = cpus_for(case.placing, machine.available_cpus())
    with ExitStack() as stack:
        gateways: dict[str, Gateway] = {}
        problems: dict[str, str] = {}
        for name in names:
            plan.say(f"{case.name}: {name} starts and warms up")
            try:
                gateways[name] = stack.enter_context(running(name, used.site, cpus.gateway, free_port()))
                _warm_up(case, gateways[name], used, cpus)
            except (ProgramFailed, load.LoadFailed) as error:
                problems[name] = str(error)
                plan.say(f"{case.name}: {name}: {error}")
        samples = []
        for at in range(plan.rounds):
            for name in names:
                sample = Sample(case.name, name, at, problem=problems.get(name, ""))
                if not sample.problem:
                    sample = _measured(sample, case, gateways[name], plan, used, cpus)
                samples.append(sample)
                _keep(sample, plan)
        return samples


def _keep(sample: Sample, plan: Plan) -> None:
    with plan.raw.open("a") as file:
        file.write(json.dumps({"at": time.time(), **asdict(sample)}) + "\n")
    shown = " ".join(f"{name}={value:.4g}" for name, value in sample.values.items() if name in _SHOWN)
    plan.say(f"{sample.case}: round {sample.round + 1} of {plan.rounds}: {sample.gateway}: {sample.problem or shown}")


_SHOWN: Final = frozenset(
    {"cpu_us_per_call", "cpu_us_per_event", "done_per_s", "p50_us", "p99_us", "total_p50_ms", "pss_mib", "errors"}
)


def _warm_up(case: Case, gateway: Gateway, used: Tools, cpus: Cpus) -> None:
    wanted = case.load
    if isinstance(wanted, load.Streams):
        few = min(wanted.concurrent, _WARM_UP_STREAMS)
        wanted = replace(wanted, concurrent=few, total=few, events=5, ramp_ms=0)
    _load(wanted, gateway, _WARM_UP_S, used, cpus, lambda: None)
    settle(gateway.program.pid)


def _measured(sample: Sample, case: Case, gateway: Gateway, plan: Plan, used: Tools, cpus: Cpus) -> Sample:
    """`sample` with its values, or with its problem."""
    try:
        return _run(sample, case, gateway, plan, used, cpus)
    except (ProgramFailed, load.LoadFailed) as error:
        return replace(sample, problem=str(error))


def _run(sample: Sample, case: Case, gateway: Gateway, plan: Plan, used: Tools, cpus: Cpus) -> Sample:
    wanted, root = case.load, gateway.program.pid
    for upstream in used.upstreams:
        processes.move(upstream.pid, cpus.mock)
    if gateway.name != DIRECT:
        processes.move(root, cpus.gateway)
    if isinstance(wanted, load.Streams):
        share = GATEWAYS[gateway.name].stream_share
        wanted = replace(wanted, total=max(wanted.concurrent, int(wanted.total * share)))
    books = gateway.admin.settled_books() if gateway.admin else None
    peak = Peak(root)
    cost = Cost.begin(root)
    outcome = _load(wanted, gateway, plan.seconds, used, cpus, peak.look if case.watched else lambda: None)
    settle(root)
    if not outcome.done:
        raise ProgramFailed(f"nothing was answered, {outcome.errors} calls failed.{gateway.program.last_words()}")
    values = cost.end(outcome.done, "event" if isinstance(wanted, load.Streams) else "call")
    peak.look()
    values |= {"errors": float(outcome.errors), "done_per_s": outcome.done / outcome.wall_s, **outcome.values}
    values |= {"pss_mib": peak.memory.pss_mib, "rss_mib": peak.memory.rss_mib}
    sample = replace(sample, values=values, calls=outcome.calls, failed=outcome.failed)
    if gateway.admin and books is not None:
        # Streams that fail may never have reached the product; wrk breaks off what is in flight at its end.
        in_flight = wanted.connections if isinstance(wanted, load.Plain) else 0
        found = gateway.admin.books_since(books, outcome.calls, in_flight, _LONGEST_BOOKING_S)
        sample = replace(sample, books=found, books_complete=found.are_complete(outcome.calls, in_flight))
        if outcome.errors:
            sample = replace(sample, failed={**outcome.failed, **gateway.admin.failures_since(books)})
    gateway.program.trim_log()
    return sample


def _load(
    wanted: load.Plain | load.Streams,
    gateway: Gateway,
    seconds: int,
    used: Tools,
    cpus: Cpus,
    watch: Callable[[], None],
) -> load.Outcome:
    target = load.Target(gateway.program.port, PATH, gateway.headers)
    if isinstance(wanted, load.Plain):
        return load.run_plain(wanted, target, seconds, used.site.folder, cpus.load)
    return load.run_streams(wanted, target, used.streams, used.site.folder, cpus.load, watch)


def settle(root: int) -> None:
    """
    Wait until a gateway rests. What it puts off until after its answers, such as writing its records, belongs to what
    the answers cost.
    """
    until = time.monotonic() + _LONGEST_SETTLING_S
    before = processes.usage(root).cpu_s
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        now = processes.usage(root).cpu_s
        if now - before < SETTLED_CPU_S:
            return
        before = now
