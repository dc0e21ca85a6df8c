"""The tables."""

import pytest

from bench import report
from bench.cases import CASES
from bench.figures import Books, Bound, Compare, Judgement, Sample, Target, Verdict, judge

RATIO = Target("CPU", "plain", "cpu_us_per_call", 2.0, compare=Compare.RATIO, against="nginx", aim=1.5, unit="x")


def samples():
    values = {"cpu_us_per_call": 15.0, "errors": 0.0, "others_cpus": 0.02}
    return [
        Sample("plain", "nginx", 0, {**values, "cpu_us_per_call": 10.0}),
        Sample("plain", "product", 0, values, calls=1000, books=Books(1010, 1010, 0)),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (0.0559, "0.0559"), (1.234, "1.23"), (99.4, "99.4"), (99.7, "100"), (66940.2, "66,940")],
)
def test_a_number_has_three_digits_that_count(value, shown):
    assert report.number(value) == shown


def test_a_table_is_aligned():
    assert report.table(("a", "long"), [("value", "x"), ("", "yy")]).splitlines() == [
        "| a     | long |",
        "|-------|------|",
        "| value | x    |",
        "|       | yy   |",
    ]


def test_the_summary_shows_figure_target_aim_and_verdict():
    row = report.summary([judge(RATIO, samples())]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["CPU", "15", "nginx 10", "1.5x", "1.5 to 1.5", "<= 2x", "1.5x", "met, and the aim"]


def test_the_summary_shows_what_was_not_measured():
    row = report.summary([judge(RATIO, [])]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["CPU", "-", "nginx -", "-", "-", "<= 2x", "1.5x", "not measured"]


def test_the_details_of_a_case_have_a_row_for_each_gateway_that_ran():
    lines = report.details(CASES[0], samples()).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["gateway", "-" * 9, "nginx", "product"]


def test_what_was_recorded_is_summed_over_the_rounds():
    more = Sample("plain", "product", 1, {}, calls=2000, books=Books(1990, 2005, 15))
    cells = report.recorded([*samples(), more]).splitlines()[2].strip("|").split("|")
    assert [cell.strip() for cell in cells] == ["plain", "product", "3,000", "3,015", "3,000", "15", "yes"]


def test_calls_that_are_not_accounted_for_are_shown_and_spoil_the_result():
    lost = Sample("plain", "product", 1, {}, calls=2000, books=Books(1990, 2005, 0), books_complete=False)
    every = [*samples(), lost]
    assert "**no**" in report.recorded(every)
    assert any("2000 calls were answered" in note for note in report.notes(every, [], {}))
    assert report.good([], samples())
    assert not report.good([], every)


def test_notes_name_what_was_left_out_went_wrong_or_disturbed():
    broken = Sample("paced", "nginx", 2, problem="nginx has ended.\nlast line of its log")
    failed = Sample("paced", "litellm", 0, {"errors": 355.0, "others_cpus": 0.4}, failed={"silent": 350, "status": 5})
    notes = report.notes([*samples(), broken, failed], [], {"portkey": "not installed"})
    assert notes[:3] == [
        "portkey: left out, not installed.",
        "paced, nginx, round 3: nginx has ended.",
        "paced, litellm, round 1: 355 calls failed (silent 350, status 5).",
    ]
    assert "in 1 of 3 runs other programs used more than 0.1 CPU, at most 0.4" in notes[3]


def test_a_quiet_run_without_faults_has_no_notes():
    assert report.notes(samples(), [judge(RATIO, samples())], {}) == []


@pytest.mark.parametrize(
    ("verdict", "good"),
    [
        (Verdict.AIM, True),
        (Verdict.MET, True),
        (Verdict.NOT_MEASURED, True),
        (Verdict.MISSED, False),
        (Verdict.BROKEN, False),
    ],
)
def test_the_whole_is_good_when_no_target_is_missed_or_broken(verdict, good):
    assert report.good([Judgement(RATIO, verdict)], samples()) is good


def test_the_document_holds_all_parts():
    text = report.document({"CPU": "AMD EPYC"}, [judge(RATIO, samples())], samples(), {"portkey": "not installed"})
    for part in ("| CPU | AMD EPYC |", "## Targets", "1.5x", "## Notes", "### Plain calls, 16 connections", "1,010"):
        assert part in text, part
    assert "### 300 streams" not in text, "a case that was not run"


def test_the_profile_splits_cpu_time():
    split = Sample("plain", "nginx", 0, {"user_us_per_call": 3.0, "system_us_per_call": 10.0, "cpu_us_per_call": 13.0})
    assert report.profile([split], "plain").splitlines()[2].split("|")[1:5] == [
        " nginx   ",
        " 3            ",
        " 10             ",
        " 13          ",
    ]


def test_only_targets_whose_sides_were_run_are_chosen():
    alone = Target("p50", "single", "p50_us", 60)
    litellm = Target("CPU", "plain", "cpu", 220, Bound.AT_LEAST, Compare.TIMES_LESS, "litellm")
    every = [RATIO, alone, litellm]
    assert report.chosen(every, ["plain", "single"], ["nginx", "product"]) == [RATIO, alone]
    assert report.chosen(every, ["single"], ["nginx", "product"]) == [alone]
    assert report.chosen(every, ["plain"], ["nginx"]) == []
