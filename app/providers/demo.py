"""The built-in demonstration upstream: every format, no model. It exists so that a first request answers at once."""

from app.providers import anthropic, gemini
from app.providers.base import Kind, bearer, without_openai_layer

NAME = "demo"


def _sign(key: str, format_name: str) -> dict[str, str]:
    if format_name == "anthropic_messages":
        return {**anthropic.KIND.sign(key, format_name), **anthropic.KIND.headers}
    return gemini.KIND.sign(key, format_name) if format_name == "gemini" else bearer(key, format_name)


KIND = Kind(
    name="demo",
    base_url="",
    formats=("openai_chat", "openai_responses", "anthropic_messages", "gemini"),
    sign=_sign,
    path=without_openai_layer,
    verdict_family="",
    models=("demo-*",),
)
