"""
What the middleware asks a provider on its own account, and what it makes of the answer: the list of models, whether a
key is good, and the smallest generation. Pure: `provider_calls` sends these questions.

Sources: https://platform.openai.com/docs/api-reference/models, https://docs.anthropic.com/en/api/models-list,
https://ai.google.dev/api/models, https://docs.databricks.com/api/workspace/servingendpoints/list,
https://openrouter.ai/docs/api-reference/limits (the list of models there needs no key, `/v1/key` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from app.errors import BadRequest
from app.keys.base import Failure, Phase, Verdict
from app.keys.verdicts import judge
from app.providers import Provider
from app.proxy.headers import for_upstream

MAX_MODELS = 5000
MAX_MODEL_CHARS = 256
_NAME_SAFE = "/:@-._~"
_FAMILY_BY_FORMAT = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "gemini": "gemini",
}
_LIST_PATHS = {
    "openai_chat": ("/v1/models", ""),
    "openai_responses": ("/v1/models", ""),
    "anthropic_messages": ("/v1/models", "limit=1000"),
    "gemini": ("/v1beta/models", "pageSize=1000"),
}
#: Where each kind of answer has its list, and what its rows call the name.
_LISTS = (("data", "id"), ("models", "name"), ("endpoints", "name"))
#: By kind: lists outside the provider's own formats, at the root of its host.
_ROOT_LIST_PATHS = {"databricks": "/api/2.0/serving-endpoints"}
#: By verdict family: what needs a key where the list of models needs none.
_CREDENTIAL_PATHS = {"openrouter": "/v1/key"}
#: Newer models refuse the old name of the limit, other servers know only that one.
_NEW_TOKEN_LIMIT = frozenset({"openai", "azure-openai"})
#: The least that the Responses API takes, and enough for models that think first.
_FEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Question:
    """
    One request to a provider, signed.

    format  -- name of the wire format that it is in
    model   -- the model it names, None where it names none
    """

    method: str
    url: str
    format: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What came back.

    failure  -- set where no whole answer came
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: Failure | None = None
    duration_ms: int = 0


# -- questions -----------------------------------------------------------------------------------------


def ask_models(provider: Provider, key: str) -> Question:
    """The provider's list of models."""
    return _ask_list(provider, key, None)


def ask_credential(provider: Provider, key: str) -> Question:
    """Whether the key is good: the list of models, or what stands for it where that list is open to all. Free."""
    return _ask_list(provider, key, _CREDENTIAL_PATHS.get(provider.verdict_family))


def _ask_list(provider: Provider, key: str, other_path: str | None) -> Question:
    spoken = provider.formats[0]
    root_path = _ROOT_LIST_PATHS.get(provider.kind.name)
    if root_path is not None:
        base = urlsplit(provider.base_url)
        return _question(provider, key, spoken, f"{base.scheme}://{base.netloc}{root_path}")
    path, query = (other_path, "") if other_path is not None else _LIST_PATHS[spoken]
    return _question(provider, key, spoken, provider.base_url + provider.kind.path(provider, spoken, path, None), query)


def ask_generation(provider: Provider, key: str, model: str) -> Question:
    """The smallest generation with this model. Raises BadRequest for a name that no model has."""
    _check_model(model)
    spoken = provider.formats[0]
    path, body = _generation(provider, spoken, model)
    path = provider.kind.path(provider, spoken, path, model)
    url = provider.base_url + quote(path, safe=_NAME_SAFE + "%")
    return _question(provider, key, spoken, url, body=orjson.dumps(body), model=model)


def _generation(provider: Provider, spoken: str, model: str) -> tuple[str, dict[str, Any]]:
    """Path at the format's own provider, and the body."""
    if spoken == "gemini":
        name = quote(model.removeprefix("models/"), safe=_NAME_SAFE)
        contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
        return f"/v1beta/models/{name}:generateContent", {
            "contents": contents,
            "generationConfig": {"maxOutputTokens": 1},
        }
    if spoken == "openai_responses":
        return "/v1/responses", {"model": model, "input": "Hi", "max_output_tokens": _FEW_TOKENS, "store": False}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
    if provider.kind.model_in_body:
        body["model"] = model
    if spoken == "anthropic_messages":
        return "/v1/messages", body | {"max_tokens": 1}
    limit = {"max_completion_tokens": _FEW_TOKENS} if provider.kind.name in _NEW_TOKEN_LIMIT else {"max_tokens": 1}
    return "/v1/chat/completions", body | limit


def _check_model(model: str) -> None:
    parts = model.split("/")
    if not 1 <= len(model) <= MAX_MODEL_CHARS or not model.isprintable() or {".", ".."} & set(parts):
        raise BadRequest("This is no name of a model.", code="invalid_field", param="model")


def _question(
    provider: Provider,
    key: str,
    spoken: str,
    url: str,
    query: str = "",
    *,
    body: bytes | None = None,
    model: str | None = None,
) -> Question:
    own = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in provider.query.items())
    query = "&".join(part for part in (query, own) if part)
    wanted = {"accept": "application/json"}
    if body is not None:
        wanted["content-type"] = "application/json"
    signature = provider.kind.sign(key, spoken)
    headers = for_upstream(wanted, provider, signature, urlsplit(url).netloc, body)
    return Question(
        "GET" if body is None else "POST", f"{url}?{query}" if query else url, spoken, dict(headers), body, model
    )


# -- answers -------------------------------------------------------------------------------------------


def read_models(body: bytes) -> list[str] | None:
    """The names in a list of models, each once, in the provider's order; None where it is no such list."""
    answer = _parsed(body)
    if isinstance(answer, list):  # some servers leave the envelope out
        answer = {"data": answer}
    if not isinstance(answer, dict):
        return None
    for list_name, name in _LISTS:
        rows = answer.get(list_name)
        if isinstance(rows, list):
            names = (row.get(name) for row in rows if isinstance(row, dict))
            whole = (name.removeprefix("models/")[:MAX_MODEL_CHARS] for name in names if isinstance(name, str))
            return list(dict.fromkeys(name for name in whole if name and name.isprintable()))[:MAX_MODELS]
    return None


def failure_of(reply: Reply) -> Failure | None:
    """What failed, in the words that verdicts are made of; None for a good answer."""
    if reply.failure is not None:
        return reply.failure
    if not 200 <= reply.status < 300:
        return Failure(Phase.HEAD, reply.status, reply.headers, reply.body)
    answer = _parsed(reply.body)
    if isinstance(answer, dict) and answer.get("error"):
        return Failure(Phase.STREAM, 200, {}, reply.body)
    if not isinstance(answer, dict | list):
        return Failure(Phase.BODY, reply.status, {}, b"", "invalid_body")
    return None


def judge_failure(provider: Provider, question: Question, failure: Failure, wall_now: float) -> Verdict:
    """The same verdict that a caller's request would get."""
    family = provider.verdict_family or _FAMILY_BY_FORMAT[question.format]
    return judge(family, failure, question.model, wall_now)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
