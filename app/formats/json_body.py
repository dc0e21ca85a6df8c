"""
JSON request bodies: read strictly, edited by local splices so that every byte that is not edited stays as it came.

Refuses what two JSON readers could understand differently: NaN and infinities, numbers beyond a double, lone
surrogates, encodings other than UTF-8, a byte order mark, nesting beyond 1024 levels, and a top-level member that we
act on given twice. Grammar: RFC 8259.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from app.errors import BadRequest, InvalidJson
from app.formats.base import Json

#: Top-level members that decide what the middleware does with a request.
ACTED_KEYS = ("model", "stream", "tools")

# Larger numbers lose precision in readers that use doubles, and no answer has that many tokens.
MAX_COUNT = 2**53

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

_PLAIN_OPENING = b'{"'

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPENING = re.compile(_SPACE + rb"\{" + _SPACE)
_KEY = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE)
_SCALAR = re.compile(_STRING + rb'|[^ \t\r\n,{}\[\]"]++')
_SEPARATOR = re.compile(_SPACE + rb"[,}]" + _SPACE)
_NEXT_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL)


class Member(NamedTuple):
    """One top-level member: its decoded name, and where its value's bytes begin and end."""

    name: str
    start: int
    end: int


#: Searching so much for a few words costs nothing to speak of.
FEW_BYTES = 4096
#: The longest name that is looked for.
SHORT_BYTES = 32
#: With more quotation marks than this, searching is as fast.
MOST_QUOTED = 1024


class Names:
    """
    Which names stand in a body, as keys or as values: large bodies are searched once, however many names are asked for.
    Names are given with their quotation marks, and are at most `SHORT_BYTES` long.
    """

    __slots__ = ("_body", "_quoted")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._quoted = short_quoted(body) if len(body) > FEW_BYTES else None

    def hold(self, *names: bytes) -> bool:
        """Whether one of these is there."""
        return self._most(names) > 0

    def repeat(self, names: tuple[bytes, ...]) -> bool:
        """Whether one of these may be there twice. Never False where one is."""
        return self._most(names) > 1

    def _most(self, names: tuple[bytes, ...]) -> int:
        body, quoted = self._body, self._quoted
        most = 0
        for name in names:
            found = body.count(name) if quoted is None else quoted.count(name[1:-1])
            if found > most:
                most = found
        return most


def parse_object(body: bytes, *, acted_keys: tuple[str, ...] = ACTED_KEYS, names: Names | None = None) -> Json:
    """
    Return the JSON object in `body`.

    acted_keys -- top-level members that may be given once only
    names      -- those of the body, where they are needed for more than this

    Raises InvalidJson for anything but one strict UTF-8 JSON object, and BadRequest with code `duplicate_key` for an
    acted key given twice. The messages name a position and never quote the body.
    """
    if not body.startswith(_PLAIN_OPENING):  # neither empty nor in another encoding
        if not body.strip(b" \t\r\n"):
            raise InvalidJson("The request body is empty. Send a JSON object.")
        if body.startswith(_BYTE_ORDER_MARKS) or b"\0" in body[:4]:
            raise InvalidJson("The request body must be JSON in UTF-8, without a byte order mark.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(_explain(error)) from None
    if not isinstance(value, dict):
        raise InvalidJson("The request body must be a JSON object, not an array or a single value.")
    if _is_suspicious(body, acted_keys, names or Names(body)):
        _refuse_duplicates(body, acted_keys)
    return value


def splice(body: bytes, replacements: Mapping[str, bytes]) -> bytes:
    """
    Return `body` with top-level members replaced, or put in front where they are absent; every other byte stays.

    body          -- a body that `parse_object` has accepted
    replacements  -- member name -> the raw JSON of its new value
    """
    present, once = _may_be_present(body, replacements)
    pieces: list[bytes] = []
    found: set[str] = set()
    position = 0
    for member in members(body) if present else ():
        if member.name in replacements:
            pieces += (body[position : member.start], replacements[member.name])
            position = member.end
            found.add(member.name)
            if once and found == present:
                break
    pieces.append(body[position:])
    edited = b"".join(pieces)
    absent = [dumps(name) + b":" + value for name, value in replacements.items() if name not in found]
    if not absent:
        return edited
    opening = _OPENING.match(edited)
    if opening is None:
        raise ValueError("only a JSON object can be spliced")
    head = edited.index(b"{") + 1
    comma = b"" if edited[opening.end() : opening.end() + 1] == b"}" else b","
    return edited[:head] + b",".join(absent) + comma + edited[head:]


def members(body: bytes) -> Iterator[Member]:
    """
    Yield the top-level members of a JSON object in order, duplicates included.

    Takes time linear in the body; ends early, without an error, where the text is not a JSON object. Text after the
    object is not looked at.
    """
    match = _OPENING.match(body)
    while match is not None:
        key = _KEY.match(body, match.end())
        if key is None:
            return
        end = _value_end(body, key.end())
        yield Member(_decode_name(key[1]), key.end(), end)
        match = _SEPARATOR.match(body, end)


def count(value: object) -> int | None:
    """Return a number of tokens, or None where `value` is not a whole number from 0 to 2**53."""
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return value
    return None


def dumps(value: Any) -> bytes:
    """Return `value` as compact UTF-8 JSON, nested as deeply as `parse_object` lets in."""
    try:
        return orjson.dumps(value)
    except TypeError:  # orjson writes 254 levels, but reads 1024
        return _dumps_deep(value)


def _dumps_deep(value: Any) -> bytes:
    pieces: list[bytes] = []
    waiting: list[Any] = [value]  # values, and as bytes the text between them; the next one last
    while waiting:
        item = waiting.pop()
        if isinstance(item, bytes):
            pieces.append(item)
        elif isinstance(item, dict):
            named = ((orjson.dumps(name) + b":", member) for name, member in item.items())
            waiting += reversed([b"{", *_separated(named), b"}"])
        elif isinstance(item, list):
            waiting += reversed([b"[", *_separated((member,) for member in item), b"]"])
        else:
            pieces.append(orjson.dumps(item))
    return b"".join(pieces)


def _separated(groups: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    for position, group in enumerate(groups):
        if position:
            yield b","
        yield from group


def _explain(error: orjson.JSONDecodeError) -> str:
    reason = error.msg.split(": line ")[0].rstrip(".")
    return f"The request body is not valid JSON: {reason} at line {error.lineno}, column {error.colno}."


def _is_suspicious(body: bytes, acted_keys: tuple[str, ...], names: Names) -> bool:
    """Whether an acted key may be at the top level twice. Cheap, and never False where one is."""
    if b"\\" not in body and not names.repeat(_quoted(acted_keys)):
        return False
    found = _names_before_colon(acted_keys).findall(body)
    if len(found) != len(set(found)):
        return True
    return b"\\" in body and _escaped_letters(acted_keys).search(body) is not None


def short_quoted(body: bytes) -> list[bytes] | None:
    """
    The texts of at most `SHORT_BYTES` between a quotation mark and the next one, whether it begins a string or ends it;
    None where there are too many marks. A name that stands in quotation marks anywhere is among them.

    Large bodies are mostly long texts with few marks: finding those is twenty times as fast as searching for a word.
    """
    found: list[bytes] = []
    at = body.find(b'"')
    for _ in range(MOST_QUOTED):
        if at < 0:
            return found
        end = body.find(b'"', at + 1)
        if 0 <= end - at - 1 <= SHORT_BYTES:
            found.append(body[at + 1 : end])
        at = end
    return None


@lru_cache(maxsize=16)
def _quoted(acted_keys: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in acted_keys)


@lru_cache(maxsize=16)
def _escaped_letters(acted_keys: tuple[str, ...]) -> re.Pattern[bytes]:
    """Finds a `\\u` escape of any character that an acted key is made of."""
    codes = "|".join(sorted({f"{ord(character):04x}" for name in acted_keys for character in name}))
    return re.compile(rf"\\u(?:{codes})".encode(), re.IGNORECASE)


@lru_cache(maxsize=16)
def _names_before_colon(acted_keys: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(rb'"(' + b"|".join(re.escape(name).encode() for name in acted_keys) + rb')"[ \t\r\n]*+:')


def _refuse_duplicates(body: bytes, acted_keys: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for member in members(body):
        if member.name in seen:
            raise BadRequest(
                f"The request body has the member '{member.name}' twice. Send it once.",
                code="duplicate_key",
                param=member.name,
            )
        if member.name in acted_keys:
            seen.add(member.name)


def _decode_name(raw: bytes) -> str:
    if b"\\" in raw:
        with suppress(orjson.JSONDecodeError):
            return str(orjson.loads(raw))
    return raw[1:-1].decode(errors="replace")


def _may_be_present(body: bytes, names: Iterable[str]) -> tuple[set[str], bool]:
    """The names that can be members, and whether each of these can only be one once: both spare scanning."""
    if b"\\u" in body:
        return set(names), False
    counts = {name: body.count(dumps(name)) for name in names}
    return {name for name in counts if counts[name]}, max(counts.values(), default=0) <= 1


def _value_end(body: bytes, start: int) -> int:
    if body[start : start + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(body, start)
        return scalar.end() if scalar else start
    depth, position = 1, start + 1
    while depth:
        bracket = _NEXT_BRACKET.match(body, position)
        if bracket is None:
            return len(body)
        depth += 1 if bracket[1] in (b"{", b"[") else -1
        position = bracket.end()
    return position
