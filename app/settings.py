"""
The live settings: one row for each, with default, range, unit and help. The settings page, the admin API, the
documentation and the validation are all made from this table. Pure: `settings_store` is what keeps the values.

A value comes from the database, else from the environment (the name in capitals), else from the default here.
What is not a setting, is of the wrong type or is out of range is refused with a sentence that names the range.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any, Final, cast

from .errors import BadRequest

Value = bool | int | float | str

MAX_TEXT_CHARS: Final = 2000
MAX_FAULTS_TOLD: Final = 20
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})(e[+-]?[0-9]{1,3})?", re.ASCII)
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One row of the table.

    kind         -- `boolean`, `integer`, `number`, `choice` or `text`
    minimum, maximum -- inclusive; None for kinds that have no range
    unit         -- `seconds`, `bytes`, ...; empty where the value is a plain count
    group        -- heading under which the settings page shows it
    """

    name: str
    kind: str
    default: Value
    minimum: float | None
    maximum: float | None
    unit: str
    group: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def environment_name(self) -> str:
        """The environment variable that overrides the default."""
        return self.name.upper()


def setting(
    default: Value,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    group: str,
    help: str,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field whose metadata is the row of the table."""
    row = {"minimum": minimum, "maximum": maximum, "group": group, "help": help, "unit": unit, "choices": choices}
    return field(default=default, metadata=row)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    All live settings at one instant. Immutable: a change makes a new one.

    The default decides the kind. The time limits of a call are whole numbers to people and durations to the code.
    """

    # Retries and timeouts
    max_retries: int = setting(
        7, 1, 20, group="Retries and timeouts", help="How many further keys are tried when one fails."
    )
    request_timeout: float = setting(
        600,
        5,
        3600,
        unit="seconds",
        group="Retries and timeouts",
        help="Longest wait for the first byte of an answer, all attempts together; then only silence ends it.",
    )
    connect_timeout: float = setting(
        10, 1, 60, unit="seconds", group="Retries and timeouts", help="Longest wait for a connection to a provider."
    )
    read_timeout: float = setting(
        300,
        5,
        3600,
        unit="seconds",
        group="Retries and timeouts",
        help="Longest wait for the first byte of a provider's answer.",
    )
    streaming_timeout: float = setting(
        300,
        10,
        3600,
        unit="seconds",
        group="Retries and timeouts",
        help="Longest silence inside a stream before it counts as broken.",
    )
    retry_total: int = setting(
        3, 0, 100, group="Retries and timeouts", help="Extra tries after a connection to a provider failed."
    )
    retry_backoff_factor: float = setting(
        0.1,
        0,
        5,
        unit="seconds",
        group="Retries and timeouts",
        help="Wait before the first extra try after a failed connection; it doubles with each further one.",
    )
    heartbeat_interval: float = setting(
        10,
        0,
        60,
        unit="seconds",
        group="Retries and timeouts",
        help="A silent stream gets a blank line this often, so that nothing in between closes it; 0 turns it off.",
    )

    # Connections
    connection_pooling_enabled: bool = setting(
        True, group="Connections", help="Keep connections to providers open and use them again."
    )
    pool_connections: int = setting(
        20, 1, 100, group="Connections", help="How many different provider origins keep idle connections."
    )
    pool_maxsize: int = setting(
        100, 1, 1000, group="Connections", help="Idle connections kept for each origin; it does not limit the work."
    )
    keepalive_timeout: int = setting(
        30, 5, 300, unit="seconds", group="Connections", help="How long an idle connection is kept open."
    )
    buffer_size: int = setting(
        65536, 1024, 1048576, unit="bytes", group="Connections", help="How much is read from a connection at once."
    )
    max_buffered_answer: int = setting(
        8388608,
        65536,
        268435456,
        unit="bytes",
        group="Connections",
        help="Largest answer that is held in memory to be read as a whole; larger ones are passed on as they come.",
    )

    # Models and keys
    model_default: str = setting(
        "", group="Models and keys", help="Model that is sent instead of the one asked for; empty leaves it as it is."
    )
    model_provider: str = setting(
        "", group="Models and keys", help="Provider that is preferred where the model does not decide; empty for none."
    )
    model_cache_enabled: bool = setting(True, group="Models and keys", help="Remember the providers' lists of models.")
    cache_timeout: int = setting(
        300, 60, 3600, unit="seconds", group="Models and keys", help="How long a list of models is remembered."
    )
    model_cache_timeout: float = setting(
        10, 5, 60, unit="seconds", group="Models and keys", help="Longest wait for a provider's list of models."
    )
    failover_strategy: str = setting(
        "round_robin",
        group="Models and keys",
        choices=("round_robin", "least_used", "random", "priority"),
        help="Which healthy key serves next: in turn, the least used today, any, or the lowest priority number first.",
    )
    pool_brake_threshold: int = setting(
        5,
        0,
        100,
        unit="keys",
        group="Models and keys",
        help="When this many keys fail the same way within seconds, no more keys are spent on it; 0 turns it off.",
    )
    session_ttl: int = setting(
        86400,
        60,
        2592000,
        unit="seconds",
        group="Models and keys",
        help="How long a conversation stays with the key that holds its state.",
    )
    openai_include_usage: bool = setting(
        True,
        group="Models and keys",
        help="Ask OpenAI streams for their token counts; the client sees them only if it asked too.",
    )

    # Limits
    enable_rate_limiting: bool = setting(
        False, group="Limits", help="Limit how many requests a client may send each minute."
    )
    requests_per_minute: int = setting(
        60, 1, 1000000, unit="requests", group="Limits", help="Requests a client may send each minute."
    )
    rate_limiting_strategy: str = setting(
        "sliding_window",
        group="Limits",
        choices=("sliding_window", "fixed_window", "token_bucket"),
        help="How requests are counted: over the last 60 seconds, per minute of the clock, or from a refilling bucket.",
    )
    burst_allowance: int = setting(
        10, 0, 10000, unit="requests", group="Limits", help="Requests allowed at once beyond the steady rate."
    )
    max_request_size: int = setting(
        33554432, 1024, 1073741824, unit="bytes", group="Limits", help="Largest request body that is accepted."
    )
    max_concurrent_requests: int = setting(
        0, 0, 100000, unit="requests", group="Limits", help="Requests served at the same time; 0 means no limit."
    )
    blocked_user_agents: str = setting(
        "", group="Limits", help="Comma list; a client whose User-Agent contains one of these texts is refused."
    )
    enable_cors: bool = setting(False, group="Limits", help="Let web pages of other origins call the proxy.")
    cors_origins: str = setting(
        "*", group="Limits", help="Comma list of the origins that may call the proxy from a browser; * means all."
    )
    enable_circuit_breaker: bool = setting(
        False, group="Limits", help="Stop asking a provider for a while when it fails again and again."
    )
    circuit_breaker_threshold: int = setting(
        5, 1, 50, unit="failures", group="Limits", help="Failures of a provider in a row that open the circuit breaker."
    )
    circuit_breaker_cooldown: int = setting(
        30,
        1,
        600,
        unit="seconds",
        group="Limits",
        help="How long a provider is left alone before one request probes it.",
    )

    # Logs and records
    enable_request_id_injection: bool = setting(
        True, group="Logs and records", help="Answer every request with its X-Request-ID."
    )
    enable_request_logging: bool = setting(True, group="Logs and records", help="Show each request in the live log.")
    log_level: str = setting(
        "INFO",
        group="Logs and records",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        help="Least severe level that is written to the log.",
    )
    log_request_body: bool = setting(
        False, group="Logs and records", help="Show the first 500 characters of request bodies in the live log."
    )
    log_response_body: bool = setting(
        False, group="Logs and records", help="Show the first 500 characters of answers in the live log."
    )
    enable_metrics_collection: bool = setting(
        True, group="Logs and records", help="Count requests, tokens and key states for /metrics."
    )
    request_retention_days: int = setting(
        30, 1, 3650, unit="days", group="Logs and records", help="How long single requests are remembered."
    )
    request_retention_rows: int = setting(
        200000,
        100,
        100000000,
        unit="requests",
        group="Logs and records",
        help="How many single requests are remembered.",
    )


def _kind_of(default: object, choices: tuple[str, ...]) -> str:
    if isinstance(default, bool):
        return "boolean"
    if isinstance(default, int):
        return "integer"
    if isinstance(default, float):
        return "number"
    return "choice" if choices else "text"


SETTINGS: Final[tuple[Setting, ...]] = tuple(
    Setting(
        name=one.name,
        kind=_kind_of(one.default, one.metadata["choices"]),
        default=cast(Value, one.default),
        **one.metadata,
    )
    for one in fields(Settings)
)
BY_NAME: Final[Mapping[str, Setting]] = {row.name: row for row in SETTINGS}


def known(name: str) -> Setting:
    """The row of the setting `name`. Raises BadRequest where there is none."""
    row = BY_NAME.get(name) if isinstance(name, str) else None
    if row is None:
        raise BadRequest(f"There is no setting named {_shown(name)}.", code="unknown_setting", param=str(name)[:64])
    return row


def parse(name: str, raw: object) -> Value:
    """Return the value of the setting `name`, typed, from JSON or from text.

    Text is accepted for every kind ("7", "false", "off"), so that forms, the environment and the database need no
    code of their own. Raises BadRequest for an unknown name, a wrong type and a value out of range.
    """
    row = known(name)
    return _PARSERS[row.kind](row, raw)


class InvalidSettings(BadRequest):
    """One or several settings can't be what they were asked to be. `faults` has a sentence for each of their names."""

    code = "invalid_setting"

    def __init__(self, faults: Mapping[str, BadRequest]) -> None:
        first = next(iter(faults.values()))
        told = "; ".join(fault.message for fault in islice(faults.values(), MAX_FAULTS_TOLD))
        super().__init__(told, code=first.code, param=first.param)
        self.faults = {name: fault.message for name, fault in faults.items()}


def parse_all(values: Mapping[str, object], *checks: Callable[[str, Value], None]) -> dict[str, Value]:
    """Return all of `values`, typed as by `parse`.

    checks -- called with each name and its typed value; raise BadRequest for what the table cannot know

    Raises InvalidSettings that names every fault, not only the first.
    """
    parsed: dict[str, Value] = {}
    faults: dict[str, BadRequest] = {}
    for name, raw in values.items():
        try:
            value = parse(name, raw)
            for check in checks:
                check(name, value)
            parsed[name] = value
        except BadRequest as fault:
            faults[str(name)[:64]] = fault
    if faults:
        raise InvalidSettings(faults)
    return parsed


def to_text(value: Value) -> str:
    """The form in which a value is stored; `parse` reads it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _shown(name: object) -> str:
    return repr(str(name)[:64])


def _refusal(row: Setting, message: str) -> BadRequest:
    return BadRequest(f"{row.name} {message}", code="invalid_setting", param=row.name)


def _boolean(row: Setting, raw: object) -> bool:
    text = str(raw).strip().lower() if isinstance(raw, bool | int | str) else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _refusal(row, "must be true or false")


def _range(row: Setting) -> str:
    return f"must be between {row.minimum} and {row.maximum}"


def _integer(row: Setting, raw: object) -> int:
    wrong_type = _refusal(row, f"{_range(row)} and a whole number")
    if isinstance(raw, bool):
        raise wrong_type
    if isinstance(raw, float):
        if not math.isfinite(raw) or not raw.is_integer():
            raise wrong_type
        raw = int(raw)
    if isinstance(raw, str):
        if not _WHOLE_NUMBER.fullmatch(raw.strip().lower()):
            raise wrong_type
        raw = int(raw)
    if not isinstance(raw, int):
        raise wrong_type
    _check_range(row, raw)
    return raw


def _number(row: Setting, raw: object) -> float:
    wrong_type = _refusal(row, f"{_range(row)} and a number")
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise wrong_type
    if isinstance(raw, str):
        if not _NUMBER.fullmatch(raw.strip().lower()):
            raise wrong_type
        raw = float(raw)
    _check_range(row, raw)
    return float(raw)


def _check_range(row: Setting, value: float) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if row.minimum is None or row.maximum is None or not row.minimum <= value <= row.maximum:
        raise _refusal(row, _range(row))


def _choice(row: Setting, raw: object) -> str:
    text = raw.strip().lower() if isinstance(raw, str) else ""
    text = {"warn": "warning"}.get(text, text)
    for choice in row.choices:
        if choice.lower() == text:
            return choice
    raise _refusal(row, f"must be one of {', '.join(row.choices)}")


def _text(row: Setting, raw: object) -> str:
    if not isinstance(raw, str):
        raise _refusal(row, "must be text")
    if len(raw) > MAX_TEXT_CHARS:
        raise _refusal(row, f"must be at most {MAX_TEXT_CHARS} characters")
    # Cc: control characters. Cs: lone surrogates, which no database stores.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in raw):
        raise _refusal(row, "must not contain control characters")
    return raw.strip()


_PARSERS: Final[Mapping[str, Callable[[Setting, object], Value]]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "choice": _choice,
    "text": _text,
}
