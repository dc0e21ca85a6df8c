"""A client key is taken from every place in which a client may put it, and goes no further."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import canned
from tests.fake_provider import json_reply
from tests.stage import Stage


def by_place(token: str) -> dict[str, Callable[[str], tuple[str, dict[str, str]]]]:
    return {
        "bearer": lambda path: (path, {"Authorization": f"Bearer {token}"}),
        "bare": lambda path: (path, {"Authorization": token}),
        "x-api-key": lambda path: (path, {"x-api-key": token}),
        "x-goog-api-key": lambda path: (path, {"x-goog-api-key": token}),
        "api-key": lambda path: (path, {"api-key": token}),
        "query": lambda path: (f"{path}?key={token}", {}),
    }


@pytest.mark.parametrize("place", sorted(by_place("")))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1beta/models/gemini-test:generateContent"])
def test_a_client_key_is_taken_in_every_place_for_every_dialect(stage: Stage, place: str, path: str) -> None:
    asked, answer = {
        "/v1/chat/completions": (canned.CHAT_REQUEST, canned.chat()),
        "/v1/messages": (canned.MESSAGES_REQUEST, canned.message()),
    }.get(path, (canned.GEMINI_REQUEST, canned.gemini()))
    stage.upstream.default(json_reply(answer))
    client_id, token = stage.gateway.services.clients.create("curl")
    target, headers = by_place(token)[place](path)
    try:
        told = stage.gateway.request("POST", target, json_body=asked, headers=headers)
    finally:
        stage.gateway.services.clients.delete(client_id)
    assert (told.status, told.json) == (200, answer)
    (received,) = stage.upstream.received
    assert token not in str(received.header_list) + received.target
    assert stage.record()["client_id"] == client_id
