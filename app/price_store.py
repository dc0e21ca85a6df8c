"""Prices of models, in US dollars per million tokens, by glob pattern. The operator keeps them; none is built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select

from app.clock import Clock
from app.storage.database import Database
from app.storage.schema import model_prices

_COLUMNS = ("input_per_million", "output_per_million", "cached_per_million")

Prices = dict[str, dict[str, float | None]]


class PriceStore:
    """The table of prices. Thread-safe: it holds no state of its own."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def all(self) -> Prices:
        """`{pattern: {"input_per_million", "output_per_million", "cached_per_million"}}`; the last may be None."""
        with self._database.read() as connection:
            rows = connection.execute(select(model_prices).order_by(model_prices.c.model)).mappings()
            return {row["model"]: {column: row[column] for column in _COLUMNS} for row in rows}

    def replace(self, prices: Mapping[str, Mapping[str, float | None]]) -> None:
        """Make `prices`, in the shape of `all`, the whole table."""
        now = self._clock.wall()
        rows: list[dict[str, Any]] = [
            {"model": pattern, "updated_at": now} | {column: price.get(column) for column in _COLUMNS}
            for pattern, price in prices.items()
        ]
        with self._database.transaction() as connection:
            connection.execute(delete(model_prices))
            if rows:
                connection.execute(insert(model_prices), rows)
