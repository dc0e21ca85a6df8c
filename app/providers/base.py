"""
What a provider is: where to send, how to sign, which formats it speaks. Data and pure functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of provider.

    name            -- as stored in `providers.kind`
    base_url        -- default origin (scheme, host, optional prefix), without a version path
    formats         -- wire formats it speaks, the native one first
    sign            -- upstream key -> the headers that carry it
    path            -- (format name, upstream path as the dialect's own provider has it, model) -> path below `base_url`
    verdict_family  -- which table of `keys.verdicts` judges its errors
    headers         -- fixed headers added to every request
    env_keys        -- environment names whose comma lists are imported as its keys
    env_base_url    -- environment name that overrides `base_url`
    query           -- fixed query parameters
    """

    name: str
    base_url: str
    formats: tuple[str, ...]
    sign: Callable[[str], dict[str, str]]
    path: Callable[[str, str, str | None], str]
    verdict_family: str
    headers: Mapping[str, str] = field(default_factory=dict)
    env_keys: tuple[str, ...] = ()
    env_base_url: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provider:
    """
    One configured provider entry: a kind plus what the operator set. Immutable; a change makes a new one.

    models    -- glob patterns of the models it serves; empty = only when its format or its name chooses it
    headers   -- extra fixed headers (values may be secret)
    priority  -- lower is preferred
    """

    name: str
    kind: Kind
    base_url: str
    formats: tuple[str, ...]
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 100
    enabled: bool = True
    demonstration: bool = False
    #: Extra query parameters, such as Azure's `api-version`.
    query: Mapping[str, str] = field(default_factory=dict)
