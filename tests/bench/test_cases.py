"""The cases, the targets and the command line fit together."""

import pytest

from bench import __main__ as program
from bench.cases import CASES, targets
from bench.figures import Bound
from bench.gateways import GATEWAYS
from bench.load import Plain
from bench.machine import Cpus
from bench.report import chosen

CRAMPED = Cpus(frozenset({0, 1}), frozenset({0, 1}), frozenset({0, 1}))
ROOMY = Cpus(frozenset({0, 1}), frozenset({2}), frozenset({3}))
VALUES_OF_PLAIN = {"cpu_us_per_call", "done_per_s", "p50_us", "p99_us", "errors"}
VALUES_OF_STREAMS = {"cpu_us_per_event", "done_per_s", "total_p50_ms", "total_p99_ms", "errors", "pss_mib"}


@pytest.mark.parametrize("cpus", [CRAMPED, ROOMY], ids=["shared", "own"])
def test_every_target_is_about_a_value_and_gateways_of_its_case(cpus):
    cases = {case.name: case for case in CASES}
    for target in targets(cpus):
        case = cases[target.case]
        assert target.product in case.gateways
        assert not target.against or target.against in case.gateways
        assert target.value in (VALUES_OF_PLAIN if isinstance(case.load, Plain) else VALUES_OF_STREAMS)
        assert target.aim is None or target.bound.holds(target.aim, target.limit), "an aim is the better limit"


def test_every_case_has_a_target_and_only_known_gateways():
    assert {case.name for case in CASES} == {target.case for target in targets(CRAMPED)}
    assert {name for case in CASES for name in case.gateways} == set(GATEWAYS)


def test_nothing_but_memory_is_judged_where_memory_is_watched():
    watched = {case.name for case in CASES if case.watched}
    assert {target.value for target in targets(CRAMPED) if target.case in watched} == {"pss_mib"}


def test_two_workers_are_judged_by_rate_only_where_the_load_has_cpus_of_its_own():
    rate, cost = targets(ROOMY)[-1], targets(CRAMPED)[-1]
    assert (rate.value, rate.bound, rate.limit) == ("done_per_s", Bound.AT_LEAST, 1.7)
    assert (cost.value, cost.bound, cost.limit) == ("cpu_us_per_call", Bound.AT_MOST, 1.15)


def names(arguments):
    options = program.read_options(arguments)
    return [case.name for case in program.chosen_cases(options)], program.chosen_gateways(options)[0]


def test_the_short_benchmark_leaves_out_slow_cases_and_gateways():
    cases, gateways = names([])
    assert "three-thousand" not in cases
    assert {"plain", "tls", "memory", "workers"} <= set(cases)
    assert not {"portkey", "litellm"} & set(gateways)


def test_all_takes_every_case():
    assert names(["all"])[0] == [case.name for case in CASES]


def test_the_profile_is_of_plain_calls():
    assert names(["profile"])[0] == ["plain"]


def test_cases_and_gateways_can_be_chosen():
    cases, gateways = names(["all", "--cases", "tls,plain", "--gateways", "nginx,product"])
    assert cases == ["plain", "tls"]
    assert gateways == ["nginx", "product"]
    assert all(target.against in ("", "nginx") for target in chosen(targets(CRAMPED), cases, gateways))


@pytest.mark.parametrize(
    "arguments", [["all", "--rounds", "2"], ["--cases", "nothing"], ["--gateways", "apache"], ["--seconds", "0"]]
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        program.read_options(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_gateway_that_is_not_installed_is_left_out_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_ANCHORS", str(tmp_path))
    running, skipped = program.chosen_gateways(program.read_options(["all"]))
    assert {"portkey", "litellm"} == set(skipped)
    assert skipped["litellm"] == "not installed"
    assert {"nginx", "product"} <= set(running)


def test_without_its_tools_the_benchmark_says_what_it_needs_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setattr("bench.machine.find", lambda program: None)
    assert program.main([]) == 2
    assert "apt-get install" in capsys.readouterr().err
