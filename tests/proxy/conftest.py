"""What many proxy tests share: one gateway for all of them, and a stage for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.proxy.shortcut import Memory
from tests import gateway
from tests.gateway import Gateway
from tests.stage import Stage, staged


@pytest.fixture(scope="package")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("proxy"), environ={"POOL_BRAKE_THRESHOLD": "0"}) as gateway:
        yield gateway


@pytest.fixture
def stage(shared_gateway: Gateway) -> Iterator[Stage]:
    with staged(shared_gateway) as found:
        yield found


@pytest.fixture(params=["threads", "loop", "shortcut"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each driver, and with the loop taking the shortcut from the first request on."""
    name: str = request.param
    if name == "shortcut":
        monkeypatch.setattr(Memory, "is_worth_learning", lambda *_: True)
        name = "loop"
    monkeypatch.setattr(gateway, "DRIVER", name)
    return name
