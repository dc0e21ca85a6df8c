"""Which provider serves a request: the table of rules, and the errors that say what to do."""

from dataclasses import replace

import pytest

from app.errors import DialectNotSpoken, ModelNotFound, NoKeys
from app.providers import BY_NAME, DEMO, DEMO_NAME, Provider
from app.proxy.routing import Providers, Wanted, explain, route


def entry(kind, name=None, **changes):
    found = BY_NAME[kind]
    base = Provider(name or kind, found, found.base_url or "https://example.test", found.formats, found.models)
    return replace(base, **changes)


GEMINI, OPENAI, ANTHROPIC = entry("gemini"), entry("openai"), entry("anthropic")
DEMONSTRATION = Provider(DEMO_NAME, DEMO, "http://127.0.0.1:1", DEMO.formats, DEMO.models, demonstration=True)


class Keys:
    """Provider entries with a living key; `dead` have only disabled ones."""

    def __init__(self, *alive, dead=()):
        self.alive, self.dead = {DEMO_NAME, *alive}, set(dead)

    def has_keys(self, provider):
        return provider in self.alive

    def has_any(self, provider):
        return provider in self.alive | self.dead

    def any_real(self):
        return bool((self.alive | self.dead) - {DEMO_NAME})


def providers(*entries, aliases=None, demo=DEMONSTRATION):
    return Providers.of(list(entries or (GEMINI, OPENAI, ANTHROPIC)), aliases or {}, demo)


def found(wanted, known=None, keys=None):
    keys = keys or Keys("gemini", "openai", "anthropic")
    return [(item.provider.name, item.model) for item in route(wanted, known or providers(), keys).candidates]


@pytest.mark.parametrize(
    ("model", "dialect", "expected"),
    [
        ("gpt-5", "openai_chat", ("openai", "gpt-5")),
        ("gpt-5", "openai_responses", ("openai", "gpt-5")),
        ("gemini-2.5-pro", "gemini", ("gemini", "gemini-2.5-pro")),
        ("gemini-2.5-pro", "openai_chat", ("gemini", "gemini-2.5-pro")),
        ("claude-opus-4", "anthropic_messages", ("anthropic", "claude-opus-4")),
        ("something-new", "openai_chat", ("openai", "something-new")),
        ("something-new", "gemini", ("gemini", "something-new")),
        (None, "openai_chat", ("openai", None)),
        (None, "gemini", ("gemini", None)),
        ("gemini/gemini-2.5-pro", "openai_chat", ("gemini", "gemini-2.5-pro")),
        ("openai/gemini-2.5-pro", "openai_chat", ("openai", "gemini-2.5-pro")),
        ("unknown/model", "openai_chat", ("openai", "unknown/model")),
    ],
)
def test_a_model_goes_where_its_name_its_pattern_or_its_dialect_leads(model, dialect, expected):
    assert found(Wanted(model, dialect)) == [expected]


def test_all_providers_whose_patterns_match_are_candidates_by_priority():
    local = entry("openai-compatible", "local", models=("gpt-*",), priority=1)
    keys = Keys("local", "openai")

    assert found(Wanted("gpt-5", "openai_chat"), providers(OPENAI, local), keys) == [
        ("local", "gpt-5"),
        ("openai", "gpt-5"),
    ]


def test_a_provider_without_any_key_is_passed_over():
    assert found(Wanted("gpt-5", "openai_chat"), keys=Keys("gemini")) == [("gemini", "gpt-5")]


def test_a_model_whose_own_provider_has_only_disabled_keys_goes_to_no_other_company():
    keys = Keys("gemini", dead=["openai"])
    with pytest.raises(NoKeys, match="All keys of 'openai'"):
        found(Wanted("gpt-5", "openai_chat"), keys=keys)
    assert found(Wanted("gemini/gpt-5", "openai_chat"), keys=keys) == [("gemini", "gpt-5")]
    assert found(Wanted("something-new", "openai_chat"), keys=keys) == [("gemini", "something-new")]


def test_a_provider_that_is_switched_off_is_passed_over():
    known = providers(GEMINI, replace(OPENAI, enabled=False))
    assert found(Wanted("gpt-5", "openai_chat"), known) == [("gemini", "gpt-5")]


def test_an_alias_stands_for_a_model_and_may_name_its_provider():
    known = providers(aliases={"fast": "gemini/gemini-2.5-flash", "smart": "gpt-5"})
    assert found(Wanted("fast", "openai_chat"), known) == [("gemini", "gemini-2.5-flash")]
    assert found(Wanted("smart", "openai_chat"), known) == [("openai", "gpt-5")]


def test_a_provider_named_in_the_url_wins_over_every_rule():
    assert found(Wanted("gpt-5", "openai_chat", provider="gemini")) == [("gemini", "gpt-5")]


def test_the_default_model_replaces_every_model_and_the_default_provider_takes_what_nobody_claims():
    assert found(Wanted("gpt-5", "openai_chat", default_model="gpt-4.1")) == [("openai", "gpt-4.1")]
    local = entry("openai-compatible", "local")
    known = providers(OPENAI, local)
    keys = Keys("openai", "local")
    assert found(Wanted("llama", "openai_chat", default_provider="local"), known, keys) == [("local", "llama")]
    assert found(Wanted("gpt-5", "openai_chat", default_provider="local"), known, keys) == [("openai", "gpt-5")]


@pytest.mark.parametrize("model", ["claude-opus-4", "anthropic/claude-opus-4"])
def test_a_provider_that_does_not_speak_the_dialect_is_a_clear_400(model):
    with pytest.raises(DialectNotSpoken, match="does not speak openai_chat"):
        found(Wanted(model, "openai_chat"))


def test_without_any_key_only_the_demonstration_answers():
    keys = Keys()
    assert found(Wanted("demo-fast", "gemini"), keys=keys) == [("demo", "demo-fast")]
    assert found(Wanted(None, "openai_chat"), keys=keys) == [("demo", None)]
    with pytest.raises(NoKeys, match="demo-fast"):
        found(Wanted("gpt-5", "openai_chat"), keys=keys)


@pytest.mark.parametrize("keys", [Keys("openai"), Keys(dead=["openai"])])
@pytest.mark.parametrize("model", ["demo-fast", "demo/demo-fast"])
def test_any_real_key_ends_the_demonstration(keys, model):
    with pytest.raises(ModelNotFound, match="demonstration"):
        found(Wanted(model, "openai_chat"), keys=keys)


def test_when_all_real_keys_are_disabled_nobody_is_sent_to_the_demonstration():
    with pytest.raises(NoKeys, match="disabled") as caught:
        found(Wanted("gpt-5", "openai_chat"), keys=Keys(dead=["openai"]))
    assert "demo" not in caught.value.message


def test_a_named_provider_without_keys_says_so():
    with pytest.raises(NoKeys, match="'gemini' has no usable key"):
        found(Wanted("gemini/x", "gemini"), keys=Keys("openai"))


def test_a_named_provider_that_is_off_or_unknown_is_not_found():
    known = providers(OPENAI, replace(GEMINI, enabled=False))
    with pytest.raises(ModelNotFound, match="switched off"):
        found(Wanted("gemini/x", "gemini"), known)


def test_an_explanation_names_the_steps_and_never_raises():
    known = providers(aliases={"fast": "gemini-2.5-flash"})
    told = explain(Wanted("fast", "openai_chat"), known, Keys("gemini"))
    assert told["candidates"] == [{"provider": "gemini", "kind": "gemini", "model": "gemini-2.5-flash"}]
    assert any("alias" in step for step in told["steps"])
    assert any("patterns" in step for step in told["steps"])

    refused = explain(Wanted("claude-x", "openai_chat"), known, Keys("anthropic"))
    assert refused["candidates"] == []
    assert refused["error"]["code"] == "dialect_not_spoken"


def test_an_entry_with_models_of_its_own_serves_no_others():
    local = entry("openai-compatible", "local", models=("qwen*",), selective=True)
    known, keys = providers(local), Keys("local")
    assert found(Wanted("qwen3", "openai_chat"), known, keys) == [("local", "qwen3")]
    assert found(Wanted("local/gpt-4o", "openai_chat"), known, keys) == [("local", "gpt-4o")]
    assert found(Wanted(None, "openai_chat"), known, keys) == [("local", None)]
    with pytest.raises(ModelNotFound, match="No provider with a usable key serves"):
        found(Wanted("gpt-4o", "openai_chat"), known, keys)
