"""The page of prices: what tokens of which models cost. Each is changed by itself."""

from __future__ import annotations

import fnmatch
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from app.admin import http
from app.admin.actions import models as actions
from app.admin.pages import editing, forms, paging
from app.admin.pages.forms import Form
from app.admin.pages.frame import done, show
from app.admin.pages.models import suggestions
from app.errors import BadRequest, ChangedMeanwhile, NotFound
from app.price_store import Price

bp = Blueprint("prices", __name__, url_prefix="/middleware/models/prices")

HOME: Final = "/middleware/models/prices"
DAYS: Final = 30
TOKENS: Final = 1_000
_MILLION: Final = 1_000_000
_COLUMNS: Final = ("input_per_million", "output_per_million", "cached_per_million")
_FIELDS: Final = {
    "pattern": (forms.text, actions.PATTERN),
    "input_per_million": (forms.number, actions.PRICE_FIELDS["input_per_million"]),
    "output_per_million": (forms.number, actions.PRICE_FIELDS["output_per_million"]),
    "cached_per_million": (forms.optional(forms.number), actions.PRICE_FIELDS["cached_per_million"]),
}


@bp.get("")
def index() -> Response:
    """All prices, and the models that were used without one."""
    services = http.services()
    query, prices = paging.query(), list(services.prices.all().items())
    page = paging.paged(paging.matching(prices, query, lambda pair: pair[0]), HOME, q=query)
    offered = list({name for row in actions.offered(services) for name in row["models"]})
    totals, _ = services.rollups.models(DAYS, services.prices.price_list())
    return show(
        "models/prices.html",
        page="models",
        rows=[_row(pattern, price, offered) for pattern, price in page.rows],
        paged=page,
        total=len(prices),
        q=query,
        unpriced=totals["unpriced"],
    )


def _row(pattern: str, price: Price, offered: list[str]) -> dict[str, Any]:
    whole, out, cached = (price[column] for column in _COLUMNS)
    return {
        "pattern": pattern,
        "input": whole,
        "output": out,
        "cached": cached,
        "call": TOKENS * ((whole or 0.0) + (out or 0.0)) / _MILLION,
        "models": len(fnmatch.filter(offered, pattern)),
    }


@bp.get("/new")
def new() -> Response:
    """The form for a price."""
    typed = {"pattern": request.args.get("pattern", "")} | dict.fromkeys(_COLUMNS, "")
    return _form("", Form(typed=typed), {})


@bp.post("/new")
def add() -> AnyResponse:
    """Add one; a pattern that has a price already is told."""
    form = forms.read(_FIELDS)
    if not form.faults:
        pattern = form.values["pattern"]
        try:
            actions.change_prices(http.services(), {pattern: _price(form)}, {pattern: None})
        except ChangedMeanwhile:
            form.faults["pattern"] = "This pattern has a price already. Edit that one."
        except BadRequest as error:
            form.faults["pattern"] = str(error)
        else:
            return done(f"{pattern} has a price.", HOME)
    return _form("", form, {}, 422)


@bp.get("/edit")
def edit() -> Response:
    """The form for one."""
    pattern, price = _one()
    typed = {"pattern": pattern} | {column: _typed(price[column]) for column in _COLUMNS}
    return _form(pattern, Form(typed=typed), {"price": price})


@bp.post("/edit")
def update() -> AnyResponse:
    """Save another price, another pattern, or both."""
    pattern = request.args.get("pattern", "")
    form, was = forms.read(_FIELDS), forms.was()
    if form.faults:
        return _form(pattern, form, was, 422)
    name = form.values["pattern"]
    changes: dict[str, Price | None] = {name: _price(form)}
    expected: dict[str, Price | None] = {pattern: was["price"]} if "price" in was else {}
    if name != pattern:
        changes[pattern] = None
        expected[name] = None
    try:
        actions.change_prices(http.services(), changes, expected)
    except ChangedMeanwhile as error:
        now = error.now.get(pattern)
        if pattern not in error.now:
            form.faults["pattern"] = "This pattern has a price already. Edit that one."
        elif isinstance(now, dict):
            for column in _COLUMNS:
                if now[column] != (was["price"] or {}).get(column):
                    form.faults[column] = editing.conflict(_typed(now[column]))
            was = {**was, "price": now}
        else:
            form.faults["pattern"] = "Somebody else has deleted this price meanwhile. Save again to add it again."
            was = {**was, "price": None}
        return _form(pattern, form, was, error.status)
    except BadRequest as error:
        form.faults["pattern"] = str(error)
        return _form(pattern, form, was, 422)
    return done(f"The price of {name} is saved.", HOME)


@bp.get("/delete")
def ask_to_delete() -> Response:
    """What it is, and the button."""
    return _deletion(*_one())


@bp.post("/delete")
def delete() -> AnyResponse:
    """Remove one, as it was when this person looked at it."""
    pattern, price = _one()
    was = forms.was()
    try:
        actions.change_prices(http.services(), {pattern: None}, {pattern: was["price"]} if "price" in was else {})
    except ChangedMeanwhile as error:
        return _deletion(pattern, price, "Somebody else has just changed it.", error.status)
    return done(f"The price of {pattern} is deleted.", HOME)


def _price(form: Form) -> Price:
    return {column: form.values[column] for column in _COLUMNS}


def _typed(dollars: float | None) -> str:
    return "" if dollars is None else f"{dollars:.10f}".rstrip("0").rstrip(".")


def _one() -> tuple[str, Price]:
    """The pattern that the address names, with its price. Raises NotFound."""
    pattern = request.args.get("pattern", "")
    price = http.services().prices.all().get(pattern)
    if price is None:
        raise NotFound(f"There is no price for {pattern[:80]!r}. Somebody else may have deleted it.")
    return pattern, price


def _form(pattern: str, form: Form, was: dict[str, Any], status: int = 200) -> Response:
    action = f"{HOME}/edit?{urlencode({'pattern': pattern})}" if pattern else f"{HOME}/new"
    context = {"pattern": pattern, "form": form, "was": was, "action": action, "suggestions": suggestions()}
    return show("models/price.html", page="models", status=status, problem="", **context)


def _deletion(pattern: str, price: Price, problem: str = "", status: int = 200) -> Response:
    return show(
        "models/delete.html",
        page="models",
        status=status,
        title="Delete this price?",
        name=pattern,
        shown=f"costs ${_typed(price['input_per_million'])} in and ${_typed(price['output_per_million'])} out.",
        words="Usage of these models, past usage too, is then shown without its cost.",
        action=f"{HOME}/delete?{urlencode({'pattern': pattern})}",
        back=HOME,
        was={"price": price},
        problem=problem,
    )
