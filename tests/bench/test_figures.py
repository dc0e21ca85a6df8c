"""From runs to figures, and from figures to verdicts."""

import pytest

from bench.figures import Books, Bound, Compare, Sample, Target, Verdict, compared, judge, median, verdict_of

RATIO = Target("CPU", "plain", "cpu", 2.0, compare=Compare.RATIO, against="nginx", aim=1.5)


def runs(gateway, *values, name="cpu", case="plain", **others):
    return [Sample(case, gateway, at, {name: value, **others}) for at, value in enumerate(values)]


def test_the_median_is_that_of_the_rounds_of_one_gateway_in_one_case():
    samples = [*runs("product", 3.0, 1.0, 2.0), *runs("nginx", 9.0), *runs("product", 7.0, case="tls")]
    assert median(samples, "plain", "product", "cpu") == 2.0


def test_a_run_that_broke_off_has_no_part_in_the_median():
    broken = Sample("plain", "nginx", 2, {"cpu": 100.0}, problem="it ended")
    assert median([*runs("nginx", 1.0, 2.0), broken], "plain", "nginx", "cpu") == 1.5


def test_nothing_measured_has_no_median():
    assert median([], "plain", "product", "cpu") is None
    assert median(runs("product", 1.0), "plain", "product", "p50_us") is None


@pytest.mark.parametrize(
    ("compare", "figure"),
    [(Compare.VALUE, 8.0), (Compare.RATIO, 2.0), (Compare.TIMES_LESS, 0.5), (Compare.EXCESS_PERCENT, 100.0)],
)
def test_a_figure_is_made_of_the_product_and_the_anchor(compare, figure):
    assert compared(compare, 8.0, 4.0) == pytest.approx(figure)


def test_there_is_no_figure_where_the_divisor_is_zero():
    assert compared(Compare.RATIO, 8.0, 0.0) is None
    assert compared(Compare.TIMES_LESS, 0.0, 8.0) is None
    assert compared(Compare.EXCESS_PERCENT, 8.0, 0.0) is None


def test_rounds_are_compared_one_by_one_so_that_drift_cancels_out():
    # The machine is three times slower in the last round, for both.
    samples = [*runs("product", 10.0, 14.0, 36.0), *runs("nginx", 10.0, 10.0, 30.0)]

    judgement = judge(RATIO, samples)

    assert judgement.figure == pytest.approx(1.2)
    assert (judgement.low, judgement.high) == (pytest.approx(1.0), pytest.approx(1.4))
    assert (judgement.product, judgement.anchor) == (14.0, 10.0)


def test_a_round_without_the_anchor_is_left_out():
    lost = Sample("plain", "nginx", 1, problem="it ended")
    samples = [*runs("product", 10.0, 99.0), *runs("nginx", 5.0), lost]
    assert judge(RATIO, samples).figure == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("bound", "figure", "verdict"),
    [
        (Bound.AT_MOST, 1.5, Verdict.AIM),
        (Bound.AT_MOST, 1.51, Verdict.MET),
        (Bound.AT_MOST, 2.0, Verdict.MET),
        (Bound.AT_MOST, 2.01, Verdict.MISSED),
        (Bound.BELOW, 2.0, Verdict.MISSED),
        (Bound.BELOW, 1.99, Verdict.MET),
    ],
)
def test_a_figure_is_held_against_the_target_and_the_aim(bound, figure, verdict):
    assert verdict_of(Target("x", "c", "v", 2.0, bound, aim=1.5), figure) is verdict


@pytest.mark.parametrize(("figure", "verdict"), [(30.0, Verdict.AIM), (22.0, Verdict.MET), (21.9, Verdict.MISSED)])
def test_a_target_from_below_is_met_from_above(figure, verdict):
    assert verdict_of(Target("x", "c", "v", 22, Bound.AT_LEAST, aim=30), figure) is verdict


def test_a_target_without_an_aim_is_only_met():
    assert verdict_of(Target("x", "c", "v", 2.0), 0.1) is Verdict.MET


def test_one_failed_round_is_enough_where_the_worst_counts():
    target = Target("failed", "plain", "errors", 0, worst=True)
    assert judge(target, runs("product", 0, 0, 1, name="errors")).verdict is Verdict.MISSED
    assert judge(target, runs("product", 0, 0, 0, name="errors")).verdict is Verdict.MET


def test_the_worst_of_a_target_from_below_is_the_least():
    target = Target("rate", "plain", "rate", 5, Bound.AT_LEAST, worst=True)
    assert judge(target, runs("product", 9, 4, 9, name="rate")).figure == 4


def test_cheap_calls_that_failed_meet_no_target():
    samples = [*runs("product", 0.1, 0.1, errors=3.0), *runs("nginx", 1.0, 1.0)]

    judgement = judge(RATIO, samples)

    assert judgement.verdict is Verdict.BROKEN
    assert judgement.why == "3 calls failed in round 1"
    assert judgement.figure is None


def test_a_run_of_the_product_that_broke_off_meets_no_target():
    samples = [*runs("product", 1.0), Sample("plain", "product", 1, problem="it ended"), *runs("nginx", 1.0, 1.0)]
    judgement = judge(RATIO, samples)
    assert (judgement.verdict, judgement.why) == (Verdict.BROKEN, "it ended")


def test_an_anchor_that_did_not_run_leaves_the_target_open():
    lost = Sample("plain", "nginx", 0, problem="nginx did not listen")
    judgement = judge(RATIO, [*runs("product", 1.0), lost])
    assert (judgement.verdict, judgement.why) == (Verdict.NOT_MEASURED, "nginx did not listen")


def test_a_case_that_was_not_run_leaves_the_target_open():
    assert judge(RATIO, runs("product", 1.0, case="tls")).verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize(
    ("books", "sent", "in_flight", "complete"),
    [
        (Books(100, 100, 0), 100, 0, True),
        (Books(112, 112, 0), 100, 16, True),
        (Books(90, 100, 10), 100, 0, True),
        (Books(99, 100, 0), 100, 0, False),
        (Books(99, 99, 0), 100, 16, False),
        (Books(117, 117, 0), 100, 16, False),
        (Books(101, 100, 0), 100, 16, False),
        # Sums may be dropped too, so that more can be dropped than rows are missing.
        (Books(95, 100, 7), 100, 0, True),
        (Books(90, 100, 7), 100, 0, False),
    ],
)
def test_every_call_that_was_sent_must_be_a_row_or_dropped(books, sent, in_flight, complete):
    assert books.are_complete(sent, in_flight) is complete


def test_books_of_a_run_are_the_difference():
    assert Books(30, 32, 2) - Books(10, 10, 0) == Books(20, 22, 2)
