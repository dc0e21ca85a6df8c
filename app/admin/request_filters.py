"""
The filters of the request log as query parameters: the same for the API, for the page and for what is exported, so that
the address of a view is also the address of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flask import request

from app.admin import http
from app.errors import BadRequest
from app.request_log import FAILED, FAILURES, MAX_PAGE, RequestFilter

#: Word -> seconds back from now.
RANGES: Final = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}

_WORD = http.text(256)
_TRUE_FALSE: Final = {"true": True, "false": False}
_EXACT_STATUS: Final = re.compile("[1-5][0-9]{2}")
_STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")


def _status(name: str, value: Any) -> str:
    exact = isinstance(value, str) and _EXACT_STATUS.fullmatch(value)
    if value not in _STATUS_CLASSES and not exact:
        raise http.wrong(name, f"one of {', '.join(_STATUS_CLASSES)}, or a status from 100 to 599")
    return str(value)


def _flag(name: str, value: Any) -> bool:
    return _TRUE_FALSE[http.choice(*_TRUE_FALSE)(name, value)]


#: Query parameter -> check.
PARAMETERS: Final[dict[str, http.Check]] = {
    "range": http.choice(*RANGES),
    "since": http.instant,
    "until": http.instant,
    "status": _status,
    "outcome": _WORD,
    "verdict": http.choice(FAILED, *FAILURES),
    "model": _WORD,
    "provider": _WORD,
    "dialect": _WORD,
    "key": _WORD,
    "key_id": http.integer(0, http.MAX_ID),
    "client_id": http.integer(0, http.MAX_ID),
    "stream": _flag,
    "search": _WORD,
    "before": http.integer(0, http.MAX_ID),
    "after": http.integer(0, http.MAX_ID),
    "limit": http.integer(1, MAX_PAGE),
}
#: Those that go on with a list, or say how much of it; all others say what is in it.
PLACES: Final = frozenset({"before", "after", "limit"})

_FIELDS: Final = {"search": "text", "before": "before_id", "after": "after_id"}


def read(default_limit: int) -> RequestFilter:
    """The filter that the request's query asks for. Raises BadRequest that names an unknown or wrong parameter."""
    return filter_of(http.parameters(PARAMETERS), default_limit)


def read_leniently(default_limit: int) -> tuple[RequestFilter, dict[str, str], dict[str, str]]:
    """For a page, whose form is shown again: (the filter without what is wrong, what was typed, faults by name)."""
    values: dict[str, Any] = {}
    typed: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, check in PARAMETERS.items():
        text = request.args.get(name, "").strip()
        if not text:
            continue
        typed[name] = text
        try:
            values[name] = check(name, text)
        except BadRequest as error:
            faults[name] = str(error)
    return filter_of(values, default_limit), typed, faults


def filter_of(values: Mapping[str, Any], default_limit: int) -> RequestFilter:
    """The filter of checked parameters."""
    fields = {_FIELDS.get(name, name): value for name, value in values.items() if name not in ("range", "status")}
    fields.setdefault("limit", default_limit)
    if "range" in values:
        earliest = http.services().clock.wall() - RANGES[values["range"]]
        fields["since"] = max(fields.get("since", 0.0), earliest)
    if "status" in values:
        word: str = values["status"]
        fields |= {"status_class": int(word[0])} if word.endswith("xx") else {"status": int(word)}
    return RequestFilter(**fields)
