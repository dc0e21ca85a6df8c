"""Prices of models in US dollars per million tokens, by glob pattern."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http

bp = Blueprint("prices", __name__, url_prefix="/prices")

MAX_PRICES = 1000
_DOLLARS = http.number(0, 1_000_000)
_PATTERN = http.text(256, min_length=1)
_NEEDED = ("input_per_million", "output_per_million")
_FIELDS: dict[str, http.Check] = {
    "input_per_million": _DOLLARS,
    "output_per_million": _DOLLARS,
    "cached_per_million": http.optional(_DOLLARS),
}


@bp.get("")
def list_prices() -> Response:
    """`{pattern: {"input_per_million", "output_per_million", "cached_per_million"}, ...}`."""
    return http.answer(http.services().prices.all())


@bp.put("")
def set_prices() -> Response:
    """Replace all prices; `cached_per_million` may be left out."""
    body = http.read_object()
    if len(body) > MAX_PRICES:
        raise http.wrong("prices", f"at most {MAX_PRICES} patterns")
    prices = {_PATTERN("pattern", pattern): _price(pattern, price) for pattern, price in body.items()}
    http.services().prices.replace(prices)
    return http.answer({"success": True, "message": "Prices saved.", "prices": http.services().prices.all()})


def _price(pattern: str, price: Any) -> dict[str, Any]:
    if not isinstance(price, dict):
        raise http.wrong(pattern[:64], "an object with input_per_million and output_per_million")
    return http.fields(price, _FIELDS, _NEEDED)
