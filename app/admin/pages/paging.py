"""Long lists, a page at a time: searched and cut on the server, so that no list makes a page slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from flask import request

from app.admin import http

T = TypeVar("T")

PER_PAGE: Final = 100
QUERY: Final = http.text(256)


@dataclass(frozen=True, slots=True)
class Paged:
    """
    One page of a list.

    found    -- how many there are, after the search
    address  -- the address of another page, by its number
    """

    rows: Sequence[Any]
    found: int
    page: int
    pages: int
    address: Callable[[int], str]


def query() -> str:
    """What is searched for: `q`. Raises BadRequest for what nobody types."""
    found: str = QUERY("q", request.args.get("q", ""))
    return found


def paged(rows: Sequence[T], home: str, **parameters: str) -> Paged:
    """The page of `rows` that the request asks for (`page`), or the nearest one that there is."""
    text = request.args.get("page", "1")
    wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1
    pages = max(1, -(-len(rows) // PER_PAGE))
    page = min(max(1, wanted), pages)
    given = {name: value for name, value in parameters.items() if value}

    def address(number: int) -> str:
        return f"{home}?{urlencode({**given, 'page': number})}"

    return Paged(rows[(page - 1) * PER_PAGE : page * PER_PAGE], len(rows), page, pages, address)


def matching(rows: Iterable[T], word: str, text_of: Callable[[T], str]) -> list[T]:
    """Those whose text has `word` in it, in any case."""
    folded = word.casefold()
    return [row for row in rows if not folded or folded in text_of(row).casefold()]
