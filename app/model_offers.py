"""
The models that providers offer: asked for with one of their keys when a person wants to know, and kept in a small file
for each provider, so that every worker shows the same and a page never waits for a provider.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import orjson

from app.clock import Clock
from app.errors import MiddlewareError
from app.keys.base import Action
from app.keys.manager import KeyManager
from app.keys.states import Outcome as PickOutcome
from app.provider_calls import Outcome, ProviderCalls
from app.providers import Provider

_AT_ONCE: Final = 8
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
NO_LIST: Final = "no_model_list"

#: What a failure means for the person who looks at the provider. The provider's own sentence follows.
WORDS: Final = {
    Action.KEY_DEAD: "The provider refuses this key.",
    Action.KEY_REST: "The provider limits this key for now.",
    Action.MODEL_GONE: "The provider does not know what was asked for.",
    Action.PROVIDER: "The provider is in trouble, or nothing that answers like it is at this address.",
    Action.EGRESS: "The provider could not be reached, or does not serve this network.",
    Action.CLIENT: "The provider did not accept the question.",
    Action.STATE: "The provider did not accept the question.",
}
_WORDS_BY_STATUS: Final = {
    0: "No answer came from this address.",
    404: "There is no list of models at this address. Check the base URL.",
}
_NO_KEY: Final = {
    PickOutcome.NO_KEYS: ("no_keys", "There is no key for this provider yet."),
    PickOutcome.DISABLED: ("no_keys", "All keys of this provider are disabled."),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a provider said when it was asked last.

    ok        -- it gave a list of models
    words     -- what went wrong, in a sentence of ours; empty where nothing did
    message   -- the provider's own sentence, without secrets
    models    -- of the last good answer, which `listed_at` dates; an answer that fails leaves them
    asked_at  -- Unix seconds
    key_id    -- the key that was used; None where there was none
    address   -- the base URL that was asked
    """

    ok: bool
    address: str
    asked_at: float
    key_id: int | None = None
    status: int = 0
    verdict: str = ""
    reason: str = ""
    words: str = ""
    message: str = ""
    duration_ms: int = 0
    models: tuple[str, ...] = ()
    listed_at: float | None = None


class ModelOffers:
    """Asks and remembers. Thread-safe; asking never raises for what a provider, the network or a disk does."""

    def __init__(self, folder: Path, keys: KeyManager, calls: ProviderCalls, clock: Clock) -> None:
        self._folder = folder
        self._keys = keys
        self._calls = calls
        self._clock = clock

    def known(self, provider: Provider) -> Offer | None:
        """What the provider said last; None when it was never asked at its present address."""
        offer = self._read(provider.name)
        return offer if offer is not None and offer.address == provider.base_url else None

    def obstacle(self, provider: Provider) -> tuple[str, str] | None:
        """Why the provider cannot be asked: a code and a sentence. None where it can."""
        found = self._keys.preview(provider.name, None)
        if found.key_id is not None or found.spare_id is not None:
            return None
        return _NO_KEY.get(found.outcome, _NO_KEY[PickOutcome.NO_KEYS])

    def ask(self, provider: Provider) -> Offer:
        """
        Ask now, with one of the provider's keys, and remember the answer. Without a key there is none.
        Raises Overloaded.
        """
        with self._calls.waiting():
            return self._ask_and_remember(provider)

    def _ask_and_remember(self, provider: Provider) -> Offer:
        offer = self._ask(provider)
        if offer.key_id is None:
            return offer
        before = self.known(provider)
        if not offer.ok and before is not None:
            offer = replace(offer, models=before.models, listed_at=before.listed_at)
        self._write(provider.name, offer)
        return offer

    def ask_all(self, providers: Iterable[Provider]) -> list[Offer]:
        """Ask several at the same time; none waits for another. Raises Overloaded."""
        with self._calls.waiting(), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="model-offers") as pool:
            return list(pool.map(self._ask_and_remember, providers))

    def _ask(self, provider: Provider) -> Offer:
        found = self._keys.preview(provider.name, None)
        key_id = found.key_id if found.key_id is not None else found.spare_id
        blank = Offer(False, provider.base_url, self._clock.wall(), key_id)
        if key_id is None:
            reason, words = _NO_KEY.get(found.outcome, _NO_KEY[PickOutcome.NO_KEYS])
            return replace(blank, reason=reason, words=words)
        try:
            outcome = self._calls.list_models(provider, self._keys.reveal(key_id))
        except MiddlewareError as error:
            return replace(blank, reason=error.code, words=str(error))
        return _offer(blank, outcome)

    # -- files -----------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> Offer | None:
        try:
            with self._path(name).open("rb") as file:
                stored = orjson.loads(file.read(_MAX_FILE_BYTES))
            return Offer(**{field.name: _value(field.name, stored[field.name]) for field in fields(Offer)})
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            return None

    def _write(self, name: str, offer: Offer) -> None:
        """Whoever reads meanwhile finds the whole old or the whole new file. A full disk costs only the memory."""
        draft = self._folder / f".{name}.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                draft.touch(mode=0o600)
                draft.write_bytes(orjson.dumps(asdict(offer)))
                os.replace(draft, self._path(name))
            finally:
                draft.unlink(missing_ok=True)


def _value(name: str, value: Any) -> Any:
    return tuple(value) if name == "models" else value


def _offer(blank: Offer, outcome: Outcome) -> Offer:
    asked = replace(blank, status=outcome.status, duration_ms=outcome.duration_ms)
    if outcome.ok and outcome.models is not None:
        return replace(asked, ok=True, models=outcome.models, listed_at=blank.asked_at)
    if outcome.ok:
        return replace(asked, reason=NO_LIST, words="It answered, but not with a list of models. Check the base URL.")
    action = outcome.verdict.action if outcome.verdict is not None else Action.PROVIDER
    words = _WORDS_BY_STATUS.get(outcome.status) or WORDS[action]
    return replace(asked, verdict=action.value, reason=outcome.reason, words=words, message=outcome.message)
