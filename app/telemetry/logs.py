"""
Logs as JSON lines on stderr: one object for each line, for our own loggers and for gunicorn's.

Refuses to show what must not be seen: every string passes the redactor, query strings are cut off, control characters
are escaped by JSON, and the tracebacks of clients that merely went away are dropped.
Only the standard library.
"""

from __future__ import annotations

import errno
import json
import logging
import logging.config
import math
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Protocol

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

MAX_MESSAGE_CHARS: Final = 4000
MAX_STACK_FRAMES: Final = 40
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 100

#: What every record has; everything else on it came through `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FIXED: Final = frozenset({"time", "level", "logger", "message", "exception"})

# A question mark right after a path or a host, and what follows it up to the end of the word.
_QUERY = re.compile(r"(?<=[\w/\]:.~*%-])\?[^\s\"'<>]*=[^\s\"'<>]*")

#: Errors of a socket whose other end went away. They say nothing about this program.
_GONE_ERRNO: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ECONNABORTED})

#: Libraries that print every connection or statement at debug level.
_CHATTY: Final = ("urllib3", "sqlalchemy", "alembic", "asyncio", "werkzeug")

request_id_var: ContextVar[str] = ContextVar("request_id", default="")


class TextRedactor(Protocol):
    """Takes secrets out of text."""

    def text(self, text: str) -> str: ...


class Clean(str):
    """Text that holds no secret and no query string: whoever made it has seen to that, and lines take it as it is."""

    __slots__ = ()


class Rendered(str):
    """Whole lines, as `JsonFormatter` would have made them: several records in one."""

    __slots__ = ()


class NoRedaction:
    """For the moments before the secrets are known."""

    def text(self, text: str) -> str:
        return text


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """While it is open, every line that this thread or task logs carries this request id."""
    token = request_id_var.set(request_id)
    try:
        yield
    finally:
        request_id_var.reset(token)


# -- text --------------------------------------------------------------------------------------------


def safe_text(text: str, max_chars: int | None = None) -> str:
    """`text` that every database and encoder takes: lone surrogates and NUL become U+FFFD; cut at `max_chars`."""
    if max_chars is not None and len(text) > max_chars:
        text = text[:max_chars]
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd") if "\0" in text else text


def without_query(path: str) -> str:
    """`path` up to its query string or fragment."""
    return path.partition("?")[0].partition("#")[0]


def hide_queries(text: str) -> str:
    """`text` with the query string of every path or URL in it replaced by `?…`."""
    return _QUERY.sub("?…", text) if "?" in text else text


# -- lines -------------------------------------------------------------------------------------------


class JsonFormatter(logging.Formatter):
    """
    Turns a record into one line of ASCII JSON:

        {"time": "2026-11-20T13:47:05.123Z", "level", "logger", "message", "request_id"?, ..., "exception"?}

    The fields given as `extra` stand beside the fixed ones. `exception` is {"type", "message", "stack", "cause"?}.
    """

    def __init__(self, redactor: TextRedactor | None = None) -> None:
        super().__init__()
        self.redactor: TextRedactor = redactor or NoRedaction()

    def format(self, record: logging.LogRecord) -> str:
        if type(record.msg) is Rendered:
            return record.msg
        # One look at all texts together is cheaper than one at each; few lines have anything to redact.
        texts: list[str] = []

        def collect(text: str) -> str:
            texts.append(text)
            return text

        line = _Line(collect).of(record)
        joined = "\n".join(texts)
        if joined and self.redactor.text(joined) != joined:
            line = _Line(self.redactor.text).of(record)
        return json.dumps(line, separators=(",", ":"))


class _Line:
    """Makes the fields of one line; every text in it passes `redact`."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact

    def of(self, record: logging.LogRecord) -> dict[str, Any]:
        line: dict[str, Any] = {
            "time": iso_milliseconds(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.msg if type(record.msg) is Clean else self._clean(_message(record)),
        }
        request_id = request_id_var.get()
        if request_id:
            line["request_id"] = self._clean(request_id)
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in _FIXED:
                line[name] = self._value(value)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self._exception(record.exc_info[1])
        return line

    def _clean(self, text: str) -> str:
        text = hide_queries(self._redact(safe_text(text)))
        return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:MAX_MESSAGE_CHARS]}…"

    def _value(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind is Clean:
            return value
        if kind is str:
            return self._clean(value)
        if value is None or isinstance(value, int):
            # Python refuses to print integers of more than 4,300 digits.
            return value if value is None or abs(value) < 2**64 else "a number beyond 64 bits"
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            items = list(value.items())[:_MAX_ITEMS]
            return {self._clean(str(name)): self._value(inner, depth + 1) for name, inner in items}
        if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
            return [self._value(inner, depth + 1) for inner in list(value)[:_MAX_ITEMS]]
        return self._clean(str(value))

    def _exception(self, error: BaseException, depth: int = 0) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)[-MAX_STACK_FRAMES:]
        told: dict[str, Any] = {
            "type": type(error).__qualname__,
            "message": self._clean(str(error)),
            "stack": [self._clean(f"{frame.filename}:{frame.lineno} in {frame.name}") for frame in frames],
        }
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None and depth < _MAX_DEPTH:
            told["cause"] = self._exception(cause, depth + 1)
        return told


def iso_milliseconds(at: float) -> str:
    """Unix seconds as `2026-11-20T13:47:05.123Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # The arguments do not fit the text. They are left out: nobody has looked at what they hold.
        return str(record.msg)


class QuietSockets(logging.Filter):
    """Drops what gunicorn says when a client has gone away in the middle: it is booked as the request's outcome."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("gunicorn"):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError | TimeoutError):
            return False
        return not (isinstance(error, OSError) and error.errno in _GONE_ERRNO)


class StderrHandler(logging.Handler):
    """Writes each line to whatever `sys.stderr` is at that moment, in one piece. A closed stderr loses the line."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # stderr is closed, or there is none: there is nowhere left to say so


# -- set-up ------------------------------------------------------------------------------------------


def level_number(name: str) -> int:
    """The number of a level name in any case. Raises ValueError naming the known ones."""
    try:
        return LEVELS[name.strip().lower()]
    except KeyError:
        raise ValueError(f"must be one of {', '.join(LEVELS)}") from None


def configure(level: str, redactor: TextRedactor | None = None) -> None:
    """
    Send everything to stderr as JSON lines, gunicorn's loggers included. Calling it again replaces what it set before.

    Raises ValueError for an unknown level.
    """
    logging.config.dictConfig(dict_config(level, redactor))


def dict_config(level: str, redactor: TextRedactor | None = None) -> dict[str, Any]:
    """
    The same for `logging.config.dictConfig`, and so for gunicorn's `logconfig_dict`.

    Raises ValueError for an unknown level.
    """
    number = level_number(level)
    relayed = {"level": "NOTSET", "handlers": [], "propagate": True}
    silent = {"level": "CRITICAL", "handlers": [], "propagate": False}  # our own access line says more
    chatty = {"level": "WARNING", "handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter, "redactor": redactor}},
        "filters": {"quiet_sockets": {"()": QuietSockets}},
        "handlers": {"stderr": {"()": StderrHandler, "formatter": "json", "filters": ["quiet_sockets"]}},
        "root": {"level": number, "handlers": ["stderr"]},
        "loggers": {"gunicorn.error": relayed, "gunicorn.access": silent} | dict.fromkeys(_CHATTY, chatty),
    }


def set_level(level: str) -> None:
    """Change the level while running. Raises ValueError for an unknown one."""
    logging.getLogger().setLevel(level_number(level))


def log_uncaught_exceptions() -> None:
    """From now on an exception that ends the program or a thread is a JSON line, not a bare traceback."""
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("app").error("The program ends because of an error.", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None and not isinstance(crash.exc_value, SystemExit):
        name = crash.thread.name if crash.thread else "unknown"
        caught = (crash.exc_type, crash.exc_value, crash.exc_traceback)
        logging.getLogger("app").error("The thread %s ended because of an error.", name, exc_info=caught)
