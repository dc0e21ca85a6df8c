"""
Any server that speaks OpenAI's chat completions: vLLM, Ollama, LM Studio, Groq, OpenRouter, DeepSeek and so on.

An entry whose base URL ends in a version other than `/v1` (`/api/paas/v4`, `/v1beta/openai`) has no `/v1` below it.
"""

import re

from app.providers.base import Kind, Provider, bearer, without_openai_layer

_VERSIONED = re.compile(r"/v\d+[a-z]*\d*(?:/openai)?$")


def _path(provider: Provider, format_name: str, path: str, model: str | None) -> str:
    path = without_openai_layer(provider, format_name, path, model)
    return path.removeprefix("/v1") if _VERSIONED.search(provider.base_url) else path


KIND = Kind(
    name="openai-compatible",
    base_url="",
    formats=("openai_chat",),
    sign=bearer,
    path=_path,
    verdict_family="generic",
    title="OpenAI-compatible",
    about="Any server that speaks OpenAI's chat completions: Ollama, vLLM, LM Studio, Groq, OpenRouter and so on.",
    address="What its documentation calls the base URL. A /v1 at its end may be left out.",
    example="http://127.0.0.1:11434",
)
