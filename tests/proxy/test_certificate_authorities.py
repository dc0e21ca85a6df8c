"""Which authorities an upstream's certificate may come from when nothing but the environment says so."""

from __future__ import annotations

from contextlib import closing

import pytest

from app.proxy.upstream import DialFailed, PoolLimits, Upstreams
from tests.fake_provider import FakeProvider

WAIT_S = 5.0


def dial(provider: FakeProvider) -> None:
    with closing(Upstreams(PoolLimits)) as upstreams, closing(upstreams.dial(provider.origin, WAIT_S).result(WAIT_S)):
        pass


def test_authorities_in_the_file_that_ssl_cert_file_names_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeProvider(tls="valid") as provider:
        monkeypatch.setenv("SSL_CERT_FILE", provider.ca_file)
        dial(provider)


def test_an_authority_that_nothing_names_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with FakeProvider(tls="valid") as provider, pytest.raises(DialFailed) as failed:
        dial(provider)
    assert failed.value.code == "tls"
