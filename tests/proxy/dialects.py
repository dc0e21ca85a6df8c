"""
The wire formats as the fault tests use them: a request, a good answer, and the middleware in front of one provider.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from app.clock import Clock
from app.config import Config
from app.storage.database import Database
from app.vault import Vault
from tests import canned, canned_errors
from tests.fake_provider import Behavior, FakeProvider, json_reply, stream
from tests.gateway import Answer, Gateway, RawClient

Json = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """
    One way to call, plain or streamed.

    events  -- a whole stream, event by event
    errors  -- the provider's error bodies: `bad_key`, `bad_request`, `rate_limit`, `no_model`, `server`
    """

    name: str
    provider: str
    path: str
    request: Json
    answer: Json
    events: tuple[bytes, ...]
    errors: dict[str, Json] = field(repr=False)
    streams: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{'stream' if self.streams else 'plain'}"

    @property
    def model(self) -> str:
        return "gemini-test" if self.provider == "gemini" else str(self.request["model"])

    @property
    def good(self) -> Behavior:
        """What a healthy upstream does."""
        return stream(self.events) if self.streams else json_reply(self.answer)

    @property
    def good_body(self) -> bytes:
        """What the caller must then get, byte for byte."""
        return b"".join(self.events) if self.streams else json.dumps(self.answer).encode()

    def says_error(self, body: bytes) -> Json:
        """The error object of an error body, which must have this dialect's shape."""
        parsed = json.loads(body)
        error = parsed["error"]
        if self.provider == "gemini":
            assert {"code", "message", "status"} <= set(error)
        elif self.provider == "anthropic":
            assert parsed["type"] == "error"
            assert {"type", "message"} <= set(error)
        else:
            assert {"message", "type", "code"} <= set(error)
        assert "<html" not in body.decode().lower()
        return dict(error)


CHAT = Dialect(
    name="chat",
    provider="openai",
    path="/v1/chat/completions",
    request=canned.CHAT_REQUEST,
    answer=canned.chat(),
    events=tuple(canned.chat_stream(usage=False)),
    errors={
        "bad_key": canned_errors.OPENAI_BAD_KEY,
        "bad_request": canned_errors.OPENAI_BAD_REQUEST,
        "rate_limit": canned_errors.OPENAI_RATE_LIMIT,
        "no_model": canned_errors.OPENAI_NO_MODEL,
        "server": canned_errors.OPENAI_SERVER,
    },
)
MESSAGES = Dialect(
    name="messages",
    provider="anthropic",
    path="/v1/messages",
    request=canned.MESSAGES_REQUEST,
    answer=canned.message(),
    events=tuple(canned.message_stream()),
    errors={
        "bad_key": canned_errors.ANTHROPIC_BAD_KEY,
        "bad_request": canned_errors.ANTHROPIC_BAD_REQUEST,
        "rate_limit": canned_errors.ANTHROPIC_RATE_LIMIT,
        "no_model": canned_errors.ANTHROPIC_NO_MODEL,
        "server": canned_errors.ANTHROPIC_OVERLOADED,
    },
)
GEMINI = Dialect(
    name="gemini",
    provider="gemini",
    path="/v1beta/models/gemini-test:generateContent",
    request=canned.GEMINI_REQUEST,
    answer=canned.gemini(),
    events=tuple(canned.gemini_stream()),
    errors={
        "bad_key": canned_errors.GEMINI_BAD_KEY,
        "bad_request": canned_errors.GEMINI_BAD_REQUEST,
        "rate_limit": canned_errors.GEMINI_PER_MINUTE,
        "no_model": canned_errors.GEMINI_NO_MODEL,
        "server": canned_errors.GEMINI_OVERLOADED,
    },
)


def streamed(dialect: Dialect) -> Dialect:
    """The same call, asking for a stream."""
    if dialect.provider == "gemini":
        path = dialect.path.replace(":generateContent", ":streamGenerateContent?alt=sse")
        return dataclasses.replace(dialect, path=path, streams=True)
    return dataclasses.replace(dialect, request={**dialect.request, "stream": True}, streams=True)


PLAIN = (CHAT, MESSAGES, GEMINI)
#: Two dialects, each plain and streamed.
BOTH_WAYS = (CHAT, streamed(CHAT), MESSAGES, streamed(MESSAGES))


class MovingClock:
    """Both clocks, which a test can put forward together."""

    def __init__(self) -> None:
        self._real = Clock()
        self._ahead_s = 0.0
        self.clock = Clock(
            monotonic=lambda: self._real.monotonic() + self._ahead_s, wall=lambda: self._real.wall() + self._ahead_s
        )

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


@dataclass
class Site:
    """The middleware, one scripted provider behind it, and keys for one dialect."""

    gateway: Gateway
    provider: FakeProvider
    dialect: Dialect
    keys: list[str]
    time: MovingClock

    def ask(self) -> Answer:
        """The dialect's request, with an answer that must be complete."""
        return self.gateway.request("POST", self.dialect.path, json_body=self.dialect.request)

    @contextmanager
    def asking(self) -> Iterator[RawClient]:
        """The same on a plain socket, for answers that break off."""
        with self.gateway.raw() as client:
            client.post(self.dialect.path, self.dialect.request)
            yield client

    def script(self, *behaviors: Behavior) -> None:
        """What each key in turn meets; the last also serves all that follow. Keys beyond meet a good answer."""
        good = self.dialect.good
        scripts = {key: good for key in self.keys}
        scripts.update(zip(self.keys, behaviors, strict=False))
        self.provider.by_key(scripts)

    def set(self, **settings: Any) -> None:
        """Defaults for this process, also beyond the ranges that people may set."""
        self.gateway.set(**settings)

    def quiet(self) -> None:
        """Wait until nothing runs any more, so that upstream connections are back in the pool or closed."""
        self.gateway.quiet()

    def states(self) -> list[str]:
        return [str(self.gateway.key(key)["status"]) for key in self.keys]

    def record(self) -> Json:
        """The row of the last request."""
        return self.gateway.records()[-1]

    def verdicts(self) -> list[tuple[str, str]]:
        """(verdict, reason) of each attempt of the last request."""
        return [(attempt["verdict"], attempt["reason"]) for attempt in self.record()["attempts"]]

    def assert_good(self, answer: Answer) -> None:
        """A whole, unaltered answer."""
        assert (answer.status, answer.body) == (200, self.dialect.good_body)

    def assert_rotated(self, answer: Answer, *reasons: str, states: Sequence[str] = ("Healthy", "Healthy")) -> None:
        """The first key failed for a reason that is not its own, the second one served, and the caller saw no more."""
        self.assert_good(answer)
        assert answer.headers["x-middleware-attempts"] == str(len(reasons) + 1)
        assert self.verdicts() == [*(("PROVIDER", reason) for reason in reasons), ("ok", "")]
        assert self.states() == list(states)
        record = self.record()
        assert (record["status"], record["outcome"], record["error_code"]) == (200, "success", "")

    def assert_serves(self) -> None:
        """Whatever happened before: the process answers, and nothing was left behind."""
        self.script()
        self.assert_good(self.ask())
        self.quiet()
        assert self.provider.problems == []
        assert self.provider.unscripted == []


@cache
def _empty_database() -> Path:
    """A folder with a migrated database and its key file: making both anew for each test takes most of its time."""
    folder = Path(tempfile.mkdtemp(prefix="empty-database-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = Config.from_env({"DB_PATH": str(folder / "keys.db")})
    database = Database(config.database_url)
    database.migrate(Vault.open(config))
    database.close()
    return folder


@contextmanager
def site(
    folder: Path,
    dialect: Dialect,
    *,
    keys: int = 2,
    origin: str | None = None,
    provider: FakeProvider | None = None,
    verify_with: str | None = None,
    **settings: Any,
) -> Iterator[Site]:
    """
    The middleware with so many keys for one dialect.

    origin    -- where the provider is said to be, if not where the scripted one listens
    settings  -- live settings, stored as an administrator would store them
    """
    shutil.copytree(_empty_database(), folder, dirs_exist_ok=True)
    time = MovingClock()
    with provider or FakeProvider() as fake:
        base = {dialect.provider: origin or fake.origin}
        given: Json = {"environ": {"ENCRYPTION_KEY": ""}, "settings": settings, "verify_with": verify_with}
        with Gateway(folder, clock=time.clock, **given, **base) as gateway:
            yield Site(gateway, fake, dialect, gateway.add_keys(dialect.provider, keys), time)
