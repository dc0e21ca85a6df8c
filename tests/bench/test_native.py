"""The two C programs, over loopback: the mock says what it should, the stream client counts what there is."""

import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from bench import load, machine
from bench.programs import Program, Recipe, call, free_port, plain_environment

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path(machine.HEADERS[0]).exists(),
    reason="no C compiler",
)
PATH = "/v1/chat/completions"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    return machine.build("mock", folder), machine.build("streams", folder)


@pytest.fixture(scope="module")
def mock(programs, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("mock"), free_port()
    recipe = Recipe("mock", [str(programs[0]), str(port)], port, folder, plain_environment(folder))
    with Program(recipe, machine.available_cpus(), folder / "log") as running:
        yield running


@pytest.fixture
def count_streams(programs, tmp_path):
    """What the stream client measures."""

    def run(port, wanted, least_events=None, silence_s=5):
        request = tmp_path / "request"
        request.write_bytes(load.raw_request(PATH, {}, load.body(wanted.model, stream=True)))
        events = wanted.events if least_events is None else least_events
        numbers = (port, wanted.concurrent, wanted.total, events, request, wanted.ramp_ms, silence_s)
        done = subprocess.run(
            [str(programs[1]), *map(str, numbers)], capture_output=True, text=True, timeout=WAIT_S, check=True
        )
        return load.parse_streams(done.stdout), json.loads(done.stdout)

    return run


def events_of(text):
    return [json.loads(line[6:]) for line in text.decode().splitlines() if line.startswith("data: {")]


def streamed(mock, **more):
    body = {"model": "mock-n3-d0", "stream": True, **more}
    status, text = call(mock.port, "POST", PATH, body=json.dumps(body).encode())
    assert status == 200
    assert text.endswith(b"data: [DONE]\n\n")
    return events_of(text)


def test_the_sources_compile_without_a_warning(tmp_path):
    for name in ("mock", "streams"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / name)]
        subprocess.run([*command, str(machine.NATIVE / f"{name}.c")], check=True, timeout=WAIT_S)


def test_a_source_that_does_not_compile_is_reported(tmp_path, monkeypatch):
    (tmp_path / "wrong.c").write_text("int main(void) { return nothing; }")
    monkeypatch.setattr(machine, "NATIVE", tmp_path)
    with pytest.raises(machine.Missing, match="wrong.c does not compile"):
        machine.build("wrong", tmp_path)


def test_a_plain_call_gets_a_completion(mock):
    status, text = call(mock.port, "POST", PATH, body=load.body("mock-n1-d0"))
    answer = json.loads(text)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["total_tokens"] == 99
    assert "passes the call on" in answer["choices"][0]["message"]["content"]


def test_a_large_body_is_read_to_its_end_and_gets_a_completion(mock):
    with socket.create_connection(("127.0.0.1", mock.port), timeout=WAIT_S) as client:
        raw = load.raw_request(PATH, {}, load.body("mock-n1-d0", stream=True, body_bytes=90_000))
        for _ in range(2):
            client.sendall(raw)
            assert read_answer(client).startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json")


def test_calls_that_come_together_are_answered_one_after_the_other(mock):
    with socket.create_connection(("127.0.0.1", mock.port), timeout=WAIT_S) as client:
        client.sendall(3 * load.raw_request(PATH, {}, load.body("mock-n1-d0")))
        answers = b""
        while answers.count(b"fp_bench00001") < 3:
            answers += client.recv(65536)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def read_answer(client):
    answer = b""
    while b"fp_bench00001" not in answer:
        answer += client.recv(65536)
    return answer


def test_a_chunked_body_is_read(mock):
    body = b'{"model": "mock-n2-d0", "stream": true}'
    raw = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with socket.create_connection(("127.0.0.1", mock.port), timeout=WAIT_S) as client:
        client.sendall(raw)
        answer = b""
        while b"[DONE]" not in answer:
            answer += client.recv(65536)
    assert len(events_of(answer)) == 3


def test_a_stream_has_as_many_events_as_the_model_says_and_a_finish(mock):
    *words, finish = streamed(mock)
    assert [event["choices"][0]["delta"]["content"] for event in words] == [" word"] * 3
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in event for event in (*words, finish))


def test_token_counts_come_as_an_event_of_their_own_when_they_are_asked_for(mock):
    *_, finish, counts = streamed(mock, stream_options={"include_usage": True})
    assert "usage" not in finish
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens"] == 38


def test_streams_are_counted_and_timed(mock, count_streams):
    outcome, measured = count_streams(mock.port, load.Streams(20, 40, 5, 20, ramp_ms=50))

    assert (outcome.calls, outcome.errors, measured["ok"]) == (40, 0, 40)
    assert outcome.done == 40 * 7, "five words, the finish and the end"
    # The tail follows one period after the last of five events.
    assert outcome.values["total_p50_ms"] >= 120
    assert 20 <= outcome.values["first_p50_ms"] <= outcome.values["total_p50_ms"] - 80


def test_streams_without_pause_that_overrun_the_socket_are_whole(mock, count_streams):
    outcome, _ = count_streams(mock.port, load.Streams(4, 8, 20_000, 0))
    assert (outcome.errors, outcome.done) == (0, 8 * 20_002)


def test_a_stream_with_too_few_events_has_failed(mock, count_streams):
    outcome, measured = count_streams(mock.port, load.Streams(4, 8, 5, 0), least_events=8)
    assert (outcome.errors, measured["incomplete"], outcome.done) == (8, 8, 0)


def test_a_stream_that_falls_silent_has_failed(mock, count_streams):
    _, measured = count_streams(mock.port, load.Streams(2, 2, 1, 60_000), silence_s=0.3)
    assert measured["silent"] == 2


def test_nobody_at_the_port_is_counted_as_such(count_streams):
    _, measured = count_streams(free_port(), load.Streams(3, 9, 1, 0))
    assert measured["connect"] == 9


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}", "status"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n", "broken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n0\r\n\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ndata: {}\n\n", "broken"),
        (b"", "broken"),
        (b"x" * 9000, "broken"),
        (b"HTTP/1.1 200 OK\r\n\r\n\n\n: beat\r\n\r\ndata: [DONE]\n\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {}\r\n\r\ndata: [DONE]\r\n\r\n", "ok"),
    ],
)
def test_a_fault_of_an_answer_is_counted_under_its_name(answer, reason, count_streams):
    with answering(answer) as port:
        _, measured = count_streams(port, load.Streams(1, 1, 2, 0))
    assert measured[reason] == 1


class answering:
    """A server that gives this answer to one call and closes."""

    def __init__(self, answer):
        self._answer = answer

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_S)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self._listener.getsockname()[1]

    def _serve(self):
        client, _ = self._listener.accept()
        with client:
            client.settimeout(WAIT_S)
            client.recv(65536)
            client.sendall(self._answer)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    def __exit__(self, *error):
        self._thread.join(WAIT_S)
        self._listener.close()
