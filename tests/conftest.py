"""
In this process the tests run the Python sources, whatever builds lie about; with TEST_COMPILED=1 they run the compiled
hot path. The servers that tests start as processes of their own use a build where there is one.
"""

from __future__ import annotations

import os

import pytest

import compiled

if os.environ.get("TEST_COMPILED") == "1":
    outcome = compiled.install("required")
    if not outcome.compiled:
        raise pytest.UsageError(f"TEST_COMPILED=1, but {outcome.reason}")

# From here on a test that imports `main` cannot change what runs.
import app.formats  # noqa: E402, F401
