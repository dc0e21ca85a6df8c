"""
Secrets out of text: exact values of the loaded keys first, then everything that is shaped like a key.

It refuses to guess: hashes, UUIDs, base64 and paths stay as they are, and so does a known value shorter than eight
characters, because it may be an ordinary word. What it finds becomes its first four and last four characters with an
ellipsis between, or `[redacted]` where it is too short for that.

Sources: the key formats that the providers document (Google `AIza` and `AQ.`, OpenAI `sk-`, Anthropic `sk-ant-`,
Databricks `dapi`, Groq `gsk_`, xAI `xai-`, Hugging Face `hf_`, GitHub, Slack, AWS), RFC 6750 (Bearer), RFC 7519 (JWT),
RFC 7468 (PEM).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

MIN_SECRET_CHARACTERS = 8
#: Shorter ones would show too much of themselves with eight characters left.
MIN_MASKED_CHARACTERS = 20
REDACTED = "[redacted]"

#: Not inside a longer word; an escaped line break or a percent-encoded character before it is no part of one.
_START = r"(?:(?<![\w+-])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))"


#: JSON escapes (RFC 8259, section 7), and percent-encoded characters that need no encoding (RFC 3986, section 2.3).
_ESCAPED = re.compile(
    r"(?P<before>(?<!\\)(?:\\\\)*)\\(?:u00(?P<json>[2-7][0-9A-Fa-f])|(?P<slash>/))"
    r"|%(?P<url>2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])"
)


@dataclass(frozen=True, slots=True)
class _KeyShape:
    """
    A kind of key. The pattern only runs on texts that hold one of the markers (lower case).
    Its group `secret` is what is replaced; without one, the whole match is, by `[redacted]`.
    """

    markers: tuple[str, ...]
    pattern: re.Pattern[str]


def _shape(markers: tuple[str, ...], pattern: str) -> _KeyShape:
    return _KeyShape(markers, re.compile(pattern))


_KEY_SHAPES = (
    _shape(
        ("private key-----",),
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"
        r"(?:\s|\\[rn]|(?:Proc-Type|DEK-Info):[^\n\\]{0,200}|[A-Za-z0-9+/=]{16,}|[A-Za-z0-9+/]{1,15}={0,2}(?=\s|\\[rn]|-----END))*"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----)?",
    ),
    _shape(("eyj",), _START + r"(?P<secret>eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]{8,})"),
    _shape(("aiza",), _START + r"(?P<secret>AIza[\w-]{20,})"),
    _shape(("aq.",), _START + r"(?P<secret>AQ\.[\w-]{20,})"),
    _shape(("ya29.",), _START + r"(?P<secret>ya29\.[\w.-]{20,})"),
    # A digit is wanted, so that long hyphenated words survive.
    _shape(("sk-",), _START + r"(?P<secret>sk-(?=[\w-]*\d)[\w-]{16,})"),
    _shape(("dapi",), _START + r"(?P<secret>dapi[0-9a-f]{32}(?:-\d{1,3})?)(?![\w-])"),
    _shape(
        ("gsk_", "hf_", "xai-", "github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        _START + r"(?P<secret>(?:gsk_|hf_|xai-|github_pat_|gh[pousr]_)(?=\w*\d)\w{20,})",
    ),
    _shape(("xox",), _START + r"(?P<secret>xox[abeoprs]-(?=[\w-]*\d)[\w-]{10,})"),
    _shape(("akia", "asia"), _START + r"(?P<secret>A[KS]IA[0-9A-Z]{16})(?![\w+/-])"),
    _shape(
        ("bearer",),
        r"(?i:\bbearer)(?:\s|%20|\+)+(?P<secret>(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{24,})",
    ),
    _shape(
        ("key=", "token="),
        r"(?:[?&;]|\\u0026|%26|%3[Ff])(?i:key|api[-_]?key|access_token|token)=(?P<secret>[^&\s\"'<>#\\…]{8,})",
    ),
    _shape(
        ("api-key", "api_key"),
        r"(?i:\b(?:x-goog-api-key|x-api-key|api[-_]key)\b)\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?(?P<secret>[\w.~+/=-]{16,})",
    ),
)
#: One look for all markers: most texts hold none.
_ANY_MARKER = re.compile("|".join(sorted({re.escape(marker) for shape in _KEY_SHAPES for marker in shape.markers})))


@dataclass(frozen=True, slots=True)
class _Index:
    """The known secrets, found by their first characters: a look at a text costs one set look-up per position."""

    secrets: frozenset[str] = frozenset()
    #: First `MIN_SECRET_CHARACTERS` characters -> the lengths of the secrets that start so, the longest first.
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Redactor:
    """
    Replaces secrets in texts. Any number of threads may use it while another one replaces the set of secrets.

    It never fails: what is not valid UTF-8 passes through unchanged around what was replaced.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._replaceable = frozenset(secrets)
        self._learned: frozenset[str] = frozenset()
        self._index = _index(self._replaceable)

    def version(self) -> object:
        """Another object whenever there are other secrets."""
        return self._index

    def replace_secrets(self, values: Iterable[str]) -> None:
        """From now on these are the exact secrets, plain and URL-encoded; those from before are forgotten."""
        with self._lock:
            self._replaceable = frozenset(values)
            self._index = _index(self._replaceable | self._learned)

    def learn(self, values: Iterable[str]) -> None:
        """These are secrets too, and stay so: for a key that may be used before the next `replace_secrets`."""
        with self._lock:
            self._learned |= frozenset(values)
            self._index = _index(self._replaceable | self._learned)

    def text(self, text: str) -> str:
        """
        `text` without secrets; `text` itself when there is none in it. Where one is spelt with escapes of JSON or of
        URLs, characters that need none come out plain.
        """
        index = self._index
        redacted = _without_key_shapes(_without_known(text, index))
        if _ESCAPED.search(redacted) is None:
            return redacted
        plain = _ESCAPED.sub(_unescaped, redacted)
        found = _without_key_shapes(_without_known(plain, index))
        return redacted if found == plain else found

    def data(self, data: bytes) -> bytes:
        """`data` without secrets; `data` itself when there is none in it."""
        text = data.decode("utf-8", "surrogateescape")
        redacted = self.text(text)
        return data if redacted is text else redacted.encode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[str]) -> str:
    if match["url"]:
        return chr(int(match["url"], 16))
    character = "/" if match["slash"] else chr(int(match["json"], 16))
    # A quote or a backslash would change what the JSON around it says.
    return match[0] if character in '"\\\x7f' else match["before"] + character


def _index(values: Iterable[str]) -> _Index:
    secrets = frozenset(form for value in values for form in _forms(value) if len(form) >= MIN_SECRET_CHARACTERS)
    lengths: dict[str, set[int]] = {}
    for secret in secrets:
        lengths.setdefault(secret[:MIN_SECRET_CHARACTERS], set()).add(len(secret))
    return _Index(secrets, {head: tuple(sorted(found, reverse=True)) for head, found in lengths.items()})


def _forms(value: str) -> Iterable[str]:
    """A secret as it may stand in a text: plain, URL-encoded in either case of the digits, and as a form field."""
    value = value.strip()
    encoded = quote(value, safe="", errors="replace")
    lower = re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)
    return {value, encoded, lower, quote(value, safe="/", errors="replace"), quote_plus(value, errors="replace")}


def _without_known(text: str, index: _Index) -> str:
    if not index.secrets:
        return text
    lengths, size = index.lengths, MIN_SECRET_CHARACTERS
    starts = [at for at in range(len(text) - size + 1) if text[at : at + size] in lengths]
    if not starts:
        return text
    parts: list[str] = []
    end = 0
    for start in starts:
        secret = _secret_at(text, start, index) if start >= end else None
        if secret is not None:
            parts += (text[end:start], _mask(secret))
            end = start + len(secret)
    return "".join((*parts, text[end:])) if parts else text


def _secret_at(text: str, start: int, index: _Index) -> str | None:
    for length in index.lengths[text[start : start + MIN_SECRET_CHARACTERS]]:
        candidate = text[start : start + length]
        if candidate in index.secrets:
            return candidate
    return None


def _without_key_shapes(text: str) -> str:
    lower = text.lower()
    if _ANY_MARKER.search(lower) is None:
        return text
    for shape in _KEY_SHAPES:
        if any(marker in lower for marker in shape.markers):
            redacted, count = shape.pattern.subn(_replacement, text)
            text = redacted if count else text
    return text


def _replacement(match: re.Match[str]) -> str:
    secret = match.groupdict().get("secret")
    if secret is None:
        return REDACTED
    before = match[0][: match.start("secret") - match.start()]
    return before + _mask(secret)


def _mask(secret: str) -> str:
    return f"{secret[:4]}…{secret[-4:]}" if len(secret) >= MIN_MASKED_CHARACTERS else REDACTED
