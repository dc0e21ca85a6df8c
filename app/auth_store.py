"""
Who is logged in, and who has guessed too often: the tables `admin_sessions` and `login_attempts`.

Tokens are random and are stored only as an HMAC keyed with SECRET_KEY, so a copy of the database opens no session, and
a new SECRET_KEY or a new password ends all of them. Every attempt is counted before the password is looked at: a
hundred attempts at once get no more guesses than a hundred in a row.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from app.clock import Clock
from app.errors import RateLimited
from app.storage.database import Database
from app.storage.schema import admin_sessions, login_attempts

log = logging.getLogger(__name__)

#: What a store raises when the database is locked, full or gone. The admin API answers 503 to it.
StorageFailure = SQLAlchemyError

IDLE_S = 12 * 3600.0
ABSOLUTE_S = 7 * 86400.0
BEARER_S = 24 * 3600.0
#: The idle limit is pushed out at most this often, so that a polling page is not a writer.
TOUCH_EVERY_S = 300.0

FREE_FAILURES = 5
LONGEST_LOCK_S = 300.0
#: A quiet hour forgives everything.
FORGET_AFTER_S = 3600.0

#: From everywhere together: beyond this many failures in a window, guesses are let in one per second.
STORM_FAILURES = 60
STORM_WINDOW_S = 60.0
STORM_SPACING_S = 1.0
_EVERYBODY = "*"


class SessionKind(StrEnum):
    COOKIE = "cookie"
    BEARER = "bearer"


class TooManyAttempts(RateLimited):
    """Somebody guessed too often. Logins from there wait; sessions that are open stay open."""

    code = "too_many_attempts"


@dataclass(frozen=True, slots=True)
class Session:
    """
    An open session. Instants are Unix seconds.

    expires_at  -- for a cookie the end of its idle time, which requests push out; for a bearer its end
    csrf_token  -- what a form or script of this session must send with a change; empty for a bearer
    """

    kind: SessionKind
    created_at: float
    expires_at: float
    csrf_token: str


class AuthStore:
    """
    Sessions and the login throttle. Thread-safe: it holds no state of its own.

    secret_key  -- the same in every worker, or a session of one would be unknown to the next
    password    -- None leaves the administration open
    """

    def __init__(self, database: Database, secret_key: bytes, password: str | None, clock: Clock) -> None:
        self._database = database
        self._secret_key = secret_key
        self._clock = clock
        self._password_hash = "" if password is None else self._hmac("password", password)

    @property
    def password_set(self) -> bool:
        return self._password_hash != ""

    def password_is(self, given: str) -> bool:
        """Whether `given` is the password, in constant time. True for anything while none is set."""
        return not self.password_set or hmac.compare_digest(self._hmac("password", given), self._password_hash)

    # -- sessions ------------------------------------------------------------------------------------

    def open_session(self, kind: SessionKind) -> tuple[str, float]:
        """Return a new token, which is nowhere stored, and the Unix second at which it expires."""
        token = secrets.token_urlsafe(32)
        now = self._clock.wall()
        expires_at = now + (IDLE_S if kind is SessionKind.COOKIE else BEARER_S)
        with self._database.transaction() as connection:
            connection.execute(delete(admin_sessions).where(admin_sessions.c.expires_at <= now))
            connection.execute(
                insert(admin_sessions).values(
                    token_hash=self._hmac("session", token),
                    created_at=now,
                    expires_at=expires_at,
                    kind=kind.value,
                    password_hash=self._password_hash,
                )
            )
        return token, expires_at

    def session(self, token: str, kind: SessionKind) -> Session | None:
        """The open session of this token, its idle time pushed out, or None."""
        token_hash = self._hmac("session", token)
        with self._database.read() as connection:
            row = connection.execute(
                select(admin_sessions).where(
                    admin_sessions.c.token_hash == token_hash,
                    admin_sessions.c.kind == kind.value,
                )
            ).first()
        now = self._clock.wall()
        if row is None or row.expires_at <= now or not hmac.compare_digest(row.password_hash, self._password_hash):
            return None
        expires_at = float(row.expires_at)
        if kind is SessionKind.COOKIE:
            expires_at = self._touch(token_hash, float(row.created_at), expires_at, now)
        csrf_token = self._hmac("csrf", token) if kind is SessionKind.COOKIE else ""
        return Session(kind, float(row.created_at), expires_at, csrf_token)

    def end_session(self, token: str) -> None:
        """End the session of this token, if there is one."""
        with self._database.transaction() as connection:
            connection.execute(
                delete(admin_sessions).where(admin_sessions.c.token_hash == self._hmac("session", token))
            )

    def csrf_matches(self, session: Session, given: str) -> bool:
        return hmac.compare_digest(session.csrf_token.encode(), given.encode("utf-8", "surrogatepass"))

    def _touch(self, token_hash: str, created_at: float, expires_at: float, now: float) -> float:
        later = min(now + IDLE_S, created_at + ABSOLUTE_S)
        if later - expires_at < TOUCH_EVERY_S:
            return expires_at
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    update(admin_sessions).where(admin_sessions.c.token_hash == token_hash).values(expires_at=later)
                )
        except SQLAlchemyError:
            log.warning("The idle time of a session could not be pushed out: the database takes no writes.")
            return expires_at
        return later

    def _hmac(self, purpose: str, text: str) -> str:
        key = hmac.new(self._secret_key, f"middleware {purpose}".encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    # -- the throttle --------------------------------------------------------------------------------

    def count_attempt(self, peer: str) -> None:
        """
        Count one attempt to give the password from this address, before it is looked at.

        Raises TooManyAttempts, with the seconds to wait, while the address has to wait. An attempt made while waiting
        changes nothing, so that nobody can be kept out for longer than LONGEST_LOCK_S at a time.
        """
        for last_try in (False, True):
            try:
                with self._database.transaction() as connection:
                    self._count(connection, _network(peer))
                return
            except IntegrityError:  # two first attempts from one address in the same instant
                if last_try:
                    raise

    def forgive(self, peer: str) -> None:
        """The password was right: this address starts afresh."""
        with self._database.transaction() as connection:
            connection.execute(delete(login_attempts).where(login_attempts.c.peer == _network(peer)))
            connection.execute(
                update(login_attempts)
                .where(login_attempts.c.peer == _EVERYBODY, login_attempts.c.failures > 0)
                .values(failures=login_attempts.c.failures - 1, locked_until=0.0)
            )

    def _count(self, connection: Connection, peer: str) -> None:
        now = self._clock.wall()
        rows = {
            row["peer"]: row
            for row in connection.execute(
                select(login_attempts).where(login_attempts.c.peer.in_((peer, _EVERYBODY))).with_for_update()
            ).mappings()
        }
        own, everybody = rows.get(peer), rows.get(_EVERYBODY)
        _refuse_while_locked((own, everybody), now)
        connection.execute(
            delete(login_attempts).where(
                or_(login_attempts.c.last_at < now - FORGET_AFTER_S, login_attempts.c.last_at > now + STORM_WINDOW_S)
            )
        )
        _save(connection, peer, _after_own(own, now))
        _save(connection, _EVERYBODY, _after_everybody(everybody, now))


def _refuse_while_locked(rows: tuple[RowMapping | None, ...], now: float) -> None:
    # A lock that was set in the future is one from before the clock was put back.
    waits = [row["locked_until"] - now for row in rows if row is not None and row["last_at"] <= now + STORM_WINDOW_S]
    wait_s = max(waits, default=0.0)
    if wait_s > 0:
        seconds = math.ceil(wait_s)
        raise TooManyAttempts(
            f"Too many wrong passwords. Try again in {seconds} second{'s' if seconds > 1 else ''}.",
            retry_after_s=float(seconds),
        )


def _after_own(row: RowMapping | None, now: float) -> dict[str, Any]:
    stale = row is None or not 0 <= now - row["last_at"] <= FORGET_AFTER_S
    failures = 1 if stale or row is None else row["failures"] + 1
    beyond = failures - FREE_FAILURES
    lock_s = min(LONGEST_LOCK_S, 2.0 ** min(beyond, 16)) if beyond >= 0 else 0.0
    return {"failures": failures, "locked_until": now + lock_s, "last_at": now}


def _after_everybody(row: RowMapping | None, now: float) -> dict[str, Any]:
    """`last_at` of this row is where its window began."""
    if row is None or not 0 <= now - row["last_at"] <= STORM_WINDOW_S:
        return {"failures": 1, "locked_until": 0.0, "last_at": now}
    failures = row["failures"] + 1
    spacing_s = STORM_SPACING_S if failures > STORM_FAILURES else 0.0
    return {"failures": failures, "locked_until": now + spacing_s, "last_at": row["last_at"]}


def _save(connection: Connection, peer: str, values: dict[str, Any]) -> None:
    changed = connection.execute(update(login_attempts).where(login_attempts.c.peer == peer).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(login_attempts).values(peer=peer, **values))


def _network(peer: str) -> str:
    """The address as it is counted: one IPv6 customer owns a whole /64."""
    try:
        address = ipaddress.ip_address(peer.split("%", 1)[0])
    except ValueError:
        return peer[:64] or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
