"""
`python -m bench.pages`: how long the server takes for the first view of each page, with 5,000 keys and a million
requests in a SQLite file. Writes bench/PAGES.md. Takes two minutes, most of them to fill the database.

Exit status: 0 every page is below the target; 1 one is not; 2 nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from bench import crowd, machine, product
from bench.programs import LOOPBACK, Program, ProgramFailed, call, free_port

TARGET_MS: Final = 100.0
ROUNDS: Final = 15
RESULTS: Final = Path(__file__).parent / "PAGES.md"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

#: (what it is, address)
PAGES: Final = (
    ("Dashboard", "/middleware/"),
    ("Dashboard, 30 days", "/middleware/?days=30"),
    ("Keys", "/middleware/keys"),
    ("Keys, searched", "/middleware/keys?search=4711"),
    ("Keys, by usage", "/middleware/keys?sort=total&order=down"),
    ("Requests", "/middleware/requests"),
    ("Requests that failed", "/middleware/requests?status=5xx"),
    ("Requests of one key", "/middleware/requests?key_id={key}"),
    ("Requests by verdict", "/middleware/requests?verdict=KEY_REST"),
    ("One key", "/middleware/keys/{key}"),
    ("Live log", "/middleware/logs"),
    ("Providers", "/middleware/providers"),
    ("Models", "/middleware/models"),
    ("Clients", "/middleware/clients"),
    ("Settings", "/middleware/settings"),
    ("Playground", "/middleware/playground"),
    ("API", "/middleware/swagger/"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--keep", type=Path, help="make the database in this folder, or use the one that is there")
    options = parser.parse_args(arguments)
    try:
        with _folder(options.keep) as folder:
            return _measure(folder)
    except ProgramFailed as error:
        print(error, file=sys.stderr)
        return 2


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="bench-pages-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _measure(folder: Path) -> int:
    if not (folder / "filled").exists():
        _prepare(folder)
    with _running(folder) as program:
        cookie = _log_in(program.port)
        key = _first_key(program.port, cookie)
        rows = [(what, address, *_times_ms(program.port, address.format(key=key), cookie)) for what, address in PAGES]
    text = _table(rows)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(status == 200 and median_ms < TARGET_MS for _, _, status, _, median_ms, _ in rows) else 1


# -- the product -------------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    print("Filling the database ...", file=sys.stderr)
    (folder / "data").mkdir(exist_ok=True)
    with _running(folder) as program:
        token = json.loads(_post(program.port, "/middleware/api/login", {"password": product.PASSWORD}))["token"]
        rows = [
            {"name": f"Key {number}", "key_value": value, "provider": "openai", "note": f"Account {number % 97}"}
            for number, value in enumerate(crowd.key_values())
        ]
        _post(program.port, "/middleware/api/keys/import", rows, token)
    crowd.fill(folder / "data" / "keys.db")
    (folder / "filled").touch()


@contextmanager
def _running(folder: Path) -> Iterator[Program]:
    recipe = product.recipe("product", free_port(), folder, "http://127.0.0.1:9")
    environ = {**recipe.environ, "REQUEST_RETENTION_ROWS": str(10 * crowd.REQUESTS)}
    with Program(replace(recipe, environ=environ), machine.available_cpus(), folder / "product.log") as program:
        yield program


def _post(port: int, path: str, values: Any, token: str = "") -> bytes:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    status, answer = call(port, "POST", path, body=json.dumps(values).encode(), headers=headers)
    if status not in (200, 201):
        raise ProgramFailed(f"POST {path} answered {status}: {answer[:200]!r}")
    return answer


def _log_in(port: int) -> str:
    connection = HTTPConnection(LOOPBACK, port, timeout=30.0)
    connection.request("POST", "/middleware/login", urlencode({"password": product.PASSWORD}), _FORM)
    cookie = connection.getresponse().getheader("Set-Cookie") or ""
    connection.close()
    if not cookie:
        raise ProgramFailed("The login gave no cookie.")
    return cookie.split(";")[0]


def _first_key(port: int, cookie: str) -> int:
    _, answer = call(port, "GET", "/middleware/api/keys", headers={"Cookie": cookie})
    return max(int(row["id"]) for row in json.loads(answer))


# -- measuring ---------------------------------------------------------------------------------------


def _times_ms(port: int, address: str, cookie: str) -> tuple[int, float, float, float]:
    """(status, the first view, median and longest of the others) from sending the request to the last byte."""
    times: list[float] = []
    status = 0
    connection = HTTPConnection(LOOPBACK, port, timeout=60.0)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        connection.request("GET", address, headers={"Cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        status = answer.status
        times.append((time.perf_counter() - began) * 1000)
    connection.close()
    return status, times[0], statistics.median(times[1:]), max(times[1:])


def _table(rows: Sequence[tuple[str, str, int, float, float, float]]) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.facts().items())
    lines = [
        f"| {what} | `{address}` | {_mark(status, median_ms)} | {first_ms:.0f} | {median_ms:.0f} | {longest_ms:.0f} |"
        for what, address, status, first_ms, median_ms, longest_ms in rows
    ]
    return (
        "# How long the pages take\n\n"
        f"By `make bench-pages`: {crowd.KEYS:,} keys with {crowd.DAYS} days of statistics, {crowd.REQUESTS:,}\n"
        f"requests, {crowd.CLIENTS} clients, SQLite, one worker. Milliseconds from sending the request to the last\n"
        f"byte of the page, on loopback; the median of {ROUNDS - 1} views is judged against {TARGET_MS:.0f} ms.\n\n"
        f"{facts}\n\n"
        "| Page | Address | | First view | Median | Longest |\n|---|---|---|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


def _mark(status: int, median_ms: float) -> str:
    if status != 200:
        return f"status {status}"
    return "met" if median_ms < TARGET_MS else "missed"


if __name__ == "__main__":
    sys.exit(main())
