"""
Testing keys: a real, cheap call with one very key, whatever its state, and what it says about the key.

Without a model the provider's list of models is asked for, which costs nothing and proves the key; with one, a few
tokens are generated. A failure that is about the key counts like that of a caller's request. A success counts only
where something was generated, and wakes or enables nothing: a key that rests may well list models. What is the
provider's or the network's fault says nothing about the key and is only told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Final

from app.clock import Clock
from app.errors import Conflict, MiddlewareError
from app.keys.base import Action, Lease, Scope, Verdict
from app.keys.manager import KeyManager
from app.provider_calls import Outcome, ProviderCalls
from app.providers import DEMO_NAME, Provider
from app.proxy.routing import Providers

_log = logging.getLogger(__name__)

MAX_TESTS: Final = 100
MAX_SAMPLE: Final = 20
MANY_TIMEOUT_S: Final = 25.0
_AT_ONCE: Final = 8
_ABOUT_THE_KEY: Final = frozenset({Action.KEY_DEAD, Action.KEY_REST, Action.MODEL_GONE})


@dataclass(frozen=True, slots=True)
class KeyTest:
    """
    What a test found.

    status, verdict, reason -- as in the attempts of the request log; empty where nothing failed
    message  -- the provider's own sentence without secrets, or ours where it has none
    models   -- how many models the provider offers to this key; None where it was not asked, or did not say
    sample   -- the first of these
    """

    key_id: int
    ok: bool
    status: int = 0
    verdict: str = ""
    reason: str = ""
    message: str = ""
    duration_ms: int = 0
    models: int | None = None
    sample: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"sample": list(self.sample)}


class KeyTests:
    """Tests keys and tells the key manager. Thread-safe."""

    def __init__(
        self, keys: KeyManager, providers: Callable[[], Providers], calls: ProviderCalls, clock: Clock
    ) -> None:
        self._keys = keys
        self._providers = providers
        self._calls = calls
        self._clock = clock

    def test(self, key_id: int, model: str | None = None) -> KeyTest:
        """
        Test one key. Raises NotFound; Conflict for a key that cannot be decrypted or whose provider has no address;
        BadRequest for what is no model's name; Overloaded. What the provider does never raises.
        """
        with self._calls.waiting():
            return self._test(key_id, model)

    def _test(self, key_id: int, model: str | None = None) -> KeyTest:
        lease = self._keys.lease_of(key_id, model)
        provider = self._provider(lease)
        if model is None:
            outcome = self._calls.check_key(provider, lease.value)
        else:
            outcome = self._calls.generate(provider, lease.value, model)
        self._report(lease, outcome)
        found = _found(key_id, outcome, asked_models=model is None)
        details = {"key_id": key_id, "provider": provider.name, "status": found.status, "reason": found.reason}
        _log.info("key tested", extra=details)
        return found

    def test_many(self, key_ids: Iterable[int]) -> list[KeyTest]:
        """
        Test some keys at once, at most `MAX_TESTS`; for those that take too long, or are gone, the test says so.
        Raises Overloaded.
        """
        with self._calls.waiting():
            return self._test_many(key_ids)

    def _test_many(self, key_ids: Iterable[int]) -> list[KeyTest]:
        wanted = list(dict.fromkeys(key_ids))[:MAX_TESTS]
        # Not as a context: that would wait for the ones that hang.
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="key-test")
        pending = {key_id: pool.submit(self._test_safely, key_id) for key_id in wanted}
        done, _ = wait(pending.values(), MANY_TIMEOUT_S)
        pool.shutdown(wait=False, cancel_futures=True)
        late = "The test was not over in time; test this key alone."
        return [
            future.result() if future in done else KeyTest(key_id, False, reason="not_in_time", message=late)
            for key_id, future in pending.items()
        ]

    def _test_safely(self, key_id: int) -> KeyTest:
        try:
            return self._test(key_id)
        except MiddlewareError as error:
            return KeyTest(key_id, False, reason=error.code, message=str(error))

    def _provider(self, lease: Lease) -> Provider:
        snapshot = self._providers()
        found = snapshot.demo if lease.provider == DEMO_NAME else snapshot.by_name.get(lease.provider)
        if found is None:
            raise Conflict(f"The key's provider {lease.provider!r} is not there.", code="unknown_provider")
        return found

    def _report(self, lease: Lease, outcome: Outcome) -> None:
        now = self._clock.monotonic()
        if outcome.verdict is not None and _is_about_the_key(outcome.verdict):
            verdict = replace(outcome.verdict, message=outcome.message)
            self._keys.failed(lease, verdict, now, outcome.status)
        elif outcome.ok and lease.model is not None:
            self._keys.succeeded(lease, now)
        else:
            self._keys.released(lease, now)


def _is_about_the_key(verdict: Verdict) -> bool:
    if verdict.action is Action.EGRESS:
        return verdict.scope is Scope.KEY
    return verdict.action in _ABOUT_THE_KEY and verdict.scope is not Scope.PROVIDER


def _found(key_id: int, outcome: Outcome, *, asked_models: bool) -> KeyTest:
    verdict = outcome.verdict.action.value if outcome.verdict is not None else ""
    reason, message = outcome.reason, outcome.message
    if asked_models and outcome.status == 404:
        reason = "no_model_list"
        message = "The provider has no list of models at its address. Test the key with a model."
    return KeyTest(
        key_id=key_id,
        ok=outcome.ok,
        status=outcome.status,
        verdict=verdict,
        reason=reason,
        message=message or ("" if outcome.ok else reason),
        duration_ms=outcome.duration_ms,
        models=None if outcome.models is None else len(outcome.models),
        sample=(outcome.models or ())[:MAX_SAMPLE],
    )
