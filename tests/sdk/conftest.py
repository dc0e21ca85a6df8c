"""What the SDK tests share: one gateway for all of them, and a stage for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway
from tests.stage import Stage, staged


@pytest.fixture(scope="package")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("sdk"), environ={"POOL_BRAKE_THRESHOLD": "0"}) as gateway:
        yield gateway


@pytest.fixture
def stage(shared_gateway: Gateway) -> Iterator[Stage]:
    with staged(shared_gateway) as found:
        yield found
