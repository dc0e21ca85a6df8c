"""
Searches the request log: one page at a time, newest first, in bounded time however many rows there are.

What many requests share is looked up in their shapes first. The rows are then read in windows of ids, beginning at the
edge of the page, until the page is full or the time is up; who wants to know what lies beyond goes on from there.
Rows are never counted. Every value is bound, never spliced, and the wildcards of a search text mean themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, func, or_, select

from app.clock import Clock
from app.errors import BadRequest
from app.keys.base import Action
from app.shapes import MAX_INT64, OK, plain_attempt
from app.storage.database import Database
from app.storage.schema import clients, keys, request_log, request_shapes, requests
from app.telemetry.logs import iso_milliseconds, safe_text

MAX_PAGE: Final = 500
#: How long a call of the API may search for the rows of one page.
SEARCH_S: Final = 2.0
#: Verdicts that an attempt can have when it was not ok, and the word for any of them.
FAILURES: Final = (*(action.value for action in Action), "client_gone")
FAILED: Final = "failed"
#: More keys of one name are not told apart in the attempts.
MAX_KEYS: Final = 50
MAX_CHOICES: Final = 500

#: Ids of the first window, and of the largest: a few milliseconds each.
_FIRST_WINDOW: Final = 25_000
_LARGEST_WINDOW: Final = 100_000
#: Shapes whose ids go into the statement; more are looked up inside of it.
_FEW_SHAPES: Final = 200
#: A row is written when its request ends: rows of an instant lie so far apart, and at the edge so many are looked at.
_LATEST_S: Final = 86_400.0
_EARLIEST_S: Final = 3_600.0
_EDGE_ROWS: Final = 100

Json = dict[str, Any]
Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """
    Which requests to list; None or "" = all.

    status_class  -- 2 for the statuses 200 to 299, and so on
    verdict       -- one of `FAILURES` that an attempt has, or `FAILED`
    model         -- as the caller asked or as it was sent
    key_id        -- of any of the attempts
    key           -- the id or a part of the name of such a key
    since, until  -- Unix seconds, `since` included, `until` not
    text          -- part of the path or of the request id, in any case
    before_id     -- only rows below this id: the `next_before_id` of the page before
    after_id      -- only rows above this id, those next to it: the page before it in the list
    limit         -- rows on a page, at most 500
    """

    status: int | None = None
    status_class: int | None = None
    outcome: str | None = None
    verdict: str | None = None
    model: str | None = None
    provider: str | None = None
    dialect: str | None = None
    key_id: int | None = None
    key: str | None = None
    client_id: int | None = None
    stream: bool | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None
    before_id: int | None = None
    after_id: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """
    rows            -- newest first, with their attempts as a list and `started` in ISO 8601
    next_before_id  -- where older rows may follow, None at the end
    searched_to     -- Unix seconds of the oldest row that was looked at, where the time was up before the page was full
    """

    rows: list[Json]
    next_before_id: int | None = None
    searched_to: float | None = None


class RequestLog:
    """Thread-safe. Raises SQLAlchemyError when the database cannot be read."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or Clock()

    def page(self, wanted: RequestFilter, search_s: float = SEARCH_S) -> Page:
        """
        The newest matching rows below `before_id`, or the oldest above `after_id`.

        search_s -- after this time the search ends with what it has found
        """
        limit = max(1, min(wanted.limit, MAX_PAGE))
        with self._database.read() as connection:
            conditions = _conditions(connection, wanted)
            if conditions is None:
                return Page([])
            span = _span(connection, wanted)
            upwards = wanted.after_id is not None and wanted.before_id is None
            rows, edge = self._search(connection, conditions, span, limit + 1, upwards, search_s)
            searched_to = None if edge is None or upwards else _started_near(connection, edge)
        if upwards:
            rows = rows[:limit][::-1]
            return Page([_request(row) for row in rows], rows[-1]["id"] if rows else None)
        found = [_request(row) for row in rows[:limit]]
        if len(rows) > limit:
            return Page(found, found[-1]["id"])
        return Page(found, edge, searched_to)

    def count_new(self, wanted: RequestFilter, newest_id: int, most: int) -> int:
        """How many matching rows are above `newest_id`: up to `most`, among the latest few thousand."""
        wanted = replace(wanted, before_id=None, after_id=newest_id)
        with self._database.read() as connection:
            conditions = _conditions(connection, wanted)
            if conditions is None:
                return 0
            span = _span(connection, wanted)
            low = max(span.start, span.stop - _LARGEST_WINDOW)
            inner = select(requests.c.id).where(*conditions, *_between(low, span.stop)).limit(most).subquery()
            return int(connection.execute(select(func.count()).select_from(inner)).scalar() or 0)

    def newest_id(self) -> int:
        """The id of the row that was written last, 0 without rows."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.max(requests.c.id))).scalar() or 0)

    def rows(self, wanted: RequestFilter, most: int) -> Iterator[Json]:
        """All matching rows, newest first, at most so many, read page by page; however long it takes."""
        wanted = replace(wanted, limit=MAX_PAGE, after_id=None)
        while most > 0:
            page = self.page(wanted)
            yield from page.rows[:most]
            most -= len(page.rows)
            if page.next_before_id is None:
                return
            wanted = replace(wanted, before_id=page.next_before_id)

    def get(self, identity: str) -> Json | None:
        """The request with this row id or, where there is none, the newest one with this request id; None without."""
        matching: Condition = requests.c.request_id == safe_text(identity, 128)
        order: list[ColumnElement[Any]] = [requests.c.id.desc()]
        row_id = int(identity) if identity.isascii() and identity.isdigit() and len(identity) <= 19 else MAX_INT64 + 1
        if row_id <= MAX_INT64:
            matching = or_(matching, requests.c.id == row_id)
            order.insert(0, case((requests.c.id == row_id, 0), else_=1))
        with self._database.read() as connection:
            rows = connection.execute(request_log.where(matching).order_by(*order).limit(1)).mappings().all()
        return _request(rows[0]) if rows else None

    def names(self, rows: Iterable[Json]) -> tuple[dict[int, str], dict[int, str]]:
        """(key id -> name, client id -> name) of all that the rows mention; those that were deleted are left out."""
        key_ids, client_ids = set(), set()
        for row in rows:
            key_ids |= {row["key_id"], *(attempt.get("key_id") for attempt in row["attempts"])}
            client_ids.add(row["client_id"])
        with self._database.read() as connection:
            found = [
                {
                    int(row.id): str(row.name)
                    for row in connection.execute(select(table.c.id, table.c.name).where(table.c.id.in_(ids - {None})))
                }
                for table, ids in ((keys, key_ids), (clients, client_ids))
            ]
        return found[0], found[1]

    def choices(self, name: str) -> list[str]:
        """The different values of a column of the shapes, such as `model`, in order, at most 500 of them."""
        column = request_shapes.c[name]
        query = select(column).where(column.is_not(None), column != "").distinct().order_by(column).limit(MAX_CHOICES)
        with self._database.read() as connection:
            return [str(value) for value in connection.execute(query).scalars()]

    def _search(
        self,
        connection: Connection,
        conditions: Sequence[Condition],
        span: range,
        most: int,
        upwards: bool,
        search_s: float,
    ) -> tuple[list[RowMapping], int | None]:
        """The rows that were found, and the id below which the search did not come."""
        order = requests.c.id.asc() if upwards else requests.c.id.desc()
        found: list[RowMapping] = []
        give_up_at = self._clock.monotonic() + search_s
        width = _FIRST_WINDOW if conditions else len(span)
        low, high = span.start, span.stop
        while low < high and len(found) < most:
            if found or (low, high) != (span.start, span.stop):
                if self._clock.monotonic() > give_up_at:
                    return found, high
                width = min(2 * width, _LARGEST_WINDOW)
            window = (low, min(high, low + width)) if upwards else (max(low, high - width), high)
            query = request_log.where(*conditions, *_between(*window)).order_by(order).limit(most - len(found))
            found += connection.execute(query).mappings().all()
            low, high = (window[1], high) if upwards else (low, window[0])
        return found, None


# -- conditions --------------------------------------------------------------------------------------


def _between(low: int, high: int) -> tuple[Condition, Condition]:
    return requests.c.id >= low, requests.c.id < high


def _span(connection: Connection, wanted: RequestFilter) -> range:
    """The ids among which the rows are, as narrow as an index tells."""
    lowest, highest = connection.execute(
        select(
            select(func.min(requests.c.id)).scalar_subquery(),
            select(func.max(requests.c.id)).scalar_subquery(),
        )
    ).one()
    if highest is None:
        return range(0)
    low, high = int(lowest), int(highest) + 1
    if wanted.before_id is not None:
        high = min(high, wanted.before_id)
    if wanted.after_id is not None:
        low = max(low, wanted.after_id + 1)
    started = requests.c.started_at
    if wanted.since is not None:
        edge = select(requests.c.id).where(started < wanted.since - _EARLIEST_S).order_by(started.desc())
        low = max(low, connection.execute(_outermost(edge, func.min)).scalar() or 0)
    if wanted.until is not None:
        edge = select(requests.c.id).where(started >= wanted.until + _LATEST_S).order_by(started)
        high = min(high, connection.execute(_outermost(edge, func.max)).scalar() or high)
    return range(low, max(low, high))


def _outermost(edge: Any, aggregate: Any) -> Any:
    ids = edge.limit(_EDGE_ROWS).subquery()
    return select(aggregate(ids.c.id))


def _started_near(connection: Connection, row_id: int) -> float | None:
    query = select(requests.c.started_at).where(requests.c.id >= row_id).order_by(requests.c.id).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else float(found)


def _conditions(connection: Connection, wanted: RequestFilter) -> list[Condition] | None:
    """The WHERE conditions on `requests`; None when no row can match."""
    found: list[Condition] = []
    for part in (_of_shape, _of_text, _of_key):
        conditions = part(connection, wanted)
        if conditions is None:
            return None
        found += conditions
    row = requests.c
    if wanted.verdict:
        verdicts = FAILURES if wanted.verdict == FAILED else (wanted.verdict,)
        parts = [row.attempts.contains(f'"verdict":"{verdict}"', autoescape=True) for verdict in verdicts]
        found.append(and_(row.attempts != "", or_(*parts)))
    if wanted.since is not None:
        found.append(row.started_at >= wanted.since)
    if wanted.until is not None:
        found.append(row.started_at < wanted.until)
    return found


def _of_shape(connection: Connection, wanted: RequestFilter) -> list[Condition] | None:
    if wanted.client_id is not None and not 0 <= wanted.client_id <= MAX_INT64:
        return None
    shared = _shape_conditions(wanted)
    if not shared:
        return []
    matching = _in_shapes(connection, shared)
    return None if matching is None else [matching]


def _of_text(connection: Connection, wanted: RequestFilter) -> list[Condition] | None:
    text = _text(wanted.text)
    if not text:
        return []
    in_path = _in_shapes(connection, [request_shapes.c.path.icontains(text, autoescape=True)])
    in_id: Condition = requests.c.request_id.icontains(text, autoescape=True)
    return [in_id if in_path is None else or_(in_path, in_id)]


def _of_key(connection: Connection, wanted: RequestFilter) -> list[Condition] | None:
    found: list[Condition] = []
    if wanted.key_id is not None:
        if not 0 <= wanted.key_id <= MAX_INT64:
            return None
        found.append(_with_key([wanted.key_id]))
    if text := _text(wanted.key):
        key_ids = _key_ids(connection, text)
        if not key_ids:
            return None
        found.append(_with_key(key_ids))
    return found


def _shape_conditions(wanted: RequestFilter) -> list[Condition]:
    shape = request_shapes.c
    equal: list[tuple[ColumnElement[Any], Any]] = [
        (shape.status, wanted.status),
        (shape.client_id, wanted.client_id),
        (shape.stream, wanted.stream),
        (shape.outcome, _text(wanted.outcome)),
        (shape.provider, _text(wanted.provider)),
        (shape.dialect, _text(wanted.dialect)),
    ]
    found: list[Condition] = [column == value for column, value in equal if value is not None]
    if wanted.status_class is not None:
        first = max(0, min(wanted.status_class, 99)) * 100
        found.append(shape.status.between(first, first + 99))
    if model := _text(wanted.model):
        found.append(or_(shape.model == model, shape.upstream_model == model))
    return found


def _in_shapes(connection: Connection, conditions: Sequence[Condition]) -> Condition | None:
    """Of one of the shapes that fulfil the conditions; None when there is no such shape."""
    query = select(request_shapes.c.id).where(*conditions)
    ids = connection.execute(query.limit(_FEW_SHAPES + 1)).scalars().all()
    if not ids:
        return None
    return requests.c.shape_id.in_(ids if len(ids) <= _FEW_SHAPES else query)


def _key_ids(connection: Connection, text: str) -> list[int]:
    """Of the key with this id, or those with this in their name. Raises BadRequest when they are too many."""
    matching: Condition = keys.c.name.icontains(text, autoescape=True)
    if text.isascii() and text.isdigit() and len(text) <= 18:
        matching = or_(keys.c.id == int(text), keys.c.name == text)
    found = connection.execute(select(keys.c.id).where(matching).limit(MAX_KEYS + 1)).scalars().all()
    if len(found) > MAX_KEYS:
        raise BadRequest(f"More than {MAX_KEYS} keys have this in their name: be more exact.", param="key")
    if not found and text.isascii() and text.isdigit() and len(text) <= 18:
        return [int(text)]  # a key that was deleted has its rows still
    return [int(key_id) for key_id in found]


def _with_key(key_ids: Sequence[int]) -> Condition:
    row = requests.c
    # The text of the attempts is written by `app.usage`: without spaces, and another field follows the id.
    tried = or_(*(row.attempts.contains(f'"key_id":{key_id},') for key_id in key_ids))
    return or_(row.key_id.in_(key_ids), and_(row.attempts != "", tried))


def _text(text: str | None) -> str | None:
    return safe_text(text, 500) or None if text else None


# -- rows --------------------------------------------------------------------------------------------


def _request(row: RowMapping) -> Json:
    found = dict(row)
    found["stream"] = bool(row["stream"])
    found["started"] = iso_milliseconds(row["started_at"])
    found["attempts"] = _attempts(row)
    return found


def _attempts(row: RowMapping) -> list[Any]:
    if not row["attempts"]:
        return [asdict(plain_attempt(row["provider"], row["status"], row["key_id"], row["duration_ms"]))]
    try:
        attempts = orjson.loads(row["attempts"])
    except orjson.JSONDecodeError:
        return []
    return [attempt for attempt in attempts if isinstance(attempt, dict)] if isinstance(attempts, list) else []


def has_failed(attempt: Json) -> bool:
    """Whether this attempt of a row was not the one that answered."""
    return attempt.get("verdict") != OK
