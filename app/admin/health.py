"""
Health and metrics: open to everybody, free of secrets, never relayed.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from app.admin.http import services

health_bp = Blueprint("health", __name__)


def _told(answer: tuple[int, dict[str, Any]]) -> Response:
    status, body = answer
    response = jsonify(body)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


@health_bp.get("/livez")
def livez() -> Response:
    """200 while the process serves."""
    return _told(services().health.livez())


@health_bp.get("/readyz")
def readyz() -> Response:
    """200 when requests can be served: the database answers and a real key is not disabled."""
    return _told(services().health.readyz())


@health_bp.get("/healthz")
def healthz() -> Response:
    """The state of every component, with 200 or 503."""
    return _told(services().health.healthz())


@health_bp.get("/health")
def health() -> Response:
    """The short form."""
    return _told(services().health.health())


@health_bp.get("/v1/health")
def v1_health() -> Response:
    """The form that Anthropic-style clients ask for; answers with and without credentials."""
    return _told(services().health.v1_health())


@health_bp.get("/metrics")
def metrics() -> Response:
    """Prometheus text, or a short JSON summary where JSON is asked for."""
    wanted = request.accept_mimetypes.best_match(["text/plain", "application/json"], "text/plain")
    if wanted == "application/json" and request.headers.get("Accept", "*/*") != "*/*":
        return _told((200, services().metrics.as_json()))
    body, content_type = services().metrics.render()
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
