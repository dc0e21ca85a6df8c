"""
What a driver needs beside the core: where to connect, whom to tell, what time it is. One for each worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.booking import Booking
from app.clock import Clock
from app.formats.base import Call
from app.lifecycle import Lifecycle
from app.proxy.gateway import Gateway
from app.proxy.upstream import Upstreams
from app.records import RequestRecord
from app.telemetry.metrics import InFlight, Metrics


@dataclass(frozen=True, slots=True)
class Edge:
    """
    record        -- takes the record of each request; never blocks
    booking       -- the same for an event loop, which starts it and flushes it
    buffer_bytes  -- how much to read at once
    """

    gateway: Gateway
    upstreams: Upstreams
    lifecycle: Lifecycle
    clock: Clock
    metrics: Metrics
    record: Callable[[RequestRecord], None]
    booking: Booking
    buffer_bytes: Callable[[], int]


def describe(in_flight: InFlight, call: Call) -> None:
    """Tell the gauges what the request on its way is. Once, when it has been read."""
    match = call.match
    in_flight.describe(dialect=match.format.name, operation=match.endpoint.operation.value, stream=call.stream)
