"""Prices of models in US dollars per million tokens, by glob pattern."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import models as actions

bp = Blueprint("prices", __name__, url_prefix="/prices")

_NEEDED = ("input_per_million", "output_per_million")


@bp.get("")
def list_prices() -> Response:
    """`{pattern: {"input_per_million", "output_per_million", "cached_per_million"}, ...}`."""
    return http.answer(http.services().prices.all())


@bp.put("")
def set_prices() -> Response:
    """Replace all prices; `cached_per_million` may be left out."""
    prices = {pattern: _price(pattern, price) for pattern, price in _given().items()}
    http.services().prices.replace(prices)
    return http.answer({"success": True, "message": "Prices saved.", "prices": http.services().prices.all()})


@bp.patch("")
def change_prices() -> Response:
    """`{pattern: price, ...}` for those to add or change, null for those to delete; all others stay as they are."""
    changes = {pattern: None if price is None else _price(pattern, price) for pattern, price in _given().items()}
    prices = actions.change_prices(http.services(), changes)
    return http.answer({"success": True, "message": "Prices changed.", "prices": prices})


def _given() -> dict[str, Any]:
    body = http.read_object()
    if len(body) > actions.MAX_PRICES:
        raise http.wrong("prices", f"at most {actions.MAX_PRICES} patterns")
    return {actions.PATTERN("pattern", pattern): price for pattern, price in body.items()}


def _price(pattern: str, price: Any) -> dict[str, Any]:
    if not isinstance(price, dict):
        raise http.wrong(pattern[:64], "an object with input_per_million and output_per_million")
    return http.fields(price, actions.PRICE_FIELDS, _NEEDED)
