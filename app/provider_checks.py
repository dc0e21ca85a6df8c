"""
What a provider entry and a model alias must look like. Pure: a checked copy comes out, or BadRequest naming the field.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.config import clean_base_url
from app.errors import BadRequest, ConfigError
from app.formats import BY_NAME as FORMATS
from app.providers import BY_NAME as KINDS
from app.providers import DEMO_NAME

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
#: Names that would shadow a path of ours.
_RESERVED = frozenset(
    f"{DEMO_NAME} v1 v1beta v1alpha api middleware static mcp metrics health healthz livez readyz"
    " chat completions responses embeddings models messages files images audio batches moderations upload".split()
)
#: Headers that the gateway itself writes.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie", "accept-encoding"})
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal"})
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
#: Written out, so that no other spelling of a name or an address reaches a resolver (RFC 3490 folds many characters).
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_AS_A_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")
#: NAT64 (RFC 6052), its local form (RFC 8215), and the old IPv4-compatible addresses, of which only `::1` is in use.
_IPV4_INSIDE = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
MAX_ITEMS = 200
MAX_ALIASES = 1000
MAX_TEXT = 500

_NEW: dict[str, Any] = {
    "base_url": "",
    "formats": [],
    "models": [],
    "headers": {},
    "query": {},
    "priority": 100,
    "enabled": True,
}


def check_entry(wanted: Mapping[str, Any], *, existing: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    The whole entry after this change.

    existing -- the entry as it is, for a partial change; its name can't change
    """
    unknown = sorted(set(wanted) - set(_CHECKS) - {"effective"})
    if unknown:
        raise BadRequest(f"Unknown field {unknown[0][:80]!r}.", param=unknown[0][:80])
    if existing is None:
        for name in ("name", "kind"):
            if name not in wanted:
                raise BadRequest(f"{name} is required.", param=name)
    elif wanted.get("name", existing["name"]) != existing["name"]:
        raise BadRequest("name can't be changed.", param="name")
    entry = dict(existing or _NEW)
    for name, value in wanted.items():
        if name in _CHECKS and not (existing is not None and name == "name"):
            entry[name] = _CHECKS[name](name, value)
    if not entry["base_url"] and not KINDS[entry["kind"]].base_url:
        raise BadRequest(f"A provider of kind {entry['kind']!r} needs a base_url.", param="base_url")
    return entry


def check_aliases(wanted: Mapping[str, Any]) -> dict[str, str]:
    """Alias -> target, both checked. An alias of an alias is refused: chains are not followed."""
    if len(wanted) > MAX_ALIASES:
        raise BadRequest(f"There can be at most {MAX_ALIASES} aliases.", param="alias")
    for alias, target in wanted.items():
        for text in (alias, target):
            if not isinstance(text, str) or not text.strip() or len(text) > 256 or not text.isprintable():
                raise BadRequest("An alias and its model must be text of 1 to 256 printable characters.", param="alias")
        if target in wanted:
            raise BadRequest(f"The alias {alias[:80]!r} points to an alias; name the model itself.", param="alias")
    return dict(wanted)


def _name(field: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise BadRequest(f"{field} must be 1 to 63 lower-case letters, digits and hyphens.", param=field)
    if value in _RESERVED:
        raise BadRequest(f"{field} {value!r} is reserved.", param=field)
    return value


def _kind(field: str, value: Any) -> str:
    if value not in KINDS:
        raise BadRequest(f"{field} must be one of {', '.join(KINDS)}.", param=field)
    return str(value)


def _base_url(field: str, value: Any) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadRequest(f"{field} must be a URL such as https://api.example.com.", param=field)
    try:
        cleaned = clean_base_url(field, value.strip())
    except ConfigError as error:
        raise BadRequest(f"{error}", param=field) from error
    if _forbidden_host(urlsplit(cleaned).hostname or ""):
        raise BadRequest(f"{field}: this host is not allowed for a provider.", param=field)
    return cleaned


def _forbidden_host(host: str) -> bool:
    """Metadata services, addresses that are nobody's, and odd spellings that resolvers read as addresses."""
    if host.lower().rstrip(".") in _METADATA_HOSTS:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # "2130706433", "0x7f.1", "127.1": not a name, and not an address as one writes it.
        return _AS_A_NUMBER.fullmatch(host) is not None or _HOST_NAME.fullmatch(host) is None
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA_ADDRESSES:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        return _carries_ipv4(address)
    return address.is_reserved or address.packed[0] == 0


def _carries_ipv4(address: ipaddress.IPv6Address) -> bool:
    """An address inside an address, which no base URL needs."""
    if address.is_loopback:
        return False
    inside = address.ipv4_mapped or address.sixtofour or address.teredo
    return inside is not None or any(address in network for network in _IPV4_INSIDE)


def _formats(field: str, value: Any) -> list[str]:
    names = _texts(field, value)
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise BadRequest(f"{field} knows {', '.join(FORMATS)}, not {unknown[0][:80]!r}.", param=field)
    return names


def _texts(field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS or not all(_is_text(item) for item in value):
        raise BadRequest(f"{field} must be a list of at most {MAX_ITEMS} texts.", param=field)
    return list(dict.fromkeys(value))


def _headers(field: str, value: Any) -> dict[str, str]:
    found = _text_map(field, value)
    for name in found:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise BadRequest(f"{field}: {name[:80]!r} can't be set.", param=field)
    return found


def _text_map(field: str, value: Any) -> dict[str, str]:
    fits = isinstance(value, dict) and len(value) <= MAX_ITEMS
    if not fits or not all(_is_text(text) for pair in value.items() for text in pair):
        raise BadRequest(f"{field} must be an object of texts.", param=field)
    return dict(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() and value.isascii()


def _priority(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        raise BadRequest(f"{field} must be a whole number between 0 and 1000000.", param=field)
    return value


def _enabled(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{field} must be true or false.", param=field)
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _name,
    "kind": _kind,
    "base_url": _base_url,
    "formats": _formats,
    "models": _texts,
    "headers": _headers,
    "query": _text_map,
    "priority": _priority,
    "enabled": _enabled,
}
