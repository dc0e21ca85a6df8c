"""
The built-in demonstration upstream: a provider that speaks every wire format and calls no model.

It lets a fresh installation answer at once and shows rotation at work: some of its keys are rate-limited, revoked or
broken on purpose (`DEMO_KEYS`). It listens on a loopback socket of its own and knows nothing of the middleware.
"""

from app.demo.keys import DEMO_KEYS, DEMO_MODELS, DemoKey
from app.demo.server import DemoUpstream

__all__ = ["DEMO_KEYS", "DEMO_MODELS", "DemoKey", "DemoUpstream"]
