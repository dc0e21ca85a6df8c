"""Rotation as data in, data out: no lock, no clock, no database."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.keys.base import Action, KeyWanted, Ladder, Lease, Scope, Status, Verdict
from app.keys.rotation import Rotation
from app.keys.states import Change, KeyState, Outcome, Pick, Policy

MINUTE = Ladder(60.0, 5.0, 3600.0)
RATE_LIMITED = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", ladder=MINUTE)
PAIR_LIMITED = Verdict(Action.KEY_REST, Scope.KEY_MODEL, "rate_limited", ladder=MINUTE)
GROUP_LIMITED = Verdict(Action.KEY_REST, Scope.GROUP, "rate_limited", ladder=MINUTE)
DEAD = Verdict(Action.KEY_DEAD, Scope.KEY, "invalid_api_key", alert=True)
GONE = Verdict(Action.MODEL_GONE, Scope.KEY_MODEL, "model_not_found")
PROVIDER = Verdict(Action.PROVIDER, reason="server_error")
STRATEGIES = ("round_robin", "least_used", "random", "priority")


class Middle(random.Random):
    """No jitter: every uniform number is the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def rotation_of(count: int, *, policy: Policy | None = None, **shape: object) -> Rotation:
    rotation = Rotation(Middle(7), policy or Policy(brake_threshold=0))
    for key_id in range(1, count + 1):
        rotation.put(KeyState(key_id, "gemini", f"value-{key_id}", **shape))  # type: ignore[arg-type]
    return rotation


def wanted(model: str | None = "m", *, excluding: tuple[int, ...] = (), preferred: int | None = None) -> KeyWanted:
    return KeyWanted(("gemini",), {"gemini": model}, frozenset(excluding), preferred)


def pick(rotation: Rotation, now: float = 0.0, model: str | None = "m", strategy: str = "round_robin", **more) -> Pick:
    return rotation.pick(wanted(model, **more), strategy, now)


def told(picked: Pick) -> tuple[Outcome, float]:
    """What is told where no key was picked."""
    assert picked.key is None
    return picked.outcome, picked.wake_at


def lease_of(picked: Pick) -> Lease:
    key = picked.key
    assert key is not None, picked
    return Lease(key.id, key.provider, picked.model, key.value, bool(picked.probes), picked.serial, key.epoch)


def lease(rotation: Rotation, now: float = 0.0, model: str | None = "m", **more) -> Lease:
    return lease_of(pick(rotation, now, model, **more))


def rest_all(rotation: Rotation, count: int, verdict: Verdict = RATE_LIMITED, now: float = 0.0) -> list[Change]:
    return [change for _ in range(count) for change in rotation.apply(lease(rotation, now), verdict, now)]


# -- order ---------------------------------------------------------------------------------------------------


def test_n_keys_and_n_requests_use_each_key_once():
    rotation = rotation_of(7)

    assert [lease(rotation).key_id for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("strategy", ["round_robin", "least_used", "priority"])
def test_keys_of_equal_priority_share_the_work_evenly(strategy):
    rotation = rotation_of(9)

    used = Counter(lease(rotation, strategy=strategy).key_id for _ in range(100))

    assert max(used.values()) - min(used.values()) <= 1


def test_the_lowest_priority_number_serves_first_and_ties_rotate():
    rotation = rotation_of(1, priority=5)
    rotation.put(KeyState(2, "gemini", "b", priority=1))
    rotation.put(KeyState(3, "gemini", "c", priority=1))

    assert [lease(rotation, strategy="priority").key_id for _ in range(4)] == [2, 3, 2, 3]


def test_the_least_used_key_today_serves_first():
    rotation = rotation_of(3)
    rotation.new_day({1: 5, 2: 1, 3: 3})

    assert [lease(rotation, strategy="least_used").key_id for _ in range(5)] == [2, 2, 3, 2, 3]


def test_random_uses_every_key_about_equally_and_in_no_order():
    rotation = rotation_of(4)

    order = [lease(rotation, strategy="random").key_id for _ in range(4000)]

    used = Counter(order)
    assert all(850 < used[key_id] < 1150 for key_id in (1, 2, 3, 4))
    assert 850 < sum(1 for first, second in zip(order, order[1:], strict=False) if first == second) < 1150


def test_the_strategy_can_change_between_two_picks():
    rotation = rotation_of(2)
    rotation.put(KeyState(3, "gemini", "c", priority=0))

    order = [lease(rotation, strategy=strategy).key_id for strategy in ("priority", "priority", "round_robin")]

    assert order == [3, 3, 1]


def test_an_unknown_strategy_means_round_robin():
    rotation = rotation_of(2)

    assert [lease(rotation, strategy="nonsense").key_id for _ in range(2)] == [1, 2]


def test_a_key_that_comes_back_joins_at_the_current_turn():
    rotation = rotation_of(3)
    rotation.apply(lease(rotation), RATE_LIMITED, 0.0)
    for _ in range(20):
        lease(rotation, 1.0)

    back = [lease(rotation, 61.0) for _ in range(1)]
    rotation.succeeded(back[0])
    order = [lease(rotation, 61.0).key_id for _ in range(6)]

    assert Counter([back[0].key_id, *order]).most_common(1)[0][1] <= 3
    assert order.count(1) <= 2


def test_excluded_keys_are_not_picked_and_keep_their_place():
    rotation = rotation_of(3)

    assert lease(rotation, excluding=(1, 2)).key_id == 3
    assert [lease(rotation).key_id for _ in range(2)] == [1, 2]


def test_the_preferred_key_serves_while_it_is_eligible():
    rotation = rotation_of(3)

    first = lease(rotation, preferred=3)
    rotation.apply(first, RATE_LIMITED, 0.0)

    assert first.key_id == 3
    assert lease(rotation, preferred=3).key_id == 1
    assert lease(rotation, preferred=99).key_id == 2


def test_the_next_provider_is_used_when_the_first_has_no_eligible_key():
    rotation = rotation_of(1)
    rotation.put(KeyState(2, "openai", "b"))
    both = KeyWanted(("gemini", "openai"), {"gemini": "g", "openai": "o"})

    rotation.apply(lease_of(rotation.pick(both, "round_robin", 0.0)), RATE_LIMITED, 0.0)
    second = rotation.pick(both, "round_robin", 0.0)

    assert second.key is not None
    assert (second.key.id, second.model) == (2, "o")


def test_a_key_with_globs_serves_only_the_models_that_match():
    rotation = rotation_of(1, models=("gemini-*-pro",))
    rotation.put(KeyState(2, "gemini", "b"))

    assert {lease(rotation, model="gemini-3-flash").key_id for _ in range(4)} == {2}
    assert {lease(rotation, model="gemini-3-pro").key_id for _ in range(4)} == {1, 2}
    assert {lease(rotation, model=None).key_id for _ in range(4)} == {1, 2}


def test_a_pick_among_many_keys_costs_about_as_much_as_among_few():
    def cost_s(count: int) -> float:
        rotation, want = rotation_of(count), wanted()
        best = 1e9
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(2000):
                rotation.pick(want, "round_robin", 0.0)
            best = min(best, (time.perf_counter() - start) / 2000)
        return best

    few = cost_s(50)

    assert few < 30e-6
    assert cost_s(5000) < 5 * few


def test_a_pick_stays_cheap_when_nearly_all_keys_rest_for_the_model():
    rotation = rotation_of(2000)
    for key_id in range(1, 2000):
        rotation.apply(Lease(key_id, "gemini", "m", "", serial=1), PAIR_LIMITED, 0.0)
    assert lease(rotation).key_id == 2000

    start = time.perf_counter()
    for _ in range(2000):
        assert pick(rotation).key is not None

    assert (time.perf_counter() - start) / 2000 < 50e-6


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(("pick", "pick", "pick", "other", "rest", "die", "add", "remove", "late")), max_size=200),
    st.sampled_from(("round_robin",)),
    st.integers(2, 8),
)
def test_picks_of_the_keys_that_stay_eligible_differ_by_at_most_one(steps, strategy, count):
    rotation = rotation_of(count + 6)
    steady = set(range(1, count + 1))
    used: Counter[int] = Counter(dict.fromkeys(steady, 0))
    held: list[Lease] = []
    now, new_id = 0.0, 100

    for step in steps:
        now += 3.0
        if step == "add":
            new_id += 1
            rotation.put(KeyState(new_id, "gemini", "new"))
            continue
        if step == "remove":
            rotation.remove(next((key_id for key_id in rotation.keys if key_id not in steady), 0))
            continue
        taken = lease(rotation, now, "other" if step == "other" else "m", strategy=strategy)
        used[taken.key_id] += 1
        if step in ("rest", "die") and taken.key_id not in steady:
            rotation.apply(taken, PAIR_LIMITED if len(held) % 2 else RATE_LIMITED if step == "rest" else DEAD, now)
        elif step == "late":
            held.append(taken)
        else:
            rotation.succeeded(taken)

    counts = [used[key_id] for key_id in steady]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STRATEGIES), st.integers(0, 6), st.integers(0, 90)), max_size=150))
def test_whatever_happens_a_resting_key_is_never_picked_and_no_key_is_lost(steps):
    rotation = rotation_of(6, policy=Policy(3, 4, 10.0))
    for key_id in (7, 8, 9):
        rotation.put(KeyState(key_id, "gemini", "v", group="team"))
    verdicts = (None, RATE_LIMITED, PAIR_LIMITED, GROUP_LIMITED, GONE, PROVIDER, Verdict(Action.CLIENT))
    now = 0.0
    for strategy, what, wait_s in steps:
        now += wait_s
        picked = pick(rotation, now, strategy=strategy)
        if picked.key is None:
            assert picked.outcome in (Outcome.RESTING, Outcome.MODEL_GONE)
            continue
        blocker = picked.key.blocker("m")
        assert blocker is None or blocker.probe == picked.serial
        verdict = verdicts[what]
        if verdict is None:
            rotation.succeeded(lease_of(picked))
        else:
            rotation.apply(lease_of(picked), verdict, now)

    now += 1e7
    found: set[int] = set()
    for _ in range(60):
        picked = pick(rotation, now)
        if picked.key is not None:
            found.add(picked.key.id)
            rotation.succeeded(lease_of(picked))
    assert found == set(range(1, 10))


# -- rests ---------------------------------------------------------------------------------------------------


def test_a_rate_limited_key_rests_and_the_next_one_is_used():
    rotation = rotation_of(2)

    changes = rotation.apply(lease(rotation), RATE_LIMITED, 0.0, 429)

    assert [(change.key_id, change.status, change.until) for change in changes] == [(1, Status.RESTING, 60.0)]
    assert changes[0].http_status == 429
    assert {lease(rotation, 59.0).key_id for _ in range(4)} == {2}


def test_a_wait_named_by_the_provider_is_exact_and_clamped():
    for named_s, rest_s in ((34.07, 34.07), (0.0, 1.0), (1e12, 31 * 86400.0)):
        rotation = rotation_of(1)
        changes = rotation.apply(lease(rotation), Verdict(Action.KEY_REST, Scope.KEY, rest_s=named_s), 0.0)
        assert changes[0].until == rest_s


def test_repeated_failures_rest_longer_and_a_success_starts_anew():
    rotation = rotation_of(1)
    now, rests = 0.0, []
    for _ in range(4):
        change = rotation.apply(lease(rotation, now), RATE_LIMITED, now)[0]
        assert change.until is not None
        rests.append(change.until - now)
        now = change.until
        rotation.heal(now)
    rotation.succeeded(lease(rotation, now))
    change = rotation.apply(lease(rotation, now), RATE_LIMITED, now)[0]

    assert rests == [60.0, 300.0, 1500.0, 3600.0]
    assert change.until == now + 60.0


def test_a_growing_wait_has_jitter_of_at_most_a_fifth():
    waits = set()
    for seed in range(50):
        rotation = Rotation(random.Random(seed), Policy(0))
        rotation.put(KeyState(1, "gemini", "v"))
        until = rotation.apply(lease(rotation), RATE_LIMITED, 0.0)[0].until
        assert until is not None
        assert 48.0 <= until <= 72.0
        waits.add(until)
    assert len(waits) > 40


def test_a_shorter_rest_never_shortens_a_longer_one():
    rotation = rotation_of(1)
    first, second = lease(rotation), lease(rotation)
    rotation.apply(first, Verdict(Action.KEY_REST, Scope.KEY, rest_s=300.0), 0.0)

    assert rotation.apply(second, Verdict(Action.KEY_REST, Scope.KEY, rest_s=5.0), 1.0) == []
    assert pick(rotation, 200.0).wake_at == 300.0


def test_ten_calls_that_fail_at_once_are_one_step_on_the_ladder():
    rotation = rotation_of(1)
    leases = [lease(rotation) for _ in range(10)]
    for one in leases:
        rotation.apply(one, RATE_LIMITED, 0.0)

    assert rotation.keys[1].limit.level == 1
    assert pick(rotation).wake_at == 60.0


def test_an_old_success_does_not_end_a_rest():
    rotation = rotation_of(1)
    old, failing = lease(rotation), lease(rotation)
    rotation.apply(failing, RATE_LIMITED, 0.0)

    assert rotation.succeeded(old) == []
    assert pick(rotation, 1.0).outcome is Outcome.RESTING


def test_a_rest_of_one_model_leaves_the_key_to_the_others():
    rotation = rotation_of(1)
    rotation.apply(lease(rotation, model="pro"), PAIR_LIMITED, 0.0)

    assert pick(rotation, model="pro").outcome is Outcome.RESTING
    assert lease(rotation, model="flash").key_id == 1


def test_the_model_that_the_error_names_rests_as_well_as_the_one_asked_for():
    rotation = rotation_of(1)
    verdict = Verdict(Action.KEY_REST, Scope.KEY_MODEL, "rate_limited", rest_s=60.0, model="pro-2026")
    rotation.apply(lease(rotation, model="pro-latest"), verdict, 0.0)

    for model in ("pro-latest", "pro-2026"):
        assert pick(rotation, model=model).outcome is Outcome.RESTING


def test_keys_of_one_group_rest_together_and_only_within_their_provider():
    rotation = rotation_of(2, group="project")
    rotation.put(KeyState(3, "gemini", "c"))
    rotation.put(KeyState(4, "openai", "d", group="project"))

    rotation.apply(lease(rotation), GROUP_LIMITED, 0.0)

    assert {lease(rotation).key_id for _ in range(4)} == {3}
    assert rotation.usable("openai", 0.0) == 1


def test_a_group_rests_for_one_model():
    rotation = rotation_of(2, group="project")
    rotation.apply(lease(rotation, model="pro"), Verdict(Action.KEY_REST, Scope.GROUP_MODEL, rest_s=60.0), 0.0)

    assert pick(rotation, model="pro").outcome is Outcome.RESTING
    assert pick(rotation, model="flash").key is not None


def test_a_key_without_a_group_is_a_group_of_its_own():
    rotation = rotation_of(2)
    rotation.apply(lease(rotation), GROUP_LIMITED, 0.0)

    assert lease(rotation).key_id == 2


def test_a_rest_of_the_provider_covers_all_its_keys():
    rotation = rotation_of(3)
    rotation.apply(lease(rotation), Verdict(Action.KEY_REST, Scope.PROVIDER, "slow_down", rest_s=20.0), 0.0)

    assert told(pick(rotation, 1.0)) == (Outcome.RESTING, 20.0)
    assert rotation.usable("gemini", 1.0) == 0
    assert pick(rotation, 20.0).key is not None


def test_a_model_that_a_key_does_not_offer_is_skipped_for_an_hour():
    rotation = rotation_of(2)
    rotation.apply(lease(rotation, model="new"), GONE, 0.0)
    assert {lease(rotation, 1.0, model="new").key_id for _ in range(3)} == {2}

    rotation.apply(lease(rotation, 1.0, model="new"), GONE, 1.0)

    assert pick(rotation, 2.0, model="new").outcome is Outcome.MODEL_GONE
    assert pick(rotation, 3601.0, model="new").probes == ()
    assert pick(rotation, 2.0, model="old").key is not None


def test_a_clients_fault_and_bound_state_touch_no_key():
    rotation = rotation_of(1)
    for action in (Action.CLIENT, Action.STATE, Action.PROVIDER):
        assert rotation.apply(lease(rotation), Verdict(action), 0.0) == []
    assert pick(rotation).key is not None


def test_callers_with_endless_model_names_fill_no_memory():
    rotation = rotation_of(2)
    for number in range(3000):
        rotation.apply(Lease(1, "gemini", f"model-{number}", "", serial=number), GONE, 0.0)

    assert len(rotation.keys[1].pairs) <= 256
    assert len(rotation.pools["gemini"].rings) <= 200
    rotation.heal(4000.0)
    rotation.heal(90000.0)
    assert not rotation.keys[1].pairs
    assert not rotation.pools["gemini"].rings


# -- probes --------------------------------------------------------------------------------------------------


def rested_once(count: int = 1) -> Rotation:
    rotation = rotation_of(count)
    rest_all(rotation, count)
    return rotation


def test_after_a_rest_one_probe_goes_out_and_the_others_wait_a_second():
    rotation = rested_once()

    probe = pick(rotation, 60.0)
    other = pick(rotation, 60.5)

    assert probe.probes == ("key:1",)
    assert (other.outcome, other.wake_at) == (Outcome.RESTING, 61.5)


def test_a_probe_that_succeeds_makes_the_key_healthy():
    rotation = rested_once()
    healed = rotation.heal(60.0)
    changes = rotation.succeeded(lease(rotation, 60.0))

    assert [(change.status, change.failures) for change in healed + changes] == [
        (Status.HEALTHY, 1),
        (Status.HEALTHY, 0),
    ]
    assert pick(rotation, 60.0).probes == ()


def test_a_probe_that_fails_rests_the_key_for_the_next_step():
    rotation = rested_once()
    rotation.apply(lease(rotation, 60.0), RATE_LIMITED, 61.0)

    assert pick(rotation, 62.0).wake_at == 361.0


@pytest.mark.parametrize("verdict", [None, Verdict(Action.CLIENT), PROVIDER])
def test_a_probe_that_says_nothing_is_free_again(verdict):
    rotation = rested_once()
    probe = lease(rotation, 60.0)
    if verdict is None:
        rotation.released(probe)
    else:
        rotation.apply(probe, verdict, 61.0)

    assert pick(rotation, 62.0).probes == ("key:1",)


def test_a_probe_that_is_never_reported_is_given_up_after_a_minute():
    rotation = rested_once()
    lost = lease(rotation, 60.0)

    assert pick(rotation, 119.0).key is None
    assert pick(rotation, 120.0).probes == ("key:1",)
    rotation.released(lost)
    assert pick(rotation, 121.0).key is None


def test_while_a_key_is_probed_the_others_serve():
    rotation = rested_once(2)
    first, second = pick(rotation, 60.0), pick(rotation, 60.0)

    assert {first.probes, second.probes} == {("key:1",), ("key:2",)}
    rotation.succeeded(lease_of(first))
    assert {lease(rotation, 61.0).key_id for _ in range(3)} == {first.key.id}


def test_a_group_is_probed_by_one_attempt():
    rotation = rotation_of(3, group="project")
    rotation.apply(lease(rotation), GROUP_LIMITED, 0.0)

    assert pick(rotation, 60.0).probes == ("group:gemini:project",)
    assert pick(rotation, 60.0).outcome is Outcome.RESTING


def test_a_probe_of_another_worker_is_left_alone_for_a_second():
    rotation = rested_once()
    rotation.probe_elsewhere(pick(rotation, 60.0), 60.0)

    assert pick(rotation, 60.5).outcome is Outcome.RESTING
    assert pick(rotation, 61.0).probes == ("key:1",)


# -- deaths --------------------------------------------------------------------------------------------------


def test_a_dead_key_stays_disabled_until_a_person_enables_it():
    rotation = rotation_of(1)
    changes = rotation.apply(lease(rotation), DEAD, 0.0)

    assert [(change.status, change.reason, change.alert) for change in changes] == [
        (Status.DISABLED, "invalid_api_key", True)
    ]
    assert pick(rotation, 1e9).outcome is Outcome.DISABLED
    rotation.set_status(1, Status.HEALTHY)
    assert pick(rotation, 1e9).key is not None


def test_a_suspended_project_disables_its_whole_group():
    rotation = rotation_of(3, group="project")
    changes = rotation.apply(lease(rotation), Verdict(Action.KEY_DEAD, Scope.GROUP, "consumer_suspended"), 0.0)

    assert sorted(change.key_id for change in changes) == [1, 2, 3]
    assert not rotation.has_keys("gemini")


def test_a_report_from_before_a_persons_change_does_not_undo_it():
    rotation = rotation_of(1)
    first, second = lease(rotation), lease(rotation)
    rotation.apply(first, DEAD, 0.0)
    rotation.set_status(1, Status.HEALTHY)

    assert rotation.apply(second, DEAD, 1.0) == []
    assert pick(rotation, 1.0).key is not None


def test_a_person_who_makes_a_key_healthy_ends_every_rest_that_covers_it():
    rotation = rotation_of(1, group="project")
    for verdict in (PAIR_LIMITED, GROUP_LIMITED):
        rotation.apply(Lease(1, "gemini", "m", "", serial=1), verdict, 0.0)
    rotation.set_status(1, Status.HEALTHY)

    assert pick(rotation).probes == ()


def test_three_unauthorized_answers_in_different_minutes_disable_the_key():
    verdict = Verdict(Action.KEY_REST, Scope.KEY, "unauthorized", rest_s=1.0)
    rotation = rotation_of(1)
    statuses = []
    for now in (0.0, 10.0, 70.0, 80.0, 130.0):
        statuses += [change.status for change in rotation.apply(lease(rotation, now), verdict, now)]

    assert statuses[-1] is Status.DISABLED
    assert statuses.count(Status.DISABLED) == 1


def test_a_success_between_unauthorized_answers_starts_the_count_anew():
    verdict = Verdict(Action.KEY_REST, Scope.KEY, "unauthorized", rest_s=1.0)
    rotation = rotation_of(1)
    for now in (0.0, 70.0, 140.0, 210.0, 280.0):
        rotation.apply(lease(rotation, now), verdict, now)
        rotation.succeeded(lease(rotation, now + 30.0))

    assert pick(rotation, 400.0).key is not None


def test_reports_about_a_removed_key_do_nothing():
    rotation = rotation_of(2)
    held = [lease(rotation), lease(rotation)]
    rotation.remove(1)

    assert rotation.apply(held[0], DEAD, 0.0) == []
    assert rotation.succeeded(held[0]) == []
    rotation.released(held[0])
    assert {lease(rotation).key_id for _ in range(3)} == {2}


# -- why there is no key -----------------------------------------------------------------------------------------


def test_the_reason_tells_apart_why_there_is_no_key():
    assert pick(Rotation()).outcome is Outcome.NO_KEYS
    rotation = rotation_of(1, models=("a*",))
    assert pick(rotation, model="b").outcome is Outcome.NOT_SERVED
    assert pick(rotation, model="a", excluding=(1,)).outcome is Outcome.TRIED


def test_the_earliest_wake_up_over_all_providers_is_told():
    rotation = rotation_of(1)
    rotation.put(KeyState(2, "openai", "b"))
    both = KeyWanted(("gemini", "openai"), {"gemini": "m", "openai": "m"})
    for rest_s in (50.0, 30.0):
        rotation.apply(
            lease_of(rotation.pick(both, "round_robin", 0.0)), Verdict(Action.KEY_REST, Scope.KEY, rest_s=rest_s), 0.0
        )

    assert told(rotation.pick(both, "round_robin", 0.0)) == (Outcome.RESTING, 30.0)


def test_a_rest_wins_over_keys_that_wait_cannot_bring_back():
    rotation = rotation_of(3)
    for verdict in (DEAD, GONE, RATE_LIMITED):
        rotation.apply(lease(rotation), verdict, 0.0)

    assert pick(rotation).outcome is Outcome.RESTING


# -- storms, circuits, networks ----------------------------------------------------------------------------------


def test_a_storm_of_rate_limits_pauses_the_provider_instead_of_spending_its_keys():
    rotation = rotation_of(6, policy=Policy(brake_threshold=3))
    held = [lease(rotation) for _ in range(6)]
    changes = [change for one in held for change in rotation.apply(one, RATE_LIMITED, 0.0)]

    resting = [change.key_id for change in changes if change.scope is Scope.KEY]
    paused = [change for change in changes if change.scope is Scope.PROVIDER]
    assert resting == [1, 2, 3]
    assert [(change.reason, change.until, change.alert) for change in paused] == [("brake", 5.0, True)]
    assert pick(rotation, 1.0).wake_at == 5.0


def test_the_pause_doubles_while_the_storm_goes_on_and_a_success_ends_it():
    rotation = rotation_of(20, policy=Policy(brake_threshold=3))
    for _ in range(3):
        rotation.apply(lease(rotation), Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=9e5), 0.0)
    assert pick(rotation).key is not None
    for _ in range(7):
        rotation.apply(lease(rotation), Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=9e5), 0.0)
    now, pauses = 0.0, []
    for _ in range(5):
        wake_at = pick(rotation, now).wake_at
        pauses.append(wake_at - now)
        now = wake_at
        probe = pick(rotation, now)
        assert probe.probes == ("provider:gemini",)
        rotation.apply(lease_of(probe), Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=9e5), now)
    now = pick(rotation, now).wake_at
    rotation.succeeded(lease(rotation, now))

    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0]
    assert pick(rotation, now).key is not None


def test_a_few_limited_keys_of_a_big_pool_are_no_storm():
    rotation = rotation_of(50, policy=Policy(brake_threshold=3))
    rest_all(rotation, 20)

    assert pick(rotation).key is not None


def test_slow_failures_are_no_storm():
    rotation = rotation_of(6, policy=Policy(brake_threshold=3))
    for now in range(0, 50, 11):
        changes = rotation.apply(
            lease(rotation, now), Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=9e5), now
        )
        assert all(change.scope is Scope.KEY for change in changes)


def test_a_storm_of_deaths_rests_the_keys_beyond_the_threshold():
    rotation = rotation_of(6, policy=Policy(brake_threshold=3))
    held = [lease(rotation) for _ in range(6)]
    changes = [change for one in held for change in rotation.apply(one, DEAD, 0.0)]

    keys = [(change.key_id, change.status, change.reason, change.until) for change in changes if change.key_id]
    assert keys[:3] == [(key_id, Status.DISABLED, "invalid_api_key", None) for key_id in (1, 2, 3)]
    assert keys[3:] == [(key_id, Status.RESTING, "brake", 60.0) for key_id in (4, 5, 6)]
    assert all(change.alert for change in changes)


def test_failures_of_the_provider_open_the_circuit_and_one_probe_closes_it():
    rotation = rotation_of(2, policy=Policy(0, 3, 30.0))
    for _ in range(3):
        rotation.apply(lease(rotation), PROVIDER, 0.0)
    assert pick(rotation, 1.0).wake_at == 30.0

    probe = pick(rotation, 30.0)
    assert pick(rotation, 30.0).outcome is Outcome.RESTING
    rotation.apply(lease_of(probe), PROVIDER, 31.0)
    assert pick(rotation, 32.0).wake_at == 61.0
    rotation.succeeded(lease(rotation, 61.0))

    assert pick(rotation, 61.0).probes == ()


def test_a_success_between_failures_keeps_the_circuit_closed():
    rotation = rotation_of(2, policy=Policy(0, 3, 30.0))
    for _ in range(5):
        rotation.apply(lease(rotation), PROVIDER, 0.0)
        rotation.apply(lease(rotation), PROVIDER, 0.0)
        rotation.succeeded(lease(rotation))

    assert pick(rotation).key is not None


def test_trouble_of_our_network_pauses_the_provider_and_touches_no_key():
    rotation = rotation_of(2)
    changes = rotation.apply(lease(rotation), Verdict(Action.EGRESS, reason="region"), 0.0)

    assert [(change.scope, change.until) for change in changes] == [(Scope.PROVIDER, 30.0)]
    probe = lease(rotation, 30.0)
    rotation.apply(probe, Verdict(Action.EGRESS, reason="region"), 30.0)
    assert pick(rotation, 31.0).wake_at == 90.0


def test_a_key_that_does_not_allow_our_address_rests_alone():
    rotation = rotation_of(2)
    refused = lease(rotation)

    changes = rotation.apply(refused, Verdict(Action.EGRESS, Scope.KEY, reason="ip_blocked", rest_s=60.0), 0.0)

    assert [(change.scope, change.key_id, change.until) for change in changes] == [(Scope.KEY, refused.key_id, 60.0)]
    assert pick(rotation, 1.0).key is not None
