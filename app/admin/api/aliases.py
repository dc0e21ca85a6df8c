"""Model aliases: names that callers may use, and the model or `provider/model` each one stands for."""

from __future__ import annotations

from flask import Blueprint, Response

from app.admin import http

bp = Blueprint("aliases", __name__, url_prefix="/aliases")

MAX_ALIASES = 1000


@bp.get("")
def list_aliases() -> Response:
    """`{alias: target, ...}`."""
    return http.answer(http.services().providers.aliases())


@bp.put("")
def set_aliases() -> Response:
    """Replace all aliases by `{alias: target, ...}`."""
    check = http.text_map(MAX_ALIASES, http.text(256, min_length=1), http.text(320, min_length=1))
    aliases = check("aliases", http.read_object())
    http.services().providers.set_aliases(aliases)
    return http.answer({"success": True, "message": "Aliases saved.", "aliases": http.services().providers.aliases()})
