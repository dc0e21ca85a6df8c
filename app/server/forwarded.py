"""
What proxies in front say about the caller, as far as they are believed. Pure.

Reading follows werkzeug's ProxyFix, which does the same for everything that Flask serves: of a list, the value that the
farthest trusted proxy has added counts.
"""

from __future__ import annotations

from app.proxy.events import Headers


def believed(headers: Headers, peer: str, hops: int) -> tuple[Headers, str]:
    """(headers with the host that was asked for, the caller's address), where `hops` proxies are trusted."""
    peer = _of_trusted(headers, "x-forwarded-for", hops) or peer
    host = _of_trusted(headers, "x-forwarded-host", hops)
    if host is not None:
        headers = [(name, host if name.lower() == "host" else value) for name, value in headers]
    return headers, peer


def _of_trusted(headers: Headers, name: str, hops: int) -> str | None:
    given = ",".join(value for found, value in headers if found.lower() == name)
    values = [part.strip() for part in given.split(",") if part.strip()]
    return values[-hops] if len(values) >= hops > 0 else None
