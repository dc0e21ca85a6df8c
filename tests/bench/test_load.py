"""What is sent, and how the load generators' words are read."""

import json

import pytest

from bench import load

WRK = (
    "Running 1s test @ http://127.0.0.1:9999/v1/chat/completions\n  1 threads and 16 connections\n"
    'MEASURED {"calls":70000,"wall_us":1000500,"connect":0,"read":1,"write":0,"status":2,"timeout":4,'
    '"p50_us":191,"p99_us":640,"max_us":900}\n'
)
STREAMS = {
    "streams": 20,
    "ok": 15,
    "connect": 1,
    "status": 1,
    "broken": 1,
    "incomplete": 1,
    "silent": 1,
    "events": 780,
    "wall_s": 1.5,
    "first_p50": 20.5,
    "first_p99": 21.5,
    "total_p50": 1020.5,
    "total_p99": 1030.5,
    "total_max": 1031.5,
    "gap_max": 22.5,
}


def test_what_wrk_measured_is_read_from_our_own_line():
    outcome = load.parse_wrk(WRK)

    assert (outcome.done, outcome.calls, outcome.errors) == (70000, 70000, 7)
    assert outcome.failed == {"read": 1, "status": 2, "timeout": 4}
    assert outcome.wall_s == pytest.approx(1.0005)
    assert outcome.values == {"p50_us": 191, "p99_us": 640, "max_us": 900}


@pytest.mark.parametrize("printed", ["", "unable to connect to 127.0.0.1:9 Connection refused\n"])
def test_a_wrk_that_measured_nothing_is_a_failure_that_says_why(printed):
    with pytest.raises(load.LoadFailed, match="measured nothing") as caught:
        load.parse_wrk(printed)
    assert printed.strip() in str(caught.value)


def test_what_the_stream_client_measured_is_read_with_its_units():
    outcome = load.parse_streams("warning: something\n" + json.dumps(STREAMS) + "\n")

    assert (outcome.done, outcome.calls, outcome.errors, outcome.wall_s) == (780, 20, 5, 1.5)
    assert outcome.failed == dict.fromkeys(("connect", "status", "broken", "incomplete", "silent"), 1)
    assert outcome.values["total_p99_ms"] == 1030.5
    assert set(outcome.values) == {
        f"{name}_ms" for name in ("first_p50", "first_p99", "total_p50", "total_p99", "total_max", "gap_max")
    }


@pytest.mark.parametrize("printed", ["", "perror: no such file\n"])
def test_a_stream_client_that_measured_nothing_is_a_failure(printed):
    with pytest.raises(load.LoadFailed, match="measured nothing"):
        load.parse_streams(printed)


def test_a_stream_client_that_lost_streams_is_a_failure():
    with pytest.raises(load.LoadFailed, match="lost count"):
        load.parse_streams(json.dumps({**STREAMS, "ok": 14}))


def test_a_body_is_a_chat_completion_and_as_large_as_wanted():
    short = json.loads(load.body("mock-n1-d0"))
    assert short["model"] == "mock-n1-d0"
    assert "stream" not in short
    assert json.loads(load.body("m", stream=True))["stream"] is True
    assert 88_000 < len(load.body("m", body_bytes=90_000)) < 92_000


def test_a_raw_request_is_complete():
    raw = load.raw_request("/v1/x", {"Authorization": "Bearer k"}, b"{}")
    head, _, content = raw.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Content-Length: 2",
        b"Authorization: Bearer k",
    ]
    assert content == b"{}"


def test_the_name_of_the_model_tells_the_mock_the_shape_of_the_stream():
    assert load.Streams(300, 600, 50, 20).model == "mock-n50-d20"


def test_the_script_for_wrk_quotes_what_lua_would_read_otherwise():
    script = load.wrk_script({"X": 'a"b'}, b'{"text": "a\\nb"}')
    assert 'wrk.headers["X"] = "a\\"b"' in script
    assert r'wrk.body = "{\"text\": \"a\\nb\"}"' in script
