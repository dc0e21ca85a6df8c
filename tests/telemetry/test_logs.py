from __future__ import annotations

import json
import logging
import logging.config
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.telemetry import logs
from tests.usage_cases import SECRET, OneSecret

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Configured logging; call it for the lines since the last call."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    logs.configure("debug", OneSecret())
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_a_line_is_json_with_time_level_logger_and_message(lines: Any) -> None:
    logging.getLogger("app.test").warning("key %d rests", 7, extra={"provider": "openai", "wait_s": 2.5, "ids": [1]})

    [line] = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "app.test",
        "message": "key 7 rests",
        "provider": "openai",
        "wait_s": 2.5,
        "ids": [1],
    }


def test_the_time_has_milliseconds_in_utc() -> None:
    assert logs.iso_milliseconds(1795176000.1239) == "2026-11-20T12:00:00.123Z"
    assert logs.iso_milliseconds(1795176000) == "2026-11-20T12:00:00.000Z"


def test_a_line_carries_the_request_id_of_its_context(lines: Any) -> None:
    log = logging.getLogger("app.test")
    with logs.request_context("req-1"):
        log.info("inside")
        with logs.request_context("req-2"):
            log.info("deeper")
        other = threading.Thread(target=log.info, args=("another thread",))
        other.start()
        other.join()
    log.info("outside")

    assert [line.get("request_id") for line in lines()] == ["req-1", "req-2", None, None]


def test_an_extra_request_id_wins_over_the_context(lines: Any) -> None:
    with logs.request_context("req-1"):
        logging.getLogger("app.test").info("booked", extra={"request_id": "req-9"})

    assert lines()[0]["request_id"] == "req-9"


def test_an_exception_is_one_field_with_its_cause(lines: Any) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError(f"key {SECRET} at /v1/x?key={SECRET}&alt=sse") from error
    except ValueError:
        logging.getLogger("app.test").exception("failed")

    [line] = lines()
    exception = line["exception"]
    assert (exception["type"], exception["message"]) == ("ValueError", "key [redacted] at /v1/x?…")
    assert exception["stack"][-1].endswith("in test_an_exception_is_one_field_with_its_cause")
    assert exception["cause"]["type"] == "KeyError"


def test_no_secret_and_no_query_string_is_written(lines: Any) -> None:
    log = logging.getLogger("app.test")
    log.info("sent %s to https://host/v1/models?key=%s&x=1 now", SECRET, SECRET)
    log.info("deep", extra={"deep": {"list": [f"a {SECRET}", {SECRET: 1}]}, "path": "/v1/x?key=abc"})
    log.info("Is this a question? Yes: a=b")

    first, second, third = lines()
    assert SECRET not in json.dumps([first, second])
    assert first["message"] == "sent [redacted] to https://host/v1/models?… now"
    assert second["deep"] == {"list": ["a [redacted]", {"[redacted]": 1}]}
    assert second["path"] == "/v1/x?…"
    assert third["message"] == "Is this a question? Yes: a=b"


def test_a_line_break_or_a_strange_character_cannot_forge_a_line(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The test runner's own handlers would carry the lone surrogate into reports that can't hold it.
    ours = [handler for handler in logging.getLogger().handlers if isinstance(handler, logs.StderrHandler)]
    monkeypatch.setattr(logging.getLogger(), "handlers", ours)

    logging.getLogger("app.test").info("a\nb\r\u2028\x1b[31m\ud800\0 é\U0001f600", extra={"x": "1\n2"})

    [line] = lines()
    assert line["message"] == "a\nb\r\u2028\x1b[31m\ufffd\ufffd é\U0001f600"


def test_a_line_is_plain_ascii(capsys: pytest.CaptureFixture[str], lines: Any) -> None:
    logging.getLogger("app.test").info("é\U0001f600\x1b")

    written = capsys.readouterr().err
    assert written.isascii()
    assert "\x1b" not in written
    assert written.count("\n") == 1


def test_odd_values_are_written_all_the_same(lines: Any) -> None:
    log = logging.getLogger("app.test")
    nested: list[Any] = []
    nested.append(nested)
    extra = {"nan": float("nan"), "huge": 10**5000, "none": None, "yes": True, "path": Path("/x"), "nested": nested}
    log.info("odd", extra=extra)
    log.info("long " + "x" * 10_000)

    odd, long = lines()
    assert (odd["nan"], odd["none"], odd["yes"], odd["path"]) == ("nan", None, True, "/x")
    assert odd["huge"] == "a number beyond 64 bits"
    assert len(long["message"]) == logs.MAX_MESSAGE_CHARS + 1


def test_arguments_that_do_not_fit_are_left_out() -> None:
    record = logging.makeLogRecord({"msg": "arguments %s %s", "args": (SECRET,)})

    assert json.loads(logs.JsonFormatter().format(record))["message"] == "arguments %s %s"


@pytest.mark.parametrize(
    ("name", "number"),
    [("debug", 10), ("INFO", 20), ("Warn", 30), ("warning", 30), (" error ", 40)],
)
def test_level_names_are_known_in_any_case(name: str, number: int) -> None:
    assert logs.level_number(name) == number


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="debug, info, warn, warning, error"):
        logs.configure("loud")
    with pytest.raises(ValueError):
        logs.set_level("")


def test_the_level_can_be_changed_while_running(lines: Any) -> None:
    log = logging.getLogger("app.test")
    logs.set_level("error")
    log.warning("hidden")
    logs.set_level("INFO")
    log.info("shown")

    assert [line["message"] for line in lines()] == ["shown"]


def test_libraries_that_print_every_connection_are_kept_quiet(lines: Any) -> None:
    logging.getLogger("urllib3.connectionpool").debug('http://host "GET /?key=abc HTTP/1.1" 200')
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")

    assert lines() == []


def test_configuring_twice_writes_each_line_once(lines: Any) -> None:
    logs.configure("info", OneSecret())

    logging.getLogger("app.test").info("once")

    assert len(lines()) == 1


def test_gunicorn_writes_json_too_and_hides_the_query(lines: Any) -> None:
    logging.getLogger("gunicorn.error").propagate = False  # as gunicorn sets it before it reads our configuration
    logging.config.dictConfig(logs.dict_config("info", OneSecret()))

    logging.getLogger("gunicorn.error").error("Error handling request %s", f"/v1/models?key={SECRET}")

    [line] = lines()
    assert (line["logger"], line["message"]) == ("gunicorn.error", "Error handling request /v1/models?…")


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), TimeoutError(), OSError(107, "gone")])
def test_tracebacks_of_clients_that_went_away_are_dropped(lines: Any, error: OSError) -> None:
    for name in ("gunicorn.error", "app.test"):
        logging.getLogger(name).error("Socket error processing request.", exc_info=error)
    logging.getLogger("gunicorn.error").error("Real trouble", exc_info=OSError(28, "No space left on device"))

    assert [line["logger"] for line in lines()] == ["app.test", "gunicorn.error"]


def test_a_closed_stderr_loses_the_line_and_nothing_else(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    logging.getLogger("app.test").error("unheard")
    monkeypatch.setattr(sys, "stderr", None)
    logging.getLogger("app.test").error("unheard")


PROGRAM = """
import sys, threading
from app.telemetry import logs
logs.configure("info")
logs.log_uncaught_exceptions()
thread = threading.Thread(target=lambda: 1 / 0, name="worker-7")
thread.start()
thread.join()
raise RuntimeError("the end")
"""


def test_uncaught_exceptions_are_lines_too() -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 1
    thread, program = [json.loads(line) for line in done.stderr.splitlines()]
    assert "worker-7" in thread["message"]
    assert (thread["exception"]["type"], program["exception"]["message"]) == ("ZeroDivisionError", "the end")


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/v1/models?key=x", "/v1/models"), ("/v1#frag?x", "/v1"), ("/plain", "/plain"), ("?a", ""), ("", "")],
)
def test_a_path_is_shown_up_to_its_query(path: str, shown: str) -> None:
    assert logs.without_query(path) == shown
