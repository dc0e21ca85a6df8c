"""OpenAI. Authentication: https://platform.openai.com/docs/api-reference/authentication"""

from app.providers.base import Kind, bearer, without_openai_layer

KIND = Kind(
    name="openai",
    base_url="https://api.openai.com",
    formats=("openai_chat", "openai_responses"),
    sign=bearer,
    path=without_openai_layer,
    verdict_family="openai",
    models=(
        "gpt-*",
        "chatgpt-*",
        "o1*",
        "o3*",
        "o4*",
        "codex-*",
        "text-embedding-3-*",
        "text-embedding-ada-*",
        "dall-e-*",
        "whisper-*",
        "tts-*",
        "omni-moderation-*",
        "sora-*",
    ),
    title="OpenAI",
    about="OpenAI's API at api.openai.com: chat completions and Responses.",
    address="Leave it empty for OpenAI itself; give another one for a server that stands in for it.",
)
