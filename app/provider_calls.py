"""
The middleware's own calls to providers, made with `requests`: one try, bounded in time and size, no redirects.

`provider_requests` makes the questions and understands the answers; here they travel. What goes wrong on the way comes
back as the `Failure` that a proxied attempt would have had. Nothing that is returned holds a whole key.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from app.clock import Clock
from app.errors import Conflict, Overloaded
from app.keys.base import Failure, Phase, Verdict
from app.keys.verdicts import explain_message
from app.provider_requests import (
    Question,
    Reply,
    ask_credential,
    ask_generation,
    ask_models,
    failure_of,
    judge_failure,
    read_models,
)
from app.providers import Provider
from app.proxy.upstream import CHECKED_POOLS, DialFailed, refuse_address
from app.settings import Settings

#: Answers are read up to here; lists of models are long.
MAX_ANSWER_BYTES = 64 * 1024
MAX_LIST_BYTES = 8 * 1024 * 1024
#: A generation of a few tokens that takes longer counts as not answered.
GENERATION_TIMEOUT_S = 60.0
MAX_MESSAGE_CHARS = 500
_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a call went.

    status   -- of the provider's answer; 0 where none came
    verdict  -- what the failure means; None for a good answer
    message  -- the provider's own sentence, without secrets
    models   -- the names in a list of models; None where the answer is no such list
    """

    ok: bool
    status: int
    duration_ms: int
    verdict: Verdict | None = None
    message: str = ""
    models: tuple[str, ...] | None = None

    @property
    def reason(self) -> str:
        """A stable code; empty for a good answer."""
        return self.verdict.reason if self.verdict is not None else ""


class ProviderCalls:
    """
    Asks providers. Thread-safe; never raises for what a provider or the network does.

    redact  -- takes secrets out of a provider's sentence
    """

    #: How many may wait for providers at once: each holds a thread that the pages want too.
    MOST_WAITING: Final = 4
    #: How long one more waits for its turn.
    TURN_S: Final = 1.0

    def __init__(self, settings: Callable[[], Settings], redact: Callable[[str], str], clock: Clock) -> None:
        self._settings = settings
        self._redact = redact
        self._clock = clock
        self._tls = ssl.create_default_context()
        self._places = threading.BoundedSemaphore(self.MOST_WAITING)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """
        Around all the calls that somebody waits for. Raises Overloaded while as many wait as may: slow providers hold
        up neither the pages nor the questions after this server's health.
        """
        if not self._places.acquire(timeout=self.TURN_S):
            raise Overloaded(
                "Other tests are waiting for providers that are slow to answer. Try again in a moment.",
                code="too_many_tests",
                retry_after_s=5,
            )
        try:
            yield
        finally:
            self._places.release()

    # -- calls -----------------------------------------------------------------------------------

    def list_models(self, provider: Provider, key_value: str) -> Outcome:
        """
        The models that the provider offers to this key, as `models`. Raises Conflict for a provider without an address.
        """
        return self._ask_list(provider, ask_models, key_value)

    def check_key(self, provider: Provider, key_value: str) -> Outcome:
        """Whether the provider knows the key, by a call that costs nothing. Raises Conflict as `list_models` does."""
        return self._ask_list(provider, ask_credential, key_value)

    def generate(self, provider: Provider, key_value: str, model: str) -> Outcome:
        """
        The smallest generation. Raises BadRequest for what is no model's name, and Conflict as `list_models` does.
        """
        _require_address(provider)
        question = ask_generation(provider, key_value, model)
        timeout_s = min(self._settings().read_timeout, GENERATION_TIMEOUT_S)
        return self._outcome(provider, question, key_value, self._send(question, timeout_s, MAX_ANSWER_BYTES))

    def _ask_list(self, provider: Provider, ask: Callable[[Provider, str], Question], key_value: str) -> Outcome:
        _require_address(provider)
        question = ask(provider, key_value)
        reply = self._send(question, self._settings().model_cache_timeout, MAX_LIST_BYTES)
        return self._outcome(provider, question, key_value, reply)

    # -- parts -----------------------------------------------------------------------------------

    def _outcome(self, provider: Provider, question: Question, key_value: str, reply: Reply) -> Outcome:
        failure = failure_of(reply)
        if failure is None:
            names = read_models(reply.body) if question.body is None else None
            return Outcome(True, reply.status, reply.duration_ms, models=self._without_secrets(names, key_value))
        verdict = judge_failure(provider, question, failure, self._clock.wall())
        message = explain_message(failure).replace(key_value, "[redacted]")
        return Outcome(False, reply.status, reply.duration_ms, verdict, self._redact(message)[:MAX_MESSAGE_CHARS])

    def _without_secrets(self, names: list[str] | None, key_value: str) -> tuple[str, ...] | None:
        """A provider can put into its list whatever it was sent."""
        if not names:
            return None if names is None else ()
        return tuple(self._redact("\n".join(names).replace(key_value, "[redacted]")).split("\n"))

    def _send(self, question: Question, timeout_s: float, max_bytes: int) -> Reply:
        """`timeout_s` bounds the wait for the answer and its reading; a connection has its own limit besides."""
        started = time.monotonic()
        limit_s = self._settings().connect_timeout + timeout_s
        pending: Future[Reply] = Future()

        def run() -> None:
            pending.set_result(self._exchange(question, timeout_s, max_bytes, started + limit_s))

        # A provider that sends its head byte by byte holds this thread, not the one that waits for it.
        threading.Thread(target=run, name="provider-call", daemon=True).start()
        try:
            reply = pending.result(limit_s + 1.0)
        except NotInTime:
            reply = Reply(failure=Failure(Phase.SEND, error="first_byte_timeout"))
        return replace(reply, duration_ms=round((time.monotonic() - started) * 1000))

    def _exchange(self, question: Question, timeout_s: float, max_bytes: int, deadline: float) -> Reply:
        try:
            refuse_address(urlsplit(question.url).hostname or "")
            with self._session() as session, self._request(session, question, timeout_s) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                body = _read(response.iter_content(_PIECE_BYTES), max_bytes, deadline)
                failure = None if body is not None else Failure(Phase.BODY, response.status_code, {}, b"", "incomplete")
                return Reply(response.status_code, headers, body or b"", failure)
        except DialFailed as error:
            return Reply(failure=Failure(Phase.CONNECT, error=error.code))
        except (requests.RequestException, ValueError, OSError) as error:
            return Reply(failure=_as_failure(error))

    def _session(self) -> requests.Session:
        session = requests.Session()
        # From the environment only its proxies: a .netrc would put other credentials in the place of the key.
        session.trust_env = False
        for scheme in CHECKED_POOLS:
            session.mount(f"{scheme}://", _Dialling(self._tls))
        return session

    def _request(self, session: requests.Session, question: Question, timeout_s: float) -> requests.Response:
        return session.request(
            question.method,
            question.url,
            headers=dict(question.headers),
            data=question.body,
            timeout=(self._settings().connect_timeout, timeout_s),
            allow_redirects=False,
            stream=True,
            proxies=get_environ_proxies(question.url),
        )


class _Dialling(HTTPAdapter):
    """
    Trusts what the system trusts, as proxied calls do, and what `requests` brings. Leads to no address that no upstream
    has, whatever the name resolves to at that moment; a proxy is where it is.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, **options, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = CHECKED_POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context)


def _require_address(provider: Provider) -> None:
    if not provider.base_url:
        raise Conflict(f"The provider {provider.name!r} has no base_url yet.", code="no_base_url")


def _read(pieces: Iterator[bytes], max_bytes: int, deadline: float) -> bytes | None:
    """The body, cut at `max_bytes`; None where it has not come to its end, or its limit, in time."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) >= max_bytes:
            break
        if time.monotonic() > deadline:
            return None
    return bytes(body[:max_bytes])


def _as_failure(error: Exception) -> Failure:
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return Failure(Phase.BODY, 200, {}, b"", "incomplete")
    for kinds, phase, code in _FAILURES:
        if any(isinstance(found, kinds) for found in _causes(error)):
            return Failure(phase, error=code)
    return Failure(Phase.SEND, error="reset")


_FAILURES: tuple[tuple[tuple[type[BaseException], ...], Phase, str], ...] = (
    ((socket.gaierror, UnicodeError, requests.exceptions.InvalidURL), Phase.CONNECT, "dns"),
    ((requests.exceptions.SSLError, ssl.SSLError), Phase.CONNECT, "tls"),
    ((requests.exceptions.ConnectTimeout,), Phase.CONNECT, "connect_timeout"),
    ((requests.exceptions.ReadTimeout,), Phase.SEND, "first_byte_timeout"),
    ((requests.exceptions.ProxyError, ConnectionRefusedError), Phase.CONNECT, "refused"),
    # Last: errors of certificates are such too. What remains is a host that no name has.
    ((ValueError,), Phase.CONNECT, "dns"),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what lies below it: `requests` wraps urllib3's errors, which wrap the system's."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 20:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args[:2]]
