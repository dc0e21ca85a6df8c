"""
Prometheus metrics: what is counted, and how it is shown to a scraper or as JSON.

With `PROMETHEUS_MULTIPROC_DIR` in the environment when a `Metrics` is made (the master sets it before workers start)
the numbers of all workers live in mapped files and every worker can answer a scrape. Without it each `Metrics` has a
registry of its own, so that several apps fit into one process. Labels are bounded: a caller cannot make new time
series at will.

Names and types follow https://prometheus.io/docs/practices/naming/; `chat_completions_*` counts the requests of the
OpenAI chat dialect under the names that dashboards of older gateways expect.
"""

from __future__ import annotations

import glob
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from app.keys.base import Status
from app.records import RequestRecord
from app.telemetry.logs import iso_milliseconds
from app.telemetry.series import Labelled, RequestSeries, error_type_of, is_chat

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

#: provider -> status -> number of keys
KeyStates = Mapping[str, Mapping[Status, int]]

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
MAX_MODELS: Final = 200
#: Bound of the caches of label children: beyond it they start afresh, which only costs time.
_MAX_CACHED: Final = 5000
_WRITER_EVERY_S: Final = 1.0
#: More than any answer has; beyond 2**1024 a number does not even become a float.
_MOST_TOKENS: Final = 2**53

_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKENS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


def forget_process(pid: int) -> None:
    """Take a dead worker's gauges out of the sum. For gunicorn's `child_exit`; its counters stay counted."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _map_values() -> None:
    # The library looks at the environment only once, when it is imported, which may have been before it was set.
    if not values.ValueClass._multiprocess:
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


class InFlight:
    """
    One request on its way, as the gauges see it. `end` may be called any number of times, from any thread.
    """

    __slots__ = ("_gauges", "_metrics")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._gauges: list[Gauge] = []
        if metrics.enabled():
            self._raise(metrics.in_flight)

    def describe(self, *, dialect: str, operation: str, stream: bool) -> None:
        """Say what the request is, once it has been read."""
        if not self._gauges:
            return
        if stream:
            self._raise(self._metrics.streams_in_flight)
        if is_chat(dialect, operation):
            self._raise(self._metrics.chat_active)

    def end(self) -> None:
        while self._gauges:
            try:
                gauge = self._gauges.pop()
            except IndexError:  # another thread took the last one
                return
            gauge.dec()

    def _raise(self, gauge: Gauge) -> None:
        gauge.inc()
        self._gauges.append(gauge)


class Running:
    """
    What one worker's event loop has under way: plain numbers, which only its own thread changes. The gauges follow at
    each flush of the booking and at each scrape.
    """

    __slots__ = ("chats", "requests", "streams")

    def __init__(self) -> None:
        self.requests = self.streams = self.chats = 0


class Metrics:
    """
    All metrics of one app. Every method may be called from any thread.

    enabled -- asked at every request, so that counting can be switched off while running
    """

    def __init__(self, *, enabled: Callable[[], bool] = lambda: True) -> None:
        self.enabled = enabled
        self._shared = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        if self._shared:
            _map_values()
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._series: dict[tuple[str, str, int, bool, str, str], RequestSeries] = {}
        self._attempts: dict[tuple[str, int, str], tuple[Counter, Counter]] = {}
        self._tokens: dict[tuple[str, str], tuple[Counter, Counter]] = {}
        self.running = Running()
        self._shown = Running()
        self._queue_length: Callable[[], int] = lambda: 0
        self._dropped: Callable[[], int] = lambda: 0
        self._dropped_seen = 0
        self._writer_due = 0.0
        self._live = _KeyCollector()
        # Creation times would double the number of series and tell nothing here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._make_request_metrics()
        self._make_other_metrics()
        if not self._shared:
            self._registry.register(self._live)

    def _make_request_metrics(self) -> None:
        counter, histogram = self._counter, self._histogram
        labels = ("dialect", "operation", "status", "stream", "outcome")
        self.requests = counter("middleware_requests", "Requests answered.", labels)
        self.request_seconds = histogram(
            "middleware_request_duration_seconds", "From a request's arrival to its end.", ("dialect", "stream")
        )
        self.first_token_seconds = histogram(
            "middleware_first_token_seconds",
            "From a streamed request's arrival to the first byte for the caller.",
            ("dialect",),
            _FIRST_TOKENS,
        )
        self.stream_seconds = histogram(
            "middleware_stream_duration_seconds", "From a stream's first byte to its end.", ("dialect",)
        )
        self.errors = counter("middleware_errors", "Requests that did not succeed, by outcome.", ("type",))
        self.chat_requests = counter("chat_completions_requests", "Chat completion requests.", ("status", "stream"))
        self.chat_seconds = histogram(
            "chat_completions_duration_seconds", "Duration of chat completion requests.", ("stream",)
        )
        self.chat_errors = counter("chat_completions_errors", "Failed chat completion requests.", ("type",))

    def _make_other_metrics(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.attempts = counter("middleware_attempts", "Attempts at a provider.", ("provider", "status"))
        self.verdicts = counter("middleware_verdicts", "Verdicts on attempts.", ("provider", "verdict"))
        self.tokens = counter(
            "middleware_tokens", "Tokens as providers count them.", ("provider", "model", "direction")
        )
        self.writer_dropped = counter(
            "middleware_writer_dropped", "Rows that were not written: the queue was full.", ()
        )
        self.in_flight = gauge("middleware_in_flight", "Requests on their way.")
        self.streams_in_flight = gauge("middleware_streams_in_flight", "Streamed requests on their way.")
        self.chat_active = gauge("chat_completions_active_requests", "Chat completion requests on their way.")
        self.writer_queue = gauge("middleware_writer_queue", "Rows and jobs that wait for the database.")

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, registry=self._registry, multiprocess_mode="livesum")

    def _histogram(
        self, name: str, help_text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _DURATIONS
    ) -> Histogram:
        return Histogram(name, help_text, labels, registry=self._registry, buckets=buckets)

    # -- wiring -----------------------------------------------------------------------------------

    def watch_keys(self, states: Callable[[], KeyStates]) -> None:
        """Ask `states` at every scrape: provider -> status -> number of keys."""
        self._live.states = states

    def watch_writer(self, queue_length: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Ask these at every scrape, and about once a second under load, so that other workers can show them."""
        self._queue_length, self._dropped = queue_length, dropped

    # -- counting ---------------------------------------------------------------------------------

    def begin(self) -> InFlight:
        """Count a request as on its way until `end` of what is returned."""
        return InFlight(self)

    def observe(self, record: RequestRecord, model: str | None = None) -> None:
        """
        Count a finished request with its attempts and tokens. Never raises.

        model -- its name as a label, redacted and cut; None takes it from the record
        """
        if not self.enabled():
            return
        try:
            self._request_series(record).observe(record)
            for attempt in record.attempts:
                self._observe_attempts(attempt.provider, attempt.status, attempt.verdict, 1)
            if record.input_tokens is not None or record.output_tokens is not None:
                model = model or record.upstream_model or record.model or "unknown"
                self._observe_tokens(record.provider, model, record.input_tokens or 0, record.output_tokens or 0)
            if time.monotonic() >= self._writer_due:
                self._observe_writer()
        except (OSError, ValueError) as error:
            # The mapped files cannot grow any more: the disk is full or gone.
            log.warning("Metrics could not be written: %s", error)

    def observe_successes(
        self,
        shape: Labelled,
        provider: str | None,
        model: str,
        durations_ms: Sequence[int],
        first_bytes_ms: Sequence[int | None],
        tokens: tuple[int, int] | None,
    ) -> None:
        """
        Count requests that are alike, each answered by its first attempt. Never raises.

        model   -- its name as a label
        tokens  -- the sums of input and output; None where no request has any
        """
        if not self.enabled():
            return
        try:
            self._request_series(shape).observe_successes(durations_ms, first_bytes_ms)
            self._observe_attempts(provider or "", shape.status, "ok", len(durations_ms))
            if tokens is not None:
                self._observe_tokens(provider, model, *tokens)
            if time.monotonic() >= self._writer_due:
                self._observe_writer()
        except (OSError, ValueError) as error:
            log.warning("Metrics could not be written: %s", error)

    def show_running(self) -> None:
        """Bring the gauges up to what the event loop has under way. Never raises."""
        running, shown, on = self.running, self._shown, self.enabled()
        try:
            for name, gauge in (
                ("requests", self.in_flight),
                ("streams", self.streams_in_flight),
                ("chats", self.chat_active),
            ):
                now = getattr(running, name) if on else 0
                with self._lock:
                    change = now - getattr(shown, name)
                    setattr(shown, name, now)
                if change:
                    gauge.inc(change)
        except (OSError, ValueError) as error:
            log.warning("Metrics could not be written: %s", error)

    def _request_series(self, record: Labelled) -> RequestSeries:
        error_type = error_type_of(record)
        key = (record.dialect, record.operation, record.status, record.stream, record.outcome, error_type)
        series = self._series.get(key)
        if series is None:
            series = RequestSeries(self, record, error_type)
            _remember(self._series, key, series)
        return series

    def _observe_attempts(self, provider: str, status: int, verdict: str, count: int) -> None:
        key = (provider, status, verdict)
        children = self._attempts.get(key)
        if children is None:
            children = (
                self.attempts.labels(provider, str(status)),
                self.verdicts.labels(provider, verdict or "none"),
            )
            _remember(self._attempts, key, children)
        for child in children:
            child.inc(count)

    def _observe_tokens(self, provider: str | None, model: str, tokens_in: int, tokens_out: int) -> None:
        if provider is None:
            return
        key = (provider, self._model_label(model))
        children = self._tokens.get(key)
        if children is None:
            children = (self.tokens.labels(*key, "input"), self.tokens.labels(*key, "output"))
            _remember(self._tokens, key, children)
        for child, tokens in zip(children, (tokens_in, tokens_out), strict=True):
            child.inc(max(0, min(tokens, _MOST_TOKENS)))

    def _model_label(self, model: str) -> str:
        if model in self._models:
            return model
        with self._lock:
            if len(self._models) >= MAX_MODELS:
                return "other"
            self._models.add(model)
        return model

    def _observe_writer(self) -> None:
        with self._lock:
            self._writer_due = time.monotonic() + _WRITER_EVERY_S
            self.writer_queue.set(self._queue_length())
            dropped = self._dropped()
            if dropped > self._dropped_seen:
                self.writer_dropped.inc(dropped - self._dropped_seen)
                self._dropped_seen = dropped

    # -- showing ----------------------------------------------------------------------------------

    def render(self) -> tuple[bytes, str]:
        """The text of a scrape, of all workers together, and its content type."""
        return prometheus_client.generate_latest(self._scraped()), CONTENT_TYPE

    def as_json(self) -> dict[str, Any]:
        """
        {"requestsTotal": n, "responses": {"success": n, "error": n}, "streamingSessions": n, "timestamp": ISO 8601}
        of all workers together. A success has the outcome `success` and a status below 400.
        """
        success = error = streams = 0
        for family in self._scraped().collect():
            for sample in family.samples:
                if sample.name == "middleware_requests_total":
                    failed = sample.labels["outcome"] != "success" or int(sample.labels["status"]) >= 400
                    error, success = error + failed * int(sample.value), success + (not failed) * int(sample.value)
                elif sample.name == "middleware_streams_in_flight":
                    streams += int(sample.value)
        return {
            "requestsTotal": success + error,
            "responses": {"success": success, "error": error},
            "streamingSessions": streams,
            "timestamp": iso_milliseconds(time.time()),
        }

    def under_way(self) -> tuple[int, int, int]:
        """Of all workers together: requests answered so far, requests on their way, streams on their way. Cheap."""
        self.show_running()
        wanted = dict.fromkeys(("middleware_requests_total", "middleware_in_flight", "middleware_streams_in_flight"), 0)
        for family in self._counters_and_gauges():
            for sample in family.samples:
                if sample.name in wanted:
                    wanted[sample.name] += int(sample.value)
        answered, in_flight, streams = wanted.values()
        return answered, in_flight, streams

    def _counters_and_gauges(self) -> Iterable[Metric]:
        if not self._shared:
            collectors = (self.requests, self.in_flight, self.streams_in_flight)
            return [family for collector in collectors for family in collector.collect()]
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        files = [file for kind in ("counter", "gauge_livesum") for file in glob.glob(f"{folder}/{kind}_*.db")]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged

    def _scraped(self) -> CollectorRegistry:
        self._observe_writer()
        self.show_running()
        if not self._shared:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._live)
        return registry


class _KeyCollector(Collector):
    """The number of keys by state, read at the moment of the scrape: no series of a deleted provider stays behind."""

    def __init__(self) -> None:
        self.states: Callable[[], KeyStates] = dict

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("middleware_keys", "Upstream keys by state.", labels=("provider", "status"))
        for provider, counts in self.states().items():
            for status, count in counts.items():
                family.add_metric((provider, str(status)), count)
        yield family


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[key] = value
