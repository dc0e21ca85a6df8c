"""The four wire formats as attackers use them, and a middleware with one key for each provider behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import canned
from tests.fake_provider import FakeProvider, Received, json_reply
from tests.gateway import KEYS, Gateway

Json = dict[str, Any]

_GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
}
_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
}


@dataclass(frozen=True)
class Dialect:
    """One way to call. `model_in_body` is False where the path carries the model."""

    name: str
    provider: str
    path: str
    body: Json
    answer: Json
    model_in_body: bool = True

    def __str__(self) -> str:
        return self.name

    def check_error(self, status: int, content_type: str, body: bytes) -> Json:
        """The error object, after a look at the whole answer: it must be one of this dialect and nothing else."""
        assert content_type == "application/json", (status, content_type, body[:300])
        text = body.decode()
        assert "Traceback" not in text
        assert "<html" not in text.lower()
        answer = json.loads(text)
        error: Json = answer["error"]
        assert isinstance(error["message"], str)
        assert error["message"]
        if self.provider == "gemini":
            assert set(answer) == {"error"}
            assert error["code"] == status
            assert error["status"] == _GOOGLE_STATUS[status]
            info = error["details"][0]
            assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
            assert info["metadata"]["request_id"]
        elif self.provider == "anthropic":
            assert set(answer) == {"type", "error", "request_id"}
            assert answer["type"] == "error"
            assert error["type"] == _ANTHROPIC_TYPE[status]
        else:
            assert set(answer) == {"error"}
            assert {"message", "type", "param", "code", "request_id"} <= set(error)
            assert isinstance(error["code"], str)
        return error


CHAT = Dialect("chat", "openai", "/v1/chat/completions", canned.CHAT_REQUEST, canned.chat())
RESPONSES = Dialect("responses", "openai", "/v1/responses", canned.RESPONSES_REQUEST, canned.response())
MESSAGES = Dialect("messages", "anthropic", "/v1/messages", canned.MESSAGES_REQUEST, canned.message())
GEMINI = Dialect(
    "gemini",
    "gemini",
    "/v1beta/models/gemini-test:generateContent",
    canned.GEMINI_REQUEST,
    canned.gemini(),
    model_in_body=False,
)
DIALECTS = (CHAT, RESPONSES, MESSAGES, GEMINI)
#: The header in which each provider's SDK carries its key.
KEY_HEADERS: Mapping[str, str] = {"openai": "Authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


@dataclass
class Target:
    """What is attacked: the middleware, and one scripted upstream that plays all three providers."""

    gateway: Gateway
    upstream: FakeProvider

    def states(self) -> list[tuple[Any, ...]]:
        """Everything about the keys that a request can change."""
        rows = self.gateway.services.keys.list_keys()
        seen = ("id", "status", "disabled_until", "model_rests", "consecutive_failures", "last_error")
        return [tuple(str(row.get(name)) for name in seen) for row in rows if row["provider"] != "demo"]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Meanwhile nothing goes upstream and no key changes its state."""
        before, calls = self.states(), len(self.upstream.received)
        yield
        assert self.states() == before
        assert self.upstream.received[calls:] == []

    def works(self) -> None:
        """An ordinary request is answered."""
        answer = self.gateway.post(CHAT.path, CHAT.body)
        assert (answer.status, answer.json) == (200, CHAT.answer)


def right_answer(request: Received) -> Any:
    """What a provider says to a good request in any of the four."""
    found = next((dialect for dialect in DIALECTS if request.path.endswith(dialect.path)), CHAT)
    return json_reply(found.answer)


@contextmanager
def target(folder: Path, **more: Any) -> Iterator[Target]:
    """The attacked middleware, with one key for each provider; `more` goes to `Gateway`."""
    with FakeProvider() as upstream:
        upstream.default(right_answer)
        origins = dict.fromkeys(KEYS, upstream.origin)
        with Gateway(folder, **{**origins, **more}) as gateway:
            for provider in KEYS:
                gateway.add_keys(provider)
            yield Target(gateway, upstream)
