"""
The proxy under WSGI: every address that is nobody else's goes to the core, which knows the shapes it relays.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from flask import Blueprint, Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.routing import BaseConverter

from app.edge import Edge, describe
from app.errors import MiddlewareError, Overloaded
from app.lifecycle import Lifecycle
from app.proxy.body import read_body
from app.proxy.collation import open_exchange
from app.proxy.events import ClientHead, RequestHead
from app.proxy.relay import Relay
from app.telemetry.metrics import InFlight

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_BODILESS = frozenset({204, 304})


class Everything(BaseConverter):
    """A path of any shape, slashes wherever they are: the core judges it, not the router."""

    regex = "(?s:.*)"  # a line break in it is for the core to refuse
    part_isolating = False
    weight = 10_000


def proxy_blueprint(edge: Edge) -> Blueprint:
    """The catch-all route. Register it last."""
    blueprint = Blueprint("proxy", __name__)

    @blueprint.record_once
    def add_converter(state: Any) -> None:
        state.app.url_map.converters["everything"] = Everything

    def relay(_rest: str) -> Response:
        """Relay a call to a provider, in the format that the caller speaks."""
        return _answer(edge)

    blueprint.add_url_rule(
        "/<everything:_rest>", "relay", relay, methods=list(METHODS), provide_automatic_options=False
    )
    # The core refuses WebSockets, but the router would refuse them first, without a dialect.
    blueprint.add_url_rule(
        "/<everything:_rest>", "relay", relay, methods=["GET"], provide_automatic_options=False, websocket=True
    )

    @blueprint.app_errorhandler(405)
    def refuse_method(_error: Exception) -> Response:
        """A method that no route has is refused by the core too, in the caller's dialect."""
        return _answer(edge)

    return blueprint


def other_paths(application: Flask) -> tuple[frozenset[str], frozenset[str]]:
    """(whole paths, first segments below which anything is meant): what the application serves beside the proxy."""
    rules = [rule.rule for rule in application.url_map.iter_rules() if rule.endpoint != "proxy.relay"]
    below = {rule[1:].partition("/")[0] for rule in rules if "<" in rule}
    return frozenset(rules), frozenset(below)


def _answer(edge: Edge) -> Response:
    environ = request.environ
    now, wall = edge.clock.monotonic(), edge.clock.wall()
    in_flight = edge.metrics.begin()
    exchange = open_exchange(edge.gateway, _head(environ), now=now, wall=wall)
    relay = _Counted(
        exchange,
        edge.upstreams,
        edge.lifecycle.draining,
        edge.clock,
        lambda max_bytes: read_body(environ, max_bytes),
        edge.record,
        _client_socket(environ),
        edge.buffer_bytes(),
    )
    relay.counted = (in_flight, edge.lifecycle)
    edge.lifecycle.enter()
    try:
        head = relay.refuse(_full()) if edge.lifecycle.is_overfull() else relay.open()
    except Exception:  # noqa: BLE001 - the top level: a defect of ours becomes an answer in the caller's dialect
        log.exception("a request failed inside the middleware")
        head = relay.refuse(MiddlewareError())
    call = exchange.call
    if call is not None and head.length is None:
        describe(in_flight, call)
    return _response(head, relay)


def _full() -> Overloaded:
    return Overloaded("The server works on as many requests as it can (THREADS).", retry_after_s=1.0)


class _Counted(Relay):
    """A relay that is counted while it runs: in the gauges, and among what a shutdown waits for."""

    counted: tuple[InFlight, Lifecycle] | None = None

    def close(self) -> None:
        try:
            super().close()
        finally:
            counted, self.counted = self.counted, None
            if counted is not None:
                counted[0].end()
                counted[1].leave()


def _response(head: ClientHead, relay: Relay) -> Response:
    response = Response(relay, status=head.status, direct_passthrough=True)
    headers = Headers(head.headers)
    if head.length is not None and head.status not in _BODILESS:
        headers["Content-Length"] = str(head.length)
    response.headers = headers
    return response


def _head(environ: dict[str, Any]) -> RequestHead:
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or request.full_path.rstrip("?")
    headers = [(name[5:].replace("_", "-").title(), value) for name, value in environ.items() if name[:5] == "HTTP_"]
    headers += [
        (name.replace("_", "-").title(), environ[name])
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        if environ.get(name)
    ]
    return RequestHead(environ["REQUEST_METHOD"], target, headers, environ.get("REMOTE_ADDR") or "")


def _client_socket(environ: dict[str, Any]) -> socket.socket | None:
    """The caller's socket, where the server shows it."""
    found = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return found if isinstance(found, socket.socket) else None
