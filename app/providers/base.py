"""
What a provider is: where to send, how to sign, which formats it speaks. Data and pure functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: Services of the general kinds whose errors mean something of their own.
_FAMILY_BY_HOST = {"openrouter.ai": "openrouter"}
OPENAI_LAYER = "/v1beta/openai"  # where Gemini's own OpenAI layer lives; our callers may use the same prefix


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of provider.

    name            -- as stored in `providers.kind`
    base_url        -- default origin with an optional prefix, no version path; empty = every entry must name its own
    formats         -- wire formats it speaks, the native one first
    sign            -- (upstream key, format name) -> the headers that carry it
    path            -- (provider entry, format name, path at the dialect's own provider, model) -> path below `base_url`
    verdict_family  -- which table of `keys.verdicts` judges its errors; empty = that of the format's own provider
    models          -- globs of the models that an entry of this kind serves by default
    headers         -- headers added where the caller sent none of that name
    model_in_body   -- False where the upstream path alone names the model
    title           -- its name for people
    about           -- what it serves, in a sentence
    address         -- which base URL an entry should give, in a sentence
    example         -- such a base URL
    """

    name: str
    base_url: str
    formats: tuple[str, ...]
    sign: Callable[[str, str], dict[str, str]]
    path: Callable[[Provider, str, str, str | None], str]
    verdict_family: str
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    model_in_body: bool = True
    title: str = ""
    about: str = ""
    address: str = ""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Provider:
    """
    One configured provider entry: a kind plus what the operator set. Immutable; a change makes a new one.

    base_url  -- no trailing slash
    models    -- glob patterns of the models it serves; empty = only when its format or its name chooses it
    headers   -- extra fixed headers (values may be secret)
    query     -- extra query parameters, such as Azure's `api-version`
    priority  -- lower is preferred
    """

    name: str
    kind: Kind
    base_url: str
    formats: tuple[str, ...]
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    #: The operator named the models: this entry serves no others unless the provider itself is named.
    selective: bool = False
    priority: int = 100
    enabled: bool = True
    demonstration: bool = False

    def speaks(self, format_name: str) -> bool:
        return format_name in self.formats

    @property
    def verdict_family(self) -> str:
        """As for Kind, but a service that is known by its host has its own table."""
        host = urlsplit(self.base_url).hostname or ""
        found = (family for known, family in _FAMILY_BY_HOST.items() if host == known or host.endswith("." + known))
        return next(found, self.kind.verdict_family)


def bearer(key: str, _format: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def as_it_came(_provider: Provider, _format: str, path: str, _model: str | None) -> str:
    return path


def without_openai_layer(_provider: Provider, _format: str, path: str, _model: str | None) -> str:
    """`/v1beta/openai/chat/completions` is `/v1/chat/completions` at everybody but Google."""
    return "/v1" + path.removeprefix(OPENAI_LAYER) if path.startswith(OPENAI_LAYER + "/") else path
