"""The verdict on a failed attempt: every row of the tables, the order of evaluation, and bodies from hell."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.keys.base import Action, Failure, Phase, Scope, Verdict
from app.keys.error_bodies import read_error
from app.keys.verdict_tables import BY_STATUS, FAMILIES, WRAPPING_FAMILIES, Row
from app.keys.verdicts import explain_message, judge
from tests.canned_errors import HTML_ERROR, gemini_error, google_detail, openai_error
from tests.keys.verdict_case import Case
from tests.keys.verdict_cases import CASES, WALL_NOW

BAD_KEY = openai_error("Incorrect API key provided.", code="invalid_api_key")


def head(status: int, body: object, family: str = "openai", model: str | None = "model-1", **headers: str) -> Verdict:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(family, Failure(Phase.HEAD, status, headers, data), model, WALL_NOW)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_truth_table_holds(case: Case) -> None:
    verdict = judge(case.family, case.failure(), case.model, WALL_NOW)

    assert (verdict.action, verdict.scope, verdict.reason) == (case.action, case.scope, case.reason)
    assert verdict.rest_s == pytest.approx(case.rest_s(WALL_NOW))
    assert verdict.ladder == case.ladder
    assert (verdict.alert, verdict.max_tries, verdict.model) == (case.alert, case.max_tries, case.named)


def test_every_case_has_a_name_of_its_own() -> None:
    assert [name for name, times in Counter(case.id for case in CASES).items() if times > 1] == []


def test_every_row_of_every_table_has_a_case() -> None:
    reached = set()
    for case in CASES:
        report = read_error(case.body_bytes, unwrap=case.family not in WRAPPING_FAMILIES)
        matching = (row for row in (*FAMILIES[case.family], *BY_STATUS) if case.phase is Phase.HEAD)
        row = next((row for row in matching if row.matches(case.status, report, "retry-after" in case.headers)), None)
        reached.add(row and _condition(row))

    tables = (*FAMILIES.values(), BY_STATUS)
    unreached = [(row.reason, row.codes) for table in tables for row in table if _condition(row) not in reached]

    assert unreached == []


def _condition(row: Row) -> Row:
    """The row without its scope: Azure's tables repeat rows with another one."""
    return replace(row, scope=Scope.NONE)


def test_what_rests_has_a_length() -> None:
    resting = [case for case in CASES if case.action in (Action.KEY_REST, Action.MODEL_GONE)]

    assert [case.id for case in resting if case.rest is None and case.ladder is None] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("body", [HTML_ERROR, b"", b"   ", b"Forbidden", b"{}", b"[]", b"null", b'"no"', b"{"])
def test_without_an_error_in_it_a_body_never_kills_a_key(family: str, body: bytes) -> None:
    verdicts = [head(status, body, family) for status in range(100, 1000)]

    assert Action.KEY_DEAD not in {verdict.action for verdict in verdicts}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_in_free_text_never_kill_a_key(family: str) -> None:
    words = (
        "the prompt says: invalid_api_key API_KEY_INVALID reported as leaked CONSUMER_SUSPENDED organization_on_hold "
        "Incorrect API key provided, your account has been deactivated"
    )

    verdicts = [
        head(status, {"error": {"message": words, "code": None}}, family) for status in (400, 403, 422, 429, 500)
    ]

    assert Action.KEY_DEAD not in {verdict.action for verdict in verdicts}


def test_an_error_that_was_encoded_twice_is_read() -> None:
    inner = gemini_error(
        400, "INVALID_ARGUMENT", "API key not valid.", google_detail("ErrorInfo", reason="API_KEY_INVALID")
    )
    wrapped = {"error": {"code": 400, "message": json.dumps([inner]), "status": "Bad Request"}}

    verdict = head(400, {"error": {"message": json.dumps(wrapped)}}, "gemini")

    assert (verdict.action, verdict.message) == (Action.KEY_DEAD, "API key not valid.")


def test_a_nesting_without_end_is_given_up() -> None:
    body = {"error": {"message": "deep", "code": "invalid_api_key"}}
    for _ in range(10):
        body = {"error": {"message": json.dumps(body), "code": "outer"}}

    assert head(400, body).action is Action.CLIENT


def test_a_json_text_instead_of_an_object_is_read() -> None:
    assert head(401, json.dumps(json.dumps(BAD_KEY)).encode()).action is Action.KEY_DEAD


def test_a_byte_order_mark_does_not_hide_the_error() -> None:
    assert head(401, b"\xef\xbb\xbf" + json.dumps(BAD_KEY).encode()).action is Action.KEY_DEAD


@pytest.mark.parametrize("phase", [Phase.CONNECT, Phase.SEND, Phase.BODY])
def test_a_failure_below_http_is_the_providers_whatever_bytes_came(phase: Phase) -> None:
    failure = Failure(phase, 401, {}, json.dumps(BAD_KEY).encode(), "reset")

    assert judge("openai", failure, "model-1", WALL_NOW) == Verdict(
        Action.PROVIDER, reason="reset", message=BAD_KEY["error"]["message"] if phase is Phase.BODY else "reset"
    )


def test_an_unknown_family_is_judged_as_any_server() -> None:
    assert head(401, BAD_KEY, "nobody").action is Action.KEY_DEAD


def test_a_rest_for_a_model_covers_the_group_when_the_call_names_no_model() -> None:
    body = openai_error("Slow.", "requests", "rate_limit_exceeded")

    assert head(429, body, model=None).scope is Scope.GROUP
    assert head(429, body, "azure-openai", model=None).scope is Scope.KEY


def test_an_error_event_falls_back_to_the_status_that_the_format_saw_in_it() -> None:
    failure = Failure(Phase.STREAM, 429, {}, b'{"error": "slow"}')

    assert judge("generic", failure, "model-1", WALL_NOW).action is Action.KEY_REST


def test_the_explanation_is_the_providers_sentence_on_one_line() -> None:
    body = {"error": {"message": "Bad\x00 key\r\n\x1b[31m\ud800 here\u2028now"}}

    assert explain_message(Failure(Phase.HEAD, 401, {}, json.dumps(body).encode())) == "Bad key [31m here now"


def test_the_explanation_is_cut_between_words() -> None:
    secret = "sk-" + "a1" * 40
    body = {"error": {"message": "word " * 90 + secret}}

    explanation = explain_message(Failure(Phase.HEAD, 401, {}, json.dumps(body).encode()))

    assert len(explanation) <= 500
    assert explanation.endswith("word…")


def test_the_explanation_of_one_endless_word_still_has_an_end() -> None:
    assert len(explain_message(Failure(Phase.HEAD, 500, {}, b"x" * 60_000))) == 500


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error": "text"}', "text"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
        (b'{"message": "Unauthorized"}', "Unauthorized"),
        (b'{"object": "error", "message": "No such model"}', "No such model"),
        (b'{"code": "denied", "error": "Wrong key"}', "Wrong key"),
        (b"plain words", "plain words"),
        (HTML_ERROR, ""),
        (b"", ""),
    ],
)
def test_the_explanation_is_found_in_every_shape(body: bytes, sentence: str) -> None:
    assert explain_message(Failure(Phase.HEAD, 400, {}, body)) == sentence


def test_a_connection_failure_is_explained_by_its_code() -> None:
    assert explain_message(Failure(Phase.CONNECT, error="dns")) == "dns"


# -- bodies from hell ---------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "error",
        "message",
        "code",
        "type",
        "status",
        "details",
        "metadata",
        "reason",
        "violations",
        "quotaId",
        "quotaValue",
    ]
    + ["quotaDimensions", "model", "retryDelay", "headers", "resets_at", "response", "detail", "innererror", "failed"]
    + [
        "quota_limit",
        "error_code",
        "insufficient_quota",
        "RESOURCE_EXHAUSTED",
        "x-ratelimit-reset",
        "PerDay",
        "1e9999s",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=5), inner, max_size=6),
    max_leaves=30,
)
header_names = st.sampled_from(
    ["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset"]
    + ["anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining"]
)
bodies = st.binary(max_size=200) | documents.map(lambda value: json.dumps(value).encode())


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from([*FAMILIES, "unknown"]),
    phase=st.sampled_from(Phase),
    status=st.integers(0, 999),
    headers=st.dictionaries(header_names, st.text(max_size=20) | st.floats().map(str), max_size=4),
    body=bodies,
    model=st.none() | st.text(max_size=5),
)
def test_any_answer_at_all_gets_a_verdict(
    family: str, phase: Phase, status: int, headers: dict[str, str], body: bytes, model: str | None
) -> None:
    failure = Failure(phase, status, headers, body)

    verdict = judge(family, failure, model, WALL_NOW)

    assert verdict.reason
    assert len(verdict.message) <= 500
    assert verdict.rest_s is None or 1.0 <= verdict.rest_s <= 31 * 86_400
    assert verdict.message.isprintable() or verdict.message.encode("utf-8")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65_536,
        b'{"error":' * 9_000,
        b'{"error": {"code": ' + b"9" * 60_000 + b"}}",
        b'{"error": {"code": 1e999999, "message": NaN}}',
        b'{"error": {"message": "' + b"retry in 1h" * 5_000 + b'"}}',
        b'{"error": {"message": "' + b"1 s " * 16_000 + b'"}}',
        b'{"error": {"message": "please retry in ' + b"1 " * 30_000 + b'"}}',
        b"\xff\xfe" * 30_000,
    ],
)
def test_a_hostile_body_is_judged_at_once(body: bytes) -> None:
    for family in FAMILIES:
        assert head(429, body, family).action in (Action.KEY_REST, Action.PROVIDER)
