"""Conversation state stays with the key that made it."""

import pytest

from tests import canned
from tests.fake_provider import FakeProvider, json_reply, reply, stream
from tests.gateway import Gateway


@pytest.fixture
def upstream():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path, upstream):
    with Gateway(tmp_path, openai=upstream.origin, anthropic=upstream.origin, gemini=upstream.origin) as gateway:
        for provider in ("openai", "anthropic", "gemini"):
            gateway.add_keys(provider, 3)
        yield gateway


RESPONSE = {"model": "gpt-test", "input": "hi"}


def test_requests_without_a_sign_take_turns(gateway, upstream):
    upstream.default(json_reply(canned.response()))
    for _ in range(3):
        gateway.post("/v1/responses", RESPONSE)
    assert len({received.key for received in upstream.received}) == 3


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"prompt_cache_key": "c-1"}, {}), ({}, {"X-Session-Id": "s-1"})],
    ids=["prompt_cache_key", "session header"],
)
def test_a_conversation_that_names_itself_stays_with_its_key(gateway, upstream, body, headers):
    upstream.default(json_reply(canned.response()))
    for _ in range(4):
        gateway.post("/v1/responses", {**RESPONSE, **body}, **headers)
    assert len({received.key for received in upstream.received}) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_an_earlier_response_is_continued_with_the_key_that_made_it(gateway, upstream, streamed):
    answer = canned.response()
    upstream.answers(stream(canned.response_stream()) if streamed else json_reply(answer))
    upstream.default(json_reply(answer))
    gateway.post("/v1/responses", {**RESPONSE, "stream": streamed})
    made = upstream.received[0].key

    for _ in range(3):
        gateway.post("/v1/responses", {**RESPONSE, "previous_response_id": answer["id"]})
        gateway.get(f"/v1/responses/{answer['id']}")

    assert len(upstream.received) == 7
    assert {received.key for received in upstream.received} == {made}


def test_an_uploaded_file_is_used_with_the_key_that_holds_it(gateway, upstream):
    upstream.default(json_reply({"id": "file-abc123", "object": "file", "filename": "a.txt"}))
    gateway.request(
        "POST", "/v1/files", body=b"--x\r\n\r\n--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    made = upstream.received[0].key
    for _ in range(3):
        assert gateway.get("/v1/files/file-abc123").status == 200
    assert len(upstream.received) == 4
    assert {received.key for received in upstream.received} == {made}


def test_all_parts_of_a_resumable_upload_go_to_the_key_that_began_it(gateway, upstream):
    url = "https://upload.example/upload/v1beta/files?upload_id=AbC&upload_protocol=resumable"
    upstream.answers(reply(200, {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"}, b"{}"))
    upstream.default(json_reply({"file": {"name": "files/xyz"}}))
    answer = gateway.request(
        "POST",
        "/upload/v1beta/files",
        body=b"{}",
        headers={"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start", "X-Goog-Api-Key": "x"},
    )
    assert answer.headers["x-goog-upload-url"] == url
    made = upstream.received[0].key

    for _ in range(3):
        answer = gateway.request(
            "POST",
            "/upload/v1beta/files?upload_id=AbC&upload_protocol=resumable",
            body=b"part",
            headers={"X-Goog-Upload-Command": "upload", "Content-Type": "text/plain"},
        )
        assert answer.status == 200

    assert len(upstream.received) == 4
    assert {received.key for received in upstream.received} == {made}


def signed(signature):
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": signature}
    return {"contents": [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": [part]}]}


def test_a_thought_signature_goes_back_to_the_key_that_gave_it(gateway, upstream):
    answer = canned.gemini()
    answer["candidates"][0]["content"]["parts"] = signed("c2lnbmF0dXJl")["contents"][1]["parts"]
    upstream.default(json_reply(answer))
    path = "/v1beta/models/gemini-test:generateContent"
    gateway.post(path, {"contents": [{"role": "user", "parts": [{"text": "x"}]}]})
    made = upstream.received[0].key

    for _ in range(3):
        gateway.post(path, signed("c2lnbmF0dXJl"))

    assert len(upstream.received) == 4
    assert {received.key for received in upstream.received} == {made}


REFUSED = {
    "error": {"code": 400, "message": "Corrupted thought signature.", "status": "INVALID_ARGUMENT"},
}


def test_state_that_another_key_made_is_taken_out_and_the_request_sent_once_more(gateway, upstream):
    upstream.answers(json_reply(REFUSED, status=400))
    upstream.default(json_reply(canned.gemini()))

    answer = gateway.post("/v1beta/models/gemini-test:generateContent", signed("c2lnbmF0dXJl"))

    assert answer.status == 200
    assert [b"skip_thought_signature_validator" in received.body for received in upstream.received] == [False, True]
    assert [attempt["verdict"] for attempt in gateway.records()[0]["attempts"]] == ["STATE", "ok"]
    assert all(row["status"] == "Healthy" for row in gateway.services.keys.list_keys())


def test_state_that_is_refused_twice_is_the_callers_error(gateway, upstream):
    upstream.default(json_reply(REFUSED, status=400))

    answer = gateway.post("/v1beta/models/gemini-test:generateContent", signed("c2lnbmF0dXJl"))

    assert (answer.status, len(upstream.received)) == (400, 2)
    assert "Corrupted" in answer.json["error"]["message"]


def test_a_session_whose_key_is_disabled_goes_on_with_another(gateway, upstream):
    upstream.default(json_reply(canned.response()))
    gateway.post("/v1/responses", {**RESPONSE, "prompt_cache_key": "c-1"})
    first = upstream.received[0].key
    gateway.services.keys.update(gateway.key(first)["id"], {"status": "Disabled"})

    for _ in range(3):
        assert gateway.post("/v1/responses", {**RESPONSE, "prompt_cache_key": "c-1"}).status == 200

    later = {received.key for received in upstream.received[1:]}
    assert len(later) == 1
    assert later != {first}
