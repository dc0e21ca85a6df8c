"""How long a key has to rest: every form in which providers say it, and every form in which they say nonsense."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.keys.error_bodies import read_error
from app.keys.resets import (
    PACIFIC,
    body_wait_s,
    clamp_s,
    duration_s,
    exhausted_reset_s,
    header_wait_s,
    named_rest_s,
    next_midnight,
    next_month,
    reset_s,
)
from tests.canned_errors import gemini_error, google_detail

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
NOTHING = read_error(b"")


def named(body: Any = None, **headers: str) -> float | None:
    report = read_error(json.dumps(body).encode()) if body is not None else NOTHING
    return named_rest_s({name.replace("_", "-"): value for name, value in headers.items()}, report, NOW)


def quota(*quota_ids: str, delay: str | None = None, message: str = "Quota exceeded.") -> dict[str, Any]:
    details = [google_detail("QuotaFailure", violations=[{"quotaId": name} for name in quota_ids])]
    if delay is not None:
        details.append(google_detail("RetryInfo", retryDelay=delay))
    return gemini_error(429, "RESOURCE_EXHAUSTED", message, *details)


def said(message: str) -> float | None:
    return body_wait_s(read_error(json.dumps({"error": {"message": message}}).encode()), NOW)


# -- explicit headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "999999999999999", "retry-after": "9"}, 9.0),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Friday, 20-Nov-26 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri Nov 20 12:00:30 2026"}, 30.0),
        ({"retry-after": "Fri, 20 Nov 2026 13:00:30 +0100"}, 30.0),
        ({"retry-after": "Thu, 19 Nov 2026 12:00:00 GMT"}, 0.0),
    ],
)
def test_the_headers_name_the_wait(headers: dict[str, str], seconds: float) -> None:
    assert header_wait_s(headers, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "-5", "-0", "+5", "nan", "inf", "1e999999", "1e3", "99999999999", "9" * 400, "soon", "7 seconds, please"]
    + ["Fri, 20 Nov 9999 12:00:00 GMT", "Fri, 99 Nov 2026 12:00:00 GMT", "0x10"],
)
def test_a_header_that_makes_no_sense_counts_as_not_said(value: str) -> None:
    assert header_wait_s({"retry-after": value}, NOW) is None


def test_a_date_in_the_past_rests_the_shortest_time() -> None:
    assert named(retry_after="Thu, 19 Nov 2026 12:00:00 GMT") == 1.0


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 1.0), ("0.2", 1.0), ("2678400", 31 * DAY_S), ("2678401", 31 * DAY_S)]
)
def test_a_rest_lies_between_a_second_and_a_month(value: str, seconds: float) -> None:
    assert named(retry_after=value) == seconds


def test_nothing_said_stays_nothing() -> None:
    assert clamp_s(None) is None
    assert named() is None


# -- bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "seconds"), [("34.074824224s", 34.074824224), ("51s", 51.0), ("0.5s", 0.5), ("86400s", DAY_S)]
)
def test_retry_info_names_the_wait(delay: str, seconds: float) -> None:
    assert body_wait_s(read_error(json.dumps(quota("PerDay", delay=delay)).encode()), NOW) == pytest.approx(seconds)


@pytest.mark.parametrize("delay", ["", "0s", "-5s", "soon", "999999999999s", "1e9s", "5"])
def test_retry_info_that_makes_no_sense_leaves_it_to_the_quota(delay: str) -> None:
    assert named(quota("RequestsPerMinute", delay=delay)) == 60.0


def test_retry_info_of_another_type_is_not_read() -> None:
    body = gemini_error(429, "RESOURCE_EXHAUSTED", "No.", google_detail("RetryInfo", retryDelay={"seconds": "5"}))

    assert named(body) is None


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please retry in 20.04s.", 20.04),
        ("Please retry in 10h17m5.7s.", 37_025.7),
        ("Please try again in 7m12s. Visit the site.", 432.0),
        ("Please try again in 20s. Visit the site.", 20.0),
        ("Please try again in 120ms.", 0.12),
        ("Please try again in 6m0s", 360.0),
        ("Please retry after 26 seconds.", 26.0),
        ("Try again in 2 minutes and be patient", 120.0),
        ("Try again in 1 day", DAY_S),
        ("please retry in 1 hour 30 minutes", 5400.0),
    ],
)
def test_the_sentence_names_the_wait(message: str, seconds: float) -> None:
    assert said(message) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "message",
    [
        "Please try again later.",
        "Please retry in a moment",
        "limit 20s",
        "retry in 5",
        "retry in -5s",
        "retry in 5 moons",
    ]
    + ["the answer took 20s, try again", "retry in 99999999999999h", "retry in 0s"],
)
def test_a_sentence_without_a_wait_names_none(message: str) -> None:
    assert said(message) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("2d", 172_800.0),
        ("1.5h", 5400.0),
        ("20 secs", 20),
    ],
)
def test_durations_with_units_are_read(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1 fortnight", "-1s", "1s ago", "1e5s", "1..5s"])
def test_anything_else_is_no_duration(text: str) -> None:
    assert duration_s(text) is None


# -- rate-limit headers -------------------------------------------------------------------------------


def test_the_reset_of_the_exhausted_dimension_counts() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "10",
        "anthropic-ratelimit-requests-reset": "2026-11-20T18:00:00Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-20T12:00:41.5Z",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-20T15:00:00Z",
    }

    assert exhausted_reset_s(headers, NOW) == pytest.approx(41.5)


def test_of_several_exhausted_dimensions_the_longest_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    assert exhausted_reset_s(headers, NOW) == 360.0


def test_without_any_remaining_amount_the_resets_are_all_there_is() -> None:
    assert exhausted_reset_s({"x-ratelimit-reset-requests": "8.64s"}, NOW) == pytest.approx(8.64)


def test_a_limit_that_is_not_exhausted_says_nothing() -> None:
    headers = {"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "24h0m0s"}

    assert exhausted_reset_s(headers, NOW) is None


@pytest.mark.parametrize(
    "reset", ["", "0s", "-5s", "never", "2020-01-01T00:00:00Z", "9999-99-99", "1e9", "400d", "nan"]
)
def test_a_reset_that_makes_no_sense_says_nothing(reset: str) -> None:
    assert exhausted_reset_s({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset}, NOW) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20.0),
        ("1h2m3s", 3723.0),
        ("2026-11-20T12:01:00Z", 60.0),
        ("2026-11-20T13:01:00+01:00", 60.0),
        (str(int(NOW) + 30), 30.0),
        (str(int(NOW) * 1000 + 30_500), 30.5),
    ],
)
def test_resets_are_durations_seconds_or_instants(value: str, seconds: float) -> None:
    assert reset_s(value, NOW) == pytest.approx(seconds)


# -- the order of the sources -------------------------------------------------------------------------


def test_the_first_source_that_yields_a_number_wins() -> None:
    body = quota("RequestsPerDay", delay="30s", message="Please retry in 40s.")
    limits = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "50s"}

    assert named(body, retry_after_ms="1500", retry_after="20", **limits) == 1.5
    assert named(body, retry_after="20", **limits) == 20.0
    assert named(body, **limits) == 30.0
    assert named(quota("RequestsPerDay", message="Please retry in 40s."), **limits) == 40.0
    assert named(quota("RequestsPerDay"), **limits) == 50.0
    assert named(quota("RequestsPerDay")) == 20 * 3600.0  # 04:00 in Los Angeles


# -- quotas -------------------------------------------------------------------------------------------


def test_of_several_quotas_the_longest_counts() -> None:
    assert named(quota("RequestsPerMinute", "TokensPerMinute")) == 60.0
    assert named(quota("RequestsPerMinute", "RequestsPerDay")) == 20 * 3600.0
    assert named(quota("RequestsPerDay", "RequestsPerMonth")) == pytest.approx(10.5 * DAY_S)


def test_an_unknown_quota_names_no_wait() -> None:
    assert named(quota("RequestsPerFortnight")) is None


def instant(*parts: int, zone: Any = PACIFIC) -> float:
    return datetime(*parts, tzinfo=zone).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        (instant(2026, 11, 20, 4), 20.0),
        (instant(2026, 11, 20, 0), 24.0),
        (instant(2026, 11, 20, 23, 59), 1 / 60),
        (instant(2026, 3, 8, 0), 23.0),  # clocks go forward
        (instant(2026, 3, 7, 12), 12.0),
        (instant(2026, 11, 1, 0), 25.0),  # clocks go back
        (instant(2026, 11, 1, 12), 12.0),
        (instant(2026, 12, 31, 23), 1.0),
    ],
)
def test_a_day_ends_at_midnight_in_los_angeles(now: float, hours: float) -> None:
    assert next_midnight(now, PACIFIC) - now == pytest.approx(hours * 3600)


def test_midnight_is_that_of_the_zone() -> None:
    zone = ZoneInfo("Asia/Kolkata")

    assert next_midnight(instant(2026, 11, 20, 17, zone=zone), zone) == instant(2026, 11, 21, zone=zone)


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (instant(2026, 11, 20, 12, zone=UTC), instant(2026, 12, 1, zone=UTC)),
        (instant(2026, 12, 31, 23, 59, zone=UTC), instant(2027, 1, 1, zone=UTC)),
        (instant(2028, 2, 1, zone=UTC), instant(2028, 3, 1, zone=UTC)),
    ],
)
def test_a_month_ends_with_the_first_of_the_next_one(now: float, then: float) -> None:
    assert next_month(now) == then


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=4e9))
def test_the_ends_of_quotas_always_lie_ahead(now: float) -> None:
    assert 0 < next_midnight(now, PACIFIC) - now <= 25 * 3600
    assert 0 < next_month(now) - now <= 31 * DAY_S


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_is_too_odd_for_a_header(value: str) -> None:
    names = ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset")

    for name in names:
        rest_s = named_rest_s({name: value}, NOTHING, NOW)
        assert rest_s is None or 1.0 <= rest_s <= 31 * DAY_S
