"""Where each kind sends, how it signs: one row for each case."""

import pytest

from app.providers import BY_NAME, DEMO, KINDS, Provider


def entry(kind, base_url="", query=None):
    found = BY_NAME[kind]
    return Provider(kind, found, base_url or found.base_url, found.formats, query=query or {})


CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.mark.parametrize(
    ("provider", "format_name", "path", "model", "expected"),
    [
        (entry("openai"), "openai_chat", CHAT, "gpt-5", CHAT),
        (entry("openai"), "openai_chat", "/v1beta/openai/chat/completions", "gpt-5", CHAT),
        (entry("openai"), "openai_responses", "/v1/responses", "gpt-5", "/v1/responses"),
        (entry("openai-compatible", "https://x.test/api"), "openai_chat", CHAT, "m", CHAT),
        (entry("anthropic"), "anthropic_messages", MESSAGES, "claude", MESSAGES),
        (
            entry("gemini"),
            "gemini",
            "/v1beta/models/g:generateContent",
            "g",
            "/v1beta/models/g:generateContent",
        ),
        (entry("gemini"), "openai_chat", CHAT, "g", "/v1beta/openai/chat/completions"),
        (entry("gemini"), "openai_chat", "/v1beta/openai/embeddings", "g", "/v1beta/openai/embeddings"),
        (entry("azure-openai", "https://r.test"), "openai_chat", CHAT, "dep", "/openai/v1/chat/completions"),
        (entry("azure-openai", "https://r.test/openai/v1"), "openai_chat", CHAT, "dep", "/chat/completions"),
        (
            entry("azure-openai", "https://r.test", {"api-version": "2024-10-21"}),
            "openai_chat",
            CHAT,
            "my dep",
            "/openai/deployments/my%20dep/chat/completions",
        ),
        (
            entry("azure-openai", "https://r.test", {"api-version": "2025-03-01-preview"}),
            "openai_responses",
            "/v1/responses",
            "dep",
            "/openai/responses",
        ),
        (entry("azure-anthropic", "https://r.test/anthropic"), "anthropic_messages", MESSAGES, "dep", MESSAGES),
        (entry("azure-anthropic", "https://r.test/anthropic/v1/messages"), "anthropic_messages", MESSAGES, "dep", ""),
        (
            entry("databricks", "https://w.test"),
            "openai_chat",
            CHAT,
            "databricks-claude",
            "/serving-endpoints/databricks-claude/invocations",
        ),
        (entry("databricks", "https://w.test/serving-endpoints/e/invocations"), "openai_chat", CHAT, "m", ""),
        (entry("databricks", "https://w.test"), "openai_chat", "/v1/models", None, "/serving-endpoints/models"),
    ],
)
def test_the_path_below_the_base_url(provider, format_name, path, model, expected):
    assert provider.kind.path(provider, format_name, path, model) == expected


@pytest.mark.parametrize(
    ("kind", "format_name", "expected"),
    [
        ("openai", "openai_chat", {"Authorization": "Bearer KEY"}),
        ("openai-compatible", "openai_chat", {"Authorization": "Bearer KEY"}),
        ("databricks", "openai_chat", {"Authorization": "Bearer KEY"}),
        ("anthropic", "anthropic_messages", {"x-api-key": "KEY"}),
        ("gemini", "gemini", {"x-goog-api-key": "KEY"}),
        ("gemini", "openai_chat", {"Authorization": "Bearer KEY"}),
        ("azure-openai", "openai_chat", {"api-key": "KEY"}),
        ("azure-anthropic", "anthropic_messages", {"x-api-key": "KEY", "api-key": "KEY"}),
    ],
)
def test_the_signature(kind, format_name, expected):
    assert BY_NAME[kind].sign("KEY", format_name) == expected


def test_every_kind_speaks_its_first_format_natively_and_has_a_verdict_table():
    from app.formats import BY_NAME as FORMATS
    from app.keys.verdict_tables import FAMILIES

    for kind in KINDS:
        assert set(kind.formats) <= set(FORMATS)
        assert kind.verdict_family in FAMILIES
    assert set(DEMO.formats) == set(FORMATS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_explains_itself(kind):
    assert kind.title
    assert kind.about.endswith(".")
    assert kind.address.endswith(".")
    assert kind.base_url or kind.example
