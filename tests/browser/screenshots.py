"""
`make screenshots`: every page of a middleware that has seen some use, in both sizes and themes, as PNG files below
`screenshots/`. Names on the command line choose pages.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser import chromium
from tests.browser.looks import BARE_PAGES, PAGES
from tests.browser.people import PASSWORD, SIZES, THEMES, Person
from tests.browser.some_use import middleware_in_use

FOLDER = Path(__file__).parent.parent.parent / "screenshots"


def main(wanted: list[str]) -> int:
    path = chromium.path()
    if path is None:
        sys.stderr.write(chromium.missing() + "\n")
        return 1
    FOLDER.mkdir(exist_ok=True)
    addresses = {**PAGES, **BARE_PAGES}
    chosen = {name: address for name, address in addresses.items() if not wanted or name in wanted}
    with (
        tempfile.TemporaryDirectory() as folder,
        middleware_in_use(Path(folder), password=PASSWORD) as gateway,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=list(chromium.ARGUMENTS))
        for size in SIZES:
            for theme in THEMES:
                person = Person(browser, gateway.origin, size=size, theme=theme)
                person.log_in()
                for name, address in chosen.items():
                    person.go(address)
                    person.page.screenshot(path=FOLDER / f"{name}-{size}-{theme}.png", full_page=True)
                person.context.close()
        browser.close()
    sys.stderr.write(f"{len(chosen) * len(SIZES) * len(THEMES)} screenshots in {FOLDER}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
