"""Programs are started whole, say why they do not start, and leave nothing behind."""

import os
import subprocess
import sys
import time

import pytest

from bench import processes
from bench.programs import Program, ProgramFailed, Recipe, call, free_port, listens, plain_environment
from bench.runner import Cost, Peak, settle

CPUS = os.sched_getaffinity(0)
#: Listens, and has a child that would outlive it.
PARENT = """
import signal, socket, subprocess, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("it listens", flush=True)
while True:
    listener.accept()[0].close()
"""


def recipe(folder, script, port, start_s=20.0):
    command = [sys.executable, "-c", script, str(port)]
    return Recipe("program", command, port, folder, plain_environment(folder), start_s)


@pytest.fixture
def program(tmp_path):
    with Program(recipe(tmp_path, PARENT, free_port()), CPUS, tmp_path / "logs" / "log") as running:
        yield running


def kill_child(program):
    (child,) = processes.usage(program.pid).pids - {program.pid}
    os.kill(child, 9)
    until = time.monotonic() + 10
    while child in processes.all_processes():
        assert time.monotonic() < until


def test_a_program_listens_inside_and_nothing_of_it_is_left_after(tmp_path):
    with Program(recipe(tmp_path, PARENT, free_port()), CPUS, tmp_path / "log") as program:
        assert listens(program.port)
        pids = processes.usage(program.pid).pids
    assert not listens(program.port)
    assert not processes.usage(os.getpid()).pids & pids
    with pytest.raises(ProgramFailed, match="program has ended"):
        assert program.pid


def test_a_program_that_ends_at_once_is_reported_with_its_last_words(tmp_path):
    with (
        pytest.raises(ProgramFailed, match="(?s)has ended.*no such model"),
        Program(recipe(tmp_path, "raise SystemExit('no such model')", free_port()), CPUS, tmp_path / "log"),
    ):
        pass


def test_a_program_that_does_not_listen_in_time_is_ended_and_reported(tmp_path):
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with (
        pytest.raises(ProgramFailed, match="did not listen within 1 s"),
        Program(recipe(tmp_path, script, free_port(), start_s=1.0), CPUS, tmp_path / "log"),
    ):
        pass
    pid = int((tmp_path / "log").read_text())
    assert pid not in processes.all_processes()


def test_a_program_gets_nothing_of_the_callers_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ENABLE_METRICS_COLLECTION", "false")
    environ = plain_environment(tmp_path)
    assert set(environ) <= {"PATH", "LANG", "LC_ALL", "HOME"}
    assert environ["HOME"] == str(tmp_path)


def test_a_log_that_is_trimmed_begins_anew(program, tmp_path):
    log = tmp_path / "logs" / "log"
    log.write_text("an old line\n")
    program.trim_log()
    assert log.read_bytes() == b""
    assert program.last_words() == ""


def test_a_call_that_gets_no_answer_is_a_failure(program):
    with pytest.raises(ProgramFailed, match="GET /x at port"):
        call(program.port, "GET", "/x")


def test_a_gateway_that_rests_has_settled_and_costs_nothing(program):
    settle(program.pid)
    cost = Cost.begin(program.pid)
    settle(program.pid)
    assert cost.end(1, "call")["cpu_us_per_call"] < 100_000


def test_cpu_time_is_shared_out_over_the_calls(program):
    cost = Cost.begin(program.pid)
    until = time.monotonic() + 20
    while processes.usage(program.pid).cpu_s - cost.before.cpu_s < 0.03:
        assert time.monotonic() < until
        listens(program.port)
    values = cost.end(10, "event")
    assert values["cpu_us_per_event"] >= 3000
    assert values["cpu_us_per_event"] == pytest.approx(values["user_us_per_event"] + values["system_us_per_event"])


def test_a_gateway_that_lost_a_process_has_no_cost(program):
    cost = Cost.begin(program.pid)
    kill_child(program)
    with pytest.raises(ProgramFailed, match="one of its processes ended"):
        cost.end(1, "call")


#: Starts a process that works for no more than a minute, says its number and ends: the work descends from nobody here.
STARTER = """
import subprocess, sys
work = "import time\\nuntil = time.monotonic() + 60\\nwhile time.monotonic() < until: pass"
started = subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.DEVNULL, start_new_session=True)
print(started.pid, flush=True)
"""


def test_work_of_other_programs_is_seen(program):
    cost = Cost.begin(program.pid)
    started = subprocess.run([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, check=True, timeout=20)
    pid = int(started.stdout)
    until = time.monotonic() + 20
    try:
        while processes.all_processes()[pid].user_s < 0.3:
            assert time.monotonic() < until
        assert cost.end(1, "call")["others_cpus"] > 0
    finally:
        os.kill(pid, 9)


def test_the_most_memory_is_kept(program):
    peak = Peak(program.pid)
    peak.look()
    first = peak.memory
    assert first.pss_mib > 1
    kill_child(program)
    peak.look()
    assert peak.memory.pss_mib >= first.pss_mib
