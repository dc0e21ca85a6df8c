"""The shape of a case of the truth table. `failure()` and `state` let other tests run the same cases end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.keys import resets
from app.keys.base import Action, Failure, Ladder, Phase, Scope

SHORT = Ladder(5.0, 2.0, 600.0)
MINUTES = Ladder(60.0, 2.0, 600.0)
LONG = Ladder(3600.0, 2.0, 86_400.0)
MODEL_SKIP = Ladder(3600.0, 1.0, 3600.0)

HEALTHY, DISABLED = "Healthy", "Disabled"
RESTING, RESTING_FOR_MODEL = "Resting", "Resting for the model"

_RESTING_BY_SCOPE = {Scope.KEY_MODEL: RESTING_FOR_MODEL, Scope.GROUP_MODEL: RESTING_FOR_MODEL}

#: Seconds, or what computes them from the wall clock.
Rest = float | Callable[[float], float] | None


def until_midnight(wall_now: float) -> float:
    return resets.next_midnight(wall_now, resets.PACIFIC) - wall_now


def until_next_month(wall_now: float) -> float:
    return resets.next_month(wall_now) - wall_now


@dataclass(frozen=True)
class Case:
    """
    One row of the truth table: what came, and what has to follow.

    body      -- JSON value, or the bytes as they come
    rest      -- exact rest in seconds (or a function of the wall clock); None where the ladder decides
    named     -- `Verdict.model`
    """

    id: str
    family: str
    status: int
    body: Any
    action: Action
    reason: str
    scope: Scope = Scope.NONE
    rest: Rest = None
    ladder: Ladder | None = None
    alert: bool = False
    max_tries: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    phase: Phase = Phase.HEAD
    error: str = ""
    model: str | None = "model-1"
    named: str | None = None

    @property
    def body_bytes(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def state(self) -> str:
        """What the key is afterwards; for PROVIDER-wide rests, what the keys of that entry are to a caller."""
        if self.action is Action.KEY_DEAD:
            return DISABLED
        if self.action is Action.MODEL_GONE:
            return RESTING_FOR_MODEL
        if self.action is Action.KEY_REST:
            return _RESTING_BY_SCOPE.get(self.scope, RESTING)
        # An address that one key does not allow: the key is as good as resting, the others still serve.
        return RESTING if self.action is Action.EGRESS and self.scope is Scope.KEY else HEALTHY

    def failure(self) -> Failure:
        return Failure(self.phase, self.status, self.headers, self.body_bytes, self.error)

    def rest_s(self, wall_now: float) -> float | None:
        return self.rest(wall_now) if callable(self.rest) else self.rest
