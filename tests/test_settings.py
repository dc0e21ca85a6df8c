"""The table of live settings, and the store that keeps them."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import BadRequest
from app.settings import BY_NAME, SETTINGS, InvalidSettings, Settings, parse, to_text
from app.settings_store import LiveSettings, SettingsChanged
from app.storage import revision
from app.storage.database import Database
from app.storage.schema import settings as table

# name: default, lowest, highest
RANGES = {
    "max_retries": (7, 1, 20),
    "request_timeout": (600, 5, 3600),
    "connect_timeout": (10, 1, 60),
    "read_timeout": (300, 5, 3600),
    "streaming_timeout": (300, 10, 3600),
    "retry_total": (3, 0, 100),
    "retry_backoff_factor": (0.1, 0, 5),
    "pool_connections": (20, 1, 100),
    "pool_maxsize": (100, 1, 1000),
    "keepalive_timeout": (30, 5, 300),
    "buffer_size": (65536, 1024, 1048576),
    "cache_timeout": (300, 60, 3600),
    "model_cache_timeout": (10, 5, 60),
    "requests_per_minute": (60, 1, 1000000),
    "burst_allowance": (10, 0, 10000),
    "max_request_size": (33554432, 1024, 1073741824),
    "max_concurrent_requests": (0, 0, 100000),
    "circuit_breaker_threshold": (5, 1, 50),
    "circuit_breaker_cooldown": (30, 1, 600),
    "pool_brake_threshold": (5, 0, 100),
    "heartbeat_interval": (10, 0, 60),
    "max_buffered_answer": (8388608, 65536, 268435456),
    "session_ttl": (86400, 60, 2592000),
    "request_retention_days": (30, 1, 3650),
    "request_retention_rows": (200000, 100, 100000000),
}
SWITCHES = {
    "connection_pooling_enabled": True,
    "model_cache_enabled": True,
    "enable_request_id_injection": True,
    "enable_request_logging": True,
    "log_request_body": False,
    "log_response_body": False,
    "enable_metrics_collection": True,
    "enable_rate_limiting": False,
    "enable_cors": False,
    "enable_circuit_breaker": False,
    "openai_include_usage": True,
}
WORDS = {
    "failover_strategy": "round_robin",
    "log_level": "INFO",
    "rate_limiting_strategy": "sliding_window",
    "cors_origins": "*",
    "blocked_user_agents": "",
    "model_default": "",
    "model_provider": "",
}


def refused(name: object, raw: object) -> str:
    with pytest.raises(BadRequest) as caught:
        parse(name, raw)  # type: ignore[arg-type]
    assert caught.value.status == 400
    return caught.value.message


def test_every_setting_has_the_default_that_is_promised():
    promised = {name: row[0] for name, row in RANGES.items()} | SWITCHES | WORDS

    assert dataclasses.asdict(Settings()) == promised
    assert {row.name: row.default for row in SETTINGS} == promised


def test_every_setting_explains_itself():
    for row in SETTINGS:
        assert row.help.endswith(".")
        assert len(row.help) > 25
        assert row.group
        assert row.environment_name == row.name.upper()
        assert parse(row.name, to_text(row.default)) == row.default


@pytest.mark.parametrize("name", RANGES)
def test_numbers_are_held_to_their_range(name):
    _, lowest, highest = RANGES[name]

    assert parse(name, lowest) == lowest
    assert parse(name, str(highest)) == highest
    for wrong in (lowest - 1, highest + 1, str(highest + 1), -(10**30), 10**30):
        assert f"{name} must be between {lowest} and {highest}" in refused(name, wrong)


@pytest.mark.parametrize(
    "wrong", [True, False, 2.5, math.nan, math.inf, -math.inf, "", "two", "2.5", "1e3", "0x5", "1_0", "٣", None, [], {}]
)
def test_a_whole_number_is_nothing_else(wrong):
    assert refused("max_retries", wrong).startswith("max_retries must be between 1 and 20")


def test_a_whole_number_may_be_written_in_several_ways():
    for raw in (3, "3", " 3 ", "+3", 3.0):
        value = parse("max_retries", raw)
        assert value == 3
        assert type(value) is int


def test_the_message_of_a_value_out_of_range_names_the_range():
    assert refused("max_retries", 0) == "max_retries must be between 1 and 20"


def test_a_number_may_have_a_fraction():
    assert parse("retry_backoff_factor", "0.25") == 0.25
    assert parse("retry_backoff_factor", 0) == 0.0
    assert parse("retry_backoff_factor", to_text(parse("retry_backoff_factor", 0.00001))) == 0.00001
    for wrong in (math.nan, math.inf, "nan", "inf", "1e999", True, None, "0.1s", 10**400):
        assert "retry_backoff_factor must be between 0 and 5" in refused("retry_backoff_factor", wrong)


@pytest.mark.parametrize("raw", [False, "false", "False", " FALSE ", "0", 0, "no", "off"])
def test_false_is_false(raw):
    assert parse("enable_cors", raw) is False


@pytest.mark.parametrize("raw", [True, "true", "TRUE", "1", 1, "yes", "on"])
def test_true_is_true(raw):
    assert parse("enable_cors", raw) is True


@pytest.mark.parametrize("raw", ["maybe", "", 2, 0.0, None, [], {}])
def test_a_switch_is_nothing_between(raw):
    assert refused("enable_cors", raw) == "enable_cors must be true or false"


@pytest.mark.parametrize(
    ("raw", "level"),
    [("debug", "DEBUG"), ("info", "INFO"), ("warn", "WARNING"), ("Warning", "WARNING"), ("ERROR", "ERROR")],
)
def test_log_levels_have_the_usual_spellings(raw, level):
    assert parse("log_level", raw) == level


def test_choices_are_listed_when_one_is_not_among_them():
    assert refused("failover_strategy", "best") == (
        "failover_strategy must be one of round_robin, least_used, random, priority"
    )
    assert "must be one of" in refused("failover_strategy", 1)


@pytest.mark.parametrize("raw", ["a\x00b", "a\nb", "\x7f", "\x9b", "\ud800", "x" * 2001, 1, None, ["a"]])
def test_texts_are_short_and_printable(raw):
    assert refused("cors_origins", raw).startswith("cors_origins must")


def test_texts_may_be_of_any_language():
    assert parse("blocked_user_agents", " бот, 🤖 ") == "бот, 🤖"


@pytest.mark.parametrize("name", ["", "nope", "MAX_RETRIES", "__class__", "x" * 10_000, None, 3])
def test_an_unknown_name_is_refused(name):
    assert len(refused(name, 1)) < 200


# The store


@pytest.fixture
def database(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path}/keys.db")
    database.migrate()
    yield database
    database.close()


def revision_of(database: Database) -> int:
    with database.read() as connection:
        return revision.current(connection)


def test_what_is_stored_wins_over_the_environment_which_wins_over_the_default(database):
    live = LiveSettings(database, {"max_retries": "9", "request_timeout": "30"})
    assert (live.current.max_retries, live.current.request_timeout, live.current.retry_total) == (9, 30, 3)

    live.update({"max_retries": 5, "retry_total": "0"})
    assert (live.current.max_retries, live.current.request_timeout, live.current.retry_total) == (5, 30, 0)

    again = LiveSettings(database, {"max_retries": "9"})
    assert (again.current.max_retries, again.current.retry_total) == (5, 0)


def test_a_reset_removes_what_was_stored(database):
    live = LiveSettings(database, {"max_retries": "9"})
    live.update({"max_retries": 5, "enable_cors": True})

    assert live.reset() == LiveSettings(database, {"max_retries": "9"}).current
    assert live.current.max_retries == 9
    assert live.current.enable_cors is False


def test_a_reset_of_some_leaves_the_others(database):
    live = LiveSettings(database, {})
    live.update({"max_retries": 5, "enable_cors": True})

    live.reset(["max_retries"])
    assert (live.current.max_retries, live.current.enable_cors) == (7, True)

    with pytest.raises(BadRequest):
        live.reset(["enable_cors", "nope"])
    assert live.current.enable_cors is True


def test_each_setting_tells_where_its_value_comes_from(database):
    live = LiveSettings(database, {"max_retries": "9", "retry_total": "4"})
    live.update({"retry_total": 5})

    sources = [live.source(name) for name in ("retry_total", "max_retries", "connect_timeout")]
    assert sources == ["saved", "environment", "default"]
    assert [live.unsaved(name) for name in ("retry_total", "max_retries", "connect_timeout")] == [4, 9, 10]


def test_a_change_of_what_somebody_else_changed_meanwhile_is_refused_and_told(database):
    here, there = LiveSettings(database, {}), LiveSettings(database, {})
    there.update({"max_retries": 5, "retry_total": 8})

    with pytest.raises(SettingsChanged) as caught:
        here.update({"max_retries": 9, "connect_timeout": 20}, expected={"max_retries": 7, "connect_timeout": 10})
    assert (caught.value.status, caught.value.now) == (409, {"max_retries": 5})
    here.refresh()
    assert (here.current.max_retries, here.current.connect_timeout) == (5, 10)

    here.update({"connect_timeout": 20}, expected={"connect_timeout": 10})
    assert (here.current.connect_timeout, here.current.retry_total) == (20, 8)


def test_every_fault_is_told_not_only_the_first(database):
    with pytest.raises(InvalidSettings) as caught:
        LiveSettings(database, {}).update({"max_retries": 0, "nope": 1, "retry_total": 5, "enable_cors": "maybe"})
    assert list(caught.value.faults) == ["max_retries", "nope", "enable_cors"]


def test_a_change_is_used_whole_or_not_at_all(database):
    live = LiveSettings(database, {})
    before, number = live.current, revision_of(database)

    for wrong in ({"max_retries": 5, "retry_total": 101}, {"max_retries": 5, "nope": 1}, {"max_retries": 5, 3: 1}, [1]):
        with pytest.raises(BadRequest):
            live.update(wrong)  # type: ignore[arg-type]

    assert live.current is before
    assert revision_of(database) == number
    assert LiveSettings(database, {}).current == before


def test_changes_bump_the_revision_and_another_process_sees_them_after_a_refresh(database):
    here, there = LiveSettings(database, {}), LiveSettings(database, {})
    number = revision_of(database)

    here.update({"max_retries": 5})
    assert revision_of(database) > number
    assert there.current.max_retries == 7
    there.refresh()
    assert there.current.max_retries == 5

    number = revision_of(database)
    here.reset()
    assert revision_of(database) > number


def test_subscribers_are_told_of_changes_only(database):
    live = LiveSettings(database, {})
    told: list[Settings] = []
    live.subscribe(told.append)

    live.refresh()
    live.update({"max_retries": 7})
    assert told == []

    live.update({"max_retries": 5})
    live.refresh()
    assert [settings.max_retries for settings in told] == [5]


def test_a_subscriber_may_read_and_change_settings(database):
    live = LiveSettings(database, {})
    live.subscribe(lambda settings: live.update({"retry_total": settings.max_retries}))

    live.update({"max_retries": 5})

    assert live.current.retry_total == 5


def test_a_stored_value_that_means_nothing_any_more_is_ignored_with_one_warning(database, caplog):
    with database.transaction() as connection:
        connection.execute(
            sa.insert(table),
            [
                {"key": "max_retries", "value": "many"},
                {"key": "gone", "value": "1"},
                {"key": "retry_total", "value": "4"},
            ],
        )

    with caplog.at_level(logging.WARNING, "app.settings_store"):
        live = LiveSettings(database, {})
        live.refresh()

    assert (live.current.max_retries, live.current.retry_total) == (7, 4)
    assert len(caplog.records) == 2


def test_every_setting_survives_its_way_through_the_database(database):
    live = LiveSettings(database, {})
    values: dict[str, object] = {}
    for row in SETTINGS:
        if row.kind == "boolean":
            values[row.name] = not row.default
        elif row.kind == "choice":
            values[row.name] = BY_NAME[row.name].choices[-1]
        elif row.kind == "text":
            values[row.name] = "ключ"
        else:
            values[row.name] = row.maximum

    live.update(values)

    assert dataclasses.asdict(LiveSettings(database, {}).current) == values
