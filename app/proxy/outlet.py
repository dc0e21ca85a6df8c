"""
The caller's side of an exchange: the head, the bytes and the end that it gets, in its own dialect. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.errors import MethodNotAllowed, MiddlewareError, UpstreamRefused
from app.formats import json_body
from app.formats.base import Call
from app.keys.base import Failure, Verdict
from app.proxy.admission import Visitor
from app.proxy.attempts import Attempts
from app.proxy.book import Book
from app.proxy.cors import cors_headers
from app.proxy.events import Abort, ClientBytes, ClientHead, Command, Finish, Headers
from app.proxy.gateway import Cleaner
from app.settings import Settings

#: Clients that are told to wait longer than this either refuse or block their user for the whole time.
MAX_RETRY_AFTER_S = 60


class Outlet:
    """
    Collects commands for the caller in `out`, which the exchange empties after each event.

    started  -- the head is out: from now on errors can only be told in-band
    """

    def __init__(self, visitor: Visitor, settings: Settings, book: Book) -> None:
        self.out: list[Command] = []
        self.started = False
        self.attempts: Attempts | None = None
        self._visitor = visitor
        self._settings = settings
        self._book = book

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        self._book.answered(status)
        self.out.append(ClientHead(status, headers + self.own_headers(headers), length))

    def resume(self, status: int, attempts: Attempts) -> None:
        """The head is out, and came from elsewhere."""
        self.started, self.attempts = True, attempts
        self._book.answered(status)

    def data(self, data: bytes, now: float) -> None:
        self.out.append(ClientBytes(data))
        self._book.sent(data, now, excerpt=self._settings.log_response_body)

    def finish(self) -> None:
        self.out.append(Finish())

    def abort(self) -> None:
        self.out.append(Abort())

    def whole(self, status: int, headers: Headers, body: bytes, now: float) -> None:
        """A complete answer; without its body where the method is HEAD."""
        self.head(status, headers, len(body))
        if body and self._visitor.head.method != "HEAD":
            self.data(body, now)
        self.finish()

    def error(self, error: MiddlewareError, now: float) -> None:
        """A complete error answer in the caller's dialect."""
        body = json_body.dumps(self._visitor.dialect.error_body(error, self._visitor.request_id))
        headers = [("Content-Type", "application/json"), *retry_headers(error)]
        if isinstance(error, MethodNotAllowed) and error.allow:
            headers.append(("Allow", ", ".join(error.allow)))
        self.whole(error.status, headers, body, now)

    def relay(self, failure: Failure, verdict: Verdict, cleaner: Cleaner, now: float) -> None:
        """The upstream's own error, cleaned of secrets; in our words where it is not in the caller's dialect."""
        status = failure.status if failure.status >= 400 else 502
        self._book.relayed_error(status, verdict.reason)
        if self._visitor.dialect.is_error_body(failure.body):
            headers = [("Content-Type", "application/json"), *relayed_retry_headers(failure.headers)]
            self.whole(status, headers, cleaner.data(failure.body), now)
        else:
            self.error(UpstreamRefused(cleaner.text(verdict.message), status=status), now)

    def error_event(self, call: Call | None, error: MiddlewareError, now: float, *, begun: bool) -> None:
        """The same inside a stream whose head is out. `begun`: an event of it is out too."""
        self.data(self._visitor.dialect.error_event(call, error, self._visitor.request_id, begun=begun), now)

    def own_headers(self, upstream: Headers) -> Headers:
        """The headers that we add to those of `upstream`."""
        headers: Headers = []
        if self._settings.enable_request_id_injection:
            headers.append(("X-Request-ID", self._visitor.request_id))
            # Where Anthropic's SDK looks for it; the provider's own id stays where there is one.
            anthropic = self._visitor.dialect.family == "anthropic"
            if anthropic and not any(name.lower() == "request-id" for name, _ in upstream):
                headers.append(("request-id", self._visitor.request_id))
        if self.attempts is not None and self.attempts.records:
            last = self.attempts.records[-1]
            headers.append(("x-middleware-provider", last.provider))
            headers.append(("x-middleware-key", str(last.key_id)))
            headers.append(("x-middleware-attempts", str(len(self.attempts.records))))
        return headers + cors_headers(self._visitor.headers, self._settings)


def retry_headers(error: MiddlewareError) -> Headers:
    """`Retry-After` and `x-should-retry` for an error of ours."""
    headers: Headers = []
    pointless = error.should_retry is False
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(error.retry_after_s))))))
        pointless = pointless or error.retry_after_s > MAX_RETRY_AFTER_S
    if pointless:
        headers.append(("x-should-retry", "false"))
    return headers


def relayed_retry_headers(upstream: Mapping[str, str]) -> Headers:
    """The same for an upstream's error that goes to the caller, its wait cut to what clients bear."""
    headers: Headers = []
    wait = upstream.get("retry-after", "")
    # There are digits beyond ASCII, and not all of them are numbers.
    wait_s = int(wait[:9]) if wait.isascii() and wait.isdigit() else None
    if wait_s is not None:
        headers.append(("Retry-After", str(min(MAX_RETRY_AFTER_S, wait_s))))
    too_long = wait_s is not None and wait_s > MAX_RETRY_AFTER_S
    if too_long or upstream.get("x-should-retry", "").lower() == "false":
        headers.append(("x-should-retry", "false"))
    return headers
