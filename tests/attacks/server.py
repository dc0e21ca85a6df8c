"""
The middleware as it is deployed: `python main.py` with gunicorn, in a process of its own, on a free loopback port.
Everything that it writes to its standard error is kept.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import urllib3

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
STOP_S = 15.0
LISTENING = re.compile(r"Listening at: http://[^ ]*:(\d+)")
PASSWORD = "correct horse battery staple"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of this machine's own settings is left."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "DB_PATH": str(folder / "keys.db"),
        "ENCRYPTION_KEY": "a passphrase that only tests use",
        "SECRET_KEY": "a secret that only tests use",
        "RETRY_BACKOFF_FACTOR": "0",
        "GRACEFUL_TIMEOUT": "1",
        "THREADS": "16",
        **more,
    }


def run_main(folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Start it where it is expected to give up: the exit status and what it said."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py")],
        cwd=folder,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class Server:
    """`with Server(tmp_path, OPENAI_BASE_URL=provider.origin, OPENAI_API_KEYS="sk-...") as server:`"""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = 0
        self.log_path = folder / "server.log"
        # Port 0: a port that is chosen here could be another server's by the time this one listens.
        self._environ = environment(folder, PORT="0", **environ)
        self._pool = urllib3.PoolManager(retries=False, maxsize=32)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py")],
                cwd=self.folder,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_serves()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()
        self.stop()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    @property
    def pids(self) -> list[int]:
        """The master and its workers."""
        assert self._process is not None
        master = self._process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]

    def resident_bytes(self) -> int:
        """The memory of the largest process."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids]
        return max(pages) * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        """Of all processes together."""
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids)

    def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(method, self.origin + path, body=body, headers=headers, timeout=20.0)

    def login(self) -> dict[str, str]:
        """The header that opens the administration."""
        answer = self.request(
            "POST",
            "/middleware/api/login",
            body=b'{"password": "%s"}' % PASSWORD.encode(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status == 200, answer.data
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    def raw(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes on a fresh connection and read until the server closes: status, headers, the rest."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10.0) as connection:
            connection.sendall(data)
            received = read_to_the_end(connection)
        return split_answer(received)

    def _wait_until_it_serves(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            listening = LISTENING.search(self.log)
            if listening is None:
                time.sleep(0.02)  # the bound of the loop is START_S
                continue
            self.port = int(listening[1])
            try:
                if self.request("GET", "/livez").status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.02)  # the bound of the loop is START_S
        raise AssertionError(f"it does not serve:\n{self.log}")


def read_to_the_end(connection: socket.socket) -> bytes:
    """Everything until the other side closes. Raises TimeoutError when it does not."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass  # a close with unread input is a reset
    return received


def split_answer(received: bytes) -> tuple[int, dict[str, str], bytes]:
    """The first answer in these bytes: status, headers by lower-case name, and what follows the head."""
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}, rest
