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
UNWELL: Final = 6
#: What is charted of each hour.
_CHARTED: Final = ("at", "requests", "successes", "errors", "latency_p50", "latency_p95", "first_token_p50")

Json = dict[str, Any]


def dashboard(services: Services, days: int) -> Json:
    """
    {days, at (Unix seconds), state: {level, words}, demonstration, health_status: {state: n}, providers, live,
    totals, hours, dates, models, keys, other_keys, unwell}: see `docs/admin-api.md`.

    days  -- how far back the sums go, today included; `hours` and `dates` do not follow it
    """
    demonstration = demonstration_answers(services)
    rows = provider_rows(services)
    state = overview(rows, demonstration)
    prices = services.prices.price_list()
    totals = services.rollups.total(days)
    used, models = services.rollups.models(days, prices)
    busiest, others = services.rollups.busiest_keys(days, BUSIEST)
    return {
        "days": days,
        "at": services.clock.wall(),
        "state": asdict(state),
        "demonstration": demonstration,
        "health_status": health_status(services),
        "providers": [asdict(row) for row in rows],
        "live": asdict(services.pace.look()),
        "totals": totals
        | {
            "success_rate": _share(totals["successes"], totals["requests"]),
            "cost": used["cost"],
            "unpriced": used["unpriced"],
            "has_prices": bool(prices),
        },
        "hours": [{name: hour[name] for name in _CHARTED} for hour in services.rollups.hours(HOURS)],
        "dates": services.rollups.days(CHART_DAYS),
        "models": models,
        "keys": busiest,
        "other_keys": others,
        "unwell": _unwell(services, "" if demonstration else DEMO_NAME),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
