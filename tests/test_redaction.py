"""Secrets out of text: what has to go, and what has to stay."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
import threading
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.redaction import Redactor

GOOGLE = "AIzaSyD-0123456789abcdefghijklmnopqrstu"
OPENAI = "sk-proj-AbCd0123456789EfGhIjKlMnOpQrStUv"
ANTHROPIC = "sk-ant-api03-AbCd0123456789EfGhIjKlMnOpQrStUv-AA"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx3Zc\nq8dK+/4=\n-----END RSA PRIVATE KEY-----"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


# -- exact secrets ------------------------------------------------------------------------------------


def test_a_known_secret_keeps_its_first_and_last_four_characters() -> None:
    redactor = Redactor(["a-secret-of-our-own-0001"])

    assert redactor.text("Consumer 'a-secret-of-our-own-0001' is gone") == "Consumer 'a-se…0001' is gone"


def test_a_short_secret_shows_nothing_of_itself() -> None:
    assert Redactor(["hunter22hunter"]).text("pw hunter22hunter.") == "pw [redacted]."


def test_a_secret_is_found_inside_a_word_and_more_than_once() -> None:
    redactor = Redactor(["a-secret-of-our-own-0001"])

    assert redactor.text("xa-secret-of-our-own-0001y a-secret-of-our-own-0001") == "xa-se…0001y a-se…0001"


@pytest.mark.parametrize(
    "form", ["aB%2Fc%2B0123456789%3Dxyz%20w", "aB%2fc%2b0123456789%3dxyz%20w", "aB%2Fc%2B0123456789%3Dxyz+w"]
)
def test_a_url_encoded_secret_is_found(form: str) -> None:
    assert Redactor(["aB/c+0123456789=xyz w"]).text(f"at /x?v={form}&y=1") == f"at /x?v={form[:4]}…{form[-4:]}&y=1"


def test_of_two_secrets_that_start_alike_the_longer_one_goes_whole() -> None:
    redactor = Redactor(["prefix-0123456789-abc", "prefix-0123456789-abc-and-more"])

    assert redactor.text("<prefix-0123456789-abc-and-more>") == "<pref…more>"
    assert redactor.text("<prefix-0123456789-abc>") == "<pref…-abc>"


def test_a_secret_shorter_than_eight_characters_is_an_ordinary_word() -> None:
    assert Redactor(["test", "", "key-one"]).text("test the key-one") == "test the key-one"


def test_the_set_of_secrets_can_be_replaced() -> None:
    redactor = Redactor(["a-secret-of-our-own-0001"])

    redactor.replace_secrets(["a-secret-of-our-own-0002"])

    assert redactor.text("a-secret-of-our-own-0001 a-secret-of-our-own-0002") == "a-secret-of-our-own-0001 a-se…0002"


def test_the_set_can_be_replaced_while_others_redact() -> None:
    redactor = Redactor()
    sets = [[f"thread-secret-{number:06d}-{half}" for number in range(200)] for half in (1, 2)]
    wrong: list[str] = []
    stop = threading.Event()

    def redact() -> None:
        while not stop.is_set():
            text = redactor.text("always-secret-000001")
            if text != "alwa…0001":
                wrong.append(text)

    redactor.replace_secrets([*sets[0], "always-secret-000001"])
    threads = [threading.Thread(target=redact) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        redactor.replace_secrets([*sets[turn % 2], "always-secret-000001"])
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []


# -- shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"api_key:{GOOGLE}' has been suspended", "api_key:AIza…rstu' has been suspended"),
        (f"Incorrect API key provided: {OPENAI}.", "Incorrect API key provided: sk-p…StUv."),
        (f'{{"key": "{ANTHROPIC}"}}', '{"key": "sk-a…v-AA"}'),
        ("sk-or-v1-0123456789abcdef0123456789abcdef", "sk-o…cdef"),
        ("AQ.Ab8RN6KxYz0123456789_-abcdefgh", "AQ.A…efgh"),
        ("token dapi0123456789abcdef0123456789abcdef-2", "token dapi…ef-2"),
        ("Authorization: Bearer abc123def456ghi789jkl", "Authorization: Bearer abc1…9jkl"),
        ("authorization: bearer abc123def456", "authorization: bearer [redacted]"),
        ("GET /v1beta/models?key=abcdefgh12345678wxyz&alt=sse", "GET /v1beta/models?key=abcd…wxyz&alt=sse"),
        ("https://h/p?alt=sse&key=0123456789", "https://h/p?alt=sse&key=[redacted]"),
        ("https://h/p?a=1\\u0026key=0123456789", "https://h/p?a=1\\u0026key=[redacted]"),
        ("https://h/p?access_token=0123456789abcdef0123", "https://h/p?access_token=0123…0123"),
        ("x-api-key: 0123456789abcdef0123", "x-api-key: 0123…0123"),
        ('{"x-goog-api-key": "0123456789abcdef0123"}', '{"x-goog-api-key": "0123…0123"}'),
        (f"cookie={JWT};", "cookie=eyJh…3I9P;"),
        (f"GEMINI_API_KEYS={GOOGLE}", "GEMINI_API_KEYS=AIza…rstu"),
        (f"the key:\\n{GOOGLE}\\nis bad", "the key:\\nAIza…rstu\\nis bad"),
        (f"?q=%22{OPENAI}%22", "?q=%22sk-p…StUv%22"),
        (f"before\n{PEM}\nafter", "before\n[redacted]\nafter"),
        (json.dumps(PEM), '"[redacted]"'),
        ("gsk_0123456789abcdefABCDEF", "gsk_…CDEF"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_…2345"),
        ("AKIA0123456789ABCDEF", "AKIA…CDEF"),
    ],
)
def test_what_is_shaped_like_a_key_goes(redactor: Redactor, text: str, clean: str) -> None:
    assert redactor.text(text) == clean


def test_a_private_key_without_its_end_goes_too(redactor: Redactor) -> None:
    assert redactor.text(PEM.partition("-----END")[0] + '", next') == '[redacted]", next'


@pytest.mark.parametrize(
    "text",
    [
        hashlib.md5(b"x").hexdigest(),
        hashlib.sha1(b"x").hexdigest(),
        hashlib.sha256(b"x").hexdigest(),
        f"sha512-{base64.b64encode(hashlib.sha512(b'x').digest()).decode()}",
        str(uuid.UUID(int=2**127 + 12345)),
        base64.b64encode(bytes(range(256))).decode(),
        base64.urlsafe_b64encode(b"\x00\x86\xb3" * 40).decode(),
        "/usr/lib/python3.11/site-packages/sklearn/sk-learn/task-12345678901234567890",
        "C:\\Users\\me\\disk-0123456789abcdef0123",
        "a risk-0123456789abcdef0123 and a desk-0123456789abcdef0123",
        "sk-a-long-hyphenated-word-without-digits",
        "sk-short1",
        "AIzaShort",
        "Bearer authentication is required, use a bearer token",
        "-----BEGIN CERTIFICATE-----\nMIIEowIBAAKCAQEAx3Zc\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIEowIBAAKCAQEAx3Zc\n-----END PUBLIC KEY-----",
        "The function sorts by key=lambda item: item.name and monkey=0123456789abcdef",
        "?key=name&sort=up",
        "eyJhbGciOiJIUzI1NiJ9",
        "chatcmpl-0123456789abcdefghijABCDEF resp_0123456789abcdef msg_01ABCDEFGH req_011CdGynYhzSgVkKGN7UcJf9",
        "org-0123456789abcdefghij proj_0123456789abcdef gpt-5.6-2026-01-01 claude-sonnet-5-20260101",
        "0123456789abcdef0123456789abcdef01234567 HEAD -> main",
        "the api_key parameter: required",
    ],
)
def test_what_is_ordinary_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) is text


@settings(deadline=None)
@given(st.text(alphabet=string.printable, max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    redactor = Redactor(["a-secret-of-our-own-0001"])
    once = redactor.text(f"?key=0123456789ab {text} {OPENAI} Bearer a-secret-of-our-own-0001")

    assert redactor.text(once) == once


@pytest.mark.parametrize(
    "secret", [GOOGLE, OPENAI, ANTHROPIC, "plain-upstream-secret-4711", "pass/word+with=signs&more 42"]
)
@settings(deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_loaded_key_never_comes_out_whole(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])

    assert secret not in redactor.text(before + secret + after)
    assert secret.encode() not in redactor.data((before + secret + after).encode("utf-8", "replace"))


# -- bytes --------------------------------------------------------------------------------------------


def test_bytes_are_redacted_in_place_and_nothing_else_is_touched() -> None:
    redactor = Redactor(["a-secret-of-our-own-0001"])

    assert redactor.data(b"\xff\xfe a-secret-of-our-own-0001 \x80") == b"\xff\xfe a-se\xe2\x80\xa60001 \x80"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_without_a_secret_come_back_as_they_are(data: bytes) -> None:
    assert Redactor(["a-secret-of-our-own-0001"]).data(data) == data


def test_a_text_with_nothing_to_do_is_returned_itself() -> None:
    data = b'{"error": "ordinary"}'

    assert Redactor(["a-secret-of-our-own-0001"]).data(data) is data


# -- speed --------------------------------------------------------------------------------------------


def _best_of(times: int, work: object, argument: str) -> float:
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        work(argument)  # type: ignore[operator]
        best = min(best, time.perf_counter() - begin)
    return best


def test_five_thousand_secrets_cost_a_text_of_two_kilobytes_a_few_milliseconds() -> None:
    source = random.Random(7)
    letters = string.ascii_letters + string.digits
    secrets = ["sk-proj-" + "".join(source.choices(letters, k=40)) for _ in range(2_500)]
    secrets += ["".join(source.choices(string.hexdigits.lower(), k=32)) for _ in range(2_500)]
    redactor = Redactor(secrets)
    plain = ("Rate limit reached for model-1 in organization org-1, see the documentation. " * 30)[:2048]
    dense = ("sk-proj-" * 300)[:2048]

    assert secrets[4_000] not in redactor.text(plain + secrets[4_000])
    assert _best_of(5, redactor.text, plain) < 0.005
    assert _best_of(5, redactor.text, dense) < 0.005


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----" * 2_000,
        "-----BEGIN PRIVATE KEY-----" + "A" * 64_000,
        "-----BEGIN PRIVATE KEY-----" + "AB12 " * 13_000,
        "sk-" * 20_000,
        "eyJ" * 20_000,
        "eyJaaaaaaaa." * 5_000,
        "bearer " * 9_000,
        "Bearer" + " " * 64_000,
        "Bearer " + "a" * 64_000,
        "?key=" * 12_000,
        "x-api-key" * 7_000,
        "AIza" * 16_000,
    ],
)
def test_no_text_takes_long(redactor: Redactor, text: str) -> None:
    begin = time.perf_counter()
    redactor.text(text)
    assert time.perf_counter() - begin < 1.0
