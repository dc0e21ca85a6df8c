"""
A person in front of the pages: a browser tab that remembers what went wrong in it.

A script error, a violation of the content policy or a failed request of a page fails the test that met it, unless the
test says that it expects it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, expect

PASSWORD = "correct horse battery staple"
SIZES = {"desk": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
THEMES = ("light", "dark")
WAIT_MS = 15_000
expect.set_options(timeout=WAIT_MS)

_AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1" / "axe.min.js"
#: Chromium says this of each answer with an error status; `responses` has these already.
_FAILED_TO_LOAD = re.compile(r"Failed to load resource")


class Person:
    """
    `with Person(browser, origin) as person: person.go("/middleware/keys")`.

    troubles  -- what a page did wrong so far: sentences
    expected  -- parts of troubles that the test brings about itself

    content_policy  -- whether the browser heeds it; without, what slips into a page as HTML would run
    """

    def __init__(
        self,
        browser: Browser,
        origin: str,
        *,
        size: str = "desk",
        theme: str = "light",
        javascript: bool = True,
        timezone: str = "Europe/Berlin",
        content_policy: bool = True,
    ) -> None:
        self.origin = origin
        self.context: BrowserContext = browser.new_context(
            viewport=SIZES[size],  # type: ignore[arg-type]
            color_scheme=theme,  # type: ignore[arg-type]
            java_script_enabled=javascript,
            base_url=origin,
            timezone_id=timezone,
            locale="en-GB",
            reduced_motion="reduce",
            bypass_csp=not content_policy,
        )
        self.context.set_default_timeout(WAIT_MS)
        self.javascript = javascript
        self.troubles: list[str] = []
        self.expected: list[str] = []
        self.page = self.new_page()

    def __enter__(self) -> Person:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        if kind is None:
            self.check()

    def new_page(self) -> Page:
        """Another tab."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.troubles.append(f"script error: {error}"))
        page.on("console", self._console)
        page.on("response", self._response)
        page.on("dialog", lambda dialog: (self.troubles.append(f"a dialog says {dialog.message!r}"), dialog.dismiss()))
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not _FAILED_TO_LOAD.search(message.text):
            self.troubles.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.status} of {response.request.method} {response.url}")

    def expect(self, part: str) -> None:
        """Let troubles that contain `part` pass."""
        self.expected.append(part)

    def check(self) -> None:
        """Fails when a page did anything wrong that the test did not expect."""
        unexpected = [trouble for trouble in self.troubles if not any(part in trouble for part in self.expected)]
        assert not unexpected, unexpected

    # -- ways -------------------------------------------------------------------------------------

    def go(self, path: str) -> Page:
        """Open an address of the middleware and wait until its scripts have run."""
        self.page.goto(path)
        return self.ready()

    def ready(self) -> Page:
        """Wait until the scripts of the page in front have run."""
        self.page.wait_for_load_state("load")
        if self.javascript and self.page.locator("body.frame").count():
            self.page.locator("html[data-ready]").wait_for(state="attached")
        return self.page

    def log_in(self, path: str = "/middleware/") -> Page:
        """Log in by the login page that stands before `path`."""
        self.page.goto(path)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(lambda url: "/middleware/login" not in url)
        self.page.locator("body.frame").wait_for()
        return self.ready()

    # -- quality ----------------------------------------------------------------------------------

    def violations(self) -> list[str]:
        """Serious and critical faults of the current page in the eyes of axe-core."""
        self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = json.loads(
            self.page.evaluate(
                "async () => JSON.stringify(await axe.run(document, {resultTypes: ['violations'], "
                "runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}))"
            )
        )
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def overflow_px(self) -> int:
        """How far the page reaches beyond the window to the right."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width
