"""
The upstream keys of this process: decisions in memory under one lock, the database as their durable copy.

Taking a key and reporting on it do no SQL. What changes is handed to the writer at once and written by compare-and-set;
what other workers or people changed is read when the revision changes. Rests are stored as instants of the wall clock
and counted down on the monotonic one.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from ..clock import Clock
from ..errors import AllKeysResting, MiddlewareError, ModelNotFound, NoKeys
from ..providers import DEMO_NAME
from ..settings import Settings
from ..settings_store import LiveSettings
from ..shared import SharedTable
from ..storage.database import Database
from ..storage.writer import Writer
from ..vault import Vault, VaultError, mask
from . import store
from .base import KeyWanted, Lease, Scope, Verdict
from .ledger import Ledger
from .rotation import PROBE_TIMEOUT_S, Rotation
from .states import Change, Outcome, Pick, Policy
from .store import KeyRow
from .unwell import Unwell, find_unwell
from .writes import WriteChange, WriteCounts

_log = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 500
#: How long the first use of a key waits for others before they are written together.
COUNTS_AFTER_S = 0.4
_DAY_S = 86400.0
_ALL_REST = "All keys that could serve this request are resting"
_NO_KEY = {
    Outcome.TRIED: "Every usable key of provider {names} has been tried for this request.",
    Outcome.NOT_SERVED: "No key of provider {names} may serve {models}; see the models allowed for each key.",
    Outcome.DISABLED: "All keys of provider {names} are disabled. Enable or replace one at /middleware/.",
    Outcome.NO_KEYS: "There is no key for provider {names}. Add one at /middleware/.",
}


class LiveKeys:
    """The hot path of the KeyManager. Thread-safe; `now` is monotonic seconds everywhere."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        vault: Vault,
        live_settings: LiveSettings,
        shared: SharedTable,
        clock: Clock | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._database = database
        self._writer = writer
        self._vault = vault
        self._live_settings = live_settings
        self._shared = shared
        self._clock = clock or Clock()
        self._redact = redact
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._rotation = Rotation()
        self._ledger = Ledger(self._rotation)
        self._counts: dict[int, tuple[int, float]] = {}
        self._probe_names: dict[int, tuple[str, ...]] = {}
        self._midnight = 0.0
        self._subscribers: tuple[Callable[[Change], object], ...] = ()
        self._set_policy(live_settings.current)
        live_settings.subscribe(self._set_policy)

    def subscribe(self, callback: Callable[[Change], object]) -> None:
        """Have `callback` called after each change of state that this process decides on, outside the lock."""
        self._subscribers = (*self._subscribers, callback)

    # -- the hot path ----------------------------------------------------------------------------------------

    def acquire(self, wanted: KeyWanted, now: float) -> Lease:
        """
        A key for one attempt; one of `succeeded`, `failed`, `released` is owed for it.

        Raises AllKeysResting when a wait would help, ModelNotFound when no key offers the model, else NoKeys.
        """
        strategy = self._live_settings.current.failover_strategy
        while True:
            with self._lock:
                if now >= self._midnight:
                    self._start_day(now)
                pick = self._rotation.pick(wanted, strategy, now)
                lease = self._lease(pick) if pick.key is not None else None
                is_first = lease is not None and not lease.probe and self._count(lease)
                jobs = self._changes() if self._rotation.changed else ()
            self._hand_over(jobs)
            if lease is None:
                raise self._no_key(pick, wanted, now)
            if lease.probe:
                if not self._may_probe(pick, now):
                    continue
                with self._lock:
                    is_first = self._count(lease)
            if is_first:
                self._writer.later(WriteCounts(self._take_counts), COUNTS_AFTER_S)
            return lease

    def succeeded(self, lease: Lease, now: float) -> None:  # noqa: ARG002 - one shape for all reports
        """The key served. Call it as soon as the answer has begun well; calling it again does no harm."""
        with self._lock:
            changes = self._rotation.succeeded(lease)
            names = self._probe_names.pop(lease.serial, ()) if lease.probe else ()
            jobs = self._changes(changes) if changes else ()
        self._hand_over(jobs)
        self._release_names(names)

    def failed(self, lease: Lease, verdict: Verdict, now: float, http_status: int = 0) -> None:
        """The attempt failed with this verdict. `http_status` is shown as evidence."""
        with self._lock:
            changes = self._rotation.apply(lease, verdict, now, http_status)
            names = self._probe_names.pop(lease.serial, ()) if lease.probe else ()
            jobs = self._changes(changes, lease.value)
        self._hand_over(jobs)
        self._release_names(names)

    def released(self, lease: Lease, now: float) -> None:  # noqa: ARG002 - one shape for all reports
        """The attempt says nothing about the key: it was not sent, or the caller left."""
        with self._lock:
            self._rotation.released(lease)
            names = self._probe_names.pop(lease.serial, ()) if lease.probe else ()
        self._release_names(names)

    def heal(self, now: float) -> None:
        """End the rests whose time is over, so that the database and the metrics show it without a request."""
        with self._lock:
            changes = self._rotation.heal(now)
            jobs = self._changes(changes)
        self._hand_over(jobs)

    def unwell(self, most: int, without: str = "") -> Unwell:
        """
        The keys that do not serve, each kind at most `most`: which, why, and until when in Unix seconds.

        without  -- a provider to leave out
        """
        with self._lock:
            keys = [key for key in self._rotation.keys.values() if key.provider != without]
            return find_unwell(keys, most, self._to_wall, self._safe_message)

    def usable(self, provider: str, now: float) -> int:
        """Keys of the provider entry that could serve now."""
        with self._lock:
            return self._rotation.usable(provider, now)

    def version(self) -> int:
        """Another number whenever `has_keys`, `has_any` or `any_real` could answer anew."""
        return self._rotation.mutations

    def has_keys(self, provider: str) -> bool:
        """Whether the provider entry has a key that is not disabled."""
        with self._lock:
            return self._rotation.has_keys(provider)

    def has_any(self, provider: str) -> bool:
        """Whether the provider entry has a key, in whatever state."""
        with self._lock:
            return self._rotation.has_any(provider)

    def any_real(self) -> bool:
        """Whether any key exists, in whatever state, that does not belong to the demonstration."""
        with self._lock:
            return any(pool.keys for name, pool in self._rotation.pools.items() if name != DEMO_NAME)

    def secrets(self) -> list[str]:
        """The values of all keys, for redaction."""
        with self._lock:
            return [key.value for key in self._rotation.keys.values() if key.value]

    def _lease(self, pick: Pick) -> Lease:
        key = pick.key
        assert key is not None
        return Lease(key.id, key.provider, pick.model, key.value, bool(pick.probes), pick.serial, key.epoch)

    def _may_probe(self, pick: Pick, now: float) -> bool:
        """Ask the other workers; when one of them probes already, the pick is given back."""
        wall = self._clock.wall()
        taken: list[str] = []
        for name in pick.probes:
            if not self._shared.try_lease(f"probe:{name}", PROBE_TIMEOUT_S, wall):
                break
            taken.append(name)
        with self._lock:
            if len(taken) == len(pick.probes):
                self._probe_names[pick.serial] = pick.probes
                return True
            self._rotation.probe_elsewhere(pick, now)
        self._release_names(taken)
        return False

    def _release_names(self, names: Iterable[str]) -> None:
        for name in names:
            self._shared.release_lease(f"probe:{name}")

    def _count(self, lease: Lease) -> bool:
        """Whether it is the first pick since the last were taken, so that a job is needed. The lock is held."""
        is_first = not self._counts
        counted = self._counts.get(lease.key_id)
        self._counts[lease.key_id] = (1 if counted is None else counted[0] + 1, self._clock.wall())
        return is_first

    def _take_counts(self) -> dict[int, tuple[int, float]]:
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def _no_key(self, pick: Pick, wanted: KeyWanted, now: float) -> MiddlewareError:
        names = ", ".join(wanted.providers) or "none"
        models = ", ".join(dict.fromkeys(model for model in wanted.models.values() if model)) or "this model"
        if pick.outcome is Outcome.RESTING:
            wait_s = max(0.0, pick.wake_at - now)
            wake_at = self._clock.wall() + wait_s
            when = datetime.fromtimestamp(wake_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            with self._lock:
                pauses = [f"{name} ({why})" for name in wanted.providers if (why := self._rotation.pause_of(name))]
            what = f"The provider {', '.join(pauses)} is paused" if pauses else _ALL_REST
            return AllKeysResting(
                f"{what}; the first wakes up at {when}.",
                wake_at=wake_at,
                retry_after_s=wait_s,
            )
        if pick.outcome is Outcome.MODEL_GONE:
            return ModelNotFound(f"No key of provider {names} offers {models}.")
        return NoKeys(_NO_KEY[pick.outcome].format(names=names, models=models))

    # -- writing ---------------------------------------------------------------------------------------------------

    def _changes(self, changes: list[Change] | None = None, secret: str = "") -> list[WriteChange]:
        """Jobs for what the rotation has changed. The lock is held, so that `refresh` knows of them."""
        jobs = []
        for change in self._rotation.drain() if changes is None else changes:
            until, wall = self._to_wall(change.until), self._clock.wall()
            job = WriteChange(self, change, self._evidence(change, secret), until, wall)
            self._ledger.add(job)
            jobs.append(job)
        return jobs

    def _hand_over(self, jobs: Iterable[WriteChange]) -> None:
        for job in jobs:
            if job.change.scope is not Scope.PROVIDER:
                self._writer.urgent(job)
            for subscriber in self._subscribers:
                subscriber(job.change)

    def _evidence(self, change: Change, secret: str) -> str:
        if not change.message and not change.http_status:
            return ""
        return json.dumps({"status": change.http_status, "message": self._safe_message(change.message, secret)})

    def _safe_message(self, message: str, secret: str) -> str:
        """A provider's sentence without secrets, short enough to store and show."""
        if secret:
            message = message.replace(secret, mask(secret))
        if self._redact is not None:
            message = self._redact(message)
        return message[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode("utf-8")

    def _to_wall(self, instant: float | None) -> float | None:
        return None if instant is None else instant + self._clock.wall() - self._clock.monotonic()

    def own_writes(self, job: WriteChange) -> tuple[float, ...]:
        """The values of `state_at` that this process has written; a decision may replace its own predecessors."""
        with self._lock:
            return self._ledger.own_writes(job)

    def wrote(self, job: WriteChange, state_at: float | None) -> None:
        """A job has run. Its transaction is not committed, and it runs again when that is rolled back."""
        with self._lock:
            self._ledger.wrote(job, state_at)

    def settled(self, job: WriteChange) -> None:
        """A job's transaction is committed, or the job is lost."""
        with self._lock:
            self._ledger.settled(job)

    # -- reading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take over what people and other workers have changed in the database."""
        with self._refreshing:
            with self._lock:
                self._ledger.start_reading()
            try:
                jobs = self._take_over()
            finally:
                with self._lock:
                    self._ledger.stop_reading()
            self._hand_over(jobs)

    def catch_up(self) -> None:
        """Refresh once more when the last time had to leave something out; what fails is tried at the next call."""
        with self._lock:
            is_behind = self._ledger.is_behind
        if is_behind:
            try:
                self.refresh()
            except SQLAlchemyError as error:
                _log.debug("Keys cannot be read: %s", type(error).__name__)

    def _take_over(self) -> list[WriteChange]:
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._database.read() as connection:
            versions = store.load_versions(connection)
            with self._lock:
                first, changed = self._ledger.is_empty, self._ledger.outdated(versions)
            rows = store.load_keys(connection, None if first else changed)
            pairs = store.load_pairs(connection, wall - _DAY_S)
            uses = store.load_uses(connection, _day(wall)) if first else {}
        opened = [(row, self._open_value(row)) for row in rows]
        with self._lock:
            self._ledger.merge(opened, versions, pairs, now, wall)
            if uses:
                self._rotation.new_day(uses)
            return self._changes()

    def _open_value(self, row: KeyRow) -> str | None:
        """The decrypted value, None where that fails. Known values are not decrypted again."""
        with self._lock:
            if self._ledger.has_value(row):
                return self._rotation.keys[row.id].value or None
        try:
            return self._vault.decrypt(row.sealed)
        except VaultError:
            _log.error("The value of key %d cannot be decrypted; the key is not used", row.id)
            return None

    # -- settings and days --------------------------------------------------------------------------------------------

    def _set_policy(self, settings: Settings) -> None:
        breaker = settings.circuit_breaker_threshold if settings.enable_circuit_breaker else 0
        self._rotation.policy = Policy(settings.pool_brake_threshold, breaker, settings.circuit_breaker_cooldown)

    def _start_day(self, now: float) -> None:
        if self._midnight:
            self._rotation.new_day({})
        self._midnight = now + _DAY_S - self._clock.wall() % _DAY_S


def _day(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d")
