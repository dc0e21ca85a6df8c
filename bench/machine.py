"""The machine that measures: what it is, what it needs to have, and who runs on which of its CPUs."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bench import processes

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
NATIVE: Final = HERE / "native"
#: Everything that runs leave behind; not kept by git.
RUN: Final = HERE / "run"

#: Program -> the Debian package that brings it.
PROGRAMS: Final[Mapping[str, str]] = {"nginx": "nginx-light", "wrk": "wrk", "gcc": "gcc"}
#: Without it there is no stdio.h.
HEADERS: Final = ("/usr/include/stdio.h", "libc6-dev")
#: 3,000 streams have 6,000 connections in a gateway.
OPEN_FILES: Final = 8192
#: Where Debian keeps daemons; not in everybody's PATH.
_MORE_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_BUILD_S: Final = 60.0


class Missing(Exception):
    """What a run needs is not there; the message says how to get it."""


class Placing(Enum):
    """
    APART   -- the gateway has one CPU for itself, load and mock share another
    ONE     -- everything on one CPU: with one call at a time, waking another CPU costs more than the call
    SPREAD  -- the gateway has two CPUs; load and mock have their own where there are enough, else share these
    """

    APART = "apart"
    ONE = "one"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Cpus:
    """Who may run where."""

    gateway: frozenset[int]
    mock: frozenset[int]
    load: frozenset[int]

    @property
    def has_room(self) -> bool:
        """Whether the gateway shares no CPU with those who load it."""
        return not self.gateway & (self.mock | self.load)


def cpus_for(placing: Placing, available: frozenset[int]) -> Cpus:
    """Who runs where when `placing` is wanted on these CPUs. With a single one, everybody shares it."""
    ordered = sorted(available)
    first = frozenset(ordered[:1])
    if placing is Placing.ONE or len(ordered) == 1:
        return Cpus(first, first, first)
    if placing is Placing.APART:
        second = frozenset(ordered[1:2])
        return Cpus(first, second, second)
    if len(ordered) >= 4:
        return Cpus(frozenset(ordered[:2]), frozenset(ordered[2:3]), frozenset(ordered[3:4]))
    both = frozenset(ordered[:2])
    return Cpus(both, both, both)


def available_cpus() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0))


# -- what a run needs ---------------------------------------------------------------------------------


def find(program: str) -> str | None:
    """The path of a program, also of a daemon; None where it is not installed."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS]))


def check() -> None:
    """Raises Missing for everything that a run needs and this machine has not."""
    packages = [package for program, package in PROGRAMS.items() if find(program) is None]
    header, package = HEADERS
    if not Path(header).exists():
        packages.append(package)
    if packages:
        every = " ".join([*PROGRAMS.values(), package])
        raise Missing(
            f"A run needs nginx, wrk and a C compiler. Not found here: {', '.join(packages)}.\n"
            f"On Debian and Ubuntu: apt-get install --no-install-recommends {every}\n"
            "(and, so that nginx does not keep port 80: systemctl disable --now nginx)"
        )
    if not (processes.PROC / "self" / "smaps_rollup").exists():
        raise Missing("A run needs Linux 4.14 or newer with /proc: CPU time and memory are read from it.")
    _allow_open_files()


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise Missing(f"A run needs {OPEN_FILES} open files for each process; here {hard} are allowed: ulimit -Hn.")
    wanted = OPEN_FILES * 2 if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES * 2)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def build(name: str, folder: Path) -> Path:
    """Compile `native/NAME.c` into `folder`; returns the program. Raises Missing when the compiler refuses."""
    program = folder / name
    command = [find("gcc") or "gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(NATIVE / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    if done.returncode:
        raise Missing(f"{name}.c does not compile:\n{done.stderr}")
    return program


# -- what it is ---------------------------------------------------------------------------------------


def facts() -> dict[str, str]:
    """Name -> value of what has to be known about this machine to read its figures."""
    return {
        "CPU": cpu_model((processes.PROC / "cpuinfo").read_text()),
        "CPUs usable": str(len(available_cpus())),
        "Kernel": platform.release(),
        "Python": platform.python_version(),
        "Hot path": hot_path(),
        "nginx": version_of("nginx", "-v"),
        "wrk": version_of("wrk", "-v"),
        "gcc": version_of("gcc", "--version"),
    }


def hot_path() -> str:
    """Whether the product runs compiled."""
    fits = subprocess.run([sys.executable, str(ROOT / "compiled.py"), "fits"], capture_output=True, check=False)
    return "interpreted" if fits.returncode else "compiled"


def cpu_model(cpuinfo: str) -> str:
    """The name of the CPU in the text of /proc/cpuinfo, else the architecture (ARM kernels name none)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def version_of(program: str, option: str) -> str:
    """The number in the first line of what a program says about itself; `not found` without it."""
    path = find(program)
    if path is None:
        return "not found"
    # wrk tells its version and then complains that it got no address.
    said = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=False)
    return version_in(said.stdout + said.stderr)


def version_in(text: str) -> str:
    """The first version number in a text: 1.22.1, v20.1.0 or 4.1.0-3+b2; `unknown` without one."""
    found = re.search(r"\bv?(\d+(?:\.\d+)+[\w.+-]*)", text)
    return found[1] if found else "unknown"
