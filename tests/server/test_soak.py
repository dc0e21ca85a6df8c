"""The soak in short: what a long mixed load with faults must leave behind, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import soak

SECONDS = 20.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_mixed_load_with_faults_is_all_recorded_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = soak(tmp_path, SECONDS)

    assert found.problems == []
    assert found.sent == found.recorded > 500
    assert found.refused > 0
    assert {"success", "upstream_cut", "upstream_error", "client_gone"} <= set(found.outcomes)
