"""
What ties a Gemini request to the key that made an earlier answer: thought signatures, files, caches, operations.

One function finds signatures in requests and in answers, so that both sides always agree. Truth: the pages on thought
signatures, files and context caching of ai.google.dev. These things belong to the Google Cloud project of a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

from app.formats import json_body
from app.formats.base import Json, SessionHint

#: Google's documented stand-in for a signature that is not at hand. The API takes it as it is and in base64.
PLACEHOLDER = "skip_thought_signature_validator"
_PLACEHOLDERS = (PLACEHOLDER, "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I")

_SIGNATURE_NAMES = ("thoughtSignature", "thought_signature")
_REQUEST_NAMES = ("generateContentRequest", "generate_content_request")
_ID = r"[A-Za-z0-9._~\-]{1,256}"
_FILE_URI = re.compile(rf"^(?:https?://[^\s?#]+/v1(?:alpha|beta)?/)?(files/{_ID})$")
_IN_PATH = re.compile(
    rf"^(?:/upload|/download)?/v1(?:alpha|beta)?/((?:models|tunedModels|batches)/[^/]+/operations/{_ID}"
    rf"|(?:cachedContents|files|corpora|operations|batches|tunedModels|fileSearchStores|interactions)/{_ID})"
)
_IN_BODY = re.compile(rb'"(?:https?://[^"\s\\]+/)?((?:files|cachedContents)/' + _ID.encode() + rb')"')
_MAX_SEARCHED_BYTES = 1024 * 1024


def key_of(name: str) -> str:
    """Return the hint key of a resource name such as `files/abc`."""
    return f"res:{name}"


def request_contents(json: Json) -> Any:
    """Return `contents`, also where a countTokens body wraps the request; None where there are none."""
    if "contents" in json:
        return json["contents"]
    inner = either(json, _REQUEST_NAMES)
    return inner.get("contents") if isinstance(inner, dict) else None


def candidate_count(json: Json) -> int:
    """Return how many candidates a request asks for."""
    config = either(json, ("generationConfig", "generation_config"))
    count = either(config, ("candidateCount", "candidate_count")) if isinstance(config, dict) else None
    return count if isinstance(count, int) else 1


def signature_keys(contents: object) -> Iterator[str]:
    """Yield the hint keys of the thought signatures in a list of contents, in order; placeholders do not count."""
    for part in _parts(contents):
        signature = either(part, _SIGNATURE_NAMES)
        if isinstance(signature, str) and signature:
            # SDKs give base64 back in the alphabet for URLs, and without padding.
            bare = signature.rstrip("=")
            if bare not in _PLACEHOLDERS:
                yield "sig:" + _digest(bare.replace("-", "+").replace("_", "/"))


def answer_keys(answer: Json) -> list[str]:
    """Return the hint keys of the signatures in a generated answer or in one chunk of it."""
    candidates = answer.get("candidates")
    if not isinstance(candidates, list):
        return []
    contents = [candidate.get("content") for candidate in candidates if isinstance(candidate, dict)]
    return list(dict.fromkeys(signature_keys(contents)))


def resource_keys(answer: Json) -> list[str]:
    """Return the hint key of a file, cache, batch, store or operation that an answer describes."""
    holder = answer.get("file") if isinstance(answer.get("file"), dict) else answer
    name = holder.get("name") if isinstance(holder, dict) else None
    return path_keys(f"/v1/{name}") if isinstance(name, str) else []


def path_keys(path: str) -> list[str]:
    """Return the hint key of the resource that an URL path is about."""
    resource = _IN_PATH.match(path)
    return [key_of(resource[1])] if resource else []


def upload_keys(query: str) -> list[str]:
    """
    The key of a resumable upload: all its parts must go to the project that began it.

    Source: https://ai.google.dev/api/files
    """
    return [f"upload:{_digest(upload)}" for upload in parse_qs(query).get("upload_id", [])[:1]]


def hints(json: Json | None, headers: Mapping[str, str], path: str, body: bytes) -> tuple[SessionHint, ...]:
    """Return what the request names: state that only one key can read first, then the caller's session."""
    keys: dict[str, None] = dict.fromkeys(path_keys(path))
    if json is None or "contents" not in json:
        keys.update(dict.fromkeys(_searched_keys(body)))
    if json is not None:
        keys.update(dict.fromkeys(_stated_keys(json)))
    found = [SessionHint(key, True) for key in keys]
    session = headers.get("x-session-id")
    if session:
        found.append(SessionHint("session:" + _digest(session), False))
    return tuple(found)


def without_signatures(json: Json, body: bytes) -> bytes | None:
    """Return the body with every thought signature replaced by the placeholder; None where there is none."""
    contents = request_contents(json)
    if next(signature_keys(contents), None) is None:
        return None
    stripped = [_stripped_content(content) for content in listed(contents)]
    if "contents" in json:
        return json_body.splice(body, {"contents": json_body.dumps(stripped)})
    name = next(name for name in _REQUEST_NAMES if name in json)
    return json_body.splice(body, {name: json_body.dumps({**json[name], "contents": stripped})})


def either(holder: Json, names: tuple[str, ...]) -> Any:
    """Return the first of these members that `holder` has, or None: the API reads camelCase and snake_case."""
    return next((holder[name] for name in names if name in holder), None)


def listed(value: object) -> list[Any]:
    """Return a repeated field as a list: the API also reads a single object there."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _stated_keys(json: Json) -> Iterator[str]:
    """Yield the hint keys of what a parsed body refers to; of the signatures only the first."""
    inner = either(json, _REQUEST_NAMES)
    for holder in (json, inner):
        cache = either(holder, ("cachedContent", "cached_content")) if isinstance(holder, dict) else None
        if isinstance(cache, str) and cache:
            yield key_of(cache)
    previous = json.get("previous_interaction_id")
    if isinstance(previous, str) and previous:
        yield key_of("interactions/" + previous.removeprefix("interactions/"))
    contents = request_contents(json)
    for part in _parts(contents):
        file = either(part, ("fileData", "file_data"))
        uri = either(file, ("fileUri", "file_uri")) if isinstance(file, dict) else None
        name = _FILE_URI.match(uri) if isinstance(uri, str) else None
        if name is not None:
            yield key_of(name[1])
    yield from islice(signature_keys(contents), 1)


def _searched_keys(body: bytes) -> list[str]:
    """Files and caches that a JSON body names whose shape is not read here. Uploads and long bodies are left alone."""
    if body[:1] != b"{" or len(body) > _MAX_SEARCHED_BYTES:
        return []
    return [key_of(name.decode()) for name in _IN_BODY.findall(body)]


def _parts(contents: object) -> Iterator[Json]:
    """Yield the parts of all contents, those inside function responses too."""
    for content in listed(contents):
        for part in listed(content.get("parts")) if isinstance(content, dict) else ():
            if not isinstance(part, dict):
                continue
            yield part
            response = either(part, ("functionResponse", "function_response"))
            if isinstance(response, dict):
                yield from (inner for inner in listed(response.get("parts")) if isinstance(inner, dict))


def _stripped_content(content: Any) -> Any:
    if not isinstance(content, dict) or "parts" not in content:
        return content
    return {**content, "parts": [_stripped_part(part) for part in listed(content["parts"])]}


def _stripped_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: PLACEHOLDER if name in _SIGNATURE_NAMES else value for name, value in part.items()}


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode(errors="replace")).hexdigest()[:32]
