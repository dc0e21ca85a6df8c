"""The cases that are run and the targets that are judged, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.figures import Bound, Compare, Target
from bench.load import Plain, Streams
from bench.machine import Cpus, Placing

CPU_CALL: Final = "cpu_us_per_call"
CPU_EVENT: Final = "cpu_us_per_event"


@dataclass(frozen=True, slots=True)
class Case:
    """
    What is sent to whom.

    gateways  -- in the order in which each round goes through them
    watched   -- memory is read while the load runs, which disturbs: nothing else is judged of such a case
    quick     -- also part of the short benchmark
    """

    name: str
    title: str
    load: Plain | Streams
    gateways: tuple[str, ...]
    placing: Placing = Placing.APART
    watched: bool = False
    quick: bool = True


CASES: Final[Sequence[Case]] = (
    Case("plain", "plain calls, 16 connections", Plain(16), ("nginx", "product", "portkey", "litellm")),
    Case("single", "plain calls, 1 connection", Plain(1), ("nginx", "product"), Placing.ONE),
    Case("large", "plain calls with a body of 90 KB, 16 connections", Plain(16, 90_000), ("nginx", "product")),
    Case("tls", "plain calls to an upstream over TLS, 16 connections", Plain(16), ("nginx-tls", "product-tls")),
    Case("workers", "plain calls, 16 connections, two CPUs", Plain(16), ("product", "product-2"), Placing.SPREAD),
    Case(
        "paced",
        "300 streams, an event every 20 ms",
        Streams(300, 600, 50, 20, ramp_ms=1000),
        ("nginx", "product", "portkey", "litellm"),
    ),
    Case("fast", "32 streams, 200 events without pause", Streams(32, 1280, 200, 0), ("nginx", "product")),
    Case(
        "thousand",
        "1,000 streams, an event every 20 ms",
        Streams(1000, 2000, 50, 20, ramp_ms=1000),
        ("direct", "nginx", "product"),
    ),
    Case(
        "three-thousand",
        "3,000 streams, an event every 100 ms",
        Streams(3000, 3000, 50, 100, ramp_ms=1000),
        ("nginx", "product"),
        quick=False,
    ),
    Case(
        "memory",
        "memory at 1,000 streams, an event every 20 ms",
        Streams(1000, 2000, 50, 20, ramp_ms=1000),
        ("product",),
        watched=True,
    ),
)

_LESS: Final = Compare.TIMES_LESS
_TARGETS: Final[Sequence[Target]] = (
    Target("CPU per plain call", "plain", CPU_CALL, 2.0, compare=Compare.RATIO, against="nginx", aim=1.5, unit="x"),
    Target("CPU per plain call", "plain", CPU_CALL, 22, Bound.AT_LEAST, _LESS, "portkey", 30, unit="x less"),
    Target("CPU per plain call", "plain", CPU_CALL, 220, Bound.AT_LEAST, _LESS, "litellm", 300, unit="x less"),
    Target("Latency of one call at a time, p50", "single", "p50_us", 60, aim=45, unit="us"),
    Target("Latency of one call at a time, p99", "single", "p99_us", 200, aim=100, unit="us"),
    Target(
        "CPU per call with 90 KB", "large", CPU_CALL, 3.0, compare=Compare.RATIO, against="nginx", aim=2.0, unit="x"
    ),
    Target(
        "CPU per plain call, upstream over TLS",
        "tls",
        CPU_CALL,
        2.0,
        compare=Compare.RATIO,
        against="nginx-tls",
        aim=1.5,
        product="product-tls",
        unit="x",
    ),
    Target("CPU per paced event", "paced", CPU_EVENT, 1.5, compare=Compare.RATIO, against="nginx", aim=1.2, unit="x"),
    Target("CPU per paced event", "paced", CPU_EVENT, 5, Bound.AT_LEAST, _LESS, "portkey", 6, unit="x less"),
    Target("CPU per paced event", "paced", CPU_EVENT, 35, Bound.AT_LEAST, _LESS, "litellm", 42, unit="x less"),
    Target(
        "Events/s of fast streams", "fast", "done_per_s", 0.8, Bound.AT_LEAST, Compare.RATIO, "nginx", 1.0, unit="x"
    ),
    Target("Failed of 1,000 streams", "thousand", "errors", 0, worst=True),
    Target(
        "Time of 1,000 streams, p50, longer than direct by",
        "thousand",
        "total_p50_ms",
        1.0,
        Bound.BELOW,
        Compare.EXCESS_PERCENT,
        "direct",
        unit="%",
    ),
    Target("Failed of 3,000 streams", "three-thousand", "errors", 0, worst=True),
    Target(
        "Time of 3,000 streams, p99, longer than nginx's by",
        "three-thousand",
        "total_p99_ms",
        2.0,
        compare=Compare.EXCESS_PERCENT,
        against="nginx",
        unit="%",
    ),
    Target("Memory (PSS) at 1,000 streams", "memory", "pss_mib", 100, aim=80, unit="MiB"),
)


def targets(spread: Cpus) -> list[Target]:
    """
    All targets. Two workers must answer more calls than one where the load has CPUs of its own; where it shares theirs,
    it is the bottleneck, and a call must then cost no more than with one worker.
    """
    case, one, two = "workers", "product", "product-2"
    if spread.has_room:
        title, value, limit, bound = "Calls/s of two workers, to one", "done_per_s", 1.7, Bound.AT_LEAST
    else:
        title, value, limit, bound = "CPU per call of two workers, to one", CPU_CALL, 1.15, Bound.AT_MOST
    workers = Target(title, case, value, limit, bound, Compare.RATIO, one, product=two, unit="x")
    return [*_TARGETS, workers]
