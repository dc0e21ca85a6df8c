"""Any server that speaks OpenAI's chat completions: vLLM, Ollama, LM Studio, Groq, OpenRouter, DeepSeek and so on."""

from app.providers.base import Kind, bearer, without_openai_layer

KIND = Kind(
    name="openai-compatible",
    base_url="",
    formats=("openai_chat",),
    sign=bearer,
    path=without_openai_layer,
    verdict_family="generic",
)
