"""
Faults between the request and the first byte of output: the caller sees none of them as long as another key can serve,
and a key pays only for what is its own fault.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests import canned, canned_errors
from tests.fake_provider import (
    Behavior,
    FakeProvider,
    close_without_answer,
    early_hints_then,
    garbage_status_line,
    hang,
    head,
    huge_header,
    json_reply,
    many_headers,
    pieces,
    redirect,
    reply,
    reset,
    reset_before_status,
    signal,
    silence,
    stream,
    switching_protocols,
    wait_for,
)
from tests.proxy.dialects import BOTH_WAYS, CHAT, GEMINI, MESSAGES, PLAIN, Dialect, site, streamed

pytestmark = pytest.mark.usefixtures("driver")

HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(params=BOTH_WAYS, ids=str)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture(params=PLAIN, ids=str)
def plain(request: pytest.FixtureRequest) -> Dialect:
    return request.param


# -- F7 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"), [(reset_before_status(), "reset"), (close_without_answer(), "incomplete")]
)
def test_f7_a_connection_that_ends_before_the_status_line_rotates(
    tmp_path: Path, dialect: Dialect, fault: Behavior, reason: str
) -> None:
    with site(tmp_path, dialect) as here:
        here.script(fault)

        here.assert_rotated(here.ask(), reason)

        assert here.provider.keys == here.keys
        assert here.provider.received[0].body == here.provider.received[1].body
        here.assert_serves()


def test_f7_when_every_key_meets_it_the_caller_gets_a_502_in_its_dialect(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(reset_before_status(), reset_before_status())

        answer = here.ask()

        assert answer.status == 502
        assert "reset" in dialect.says_error(answer.body)["message"]
        assert here.provider.keys == here.keys
        assert here.states() == ["Healthy", "Healthy"]
        assert (here.record()["outcome"], here.record()["error_code"]) == ("upstream_error", "upstream_unreachable")
        here.assert_serves()


# -- F8 -----------------------------------------------------------------------------------------------


def test_f8_an_answer_that_never_begins_rotates_after_read_timeout_without_a_heartbeat(
    tmp_path: Path, dialect: Dialect
) -> None:
    with site(tmp_path, dialect) as here:
        here.set(read_timeout=0.3, heartbeat_interval=0.05)
        here.script(hang())

        # The body is exact: no blank line went out before the status was known.
        here.assert_rotated(here.ask(), "first_byte_timeout")

        assert here.provider.wait_closed(0)
        assert here.provider.closed_by(0) == "client"
        here.assert_serves()


def test_f8_an_answer_that_never_begins_anywhere_is_a_504(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.set(read_timeout=0.2)
        here.script(hang(), hang())

        answer = here.ask()

        assert answer.status == 504
        assert "read_timeout" in dialect.says_error(answer.body)["message"]
        assert here.record()["error_code"] == "upstream_timeout"
        assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f8_the_time_for_the_whole_request_is_kept_whatever_the_attempts_do(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect, keys=8) as here:
        here.set(read_timeout=0.3, request_timeout=0.5)
        here.script(*[hang()] * 8)
        began = time.monotonic()

        answer = here.ask()

        assert time.monotonic() - began < 2
        assert answer.status == 504
        assert "request_timeout" in dialect.says_error(answer.body)["message"]
        assert len(here.provider.received) == 2
        assert here.verdicts() == [("PROVIDER", "first_byte_timeout"), ("PROVIDER", "request_timeout")]
        assert here.provider.wait_closed(1)
        assert set(here.states()) == {"Healthy"}
        here.assert_serves()


def test_f8_a_hanging_upstream_does_not_keep_others_waiting(tmp_path: Path) -> None:
    release = threading.Event()
    with site(tmp_path, CHAT) as here:
        here.script(pieces(wait_for(release)).then(CHAT.good))
        with here.asking() as waiting:
            assert here.provider.wait_requests(1)
            here.assert_good(here.ask())
            release.set()
            assert waiting.head()[0] == 200


def test_f8_headers_that_come_but_never_end_count_as_no_answer(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        here.set(read_timeout=0.2)
        here.script(pieces(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Unfinished: y", silence()))

        here.assert_rotated(here.ask(), "first_byte_timeout")
        here.assert_serves()


# -- F9 -----------------------------------------------------------------------------------------------

_SERVER_STATUSES = (500, 502, 503, 504, 529)


def test_f9_a_server_error_with_an_html_body_rotates_and_touches_no_key(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        for status in _SERVER_STATUSES:
            here.script(reply(status, HTML, canned_errors.HTML_ERROR))
            answer = here.ask()

            here.assert_good(answer)
            attempts = here.record()["attempts"]
            assert [(one["verdict"], one["status"]) for one in attempts] == [("PROVIDER", status), ("ok", 200)]
            assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f9_when_all_fail_the_caller_gets_the_status_as_json_in_its_dialect(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        for status in _SERVER_STATUSES:
            here.script(*[reply(status, HTML, canned_errors.HTML_ERROR)] * 2)
            answer = here.ask()

            assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
            dialect.says_error(answer.body)
            assert b"nginx" not in answer.body
            record = here.record()
            assert (record["status"], record["outcome"], len(record["attempts"])) == (status, "upstream_error", 2)
        assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f9_attempts_are_limited_by_max_retries(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect, keys=6, max_retries=2) as here:
        here.script(*[reply(503, HTML, canned_errors.HTML_ERROR)] * 6)

        answer = here.ask()

        assert (answer.status, answer.headers["x-middleware-attempts"]) == (503, "3")
        assert len(here.provider.received) == 3
        assert set(here.states()) == {"Healthy"}


def test_f9_the_providers_own_json_error_passes_as_it_is(tmp_path: Path, plain: Dialect) -> None:
    with site(tmp_path, plain) as here:
        here.script(*[json_reply(plain.errors["server"], 503)] * 2)

        answer = here.ask()

        assert (answer.status, answer.json) == (503, plain.errors["server"])


def test_f9_the_waits_between_attempts_grow_and_are_recorded(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=3, retry_backoff_factor=0.01) as here:
        here.script(*[reply(503, HTML, b"")] * 2)

        here.assert_good(here.ask())

        assert [attempt["wait_ms"] for attempt in here.record()["attempts"]] == [0, 10, 20]


# -- F10 ----------------------------------------------------------------------------------------------


def limited(dialect: Dialect, seconds: int) -> Behavior:
    """A rate limit that names its wait in the way of its provider."""
    if dialect.provider == "gemini":
        per_minute = canned_errors.gemini_quota(
            "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", retry_delay=f"{seconds}s"
        )
        return json_reply(per_minute, 429)
    return json_reply(dialect.errors["rate_limit"], 429, {"Retry-After": str(seconds)})


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f10_a_429_with_retry_after_rests_the_key_that_long_and_uses_the_next(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        first, second = here.keys
        here.script(limited(dialect, 7))

        here.assert_good(here.ask())

        assert [verdict for verdict, _ in here.verdicts()] == ["KEY_REST", "ok"]
        rests = here.gateway.key(first)["model_rests"]
        assert [rest["model"] for rest in rests] == [dialect.model]
        assert 5 < rests[0]["until"] - here.time.clock.wall() <= 7
        assert here.gateway.key(second)["model_rests"] == []

        here.script()
        for _ in range(2):
            here.assert_good(here.ask())
        here.time.advance(5)
        here.assert_good(here.ask())
        assert here.provider.keys == [first, second, second, second, second]

        here.time.advance(2.1)
        here.assert_good(here.ask())
        assert here.provider.keys[-1] == first
        here.assert_good(here.ask())
        assert here.gateway.key(first)["model_rests"] == []


def test_f10_without_a_named_wait_the_rest_grows_with_each_failure(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1) as here:
        waits = []
        for _ in range(3):
            here.script(json_reply(CHAT.errors["rate_limit"], 429))
            assert here.ask().status == 429
            wait_s = here.gateway.key(here.keys[0])["model_rests"][0]["until"] - here.time.clock.wall()
            waits.append(wait_s)
            here.time.advance(wait_s + 0.1)
        assert waits[0] < waits[1] < waits[2]
        here.assert_serves()


# -- F11 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [GEMINI, streamed(GEMINI)], ids=str)
def test_f11_a_daily_limit_rests_the_key_for_that_model_until_the_day_ends(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        first, second = here.keys
        here.script(json_reply(canned_errors.GEMINI_PER_DAY, 429))

        here.assert_good(here.ask())

        assert here.verdicts() == [("KEY_REST", "rate_limited_per_day"), ("ok", "")]
        pacific = datetime.fromtimestamp(here.time.clock.wall(), ZoneInfo("America/Los_Angeles"))
        midnight = (pacific + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        rest = here.gateway.key(first)["model_rests"][0]
        assert (rest["model"], rest["reason"]) == (dialect.model, "rate_limited_per_day")
        assert abs(rest["until"] - midnight.timestamp()) < 120

        here.script()
        here.assert_good(here.ask())
        assert here.provider.keys[-1] == second
        other = dialect.path.replace("gemini-test", "gemini-other")
        used = {here.gateway.request("POST", other, json_body=dialect.request).status for _ in range(2)}
        assert used == {200}
        assert set(here.provider.keys[-2:]) == {first, second}


# -- F12 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f12_when_all_keys_rest_the_answer_is_an_immediate_429_without_an_upstream_call(
    tmp_path: Path, dialect: Dialect
) -> None:
    with site(tmp_path, dialect) as here:
        here.script(limited(dialect, 40), limited(dialect, 20))
        assert here.ask().status == 429
        asked = len(here.provider.received)

        answer = here.ask()

        assert (answer.status, len(here.provider.received)) == (429, asked)
        assert 18 <= int(answer.headers["retry-after"]) <= 20
        assert "x-should-retry" not in answer.headers
        assert b"all_keys_resting" in answer.body
        wakes = datetime.fromtimestamp(here.time.clock.wall() + 20, UTC)
        message = dialect.says_error(answer.body)["message"]
        assert any((wakes - timedelta(seconds=late)).strftime("%H:%M:%S") in message for late in range(4))
        record = here.record()
        assert (record["status"], record["outcome"], record["attempts"]) == (429, "resting", [])

        here.time.advance(21)
        here.script()
        here.assert_good(here.ask())
        assert here.provider.keys[-1] == here.keys[1]


def test_f12_a_long_rest_tells_the_sdks_not_to_wait_for_it(tmp_path: Path, plain: Dialect) -> None:
    with site(tmp_path, plain, keys=1) as here:
        here.script(limited(plain, 3600))

        answer = here.ask()

        assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (429, "60", "false")
        assert b"all_keys_resting" in answer.body


# -- F13 ----------------------------------------------------------------------------------------------


def bad_key(dialect: Dialect) -> Behavior:
    return json_reply(dialect.errors["bad_key"], 400 if dialect.provider == "gemini" else 401)


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f13_a_key_that_the_provider_does_not_know_is_disabled_with_its_reason_and_the_next_is_used(
    tmp_path: Path, dialect: Dialect, capsys: pytest.CaptureFixture[str]
) -> None:
    with site(tmp_path, dialect) as here:
        here.script(bad_key(dialect))

        here.assert_good(here.ask())

        assert here.verdicts() == [("KEY_DEAD", "invalid_api_key"), ("ok", "")]
        dead = here.gateway.key(here.keys[0])
        assert (dead["status"], dead["reason"]) == ("Disabled", "invalid_api_key")
        error = dialect.errors["bad_key"]["error"]
        assert dead["evidence"] == {"status": here.record()["attempts"][0]["status"], "message": error["message"]}
        assert here.gateway.key(here.keys[1])["status"] == "Healthy"
        notices = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "key state changed" in line]
        assert [(line["level"], line["key_id"], line["reason"]) for line in notices] == [
            ("warning", dead["id"], "invalid_api_key")
        ]

        here.script()
        for _ in range(3):
            here.assert_good(here.ask())
        assert set(here.provider.keys[1:]) == {here.keys[1]}


def test_f13_when_no_key_is_left_the_answer_is_a_503_without_an_upstream_call(tmp_path: Path, plain: Dialect) -> None:
    with site(tmp_path, plain) as here:
        here.script(bad_key(plain), bad_key(plain))
        assert here.ask().status == 503
        asked = len(here.provider.received)

        answer = here.ask()

        assert (answer.status, len(here.provider.received)) == (503, asked)
        assert answer.headers["x-should-retry"] == "false"
        assert b"no_keys" in answer.body
        plain.says_error(answer.body)
        assert here.record()["outcome"] == "no_keys"
        assert here.states() == ["Disabled", "Disabled"]


# -- F14 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f14_the_callers_own_mistake_is_answered_at_once_and_touches_no_key(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(*[json_reply(dialect.errors["bad_request"], 400)] * 2)

        for _ in range(4):
            answer = here.ask()
            assert (answer.status, answer.json) == (400, dialect.errors["bad_request"])
            assert answer.headers["x-middleware-attempts"] == "1"

        assert here.provider.requests_by_key == {here.keys[0]: 2, here.keys[1]: 2}
        for key in map(here.gateway.key, here.keys):
            assert (key["status"], key["reason"], key["model_rests"]) == ("Healthy", "", [])
            assert key["evidence"] == {"status": 0, "message": ""}
        record = here.record()
        assert (record["status"], record["outcome"]) == (400, "client_error")
        assert [attempt["verdict"] for attempt in record["attempts"]] == ["CLIENT"]
        here.assert_serves()


# -- F15 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f15_a_model_that_one_key_lacks_is_asked_of_the_next(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(json_reply(dialect.errors["no_model"], 404))

        here.assert_good(here.ask())

        assert here.verdicts() == [("MODEL_GONE", "model_not_found"), ("ok", "")]
        assert here.states() == ["Healthy", "Healthy"]
        here.script()
        for _ in range(2):
            here.assert_good(here.ask())
        assert here.provider.keys == [here.keys[0], *[here.keys[1]] * 3]


@pytest.mark.parametrize("dialect", [*BOTH_WAYS, GEMINI, streamed(GEMINI)], ids=str)
def test_f15_a_model_that_no_key_has_is_a_404(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(*[json_reply(dialect.errors["no_model"], 404)] * 2)

        answer = here.ask()

        assert (answer.status, answer.json) == (404, dialect.errors["no_model"])
        assert here.provider.keys == here.keys
        assert here.record()["outcome"] == "client_error"
        again = here.ask()
        assert again.status == 404
        dialect.says_error(again.body)
        assert len(here.provider.received) == 2
        assert here.states() == ["Healthy", "Healthy"]


# -- F16 ----------------------------------------------------------------------------------------------


def test_f16_a_redirect_is_not_followed_and_no_credential_goes_elsewhere(tmp_path: Path, dialect: Dialect) -> None:
    with FakeProvider() as elsewhere, site(tmp_path, dialect) as here:
        for status in (300, 301, 302, 303, 304, 307, 308):
            here.script(*[redirect(elsewhere.origin + dialect.path, status)] * 2)

            answer = here.ask()

            assert (status, answer.status) == (status, 502)
            assert "location" not in answer.headers
            assert elsewhere.origin.encode() not in answer.body
            dialect.says_error(answer.body)
            assert set(here.verdicts()) == {("PROVIDER", "redirect")}
        assert (elsewhere.received, elsewhere.total_connections) == ([], 0)
        assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f16_a_redirect_rotates(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(redirect("http://169.254.169.254/latest/meta-data/"))

        here.assert_rotated(here.ask(), "redirect")
        here.assert_serves()


# -- F17 ----------------------------------------------------------------------------------------------


def test_f17_interim_answers_are_swallowed(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        for status in (100, 102, 103):
            here.script(*[early_hints_then(dialect.good, status=status, times=3)] * 2)

            answer = here.ask()

            here.assert_good(answer)
            assert "link" not in answer.headers
            assert here.verdicts() == [("ok", "")]
            here.quiet()
        here.assert_serves()
        assert here.provider.total_connections == 1


# -- F18 and F19 --------------------------------------------------------------------------------------

_UNUSABLE = {
    "html": reply(200, HTML, b"<html><body>Please log in</body></html>"),
    "html as json": reply(200, {"Content-Type": "application/json"}, b"<html></html>"),
    "an error object": json_reply({"error": {"message": "quota", "type": "insufficient_quota", "code": 429}}),
    "another error object": json_reply({"type": "error", "error": {"type": "api_error", "message": "no"}}),
    "no body": reply(200, {"Content-Type": "application/json"}, b""),
    "no body and no type": reply(200),
    "no body that is a stream": reply(200, {"Content-Type": "text/event-stream"}),
    "a stream without events": stream([]),
    "only comments": stream([b": hello\n\n", b": bye\n\n"]),
    "an empty object": json_reply({}),
    "a list": json_reply([]),
    "null": reply(200, {"Content-Type": "application/json"}, b"null"),
    "204": reply(204),
    "202 without a body": reply(202, {"Content-Type": "application/json"}),
    "205": pieces(head(205, {"Content-Length": "0"})),
}


@pytest.mark.parametrize("way", [CHAT, streamed(CHAT), MESSAGES, streamed(MESSAGES), GEMINI, streamed(GEMINI)], ids=str)
def test_f18_f19_a_2xx_that_is_no_answer_rotates(tmp_path: Path, way: Dialect) -> None:
    with site(tmp_path, way) as here:
        for name, behavior in _UNUSABLE.items():
            here.script(behavior)

            answer = here.ask()

            assert (name, answer.status, answer.body) == (name, 200, way.good_body)
            assert (name, [verdict for verdict, _ in here.verdicts()]) == (name, ["PROVIDER", "ok"])
            assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f18_when_no_answer_is_usable_the_caller_gets_a_502_in_its_dialect(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(_UNUSABLE["html"], _UNUSABLE["an error object"])

        answer = here.ask()

        assert answer.status == 502
        dialect.says_error(answer.body)
        assert b"log in" not in answer.body
        assert (here.record()["outcome"], here.states()) == ("upstream_error", ["Healthy", "Healthy"])
        here.assert_serves()


def test_f19_an_empty_answer_is_fine_where_nothing_else_is_due(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        here.script(reply(204))

        answer = here.gateway.request("DELETE", "/v1/files/file-1")

        assert (answer.status, answer.body) == (204, b"")
        assert here.verdicts() == [("ok", "")]


# -- F20 ----------------------------------------------------------------------------------------------

_NOT_HTTP = {
    "101": switching_protocols(),
    "a garbage status line": garbage_status_line(),
    "HTTP/0.9": pieces(b'{"choices": []}\r\n\r\n'),
    "HTTP/2 preface": pieces(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a status that is no number": pieces(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a header of 70 KB": huge_header(70_000),
    "a header of 2 MB": huge_header(2_000_000),
    "1000 headers": many_headers(1000),
    "endless interim answers": early_hints_then(hang(), times=5000),
    "length and chunked together": pieces(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}"),
    "a bad chunk size": pieces(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"),
    "a folded header": pieces(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n b\r\n\0: 1\r\nContent-Length: 2\r\n\r\n{}"),
}


@pytest.mark.parametrize("buffer_size", [65536, 1048576])
def test_f20_an_answer_that_is_no_http_rotates(tmp_path: Path, dialect: Dialect, buffer_size: int) -> None:
    with site(tmp_path, dialect, buffer_size=buffer_size) as here:
        for name, behavior in _NOT_HTTP.items():
            here.script(behavior)

            answer = here.ask()

            assert (name, answer.status, answer.body) == (name, 200, dialect.good_body)
            assert (name, [verdict for verdict, _ in here.verdicts()]) == (name, ["PROVIDER", "ok"])
            assert here.states() == ["Healthy", "Healthy"]
            failed = here.provider.received[-2]
            assert here.provider.wait_closed(failed.connection_id), name
        here.assert_serves()


@pytest.mark.parametrize("way", [streamed(CHAT), MESSAGES], ids=str)
def test_f20_when_nobody_speaks_http_the_caller_gets_a_502(tmp_path: Path, way: Dialect) -> None:
    with site(tmp_path, way) as here:
        for name in ("101", "a garbage status line", "a header of 70 KB", "1000 headers"):
            here.script(_NOT_HTTP[name], _NOT_HTTP[name])

            answer = here.ask()

            assert (name, answer.status) == (name, 502)
            way.says_error(answer.body)
            assert here.states() == ["Healthy", "Healthy"]
        here.assert_serves()


def test_f20_large_but_reasonable_heads_pass(tmp_path: Path) -> None:
    with site(tmp_path, CHAT, keys=1) as here:
        headers = [("Content-Type", "application/json"), *((f"X-Many-{n}", "m" * 200) for n in range(200))]
        here.script(reply(200, headers, CHAT.good_body))

        here.assert_good(here.ask())


def test_f20_what_follows_a_whole_answer_is_dropped_with_its_connection(tmp_path: Path) -> None:
    smuggled = head(200, {"Content-Length": "2"}) + b"{}"
    with site(tmp_path, CHAT, keys=1) as here:
        sent = threading.Event()
        here.provider.by_key({here.keys[0]: [CHAT.good.then(smuggled, signal(sent)), CHAT.good]})

        here.assert_good(here.ask())
        assert sent.wait(5)
        here.assert_good(here.ask())

        assert here.provider.total_connections == 2
        assert here.verdicts() == [("ok", "")]


def test_f20_a_reset_in_the_middle_of_the_head_rotates(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        here.script(pieces(b"HTTP/1.1 200 OK\r\nContent-", reset()))

        here.assert_rotated(here.ask(), "reset")


def test_f20_an_error_whose_body_breaks_off_is_judged_by_what_came(tmp_path: Path, dialect: Dialect) -> None:
    with site(tmp_path, dialect) as here:
        start = head(500, {"Content-Type": "application/json", "Content-Length": "100"})
        here.script(pieces(start + b'{"error": {"mess', reset()))

        here.assert_good(here.ask())

        assert [verdict for verdict, _ in here.verdicts()] == ["PROVIDER", "ok"]
        assert here.record()["attempts"][0]["status"] == 500


def test_f20_an_endless_error_body_is_cut_and_judged(tmp_path: Path) -> None:
    with site(tmp_path, CHAT) as here:
        start = head(503, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"})
        here.script(pieces(start, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 64, silence()))

        here.assert_good(here.ask())

        assert here.record()["attempts"][0]["status"] == 503
        assert here.provider.wait_closed(0)


def test_f20_a_refused_upload_is_read_although_the_request_was_not_taken_whole(tmp_path: Path) -> None:
    request = {**canned.CHAT_REQUEST, "messages": [{"role": "user", "content": "x" * 4_000_000}]}
    with site(tmp_path, CHAT) as here:
        here.script(*[json_reply(canned_errors.openai_error("too long", code="string_above_max_length"), 400)] * 2)

        answer = here.gateway.post(CHAT.path, request)

        assert (answer.status, len(here.provider.received)) == (400, 1)
