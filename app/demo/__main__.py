"""`python -m app.demo [--port N]` runs the demonstration upstream alone, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import signal
import threading

from app.demo import DEMO_KEYS, DemoUpstream

log = logging.getLogger("app.demo")


def main() -> int:
    """Serve until a signal comes; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.demo", description="Run the demonstration upstream alone.")
    parser.add_argument("--port", type=int, default=5055, help="0 takes a free port (default: %(default)s)")
    port = parser.parse_args().port
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    upstream = DemoUpstream(port)
    log.info("The demonstration upstream listens on %s. Its keys:", upstream.start())
    for key in DEMO_KEYS:
        log.info("  %s  %s", key.value, key.what)
    done.wait()
    upstream.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
