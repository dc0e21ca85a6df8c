"""The OpenAPI document: whole, valid, and true of the running application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from markupsafe import escape
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator

from app import formats
from app.admin.openapi import document
from app.formats import FORMATS
from tests.admin.build import PASSWORD, Middleware
from tests.admin.contract import Contract

METHODS = ("get", "put", "post", "delete", "patch")
SAMPLE = {"model": "some-model", "id": "some_id", "item": "some_item"}


@pytest.fixture
def content(middleware: Middleware) -> dict[str, Any]:
    return document(middleware.app).content


def operations(content: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in content["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def proxy_operations(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [(path, method) for path, method, found in operations(content) if {"clientKey": []} in found["security"]]


def media(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, media type object) of every body and answer."""
    contract = Contract(content)
    for path, method, operation in operations(content):
        parts = {"body": contract.resolve(operation.get("requestBody", {}))}
        parts |= {status: contract.resolve(answer) for status, answer in operation["responses"].items()}
        for name, part in parts.items():
            for kind, found in part.get("content", {}).items():
                yield f"{method} {path} {name} {kind}", found


def test_the_document_is_valid_openapi_3_0_3(content):
    assert content["openapi"] == "3.0.3"
    assert [error.message[:500] for error in OpenAPIV30SpecValidator(content).iter_errors()] == []


def test_every_call_has_a_summary_a_tag_of_the_list_and_a_name_of_its_own(content):
    tags = {tag["name"] for tag in content["tags"]}
    names = [operation["operationId"] for _, _, operation in operations(content)]
    assert len(set(names)) == len(names)
    for path, method, operation in operations(content):
        assert operation["summary"], (method, path)
        assert set(operation["tags"]) <= tags, (method, path)
        assert "\n" not in operation["summary"], (method, path)
    assert all(tag["description"] for tag in content["tags"])


def test_every_body_and_every_answer_has_an_example_that_fits_its_schema(content):
    contract = Contract(content)
    seen = 0
    for where, found in media(content):
        examples = contract.examples(found)
        assert examples, f"{where} has no example"
        for example in examples:
            assert contract.faults(found["schema"], example) == [], where
            seen += 1
    assert seen > 500


def test_the_examples_of_components_and_parameters_fit_too(content):
    contract = Contract(content)
    for name, schema in content["components"]["schemas"].items():
        if "example" in schema:
            assert contract.faults(schema, schema["example"]) == [], name
    for path, method, operation in operations(content):
        for parameter in map(contract.resolve, operation.get("parameters", [])):
            if "example" in parameter:
                assert contract.faults(parameter["schema"], parameter["example"]) == [], (method, path)


def test_path_parameters_are_described_one_by_one(content):
    contract = Contract(content)
    for path, method, operation in operations(content):
        described = {
            found["name"] for found in map(contract.resolve, operation.get("parameters", [])) if found["in"] == "path"
        }
        assert described == set(re.findall(r"\{(\w+)\}", path)), (method, path)


def test_every_schema_component_is_used(content):
    text = str(content)
    for name in content["components"]["schemas"]:
        assert f"'#/components/schemas/{name}'" in text, name


def test_changes_by_the_cookie_need_its_token(content):
    for path, method, operation in operations(content):
        if path.startswith("/middleware/api") and path != "/middleware/api/login":
            wanted = {"session": []} if method == "get" else {"session": [], "csrf": []}
            assert operation["security"] == [wanted, {"bearer": []}], (method, path)


# -- how it is served ------------------------------------------------------------------------------------


def test_the_document_is_served_with_an_etag_and_not_again_to_who_has_it(locked):
    client = locked.client(bearer=True)
    first = client.get("/middleware/apispec.json")
    assert first.get_json() == document(locked.app).content
    assert first.headers["Cache-Control"] == "private, no-cache"

    second = client.get("/middleware/apispec.json", headers={"If-None-Match": first.headers["ETag"]})

    assert (second.status_code, second.data) == (304, b"")


def test_the_document_is_made_once(middleware):
    assert document(middleware.app) is document(middleware.app)


@pytest.mark.parametrize("path", ["/middleware/swagger/", "/middleware/apispec.json"])
def test_page_and_document_are_behind_the_login(locked, path):
    answer = locked.client().get(path)
    assert answer.status_code == 302
    assert "/middleware/login" in answer.headers["Location"]


def test_the_page_lists_every_call_for_readers_without_javascript(middleware, content):
    page = middleware.client().get("/middleware/swagger/").text
    for path, _method, operation in operations(content):
        assert path in page
        assert str(escape(operation["summary"])) in page


@pytest.mark.parametrize("path", ["/apidocs/", "/flasgger_static/swagger-ui.css", "/apispec_1.json"])
def test_nothing_of_flasgger_is_served(middleware, path):
    assert not [rule for rule in middleware.app.url_map.iter_rules() if "flasgger" in rule.endpoint]
    assert middleware.client().get(path).status_code == 404


# -- the proxy ---------------------------------------------------------------------------------------


def test_every_documented_proxy_call_is_one_that_a_format_knows(content):
    for path, method in proxy_operations(content):
        assert formats.match(method.upper(), path.format(**SAMPLE), {}, "") is not None


def test_every_rule_of_the_formats_is_documented_with_its_methods(content):
    documented = [(path.format(**SAMPLE), method) for path, method in proxy_operations(content)]
    for each in FORMATS:
        for endpoint in each.endpoints:
            for method in map(str.lower, endpoint.methods):
                if method == "head" or (method == "get" and endpoint.pattern.pattern == "/v1/responses"):
                    continue  # only there to refuse WebSockets
                matching = [path for path, of in documented if endpoint.pattern.fullmatch(path)]
                assert matching, endpoint.pattern.pattern
                tree = endpoint.pattern.pattern.removesuffix("$").endswith(("*", "?"))
                assert tree or (method in {of for path, of in documented if path in matching}), endpoint


def test_errors_of_the_proxy_are_those_of_each_dialect(content):
    contract = Contract(content)
    chat = content["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(chat) == {"200", "400", "401", "403", "404", "408", "413", "415", "429", "500", "502", "503", "504"}
    resting = contract.resolve(chat["429"])["content"]["application/json"]["example"]
    assert resting["error"]["code"] == "all_keys_resting"
    assert "wake_at" in resting["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "demo-fast", "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"model": "demo-fast", "input": "Hi"}),
        ("/v1/embeddings", {"model": "demo-fast", "input": "Hi"}),
        ("/v1/messages", {"model": "demo-fast", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/messages/count_tokens", {"model": "demo-fast", "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1beta/models/{model}:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]}),
        ("/v1beta/models/{model}:countTokens", {"contents": [{"parts": [{"text": "Hi"}]}]}),
        ("/v1beta/models/{model}:embedContent", {"content": {"parts": [{"text": "Hi"}]}}),
        ("/v1/models", None),
        ("/v1beta/models", None),
    ],
)
def test_real_answers_of_the_proxy_fit_their_schemas(middleware, path, body):
    contract = Contract(document(middleware.app).content)
    client = middleware.client()
    address = path.format(model="demo-fast")

    answer = client.get(address) if body is None else client.post(address, json=body)

    assert answer.status_code == 200, answer.text
    assert contract.check(path, answer) == []


def test_a_refusal_of_the_proxy_fits_its_schema(locked):
    contract = Contract(document(locked.app).content)
    locked.services.clients.create(name="Ada")
    for path in ("/v1/chat/completions", "/v1/messages", "/v1beta/models/{model}:generateContent"):
        answer = locked.client().post(path.format(model="gpt-5"), json={"model": "gpt-5"})
        assert answer.status_code == 401
        assert contract.check(path, answer) == []


# -- real answers of the administration --------------------------------------------------------------


def test_real_answers_of_the_admin_api_fit_their_schemas(locked):
    contract = Contract(document(locked.app).content)
    client = locked.client(bearer=True)
    faults: list[str] = []

    def call(method: str, path: str, body: Any = None, *, query: str = "", expect: int = 200, **names: object) -> Any:
        address = "/middleware/api" + path.format(**names)
        answer = client.open(address + query, method=method, json=body)
        assert answer.status_code == expect, (method, address, answer.text)
        faults.extend(f"{method} {path}: {fault}" for fault in contract.check("/middleware/api" + path, answer))
        return answer.get_json()

    key_id = call("POST", "/keys", {"key": "sk-0123456789abcdef", "provider": "openai"}, expect=201)["id"]
    call("POST", "/keys", {"key": "sk-0123456789abcdef"}, expect=400)
    call("POST", "/keys/bulk-action", {"key_ids": [key_id], "status": "Resting"})
    for path in ("/keys", "/keys/export", "/providers", "/clients", "/aliases", "/prices", "/global-stats", "/session"):
        call("GET", path)
    call("POST", "/keys/bulk-add", {"text": "sk-aaaaaaaaaaaaaaaa\nx", "provider": "openai"})
    call("GET", "/models")
    chat = {"dialect": "gemini", "model": "gemini-3-flash", "turns": [{"role": "user", "text": "Hi"}]}
    call("POST", "/playground", chat)
    call("POST", "/playground/key", {})
    call("GET", "/keys/{key_id}", key_id=key_id)
    call("GET", "/keys/{key_id}", key_id=999, expect=404)
    call("PUT", "/keys/{key_id}", {"note": "x"}, key_id=key_id)
    call("POST", "/keys/{key_id}/wake", {}, key_id=key_id)
    call("PUT", "/keys/{key_id}", {"status": "Disabled"}, key_id=key_id)
    call("POST", "/keys/{key_id}/wake", {}, key_id=key_id, expect=409)
    call("POST", "/keys/{key_id}/reveal", {"password": PASSWORD}, key_id=key_id)
    call("GET", "/keys/{key_id}/stats", key_id=key_id)
    exported = call("POST", "/keys/export", {"password": PASSWORD})
    call("POST", "/keys/import", exported)
    call("DELETE", "/keys/{key_id}", key_id=key_id)
    client_id = call("POST", "/clients", {"name": "Ada"}, expect=201)["id"]
    call("GET", "/clients/{client_id}", client_id=client_id)
    call("PATCH", "/clients/{client_id}", {"active": False}, client_id=client_id)
    call("GET", "/route", query=f"?model=gpt-5&client={client_id}")
    call("GET", "/route", query="?path=/nowhere")
    call("GET", "/clients/{client_id}/usage", client_id=client_id)
    call("DELETE", "/clients/{client_id}", client_id=client_id)
    wanted = {"name": "ollama", "kind": "openai-compatible", "base_url": "http://127.0.0.1:9"}
    call("POST", "/providers", wanted, expect=201)
    call("POST", "/providers", wanted, expect=409)
    call("GET", "/providers/{name}", name="ollama")
    call("PUT", "/providers/{name}", {"priority": 5}, name="ollama")
    call("DELETE", "/providers/{name}", name="ollama")
    call("PUT", "/aliases", {"fast": "gpt-5-mini"})
    call("PATCH", "/aliases", {"fast": None})
    call("PUT", "/prices", {"gpt-5*": {"input_per_million": 1, "output_per_million": 2}})
    call("PATCH", "/prices", {"gpt-5*": None})
    call("GET", "/settings")
    call("GET", "/settings", query="?describe=true")
    call("POST", "/settings", {"max_retries": 5})
    call("POST", "/settings", {"max_retries": 500}, expect=400)
    call("GET", "/settings/{name}", name="max_retries")
    call("POST", "/settings/reset", {})
    call("GET", "/usage")
    call("POST", "/login", {"password": "wrong"}, expect=401)
    call("POST", "/login", {"password": PASSWORD})
    call("POST", "/logout", {})
    call("GET", "/keys", expect=401)
    assert faults == []


def test_real_answers_of_tests_of_keys_and_providers_fit_their_schemas(middleware):
    contract = Contract(document(middleware.app).content)
    client = middleware.client()
    for path, body in (
        ("/keys/{key_id}/test", {}),
        ("/keys/bulk-test", {"key_ids": [1, 5, 999]}),
        ("/models/refresh", {"provider": "demo"}),
        ("/models/refresh", {}),
        ("/providers/{name}/test", {}),
    ):
        answer = client.post("/middleware/api" + path.format(key_id=1, name="openai"), json=body)
        assert answer.status_code == 200, answer.text
        assert contract.check("/middleware/api" + path, answer) == []


def test_recorded_requests_fit_their_schema(middleware):
    contract = Contract(document(middleware.app).content)
    client = middleware.client()
    body = {"model": "demo-fast", "messages": [{"role": "user", "content": "Hi"}]}
    client.post("/v1/chat/completions", json=body).close()
    middleware.services.writer.flush(5)

    for path in ("/requests", "/logs", "/usage", "/global-stats", "/dashboard"):
        answer = client.get("/middleware/api" + path)
        assert contract.check("/middleware/api" + path, answer) == []
    answer = client.get("/middleware/api/logs?after_id=0")
    assert answer.get_json()[0]["id"] > 0
    assert contract.check("/middleware/api/logs", answer) == []
    row = client.get("/middleware/api/requests").get_json()["requests"][0]
    answer = client.get(f"/middleware/api/requests/{row['id']}")
    assert contract.check("/middleware/api/requests/{identity}", answer) == []


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/health", "/v1/health", "/metrics"])
def test_health_fits_its_schema(middleware, path):
    contract = Contract(document(middleware.app).content)
    answer = middleware.client().get(path, headers={"Accept": "application/json"})
    assert contract.check(path, answer) == []


def test_the_examples_would_be_refused_where_they_did_not_fit(content):
    assert OAS30Validator({"type": "integer"}).is_valid("x") is False
    assert Contract(content).faults({"$ref": "#/components/schemas/Error"}, {"success": True}) != []
