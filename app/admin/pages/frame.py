"""
The frame around every page: the navigation, how a page or a part of it is rendered, and how a change ends.

A page is whole when a browser asks for it, and only its main part when htmx does (`HX-Request`): that is how the same
address serves as a page without JavaScript and as a dialog with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from app.admin.pages import notices, words
from app.admin.pages.notices import Notice

THEME_COOKIE: Final = "middleware_theme"
THEMES: Final = ("system", "light", "dark")
ICONS: Final = "vendor/lucide-1.62.0"
_ICON_NAME: Final = re.compile(r"[a-z0-9-]{1,40}")
#: Hex characters of a file's hash in its address.
_HASH_CHARS: Final = 12


class Entry(NamedTuple):
    """A line of the navigation."""

    page: str
    title: str
    address: str
    icon: str


#: (heading, its pages), in the order of the navigation.
NAVIGATION: Final[tuple[tuple[str, tuple[Entry, ...]], ...]] = (
    (
        "Watch",
        (
            Entry("dashboard", "Dashboard", "/middleware/", "layout-dashboard"),
            Entry("requests", "Requests", "/middleware/requests", "list"),
            Entry("logs", "Live log", "/middleware/logs", "scroll-text"),
        ),
    ),
    (
        "Set up",
        (
            Entry("keys", "Keys", "/middleware/keys", "key-round"),
            Entry("providers", "Providers", "/middleware/providers", "server"),
            Entry("models", "Models", "/middleware/models", "boxes"),
            Entry("clients", "Clients", "/middleware/clients", "users"),
            Entry("settings", "Settings", "/middleware/settings", "settings"),
        ),
    ),
    (
        "Try",
        (
            Entry("playground", "Playground", "/middleware/playground", "message-square"),
            Entry("swagger", "API", "/middleware/swagger/", "braces"),
        ),
    ),
)


# -- pages -------------------------------------------------------------------------------------------


def is_htmx() -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in request.headers


def show(template: str, *, page: str, status: int = 200, **context: Any) -> Response:
    """
    The page of `template`, which extends `frame`; for htmx its main part alone.

    page  -- the entry of `NAVIGATION` that is current
    """
    whole = not is_htmx()
    notice = notices.kept() if whole else None
    response = Response(render_template(template, page=page, notice=notice, **context), status)
    response.vary.add("HX-Request")
    if whole:
        notices.forget(response)
    return response


def fragment(template: str, *, status: int = 200, **context: Any) -> Response:
    """A part of a page, for htmx to put in its place."""
    return Response(render_template(template, **context), status)


def done(message: str, to: str, *, level: str = "good", fragment: Response | None = None) -> AnyResponse:
    """
    The end of a change: `message` is shown by the page at `to`, where the browser goes next.

    fragment  -- what htmx shows instead of going there, with the message beside it
    """
    if not is_htmx():
        response: AnyResponse = redirect(to, 303)
        notices.keep(response, Notice(level, message))
        return response
    if fragment is not None:
        return tell(fragment, message, level)
    response = Response(status=204)
    response.headers["HX-Redirect"] = to
    notices.keep(response, Notice(level, message))
    return response


def tell(response: Response, message: str, level: str = "good") -> Response:
    """Have htmx show `message` beside what `response` puts in its place."""
    told = {"middleware:notice": {"level": level, "message": message}}
    response.headers["HX-Trigger"] = json.dumps(told)  # ASCII only
    return response


# -- what templates use ------------------------------------------------------------------------------


def equip(blueprint: Blueprint) -> None:
    """Give templates their filters, and the names that every page needs."""

    @blueprint.record_once
    def _equip(state: Any) -> None:
        state.app.jinja_env.filters.update(words.FILTERS)
        state.app.jinja_env.globals.update(asset=asset, icon=icon, navigation=NAVIGATION, themes=THEMES)
        state.app.jinja_env.trim_blocks = state.app.jinja_env.lstrip_blocks = True

    @blueprint.app_context_processor
    def _names() -> dict[str, Any]:
        return {"theme": theme(), "frame": "_dialog.html" if is_htmx() else "base.html"}


def theme() -> str:
    """The reader's choice: `light` or `dark`; empty follows the system."""
    chosen = request.cookies.get(THEME_COOKIE, "")
    return chosen if chosen in ("light", "dark") else ""


def asset(path: str) -> str:
    """The address of a static file, with a mark of its content, so that browsers may keep it for good."""
    return url_for("static", filename=path, v=_hash(current_app.static_folder or "", path))


@functools.lru_cache(maxsize=256)
def _hash(folder: str, path: str) -> str:
    return hashlib.sha256((Path(folder) / path).read_bytes()).hexdigest()[:_HASH_CHARS]


def icon(name: str, label: str = "") -> Markup:
    """
    An icon as inline SVG.

    label  -- what it says to those who do not see it; an icon without one is decoration
    """
    drawing = _drawing(current_app.static_folder or "", name)
    spoken = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup('<svg class="icon" viewBox="0 0 24 24" {}>{}</svg>').format(spoken, drawing)


@functools.lru_cache(maxsize=256)
def _drawing(folder: str, name: str) -> Markup:
    if not _ICON_NAME.fullmatch(name):
        raise ValueError(f"not the name of an icon: {name!r}")
    text = (Path(folder) / ICONS / f"{name}.svg").read_text()
    inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    return Markup(" ".join(inner.split()))  # noqa: S704 - a file of ours
