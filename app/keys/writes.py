"""
Jobs for the writer: what rotation decided and counted, on its way to the database. A job may run more than once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from ..storage.database import Connection
from . import store
from .base import Scope
from .states import Change

if TYPE_CHECKING:
    from .live import LiveKeys

Counts = dict[int, tuple[int, float]]


class Evidence(TypedDict):
    """Why a key is as it is: the HTTP status (0 = none) and the provider's sentence, redacted."""

    status: int
    message: str


class WriteChange:
    """
    Stores one change of state.

    decided_on  -- the values of `state_at` that this worker knew when it decided
    state_at    -- the value that its last run wrote; None when it wrote none
    pair        -- the row of a (key, model) or group that its last run wrote; None when it wrote none
    until, wall -- Unix seconds: the end of the rest, and when it was decided
    """

    def __init__(self, live: LiveKeys, change: Change, evidence: str, until: float | None, wall: float) -> None:
        self.change = change
        self.pair_name = pair_name(change.scope, change.model)
        self.decided_on: tuple[float, ...] = ()
        self.state_at: float | None = None
        self.pair: store.PairRow | None = None
        self._live = live
        self._evidence = evidence
        self._until = until
        self._wall = wall

    def __call__(self, connection: Connection) -> None:
        if self.change.scope is Scope.KEY:
            self._write_key(connection)
        elif self._can_be_stored():
            self.pair = self._pair_row()
            store.write_pair(connection, self.pair)

    def settled(self, written: bool) -> None:
        """The decision is no longer on its way to the database: committed, or lost."""
        if not written:
            self.pair = None
        self._live.settled(self)

    def _can_be_stored(self) -> bool:
        """Callers choose model names: one that is too long, or looks like a group's, stays in memory only."""
        if len(self.pair_name) > store.MAX_MODEL_CHARS:
            return False
        return self.change.scope is not Scope.KEY_MODEL or not self.pair_name.startswith(store.GROUP_MARK)

    def _write_key(self, connection: Connection) -> None:
        change = self.change
        state = store.StoredState(change.status, self._until, change.reason, self._evidence, change.failures)
        known = (*self.decided_on, *self._live.own_writes(self))
        self._live.wrote(self, store.write_state(connection, change.key_id, state, known, self._wall))

    def _pair_row(self) -> store.PairRow:
        """A pair whose rest is over keeps its row as long as its step on the ladder counts."""
        change = self.change
        until = self._until or (self._wall if change.failures else 0.0)
        failures = 0 if change.gone else change.failures
        return store.PairRow(change.key_id, self.pair_name, until, change.reason, failures)


class WriteCounts:
    """Adds what was counted. It takes the numbers once, so that a retry writes the same ones."""

    def __init__(self, take: Callable[[], Counts]) -> None:
        self._take = take
        self._counts: Counts | None = None

    def __call__(self, connection: Connection) -> None:
        if self._counts is None:
            self._counts = self._take()
        if self._counts:
            store.add_counts(connection, self._counts)


def pair_name(scope: Scope, model: str | None) -> str:
    """The text that stands for a pair in the column `model`."""
    return (store.GROUP_MARK if scope in (Scope.GROUP, Scope.GROUP_MODEL) else "") + (model or "")


def read_evidence(stored: str) -> Evidence:
    """The stored evidence; empty where it is none."""
    try:
        found = json.loads(stored) if stored else {}
    except ValueError:
        found = {}
    if not isinstance(found, dict):
        found = {}
    status, message = found.get("status"), found.get("message")
    return {
        "status": status if isinstance(status, int) else 0,
        "message": message if isinstance(message, str) else "",
    }
