"""
The words of key rotation: states, verdicts and what they apply to. Pure: types only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """State of an upstream key, spelled as the admin API and the database spell it."""

    HEALTHY = "Healthy"
    RESTING = "Resting"
    DISABLED = "Disabled"


class Action(StrEnum):
    """What one failed attempt means."""

    CLIENT = "CLIENT"  # the caller's own fault: answer it, touch no key
    KEY_DEAD = "KEY_DEAD"  # disable until a person enables it again
    KEY_REST = "KEY_REST"  # out of play until an instant
    MODEL_GONE = "MODEL_GONE"  # this key does not offer this model
    PROVIDER = "PROVIDER"  # the provider's trouble: no key's fault
    EGRESS = "EGRESS"  # our network, address or region
    STATE = "STATE"  # conversation state that belongs to another key


class Scope(StrEnum):
    """What a rest or a death covers. A key without a group is a group of its own."""

    NONE = "none"
    KEY = "key"
    KEY_MODEL = "key_model"
    GROUP = "group"
    GROUP_MODEL = "group_model"
    PROVIDER = "provider"  # every key of this provider entry


class Phase(StrEnum):
    """How far an attempt had come when it failed."""

    CONNECT = "connect"  # no connection: DNS, refused, TLS, connect timeout
    SEND = "send"  # connected, request not answered by a status line
    HEAD = "head"  # a complete answer with a status; `status`, `headers`, `body` are set
    BODY = "body"  # a 2xx answer whose body is broken, empty or not what was asked for
    STREAM = "stream"  # an error event inside a 200 stream


@dataclass(frozen=True, slots=True)
class Failure:
    """
    One failed attempt, as the verdict function sees it.

    status   -- HTTP status; 200 for phase STREAM, 0 when no status line came
    headers  -- lower-case names
    body     -- the answer's body (at most 64 KiB of it), or the error event's JSON for phase STREAM
    error    -- for failures without an answer: a short code such as `dns`, `refused`, `tls`, `connect_timeout`,
                `reset`, `first_byte_timeout`, `incomplete`, `invalid_body`
    """

    phase: Phase
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A growing wait: `first_s`, then times `factor` at each repeat, at most `cap_s`."""

    first_s: float
    factor: float
    cap_s: float

    def wait_s(self, level: int) -> float:
        """Seconds to wait at the `level`-th failure in a row, counted from 0."""
        if level > 60:
            return self.cap_s
        return min(self.cap_s, self.first_s * self.factor**level)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The decision on one failed attempt.

    rest_s      -- an exact wait that the provider named, in seconds, already clamped; None where none was named
    ladder      -- the growing wait to use when `rest_s` is None
    reason      -- a stable code for logs, metrics and the dashboard, e.g. `rate_limited_per_day`
    message     -- the provider's own sentence (it may hold a secret: redact before showing)
    model       -- the model that the error named, where it differs from what was asked
    alert       -- a person should look at this
    max_tries   -- give up after this many attempts with this same reason; None leaves it to the settings
    """

    action: Action
    scope: Scope = Scope.NONE
    reason: str = ""
    message: str = ""
    rest_s: float | None = None
    ladder: Ladder | None = None
    model: str | None = None
    alert: bool = False
    max_tries: int | None = None


class Lease:
    """
    A key handed out for one attempt. `value` never appears in `repr`. Nobody changes one. A plain class: each attempt
    makes one.

    probe   -- this attempt is the one probe of a key whose rest has just ended
    serial  -- position in the order of picks; it tells which rests are younger than the attempt
    epoch   -- counts the changes that people made to the key; a report with an older one changes nothing about the key
    """

    __slots__ = ("epoch", "key_id", "model", "probe", "provider", "serial", "value")

    def __init__(
        self,
        key_id: int,
        provider: str,
        model: str | None,
        value: str,
        probe: bool = False,
        serial: int = 0,
        epoch: int = 0,
    ) -> None:
        self.key_id = key_id
        self.provider = provider
        self.model = model
        self.value = value
        self.probe = probe
        self.serial = serial
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"Lease(key_id={self.key_id}, provider={self.provider!r}, model={self.model!r}, serial={self.serial})"


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """
    What an attempt needs.

    providers   -- provider entries in order of preference; the first with an eligible key wins
    model       -- the upstream model per provider entry
    excluding   -- ids of the keys already tried for this request
    preferred   -- id of the key that owns the conversation's state, or None
    """

    providers: tuple[str, ...]
    models: Mapping[str, str | None]
    excluding: frozenset[int] = frozenset()
    preferred: int | None = None
