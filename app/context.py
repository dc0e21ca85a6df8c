"""
The parts of a running middleware, in one typed container. `create_app` fills it; views read it. Knows no Flask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from app.auth_store import AuthStore
    from app.clients import Clients
    from app.clock import Clock
    from app.config import Config
    from app.health import Health
    from app.key_tests import KeyTests
    from app.keys.manager import KeyManager
    from app.limits import RequestLimiter
    from app.live_feed import LiveFeed
    from app.model_offers import ModelOffers
    from app.price_store import PriceStore
    from app.provider_calls import ProviderCalls
    from app.provider_store import ProviderStore
    from app.redaction import Redactor
    from app.rollup_queries import RollupQueries
    from app.settings_store import LiveSettings
    from app.shared import SharedTable
    from app.storage.database import Database
    from app.storage.writer import Writer
    from app.telemetry.metrics import Metrics
    from app.telemetry.pace import Pacemeter
    from app.usage import UsageStore
    from app.usage_queries import UsageQueries
    from app.vault import Vault


class Routes(Protocol):
    """Explains which provider a request would go to."""

    def explain(self, model: str | None, path: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """
    started_at -- Unix seconds
    """

    config: Config
    database: Database
    writer: Writer
    vault: Vault
    live_settings: LiveSettings
    keys: KeyManager
    providers: ProviderStore
    provider_calls: ProviderCalls
    model_offers: ModelOffers
    key_tests: KeyTests
    clients: Clients
    prices: PriceStore
    usage: UsageStore
    live_feed: LiveFeed
    usage_queries: UsageQueries
    rollups: RollupQueries
    metrics: Metrics
    pace: Pacemeter
    health: Health
    redactor: Redactor
    shared: SharedTable
    limiter: RequestLimiter
    clock: Clock
    auth: AuthStore
    routes: Routes
    started_at: float
