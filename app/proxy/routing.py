"""
Which provider serves a request, and under which model name. Pure: the snapshot of providers and a question about keys
come in, a route with the reason for each step comes out. The same function explains a route without sending anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol

from app.errors import DialectNotSpoken, MiddlewareError, ModelNotFound, NoKeys
from app.formats.base import Call, Operation
from app.providers import DEMO_NAME, Provider
from app.settings import Settings

DEMO_MODELS = "demo-*"


@dataclass(frozen=True, slots=True)
class Providers:
    """
    Every configured entry, at one instant.

    ordered  -- enabled and disabled ones, by priority, then by name; the demonstration is not among them
    demo     -- the demonstration upstream, or None when it could not be started
    """

    ordered: tuple[Provider, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    demo: Provider | None = None
    by_name: Mapping[str, Provider] = field(default_factory=dict)

    @staticmethod
    def of(entries: list[Provider], aliases: Mapping[str, str], demo: Provider | None) -> Providers:
        ordered = tuple(sorted(entries, key=lambda entry: (entry.priority, entry.name)))
        return Providers(ordered, aliases, demo, {entry.name: entry for entry in ordered})


@dataclass(frozen=True, slots=True)
class Candidate:
    provider: Provider
    model: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request may go, best first, and why."""

    candidates: tuple[Candidate, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    dialect   -- name of the caller's format
    provider  -- a provider named by the URL prefix, or None
    """

    model: str | None
    dialect: str
    provider: str | None = None
    default_provider: str = ""
    default_model: str = ""


def wanted_by(call: Call, provider: str | None, settings: Settings) -> Wanted:
    """What this call asks for. `provider`: named by its URL."""
    generates = call.match.endpoint.operation is Operation.GENERATE
    return Wanted(
        model=call.model,
        dialect=call.match.format.name,
        provider=provider,
        default_provider=settings.model_provider,
        default_model=settings.model_default if generates else "",
    )


class KeyCounts(Protocol):
    def has_keys(self, provider: str) -> bool:
        """Whether this provider entry has a key that is not disabled."""
        ...

    def has_any(self, provider: str) -> bool:
        """Whether this provider entry has a key, in whatever state."""
        ...

    def any_real(self) -> bool:
        """Whether any key exists, in whatever state, that does not belong to the demonstration."""
        ...


def route(wanted: Wanted, providers: Providers, keys: KeyCounts) -> Route:
    """
    The candidates for this request.

    Raises DialectNotSpoken, ModelNotFound or NoKeys, with a sentence that says what to do.
    """
    finder = _Finder(wanted, providers, keys)
    return finder.find()


def explain(wanted: Wanted, providers: Providers, keys: KeyCounts) -> dict[str, object]:
    """The route, or the error that a request would meet, as plain data for the admin API."""
    finder = _Finder(wanted, providers, keys)
    try:
        found = finder.find()
    except MiddlewareError as error:
        return {
            "candidates": [],
            "steps": finder.steps,
            "error": {"status": error.status, "code": error.code, "message": str(error)},
        }
    return {
        "candidates": [
            {"provider": candidate.provider.name, "kind": candidate.provider.kind.name, "model": candidate.model}
            for candidate in found.candidates
        ],
        "steps": list(found.steps),
        "error": None,
    }


class _Finder:
    def __init__(self, wanted: Wanted, providers: Providers, keys: KeyCounts) -> None:
        self.wanted = wanted
        self.providers = providers
        self.keys = keys
        self.steps: list[str] = []
        self.model = wanted.model

    def find(self) -> Route:
        if self.wanted.default_model and self.model is not None:
            self._say(f"every model is overridden by model_default: {self.wanted.default_model!r}")
            self.model = self.wanted.default_model
        named = self._named_by_url() or self._named_by_model()
        target = self.providers.aliases.get(self.model) if self.model is not None else None
        if named is None and target is not None:
            self._say(f"alias {self.model!r} stands for {target!r}")
            self.model = target
            named = self._named_by_model()
        if named is not None:
            return self._only(named)
        return self._by_rules()

    def _say(self, step: str) -> None:
        self.steps.append(step)

    def _named_by_url(self) -> Provider | None:
        if self.wanted.provider is None:
            return None
        self._say(f"the URL names provider {self.wanted.provider!r}")
        return self._enabled(self.wanted.provider)

    def _named_by_model(self) -> Provider | None:
        if self.model is None or "/" not in self.model:
            return None
        name, rest = self.model.split("/", 1)
        if name not in self.providers.by_name and not (name == DEMO_NAME and self.providers.demo):
            return None
        self._say(f"the model names provider {name!r}")
        self.model = rest
        return self._enabled(name)

    def _enabled(self, name: str) -> Provider:
        entry = self.providers.demo if name == DEMO_NAME else self.providers.by_name.get(name)
        if entry is None:
            raise ModelNotFound(f"There is no provider named {name!r}.", param="model")
        if not entry.enabled:
            raise ModelNotFound(f"The provider {name!r} is switched off.", param="model")
        return entry

    def _only(self, entry: Provider) -> Route:
        if entry.demonstration:
            self._refuse_demo_beside_real_keys()
        if not entry.speaks(self.wanted.dialect):
            raise self._not_spoken([entry])
        if not self.keys.has_keys(entry.name):
            raise NoKeys(f"The provider {entry.name!r} has no usable key. Add one in /middleware or enable one.")
        return self._route([entry])

    def _refuse_demo_beside_real_keys(self) -> None:
        if self.keys.any_real():
            raise ModelNotFound(
                f"The model {self.wanted.model!r} belongs to the demonstration, which ends when a real key is added.",
                param="model",
            )

    def _by_rules(self) -> Route:
        if self.model is not None and fnmatchcase(self.model, DEMO_MODELS):
            return self._demonstration()
        enabled = [entry for entry in self.providers.ordered if entry.enabled]
        keyed = [entry for entry in enabled if self.keys.has_keys(entry.name)]
        if keyed:
            self._refuse_to_change_company(enabled, keyed)
        if not keyed:
            return self._without_real_keys()
        for why, found in self._rules(keyed):
            if found:
                return self._speaking(found, why)
        open_to_all = [entry for entry in keyed if self.model is None or not entry.selective]
        if open_to_all:
            raise self._not_spoken(open_to_all)
        raise ModelNotFound(f"No provider with a usable key serves the model {self.model!r}.", param="model")

    def _refuse_to_change_company(self, enabled: list[Provider], keyed: list[Provider]) -> None:
        """A model whose own provider has only disabled keys does not go to another company unasked."""
        model = self.model
        if model is None or any(_serves(entry, model) for entry in keyed):
            return
        owners = [entry.name for entry in enabled if _serves(entry, model) and self.keys.has_any(entry.name)]
        if owners:
            raise NoKeys(f"All keys of {', '.join(map(repr, owners))}, which serves {model!r}, are disabled.")

    def _rules(self, keyed: list[Provider]) -> list[tuple[str, list[Provider]]]:
        model, default = self.model, self.wanted.default_provider
        dialect = self.wanted.dialect
        open_to_all = [entry for entry in keyed if model is None or not entry.selective]
        return [
            (
                f"its model patterns match {model!r}",
                [entry for entry in keyed if model is not None and _serves(entry, model)],
            ),
            ("it is the default provider (model_provider)", [entry for entry in keyed if entry.name == default]),
            (f"its own format is {dialect}", [entry for entry in open_to_all if entry.formats[:1] == (dialect,)]),
            (f"it speaks {dialect} and has keys", [entry for entry in open_to_all if entry.speaks(dialect)]),
        ]

    def _speaking(self, found: list[Provider], why: str) -> Route:
        speaking = [entry for entry in found if entry.speaks(self.wanted.dialect)]
        if not speaking:
            raise self._not_spoken(found)
        for entry in speaking:
            self._say(f"{entry.name!r} is a candidate: {why}")
        return self._route(speaking)

    def _demonstration(self) -> Route:
        self._refuse_demo_beside_real_keys()
        if self.providers.demo is None:
            raise ModelNotFound("The demonstration is not running.", param="model")
        self._say("the model belongs to the demonstration, and there is no real key")
        return self._route([self.providers.demo])

    def _without_real_keys(self) -> Route:
        if self.model is None and self.providers.demo is not None and not self.keys.any_real():
            self._say("there is no real key: the demonstration answers")
            return self._route([self.providers.demo])
        if self.keys.any_real():
            raise NoKeys("All API keys are disabled, or their providers are. Enable or add one at /middleware/.")
        raise NoKeys(
            "No usable API key. Add one in /middleware, by POST /middleware/api/keys or in .env;"
            " until then only the demonstration answers, for example model 'demo-fast'."
        )

    def _route(self, entries: list[Provider]) -> Route:
        if self.model in (".", ".."):
            # Some kinds make a path segment of the name; this one would climb out of its place.
            raise ModelNotFound(f"There is no model named {self.model!r}.", param="model")
        return Route(tuple(Candidate(entry, self.model) for entry in entries), tuple(self.steps))

    def _not_spoken(self, entries: list[Provider]) -> DialectNotSpoken:
        names = ", ".join(f"{entry.name!r} (speaks {', '.join(entry.formats)})" for entry in entries[:3])
        return DialectNotSpoken(
            f"The model {self.wanted.model!r} is served by {names}, which does not speak {self.wanted.dialect}."
            " Call it in a format that it speaks.",
            param="model",
        )


def _serves(entry: Provider, model: str) -> bool:
    return _matches(entry.models, model)


@lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)
