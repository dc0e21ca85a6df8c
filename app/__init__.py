"""
The AI API Middleware. `create_app` makes the application, and does nothing else.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.clock import Clock
    from app.config import Config

ROOT = Path(__file__).resolve().parent.parent


def create_app(config: Config, *, clock: Clock | None = None, verify_with: str | None = None) -> Flask:
    """
    The WSGI application, with its database migrated and its threads running. Its `Lifecycle` is in
    `extensions["middleware_lifecycle"]`; whoever makes an application calls `stop` on it in the end.

    verify_with -- a file of further certificate authorities to trust in upstreams

    Raises ConfigError, naming the variable, when the configuration can't work.
    """
    # Imported here, so that the pure packages and the demonstration load without Flask and the stores.
    from flask import Flask
    from werkzeug.middleware.proxy_fix import ProxyFix

    from app.admin.api import api_bp
    from app.admin.health import health_bp
    from app.admin.http import RowNumber
    from app.admin.page_request import PageRequest
    from app.admin.pages import pages_bp
    from app.admin.static_files import static_file
    from app.assembly import assemble
    from app.auth import auth_bp
    from app.clock import Clock
    from app.proxy.routes import proxy_blueprint

    if config.secret_key is None:
        config = replace(config, secret_key=secrets.token_bytes(32))
    parts = assemble(config, clock or Clock(), verify_with)
    app = Flask(
        __name__,
        template_folder=str(ROOT / "templates"),
        static_folder=str(ROOT / "static"),
        static_url_path="/middleware/static",
    )
    app.url_map.merge_slashes = False
    app.url_map.converters["int"] = RowNumber
    app.view_functions["static"] = static_file
    app.request_class = PageRequest
    app.extensions["middleware"] = parts.services
    app.extensions["middleware_lifecycle"] = parts.lifecycle
    app.extensions["middleware_edge"] = parts.edge
    for blueprint in (auth_bp, api_bp, pages_bp, health_bp, proxy_blueprint(parts.edge)):
        app.register_blueprint(blueprint)
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    parts.lifecycle.start()
    return app
