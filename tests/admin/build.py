"""The whole application over a temporary SQLite file, with a wall clock that tests move."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flask.testing import FlaskClient

from app import create_app
from app.clock import Clock
from app.config import Config
from app.context import Services

PASSWORD = "correct horse battery staple"
SECRET_KEY = "the secret of this test server.."


class Time:
    """A wall clock that moves when told to, and a microsecond at each look. Starts in the middle of a day."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def wall(self) -> float:
        self.now += 1e-6
        return self.now


class Middleware:
    """A running application; `client()` talks to it."""

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        secret_key: str = SECRET_KEY,
        host: str = "127.0.0.1",
        trusted_proxies: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.time = Time()
        given = {
            "DB_PATH": str(folder / "keys.db"),
            "HOST": host,
            "SECRET_KEY": secret_key,
            "ENCRYPTION_KEY": "a passphrase that only tests use",
            "TRUSTED_PROXIES": str(trusted_proxies),
        }
        if password is not None:
            given["MIDDLEWARE_PASSWORD"] = password
        self.app = create_app(Config.from_env({**given, **(environ or {})}), clock=Clock(wall=self.time.wall))
        self.services: Services = self.app.extensions["middleware"]

    def __enter__(self) -> Middleware:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.app.extensions["middleware_lifecycle"].stop()

    def client(self, *, bearer: bool = False) -> FlaskClient:
        """A browser or script; `bearer` makes it one that is logged in with a token."""
        client = self.app.test_client()
        if bearer:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {self.token()}"
        return client

    def token(self) -> str:
        answer = self.app.test_client().post("/middleware/api/login", json={"password": PASSWORD})
        token: str = answer.get_json()["token"]
        return token

    def add_key(self, value: str = "sk-0123456789abcdef", **fields: Any) -> int:
        """Add a key through the API; returns its id."""
        answer = self.client(bearer=True).post("/middleware/api/keys", json={"key": value, **fields})
        assert answer.status_code == 201, answer.text
        key_id: int = answer.get_json()["id"]
        return key_id

    def real_keys(self) -> list[dict[str, Any]]:
        """The keys as the API lists them, without those of the demonstration."""
        rows = self.client(bearer=True).get("/middleware/api/keys").get_json()
        return [row for row in rows if not row["demonstration"]]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
