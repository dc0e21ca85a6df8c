from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from app.clock import Clock
from app.health import Health


@dataclass
class Entry:
    name: str
    enabled: bool = True
    demonstration: bool = False


@dataclass
class House:
    """A middleware whose parts can be broken one by one."""

    database: bool = True
    healthy: bool = True
    dropped: int = 0
    draining: bool = False
    keys: dict[str, dict[str, int]] = field(default_factory=lambda: {"openai": {"Healthy": 1}})
    entries: list[Entry] = field(default_factory=lambda: [Entry("openai"), Entry("demo", demonstration=True)])
    now: float = 1000.0
    checks: int = 0

    def usable(self) -> bool:
        self.checks += 1
        return self.database

    def states(self) -> Mapping[str, Mapping[str, int]]:
        return self.keys


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def health(house: House) -> Health:
    clock = Clock(monotonic=lambda: house.now, wall=lambda: 1795176000.0)
    return Health(house, house, house, lambda: house.entries, lambda: house.draining, version="1.2.3", clock=clock)


def test_the_process_is_alive_whatever_is_broken(house: House, health: Health) -> None:
    house.database, house.keys, house.draining = False, {}, True

    assert health.livez() == (200, {"status": "ok"})
    assert health.health() == (200, {"status": "ok"})


def test_it_is_ready_with_a_database_and_a_key(health: Health) -> None:
    assert health.readyz() == (200, {"status": "ok", "database": True, "keys": True, "draining": False})


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"openai": {"Healthy": 1}}, 200),
        ({"openai": {"Resting": 1}}, 200),
        ({"openai": {"Disabled": 5, "Resting": 1}}, 200),
        ({"openai": {"Disabled": 5, "Healthy": 0}}, 503),
        ({"openai": {}}, 503),
        ({}, 503),
        ({"demo": {"Healthy": 4}}, 503),
        ({"unknown": {"Healthy": 4}}, 503),
    ],
)
def test_readiness_wants_a_real_key_that_is_not_disabled(
    house: House, health: Health, keys: dict[str, dict[str, int]], status: int
) -> None:
    house.keys = keys

    assert health.readyz()[0] == status


def test_keys_of_a_switched_off_provider_do_not_make_it_ready(house: House, health: Health) -> None:
    house.entries = [Entry("openai", enabled=False)]

    assert health.readyz()[0] == 503


def test_it_is_not_ready_while_it_shuts_down(house: House, health: Health) -> None:
    house.draining = True

    status, body = health.readyz()
    assert (status, body["status"], body["draining"]) == (503, "unavailable", True)


def test_the_database_is_asked_at_most_once_a_second(house: House, health: Health) -> None:
    assert health.readyz()[0] == 200
    house.database = False
    assert [health.readyz()[0] for _ in range(50)] == [200] * 50
    assert house.checks == 1

    house.now += 1
    assert health.readyz()[0] == 503
    assert house.checks == 2


def test_health_shows_every_component(house: House, health: Health) -> None:
    house.keys = {"openai": {"Healthy": 2, "Disabled": 1}}
    house.now += 12.5

    status, body = health.healthz()

    assert status == 200
    assert body == {
        "status": "ok",
        "components": {
            "database": {"status": "ok"},
            "writer": {"status": "ok", "dropped": 0},
            "providers": {"status": "ok", "keys": {"openai": {"Healthy": 2, "Resting": 0, "Disabled": 1}}},
            "server": {"status": "ok"},
        },
        "uptime_s": 12.5,
        "version": "1.2.3",
    }


@pytest.mark.parametrize(
    ("broken", "component", "status"),
    [
        ({"database": False}, "database", "failed"),
        ({"healthy": False}, "writer", "behind"),
        ({"keys": {}}, "providers", "no_keys"),
        ({"draining": True}, "server", "draining"),
    ],
)
def test_one_broken_component_degrades_the_whole(
    house: House, health: Health, broken: dict[str, object], component: str, status: str
) -> None:
    for name, value in broken.items():
        setattr(house, name, value)

    code, body = health.healthz()
    assert (code, body["status"], body["components"][component]["status"]) == (503, "degraded", status)

    code, body = health.v1_health()
    assert (code, body["status"], body["components"][component]) == (200, "degraded", status)


def test_callers_see_the_state_without_numbers(health: Health) -> None:
    assert health.v1_health() == (
        200,
        {
            "status": "healthy",
            "components": {"database": "ok", "writer": "ok", "providers": "ok", "server": "ok"},
            "timestamp": "2026-11-20T12:00:00.000Z",
        },
    )
