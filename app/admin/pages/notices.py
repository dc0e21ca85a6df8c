"""
Messages that survive one redirect: "Key added." is shown by the page that the browser is sent to.

The message travels in a signed cookie, so that no other site can put words into our mouth, and is shown once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import current_app, request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Response

from app.admin import http

COOKIE: Final = "middleware_notice"
COOKIE_PATH: Final = "/middleware"
MAX_AGE_S: Final = 60
MAX_CHARS: Final = 1000
LEVELS: Final = ("good", "info", "warn", "bad")


@dataclass(frozen=True, slots=True)
class Notice:
    """
    level    -- `good`, `info`, `warn` or `bad`
    message  -- a sentence; text, never HTML
    """

    level: str
    message: str


def keep(response: Response, notice: Notice) -> None:
    """Have the next page show `notice`."""
    value = _serializer().dumps([notice.level, notice.message[:MAX_CHARS]])
    response.set_cookie(
        COOKIE,
        value,
        max_age=MAX_AGE_S,
        path=COOKIE_PATH,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure,
    )


def kept() -> Notice | None:
    """What the page before this one had to say; None without it, or when the cookie is not ours."""
    value = request.cookies.get(COOKIE)
    if value is None:
        return None
    try:
        level, message = _serializer().loads(value, max_age=MAX_AGE_S)
    except (BadSignature, ValueError, TypeError):
        return None
    return Notice(level if level in LEVELS else "info", str(message))


def forget(response: Response) -> None:
    """Show no notice a second time."""
    if COOKIE in request.cookies:
        response.delete_cookie(COOKIE, path=COOKIE_PATH, httponly=True, samesite="Lax", secure=request.is_secure)


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(http.services().config.secret_key or current_app.name, salt="middleware notice")
