"""The request log, `/middleware/requests`: what was asked, what came back, and every attempt on the way."""

from __future__ import annotations

import json
import time
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response

from app.admin import http, request_filters
from app.admin.api.requests import shown
from app.admin.pages import request_export, request_words
from app.admin.pages.frame import fragment, show
from app.admin.pages.words import instant
from app.errors import BadRequest, NotFound
from app.formats import FORMATS
from app.request_log import FAILED, FAILURES, Page, RequestFilter, RequestLog

bp = Blueprint("requests", __name__, url_prefix="/middleware/requests")

ADDRESS: Final = "/middleware/requests"
PAGE_ROWS: Final = 50
#: How long a view may search before it shows what it has; the page then goes on by itself.
SEARCH_S: Final = 0.04
MOST_NEW: Final = 1000
#: More clients than a person would choose from are asked for by their number.
MOST_CLIENTS: Final = 200

RANGES: Final = (
    ("", "Any time"),
    ("15m", "Last 15 minutes"),
    ("1h", "Last hour"),
    ("6h", "Last 6 hours"),
    ("24h", "Last 24 hours"),
    ("7d", "Last 7 days"),
)
STATUSES: Final = ("2xx", "4xx", "5xx", "400", "401", "403", "404", "429", "499", "500", "502", "503", "504")
STREAMS: Final = (("", "Any"), ("true", "Streams"), ("false", "Whole answers"))
VERDICTS: Final = (
    ("", "Any"),
    (FAILED, "Any failed attempt"),
    *((code, request_words.VERDICTS[code].words) for code in FAILURES),
)
OUTCOMES: Final = (("", "Any"), *((code, word.words) for code, word in request_words.OUTCOMES.items()))
DIALECTS: Final = (("", "Any"), *((format_.name, format_.name) for format_ in FORMATS))
#: Filters that are folded away until one of them is used.
FOLDED: Final = ("outcome", "provider", "dialect", "client_id", "stream", "since", "until", "key_id")


@bp.get("")
def index() -> Response:
    """The log with its filters. What a filter does not understand is said beside it, and left out."""
    wanted, typed, faults = request_filters.read_leniently(PAGE_ROWS)
    context = _results(wanted, typed, faults)
    return show(
        "requests/index.html",
        page="requests",
        faults=faults,
        choices=_choices(typed),
        folded_open=any(name in typed for name in FOLDED),
        instants={name: _plain_instant(typed.get(name, "")) for name in ("since", "until")},
        **context,
    )


@bp.get("/list")
def list_() -> Response:
    """The rows alone, for htmx, with the address of the page that shows them."""
    wanted, typed, faults = request_filters.read_leniently(PAGE_ROWS)
    response = fragment("requests/_results.html", faults=faults, **_results(wanted, typed, faults))
    if not faults:
        response.headers["HX-Replace-Url"] = _address(typed)
    return response


@bp.get("/more")
def more() -> Response:
    """What a search that went on has found, to be added to the rows."""
    wanted, typed, faults = request_filters.read_leniently(PAGE_ROWS)
    return fragment("requests/_more.html", **_results(wanted, typed, faults))


@bp.get("/new")
def new() -> Response:
    """How many requests have come since `?after=`."""
    wanted, typed, _ = request_filters.read_leniently(PAGE_ROWS)
    try:
        count = _log().count_new(wanted, wanted.after_id or 0, MOST_NEW)
    except BadRequest:
        count = 0
    return fragment("requests/_new.html", count=count, most=MOST_NEW, query=_query(typed))


@bp.get("/export.<any(csv, json):kind>")
def export(kind: str) -> Response:
    """The rows of a view as a file, newest first, at most `MAX_ROWS`."""
    wanted = request_filters.read(PAGE_ROWS)
    mimetype, write = request_export.FORMATS[kind]
    rows = _log().rows(wanted, request_export.MAX_ROWS)
    response = Response(write(rows), mimetype=mimetype, direct_passthrough=True)
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime(http.services().clock.wall()))
    response.headers["Content-Disposition"] = f'attachment; filename="requests-{stamp}.{kind}"'
    return response


@bp.get("/<identity>")
def one(identity: str) -> Response:
    """One request, by the id of its row or by its request id."""
    row = _found(identity)
    text = json.dumps(shown(row), indent=2, ensure_ascii=False)
    return show("requests/one.html", page="requests", row=row, text=text, **_said([row]))


@bp.get("/<identity>/trail")
def trail(identity: str) -> Response:
    """The attempts of one request, to be unfolded below its row."""
    row = _found(identity)
    return fragment("requests/_trail.html", row=row, **_said([row]))


# -- parts -------------------------------------------------------------------------------------------


def _log() -> RequestLog:
    return http.services().usage_queries.log


def _found(identity: str) -> dict[str, Any]:
    row = _log().get(identity)
    if row is None:
        raise NotFound("There is no such request: it may have been too long ago.")
    return row


def _results(wanted: RequestFilter, typed: dict[str, str], faults: dict[str, str]) -> dict[str, Any]:
    log = _log()
    newest_id = log.newest_id()
    try:
        page = log.page(wanted, SEARCH_S)
    except BadRequest as error:
        faults[error.param or "search"] = str(error)
        page = Page([])
    at_top = "before" not in typed and "after" not in typed
    rows = page.rows
    filters = {name: text for name, text in typed.items() if name not in request_filters.PLACES}
    query = _query(typed)
    return {
        "typed": typed,
        "rows": rows,
        "filtered": bool(filters),
        "filters": filters,
        "query": query,
        "searched_to": page.searched_to,
        # A search that goes on fills this page; one that is at its end has a next one.
        "rest": (f"{query}&before={page.next_before_id}&limit={max(1, wanted.limit - len(rows))}".lstrip("&"))
        if page.searched_to is not None
        else "",
        "older": _address(typed, before=page.next_before_id) if page.next_before_id and rows else "",
        "newer": _address(typed, after=rows[0]["id"]) if rows and not at_top else "",
        "newest": "" if at_top else _address(typed),
        "watch_from": max([newest_id, *(row["id"] for row in rows[:1])]) if at_top and wanted.until is None else None,
        **_said(rows),
    }


def _said(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What templates need to say what the rows mean."""
    keys, clients = _log().names(rows)
    return {
        "key_names": keys,
        "client_names": clients,
        "outcome": request_words.outcome,
        "verdict": request_words.verdict,
        "bar": request_words.bar,
        "bar_units": request_words.BAR_UNITS,
    }


def _choices(typed: dict[str, str]) -> dict[str, Any]:
    services = http.services()
    providers = [provider.name for provider in services.providers.snapshot.ordered]
    clients = services.clients.list()
    return {
        "range": RANGES,
        "statuses": STATUSES,
        "verdict": VERDICTS,
        "outcome": OUTCOMES,
        "dialect": DIALECTS,
        "stream": STREAMS,
        "models": _log().choices("model"),
        "provider": _with_typed([("", "Any"), *((name, name) for name in providers)], typed.get("provider", "")),
        "client_id": _with_typed(
            [("", "Any"), *((str(client["id"]), client["name"]) for client in clients)], typed.get("client_id", "")
        )
        if len(clients) <= MOST_CLIENTS
        else (),
    }


def _with_typed(choices: list[tuple[str, str]], typed: str) -> list[tuple[str, str]]:
    """What was asked for stays a choice, also when it is no more."""
    return choices if typed in dict(choices) else [*choices, (typed, typed)]


def _plain_instant(text: str) -> str:
    """What a field for a date and time takes: UTC without a zone. Empty for what is no instant."""
    try:
        return instant(http.instant("instant", text)).rstrip("Z") if text else ""
    except BadRequest:
        return ""


def _query(typed: dict[str, str], **places: Any) -> str:
    filters = {name: text for name, text in typed.items() if name not in request_filters.PLACES}
    return urlencode({**filters, **places})


def _address(typed: dict[str, str], **places: Any) -> str:
    query = _query(typed, **places)
    return f"{ADDRESS}?{query}" if query else ADDRESS
