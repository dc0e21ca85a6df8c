"""
The pages that people read and work with, below `/middleware`. One module for each; each exports its blueprint as `bp`.

To add a page: a module here, its name in `PAGES`, a folder in `templates`, a line in `frame.NAVIGATION`, its address in
`tests/browser/looks.py`. What a page changes it changes by the same functions as the admin API. The guard of `app.auth`
stands in front of all of them.
"""

from __future__ import annotations

from flask import Blueprint

from app.admin.pages import (
    aliases,
    appearance,
    clients,
    frame,
    home,
    key_detail,
    key_transfer,
    keys,
    logs,
    models,
    playground,
    prices,
    providers,
    requests,
    root,
    settings,
    swagger,
    welcome,
)
from app.auth import register_error_handlers

PAGES = (
    requests,
    logs,
    root,
    home,
    welcome,
    appearance,
    settings,
    playground,
    providers,
    models,
    aliases,
    prices,
    keys,
    key_transfer,
    key_detail,
    clients,
    swagger,
)

pages_bp = Blueprint("pages", __name__)
for page in PAGES:
    pages_bp.register_blueprint(page.bp)
frame.equip(pages_bp)
register_error_handlers(pages_bp)
