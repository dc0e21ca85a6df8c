"""What is sent: the calls, the two load generators (wrk and `native/streams.c`), and what these print."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import processes
from bench.machine import find

SILENCE_S: Final = 20
_LONGEST_RUN_S: Final = 180.0
#: How often `watch` is called while a load generator runs.
_WATCH_S: Final = 0.2
_FAILURES: Final = ("connect", "read", "write", "status", "timeout")
_STREAM_FAILURES: Final = ("connect", "status", "broken", "incomplete", "silent")


class LoadFailed(Exception):
    """The load generator did not do its work; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Plain:
    """
    Calls without streaming, as many as it can make in a time.

    body_bytes  -- about how large the request's body is; 0 = a short conversation
    """

    connections: int
    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Streams:
    """
    Event streams: `total` of them, `concurrent` at a time, opened over `ramp_ms`; each has `events` events, one every
    `period_ms` (0 = as fast as they go).
    """

    concurrent: int
    total: int
    events: int
    period_ms: int
    ramp_ms: int = 0

    @property
    def model(self) -> str:
        return f"mock-n{self.events}-d{self.period_ms}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    done    -- calls that were answered, or events that arrived
    calls   -- calls that the gateway should have recorded
    failed  -- calls that went wrong, by reason
    values  -- what else the load generator measured, by name with unit
    """

    done: int
    calls: int
    failed: Mapping[str, int]
    wall_s: float
    values: Mapping[str, float]

    @property
    def errors(self) -> int:
        return sum(self.failed.values())


# -- calls --------------------------------------------------------------------------------------------

_SYSTEM: Final = "You help people who run servers. Answer shortly, in plain words, without lists and without headings."
_QUESTION: Final = (
    "A team has several keys for one AI API. What does it gain when a gateway shares the calls out among them?"
)


def body(model: str, *, stream: bool = False, body_bytes: int = 0) -> bytes:
    """A chat completion request, with the question repeated until it is as large as wanted."""
    question = _QUESTION
    if body_bytes:
        question = " ".join([_QUESTION] * (body_bytes // (len(_QUESTION) + 1)))
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
    request: dict[str, object] = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 256}
    if stream:
        request["stream"] = True
    return json.dumps(request).encode()


def raw_request(path: str, headers: Mapping[str, str], content: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def wrk_script(headers: Mapping[str, str], content: bytes) -> str:
    """
    Lua for wrk: what to send, and one line of JSON at the end. `content` and `headers` are ours: JSON without
    non-ASCII characters, which is also a Lua string.
    """
    lines = ['wrk.method = "POST"', f"wrk.body = {_lua(content.decode())}"]
    lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in headers.items()]
    return "\n".join(lines) + _WRK_END


def _lua(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WRK_END: Final = """
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'MEASURED {"calls":%d,"wall_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,'
      .. '"p50_us":%d,"p99_us":%d,"max_us":%d}\\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def headers_of_call(admission: Mapping[str, str], *, stream: bool) -> dict[str, str]:
    """All headers of a call but those that HTTP itself needs."""
    accept = "text/event-stream" if stream else "application/json"
    return {"Content-Type": "application/json", "Accept": accept, "User-Agent": "bench/1", **admission}


# -- running ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where the calls go."""

    port: int
    path: str
    admission: Mapping[str, str]


def run_plain(wanted: Plain, target: Target, seconds: int, folder: Path, cpus: frozenset[int]) -> Outcome:
    """Load `target` with wrk. Raises LoadFailed."""
    content = body("mock-n1-d0", body_bytes=wanted.body_bytes)
    script = folder / "wrk.lua"
    script.write_text(wrk_script(headers_of_call(target.admission, stream=False), content))
    options = ["-t", "1", "-c", str(wanted.connections), "-d", f"{seconds}s", "--timeout", f"{SILENCE_S}s"]
    url = f"http://127.0.0.1:{target.port}{target.path}"
    return parse_wrk(_run([find("wrk") or "wrk", *options, "-s", str(script), url], cpus, lambda: None))


def run_streams(
    wanted: Streams, target: Target, program: Path, folder: Path, cpus: frozenset[int], watch: Callable[[], None]
) -> Outcome:
    """Load `target` with the stream client, and call `watch` from time to time meanwhile. Raises LoadFailed."""
    content = body(wanted.model, stream=True)
    request = folder / "stream.request"
    request.write_bytes(raw_request(target.path, headers_of_call(target.admission, stream=True), content))
    numbers = (target.port, wanted.concurrent, wanted.total, wanted.events)
    command = [str(program), *map(str, numbers), str(request), str(wanted.ramp_ms), str(SILENCE_S)]
    return parse_streams(_run(command, cpus, watch))


def _run(command: Sequence[str], cpus: frozenset[int], watch: Callable[[], None]) -> str:
    """What the command printed."""
    with processes.children_on(cpus):
        load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + _LONGEST_RUN_S
    try:
        while True:
            try:
                printed, _ = load.communicate(timeout=_WATCH_S)
                break
            except subprocess.TimeoutExpired:
                watch()
                if time.monotonic() > until:
                    raise LoadFailed(f"{command[0]} did not end within {_LONGEST_RUN_S:g} s") from None
    finally:
        load.kill()
        load.wait()
    if load.returncode:
        raise LoadFailed(f"{command[0]} ended with {load.returncode}: {printed[-300:]}")
    return printed


# -- what they print ----------------------------------------------------------------------------------


def parse_wrk(printed: str) -> Outcome:
    """The line that our script makes wrk print. Raises LoadFailed where it is missing."""
    found = re.search(r"^MEASURED (\{.*\})$", printed, re.MULTILINE)
    if found is None:
        raise LoadFailed(f"wrk measured nothing: {printed[-300:]}")
    measured = json.loads(found[1])
    failed = {name: measured[name] for name in _FAILURES if measured[name]}
    values = {name: float(measured[name]) for name in ("p50_us", "p99_us", "max_us")}
    return Outcome(measured["calls"], measured["calls"], failed, measured["wall_us"] / 1e6, values)


def parse_streams(printed: str) -> Outcome:
    """The line of the stream client. Raises LoadFailed where it is missing."""
    lines = printed.splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise LoadFailed(f"the stream client measured nothing: {printed[-300:]}")
    measured = json.loads(lines[-1])
    failed = {name: measured[name] for name in _STREAM_FAILURES if measured[name]}
    if measured["ok"] + sum(failed.values()) != measured["streams"]:
        raise LoadFailed(f"the stream client lost count: {lines[-1]}")
    times = ("first_p50", "first_p99", "total_p50", "total_p99", "total_max", "gap_max")
    values = {f"{name}_ms": float(measured[name]) for name in times}
    return Outcome(measured["events"], measured["streams"], failed, measured["wall_s"], values)
