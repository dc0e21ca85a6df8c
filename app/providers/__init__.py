"""
The kinds of providers, in order of preference. To add one: a module with a `KIND`, and its name here.
"""

from app.providers import (
    anthropic,
    azure_anthropic,
    azure_openai,
    databricks,
    demo,
    gemini,
    openai,
    openai_compatible,
)
from app.providers.base import Kind, Provider

KINDS: tuple[Kind, ...] = (
    gemini.KIND,
    openai.KIND,
    anthropic.KIND,
    azure_openai.KIND,
    azure_anthropic.KIND,
    databricks.KIND,
    openai_compatible.KIND,
)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
DEMO = demo.KIND
DEMO_NAME = demo.NAME

__all__ = ["BY_NAME", "DEMO", "DEMO_NAME", "KINDS", "Kind", "Provider"]
