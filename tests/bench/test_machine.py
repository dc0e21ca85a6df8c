"""The machine: who runs where, what is missing, what it is."""

import pytest

from bench import machine
from bench.machine import Cpus, Placing, cpus_for


def cpus(*numbers):
    return frozenset(numbers)


@pytest.mark.parametrize(
    ("placing", "available", "expected"),
    [
        (Placing.APART, cpus(0, 1), Cpus(cpus(0), cpus(1), cpus(1))),
        (Placing.APART, cpus(2, 5, 7), Cpus(cpus(2), cpus(5), cpus(5))),
        (Placing.ONE, cpus(0, 1), Cpus(cpus(0), cpus(0), cpus(0))),
        (Placing.SPREAD, cpus(0, 1), Cpus(cpus(0, 1), cpus(0, 1), cpus(0, 1))),
        (Placing.SPREAD, cpus(0, 1, 2), Cpus(cpus(0, 1), cpus(0, 1), cpus(0, 1))),
        (Placing.SPREAD, cpus(0, 1, 2, 3), Cpus(cpus(0, 1), cpus(2), cpus(3))),
        (Placing.APART, cpus(0), Cpus(cpus(0), cpus(0), cpus(0))),
        (Placing.SPREAD, cpus(3), Cpus(cpus(3), cpus(3), cpus(3))),
    ],
)
def test_everyone_has_a_place_on_the_cpus_that_there_are(placing, available, expected):
    assert cpus_for(placing, available) == expected


def test_only_with_four_cpus_two_workers_share_none_with_the_load():
    assert cpus_for(Placing.SPREAD, cpus(0, 1, 2, 3)).has_room
    assert not cpus_for(Placing.SPREAD, cpus(0, 1, 2)).has_room


def test_what_is_missing_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(machine, "find", lambda program: None if program == "wrk" else f"/usr/bin/{program}")
    monkeypatch.setattr(machine, "HEADERS", (__file__, "libc6-dev"))

    with pytest.raises(machine.Missing) as caught:
        machine.check()

    said = str(caught.value)
    assert "Not found here: wrk." in said
    assert "apt-get install --no-install-recommends nginx-light wrk gcc libc6-dev" in said


def test_a_compiler_without_headers_is_missing_something(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "find", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(machine, "HEADERS", (str(tmp_path / "stdio.h"), "libc6-dev"))
    with pytest.raises(machine.Missing, match="Not found here: libc6-dev"):
        machine.check()


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012", "4.1.0-3+b2"),
        ("v20.20.2", "20.20.2"),
        ('{"name": "@portkey-ai/gateway", "version": "1.15.2"}', "1.15.2"),
        ("litellm-1.109.1", "1.109.1"),
        ("nothing of the kind", "unknown"),
    ],
)
def test_a_version_is_found_in_what_a_program_says(said, version):
    assert machine.version_in(said) == version


def test_the_cpu_has_the_name_that_the_kernel_gives_it():
    assert machine.cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert machine.cpu_model("processor\t: 0\n") != ""
