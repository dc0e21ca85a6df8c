"""
What each verdict does to keys, groups and provider entries: rests, deaths, the pool brake and the circuit breaker.

Pure, like `rotation`, which owns the limits that are changed here. A younger, shorter rest never shortens a longer one,
and an attempt that began before the last rest never makes it grow: ten calls that fail at once are one failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .base import Action, Ladder, Lease, Scope, Status, Verdict
from .ring import Pool
from .states import FOREVER, KeyState, Limit, Storm, group_pair

if TYPE_CHECKING:
    from .rotation import Rotation

MIN_REST_S = 1.0
MAX_REST_S = 31 * 86400.0
DEFAULT_LADDER = Ladder(5.0, 2.0, 600.0)
EGRESS_LADDER = Ladder(30.0, 2.0, 600.0)
BRAKE_LADDER = Ladder(5.0, 2.0, 60.0)
BRAKED_DEATH_REST_S = 60.0
MODEL_GONE_S = 3600.0
JITTER = 0.2
#: A status 401 without a known code rests the key; this many in a row, each in a minute of its own, disable it.
UNAUTHORIZED = "unauthorized"
MAX_UNAUTHORIZED = 3
BRAKE = "brake"
CIRCUIT_OPEN = "circuit_open"


class Effects:
    """Applies verdicts to the limits of a rotation."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._of_provider: dict[Action, Callable[[Pool, _Report], None]] = {
            Action.PROVIDER: self._provider_failed,
            Action.EGRESS: self._egress_failed,
        }
        self._of_key: dict[Action, Callable[[Pool, KeyState, _Report], None]] = {
            Action.KEY_DEAD: self._key_died,
            Action.KEY_REST: self._key_rests,
            Action.MODEL_GONE: self._model_gone,
            Action.EGRESS: self._key_refused_here,
        }

    def apply(self, lease: Lease, verdict: Verdict, now: float, http_status: int) -> None:
        """Do what the verdict says. CLIENT and STATE say nothing about a key."""
        pool = self._rotation.pools.get(lease.provider)
        if pool is None:
            return
        report = _Report(lease, verdict, now, http_status)
        if verdict.action in self._of_provider and verdict.scope is not Scope.KEY:
            self._of_provider[verdict.action](pool, report)
        elif verdict.action is Action.KEY_REST and verdict.scope is Scope.PROVIDER:
            self._rest(pool.limit, report, verdict.reason, verdict.ladder or DEFAULT_LADDER, verdict.rest_s)
        elif verdict.action in self._of_key:
            key = self._rotation.keys.get(lease.key_id)
            if key is not None and key.provider == pool.name and key.epoch == lease.epoch:
                self._of_key[verdict.action](pool, key, report)

    # -- provider entries ----------------------------------------------------------------------------

    def _provider_failed(self, pool: Pool, report: _Report) -> None:
        policy = self._rotation.policy
        pool.failures += 1
        if policy.breaker_threshold and pool.failures >= policy.breaker_threshold:
            self._rest(pool.limit, report, CIRCUIT_OPEN, DEFAULT_LADDER, policy.breaker_cooldown_s)

    def _egress_failed(self, pool: Pool, report: _Report) -> None:
        self._rest(pool.limit, report, report.verdict.reason, EGRESS_LADDER, report.verdict.rest_s)

    # -- keys ------------------------------------------------------------------------------------------

    def _key_rests(self, pool: Pool, key: KeyState, report: _Report) -> None:
        if self._is_unauthorized_for_good(key, report):
            self._key_died(pool, key, report)
            return
        probes_brake = pool.limit.reason == BRAKE and pool.limit.probe == report.serial
        if _is_braked(pool) and not probes_brake:
            return
        verdict = report.verdict
        for limit in _covered(key, verdict.scope, report.models):
            limit.key_id = key.id
            self._rest(limit, report, verdict.reason, verdict.ladder or DEFAULT_LADDER, verdict.rest_s)
        pool.rests.note(key.id, report.now)
        if probes_brake or self._is_storm(pool, pool.rests, report.now):
            self._pause(pool, report)

    def _key_refused_here(self, _pool: Pool, key: KeyState, report: _Report) -> None:
        """This key's own rules do not allow our address: its neighbors may still work."""
        verdict = report.verdict
        self._rest(key.limit, report, verdict.reason, verdict.ladder or EGRESS_LADDER, verdict.rest_s)

    def _is_unauthorized_for_good(self, key: KeyState, report: _Report) -> bool:
        if report.verdict.reason != UNAUTHORIZED:
            return False
        minute = int(report.now // 60)
        if minute != key.unauthorized_minute:
            key.unauthorized_minute = minute
            key.unauthorized += 1
        return key.unauthorized >= MAX_UNAUTHORIZED

    def _key_died(self, pool: Pool, key: KeyState, report: _Report) -> None:
        if key.limit.until == FOREVER:
            return
        braked = _is_braked(pool) or self._is_storm(pool, pool.deaths, report.now)
        pool.deaths.note(key.id, report.now)
        if braked:
            self._rest(key.limit, report, BRAKE, BRAKE_LADDER, BRAKED_DEATH_REST_S, alert=True)
        else:
            self._disable(key, report)
        if not _is_braked(pool) and self._is_storm(pool, pool.deaths, report.now):
            self._pause(pool, report)

    def _disable(self, key: KeyState, report: _Report) -> None:
        """Disable the key, or all keys of its group where the verdict covers the group."""
        members = [key]
        if key.team is not None and report.verdict.scope in (Scope.GROUP, Scope.GROUP_MODEL):
            members = [self._rotation.keys[key_id] for key_id in sorted(key.team.members)]
        for member in members:
            limit = member.limit
            if limit.until == FOREVER:
                continue
            limit.mark, limit.probe, limit.trial = self._rotation.turn, 0, False
            report.explain(limit, report.verdict.reason)
            self._rotation.set_alarm(limit, FOREVER)
            self._rotation.note(limit, Status.DISABLED, alert=report.verdict.alert)

    def _model_gone(self, pool: Pool, key: KeyState, report: _Report) -> None:  # noqa: ARG002 - one shape for all
        until = report.now + _clamp(report.verdict.rest_s or MODEL_GONE_S)
        scope = Scope.GROUP_MODEL if report.verdict.scope in (Scope.GROUP, Scope.GROUP_MODEL) else Scope.KEY_MODEL
        for limit in _covered(key, scope, report.models):
            if limit.model is None or until <= _rest_end(limit):
                continue
            limit.key_id, limit.level, limit.gone = key.id, 0, True
            self._close(limit, report, report.verdict.reason, until, alert=report.verdict.alert)

    # -- the brake -----------------------------------------------------------------------------------------

    def _is_storm(self, pool: Pool, storm: Storm, now: float) -> bool:
        """Whether so many different keys failed lately that the keys are hardly to blame."""
        threshold = self._rotation.policy.brake_threshold
        seen = storm.keys(now)
        if not threshold or len(seen) < threshold:
            return False
        eligible = sum(1 for key in pool.keys.values() if key.id in seen or not key.limit.until)
        return 2 * len(seen) >= eligible

    def _pause(self, pool: Pool, report: _Report) -> None:
        if pool.limit.probe == report.serial or not pool.limit.until:
            self._rest(pool.limit, report, BRAKE, BRAKE_LADDER, None, alert=True)

    # -- one scope -----------------------------------------------------------------------------------------

    def _rest(
        self,
        limit: Limit,
        report: _Report,
        reason: str,
        ladder: Ladder,
        rest_s: float | None,
        *,
        alert: bool = False,
    ) -> None:
        """Let the scope rest for `rest_s`, else for its step on the ladder, unless it rests longer already."""
        if limit.until == FOREVER or limit.probe not in (0, report.serial):
            return
        if limit.scope is Scope.PROVIDER and limit.reason != reason:
            limit.level = 0
        fresh = report.serial > limit.mark
        if rest_s is None and not fresh:
            return
        source = self._rotation.source
        wait_s = rest_s if rest_s is not None else ladder.wait_s(limit.level) * source.uniform(1 - JITTER, 1 + JITTER)
        if fresh:
            limit.level += 1
        limit.mark = self._rotation.turn
        until = report.now + _clamp(wait_s)
        if until > _rest_end(limit):
            limit.gone = False
            self._close(limit, report, reason, until, alert=alert or report.verdict.alert)

    def _close(self, limit: Limit, report: _Report, reason: str, until: float, *, alert: bool) -> None:
        rotation = self._rotation
        limit.mark, limit.probe, limit.trial = rotation.turn, 0, False
        limit.ended = until
        report.explain(limit, reason)
        rotation.set_alarm(limit, until)
        if limit.model is not None:
            rotation.pools[limit.provider].split_live(limit.model)
        rotation.note(limit, Status.RESTING, alert=alert)


class _Report:
    """One failed attempt with its verdict."""

    __slots__ = ("http_status", "models", "now", "serial", "verdict")

    def __init__(self, lease: Lease, verdict: Verdict, now: float, http_status: int) -> None:
        self.verdict = verdict
        self.now = now
        self.http_status = http_status
        self.serial = lease.serial
        #: The model that was asked for and, where the error names another one, that one too.
        self.models = tuple(dict.fromkeys(model for model in (lease.model, verdict.model) if model))

    def explain(self, limit: Limit, reason: str) -> None:
        limit.reason, limit.message, limit.http_status = reason, self.verdict.message, self.http_status


def _clamp(seconds: float) -> float:
    return min(MAX_REST_S, max(MIN_REST_S, seconds))


def _rest_end(limit: Limit) -> float:
    """End of the rest in force; 0.0 when there is none."""
    return 0.0 if limit.probe else limit.until


def _is_braked(pool: Pool) -> bool:
    return pool.limit.until > 0.0 and pool.limit.reason == BRAKE


def _covered(key: KeyState, scope: Scope, models: tuple[str, ...]) -> Iterator[Limit]:
    """The limits that a scope means for this key. Without a group the key is its own; without a model, the whole."""
    team = key.team if scope in (Scope.GROUP, Scope.GROUP_MODEL) else None
    if scope not in (Scope.KEY_MODEL, Scope.GROUP_MODEL) or not models:
        yield key.limit if team is None else team.limit
        return
    for model in models:
        limit = key.pair(model) if team is None else group_pair(team, key.id, model)
        if limit is not None:
            yield limit
