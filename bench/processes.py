"""What the system says about processes: trees, CPU time, memory, where they may run. Linux, /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Stat:
    """
    One process, from /proc/PID/stat; see proc(5).

    user_s, system_s  -- CPU time of all its threads
    waited_for_s      -- CPU time of its children that have ended
    """

    parent: int
    user_s: float
    system_s: float
    waited_for_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes has used up to now. `pids` are the processes that were counted."""

    user_s: float
    system_s: float
    pids: frozenset[int]

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


@dataclass(frozen=True, slots=True)
class Memory:
    """PSS counts a page that several processes share by its share in each, RSS wholly in each."""

    pss_mib: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Ticks:
    """Of the whole machine since its start: CPU time that was worked, and that another guest had instead."""

    busy_s: float
    steal_s: float


def parse_stat(text: str) -> Stat:
    """Raises ValueError or IndexError for what is no line of /proc/PID/stat."""
    # The second field is the command in brackets and may hold anything, also brackets.
    fields = text[text.rindex(")") + 2 :].split()
    parent, user, system, child_user, child_system = (int(fields[place]) for place in (1, 11, 12, 13, 14))
    waited_for_s = (child_user + child_system) / TICKS_PER_S
    return Stat(parent, user / TICKS_PER_S, system / TICKS_PER_S, waited_for_s, int(fields[21]) * PAGE_BYTES)


def parse_pss(text: str) -> float:
    """MiB of the line `Pss:` in /proc/PID/smaps_rollup. Raises ValueError where there is none."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * _KIB / _MIB
    raise ValueError("no line Pss:")


def parse_ticks(text: str) -> Ticks:
    """From the first line of /proc/stat."""
    user, nice, system, _idle, _waiting, irq, soft_irq, steal = (int(field) for field in text.split()[1:9])
    return Ticks((user + nice + system + irq + soft_irq) / TICKS_PER_S, steal / TICKS_PER_S)


def tree(root: int, processes: Mapping[int, Stat]) -> set[int]:
    """`root` and all that descend from it, as far as they are in `processes`."""
    children: dict[int, list[int]] = {}
    for pid, stat in processes.items():
        children.setdefault(stat.parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in processes and pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def all_processes() -> dict[int, Stat]:
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                found[int(folder.name)] = parse_stat((folder / "stat").read_text())
    return found


def usage(root: int) -> Usage:
    """CPU time of a process and all its descendants that live."""
    processes = all_processes()
    pids = tree(root, processes)
    return Usage(
        sum(processes[pid].user_s for pid in pids), sum(processes[pid].system_s for pid in pids), frozenset(pids)
    )


def own_cpu_s() -> float:
    """CPU time of this program and everything that it started, ended or not."""
    processes = all_processes()
    stats = [processes[pid] for pid in tree(os.getpid(), processes)]
    return sum(stat.user_s + stat.system_s + stat.waited_for_s for stat in stats)


def machine_ticks() -> Ticks:
    with (PROC / "stat").open() as file:
        return parse_ticks(file.readline())


def memory(root: int) -> Memory:
    """Of a process and all its descendants together; those that are ending have none."""
    processes = all_processes()
    pss_mib = rss_bytes = 0.0
    for pid in tree(root, processes):
        with contextlib.suppress(OSError):
            pss_mib += parse_pss((PROC / str(pid) / "smaps_rollup").read_text())
            rss_bytes += processes[pid].rss_bytes
    return Memory(pss_mib, rss_bytes / _MIB)


def move(root: int, cpus: Set[int]) -> None:
    """Let a process, its descendants and all their threads run on these CPUs only."""
    for pid in tree(root, all_processes()):
        with contextlib.suppress(OSError):
            for thread in (PROC / str(pid) / "task").iterdir():
                os.sched_setaffinity(int(thread.name), cpus)


@contextlib.contextmanager
def children_on(cpus: Set[int]) -> Iterator[None]:
    """What is started inside runs on these CPUs from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
