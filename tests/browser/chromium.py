"""
Debian's Chromium: where it is, and how it gets there. `python -m tests.browser.chromium` installs it where that is
possible: on Debian and Ubuntu, as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PATHS = ("/usr/bin/chromium", "/usr/bin/chromium-browser")
#: Sandboxing needs rights that containers lack; the rest keeps it from talking to anybody but us.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
INSTALL_S = 600


def path() -> str | None:
    """The browser's program; None where there is none."""
    return next((path for path in PATHS if Path(path).exists()), None)


def missing() -> str:
    """Why there is no browser, and what to do."""
    return "No Chromium at /usr/bin/chromium. On Debian: apt-get install chromium"


def required() -> bool:
    """Whether tests must fail without a browser instead of being skipped."""
    return os.environ.get("BROWSER_TESTS") == "required"


def install() -> None:
    """Raises CalledProcessError or TimeoutExpired."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "-y", "chromium"]):
        subprocess.run(command, check=True, env=environment, timeout=INSTALL_S, stdout=subprocess.DEVNULL)


def main() -> int:
    if path() is not None:
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        sys.stderr.write(missing() + "\n")
        return 0
    sys.stderr.write("Installing Chromium for the tests of the pages ...\n")
    try:
        install()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{missing()} ({error})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
