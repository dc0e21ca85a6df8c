"""
How long a key has to rest: what headers, bodies and quota names say about it, in seconds from now.

The first source that yields a number wins: an explicit delay in the headers, an explicit delay in the body, the
reset of the exhausted dimension in the rate-limit headers, the period of the quota that was exceeded. No guess is
made here: where no source yields a number, the answer is None and the caller's own ladder decides. Negative and
absurd numbers count as not said. Pure: the wall clock comes in as an argument, Unix seconds.

Sources: RFC 9110 section 10.2.3 (Retry-After), https://cloud.google.com/apis/design/errors (RetryInfo),
https://platform.claude.com/docs/en/api/rate-limits , https://platform.openai.com/docs/guides/rate-limits ,
https://ai.google.dev/gemini-api/docs/rate-limits (days end at midnight Pacific time)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from zoneinfo import ZoneInfo

from app.keys.error_bodies import ErrorReport

MINUTE_S = 60.0
DAY_S = 86_400.0
MIN_REST_S = 1.0
MAX_REST_S = 31 * DAY_S
#: A wait beyond this is a mistake of the sender, not a wait.
ABSURD_S = 366 * DAY_S
SPEND_WINDOW_S = 10 * MINUTE_S
PACIFIC = ZoneInfo("America/Los_Angeles")

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_STEP = (
    r"\d{1,15}(?:\.\d{1,15})?\s*(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
)
_DURATION = re.compile(rf"(?:{_STEP}\s*)+", re.IGNORECASE)
_DURATION_STEP = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?")
_ASKED_WAIT = re.compile(rf"\b(?:retry|try again) (?:in|after)\s+(?P<wait>(?:{_STEP}\s*)+)", re.IGNORECASE)
_NO_QUOTA = re.compile(r"\blimit: 0(?!\d|\.\d)")
_SPEND = re.compile(r"\bspend(?:ing)?[- ](?:based|limit|cap)", re.IGNORECASE)
_DIMENSION = re.compile(r"(?P<family>anthropic|x)-ratelimit-(?:(?P<last>.+)-reset|reset(?:-(?P<first>.+))?)")


class Quota(Enum):
    """Which limit was hit. The order is that of the waits, the longest first."""

    NONE = "none"  # the tier has no quota for this model: a wait never helps
    MONTH = "month"
    DAY = "day"
    SPEND = "spend"  # money in a rolling window of ten minutes
    MINUTE = "minute"


_PERIODS = {"permonth": Quota.MONTH, "perday": Quota.DAY, "spend": Quota.SPEND, "perminute": Quota.MINUTE}


# -- the answer ---------------------------------------------------------------------------------------


def named_rest_s(headers: Mapping[str, str], report: ErrorReport, wall_now: float) -> float | None:
    """Seconds to rest by everything that the answer says, between 1 s and 31 days; None where it says nothing."""
    return clamp_s(
        first_number(
            explicit_wait_s(headers, report, wall_now),
            exhausted_reset_s(headers, wall_now),
            exhausted_reset_s(_metadata_headers(report), wall_now),
            longest_quota_s(report, wall_now),
        )
    )


def explicit_wait_s(headers: Mapping[str, str], report: ErrorReport, wall_now: float) -> float | None:
    """The delay that the answer asks for in plain words, unclamped: `retry-after-ms`, `Retry-After`, then the body."""
    return first_number(header_wait_s(headers, wall_now), body_wait_s(report, wall_now))


def clamp_s(seconds: float | None) -> float | None:
    """`seconds` between 1 s and 31 days."""
    return None if seconds is None else min(MAX_REST_S, max(MIN_REST_S, seconds))


def first_number(*candidates: float | None) -> float | None:
    """The first candidate that is a number."""
    return next((seconds for seconds in candidates if seconds is not None), None)


# -- headers ------------------------------------------------------------------------------------------


def header_wait_s(headers: Mapping[str, str], wall_now: float) -> float | None:
    """Seconds by `retry-after-ms`, then `Retry-After`. A date in the past is 0."""
    milliseconds = _plain_number(headers.get("retry-after-ms", ""))
    if milliseconds is not None and milliseconds / 1000 <= ABSURD_S:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _plain_number(value)
    if seconds is not None:
        return _sane(seconds)
    instant = _http_date(value)
    return None if instant is None else _sane(max(0.0, instant - wall_now))


def exhausted_reset_s(headers: Mapping[str, str], wall_now: float) -> float | None:
    """
    Seconds until the exhausted dimension of the rate-limit headers is filled again; the longest, where several are.

    Read are `anthropic-ratelimit-<dimension>-{remaining,reset}` and `x-ratelimit-{remaining,reset}[-<dimension>]`. A
    dimension whose remaining amount is not said counts only when no dimension is known to be exhausted.
    """
    exhausted: list[float] = []
    unsaid: list[float] = []
    for remaining, reset in _dimensions(headers):
        wait_s = reset_s(reset, wall_now)
        if wait_s is None or wait_s <= 0:
            continue
        if remaining is None:
            unsaid.append(wait_s)
        elif _plain_number(remaining) == 0:
            exhausted.append(wait_s)
    return max(exhausted or unsaid, default=None)


def reset_s(value: str, wall_now: float) -> float | None:
    """Seconds until a reset: a Go duration (`6m0s`), seconds, a Unix instant (seconds or milliseconds) or RFC 3339."""
    number = _plain_number(value)
    if number is None:
        number = duration_s(value)
        if number is not None:
            return _sane(number)
        instant = _rfc3339(value)
    elif number < 1e9:
        return _sane(number)
    else:
        instant = number / 1000 if number >= 1e12 else number
    return None if instant is None else _sane(instant - wall_now)


def _dimensions(headers: Mapping[str, str]) -> Iterator[tuple[str | None, str]]:
    """(remaining amount or None, reset) of every dimension in the headers."""
    for name, reset in headers.items():
        match = _DIMENSION.fullmatch(name)
        if match is None:
            continue
        if match["last"]:
            remaining = f"{match['family']}-ratelimit-{match['last']}-remaining"
        else:
            remaining = f"{match['family']}-ratelimit-remaining" + (f"-{match['first']}" if match["first"] else "")
        yield headers.get(remaining), reset


def _metadata_headers(report: ErrorReport) -> dict[str, str]:
    """The rate-limit headers that OpenRouter quotes in `error.metadata.headers`."""
    quoted = report.metadata.get("headers")
    if not isinstance(quoted, dict):
        return {}
    return {name.lower(): value for name, value in quoted.items() if isinstance(value, str)}


# -- bodies -------------------------------------------------------------------------------------------


def body_wait_s(report: ErrorReport, wall_now: float) -> float | None:
    """Seconds by google.rpc.RetryInfo, `metadata.resets_at`, then the message ("Please retry in 10h17m5.7s")."""
    return next((wait_s for wait_s in _body_waits(report, wall_now) if wait_s is not None and wait_s > 0), None)


def _body_waits(report: ErrorReport, wall_now: float) -> Iterator[float | None]:
    for detail in report.details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            yield _sane(duration_s(delay))
    resets_at = report.metadata.get("resets_at")
    if isinstance(resets_at, str):
        yield reset_s(resets_at, wall_now)
    match = _ASKED_WAIT.search(report.message)
    if match is not None:
        yield _sane(duration_s(match["wait"]))


def duration_s(text: str) -> float | None:
    """Seconds of a duration with units: `120ms`, `34.07s`, `1h2m3s`, `20 seconds`. None for anything else."""
    text = text.strip()
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _unit_s(unit.lower()) for amount, unit in _DURATION_STEP.findall(text))


def _unit_s(unit: str) -> float:
    return _UNIT_S["ms"] if unit == "ms" or unit.startswith("milli") else _UNIT_S[unit[0]]


# -- quotas -------------------------------------------------------------------------------------------


def quotas(report: ErrorReport) -> frozenset[Quota]:
    """Which kinds of limit a Gemini error says were hit."""
    found: set[Quota] = set()
    for violation in report.violations:
        name = violation.quota.lower().replace("_", "")
        found.update(quota for period, quota in _PERIODS.items() if period in name)
        if violation.limit.strip() == "0":
            found.add(Quota.NONE)
    if _NO_QUOTA.search(report.message):
        found.add(Quota.NONE)
    if _SPEND.search(report.message):
        found.add(Quota.SPEND)
    return frozenset(found)


def quota_s(quota: Quota, wall_now: float) -> float | None:
    """Seconds until a limit of this kind starts afresh; None where it never does."""
    if quota is Quota.MONTH:
        return next_month(wall_now) - wall_now
    if quota is Quota.DAY:
        return next_midnight(wall_now, PACIFIC) - wall_now
    return {Quota.SPEND: SPEND_WINDOW_S, Quota.MINUTE: MINUTE_S}.get(quota)


def longest_quota_s(report: ErrorReport, wall_now: float) -> float | None:
    """Seconds until the last of the exceeded quotas starts afresh."""
    waits: Iterable[float | None] = [quota_s(quota, wall_now) for quota in quotas(report)]
    return max((wait_s for wait_s in waits if wait_s is not None), default=None)


def next_midnight(wall_now: float, zone: ZoneInfo) -> float:
    """The Unix instant of the next local midnight in `zone`, right on the days when its clocks change."""
    tomorrow = datetime.fromtimestamp(wall_now, zone).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp()


def next_month(wall_now: float) -> float:
    """The Unix instant of the next 1st of a month, 00:00 UTC."""
    today = datetime.fromtimestamp(wall_now, UTC)
    year, month = (today.year + 1, 1) if today.month == 12 else (today.year, today.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()


# -- values -------------------------------------------------------------------------------------------


def _sane(seconds: float | None) -> float | None:
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= ABSURD_S:
        return None
    return seconds


def _plain_number(text: str) -> float | None:
    """A decimal number without sign or exponent."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _rfc3339(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
