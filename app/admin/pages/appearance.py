"""The reader's choice between light, dark and what the system says. A cookie: it belongs to the browser."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.pages.frame import THEME_COOKIE, THEMES, is_htmx
from app.auth import safe_next

bp = Blueprint("appearance", __name__, url_prefix="/middleware/appearance")

_A_YEAR_S = 365 * 86400


@bp.post("")
def choose() -> AnyResponse:
    """`theme`: system, light or dark; leads back to `next`."""
    theme = http.choice(*THEMES)("theme", request.form.get("theme"))
    answer: AnyResponse = Response(status=204) if is_htmx() else redirect(safe_next(request.form.get("next", "")), 303)
    if theme == "system":
        answer.delete_cookie(THEME_COOKIE, path="/middleware")
    else:
        answer.set_cookie(
            THEME_COOKIE,
            theme,
            max_age=_A_YEAR_S,
            path="/middleware",
            httponly=True,
            samesite="Lax",
            secure=request.is_secure,
        )
    return answer
