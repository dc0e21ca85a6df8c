"""
Builds the stores and the core of one process from its configuration, in the order in which they need each other.
"""

from __future__ import annotations

import logging
import secrets
import sys
from dataclasses import dataclass

from app.auth_store import AuthStore
from app.booking import Booking
from app.clients import Clients
from app.clock import Clock
from app.config import Config
from app.context import Services
from app.demo import DEMO_KEYS
from app.demonstration import Demonstration
from app.edge import Edge
from app.health import Health
from app.key_tests import KeyTests
from app.keys.base import Status
from app.keys.manager import KeyManager
from app.keys.states import Change
from app.lifecycle import FLUSH_S, Lifecycle
from app.limits import RequestLimiter
from app.live_feed import LiveFeed
from app.model_offers import ModelOffers
from app.price_store import PriceStore
from app.provider_calls import ProviderCalls
from app.provider_store import ProviderStore
from app.providers import DEMO_NAME
from app.proxy.adapters import ClientDoor, ModelCache, RequestIds, RequestLimits, RouteExplainer
from app.proxy.gateway import Gateway
from app.proxy.relay import Draining
from app.proxy.upstream import PoolLimits, Upstreams
from app.redaction import Redactor
from app.retention import INTERVAL_S, Retention
from app.rollup_queries import RollupQueries
from app.settings import Settings
from app.settings_store import LiveSettings
from app.shared import SharedTable
from app.storage.database import Database
from app.storage.revision import RevisionPoller
from app.storage.writer import Writer
from app.telemetry import logs
from app.telemetry.metrics import Metrics
from app.telemetry.pace import Pacemeter
from app.usage import UsageStore
from app.usage_queries import UsageQueries
from app.vault import Vault
from app.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assembly:
    services: Services
    lifecycle: Lifecycle
    edge: Edge


def assemble(config: Config, clock: Clock, verify_with: str | None) -> Assembly:
    """Everything, with the database migrated and nothing started yet. Raises ConfigError."""
    services, lifecycle, demonstration = _stores(config, clock)
    edge = _edge(config, services, lifecycle, verify_with)
    _wire(services, lifecycle, demonstration, edge)
    return Assembly(services, lifecycle, edge)


def _stores(config: Config, clock: Clock) -> tuple[Services, Lifecycle, Demonstration]:
    vault = Vault.open(config)
    database = Database(config.database_url)
    database.migrate(vault)
    redactor = Redactor(config.secrets)
    logs.configure(config.log_level, redactor)
    logs.log_uncaught_exceptions()
    writer = Writer(database)
    live_settings = LiveSettings(database, config.setting_overrides, clock.wall)
    shared = SharedTable(config.run_dir / "shared")
    metrics = Metrics(enabled=lambda: live_settings.current.enable_metrics_collection)
    lifecycle = Lifecycle(Draining())
    demonstration = Demonstration()
    keys = KeyManager(database, writer, vault, live_settings, shared, clock, redact=redactor.text)
    providers = ProviderStore(database, vault, config, demonstration.origin)
    clients = Clients(database, writer, clock)
    calls = ProviderCalls(lambda: live_settings.current, redactor.text, clock)
    usage = UsageStore(database, writer, redactor, live_settings, metrics, clock=clock)
    services = Services(
        config=config,
        database=database,
        writer=writer,
        vault=vault,
        live_settings=live_settings,
        keys=keys,
        providers=providers,
        provider_calls=calls,
        model_offers=ModelOffers(config.run_dir / "models", keys, calls, clock),
        key_tests=KeyTests(keys, lambda: providers.snapshot, calls, clock),
        clients=clients,
        prices=PriceStore(database, clock),
        usage=usage,
        live_feed=LiveFeed(usage.live_log, clock),
        usage_queries=UsageQueries(database, clock),
        rollups=RollupQueries(database, clock),
        metrics=metrics,
        pace=Pacemeter(metrics, clock),
        health=Health(
            database,
            writer,
            keys,
            lambda: providers.snapshot.ordered,
            lambda: lifecycle.stopping,
            version=VERSION,
            clock=clock,
        ),
        redactor=redactor,
        shared=shared,
        limiter=RequestLimiter(shared, live_settings),
        clock=clock,
        auth=AuthStore(database, config.secret_key or secrets.token_bytes(32), config.password, clock),
        routes=RouteExplainer(lambda: providers.snapshot, keys, lambda: live_settings.current),
        started_at=clock.wall(),
    )
    return services, lifecycle, demonstration


def _edge(config: Config, services: Services, lifecycle: Lifecycle, verify_with: str | None) -> Edge:
    live_settings, providers = services.live_settings, services.providers
    booking = Booking(
        services.usage, services.database, services.writer, live_settings, services.metrics, services.clock
    )
    gateway = Gateway(
        settings=lambda: live_settings.current,
        providers=lambda: providers.snapshot,
        keys=services.keys,
        callers=ClientDoor(services.clients, config.client_auth, exposed=not config.is_loopback),
        limits=RequestLimits(services.limiter),
        cleaner=services.redactor,
        model_cache=ModelCache(),
        accepting=lifecycle.accepting,
        new_id=RequestIds(),
    )
    return Edge(
        gateway=gateway,
        upstreams=Upstreams(_PoolLimits(live_settings), verify_with=verify_with),
        lifecycle=lifecycle,
        clock=services.clock,
        metrics=services.metrics,
        record=booking.record,
        booking=booking,
        buffer_bytes=lambda: live_settings.current.buffer_size,
    )


class _PoolLimits:
    """The limits of the pool as the live settings say, made anew only when those change: asked for each request."""

    def __init__(self, live_settings: LiveSettings) -> None:
        self._live_settings = live_settings
        self._made_of: Settings | None = None
        self._made = PoolLimits()

    def __call__(self) -> PoolLimits:
        current = self._live_settings.current
        if current is not self._made_of:
            self._made = PoolLimits(
                pooling=current.connection_pooling_enabled,
                max_origins=current.pool_connections,
                max_idle_per_origin=current.pool_maxsize,
                idle_s=current.keepalive_timeout,
            )
            self._made_of = current
        return self._made


def _wire(services: Services, lifecycle: Lifecycle, demonstration: Demonstration, edge: Edge) -> None:
    """Who is told of whose changes, and what starts and stops when."""
    config, keys, providers = services.config, services.keys, services.providers
    services.live_settings.subscribe(lambda settings: logs.set_level(settings.log_level))
    logs.set_level(services.live_settings.current.log_level)
    services.metrics.watch_keys(lambda: _real_key_states(services))
    services.metrics.watch_writer(lambda: services.writer.waiting, lambda: services.writer.dropped)
    keys.subscribe(lambda change: _tell(services.usage, change))

    known: frozenset[str] = frozenset()

    def know_secrets() -> None:
        nonlocal known
        secrets_now = frozenset([*config.secrets, *keys.secrets(), *providers.secrets()])
        services.redactor.replace_secrets(secrets_now)
        if secrets_now != known:  # most refreshes are about the states of keys
            known = secrets_now
            services.usage.shapes.forget()

    poller = RevisionPoller(services.database)
    # Secrets are known before anything else follows, so that a new key is hidden as soon as it is used.
    for refresh in (
        keys.refresh,
        providers.refresh,
        know_secrets,
        services.live_settings.refresh,
        services.clients.refresh,
    ):
        poller.subscribe(refresh)
    poller.subscribe(edge.gateway.model_cache.clear)
    retention = Retention(
        services.database,
        services.writer,
        services.live_settings,
        may_run=lambda: services.shared.try_lease("retention", INTERVAL_S / 2, services.clock.wall()),
        clock=services.clock,
    )
    lifecycle.starters += [
        keys.start,
        lambda: _first_load(services),
        know_secrets,
        poller.start,
        retention.start,
    ]
    lifecycle.stoppers += [
        lifecycle.draining.begin,
        services.live_feed.close,
        retention.stop,
        poller.stop,
        keys.stop,
        edge.booking.flush,
        lambda: services.writer.close(FLUSH_S),
        edge.upstreams.close,
        demonstration.stop,
        services.database.close,
        services.shared.close,
        lifecycle.draining.close,
    ]


def _real_key_states(services: Services) -> dict[str, dict[Status, int]]:
    """Without the demonstration's keys, which never serve beside real ones: an alarm on too few must not count them."""
    return {provider: counts for provider, counts in services.keys.states().items() if provider != DEMO_NAME}


def _tell(usage: UsageStore, change: Change) -> None:
    """A change of a key's state, in the live log and in the log."""
    model = f" for {change.model}" if change.model else ""
    usage.key_changed(f"{change.provider} {change.key_id}{model}", change.status.value, change.reason)
    level = logging.WARNING if change.alert else logging.INFO
    details = {"key_id": change.key_id, "provider": change.provider, "status": change.status.value}
    log.log(level, "key state changed", extra={**details, "reason": change.reason, "scope": change.scope.value})


def _first_load(services: Services) -> None:
    """What the environment brings, and the demonstration's keys."""
    config, keys = services.config, services.keys
    services.providers.prepare()
    services.clients.refresh()
    for kind, values in config.provider_keys.items():
        keys.seed(kind, values)
    for entry in config.environment_providers:
        keys.seed(entry["name"], entry["keys"])
    for demo in DEMO_KEYS:
        keys.seed(DEMO_NAME, [demo.value], name=demo.name, note=demo.what)
    for warning in config.warnings:
        log.warning("%s", warning)
    _make_first_client(services)


def _make_first_client(services: Services) -> None:
    """A server that listens beyond this machine needs a client key: the first one is made and shown once."""
    config = services.config
    needed = config.client_auth == "required" or (config.client_auth == "auto" and not config.is_loopback)
    if not needed or services.clients.any_exist():
        return
    if not services.shared.try_lease("first-client", 60.0, services.clock.wall()):
        return
    _, key = services.clients.create("first client")
    # Not through the log, which may be kept: the key is shown this once.
    sys.stderr.write(f"\nYour first client key, shown only now: {key}\n\n")
    sys.stderr.flush()
