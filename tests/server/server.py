"""
The middleware as it is deployed: `python main.py` with gunicorn, in processes of its own, on a free loopback port and a
database in a temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import urllib3
from pysqlite3 import dbapi2 as sqlite

from tests.gateway import Answer, RawClient

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
STOP_S = 20.0
_LISTENING = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")


def wait_until(found: Callable[[], object], within_s: float = 10.0, every_s: float = 0.02) -> bool:
    """Whether `found` came true in time."""
    until = time.monotonic() + within_s
    while not found():
        if time.monotonic() > until:
            return False
        threading.Event().wait(every_s)
    return True


def command(open_files: int | None = None, main: Path = ROOT / "main.py") -> list[str]:
    """`python main.py`, with a limit of open files where one is given."""
    program = [sys.executable, str(main)]
    return program if open_files is None else ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *program]


#: What servers are started with where a test says nothing else; `conftest.driver` runs a test with each.
DRIVER = "loop"


def environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this machine's own settings is left in it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "PORT": "0",
        "DB_PATH": str(folder / "keys.db"),
        "ENCRYPTION_KEY": "a passphrase that only tests use",
        "SECRET_KEY": "a secret that only tests use",
        "RETRY_BACKOFF_FACTOR": "0",
        "GRACEFUL_TIMEOUT": "1",
        "DRIVER": DRIVER,
        **environ,
    }


def run_main(
    folder: Path, environ: Mapping[str, str] | None = None, main: Path = ROOT / "main.py"
) -> subprocess.CompletedProcess[str]:
    """Start it where it is expected to give up: the exit status and what it said."""
    return subprocess.run(
        command(main=main),
        cwd=folder,
        env=environment(folder, environ or {}),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class Server:
    """`with Server(tmp_path, environ={"OPENAI_BASE_URL": provider.origin}) as server:`"""

    def __init__(
        self, folder: Path, *, environ: Mapping[str, str] | None = None, open_files: int | None = None
    ) -> None:
        self.folder = folder
        self.database_path = folder / "keys.db"
        self.port = 0
        self._environ = environment(folder, environ or {})
        self._command = command(open_files)
        self._pool = urllib3.PoolManager(retries=False, maxsize=32)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Server:
        # The log is read through a pipe: a server that may write no files can still speak.
        self.process = subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader.start()
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()
        self.kill()

    # -- the processes ----------------------------------------------------------------------------

    def terminate(self, with_signal: int = signal.SIGTERM) -> int:
        """Signal the master and wait for its end; returns the exit status."""
        self.process.send_signal(with_signal)
        return self.wait()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """The exit status."""
        status = self.process.wait(timeout_s)
        self._reader.join(STOP_S)
        return status

    def kill(self) -> None:
        """kill -9, master and workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers, oldest first."""
        master = self.process.pid
        return sorted(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))

    def log(self) -> str:
        return "".join(list(self._lines))

    # -- requests ---------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, *, json_body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        body = None if json_body is None else json.dumps(json_body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        answer = self._pool.request(method, self.origin + path, body=body, headers=sent, timeout=20.0)
        return Answer(answer.status, dict(answer.headers), answer.data)

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, json_body: Any) -> Answer:
        return self.request("POST", path, json_body=json_body)

    def raw(self) -> RawClient:
        return RawClient(self.port)

    # -- the database -----------------------------------------------------------------------------

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read the database file, past the server."""
        connection = sqlite.connect(f"file:{self.database_path}?mode=ro", uri=True, timeout=5.0)
        try:
            return list(connection.execute(statement, parameters).fetchall())
        finally:
            connection.close()

    def outcomes(self) -> list[str]:
        """The outcome of every recorded request, oldest first."""
        return [
            row[0]
            for row in self.query(
                "SELECT outcome FROM requests AS r JOIN request_shapes AS s ON s.id = shape_id ORDER BY r.id"
            )
        ]

    # -- starting ---------------------------------------------------------------------------------

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        for line in stream:
            self._lines.append(line)

    def _wait_until_it_serves(self) -> None:
        assert wait_until(self._serves, START_S), f"it does not serve:\n{self.log()}"

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log()
        found = _LISTENING.search(self.log())
        if found is None:
            return False
        self.port = int(found[1])
        try:
            return self.get("/livez").status == 200
        except urllib3.exceptions.HTTPError:
            return False
