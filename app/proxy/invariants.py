"""
What a state machine guarantees, said where it is relied on. Pure.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def need(value: T | None) -> T:
    """`value`, which the state machine guarantees to be there."""
    if value is None:
        raise RuntimeError("the exchange is in a state that its own rules exclude")
    return value
