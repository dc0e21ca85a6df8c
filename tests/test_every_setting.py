"""Every live setting changes what the product does: `tests/proofs.py` shows how, and nothing may be missing there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import urllib3

from app.proxy.shortcut import Memory
from app.settings import SETTINGS
from tests import gateway
from tests.proofs import PROOFS, Site
from tests.proxy.dialects import CHAT, site
from tests.stage import Stage

#: The live settings of the application that this one follows.
_OLDER: Final = """
    streaming_enabled connection_pooling_enabled model_cache_enabled max_retries request_timeout connect_timeout
    read_timeout streaming_timeout retry_total retry_backoff_factor pool_connections pool_maxsize max_stream_retries
    chunk_retry_delay cache_timeout model_cache_timeout buffer_size small_request_threshold large_request_threshold
    small_buffer_size large_buffer_size min_buffer_size max_buffer_size json_buffer_limit enable_request_logging
    log_level enable_metrics_collection enable_performance_logging log_request_body log_response_body
    failover_strategy enable_request_id_injection enable_rate_limiting requests_per_minute rate_limiting_strategy
    burst_allowance enable_cors cors_origins enable_request_validation max_request_size blocked_user_agents
    enable_health_checks health_check_interval enable_circuit_breaker circuit_breaker_threshold
    max_concurrent_requests keepalive_timeout enable_graceful_shutdown cache_max_age mcp_enabled
    mcp_auto_detect_tools mcp_cache_duration mcp_max_concurrent_tools mcp_timeout mcp_enable_health_checks
    mcp_health_check_interval mcp_enable_usage_tracking mcp_enable_tool_caching
"""
LEFT_OUT: Final = Path(__file__).parent.parent / "docs/decisions/008-settings-left-out.md"

Make = Callable[..., Site]


#: Only a loop looks at idle connections before the next request comes.
LOOP_ONLY: Final = ("keepalive_timeout",)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How calls go through the server: on the loop's shortcut from the first one on, or on threads."""
    monkeypatch.setattr(gateway, "DRIVER", "threads" if request.param == "threads" else "loop")
    if request.param == "shortcut":
        monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: True)


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Make]:
    with site(tmp_path, CHAT, pool_brake_threshold=0) as found:
        stage = Stage(found.gateway, found.provider, {"openai": found.keys})
        yield lambda **more: Site(stage, found.time, monkeypatch, capsys, **more)
        assert found.provider.unscripted == []


def test_every_setting_has_a_proof():
    assert {row.name for row in SETTINGS} == set(PROOFS)


@pytest.mark.parametrize("name", PROOFS)
def test_a_setting_changes_what_the_product_does(make_site: Make, name: str) -> None:
    here = make_site()

    PROOFS[name](here)

    assert name in here.changed


@pytest.mark.parametrize("way", ["threads", "shortcut"], indirect=True)
@pytest.mark.parametrize("name", PROOFS)
@pytest.mark.usefixtures("way")
def test_a_setting_changes_the_same_on_the_other_ways_through_the_server(
    request: pytest.FixtureRequest, name: str
) -> None:
    if name in LOOP_ONLY and request.node.callspec.params["way"] == "threads":
        return
    make_site: Make = request.getfixturevalue("make_site")

    PROOFS[name](make_site())


@pytest.mark.parametrize("name", PROOFS)
def test_its_proof_fails_where_a_setting_is_ignored(make_site: Make, name: str) -> None:
    here = make_site(ignored=name, patience_s=1.0)

    with pytest.raises((AssertionError, OSError, EOFError, urllib3.exceptions.HTTPError, KeyError)):
        PROOFS[name](here)


def test_every_older_setting_exists_or_is_listed_with_the_reason_why_not():
    exist = {row.name for row in SETTINGS}
    rows = re.findall(r"^\| (`.+?) \| .{20,} \|$", LEFT_OUT.read_text(encoding="utf-8"), re.MULTILINE)
    left_out = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert set(re.findall(r"\w+", _OLDER)) - exist == left_out
