"""Fixtures of the administration's tests."""

from __future__ import annotations

from tests.admin.fixtures import locked, middleware

__all__ = ["locked", "middleware"]
