"""CPU time and memory, as the system tells them."""

import os
import subprocess
import sys
import time

import pytest

from bench import processes
from bench.processes import TICKS_PER_S, Stat

STAT = "4711 (a (strange) name) S 42 4711 4711 0 -1 4194304 100 0 0 0 250 50 30 20 20 0 3 0 12345 1000000 512 18446744"


def stat(parent):
    return Stat(parent, 0.0, 0.0, 0.0, 0)


def test_a_line_of_stat_is_read_behind_a_name_that_may_hold_anything():
    read = processes.parse_stat(STAT)
    assert read.parent == 42
    assert (read.user_s, read.system_s) == (250 / TICKS_PER_S, 50 / TICKS_PER_S)
    assert read.waited_for_s == pytest.approx(50 / TICKS_PER_S)
    assert read.rss_bytes == 512 * processes.PAGE_BYTES


def test_pss_is_read_in_mib():
    assert processes.parse_pss("00400000-7ffc [rollup]\nRss: 9000 kB\nPss:    2048 kB\nPss_Anon: 1 kB\n") == 2.0
    with pytest.raises(ValueError, match="Pss"):
        processes.parse_pss("Rss: 1 kB\n")


def test_idle_time_is_not_work():
    ticks = processes.parse_ticks("cpu  100 10 50 99999 777 5 35 40 0 0")
    assert ticks.busy_s == pytest.approx(200 / TICKS_PER_S)
    assert ticks.steal_s == pytest.approx(40 / TICKS_PER_S)


def test_a_tree_is_a_process_with_all_that_descend_from_it():
    found = processes.tree(2, {1: stat(0), 2: stat(1), 3: stat(2), 4: stat(3), 5: stat(1), 6: stat(2)})
    assert found == {2, 3, 4, 6}


def test_the_tree_of_a_process_that_is_gone_is_empty():
    assert processes.tree(9, {1: stat(0)}) == set()


@pytest.fixture
def busy_family():
    """A process and its child; the child works, the parent waits."""
    child = "import sys\nprint(flush=True)\nn = 0\nwhile True: n += 1"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    family = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True)
    assert family.stdout is not None
    family.stdout.readline()
    yield family.pid
    os.killpg(family.pid, 9)
    family.stdout.close()
    family.wait(10)


def test_the_work_of_a_child_counts_for_its_parent(busy_family):
    before = processes.usage(busy_family)
    until = time.monotonic() + 20
    while processes.usage(busy_family).cpu_s - before.cpu_s < 0.05:
        assert time.monotonic() < until
    assert len(before.pids) == 2


def test_memory_is_that_of_the_whole_tree(busy_family):
    both = processes.memory(busy_family)
    (child,) = processes.usage(busy_family).pids - {busy_family}
    assert both.pss_mib > processes.memory(child).pss_mib > 0
    assert both.rss_mib >= both.pss_mib


def test_a_family_moves_together(busy_family):
    one = {min(os.sched_getaffinity(0))}
    processes.move(busy_family, one)
    assert all(os.sched_getaffinity(pid) == one for pid in processes.usage(busy_family).pids)


def test_who_starts_others_elsewhere_stays_where_it_was():
    before = os.sched_getaffinity(0)
    one = {min(before)}
    with processes.children_on(one):
        command = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        started = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert started.stdout.split() == [str(min(before))]
    assert os.sched_getaffinity(0) == before
