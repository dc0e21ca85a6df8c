"""
The admin JSON API below `/middleware/api`. One module for each resource; each exports its blueprint as `bp`.

To add a resource: a module here, and its name in `RESOURCES`. The guard of `app.auth` stands in front of all of them.
"""

from __future__ import annotations

from flask import Blueprint

from app.admin.api import (
    aliases,
    clients,
    logs,
    models,
    playground,
    prices,
    providers,
    requests,
    routing,
    settings,
    stats,
)
from app.admin.api import keys as keys
from app.auth import register_error_handlers

RESOURCES = (keys, providers, clients, settings, stats, logs, requests, routing, aliases, prices, models, playground)

api_bp = Blueprint("admin_api", __name__, url_prefix="/middleware/api")
for resource in RESOURCES:
    api_bp.register_blueprint(resource.bp)
register_error_handlers(api_bp)
