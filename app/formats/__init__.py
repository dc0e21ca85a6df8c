"""
The wire formats, and which of them a URL belongs to.

A path decides; where several providers use the same path (`/v1/models`, `/v1/files`), the headers do: the Anthropic
SDK sends `anthropic-version`, the Google SDK `x-goog-api-key` or `?key=`, and everybody else is an OpenAI client.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from app.errors import MethodNotAllowed, NotFound
from app.formats.anthropic_messages import AnthropicMessages
from app.formats.base import Endpoint, Format, Match
from app.formats.gemini import Gemini
from app.formats.openai_chat import OpenAiChat
from app.formats.openai_responses import OpenAiResponses
from app.formats.paths import strip_key_parameter

OPENAI_CHAT = OpenAiChat()
OPENAI_RESPONSES = OpenAiResponses()
ANTHROPIC_MESSAGES = AnthropicMessages()
GEMINI = Gemini()

FORMATS: tuple[Format, ...] = (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES, GEMINI)
BY_NAME: Mapping[str, Format] = {each.name: each for each in FORMATS}

# Where Google serves the OpenAI API.
_GOOGLE_OPENAI = "/v1beta/openai/"
_GEMINI_ONLY = ("/v1beta/", "/v1alpha/")
# First segments behind the version that only one format has; used to choose the shape of an error.
_DIALECT_BY_SEGMENT: Mapping[str, Format] = {
    "responses": OPENAI_RESPONSES,
    "conversations": OPENAI_RESPONSES,
    "messages": ANTHROPIC_MESSAGES,
    "complete": ANTHROPIC_MESSAGES,
    "interactions": GEMINI,
    "cachedContents": GEMINI,
    "tunedModels": GEMINI,
    "chat": OPENAI_CHAT,
    "completions": OPENAI_CHAT,
    "embeddings": OPENAI_CHAT,
}


def match(method: str, path: str, headers: Mapping[str, str], query: str) -> Match:
    """
    Return the format that owns this URL, with its rule.

    path     -- decoded and canonical, as `paths.normalise` and `paths.split_prefix` return it
    headers  -- lower-case names, credentials included
    query    -- as it came, a `key` parameter included

    Raises NotFound for a path that no format has, and MethodNotAllowed for a method that the path does not have.
    """
    found = _candidates(path)
    if not found:
        raise NotFound(f"There is no API at this path. Check the base URL and the path: {path[:200]}")
    # Gemini's verbs are POSTs below `/v1/models/`, where the others only have names of models.
    found = tuple(candidate for candidate in found if "verb" in candidate.endpoint.pattern.groupindex) or found
    family = _family(path, headers, query) if len(found) > 1 else found[0].format.family
    own = [candidate for candidate in found if candidate.format.family == family]
    considered = own if own and method != "POST" else found
    allowed = [candidate for candidate in considered if method in candidate.endpoint.methods]
    if not allowed:
        methods = sorted({each for candidate in considered for each in candidate.endpoint.methods})
        raise MethodNotAllowed(
            f"This path does not answer to {method[:20]}. Use {' or '.join(methods)}.", allow=methods
        )
    return next((candidate for candidate in allowed if candidate.format.family == family), allowed[0])


def guess_dialect(path: str, headers: Mapping[str, str], query: str = "") -> Format:
    """
    Return the format in which to tell of an error that came before `match` had an answer. Never raises.

    path -- as it came or as normalised
    """
    segments = path.split("/")
    last = segments[-1]
    if ":" in last and last.rpartition(":")[2].isalpha() and "models" in segments:
        return GEMINI
    for segment in segments[1:4]:
        if segment in _DIALECT_BY_SEGMENT:
            return _DIALECT_BY_SEGMENT[segment]
    family = _family(path, headers, query)
    return next(each for each in FORMATS if each.family == family)


def _family(path: str, headers: Mapping[str, str], query: str) -> str:
    if path.startswith(_GOOGLE_OPENAI):
        return "openai"
    if path.startswith(_GEMINI_ONLY):
        return "gemini"
    if "anthropic-version" in headers:
        return "anthropic"
    if "x-goog-api-key" in headers or strip_key_parameter(query)[1]:
        return "gemini"
    return "anthropic" if "x-api-key" in headers else "openai"


@lru_cache(maxsize=1024)
def _candidates(path: str) -> tuple[Match, ...]:
    """All rules that this path matches, in the order of FORMATS. Google's OpenAI paths lose their prefix."""
    formats = FORMATS
    if path.startswith(_GOOGLE_OPENAI):
        path = "/v1/" + path.removeprefix(_GOOGLE_OPENAI)
        formats = tuple(each for each in FORMATS if each.family == "openai")
    elif path.startswith(_GEMINI_ONLY):
        formats = (GEMINI,)
    return tuple(
        found for each in formats for endpoint in each.endpoints if (found := _match(each, endpoint, path)) is not None
    )


def _match(each: Format, endpoint: Endpoint, path: str) -> Match | None:
    matched = endpoint.pattern.fullmatch(path)
    if matched is None:
        return None
    model = matched.groupdict().get("model")
    upstream = path if endpoint.native else endpoint.upstream_path.format(model=model)
    return Match(each, endpoint, upstream, model)
