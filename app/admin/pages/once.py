"""
A client key on its way to the one page that shows it. It travels in a cookie of this browser, encrypted and
short-lived, so that nothing keeps it here, every worker can show it, and showing it takes it away.
"""

from __future__ import annotations

from typing import Final

from flask import request
from werkzeug.wrappers import Response

from app.admin import http
from app.vault import VaultError

COOKIE: Final = "middleware_client_key"
PATH: Final = "/middleware"
MAX_AGE_S: Final = 120


def hand_on(response: Response, client_id: int, key: str) -> None:
    """Have the next page that shows keys of clients show this one."""
    sealed = http.services().vault.encrypt(f"{client_id} {http.services().clock.wall():.0f} {key}")
    response.set_cookie(
        COOKIE, sealed, max_age=MAX_AGE_S, path=PATH, httponly=True, samesite="Strict", secure=request.is_secure
    )


def taken(client_id: int | None = None) -> str:
    """The key of this client, or of any, where it has just been made; empty where not."""
    try:
        text = http.services().vault.decrypt(request.cookies.get(COOKIE, ""))
    except VaultError:
        return ""
    identity, made_at, key = text.split(" ")
    fresh = http.services().clock.wall() - float(made_at) <= MAX_AGE_S
    return key if client_id in (None, int(identity)) and fresh else ""


def forget(response: Response) -> None:
    """Show the key no second time."""
    if COOKIE in request.cookies:
        response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="Strict", secure=request.is_secure)
