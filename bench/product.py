"""
The product itself, as it is started in earnest: `python main.py` of this tree with a database of its own, a password,
upstream keys from the environment, and a client key made through the admin API. Everything else is left at its default.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.figures import Books
from bench.machine import ROOT
from bench.programs import Program, ProgramFailed, Recipe, call, plain_environment

UPSTREAM_KEYS: Final = 50
PASSWORD: Final = "the password of a benchmark"
_ADMIN: Final = "/middleware/api"
_READY_S: Final = 20.0
_POLL_S: Final = 0.1
#: Longer than a call that is over waits to be counted.
_BOOKED_S: Final = 0.2
#: As many as the admin API gives at once.
_NEWEST: Final = 500


def recipe(
    name: str, port: int, folder: Path, upstream: str, *, workers: int = 1, certificate: Path | None = None
) -> Recipe:
    """How to start it in the empty `folder` before the origin `upstream`, whose certificate may have to be trusted."""
    environ = {
        **plain_environment(folder),
        "PORT": str(port),
        "DB_PATH": str(folder / "data" / "keys.db"),
        "DRIVER": "loop",
        "WEB_CONCURRENCY": str(workers),
        "MIDDLEWARE_PASSWORD": PASSWORD,
        "OPENAI_BASE_URL": upstream,
        # As many idle connections as nginx is told to keep: the default of 100 would measure dialling.
        "POOL_MAXSIZE": "1000",
        "OPENAI_API_KEYS": ",".join(f"sk-bench-upstream-{number:04d}" for number in range(1, UPSTREAM_KEYS + 1)),
    }
    if certificate is not None:
        environ["SSL_CERT_FILE"] = str(certificate)
    return Recipe(name, [sys.executable, str(ROOT / "main.py")], port, folder, environ, start_s=40.0)


class Admin:
    """The admin API of a running product. Raises ProgramFailed for an answer that is none."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._token = str(self._post("/login", {"password": PASSWORD})["token"])

    def make_client_key(self) -> str:
        """A new client key, whole."""
        return str(self._post("/clients", {"name": "benchmark"})["key"])

    def wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while call(self._program.port, "GET", "/readyz")[0] != 200:
            if time.monotonic() > until:
                raise ProgramFailed(f"{self._program.name} is not ready.{self._program.last_words()}")
            time.sleep(_POLL_S)

    def settled_books(self) -> Books:
        """
        All that was recorded up to now, once nothing waits to be counted or written. Raises ProgramFailed when that
        takes too long: the next run could not be told from what was before it.
        """
        until = time.monotonic() + _READY_S
        before = None
        while True:
            found = self.books()
            if found.rows + found.dropped >= found.counted and found == before:
                return found
            if time.monotonic() > until:
                raise ProgramFailed(f"{self._program.name} does not write what it has counted: {found}")
            before = found
            time.sleep(_BOOKED_S)

    def books(self) -> Books:
        """As they are at this moment: rows are written a little later than they are counted."""
        newest = self._json("GET", "/requests?limit=1")["requests"]
        status, text = call(self._program.port, "GET", "/metrics")
        if status != 200:
            raise ProgramFailed(f"GET /metrics answered {status}.")
        metrics = text.decode()
        return Books(
            int(newest[0]["id"]) if newest else 0,
            int(sum_of("middleware_requests_total", metrics)),
            int(sum_of("middleware_writer_dropped_total", metrics)),
        )

    def books_since(self, earlier: Books, sent: int, in_flight: int, timeout_s: float) -> Books:
        """What was recorded since, as soon as it is complete, or as it is after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while True:
            found = self.books() - earlier
            if found.are_complete(sent, in_flight) or time.monotonic() > until:
                return found
            time.sleep(_POLL_S)

    def failures_since(self, earlier: Books) -> Counter[str]:
        """How many of the newest rows after `earlier` are of calls that failed, by status and error code."""
        rows = self._json("GET", f"/requests?limit={_NEWEST}")["requests"]
        return Counter(
            f"recorded as {row['status']} {row['error_code'] or row['outcome']}"
            for row in rows
            if row["id"] > earlier.rows and row["outcome"] != "success"
        )

    def _post(self, path: str, values: Mapping[str, Any]) -> Any:
        return self._json("POST", path, json.dumps(values).encode())

    def _json(self, method: str, path: str, body: bytes = b"") -> Any:
        headers = {"Content-Type": "application/json"}
        if path != "/login":
            headers["Authorization"] = f"Bearer {self._token}"
        status, answer = call(self._program.port, method, _ADMIN + path, body=body, headers=headers)
        if status not in (200, 201):
            raise ProgramFailed(f"{method} {_ADMIN}{path} answered {status}: {answer[:200].decode(errors='replace')}")
        return json.loads(answer)


def sum_of(metric: str, exposition: str) -> float:
    """The sum over all labels of one metric in Prometheus text; 0 where it does not occur."""
    pattern = rf"^{re.escape(metric)}(?:\{{.*\}})? (\S+)"
    return sum(float(value) for value in re.findall(pattern, exposition, re.MULTILINE))
