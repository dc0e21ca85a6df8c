"""
Databricks model serving: OpenAI chat bodies at `/serving-endpoints/<endpoint>/invocations`. An entry whose base URL
ends in `/invocations` serves that one endpoint whatever the model is called.

Source: https://docs.databricks.com/machine-learning/foundation-model-apis/api-reference
"""

from urllib.parse import quote

from app.providers.base import Kind, Provider, bearer, without_openai_layer

_INVOKED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


def _path(provider: Provider, format_name: str, path: str, model: str | None) -> str:
    path = without_openai_layer(provider, format_name, path, model)
    if provider.base_url.endswith("/invocations"):
        return ""
    root = "" if provider.base_url.endswith("/serving-endpoints") else "/serving-endpoints"
    if path in _INVOKED and model is not None:
        return f"{root}/{quote(model, safe='')}/invocations"
    return root + path.removeprefix("/v1")


KIND = Kind(
    name="databricks",
    base_url="",
    formats=("openai_chat",),
    sign=bearer,
    path=_path,
    verdict_family="databricks",
    models=("databricks-*",),
    title="Databricks",
    about="Model serving endpoints; models are the names of endpoints.",
    address=(
        "The workspace's address. One that ends in /invocations serves that one endpoint, whatever the model is called."
    ),
    example="https://WORKSPACE.cloud.databricks.com",
)
