"""
Request targets: decoded once, made canonical, and refused where two readers could take them for different paths.

What comes out is matched against the formats' allow-lists, so that an upstream path is never built from text that no
rule has described. Syntax: RFC 9110 section 7.1 (origin form) and RFC 3986.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote_plus, unquote_to_bytes

from app.errors import BadRequest

MAX_TARGET_BYTES = 8192

#: A model's name inside a path: group `model`.
MODEL = r"(?P<model>(?![./])(?![^?]*\.\.)[A-Za-z0-9._:@/+\-]{1,256})"
#: The id of a file, a batch, a stored answer: one segment.
RESOURCE_ID = r"(?!\.)[A-Za-z0-9._:@~\-]{1,256}"

_TARGET = re.compile(r"/[\x21-\x7e]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\?#;%]")
_FORBIDDEN_SEGMENT = re.compile(r"/(?:\.\.?)?(?=/)|/\.\.?$")
_VERSION = re.compile(r"v\d+(?:alpha|beta)?\d*")
_DOUBLED_VERSION = re.compile(r"^(?:/v\d+(?:alpha|beta)?)+(?=/v\d+(?:alpha|beta)?(?:/|$))")
# First segments that clients ask for when their base URL lacks the version.
_WITHOUT_VERSION = frozenset(
    {
        "audio",
        "batches",
        "chat",
        "completions",
        "embeddings",
        "files",
        "images",
        "messages",
        "models",
        "moderations",
        "responses",
    }
)
# A first segment with a version behind it is the name of a provider, whatever it is called.
_NAMES_PROVIDER = re.compile(r"/[^/]+/v\d+(?:alpha|beta)?/")


def normalise(target: str) -> tuple[str, str]:
    """
    Return the decoded path, with one version in front where a known path came without or with two, and the query as
    it came, still encoded and without its question mark.

    target -- origin form, still percent-encoded, at most 8 KiB

    Raises BadRequest for dot segments, empty segments, backslashes, control characters, parameters, double encoding,
    encoded slashes outside a model's name, text that is not UTF-8, and absolute URLs.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise _refused("The URL is longer than 8 KiB.")
    if _TARGET.fullmatch(target) is None or "#" in target:
        raise _refused("The request target must be a path that starts with '/', percent-encoded, without a fragment.")
    raw, _, query = target.partition("?")
    path = _decode(raw.removeprefix("/") if raw.startswith("//") else raw)
    if _FORBIDDEN.search(path):
        raise _refused("The URL path holds a character that is not allowed there.")
    if _FORBIDDEN_SEGMENT.search(path):
        raise _refused("The URL path holds an empty or a dot segment.")
    return with_version(path), query


def with_version(path: str) -> str:
    """Return the path with exactly one version segment in front, where it is a path that has versions."""
    path = _DOUBLED_VERSION.sub("", path)
    if path.split("/", 2)[1] in _WITHOUT_VERSION and _NAMES_PROVIDER.match(path) is None:
        return "/v1" + path
    return path


def split_prefix(path: str, names: Collection[str]) -> tuple[str | None, str]:
    """
    Return the provider that the path's first segment names, and the path behind it; (None, path) where it names none.

    path   -- as `normalise` returned it
    names  -- the providers there are; one that is called like a version is never recognised
    """
    _, first, *rest = path.split("/", 2)
    if not rest or first not in names or _VERSION.fullmatch(first):
        return None, path
    return first, with_version("/" + rest[0])


def strip_key_parameter(query: str) -> tuple[str, list[str]]:
    """Return the query without its `key` parameters, every other byte as it came, and the decoded values of those."""
    if not query:
        return "", []
    kept, keys = [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == "key":
            keys.append(unquote_plus(value))
        else:
            kept.append(part)
    return "&".join(kept), keys


def _decode(raw: str) -> str:
    if "%" not in raw:
        return raw
    if _BROKEN_ESCAPE.search(raw):
        raise _refused("The URL path holds a '%' that is not followed by two hexadecimal digits.")
    slash = _ENCODED_SLASH.search(raw)
    if slash and "/models/" not in raw[: slash.start()]:
        raise _refused("The URL path holds an encoded slash outside a model's name.")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise _refused("The URL path is not UTF-8.") from None


def _refused(message: str) -> BadRequest:
    return BadRequest(message, code="invalid_path")
