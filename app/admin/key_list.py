"""
One page of the list of keys: searched, filtered, sorted and cut in memory over what the key manager shows, and only
then with figures, for the keys on the page alone. It stays quick at thousands of keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from app.admin.actions import keys as actions
from app.admin.actions.keys import Item
from app.context import Services
from app.keys.base import Status
from app.usage_queries import UNUSED, KeyUsage

SIZES: Final = (25, 50, 100, 250)
DEFAULT_SIZE: Final = 50
DEFAULT_SORT: Final = "name"
STATUSES: Final = tuple(status.value for status in Status)
_MAX_SEARCH_CHARS: Final = 200
_SEARCHED: Final = ("name", "note", "key_value", "group", "provider")
_RANKS: Final = {Status.DISABLED: 0, Status.RESTING: 1, Status.HEALTHY: 2}

_Figures = Mapping[int, KeyUsage]
_SortKey = Callable[[Item, KeyUsage], Any]

#: What each column is sorted by. Those of `_FIGURES` need figures of all keys.
#: Nobody counts further, and Python refuses to read very long numbers.
_NUMBERS: Final = re.compile(r"([0-9]{1,18})")
_SORTS: Final[Mapping[str, _SortKey]] = {
    "name": lambda item, _: _natural(item["name"]),
    "key": lambda item, _: item["key_value"],
    "provider": lambda item, _: (item["provider"], item["group"].casefold()),
    "priority": lambda item, _: item["priority"],
    "status": lambda item, _: (_RANKS[item["status"]], item["disabled_until"] or 0.0, not item["model_rests"]),
    "today": lambda _, usage: usage.usage_today,
    "total": lambda _, usage: usage.total_usage,
    "kpi": lambda _, usage: usage.kpi,
    "used": lambda item, _: item["last_used"] or 0.0,
}
#: Columns that are most interesting from the top.
_DOWN_FIRST: Final = frozenset({"today", "total", "used"})


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """What a reader wants to see. `down` is the descending order."""

    search: str = ""
    status: str = ""
    provider: str = ""
    sort: str = DEFAULT_SORT
    down: bool = False
    page: int = 1
    size: int = DEFAULT_SIZE

    @staticmethod
    def of(parameters: Mapping[str, str]) -> KeyQuery:
        """From the parameters of an address; what makes no sense counts as not given."""
        sort = parameters.get("sort", "")
        return KeyQuery(
            search=parameters.get("search", "").strip()[:_MAX_SEARCH_CHARS],
            status=status if (status := parameters.get("status", "")) in STATUSES else "",
            provider=parameters.get("provider", "")[:64],
            sort=sort if sort in _SORTS else DEFAULT_SORT,
            down=parameters.get("order") == "down",
            page=_whole(parameters.get("page", ""), 1),
            size=size if (size := _whole(parameters.get("size", ""), 0)) in SIZES else DEFAULT_SIZE,
        )

    @staticmethod
    def of_address(query_string: str) -> KeyQuery:
        return KeyQuery.of({name: values[-1] for name, values in parse_qs(query_string).items()})

    @property
    def filtered(self) -> bool:
        return bool(self.search or self.status or self.provider)

    def address(self, **changes: Any) -> str:
        """The address of the page with some of this changed; a change without `page` begins at the first."""
        wanted = replace(self, **{"page": 1, **changes})
        named = {
            "search": wanted.search,
            "status": wanted.status,
            "provider": wanted.provider,
            "sort": wanted.sort if wanted.sort != DEFAULT_SORT else "",
            "order": "down" if wanted.down else "",
            "page": wanted.page if wanted.page > 1 else "",
            "size": wanted.size if wanted.size != DEFAULT_SIZE else "",
        }
        query = urlencode({name: value for name, value in named.items() if value})
        return "/middleware/keys" + (f"?{query}" if query else "")

    def sorted_by(self, column: str) -> str:
        """The address that sorts by this column; the other way round where it does already."""
        down = not self.down if column == self.sort else column in _DOWN_FIRST
        return self.address(sort=column, down=down)

    def here(self) -> str:
        """The address of this very page."""
        return self.address(page=self.page)


@dataclass(frozen=True, slots=True)
class KeyPage:
    """
    rows      -- the keys on the page, with `usage`
    total     -- keys that match
    existing  -- keys there are
    counts    -- keys by status that match but for their status; `""` is all of them
    """

    query: KeyQuery
    rows: list[Item]
    total: int
    existing: int
    pages: int
    counts: Mapping[str, int]
    providers: list[str]


def listed(services: Services, query: KeyQuery) -> KeyPage:
    """The page that `query` asks for; one beyond the end is the last. The demonstration's keys are left out."""
    items = actions.real(services)
    matching = [item for item in items if _matches(item, query)]
    counts = Counter(str(item["status"]) for item in matching)
    chosen = _of_status(matching, query)
    pages = max(1, -(-len(chosen) // query.size))
    query = replace(query, page=min(query.page, pages))
    start = (query.page - 1) * query.size
    rows = _sorted(services, chosen, query)[start : start + query.size]
    usage = services.usage_queries.key_usage([row["id"] for row in rows]) if rows else {}
    return KeyPage(
        query=query,
        rows=[{**row, "usage": usage.get(row["id"], UNUSED)} for row in rows],
        total=len(chosen),
        existing=len(items),
        pages=pages,
        counts={"": len(matching), **{status: counts[status] for status in STATUSES}},
        providers=sorted({item["provider"] for item in items}),
    )


def matching_ids(services: Services, query: KeyQuery) -> list[int]:
    """The ids of all keys that `query` finds, on whatever page."""
    matching = [item for item in actions.real(services) if _matches(item, query)]
    return [item["id"] for item in _of_status(matching, query)]


def _of_status(items: list[Item], query: KeyQuery) -> list[Item]:
    return [item for item in items if item["status"] == query.status] if query.status else items


def _matches(item: Item, query: KeyQuery) -> bool:
    if query.provider and item["provider"] != query.provider:
        return False
    wanted = query.search.casefold()
    return not wanted or any(wanted in item[field].casefold() for field in _SEARCHED)


def _sorted(services: Services, items: list[Item], query: KeyQuery) -> list[Item]:
    figures = _figures(services, query.sort)
    by = _SORTS[query.sort]
    # The ids decide between equals, upwards in either order.
    return sorted(items, key=lambda item: by(item, figures.get(item["id"], UNUSED)), reverse=query.down)


def _figures(services: Services, sort: str) -> _Figures:
    if sort in ("today", "kpi"):
        return services.usage_queries.key_usage_today()
    return services.usage_queries.key_usage_total() if sort == "total" else {}


def _natural(text: str) -> list[tuple[int, int, str]]:
    """`Key 9` comes before `Key 10`: numbers inside of texts are compared as numbers."""
    parts = filter(None, _NUMBERS.split(text.casefold()))
    return [(0, int(part), "") if _NUMBERS.fullmatch(part) else (1, 0, part) for part in parts]


def _whole(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 9 and int(text) else otherwise
