"""Upstream keys with their database: what people change, what workers decide, what survives a restart."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.clock import Clock
from app.errors import AllKeysResting, BadRequest, ChangedMeanwhile, Conflict, ModelNotFound, NoKeys, NotFound
from app.keys.base import Action, Ladder, Scope, Status, Verdict
from app.storage.schema import daily_stats, keys, revision

from .conftest import take, wait_until, wanted

VALUE = "AIza-secret-value-"
LIMITED = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", "Slow down", rest_s=600.0)
PAIR_LIMITED = Verdict(Action.KEY_REST, Scope.KEY_MODEL, "rate_limited", rest_s=600.0)
GROUP_LIMITED = Verdict(Action.KEY_REST, Scope.GROUP, "rate_limited", rest_s=600.0)
GROWING = Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", ladder=Ladder(60.0, 5.0, 3600.0))
DEAD = Verdict(Action.KEY_DEAD, Scope.KEY, "invalid_api_key", "Bad key", alert=True)
GONE = Verdict(Action.MODEL_GONE, Scope.KEY_MODEL, "model_not_found")


def add(worker, count=1, start=0, **fields):
    return [worker.keys.add(f"{VALUE}{number:04d}", **fields) for number in range(start, start + count)]


def status(worker, key_id=1):
    return worker.keys.get(key_id)["status"]


def stored(worker, key_id=1):
    with worker.database.read() as connection:
        return dict(connection.execute(sa.select(keys).where(keys.c.id == key_id)).mappings().one())


def revision_of(worker):
    with worker.database.read() as connection:
        return connection.execute(sa.select(revision.c.value)).scalar_one()


def report(worker, moment, verdict, **more):
    lease = take(worker, moment, **more)
    worker.keys.failed(lease, verdict, moment.monotonic, 429)
    worker.written()
    return lease


# -- adding and showing --------------------------------------------------------------------------------------


def test_a_key_is_shown_masked_and_stored_encrypted(worker, tmp_path):
    key_id = worker.keys.add(f"  {VALUE}0001\n", name="First", priority=3, note="n", group="g", models=["gemini-*"])

    assert worker.keys.get(key_id) == {
        "id": key_id,
        "name": "First",
        "key_value": "AIza...0001",
        "status": "Healthy",
        "priority": 3,
        "provider": "gemini",
        "group": "g",
        "models": ["gemini-*"],
        "note": "n",
        "reason": "",
        "evidence": {"status": 0, "message": ""},
        "disabled_until": None,
        "model_rests": [],
        "last_used": None,
        "total_usage": 0,
    }
    assert worker.keys.secrets() == [f"{VALUE}0001"]
    assert all(VALUE.encode() not in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


@pytest.mark.parametrize(
    "value",
    ["", "short", "123456789", "a key with blanks", "line\r\nbreak-0001", "k\u00e9y-value-0001", None, 7, "x" * 9000],
)
def test_a_value_that_is_no_key_is_refused(worker, value):
    with pytest.raises(BadRequest, match="Invalid key."):
        worker.keys.add(value)
    assert worker.keys.list_keys() == []


def test_a_value_can_be_added_once(worker):
    add(worker)
    with pytest.raises(BadRequest, match="Key exists."):
        add(worker, provider="openai")


@pytest.mark.parametrize(
    "fields",
    [{"name": 5}, {"priority": "1"}, {"priority": True}, {"models": "gemini"}, {"models": [1]}, {"provider": ""}],
)
def test_wrong_fields_are_refused_and_nothing_is_stored(worker, fields):
    with pytest.raises(BadRequest):
        add(worker, **fields)
    assert worker.keys.list_keys() == []


def test_an_unknown_key_is_not_found(worker):
    for call in (worker.keys.get, worker.keys.delete, worker.keys.wake, lambda i: worker.keys.update(i, {"name": "x"})):
        with pytest.raises(NotFound, match="Key not found"):
            call(42)


def test_the_whole_value_is_revealed_unless_it_cannot_be_decrypted(worker):
    add(worker, 2)
    with worker.database.transaction() as connection:
        connection.execute(sa.update(keys).where(keys.c.id == 2).values(key_value="v1.AAAA"))

    assert worker.keys.reveal(1) == f"{VALUE}0000"
    with pytest.raises(Conflict) as raised:
        worker.keys.reveal(2)
    assert raised.value.code == "undecryptable"
    with pytest.raises(NotFound, match="Key not found"):
        worker.keys.reveal(42)


# -- changing ------------------------------------------------------------------------------------------------


def test_an_update_changes_only_what_is_named(worker, moment):
    (key_id,) = add(worker, name="One", note="keep")
    worker.keys.update(key_id, {"name": "Two", "priority": 9, "provider": "openai", "unknown": 1})

    shown = worker.keys.get(key_id)
    assert (shown["name"], shown["note"], shown["priority"], shown["provider"]) == ("Two", "keep", 9, "openai")
    assert take(worker, moment, provider="openai").value == f"{VALUE}0000"
    with pytest.raises(NoKeys):
        take(worker, moment)


def test_an_update_without_known_fields_or_with_a_wrong_status_is_refused(worker):
    add(worker, 2)
    with pytest.raises(BadRequest, match="No valid data."):
        worker.keys.update(1, {"unknown": 1})
    for wrong in ("Resting", "dead", None, 1):
        with pytest.raises(BadRequest, match="Update failed."):
            worker.keys.update(1, {"status": wrong})
    with pytest.raises(BadRequest, match="Invalid key."):
        worker.keys.update(1, {"key": "short"})
    with pytest.raises(Conflict, match="Key exists."):
        worker.keys.update(1, {"key": f"{VALUE}0001"})
    assert status(worker) == "Healthy"


def test_a_person_disables_and_enables_a_key(worker, moment):
    add(worker)
    worker.keys.update(1, {"status": "Disabled"})
    with pytest.raises(NoKeys, match="disabled"):
        take(worker, moment)

    worker.keys.update(1, {"status": "Healthy"})

    assert take(worker, moment).key_id == 1


def test_a_new_value_of_a_dead_key_makes_it_healthy(worker, moment):
    add(worker)
    old = report(worker, moment, DEAD)
    worker.keys.update(1, {"key": "AIza-another-value"})
    worker.keys.failed(old, DEAD, moment.monotonic)

    assert take(worker, moment).value == "AIza-another-value"
    assert stored(worker)["key_hint"] == "AIza...alue"


def test_a_renamed_key_keeps_its_rest(worker, moment):
    add(worker)
    report(worker, moment, LIMITED)
    report_until = worker.keys.get(1)["disabled_until"]
    worker.keys.update(1, {"name": "Other", "priority": 5})

    assert status(worker) == "Resting"
    assert worker.keys.get(1)["disabled_until"] == report_until


def test_a_report_from_before_a_persons_change_changes_nothing(worker, moment):
    add(worker)
    lease = take(worker, moment)
    worker.keys.update(1, {"status": "Healthy"})
    worker.keys.failed(lease, DEAD, moment.monotonic)
    worker.written()

    assert (status(worker), stored(worker)["status"]) == ("Healthy", "Healthy")


def test_deleting_a_key_in_use_is_safe_and_its_statistics_go_too(worker, moment):
    add(worker)
    with worker.database.transaction() as connection:
        connection.execute(sa.insert(daily_stats).values(key_id=1, date="2026-11-20"))
    lease = take(worker, moment)
    worker.keys.remember("gemini", "talk", 1, moment.monotonic)
    worker.keys.delete(1)
    worker.keys.succeeded(lease, moment.monotonic)
    worker.keys.failed(lease, DEAD, moment.monotonic)
    worker.written()

    assert worker.keys.list_keys() == []
    assert worker.keys.owner(["gemini"], ["talk"], moment.monotonic) is None
    with worker.database.read() as connection:
        assert connection.execute(sa.select(daily_stats)).all() == []
    assert worker.writer.dropped == 0


def test_bulk_changes_count_the_keys_that_exist(worker, moment):
    add(worker, 3)

    assert worker.keys.bulk([1, 2, 99], "Resting") == 2
    assert [status(worker, key_id) for key_id in (1, 2, 3)] == ["Resting", "Resting", "Healthy"]
    assert worker.keys.get(1)["disabled_until"] == pytest.approx(moment.wall + 3600.0, abs=0.01)
    assert worker.keys.bulk([1], "Healthy") == 1
    assert worker.keys.bulk([2], "Disabled") == 1
    assert worker.keys.bulk([1, 3], "delete") == 2
    assert [item["id"] for item in worker.keys.list_keys()] == [2]


def test_thousands_of_keys_change_in_few_statements(worker):
    statements = []
    sa.event.listen(worker.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    rows = [{"key_value": f"sk-many-{number:06d}", "provider": "openai", "priority": number} for number in range(2000)]

    assert worker.keys.import_([*rows, rows[0]]) == (2000, 1)
    ids = [item["id"] for item in worker.keys.list_keys()]
    for action in ("Resting", "Healthy", "Disabled", "delete"):
        assert worker.keys.bulk(ids, action) == 2000

    assert len(statements) < 100  # one for each key would hold the database for seconds
    assert worker.keys.list_keys() == []


@pytest.mark.parametrize(
    ("ids", "action", "message"),
    [
        ([], "Healthy", "No key IDs provided."),
        (None, "Healthy", "No key IDs provided."),
        ("1", "Healthy", "No key IDs provided."),
        ([1], "Broken", "Invalid status for bulk update."),
        ([1], None, "Invalid status for bulk update."),
        (["1"], "delete", "key_ids must be a list of key IDs."),
        ([True], "delete", "key_ids must be a list of key IDs."),
        ([2**70], "delete", "key_ids must be a list of key IDs."),
    ],
)
def test_wrong_bulk_changes_are_refused(worker, ids, action, message):
    add(worker)
    with pytest.raises(BadRequest, match=re.escape(message)):
        worker.keys.bulk(ids, action)
    assert status(worker) == "Healthy"


def test_a_rest_by_a_person_ends_without_a_probe(worker, moment):
    add(worker)
    worker.keys.bulk([1], "Resting")
    moment.pass_s(3600.0)

    assert take(worker, moment).probe is False


def test_waking_ends_every_rest_but_enables_nothing(worker, moment):
    add(worker, group="project")
    report(worker, moment, PAIR_LIMITED)
    report(worker, moment, GROUP_LIMITED, model="other")
    assert status(worker) == "Resting"
    worker.keys.wake(1)

    assert take(worker, moment).key_id == 1
    worker.keys.update(1, {"status": "Disabled"})
    with pytest.raises(Conflict):
        worker.keys.wake(1)


# -- export, import, environment -----------------------------------------------------------------------------


def test_an_export_can_be_imported_elsewhere(worker, moment, new_worker):
    worker.keys.add(f"{VALUE}a", name="A", note="x", priority=4, provider="openai", group="g", models=["gpt-*"])
    add(worker, 2)
    worker.keys.update(2, {"status": "Disabled"})
    worker.keys.bulk([3], "Resting")
    exported = worker.keys.export()
    worker.keys.bulk([1, 2, 3], "delete")

    assert worker.keys.import_(exported) == (3, 0)
    assert worker.keys.import_(exported) == (0, 3)
    assert worker.keys.export() == exported
    assert exported[0] == {
        "name": "A",
        "key_value": f"{VALUE}a",
        "note": "x",
        "priority": 4,
        "status": "Healthy",
        "provider": "openai",
        "group": "g",
        "models": ["gpt-*"],
    }


def test_an_import_skips_and_counts_what_is_no_key(worker):
    add(worker)
    rows = [{"key_value": f"{VALUE}new"}, {"key_value": f"{VALUE}0000"}, {"key_value": "short"}, {}, None, 5]
    rows += [{"key_value": f"{VALUE}bad", "priority": "high"}, {"key_value": f"{VALUE}new"}]

    assert worker.keys.import_(rows) == (1, 7)
    with pytest.raises(BadRequest):
        worker.keys.import_({"key_value": f"{VALUE}x"})


def test_a_key_of_the_environment_that_was_deleted_stays_deleted(worker):
    values = (f"{VALUE}1", "bad", f"{VALUE}2")
    assert worker.keys.seed("openai", values) == 2
    worker.keys.delete(1)

    assert worker.keys.seed("openai", (*values, f"{VALUE}3")) == 1
    assert [item["key_value"][-1] for item in worker.keys.list_keys()] == ["2", "3"]
    assert {item["provider"] for item in worker.keys.list_keys()} == {"openai"}


def test_a_worker_knows_the_keys_that_another_worker_took_from_the_environment_at_the_same_time(new_worker, moment):
    first, second = new_worker(), new_worker()
    values = (f"{VALUE}1", f"{VALUE}2")
    assert first.keys.seed("gemini", values) == 2

    assert second.keys.seed("gemini", values) == 0
    assert take(second, moment).value in values


# -- taking and reporting ------------------------------------------------------------------------------------


def test_a_rate_limited_key_rests_and_the_next_one_is_used(worker, moment):
    add(worker, 2)
    report(worker, moment, LIMITED)

    assert {take(worker, moment).key_id for _ in range(3)} == {2}
    shown = worker.keys.get(1)
    assert (shown["status"], shown["reason"]) == ("Resting", "rate_limited")
    assert shown["evidence"] == {"status": 429, "message": "Slow down"}
    assert shown["disabled_until"] == pytest.approx(moment.wall + 600.0, abs=0.01)
    assert worker.keys.states() == {"gemini": {"Healthy": 1, "Resting": 1, "Disabled": 0}}
    assert worker.keys.usable("gemini", moment.monotonic) == 1


def test_all_keys_resting_tells_when_the_first_wakes_up(worker, moment):
    add(worker)
    report(worker, moment, LIMITED)
    moment.pass_s(100.0)

    with pytest.raises(AllKeysResting) as raised:
        take(worker, moment)
    assert raised.value.retry_after_s == pytest.approx(500.0)
    assert raised.value.wake_at == pytest.approx(moment.wall + 500.0, abs=0.01)


def test_the_errors_tell_missing_disabled_and_unsuitable_keys_apart(worker, moment):
    with pytest.raises(NoKeys, match="There is no key for provider gemini"):
        take(worker, moment)
    add(worker, models=["gemini-*"])
    with pytest.raises(NoKeys, match="may serve"):
        take(worker, moment)
    report(worker, moment, GONE, model="gemini-1")
    with pytest.raises(ModelNotFound, match="gemini-1"):
        take(worker, moment, model="gemini-1")
    with pytest.raises(NoKeys, match="tried"):
        take(worker, moment, model="gemini-2", excluding=frozenset({1}))


def test_a_rest_ends_by_the_clock_and_the_database_shows_it(worker, moment):
    add(worker)
    report(worker, moment, GROWING)
    worker.keys.heal(moment.pass_s(80.0))
    worker.written()

    assert (status(worker), stored(worker)["status"], stored(worker)["failures"]) == ("Healthy", "Healthy", 1)
    probe = take(worker, moment)
    assert probe.probe
    with pytest.raises(AllKeysResting) as raised:
        take(worker, moment)
    assert raised.value.retry_after_s == pytest.approx(1.0)
    worker.keys.succeeded(probe, moment.monotonic)
    worker.written()
    assert take(worker, moment).probe is False
    assert stored(worker)["failures"] == 0


def test_a_secret_in_the_providers_sentence_is_not_stored(worker, moment):
    add(worker)
    report(worker, moment, Verdict(Action.KEY_DEAD, Scope.KEY, "suspended", f"Consumer api_key:{VALUE}0000 is off"))

    assert VALUE not in stored(worker)["evidence"]
    assert VALUE not in str(worker.keys.list_keys())


def test_a_lease_does_not_show_its_value(worker, moment):
    add(worker)
    assert VALUE not in repr(take(worker, moment))


def test_picks_are_counted_in_batches_and_do_not_move_the_revision(worker, moment):
    add(worker, 2)
    before = revision_of(worker)
    for _ in range(101):
        worker.keys.succeeded(take(worker, moment), moment.monotonic)
    assert [worker.keys.get(key_id)["total_usage"] for key_id in (1, 2)] == [51, 50]
    worker.written()

    assert [stored(worker, key_id)["total_requests"] for key_id in (1, 2)] == [51, 50]
    assert stored(worker)["last_rotated_at"] == moment.wall
    assert worker.keys.get(1)["last_used"] == moment.wall
    assert revision_of(worker) == before


def test_uses_of_today_are_known_after_a_restart_and_start_anew_at_midnight(worker, moment, new_worker):
    add(worker, 2)
    with worker.database.transaction() as connection:
        connection.execute(sa.insert(daily_stats).values(key_id=1, date="2024-10-04", requests=9))
    worker.settings.update({"failover_strategy": "least_used"})
    other = new_worker()

    assert [take(other, moment).key_id for _ in range(3)] == [2, 2, 2]
    moment.pass_s(43_200.0)
    assert sorted(take(other, moment).key_id for _ in range(2)) == [1, 2]


def test_the_strategy_changes_live(worker, moment):
    add(worker, 1, priority=5)
    add(worker, 1, start=1, priority=1)
    worker.settings.update({"failover_strategy": "priority"})

    assert {take(worker, moment).key_id for _ in range(3)} == {2}
    worker.settings.update({"failover_strategy": "round_robin"})
    assert {take(worker, moment).key_id for _ in range(2)} == {1, 2}


def test_the_circuit_breaker_follows_its_settings(worker, moment):
    add(worker, 2)
    trouble = Verdict(Action.PROVIDER, reason="server_error")
    for _ in range(10):
        worker.keys.failed(take(worker, moment), trouble, moment.monotonic)
    worker.settings.update({"enable_circuit_breaker": True, "circuit_breaker_threshold": 2})
    worker.keys.failed(take(worker, moment), trouble, moment.monotonic)

    with pytest.raises(AllKeysResting):
        take(worker, moment)


def test_changes_are_told_to_subscribers(worker, moment):
    add(worker)
    told = []
    worker.keys.subscribe(told.append)
    report(worker, moment, DEAD)

    assert [(change.key_id, change.status, change.reason, change.alert) for change in told] == [
        (1, Status.DISABLED, "invalid_api_key", True)
    ]


def test_whether_a_provider_has_keys_and_any_is_real(worker):
    assert not worker.keys.any_real()
    worker.keys.add("demo-key-0001", provider="demo")
    assert not worker.keys.any_real()
    assert worker.keys.has_keys("demo")
    add(worker)
    worker.keys.update(2, {"status": "Disabled"})
    assert worker.keys.any_real()
    assert not worker.keys.has_keys("gemini")
    assert worker.keys.has_any("gemini")
    assert not worker.keys.has_any("openai")
    worker.keys.update(2, {"status": "Healthy"})
    assert worker.keys.has_keys("gemini")
    worker.keys.delete(2)
    assert not worker.keys.has_keys("gemini")
    assert not worker.keys.has_any("gemini")


# -- restarts and other workers --------------------------------------------------------------------------------


def test_a_restart_keeps_rests_deaths_and_steps(worker, moment, new_worker):
    add(worker, 4, group="project")
    add(worker, 2, start=4)
    worker.keys.failed(take(worker, moment, model="a"), PAIR_LIMITED, moment.monotonic)
    for verdict in (DEAD, GROWING):
        worker.keys.failed(take(worker, moment), verdict, moment.monotonic)
    report(worker, moment, GROUP_LIMITED)
    report(worker, moment, GONE, model="b")
    before = worker.keys.list_keys()
    moment.monotonic += 5_000.0  # another process, another monotonic clock

    after = new_worker()

    assert [item["status"] for item in before] == ["Resting", "Disabled", "Resting", "Resting", "Healthy", "Healthy"]
    for old, new in zip(before, after.keys.list_keys(), strict=True):
        for name in ("status", "reason", "key_value"):
            assert new[name] == old[name]
        assert new["disabled_until"] == pytest.approx(old["disabled_until"], abs=0.01)
        assert [pair["model"] for pair in new["model_rests"]] == [pair["model"] for pair in old["model_rests"]]
    assert after.keys.get(2)["evidence"] == {"status": 0, "message": "Bad key"}
    assert {take(after, moment, model="b").key_id for _ in range(3)} == {6}
    after.keys.heal(moment.pass_s(600.0))
    after.written()
    assert stored(after, 3)["status"] == "Healthy"
    assert stored(after, 3)["failures"] == 1


def test_a_rest_that_ended_while_the_server_was_off_is_over(worker, moment, new_worker):
    add(worker)
    report(worker, moment, LIMITED)
    moment.wall += 601.0

    after = new_worker()

    assert status(after) == "Healthy"
    assert take(after, moment).probe
    after.written()
    assert stored(after)["status"] == "Healthy"


@pytest.mark.parametrize("model", ["*group*", "*group*m", "x" * 300, "\N{PILE OF POO}", "a'b%_"])
def test_a_callers_strange_model_name_rests_nothing_else(worker, moment, new_worker, model):
    add(worker, 2, group="project")
    report(worker, moment, GONE, model=model)
    report(worker, moment, GONE, model=model)
    with pytest.raises(ModelNotFound):
        take(worker, moment, model=model)

    after = new_worker()

    assert {take(one, moment).key_id for one in (worker, after) for _ in range(2)} == {1, 2}
    assert after.keys.get(1)["status"] == "Healthy"


def test_a_value_that_cannot_be_decrypted_disables_the_key_and_nothing_else(worker, moment):
    add(worker, 2)
    with worker.database.transaction() as connection:
        connection.execute(sa.update(keys).where(keys.c.id == 1).values(key_value="v1.AAAA", version=99))
    worker.keys.refresh()

    shown = worker.keys.get(1)
    assert (shown["status"], shown["reason"]) == ("Disabled", "undecryptable")
    assert {take(worker, moment).key_id for _ in range(3)} == {2}
    assert len(worker.keys.export()) == 1
    worker.keys.update(1, {"key": "AIza-a-new-value"})
    assert {take(worker, moment).key_id for _ in range(2)} == {1, 2}


def test_another_workers_change_is_seen_within_a_quarter_of_a_second(new_worker):
    first, second = new_worker(Clock()), new_worker(Clock())
    for worker in (first, second):
        worker.start()
    add(first)
    assert wait_until(lambda: second.keys.usable("gemini", Clock().monotonic()) == 1) < 0.25

    for verdict in (LIMITED, PAIR_LIMITED):
        lease = first.keys.acquire(wanted(), Clock().monotonic())
        first.keys.failed(lease, verdict, Clock().monotonic())
        assert wait_until(lambda: not _can_take(second)) < 0.25
        first.keys.wake(1)
        assert wait_until(lambda: _can_take(second)) < 0.25
    second.keys.failed(second.keys.acquire(wanted(), Clock().monotonic()), DEAD, Clock().monotonic())
    assert wait_until(lambda: not _can_take(first)) < 0.25


def _can_take(worker):
    try:
        lease = worker.keys.acquire(wanted(), Clock().monotonic())
    except (AllKeysResting, NoKeys):
        return False
    worker.keys.released(lease, Clock().monotonic())
    return True


def test_a_success_elsewhere_ends_the_step_here(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    report(worker, moment, GROWING)
    other.keys.refresh()
    assert status(other) == "Resting"
    moment.pass_s(80.0)
    worker.keys.succeeded(take(worker, moment), moment.monotonic)
    worker.written()
    other.keys.refresh()

    assert take(other, moment).probe is False


def test_only_one_worker_probes_a_key(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    report(worker, moment, GROWING)
    other.keys.refresh()
    moment.pass_s(80.0)

    probe = take(worker, moment)
    with pytest.raises(AllKeysResting) as raised:
        take(other, moment)
    assert raised.value.retry_after_s == pytest.approx(1.0)
    worker.keys.released(probe, moment.monotonic)
    moment.pass_s(1.0)
    assert take(other, moment).probe


def test_a_persons_change_in_another_worker_wins_over_a_decision_made_without_it(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    lease = take(other, moment)
    moment.pass_s(1.0)
    worker.keys.update(1, {"status": "Healthy"})
    moment.pass_s(1.0)
    other.keys.failed(lease, DEAD, moment.monotonic)
    other.written()

    assert stored(worker)["status"] == "Healthy"
    other.keys.refresh()
    assert take(other, moment).key_id == 1


def test_disabled_wins_over_resting_whoever_writes_first(worker, moment, new_worker):
    add(worker, 2)
    other = new_worker()
    leases = [(take(worker, moment), take(other, moment)) for _ in range(2)]
    for (mine, theirs), (first, second) in zip(leases, ((LIMITED, DEAD), (DEAD, LIMITED)), strict=True):
        moment.pass_s(1.0)
        worker.keys.failed(mine, first, moment.monotonic)
        worker.written()
        moment.pass_s(1.0)
        other.keys.failed(theirs, second, moment.monotonic)
        other.written()
    for one in (worker, other):
        one.keys.refresh()

    assert [stored(worker, key_id)["status"] for key_id in (1, 2)] == ["Disabled", "Disabled"]
    assert [status(one, key_id) for one in (worker, other) for key_id in (1, 2)] == ["Disabled"] * 4


def test_the_longer_of_two_rests_wins(worker, moment, new_worker):
    add(worker)
    other = new_worker()
    mine, theirs = take(worker, moment), take(other, moment)
    worker.keys.failed(mine, LIMITED, moment.monotonic)
    worker.written()
    moment.pass_s(0.5)
    other.keys.failed(theirs, Verdict(Action.KEY_REST, Scope.KEY, "rate_limited", rest_s=5.0), moment.monotonic)
    other.written()

    assert stored(worker)["disabled_until"] == pytest.approx(moment.wall + 599.5, abs=0.01)


def test_conversations_are_read_again_only_where_there_are_new_ones(worker, moment, new_worker, monkeypatch):
    add(worker, 2)
    other = new_worker()
    read = []
    original = other.keys._sessions.refresh
    monkeypatch.setattr(other.keys._sessions, "refresh", lambda: (read.append(1), original()))
    for _ in range(3):
        other.keys._sessions.try_refresh()
    assert len(read) == 1
    for talk, key_id in (("one", 1), ("two", 2), ("one", 2)):
        worker.keys.remember("gemini", talk, key_id, moment.monotonic)
        worker.written()
        read.clear()
        for _ in range(3):
            other.keys._sessions.try_refresh()
        assert len(read) == 1
        assert other.keys.owner(["gemini"], [talk], 0.0) == key_id


def test_a_conversation_stays_with_its_key_in_every_worker_and_after_a_restart(worker, moment, new_worker):
    add(worker, 2)
    other = new_worker()
    other.keys.start()
    worker.keys.remember("gemini", "talk", 2, moment.monotonic)
    assert worker.keys.owner(["openai", "gemini"], ["unknown", "talk"], moment.monotonic) == 2
    assert worker.keys.owner(["openai"], ["talk"], moment.monotonic) is None
    worker.written()

    assert wait_until(lambda: other.keys.owner(["gemini"], ["talk"], 0.0) == 2) < 1.0
    after = new_worker()
    after.keys.start()
    assert after.keys.owner(["gemini"], ["talk"], 0.0) == 2
    moment.pass_s(worker.settings.current.session_ttl)
    assert after.keys.owner(["gemini"], ["talk"], 0.0) is None


def test_a_change_that_expects_what_is_no_longer_so_changes_nothing(worker):
    manager = worker.keys
    key_id = manager.add(VALUE + "1", name="first", note="a")
    manager.update(key_id, {"name": "second"})
    with pytest.raises(ChangedMeanwhile) as caught:
        manager.update(key_id, {"name": "third", "note": "b"}, {"name": "first", "note": "a"})
    assert caught.value.now == {"name": "second"}
    assert (manager.get(key_id)["name"], manager.get(key_id)["note"]) == ("second", "a")
    manager.update(key_id, {"note": "b"}, {"note": "a"})
    assert (manager.get(key_id)["name"], manager.get(key_id)["note"]) == ("second", "b")
