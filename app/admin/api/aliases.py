"""Model aliases: names that callers may use, and the model or `provider/model` each one stands for."""

from __future__ import annotations

from flask import Blueprint, Response

from app.admin import http
from app.admin.actions import models as actions

bp = Blueprint("aliases", __name__, url_prefix="/aliases")


@bp.get("")
def list_aliases() -> Response:
    """`{alias: target, ...}`."""
    return http.answer(http.services().providers.aliases())


@bp.put("")
def set_aliases() -> Response:
    """Replace all aliases by `{alias: target, ...}`."""
    check = http.text_map(actions.MAX_ALIASES, actions.ALIAS, actions.TARGET)
    aliases = check("aliases", http.read_object())
    http.services().providers.set_aliases(aliases)
    return http.answer({"success": True, "message": "Aliases saved.", "aliases": http.services().providers.aliases()})


@bp.patch("")
def change_aliases() -> Response:
    """`{alias: target, ...}` for those to add or change, null for those to delete; all others stay as they are."""
    body = http.read_object()
    if len(body) > actions.MAX_ALIASES:
        raise http.wrong("aliases", f"at most {actions.MAX_ALIASES} aliases")
    target = http.optional(actions.TARGET)
    changes = {actions.ALIAS("alias", alias): target(alias[:64], value) for alias, value in body.items()}
    aliases = actions.change_aliases(http.services(), changes)
    return http.answer({"success": True, "message": "Aliases changed.", "aliases": aliases})
