"""What a change of the live settings does, however it was asked for: by the API or by the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.context import Services
from app.errors import BadRequest
from app.settings import Settings, Value


def change(services: Services, values: Mapping[str, object], expected: Mapping[str, Value] | None = None) -> Settings:
    """Store all of `values`, or none.

    expected -- what the one who changes them saw; see `LiveSettings.update`

    Raises InvalidSettings with every fault, SettingsChanged.
    """

    def provider_exists(name: str, value: Value) -> None:
        known = services.providers.snapshot.by_name
        if name == "model_provider" and value and value not in known:
            raise BadRequest(f"model_provider must be empty or one of {', '.join(known)}", param=name)

    return services.live_settings.update(values, expected=expected, checks=(provider_exists,))


def reset(
    services: Services, names: Iterable[str] | None = None, expected: Mapping[str, Value] | None = None
) -> Settings:
    """Forget what was saved for these settings, or for all. Raises BadRequest for an unknown name, SettingsChanged."""
    return services.live_settings.reset(names, expected=expected)
