"""Programs that a run starts and ends: in a session of their own, with a log, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Final

from bench import processes

LOOPBACK: Final = "127.0.0.1"
_STOP_S: Final = 15.0
_POLL_S: Final = 0.05
_LOG_LINES_SHOWN: Final = 15


class ProgramFailed(Exception):
    """A program did not start, or does not do what it should; the message says which and what its log ends with."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    How a program is started.

    environ  -- the whole environment: nothing of the caller's own gets in
    start_s  -- how long it may take until it listens
    """

    name: str
    command: Sequence[str]
    port: int
    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 20.0


class Program:
    """`with Program(recipe, cpus, log) as program:` it listens inside. Raises ProgramFailed when it does not."""

    def __init__(self, recipe: Recipe, cpus: Set[int], log: Path) -> None:
        self.name, self.port = recipe.name, recipe.port
        self._recipe, self._cpus, self._log = recipe, cpus, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises ProgramFailed when it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise ProgramFailed(f"{self.name} has ended.{self.last_words()}")
        return self._process.pid

    def __enter__(self) -> Program:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.unlink(missing_ok=True)
        # Appending: a log that is cut while it is written must not grow on behind a hole.
        with self._log.open("ab") as log, processes.children_on(self._cpus):
            self._process = subprocess.Popen(
                list(self._recipe.command),
                cwd=self._recipe.folder,
                env=dict(self._recipe.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_listens()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def last_words(self) -> str:
        """The end of its log, to be put behind a sentence."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:] if self._log.exists() else []
        return "\n" + "\n".join(lines) if lines else ""

    def trim_log(self) -> None:
        """Forget what was logged: a log line for each call would fill the disk."""
        os.truncate(self._log, 0)

    def _wait_until_it_listens(self) -> None:
        until = time.monotonic() + self._recipe.start_s
        while not listens(self.port):
            if time.monotonic() > until:
                raise ProgramFailed(f"{self.name} did not listen within {self._recipe.start_s:g} s.{self.last_words()}")
            assert self.pid
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        # What is left of its session, if it did not end its own children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_STOP_S)


def plain_environment(folder: Path) -> dict[str, str]:
    """What every program gets: where programs are, and a home that is empty."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {"PATH": os.defpath, **kept, "HOME": str(folder)}


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def call(
    port: int, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """One call on a connection of its own: status and body. Raises ProgramFailed where there was no answer."""
    connection = HTTPConnection(LOOPBACK, port, timeout=30.0)
    try:
        connection.request(method, path, body=body or None, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException) as error:
        raise ProgramFailed(f"{method} {path} at port {port}: {error!r}") from error
    finally:
        connection.close()
