"""Fixtures of the tests that look at the pages with a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import chromium
from tests.browser.people import PASSWORD, Person
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module: while it runs, this process has no place for another event loop."""
    path = chromium.path()
    if path is None:
        if chromium.required():
            pytest.fail(chromium.missing())
        pytest.skip(chromium.missing())
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(chromium.ARGUMENTS))
        yield running
        running.close()


@pytest.fixture
def upstream() -> Iterator[FakeProvider]:
    """A scripted upstream that serves as each of the built-in providers."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gateway(tmp_path: Path, upstream: FakeProvider) -> Iterator[Gateway]:
    """A whole middleware without a password; its providers lead to `upstream`."""
    with Gateway(tmp_path, openai=upstream.origin, anthropic=upstream.origin, gemini=upstream.origin) as running:
        yield running


@pytest.fixture
def locked_gateway(tmp_path: Path, upstream: FakeProvider) -> Iterator[Gateway]:
    """The same with the password `PASSWORD`."""
    origins = {name: upstream.origin for name in ("openai", "anthropic", "gemini")}
    with Gateway(tmp_path, **origins, environ={"MIDDLEWARE_PASSWORD": PASSWORD}) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture
def person(browser: Browser, gateway: Gateway) -> Iterator[Person]:
    """Somebody at a desk, with the pages of `gateway`."""
    with Person(browser, gateway.origin) as somebody:
        yield somebody


@pytest.fixture
def page(person: Person) -> Page:
    """The tab of `person`."""
    return person.page
