"""
The door of the administration: login and logout, the guard in front of every page and call, and what answers carry.

Deny by default: the guard runs for every path below `/middleware` and `/api/admin`, also for addresses that do not
exist; only what `PUBLIC_ENDPOINTS` lists is open. It refuses, in this order: a Host that no browser of this machine
would use (DNS rebinding), a caller who is not logged in, and a change that another site could have made
(OWASP "Cross-Site Request Forgery Prevention": Sec-Fetch-Site, Origin, and a token derived from the session).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit

from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Response as AnyResponse

from app.admin import guard, http
from app.auth_store import Session, SessionKind, StorageFailure, TooManyAttempts
from app.errors import BadRequest, Forbidden, MiddlewareError, Overloaded, Unauthorized
from app.proxy.body import FramedBody

log = logging.getLogger(__name__)

auth_bp = Blueprint("auth", __name__)

COOKIE = "middleware_session"
COOKIE_PATH = "/middleware"
HOME = "/middleware/"

PUBLIC_ENDPOINTS: Final = frozenset({"static", "auth.login", "auth.api_login"})

MAX_FORM_BYTES = 64 * 1024
#: Of those who are logged in: lists of keys are pasted and uploaded.
MAX_PAGE_FORM_BYTES = 12 * 1024 * 1024
MAX_PASSWORD = 1024

# -- the guard ---------------------------------------------------------------------------------------


@auth_bp.before_app_request
def check() -> AnyResponse | None:
    """Answer what may not pass; None lets the request through, with `g.session` set where one is open."""
    if not guard.is_watched():
        return None
    as_json = guard.is_in(guard.JSON_AREAS)
    request.environ["wsgi.input"] = FramedBody(request.environ["wsgi.input"])
    try:
        guard.check_host()
        if request.endpoint in PUBLIC_ENDPOINTS:
            guard.check_origin()
            return None
        if not _logged_in():
            return _ask_to_log_in(as_json)
        g.admitted = True
        _check_change()
    except MiddlewareError as error:
        return http.failure(error) if as_json else _page_of(error)
    except StorageFailure as failure:
        return _show_storage_failure(failure)
    return _nowhere(as_json)


@auth_bp.after_app_request
def protect(response: AnyResponse) -> AnyResponse:
    """Add the headers that keep answers of the administration out of frames, caches and other sites."""
    if request.path == "/" or guard.is_watched():
        guard.add_headers(response, static=request.endpoint == "static")
    return response


def _nowhere(as_json: bool) -> AnyResponse | None:
    """404 or 405 for an address that the administration does not have; None where it has it."""
    if isinstance(request.routing_exception, RequestRedirect):
        return None
    if request.url_rule is not None and guard.within(request.url_rule.rule, guard.AREAS):
        return None
    # Where a rule for the rest of the world matched, nothing of ours is relayed.
    allowed = guard.methods_here()
    if as_json:
        return http.http_failure(MethodNotAllowed(valid_methods=allowed) if allowed else NotFound())
    response = _message_page(405 if allowed else 404, "Nothing here", "There is no page at this address.")
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    return response


def _logged_in() -> bool:
    g.session = None
    auth = http.services().auth
    if not auth.password_set:
        return True
    bearer = bearer_token()
    if bearer is not None:
        g.session = auth.session(bearer, SessionKind.BEARER)
    elif COOKIE in request.cookies:
        g.session = auth.session(request.cookies[COOKIE], SessionKind.COOKIE)
    return g.session is not None


def session_check() -> Callable[[], bool]:
    """
    A function that says whether the session of this request is still open, also long after the request's beginning.
    While the database does not answer, it is.
    """
    auth, bearer, cookie = http.services().auth, bearer_token(), request.cookies.get(COOKIE, "")

    def still_open() -> bool:
        if not auth.password_set:
            return True
        try:
            if bearer is not None:
                return auth.session(bearer, SessionKind.BEARER) is not None
            return auth.session(cookie, SessionKind.COOKIE) is not None
        except StorageFailure:
            return True

    return still_open


def bearer_token() -> str | None:
    """The token of the Authorization header, or None when the header is absent or of another kind."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _ask_to_log_in(as_json: bool) -> AnyResponse:
    if as_json:
        return http.failure(
            Unauthorized(
                'Log in first: POST /middleware/api/login {"password": "..."} gives a token; send it as'
                " `Authorization: Bearer <token>`.",
                code="login_required",
            )
        )
    if request.headers.get("HX-Request") == "true":
        # A part of a page was asked for: it is the page that has to go to the login.
        shown = guard.parts_of(request.headers.get("HX-Current-URL", ""))
        answer: AnyResponse = Response(status=401)
        answer.headers["HX-Redirect"] = _login_address(f"{shown.path}?{shown.query}".rstrip("?"))
        return answer
    return redirect(_login_address(request.full_path.rstrip("?") if request.method in ("GET", "HEAD") else HOME))


def _login_address(wanted: str) -> str:
    return f"{url_for('auth.login')}?next={quote(safe_next(wanted), safe='/')}"


def _check_change() -> None:
    """
    Refuse a change that another site may have sent on the administrator's behalf.

    A Bearer token is never sent by a browser on its own, so a call with one needs nothing else.
    """
    session: Session | None = g.session
    if request.method in guard.SAFE_METHODS or (session is not None and session.kind is SessionKind.BEARER):
        return
    guard.check_origin()
    if session is None:
        _check_declared()
        return
    given = request.headers.get("X-CSRF-Token") or _form_token()
    if not http.services().auth.csrf_matches(session, given):
        raise Forbidden(
            "The token of this form is missing or old. Load the page again, or send the header `X-CSRF-Token` with"
            " the value from GET /middleware/api/session.",
            code="csrf_token",
        )


def _check_declared() -> None:
    # Without a password no token can be asked for; a form of another site cannot declare JSON.
    if guard.is_in(guard.JSON_AREAS):
        http.require_json()


def _form_token() -> str:
    if request.mimetype not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return ""
    request.max_content_length = request.max_form_memory_size = MAX_PAGE_FORM_BYTES
    try:
        return request.form.get("csrf_token", "")
    except HTTPException:
        return ""


def csrf_token() -> str:
    """What a form of the current session must send as `csrf_token`; empty while no password is set."""
    session: Session | None = g.get("session")
    return session.csrf_token if session is not None else ""


@auth_bp.app_context_processor
def _template_names() -> dict[str, Callable[[], Any]]:
    return {"csrf_token": csrf_token, "password_set": lambda: http.services().auth.password_set}


# -- the password ------------------------------------------------------------------------------------


def check_password(given: str) -> bool:
    """
    Whether `given` is the password; the attempt counts for the caller's address.

    Raises TooManyAttempts while that address has to wait. True without counting while no password is set.
    """
    auth = http.services().auth
    if not auth.password_set:
        return True
    peer = request.remote_addr or ""
    auth.count_attempt(peer)
    if len(given) > MAX_PASSWORD or not auth.password_is(given):
        log.warning("A wrong password came from %s.", peer)
        return False
    auth.forgive(peer)
    return True


def confirm_password(body: dict[str, Any]) -> None:
    """
    Ask for the password once more, for calls that show a secret.

    Raises BadRequest without one, Forbidden for a wrong one, TooManyAttempts. Passes while no password is set.
    """
    if not http.services().auth.password_set:
        return
    given = body.get("password")
    if given is None or given == "":
        raise BadRequest("Send the administrator's password again as `password`.", code="password_required")
    if not isinstance(given, str):
        raise http.wrong("password", "a string")
    if not check_password(given):
        raise Forbidden("Invalid password.", code="invalid_password")


# -- pages -------------------------------------------------------------------------------------------


def safe_next(target: str) -> str:
    """`target` where it is a page of the administration of this very server, else the dashboard."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return HOME
    clean = target.isprintable() and "\\" not in target and not parts.scheme and not parts.netloc
    lowered = parts.path.lower()
    straight = ".." not in lowered and "%2e" not in lowered and "%2f" not in lowered and "//" not in lowered
    inside = guard.within(parts.path, ("/middleware",)) and not guard.within(parts.path, ("/middleware/api",))
    return target if clean and straight and inside else HOME


@auth_bp.route("/middleware/login", methods=["GET", "POST"])
def login() -> AnyResponse:
    """The login page; the right password leads to `next` or the dashboard, with a new session."""
    if not http.services().auth.password_set:
        return redirect(HOME)
    if request.method != "POST":
        return _login_page(safe_next(request.args.get("next", HOME)), "", 200)
    request.max_content_length = MAX_FORM_BYTES
    target = safe_next(request.form.get("next") or request.args.get("next", HOME))
    try:
        right = check_password(request.form.get("password", ""))
    except TooManyAttempts as error:
        page = _login_page(target, str(error), error.status)
        page.headers["Retry-After"] = str(int(error.retry_after_s or 1))
        return page
    if not right:
        return _login_page(target, "Invalid Credentials. Please try again.", 401)
    auth = http.services().auth
    if COOKIE in request.cookies:
        auth.end_session(request.cookies[COOKIE])
    token, _ = auth.open_session(SessionKind.COOKIE)
    response = redirect(target, 303)
    response.set_cookie(
        COOKIE, token, path=COOKIE_PATH, httponly=True, samesite="Lax", secure=request.is_secure, max_age=None
    )
    return response


def _login_page(target: str, problem: str, status: int) -> AnyResponse:
    # A browser that still has the cookie of a session did not come here of its own accord.
    ended = not problem and COOKIE in request.cookies
    return Response(render_template("login/index.html", next=target, problem=problem, ended=ended), status)


@auth_bp.route("/middleware/logout", methods=["GET", "POST"])
def logout() -> AnyResponse:
    """GET asks whether to log out, because a link on any site could lead there; POST does it."""
    if request.method != "POST":
        return Response(render_template("logout/index.html"))
    if COOKIE in request.cookies:
        http.services().auth.end_session(request.cookies[COOKIE])
    response = redirect(url_for("auth.login"), 303)
    response.delete_cookie(COOKIE, path=COOKIE_PATH, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def _page_of(error: MiddlewareError) -> AnyResponse:
    return _message_page(error.status, "Nothing here" if error.status == 404 else "Refused", str(error))


def _message_page(status: int, title: str, message: str) -> AnyResponse:
    # Strangers get no navigation.
    admitted = g.get("admitted", False)
    return Response(render_template("message/index.html", title=title, message=message, admitted=admitted), status)


# -- calls -------------------------------------------------------------------------------------------


@auth_bp.post("/middleware/api/login")
def api_login() -> AnyResponse:
    """`{"password"}` -> `{"token", "expires_at"}`: a Bearer token for the admin API, valid for 24 hours."""
    body = http.fields(http.read_object(), {"password": http.anything})
    password = body.get("password")
    if password is None or password == "":
        raise BadRequest("Password required", code="password_required")
    if not isinstance(password, str):
        raise http.wrong("password", "a string")
    if not check_password(password):
        raise Unauthorized("Invalid password", code="invalid_password")
    token, expires_at = http.services().auth.open_session(SessionKind.BEARER)
    return http.answer({"success": True, "token": token, "expires_at": http.iso(expires_at)})


@auth_bp.post("/middleware/api/logout")
def api_logout() -> AnyResponse:
    """End the session, or the Bearer token, that this call came with."""
    http.fields(http.read_object(optional=True), {})
    token = bearer_token() or request.cookies.get(COOKIE)
    if token is not None:
        http.services().auth.end_session(token)
    response = http.answer({"success": True, "message": "Logged out."})
    if COOKIE in request.cookies:
        response.delete_cookie(COOKIE, path=COOKIE_PATH, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


@auth_bp.get("/middleware/api/session")
def api_session() -> AnyResponse:
    """Who is asking: `{"authenticated", "password_set", "kind", "expires_at", "csrf_token"}`."""
    session: Session | None = g.session
    return http.answer(
        {
            "authenticated": True,
            "password_set": http.services().auth.password_set,
            "kind": "open" if session is None else session.kind.value,
            "expires_at": None if session is None else http.iso(session.expires_at),
            "csrf_token": csrf_token(),
        }
    )


def _show(error: MiddlewareError) -> AnyResponse:
    return http.failure(error) if guard.is_in(guard.JSON_AREAS) else _page_of(error)


def _show_http(error: HTTPException) -> AnyResponse:
    if guard.is_in(guard.JSON_AREAS):
        return http.http_failure(error)
    return _message_page(error.code or 500, error.name, error.description or "")


def register_error_handlers(blueprint: Blueprint) -> None:
    """Make every error of this blueprint's views an answer: JSON for calls, a page for pages."""
    blueprint.register_error_handler(MiddlewareError, _show)
    blueprint.register_error_handler(HTTPException, _show_http)
    blueprint.register_error_handler(StorageFailure, _show_storage_failure)


def _show_storage_failure(_error: Exception) -> AnyResponse:
    log.exception("The administration met a failing database.")
    return _show(Overloaded("The database does not answer. Try again in a moment.", code="database_unavailable"))


register_error_handlers(auth_bp)
