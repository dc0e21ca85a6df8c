"""
Azure OpenAI. An entry without `api-version` uses the version-free v1 API; with one, the older deployment paths, where
the model is the name of a deployment.

Source: https://learn.microsoft.com/azure/ai-services/openai/reference
"""

from urllib.parse import quote

from app.providers.base import Kind, Provider, without_openai_layer


def _sign(key: str, _format: str) -> dict[str, str]:
    return {"api-key": key}


def _path(provider: Provider, format_name: str, path: str, model: str | None) -> str:
    path = without_openai_layer(provider, format_name, path, model)
    if provider.base_url.endswith("/openai/v1"):
        return path.removeprefix("/v1")
    # An entry whose URL ended in `/openai/v1`, as the portal shows it, is kept without its version.
    root = "" if provider.base_url.endswith("/openai") else "/openai"
    if "api-version" not in provider.query:
        return root + path
    if model is None or format_name == "openai_responses":
        return root + path.removeprefix("/v1")
    return f"{root}/deployments/{quote(model, safe='')}" + path.removeprefix("/v1")


KIND = Kind(
    name="azure-openai",
    base_url="",
    formats=("openai_chat", "openai_responses"),
    sign=_sign,
    path=_path,
    verdict_family="azure-openai",
    title="Azure OpenAI",
    about="OpenAI models on Azure; models are the names of deployments.",
    address=(
        "The resource's address. Without the query parameter api-version the version-free v1 API is used,"
        " with it the deployment paths."
    ),
    example="https://RESOURCE.openai.azure.com",
)
