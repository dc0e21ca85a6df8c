"""A URL belongs to one format; where several share it, the headers decide."""

from __future__ import annotations

import pytest

from app import formats
from app.errors import MethodNotAllowed, NotFound
from app.formats import paths
from app.formats.base import Operation

ANTHROPIC = {"anthropic-version": "2023-06-01", "authorization": "Bearer x"}
GOOGLE = {"x-goog-api-key": "x"}


def match(method, path, headers=None, query=""):
    return formats.match(method, path, headers or {}, query)


def test_the_formats_are_registered_by_name_in_order():
    names = [each.name for each in formats.FORMATS]

    assert names == ["openai_chat", "openai_responses", "anthropic_messages", "gemini"]
    assert list(formats.BY_NAME) == names


@pytest.mark.parametrize(
    ("method", "path", "name", "operation"),
    [
        ("POST", "/v1/chat/completions", "openai_chat", Operation.GENERATE),
        ("POST", "/v1/completions", "openai_chat", Operation.GENERATE),
        ("POST", "/v1/embeddings", "openai_chat", Operation.EMBED),
        ("POST", "/v1/responses", "openai_responses", Operation.GENERATE),
        ("GET", "/v1/responses", "openai_responses", Operation.OTHER),
        ("POST", "/v1/responses/input_tokens", "openai_responses", Operation.COUNT),
        ("POST", "/v1/responses/compact", "openai_responses", Operation.GENERATE),
        ("GET", "/v1/responses/resp_1", "openai_responses", Operation.OTHER),
        ("POST", "/v1/responses/resp_1/cancel", "openai_responses", Operation.OTHER),
        ("GET", "/v1/responses/resp_1/input_items", "openai_responses", Operation.OTHER),
        ("DELETE", "/v1/conversations/conv_1/items/msg_1", "openai_responses", Operation.OTHER),
        ("POST", "/v1/messages", "anthropic_messages", Operation.GENERATE),
        ("POST", "/v1/messages/count_tokens", "anthropic_messages", Operation.COUNT),
        ("POST", "/v1beta/models/gemini-x:generateContent", "gemini", Operation.GENERATE),
        ("POST", "/v1/models/gemini-x:generateContent", "gemini", Operation.GENERATE),
        ("POST", "/v1beta/models/gemini-x:countTokens", "gemini", Operation.COUNT),
        ("GET", "/v1beta/models", "gemini", Operation.MODELS),
        ("GET", "/v1/models", "openai_chat", Operation.MODELS),
        ("GET", "/v1/files", "openai_chat", Operation.OTHER),
        ("GET", "/v1/files/file-1/content", "openai_chat", Operation.OTHER),
        ("POST", "/v1/images/generations", "openai_chat", Operation.OTHER),
        ("POST", "/v1/audio/transcriptions", "openai_chat", Operation.OTHER),
        ("POST", "/v1/moderations", "openai_chat", Operation.OTHER),
        ("GET", "/v1/vector_stores/vs_1/files/file-1", "openai_chat", Operation.OTHER),
        ("POST", "/v1/fine_tuning/jobs/ftjob-1/cancel", "openai_chat", Operation.OTHER),
        ("POST", "/v1/threads/thread_1/runs/run_1/submit_tool_outputs", "openai_chat", Operation.OTHER),
        ("POST", "/v1/realtime/client_secrets", "openai_chat", Operation.OTHER),
    ],
)
def test_a_path_has_one_format_and_one_operation(method, path, name, operation):
    found = match(method, path)

    assert (found.format.name, found.endpoint.operation, found.path) == (name, operation, path)


@pytest.mark.parametrize(
    ("headers", "query", "family"),
    [
        ({}, "", "openai"),
        ({"authorization": "Bearer x"}, "", "openai"),
        (ANTHROPIC, "", "anthropic"),
        ({"x-api-key": "x"}, "", "anthropic"),
        (GOOGLE, "", "gemini"),
        ({}, "pageSize=5&key=AIza", "gemini"),
        ({}, "monkey=1", "openai"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/some-model"])
def test_a_shared_path_is_decided_by_the_credentials(path, headers, query, family):
    assert match("GET", path, headers, query).format.family == family


@pytest.mark.parametrize("headers", [{}, ANTHROPIC])
def test_v1beta_is_always_gemini(headers):
    assert match("GET", "/v1beta/models", headers).format.name == "gemini"


@pytest.mark.parametrize("headers", [{}, ANTHROPIC, GOOGLE])
@pytest.mark.parametrize(
    ("method", "path", "upstream", "name"),
    [
        ("POST", "/v1beta/openai/chat/completions", "/v1/chat/completions", "openai_chat"),
        ("GET", "/v1beta/openai/models", "/v1/models", "openai_chat"),
        ("POST", "/v1beta/openai/embeddings", "/v1/embeddings", "openai_chat"),
        ("POST", "/v1beta/openai/responses", "/v1/responses", "openai_responses"),
    ],
)
def test_google_s_openai_paths_are_openai_s(method, path, upstream, name, headers):
    found = match(method, path, headers)

    assert (found.format.name, found.path) == (name, upstream)


@pytest.mark.parametrize("model", ["gpt-5", "ft:gpt-4o:org::id", "org/model", "a@b", "models.x"])
def test_the_model_in_the_path_is_found(model):
    assert match("GET", f"/v1/models/{model}").model == model


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/chat/completions",
        "/v1/chat/completions/",
        "/v1/Chat/completions",
        "/v1/organization/admin_api_keys",
        "/v1/projects/p/roles",
        "/v1/fine_tuning/checkpoints/ft/permissions",
        "/admin",
        "/middleware/api/keys",
        "/v1/models/x y",
        "/v1/files/../admin",
        "/v1/vector_stores/" + "/".join("a" * 11),
        "/v1beta/openai/organization/users",
    ],
)
def test_a_path_outside_the_allow_list_is_not_found(path):
    with pytest.raises(NotFound):
        match("GET", path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/embeddings"),
        ("PUT", "/v1/models"),
        ("DELETE", "/v1/responses"),
        ("GET", "/v1/moderations"),
        ("PATCH", "/v1/files/file-1"),
        ("HEAD", "/v1/models"),
    ],
)
def test_a_wrong_method_is_told_which_ones_there_are(method, path):
    with pytest.raises(MethodNotAllowed, match="Use ") as caught:
        match(method, path)

    assert caught.value.status == 405


@pytest.mark.parametrize(
    ("path", "headers", "query", "name"),
    [
        ("/v1/chat/completions", {}, "", "openai_chat"),
        ("/v1/responses/x/y/z", {}, "", "openai_responses"),
        ("/openai/v1/responses", {}, "", "openai_responses"),
        ("/v1/messages/x", {}, "", "anthropic_messages"),
        ("/v1beta/nothing", {}, "", "gemini"),
        ("/v1/models/x:generateContent", {}, "", "gemini"),
        ("/v1beta/openai/nothing", GOOGLE, "", "openai_chat"),
        ("/nothing", ANTHROPIC, "", "anthropic_messages"),
        ("/nothing", {}, "key=x", "gemini"),
        ("/nothing", {}, "", "openai_chat"),
        ("", {}, "", "openai_chat"),
    ],
)
def test_an_error_before_the_match_has_a_dialect(path, headers, query, name):
    assert formats.guess_dialect(path, headers, query).name == name


def test_no_pattern_lets_a_dot_segment_through():
    for each in formats.FORMATS:
        for endpoint in each.endpoints:
            for suffix in ("/..", "/../x", "/."):
                for base in ("/v1/files", "/v1/models", "/v1beta/models", "/v1/responses", "/v1/batches"):
                    assert endpoint.pattern.fullmatch(base + suffix) is None


def test_normalised_targets_match_end_to_end():
    path, query = paths.normalise("//v1/v1/chat/completions?x=1")
    provider, path = paths.split_prefix(path, {"openai"})

    assert (provider, match("POST", path, {}, query).path) == (None, "/v1/chat/completions")


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent", "countTokens", "predict"])
def test_a_verb_of_gemini_is_only_posted(verb):
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
        for path in (f"/v1beta/models/gemini-test:{verb}", f"/v1/models/gemini-test:{verb}"):
            for headers in ({}, ANTHROPIC, GOOGLE):
                with pytest.raises(MethodNotAllowed, match="Use POST") as caught:
                    match(method, path, headers)
                assert caught.value.allow == ("POST",)


def test_a_model_name_may_hold_a_colon():
    found = match("GET", "/v1beta/models/llama3:8b", {}, "")
    assert found.model == "llama3:8b"
