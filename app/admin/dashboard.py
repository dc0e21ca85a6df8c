"""
What the dashboard shows, for the page and for `GET /middleware/api/dashboard` alike: one function, so that they agree.
Reads sums and what is in memory, never the request log.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from app.admin.overview import demonstration_answers, health_status, overview, provider_rows
from app.context import Services
from app.keys.unwell import Ailment
from app.providers import DEMO_NAME

#: The ranges that can be chosen, in days, today included.
RANGES: Final = (1, 7, 30)
HOURS: Final = 24
CHART_DAYS: Final = 30
BUSIEST: Final = 10
#: Keys that are named of each kind that does not serve.
UNWELL: Final = 8

Json = dict[str, Any]


def dashboard(services: Services, days: int) -> Json:
    """
    {days, at (Unix seconds), state: {level, words}, demonstration, health_status: {state: n}, live, totals, hours,
    dates, models, keys, other_keys, unwell}: see `docs/admin-api.md`.

    days  -- how far back the sums go, today included; `hours` and `dates` do not follow it
    """
    demonstration = demonstration_answers(services)
    state = overview(provider_rows(services), demonstration)
    prices = services.prices.price_list()
    totals, dates = services.rollups.days(CHART_DAYS)
    if days != CHART_DAYS:
        totals = services.rollups.days(days)[0]
    used, models = services.rollups.models(days, prices)
    busiest, others = services.rollups.busiest_keys(days, BUSIEST)
    return {
        "days": days,
        "at": services.clock.wall(),
        "state": asdict(state),
        "demonstration": demonstration,
        "health_status": health_status(services),
        "live": asdict(services.pace.look()),
        "totals": totals
        | {
            "success_rate": _share(totals["successes"], totals["requests"]),
            "cost": used["cost"],
            "unpriced": used["unpriced"],
            "has_prices": bool(prices),
        },
        "hours": [_charted(hour, "at") for hour in services.rollups.hours(HOURS)],
        "dates": [_charted(date, "date") for date in dates],
        "models": models,
        "keys": busiest,
        "other_keys": others,
        "unwell": _unwell(services, "" if demonstration else DEMO_NAME),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _charted(period: Json, name: str) -> Json:
    wanted = (name, "requests", "successes", "errors", "latency_p50", "latency_p95", "first_token_p50")
    return {column: period[column] for column in wanted}


def _unwell(services: Services, hidden: str) -> Json:
    found = services.keys.unwell(UNWELL, hidden)
    ailments = (*found.resting, *found.disabled, *found.partial)
    names = services.rollups.key_names({ailment.key_id for ailment in ailments})

    def told(ailment: Ailment) -> Json:
        return asdict(ailment) | {"name": names.get(ailment.key_id, "")}

    return {
        "resting": [told(ailment) for ailment in found.resting],
        "disabled": [told(ailment) for ailment in found.disabled],
        "partial": [told(ailment) for ailment in found.partial],
        "partial_keys": found.partial_keys,
    }
