"""Anthropic. Headers: https://docs.anthropic.com/en/api/overview"""

from app.providers.base import Kind, as_it_came


def _sign(key: str, _format: str) -> dict[str, str]:
    return {"x-api-key": key}


KIND = Kind(
    name="anthropic",
    base_url="https://api.anthropic.com",
    formats=("anthropic_messages",),
    sign=_sign,
    path=as_it_came,
    verdict_family="anthropic",
    models=("claude-*",),
    # Required by the API; a caller's own version always wins, since versions differ in what they accept.
    headers={"anthropic-version": "2023-06-01"},
    title="Anthropic",
    about="Claude models at api.anthropic.com.",
    address="Leave it empty for Anthropic itself; give another one for a server that stands in for it.",
)
