"""
Gemini at generativelanguage.googleapis.com, which also speaks OpenAI chat completions below `/v1beta/openai`.

Sources: https://ai.google.dev/api/all-methods and https://ai.google.dev/gemini-api/docs/openai
"""

from app.providers.base import OPENAI_LAYER, Kind, Provider, bearer


def _sign(key: str, format_name: str) -> dict[str, str]:
    return {"x-goog-api-key": key} if format_name == "gemini" else bearer(key, format_name)


def _path(_provider: Provider, format_name: str, path: str, _model: str | None) -> str:
    if format_name == "gemini" or path.startswith(OPENAI_LAYER + "/"):
        return path
    return OPENAI_LAYER + path.removeprefix("/v1")


KIND = Kind(
    name="gemini",
    base_url="https://generativelanguage.googleapis.com",
    formats=("gemini", "openai_chat"),
    sign=_sign,
    path=_path,
    verdict_family="gemini",
    models=("gemini-*", "gemma-*", "learnlm-*", "imagen-*", "veo-*", "embedding-001", "text-embedding-004"),
    title="Gemini",
    about="Google's Gemini API at generativelanguage.googleapis.com, also in OpenAI's format.",
    address="Leave it empty for Google itself; give another one for a server that stands in for it.",
)
