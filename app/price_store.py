"""Prices of models, in US dollars per million tokens, by glob pattern. The operator keeps them; none is built in."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import delete, insert, select

from app.clock import Clock
from app.errors import BadRequest, refuse_if_changed
from app.storage.database import Connection, Database
from app.storage.revision import bump
from app.storage.schema import model_prices

_COLUMNS = ("input_per_million", "output_per_million", "cached_per_million")

MAX_PRICES: Final = 1000
_MILLION: Final = 1_000_000

Price = dict[str, float | None]
Prices = dict[str, Price]


class PriceList:
    """What tokens cost. A model's own name counts before patterns, and a longer pattern before a shorter one."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._patterns = sorted(prices, key=lambda pattern: (-len(pattern), pattern))
        self._found: dict[str, Price | None] = {}

    def __bool__(self) -> bool:
        return bool(self._prices)

    def cost(self, model: str, tokens_in: int, tokens_out: int, cached_tokens: int) -> float | None:
        """US dollars; None where the model has no price. `tokens_in` includes the cached ones, as everywhere."""
        price = self._price(model)
        if price is None:
            return None
        whole, out, cached = (price[column] for column in _COLUMNS)
        whole, out = whole or 0.0, out or 0.0
        fresh = max(0, tokens_in - cached_tokens)
        of_cached = whole if cached is None else cached
        return (fresh * whole + (tokens_in - fresh) * of_cached + tokens_out * out) / _MILLION

    def _price(self, model: str) -> Price | None:
        if model not in self._found:
            matching = (pattern for pattern in self._patterns if fnmatchcase(model, pattern))
            self._found[model] = self._prices.get(model) or self._prices.get(next(matching, ""))
        return self._found[model]


class PriceStore:
    """The table of prices. Thread-safe: it holds no state of its own."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def all(self) -> Prices:
        """`{pattern: {"input_per_million", "output_per_million", "cached_per_million"}}`; the last may be None."""
        with self._database.read() as connection:
            return _all(connection)

    def price_list(self) -> PriceList:
        """The prices as they are now, to count with."""
        return PriceList(self.all())

    def replace(self, prices: Mapping[str, Mapping[str, float | None]]) -> None:
        """Make `prices`, in the shape of `all`, the whole table."""
        with self._database.transaction() as connection:
            bump(connection)
            connection.execute(delete(model_prices))
            self._insert(connection, prices)

    def change(self, changes: Mapping[str, Price | None], expected: Mapping[str, Price | None] | None = None) -> Prices:
        """
        Give the patterns in `changes` these prices, and delete those whose price is None; the others stay.

        expected -- prices that the patterns must still have, None for "it has no price"

        Raises Conflict naming what somebody else has changed, BadRequest where there are too many.
        """
        with self._database.transaction() as connection:
            bump(connection)  # first: on PostgreSQL it makes whoever else changes something wait
            refuse_if_changed(_all(connection), expected)
            connection.execute(delete(model_prices).where(model_prices.c.model.in_(list(changes))))
            self._insert(connection, {pattern: price for pattern, price in changes.items() if price is not None})
            now = _all(connection)
            if len(now) > MAX_PRICES:
                raise BadRequest(f"There can be at most {MAX_PRICES} prices.", param="prices")
            return now

    def _insert(self, connection: Connection, prices: Mapping[str, Mapping[str, float | None]]) -> None:
        now = self._clock.wall()
        rows: list[dict[str, Any]] = [
            {"model": pattern, "updated_at": now} | {column: price.get(column) for column in _COLUMNS}
            for pattern, price in prices.items()
        ]
        if rows:
            connection.execute(insert(model_prices), rows)


def _all(connection: Connection) -> Prices:
    rows = connection.execute(select(model_prices).order_by(model_prices.c.model)).mappings()
    return {row["model"]: {column: row[column] for column in _COLUMNS} for row in rows}
