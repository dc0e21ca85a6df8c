"""An upstream that answers what it is asked, in each wire format, plain and streamed: models, chats and messages."""

from __future__ import annotations

from tests import canned
from tests.fake_behaviors import Behavior, json_reply, stream
from tests.fake_connection import Received

OPENAI_MODELS = ("gpt-5", "gpt-5-mini", "text-embedding-3-small")
ANTHROPIC_MODELS = ("claude-haiku-4-5", "claude-sonnet-4-5")
GEMINI_MODELS = ("gemini-2.5-flash", "gemini-2.5-pro")


def ordinary(request: Received) -> Behavior:
    """`FakeProvider().default(ordinary)`."""
    path = request.path
    if request.method == "GET":
        return json_reply(_models(request))
    if path.endswith("/chat/completions"):
        return stream(canned.chat_stream()) if _streamed(request) else json_reply(canned.chat())
    if path.endswith("/responses"):
        return stream(canned.response_stream()) if _streamed(request) else json_reply(canned.response())
    if path.endswith("/messages"):
        return stream(canned.message_stream()) if _streamed(request) else json_reply(canned.message())
    if path.endswith(":streamGenerateContent"):
        return stream(canned.gemini_stream())
    if path.endswith(":generateContent"):
        return json_reply(canned.gemini())
    return json_reply({"error": {"message": f"There is no {path} here."}}, 404)


def _models(request: Received) -> dict[str, object]:
    if "x-goog-api-key" in request.headers:
        return canned.gemini_models(*GEMINI_MODELS)
    if "anthropic-version" in request.headers:
        return canned.anthropic_models(*ANTHROPIC_MODELS)
    return canned.openai_models(*OPENAI_MODELS)


def _streamed(request: Received) -> bool:
    return bool(request.json.get("stream"))
