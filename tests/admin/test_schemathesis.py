"""
schemathesis reads the OpenAPI document and asks the admin API everything that it allows, and much that it does not.

Every answer must have a status, a content type and a body that the document knows, and none may be a 5xx.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.admin.openapi import describe, document
from app.auth_store import SessionKind
from tests.admin.build import PASSWORD
from tests.gateway import Gateway

EXAMPLES = 8
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KEY = "sk-0123456789abcdef"
SPARE, REQUEST_ID = "spare", "a-request-that-exists"
CLOSED = "http://127.0.0.1:9"
#: (file, view) of every call of the administration.
CALLS = [(area, view) for area in describe.AREAS if area != "health" for view in describe.read(area)["operations"]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A middleware of its own: these calls delete and change at will. Its providers lead to a closed port."""
    with Gateway(tmp_path_factory.mktemp("asked"), environ={"MIDDLEWARE_PASSWORD": PASSWORD}) as running:
        body = {"model": "demo-fast", "messages": [{"role": "user", "content": "Hello"}]}
        running.app.test_client().post("/v1/chat/completions", json=body, headers={"X-Request-ID": REQUEST_ID}).close()
        running.settle()
        yield running


@pytest.fixture(scope="module")
def schema(gateway: Gateway) -> Any:
    loaded = schemathesis.openapi.from_dict(document(gateway.app).content)
    loaded.app = gateway.app
    return loaded


def operation_of(schema: Any, view: str) -> Any:
    for path, item in schema.raw_schema["paths"].items():
        for method, operation in item.items():
            if operation["operationId"] == view:
                return schema[path][method.upper()]
    raise AssertionError(view)


def things_that_exist(gateway: Gateway) -> dict[str, Any]:
    """Path parameters of things that are there, made again where a call before has deleted them."""
    services = gateway.services
    if SPARE not in services.providers.snapshot.by_name:
        services.providers.create({"name": SPARE, "kind": "openai-compatible", "base_url": CLOSED})
    keys = [row["id"] for row in services.keys.list_keys() if row["provider"] != "demo"]
    clients = [row["id"] for row in services.clients.list()]
    return {
        "key_id": keys[0] if keys else services.keys.add(KEY, provider="openai"),
        "client_id": clients[0] if clients else services.clients.create(name="Ada")[0],
        "name": SPARE,
        "identity": REQUEST_ID,
    }


def keep_at_home(case: Any) -> None:
    """Whatever was made up, no call leaves this machine."""
    if "/providers" in case.path and isinstance(case.body, dict) and case.method in ("POST", "PUT"):
        case.body["base_url"] = CLOSED


def ask(gateway: Gateway, case: Any, known: bool) -> None:
    keep_at_home(case)
    for name, value in things_that_exist(gateway).items() if known else ():
        if name in case.path_parameters and not ("/settings/" in case.path and name == "name"):
            case.path_parameters[name] = value
    if known and "/keys" in case.path and isinstance(case.body, dict) and "provider" in case.body:
        case.body["provider"] = "openai"
    token, _ = gateway.services.auth.open_session(SessionKind.BEARER)
    answer = case.call(headers={"Authorization": f"Bearer {token}"})
    case.validate_response(answer, checks=CHECKS, headers={"Authorization": "[filtered]"})


@pytest.mark.parametrize(("area", "view"), CALLS, ids=[".".join(call) for call in CALLS])
def test_every_answer_is_one_that_the_document_knows(gateway: Gateway, schema: Any, area: str, view: str) -> None:
    operation = operation_of(schema, view)
    asked = 0
    for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def run(case: Any, known: bool) -> None:
            nonlocal asked
            ask(gateway, case, known)
            asked += 1

        with contextlib.suppress(Unsatisfiable):  # where there is nothing that could be wrong
            run()
    assert asked


@pytest.mark.parametrize(("area", "view"), CALLS, ids=[".".join(call) for call in CALLS])
def test_without_credentials_nothing_is_answered_but_how_to_log_in(
    gateway: Gateway, schema: Any, area: str, view: str
) -> None:
    operation = operation_of(schema, view)
    case = operation.Case(path_parameters={each.name: "1" for each in operation.path_parameters})
    answer = case.call()
    if view == "api_login":
        assert answer.status_code == 400
    else:
        assert (answer.status_code, answer.json()["code"]) == (401, "login_required")
