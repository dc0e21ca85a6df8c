"""What only a defect could bring about still ends in an answer and a row, with each driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.storage import schema
from tests.proxy.dialects import BOTH_WAYS, Dialect, site

pytestmark = pytest.mark.usefixtures("driver")


@pytest.mark.parametrize("way", BOTH_WAYS, ids=str)
@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
def test_a_request_that_must_not_be_written_is_a_500_and_leaves_nothing_behind(
    tmp_path: Path, way: Dialect, warm: bool
) -> None:
    with site(tmp_path, way) as here:
        providers = here.gateway.services.providers
        if warm:
            here.assert_serves()
        here.script()
        before = here.provider.total_connections
        with here.gateway.services.database.transaction() as connection:
            broken = here.gateway.services.vault.encrypt(json.dumps({"X-Broken": "a\r\nX-Evil: b"}))
            connection.execute(schema.providers.update().values(headers=broken))
        providers.refresh()

        answer = here.ask()

        assert answer.status == 500
        assert here.dialect.says_error(answer.body)["message"]
        assert here.record()["outcome"] == "internal_error"
        here.quiet()
        assert all(here.provider.wait_closed(number) for number in range(before, here.provider.total_connections))
        assert here.gateway.services.shared.in_flight() == 0
        providers.update(way.provider, {"headers": {}})
        here.assert_serves()
