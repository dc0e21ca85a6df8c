"""Which keys do not serve, as the dashboard tells it."""

from __future__ import annotations

from app.keys.base import Scope
from app.keys.states import FOREVER, Group, KeyState, Limit
from app.keys.unwell import Unwell, find_unwell


def a_key(key_id: int, until: float = 0.0, reason: str = "", *, mark: int = 0, provider: str = "openai") -> KeyState:
    key = KeyState(key_id, provider, f"secret-{key_id}")
    key.limit.until, key.limit.reason, key.limit.mark = until, reason, mark
    key.limit.message, key.limit.http_status = (f"no, secret-{key_id}", 429) if until else ("", 0)
    return key


def found(*keys: KeyState, most: int = 5) -> Unwell:
    def to_wall(at: float | None) -> float | None:
        return None if at is None else at + 1000

    return find_unwell(keys, most, to_wall, lambda message, secret: message.replace(secret, "***"))


def test_healthy_keys_are_not_named() -> None:
    assert found(a_key(1)) == Unwell([], [], [], 0)


def test_resting_keys_come_in_the_order_in_which_they_wake_up() -> None:
    unwell = found(a_key(1, 30.0, "rate_limited"), a_key(2, 10.0, "overloaded"), a_key(3, 20.0), most=2)

    assert [(ailment.key_id, ailment.until, ailment.reason) for ailment in unwell.resting] == [
        (2, 1010.0, "overloaded"),
        (3, 1020.0, ""),
    ]
    assert (unwell.resting[0].message, unwell.resting[0].http_status) == ("no, ***", 429)


def test_disabled_keys_have_no_end_and_the_last_one_comes_first() -> None:
    unwell = found(a_key(1, FOREVER, "invalid_api_key", mark=9), a_key(2, FOREVER, "manual", mark=3))

    assert [(ailment.key_id, ailment.until) for ailment in unwell.disabled] == [(1, None), (2, None)]


def test_keys_of_a_resting_group_rest() -> None:
    key = a_key(1)
    key.team = Group("openai", "org", Limit(Scope.GROUP, 1, "openai", "group:org", until=5.0, reason="rate_limited"))

    assert [(ailment.key_id, ailment.until) for ailment in found(key).resting] == [(1, 1005.0)]


def test_keys_that_rest_for_one_model_are_healthy_and_named_apart() -> None:
    key = a_key(1)
    for number in range(3):
        limit = key.pair(f"m{number}")
        assert limit is not None
        limit.until, limit.reason = 10.0 - number, "rate_limited"
    key.pair("idle")

    unwell = found(key, most=2)

    assert (unwell.resting, unwell.partial_keys) == ([], 1)
    assert [(ailment.model, ailment.until) for ailment in unwell.partial] == [("m2", 1008.0), ("m1", 1009.0)]
