"""
The attempts of one request: which key is next, what a failure means, when to stop. Pure; keys are asked in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import quote, urlsplit

from app.errors import (
    AllKeysResting,
    MiddlewareError,
    ModelNotFound,
    NoKeys,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.formats.base import EMPTY_ANSWER, Call, Edits, Operation
from app.formats.gemini import with_model
from app.keys.base import Action, Failure, KeyWanted, Lease, Phase, Scope, Verdict
from app.keys.verdicts import judge
from app.proxy.admission import Visitor
from app.proxy.events import Send
from app.proxy.gateway import Gateway
from app.proxy.headers import for_upstream
from app.proxy.routing import Candidate, Route
from app.records import AttemptRecord
from app.settings import Settings

_FAMILY_BY_FORMAT = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "gemini": "gemini",
}
#: What a path may hold unquoted: RFC 3986 section 3.3, less what our model names never need.
_NAME_SAFE = "/:@-._~!$'()*+,="
#: Names arrive quoted where a kind puts them into its path; a caller's decoded path never holds a percent sign.
_PATH_SAFE = _NAME_SAFE + "%"
_NO_KEY = (AllKeysResting, NoKeys, ModelNotFound)
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class Next(Enum):
    AGAIN = "again"  # another attempt, at `Decision.wait_s`
    RELAY = "relay"  # the upstream's own answer goes to the caller
    FAIL = "fail"  # `Decision.error` goes to the caller


@dataclass(frozen=True, slots=True)
class Decision:
    next: Next
    wait_s: float = 0.0
    error: MiddlewareError | None = None


class Attempts:
    """Keeps count. One for each request, made when its call and its route are known."""

    def __init__(self, gateway: Gateway, settings: Settings, visitor: Visitor, call: Call, route: Route) -> None:
        self.records: list[AttemptRecord] = []
        self.candidate: Candidate = route.candidates[0]
        self.lease: Lease | None = None
        self.last: tuple[Failure, Verdict] | None = None
        self._gateway = gateway
        self._settings = settings
        self._visitor = visitor
        self._call = call
        self._candidates = list(route.candidates)
        self._tried: set[int] = set()
        self._body = call.body
        self._stripped = False
        self._connection_failures = 0
        self._prefer: int | None = None
        self._started = 0.0
        self._waited_s = 0.0

    # -- the next attempt -------------------------------------------------------------------------

    def start(self, now: float) -> Send:
        """The request for the next attempt. Raises the error to answer with when no key can make one."""
        return self.begin(self._lease(now), now)

    def begin(self, lease: Lease, now: float) -> Send:
        """The request of an attempt with this key."""
        self._enter(lease, now)
        return self._send(lease)

    def resume(self, lease: Lease, status: int, began_at: float, answered_at: float) -> None:
        """An attempt that somebody else made, and whose success the keys know of."""
        self._enter(lease, began_at)
        self._note(status, "ok", answered_at)

    def _enter(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self._tried.add(lease.key_id)
        self.candidate = next(found for found in self._candidates if found.provider.name == lease.provider)
        self._started = now
        self.records.append(
            AttemptRecord(
                number=len(self.records) + 1,
                provider=lease.provider,
                key_id=lease.key_id,
                wait_ms=round(self._waited_s * 1000),
            )
        )
        self._waited_s = 0.0

    def again_fresh(self) -> Send:
        """The same attempt on a new connection: the pooled one was dead and nothing was processed."""
        if self.lease is None:
            raise RuntimeError("there is no attempt to repeat")
        return replace(self._send(self.lease), fresh=True)

    def _lease(self, now: float) -> Lease:
        names = tuple(candidate.provider.name for candidate in self._candidates)
        wanted = KeyWanted(
            providers=names,
            models={candidate.provider.name: candidate.model for candidate in self._candidates},
            excluding=frozenset(self._tried),
            preferred=self._prefer if self._prefer is not None else self._owner(names, now),
        )
        try:
            return self._gateway.keys.acquire(wanted, now)
        except _NO_KEY as error:
            if not self._may_repeat_the_only_key():
                raise self._closing_error(error) from error
        self._tried.clear()
        try:
            return self._gateway.keys.acquire(replace(wanted, excluding=frozenset()), now)
        except _NO_KEY as error:
            raise self._closing_error(error) from error

    def _may_repeat_the_only_key(self) -> bool:
        """A provider's hiccup with one key in play: that key may try once more, there is nowhere else to go."""
        return len(self.records) == 1 and self.last is not None and self.last[1].action is Action.PROVIDER

    def _owner(self, names: tuple[str, ...], now: float) -> int | None:
        if not self._call.hints:
            return None
        return self._gateway.keys.owner(names, [hint.key for hint in self._call.hints], now)

    def _send(self, lease: Lease) -> Send:
        provider, model = self.candidate.provider, self.candidate.model
        match = self._call.match
        spoken = match.format.name
        path = provider.kind.path(provider, spoken, self._upstream_path(model), model)
        origin, target = _locate(provider.base_url, path, self._query())
        head = self._visitor.head
        body = self._upstream_body() if self._visitor.has_body else None
        return Send(
            origin=origin,
            method=head.method,
            target=target,
            headers=for_upstream(
                self._visitor.headers, provider, provider.kind.sign(lease.value, spoken), urlsplit(origin).netloc, body
            ),
            body=body or b"",
            connect_timeout_s=self._settings.connect_timeout,
            attempt=len(self.records),
        )

    def _upstream_path(self, model: str | None) -> str:
        match = self._call.match
        if not match.endpoint.native:
            return match.endpoint.upstream_path.format(model=model or "")
        if match.model is None or model is None or not self.renames:
            return match.path
        name = quote(model, safe=_NAME_SAFE)
        renamed = with_model(match.path, name) if match.format.family == "gemini" else match.path
        if renamed != match.path:
            return renamed
        before, _, after = match.path.rpartition(match.model)
        return before + name + after

    def _query(self) -> str:
        extra = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.candidate.provider.query.items()
        )
        return "&".join(part for part in (self._visitor.query, extra) if part)

    def _upstream_body(self) -> bytes:
        call = self._call.with_body(self._body) if self._stripped else self._call
        return call.match.format.edit(call, self.edits)

    @property
    def edits(self) -> Edits:
        """What is changed in the body."""
        return Edits(
            model=self.candidate.model if self.renames else None,
            stream=True if self._call.match.endpoint.stream else None,
            include_usage=self.adds_usage,
        )

    @property
    def adds_usage(self) -> bool:
        """Whether we ask for the usage chunk of a chat stream although the caller did not."""
        return self._settings.openai_include_usage and self._call.match.format.lacks_usage(self._call)

    @property
    def renames(self) -> bool:
        """Whether the model goes out under another name than the caller's."""
        return self.candidate.model is not None and self.candidate.model != self._call.model

    # -- what a failure means ---------------------------------------------------------------------

    def succeeded(self, status: int, now: float) -> None:
        """The upstream has begun a real answer: the key works."""
        if self.lease is not None:
            self._gateway.keys.succeeded(self.lease, now)
        self._note(status, "ok", now)

    def completed(self, now: float) -> None:
        """The answer has come to its end: that ends the attempt."""
        self.records[-1].duration_ms = round((now - self._started) * 1000)

    def _note(self, status: int, verdict: str, now: float, reason: str = "", message: str = "") -> None:
        """Complete the record of the current attempt."""
        record = self.records[-1]
        record.status, record.verdict, record.reason = status, verdict, reason
        record.message = self._gateway.cleaner.text(message)[:500] if message else ""
        record.duration_ms = round((now - self._started) * 1000)

    def failed(self, failure: Failure, now: float, wall_now: float, message: str) -> Decision:
        """Judge a failed attempt, tell the keys, and decide how to go on. `message` is the driver's own."""
        verdict = self._judge(failure, now, wall_now, message)
        self.last = (failure, verdict)
        if self._exhausted(verdict, failure):
            return self._give_up()
        return _POLICY[verdict.action](self, failure, verdict)

    def broke(self, failure: Failure, now: float, wall_now: float) -> None:
        """The attempt failed after its first output: what it tells about the key counts for later requests."""
        self._judge(failure, now, wall_now, "")

    def _judge(self, failure: Failure, now: float, wall_now: float, message: str) -> Verdict:
        if self.lease is None:
            raise RuntimeError("no attempt is running")
        family = self.candidate.provider.verdict_family or _FAMILY_BY_FORMAT[self._call.match.format.name]
        verdict = judge(family, failure, self.candidate.model, wall_now)
        self._gateway.keys.failed(self.lease, verdict, now, failure.status)
        self._note(
            failure.status, verdict.action.value, now, verdict.reason or failure.error, message or verdict.message
        )
        return verdict

    def abandoned(self, now: float) -> None:
        """The caller left, or the server stops: the key is not to blame."""
        self._end_unjudged("client_gone", "", now)

    def expired(self, now: float) -> None:
        """The time for the whole request is over: that says nothing about this key either."""
        self._end_unjudged(Action.PROVIDER.value, "request_timeout", now)

    def _end_unjudged(self, verdict: str, reason: str, now: float) -> None:
        if self.lease is not None and not self.records[-1].verdict:
            self._gateway.keys.released(self.lease, now)
            self._note(0, verdict, now, reason)

    def _exhausted(self, verdict: Verdict, failure: Failure) -> bool:
        if len(self.records) > self._settings.max_retries:
            return True
        if verdict.max_tries is not None and self._count(verdict.reason) >= verdict.max_tries:
            return True
        if failure.phase is Phase.CONNECT:
            self._connection_failures += 1
            return self._connection_failures > self._settings.retry_total
        # What the upstream may have carried out (a file stored, a batch begun) is not sent twice.
        repeatable = self._call.match.endpoint.operation is not Operation.OTHER
        repeatable = repeatable or self._visitor.head.method in _IDEMPOTENT
        return verdict.action is Action.PROVIDER and not repeatable

    def _count(self, reason: str) -> int:
        return sum(1 for record in self.records if record.reason == reason)

    def _client(self, _failure: Failure, _verdict: Verdict) -> Decision:
        return Decision(Next.RELAY)

    def _another_key(self, _failure: Failure, _verdict: Verdict) -> Decision:
        return Decision(Next.AGAIN)

    def _provider(self, _failure: Failure, _verdict: Verdict) -> Decision:
        wait_s = self._settings.retry_backoff_factor * 2 ** (len(self.records) - 1)
        self._waited_s = min(wait_s, 10.0)
        return Decision(Next.AGAIN, self._waited_s)

    def _egress(self, _failure: Failure, verdict: Verdict) -> Decision:
        if verdict.scope is Scope.KEY:
            return Decision(Next.AGAIN)
        self._candidates = [found for found in self._candidates if found.provider.name != self.candidate.provider.name]
        return Decision(Next.AGAIN) if self._candidates else self._give_up()

    def _state(self, _failure: Failure, _verdict: Verdict) -> Decision:
        owner = self._owner(tuple(found.provider.name for found in self._candidates), self._started)
        if owner is not None and owner not in self._tried and self._prefer is None:
            self._prefer = owner
            return Decision(Next.AGAIN)
        if self._stripped:
            return Decision(Next.RELAY)
        stripped = self._call.match.format.strip_bound_state(self._call)
        if stripped is None:
            return Decision(Next.RELAY)
        self._body, self._stripped = stripped, True
        self._tried.clear()
        return Decision(Next.AGAIN)

    # -- the end of the road ----------------------------------------------------------------------

    def _give_up(self) -> Decision:
        if self.last is None:
            raise RuntimeError("nothing has failed")
        failure, verdict = self.last
        if failure.phase is Phase.HEAD and failure.status >= 400:
            return Decision(Next.RELAY)
        return Decision(Next.FAIL, error=_as_error(failure, verdict))

    def _closing_error(self, error: MiddlewareError) -> MiddlewareError:
        """No key is left: the state of the keys explains most, unless the last failure was not about keys."""
        if self.last is None:
            return error
        failure, verdict = self.last
        if verdict.action in (Action.KEY_REST, Action.KEY_DEAD):
            return error
        if failure.phase is Phase.HEAD and failure.status >= 400:
            return RelayLast()
        return _as_error(failure, verdict)


class RelayLast(MiddlewareError):
    """Not an answer of ours: the last upstream answer explains more and goes to the caller."""


_POLICY: dict[Action, Callable[[Attempts, Failure, Verdict], Decision]] = {
    Action.CLIENT: Attempts._client,
    Action.KEY_DEAD: Attempts._another_key,
    Action.KEY_REST: Attempts._another_key,
    Action.MODEL_GONE: Attempts._another_key,
    Action.PROVIDER: Attempts._provider,
    Action.EGRESS: Attempts._egress,
    Action.STATE: Attempts._state,
}

_TIMEOUTS = frozenset({"first_byte_timeout", "idle_timeout"})


def _as_error(failure: Failure, verdict: Verdict) -> MiddlewareError:
    if failure.error in _TIMEOUTS:
        return UpstreamTimeout("The provider did not begin to answer in time (setting read_timeout).")
    if failure.phase in (Phase.CONNECT, Phase.SEND):
        return UpstreamUnreachable(f"The provider can't be reached ({verdict.reason or failure.error}).")
    if failure.error == EMPTY_ANSWER:
        return UpstreamError("The provider's answer was empty: it ended without any content. Ask again.")
    if failure.phase is Phase.BODY:
        return UpstreamError(f"The provider's answer is not usable ({failure.error}).")
    return UpstreamError("The provider failed before it gave any output.")


def _locate(base_url: str, path: str, query: str) -> tuple[str, str]:
    """Origin and target of an upstream URL. The origin and the prefix of `base_url` can't be changed by `path`."""
    base = urlsplit(base_url)
    target = quote(base.path.rstrip("/") + path, safe=_PATH_SAFE) or "/"
    return f"{base.scheme}://{base.netloc}", f"{target}?{query}" if query else target
