"""`/`: what this server is."""

from __future__ import annotations

from flask import Blueprint, Response, render_template

bp = Blueprint("root", __name__)


@bp.get("/")
def index() -> Response:
    """What this server is, and where it is administered."""
    return Response(render_template("root/index.html"))
