"""
Claude on Azure (Foundry): `https://<resource>.services.ai.azure.com/anthropic`. The key goes out under both names that
the service accepts, and the model is the name of a deployment.

Source: https://learn.microsoft.com/azure/ai-foundry/foundry-models/how-to/use-foundry-models-claude
"""

from app.providers.base import Kind, Provider


def _sign(key: str, _format: str) -> dict[str, str]:
    return {"x-api-key": key, "api-key": key}


def _path(provider: Provider, _format: str, path: str, _model: str | None) -> str:
    # An entry may name the whole endpoint, as other tools ask for it.
    return path.removeprefix("/v1/messages") if provider.base_url.endswith("/v1/messages") else path


KIND = Kind(
    name="azure-anthropic",
    base_url="",
    formats=("anthropic_messages",),
    sign=_sign,
    path=_path,
    verdict_family="azure-anthropic",
    headers={"anthropic-version": "2023-06-01"},
    title="Anthropic on Azure",
    about="Claude on Azure AI Foundry; models are the names of deployments.",
    address="The resource's address with /anthropic at its end.",
    example="https://RESOURCE.services.ai.azure.com/anthropic",
)
