"""
The cache of model lists, as one exchange uses it: good answers only, by provider, dialect and URL. Pure.
"""

from __future__ import annotations

import orjson

from app.formats.base import Call, Operation
from app.providers import Provider
from app.proxy.admission import Visitor
from app.proxy.gateway import AnswerCache
from app.settings import Settings


class ModelLists:
    """Looks up and keeps the answer to one request; does nothing for requests of any other kind."""

    def __init__(self, cache: AnswerCache, settings: Settings, visitor: Visitor) -> None:
        self._cache = cache
        self._settings = settings
        self._visitor = visitor

    def get(self, call: Call, provider: Provider, now: float) -> tuple[str, bytes] | None:
        """(content type, body) of a kept answer."""
        return self._cache.get(self._key(provider), now) if self._concerns(call) else None

    def keep(self, call: Call, provider: Provider, content_type: str, body: bytes | None, now: float) -> None:
        """`body` is None where the answer was not read as a whole. What is no list is not kept, nor a hidden error."""
        if body is not None and self._concerns(call) and _is_good(body):
            self._cache.put(self._key(provider), content_type, body, now + self._settings.cache_timeout)

    def _concerns(self, call: Call) -> bool:
        models = call.match.endpoint.operation is Operation.MODELS
        return models and self._settings.model_cache_enabled and self._visitor.head.method == "GET"

    def _key(self, provider: Provider) -> str:
        visitor = self._visitor
        return f"{provider.name} {provider.base_url} {visitor.dialect.name} {visitor.path}?{visitor.query}"


def _is_good(body: bytes) -> bool:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and not answer.get("error")
