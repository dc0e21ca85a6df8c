"""Request targets are decoded once; whatever could mean two things is refused."""

from __future__ import annotations

import re
import time

import pytest

from app.errors import BadRequest
from app.formats import paths


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", ""),
        ("/v1/chat/completions?a=b&c=%20", "/v1/chat/completions", "a=b&c=%20"),
        ("//v1/chat/completions", "/v1/chat/completions", ""),
        ("/v1/v1/chat/completions", "/v1/chat/completions", ""),
        ("/v1/v1beta/models/x:generateContent", "/v1beta/models/x:generateContent", ""),
        ("/v1beta/v1beta/models", "/v1beta/models", ""),
        ("/chat/completions", "/v1/chat/completions", ""),
        ("/responses", "/v1/responses", ""),
        ("/embeddings", "/v1/embeddings", ""),
        ("/messages", "/v1/messages", ""),
        ("/completions", "/v1/completions", ""),
        ("/moderations", "/v1/moderations", ""),
        ("/files", "/v1/files", ""),
        ("/files/file-1/content", "/v1/files/file-1/content", ""),
        ("/images/generations", "/v1/images/generations", ""),
        ("/audio/speech", "/v1/audio/speech", ""),
        ("/batches/batch_1/cancel", "/v1/batches/batch_1/cancel", ""),
        ("/messages/count_tokens?beta=true", "/v1/messages/count_tokens", "beta=true"),
        ("/v1/models/org%2Fmodel", "/v1/models/org/model", ""),
        ("/v1/models/a%3Ab%40c", "/v1/models/a:b@c", ""),
        ("/v1beta/openai/chat/completions", "/v1beta/openai/chat/completions", ""),
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions", ""),
        ("/", "/", ""),
        ("/?x", "/", "x"),
        ("/v1/files/caf%C3%A9", "/v1/files/café", ""),
    ],
)
def test_a_path_is_decoded_once_and_made_canonical(target, path, query):
    assert paths.normalise(target) == (path, query)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "v1/models",
        "http://169.254.169.254/v1/models",
        "/v1/../../admin",
        "/v1/..",
        "/v1/./models",
        "/v1/.",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/models/..%2f..%2ffiles",
        "/v1/models/x%2f..%2ffiles",
        "/v1/models/x%252e%252e",
        "/v1/models/x%25",
        "/v1//models",
        "/v1/models//x",
        "///v1/models",
        "/v1/models/%2Fx",
        "/v1%2Fmodels",
        "/v1%5cmodels",
        "/v1\\models",
        "/v1/models;x",
        "/v1/models/x%3Bkey=1",
        "/v1/models/x%3Fkey=1",
        "/v1/models/x%23y",
        "/v1/models#y",
        "/v1/models/x%00",
        "/v1/models/x%0d%0aHost:%20evil",
        "/v1/models/x\r\nHost: evil",
        "/v1/models/x y",
        "/v1/models/x%C2%85",
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/v1/models/%2",
        "/v1/models/é",
        "/v1/models/" + "x" * 8192,
        "/v1/models?" + "x" * 8192,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(target):
    with pytest.raises(BadRequest) as caught:
        paths.normalise(target)

    assert caught.value.status == 400
    assert caught.value.code == "invalid_path"


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/middleware/api/keys", "/api/admin/api-keys", "/livez", "/readyz", "/healthz"]
)
def test_a_path_of_our_own_gets_no_version(path):
    assert paths.normalise(path) == (path, "")


@pytest.mark.parametrize("path", ["/audio/v1/audio/speech", "/files/v1beta/models/x:generateContent"])
def test_a_provider_may_be_called_like_a_resource(path):
    name = path.split("/")[1]

    assert paths.split_prefix(paths.normalise(path)[0], {name}) == (name, path.removeprefix(f"/{name}"))


def test_a_host_after_two_slashes_is_only_a_path():
    assert paths.normalise("//evil.example/v1/models") == ("/evil.example/v1/models", "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/openai/v1/chat/completions", ("openai", "/v1/chat/completions")),
        ("/openai/chat/completions", ("openai", "/v1/chat/completions")),
        ("/openai/v1/v1/models", ("openai", "/v1/models")),
        ("/gemini/v1beta/models/x:generateContent", ("gemini", "/v1beta/models/x:generateContent")),
        ("/other/v1/models", (None, "/other/v1/models")),
        ("/openai", (None, "/openai")),
        ("/v1/models", (None, "/v1/models")),
        ("/", (None, "/")),
    ],
)
def test_a_provider_in_front_of_the_path_is_recognised(path, expected):
    assert paths.split_prefix(path, {"openai", "gemini", "v1"}) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ("", [])),
        ("alt=sse", ("alt=sse", [])),
        ("key=AIza%2B1", ("", ["AIza+1"])),
        ("alt=sse&key=a&x=%20&%6Bey=b", ("alt=sse&x=%20", ["a", "b"])),
        ("key&monkey=1&key=", ("monkey=1", ["", ""])),
    ],
)
def test_the_key_parameter_is_taken_out_of_the_query(query, expected):
    assert paths.strip_key_parameter(query) == expected


@pytest.mark.parametrize("model", ["gpt-5", "org/model:free", "a@b", "ft:gpt-4o:org::id", "x+y", "m" * 256])
def test_names_of_models_match(model):
    match = re.fullmatch(paths.MODEL, model)

    assert match
    assert match["model"] == model


@pytest.mark.parametrize("model", ["", "/x", "a..b", "a b", "a%20b", "é", "a\n", "a?b", "m" * 257, "a'b", '"'])
def test_what_is_no_name_of_a_model_does_not_match(model):
    assert re.fullmatch(paths.MODEL, model) is None


def test_long_hostile_targets_are_refused_quickly():
    started = time.perf_counter()
    for piece in ("/v1", "/..", "%2f", "/v1/models/", "."):
        target = (piece * 8192)[:8190]
        try:
            paths.normalise(target if target.startswith("/") else "/" + target)
        except BadRequest:
            continue

    assert time.perf_counter() - started < 5
