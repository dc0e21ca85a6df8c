"""
The start-up configuration: the environment, read once into a frozen object. Pure but for secrets that lie in files.

Refuses to start with a value that cannot be right, naming the variable and what would be right. Every secret may also
be given as the path of a file, in a variable of the same name with `_FILE` appended. Empty values count as unset.
Loading `.env` is the caller's job.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from . import settings
from .errors import BadRequest, ConfigError

#: Provider kind -> the variables whose keys are imported, comma lists first.
KEY_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "gemini": ("GEMINI_API_KEYS", "GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai": ("OPENAI_API_KEYS", "OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEYS", "ANTHROPIC_API_KEY"),
}
BASE_URL_VARIABLES: Final[Mapping[str, str]] = {kind: f"{kind.upper()}_BASE_URL" for kind in KEY_VARIABLES}
#: Values from tutorials that everyone knows: refused in production.
WEAK_SECRETS: Final = frozenset(
    ("secret", "admin123", "admin", "password", "changeme", "change-me", "change_me", "letmein", "123456", "12345678")
)

DATABRICKS_PATH: Final = "/serving-endpoints/databricks-claude-sonnet-4-5/invocations"
AZURE_ANTHROPIC_VERSION: Final = "2023-06-01"

_MAX_SECRET_FILE_BYTES: Final = 65536
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_POSTGRES_SCHEMES: Final = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_SQLITE_SCHEMES: Final = frozenset({"sqlite", "sqlite+pysqlite"})


@dataclass(frozen=True, slots=True)
class Config:
    """
    Everything that is fixed from the start to the stop of a process.

    password            -- of the dashboard; None leaves it open, which only a loopback `host` may
    client_auth         -- `auto`, `required` or `open`
    database_url        -- `sqlite:///path` or `postgresql+psycopg://...`
    secret_key          -- signs sessions; None = made at each start
    encryption_key      -- passphrase for stored secrets; None = `key_file` is used
    key_file            -- beside the SQLite file, else in `data`; None when there is an `encryption_key`
    environment         -- `production` or `development`
    workers, threads    -- processes, and threads in each
    driver              -- `loop` or `threads`: what carries the proxied calls
    compiled            -- `auto`, `off` or `required`: whether the hot path runs as machine code
    provider_keys       -- provider kind -> upstream keys from the environment
    provider_base_urls  -- provider kind -> origin without version path
    setting_overrides   -- live setting -> its value as text, already checked
    trusted_proxies     -- how many proxies in front of us may be believed about the client's address
    environment_providers -- providers that the environment describes whole: dicts with `name`, `kind`, `base_url`,
                           `keys` (tuple), `models` (tuple), `query` (dict), `headers` (dict) and
                           `path` (below `base_url`; empty = the kind's own)
    run_dir             -- folder for what only running processes need
    warnings            -- sentences to log at start
    """

    host: str
    port: int
    password: str | None = field(repr=False)
    client_auth: str
    database_url: str = field(repr=False)
    secret_key: bytes | None = field(repr=False)
    encryption_key: str | None = field(repr=False)
    key_file: Path | None
    environment: str
    log_level: str
    workers: int
    threads: int
    driver: str
    compiled: str
    graceful_timeout_s: float
    provider_keys: Mapping[str, tuple[str, ...]] = field(repr=False)
    provider_base_urls: Mapping[str, str]
    setting_overrides: Mapping[str, str]
    trusted_proxies: int
    model_provider: str
    model_default: str
    environment_providers: tuple[Mapping[str, Any], ...] = field(repr=False)
    run_dir: Path
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """The configuration that `environ` describes. Raises ConfigError, which names the variable."""
        return _build(_Reader(environ))

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret text in here, for redaction."""
        in_url = urlsplit(self.database_url).password
        found = [self.password, self.encryption_key, in_url, unquote(in_url) if in_url else None]
        found.append(self.secret_key.decode("utf-8", "replace") if self.secret_key else None)
        for keys in self.provider_keys.values():
            found += keys
        for provider in self.environment_providers:
            found += provider["keys"]
        return tuple(dict.fromkeys(secret for secret in found if secret))


def is_loopback(host: str) -> bool:
    """Whether `host` (an address or a name to listen on) is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Reader:
    """The environment without empty values, and the ways to read one variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {name: value for name, value in environ.items() if value.strip()}

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name, default).strip()

    def integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        raw = self.text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", raw, re.ASCII) or not minimum <= int(raw) <= maximum:
            raise ConfigError(name, f"must be a whole number between {minimum} and {maximum}, not {raw[:40]!r}.")
        return int(raw)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        raw = self.text(name, default).lower()
        allowed = tuple(choices)
        if raw not in allowed:
            raise ConfigError(name, f"must be one of {', '.join(allowed)}, not {raw[:40]!r}.")
        return raw

    def secret(self, *names: str) -> tuple[str, str | None]:
        """(variable it came from, value) of a secret with several names. Two different values are refused."""
        found: dict[str, str] = {}
        for name in names:
            if name in self._values:
                found[name] = self._values[name]
            if f"{name}_FILE" in self._values:
                found[f"{name}_FILE"] = self._read_file(f"{name}_FILE")
        if len(set(found.values())) > 1:
            first, second = list(found)[:2]
            raise ConfigError(second, f"says something else than {first}; set only one of them.")
        return next(iter(found.items()), (names[0], None))

    def key_list(self, *names: str) -> tuple[str, ...]:
        """The keys of all these variables, each once, in order. They are separated by commas or white space."""
        keys: dict[str, None] = {}
        for name in names:
            variable, value = self.secret(name)
            for key in re.split(r"[,\s]+", value or ""):
                if not (key.isascii() and key.isprintable()):
                    raise ConfigError(variable, "holds a key with characters that no key has.")
                if key:
                    keys[key] = None
        return tuple(keys)

    def base_url(self, name: str) -> str:
        """An http(s) origin with an optional prefix and no version path; empty when unset."""
        return clean_base_url(name, self.text(name)) if self.text(name) else ""

    def overrides(self) -> dict[str, str]:
        """Live settings given in the environment, checked."""
        found: dict[str, str] = {}
        for row in settings.SETTINGS:
            raw = self.text(row.environment_name)
            if not raw:
                continue
            try:
                found[row.name] = settings.to_text(settings.parse(row.name, raw))
            except BadRequest as error:
                reason = error.message.removeprefix(f"{row.name} ")
                raise ConfigError(row.environment_name, f"{reason}, not {raw[:40]!r}.") from error
        return found

    def _read_file(self, name: str) -> str:
        path = Path(self.text(name)).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_SECRET_FILE_BYTES + 1)
            value = content.decode("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(name, f"the file {path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise ConfigError(name, f"the file {path} is not UTF-8 text.") from error
        if not value.strip() or len(content) > _MAX_SECRET_FILE_BYTES:
            raise ConfigError(name, f"the file {path} must hold the secret, and nothing else.")
        return value


def clean_base_url(variable: str, raw: str) -> str:
    """`raw` without trailing slash and version path. Raises ConfigError when it is not an http(s) URL."""
    try:
        parts = urlsplit(raw)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f\x7f\\]", raw):
        raise ConfigError(variable, f"must be an address such as https://api.example.com, not {raw[:80]!r}.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(variable, "must be an origin only: no user name, no query and no fragment.")
    path = re.sub(r"/v1(beta)?$", "", parts.path.rstrip("/")).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _build(read: _Reader) -> Config:
    environment = read.choice("FLASK_ENV", read.text("NODE_ENV", "production"), ("production", "development"))
    warnings: list[str] = []
    password = _guarded_secret(read, environment, warnings, "MIDDLEWARE_PASSWORD", "ADMIN_PASSWORD")
    secret_key = _guarded_secret(read, environment, warnings, "SECRET_KEY", "JWT_SECRET")
    host = _host(read)
    client_auth = read.choice("CLIENT_AUTH", "auto", ("auto", "required", "open"))
    _check_exposure(host, password, client_auth, warnings)
    overrides = read.overrides()
    database_url = _database_url(read)
    data_dir = _data_dir(database_url)
    encryption_key = read.secret("ENCRYPTION_KEY")[1]
    providers = (*_databricks(read), *_azure_anthropic(read))
    _check_model_provider(read, providers, warnings)
    return Config(
        host=host,
        port=read.integer("PORT", 5000, 0, 65535),
        password=password,
        client_auth=client_auth,
        database_url=database_url,
        secret_key=secret_key.encode("utf-8", "surrogateescape") if secret_key else None,
        encryption_key=encryption_key,
        key_file=None if encryption_key else data_dir / "encryption.key",
        environment=environment,
        log_level=overrides.get("log_level", "INFO"),
        workers=read.integer("WEB_CONCURRENCY", 1, 1, 64),
        threads=read.integer("THREADS", 64, 1, 1000),
        driver=read.choice("DRIVER", "loop", ("loop", "threads")),
        compiled=read.choice("COMPILED", "auto", ("auto", "off", "required")),
        graceful_timeout_s=read.integer("GRACEFUL_TIMEOUT", 30, 0, 3600),
        provider_keys=MappingProxyType({kind: read.key_list(*names) for kind, names in KEY_VARIABLES.items()}),
        provider_base_urls=MappingProxyType(
            {kind: url for kind, name in BASE_URL_VARIABLES.items() if (url := read.base_url(name))}
        ),
        setting_overrides=MappingProxyType(overrides),
        trusted_proxies=read.integer("TRUSTED_PROXIES", 0, 0, 100),
        model_provider=read.text("MODEL_PROVIDER"),
        model_default=read.text("MODEL_DEFAULT"),
        environment_providers=providers,
        run_dir=Path(read.text("RUN_DIR") or data_dir / "run").expanduser(),
        warnings=tuple(warnings),
    )


def _guarded_secret(read: _Reader, environment: str, warnings: list[str], *names: str) -> str | None:
    """A secret that must not be one of the values everyone knows."""
    variable, value = read.secret(*names)
    if value is not None and value.strip().lower() in WEAK_SECRETS:
        if environment == "production":
            raise ConfigError(variable, "everyone knows this value; choose another, or set FLASK_ENV=development.")
        warnings.append(f"{variable} has a value that everyone knows. Production refuses it.")
    return value


def _host(read: _Reader) -> str:
    host = read.text("HOST", "127.0.0.1").strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # All digits and dots is a mistyped address, never a name.
        if not _HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
            raise ConfigError("HOST", f"must be an address or a host name to listen on, not {host[:80]!r}.") from None
    return host


def _check_exposure(host: str, password: str | None, client_auth: str, warnings: list[str]) -> None:
    if is_loopback(host):
        if password is None:
            warnings.append("MIDDLEWARE_PASSWORD is not set: the dashboard is open to everyone on this machine.")
        return
    if password is None:
        raise ConfigError(
            "MIDDLEWARE_PASSWORD",
            f"must be set, because HOST={host} lets other machines in, and without it they could read and change "
            "everything. Set it, or use HOST=127.0.0.1.",
        )
    if client_auth == "open":
        warnings.append(f"CLIENT_AUTH=open on HOST={host}: everyone who reaches this server can use its keys.")


def _database_url(read: _Reader) -> str:
    variable, given = read.secret("DATABASE_URL")
    if given and read.text("DATABASE_HOST"):
        raise ConfigError("DATABASE_HOST", "is set together with DATABASE_URL; set only one of them.")
    if given:
        return _clean_database_url(variable, given.strip())
    if read.text("DATABASE_HOST"):
        return _postgres_url(read)
    path = Path(read.text("DB_PATH", "data/keys.db")).expanduser()
    if re.search(r"[\x00-\x1f?]", str(path)) or path.name in ("", ".", ".."):
        raise ConfigError("DB_PATH", f"must be the path of a file, not {str(path)[:80]!r}.")
    return f"sqlite:///{path}"


def _clean_database_url(variable: str, raw: str) -> str:
    expected = "must be sqlite:///path/to/file or postgresql://user:password@host:port/name."
    scheme, separator, rest = raw.partition("://")
    if scheme in _SQLITE_SCHEMES and separator:
        path = rest[1:]
        if not path or path.startswith(":memory:"):
            raise ConfigError(variable, f"{expected} A database in memory cannot be shared by several connections.")
        if not rest.startswith("/") or re.search(r"[\x00-\x1f?]", path):
            raise ConfigError(variable, expected)
        return f"sqlite:///{path}"
    try:
        parts = urlsplit(raw)
        valid = scheme in _POSTGRES_SCHEMES and bool(parts.hostname) and len(parts.path) > 1 and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not raw.isprintable() or " " in raw:
        raise ConfigError(variable, expected)  # the value may hold a password: it is not quoted
    return f"postgresql+psycopg://{rest}"


def _postgres_url(read: _Reader) -> str:
    host = read.text("DATABASE_HOST")
    port = read.integer("DATABASE_PORT", 5432, 1, 65535)
    for name in ("DATABASE_NAME", "DATABASE_USER"):
        if not read.text(name):
            raise ConfigError(name, "must be set together with DATABASE_HOST.")
    password = read.secret("DATABASE_PASSWORD")[1]
    user = quote(read.text("DATABASE_USER"), safe="") + (f":{quote(password, safe='')}" if password else "")
    if ":" in host:
        host = f"[{host.strip('[]')}]"
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ConfigError("DATABASE_HOST", f"must be a host name or an address, not {host[:80]!r}.")
    return f"postgresql+psycopg://{user}@{host}:{port}/{quote(read.text('DATABASE_NAME'), safe='')}"


def _data_dir(database_url: str) -> Path:
    path = database_url.removeprefix("sqlite:///")
    return Path(path).parent if path != database_url else Path("data")


def _databricks(read: _Reader) -> tuple[Mapping[str, Any], ...]:
    keys = read.key_list("DATABRICKS_API_KEY")
    base_url = read.base_url("DATABRICKS_API_BASE")
    if not base_url and not keys:
        return ()
    _need_both("DATABRICKS_API_BASE", base_url, "DATABRICKS_API_KEY", keys)
    path = read.text("DATABRICKS_ENDPOINT_PATH", DATABRICKS_PATH)
    if not re.fullmatch(r"/[!-~]*", path) or ".." in path:
        raise ConfigError("DATABRICKS_ENDPOINT_PATH", f"must be a path that begins with /, such as {DATABRICKS_PATH}.")
    return (_provider("databricks", base_url, keys, path=path),)


def _azure_anthropic(read: _Reader) -> tuple[Mapping[str, Any], ...]:
    keys = read.key_list("AZURE_ANTHROPIC_API_KEY")
    endpoint = read.text("AZURE_ANTHROPIC_ENDPOINT")
    if not endpoint and not keys:
        return ()
    _need_both("AZURE_ANTHROPIC_ENDPOINT", endpoint, "AZURE_ANTHROPIC_API_KEY", keys)
    # The endpoint is often given whole, with the path of its one call.
    base_url = clean_base_url("AZURE_ANTHROPIC_ENDPOINT", re.sub(r"/v1/messages/?$", "", endpoint))
    version = read.text("AZURE_ANTHROPIC_VERSION", AZURE_ANTHROPIC_VERSION)
    if not re.fullmatch(r"[0-9A-Za-z.-]{1,40}", version):
        raise ConfigError("AZURE_ANTHROPIC_VERSION", f"must be a version such as {AZURE_ANTHROPIC_VERSION}.")
    return (_provider("azure-anthropic", base_url, keys, headers={"anthropic-version": version}),)


def _check_model_provider(read: _Reader, providers: Iterable[Mapping[str, Any]], warnings: list[str]) -> None:
    """Missing credentials of one provider are told, but the others go on working."""
    wanted = read.text("MODEL_PROVIDER")
    needs = {
        "databricks": "DATABRICKS_API_BASE and DATABRICKS_API_KEY",
        "azure-anthropic": "AZURE_ANTHROPIC_ENDPOINT and AZURE_ANTHROPIC_API_KEY",
    }
    if wanted in needs and wanted not in {provider["name"] for provider in providers}:
        warnings.append(f"MODEL_PROVIDER={wanted} needs {needs[wanted]}, which are not set.")


def _need_both(url_variable: str, url: str, key_variable: str, keys: tuple[str, ...]) -> None:
    if not url or not keys:
        missing, given = (key_variable, url_variable) if url else (url_variable, key_variable)
        raise ConfigError(missing, f"must be set together with {given}.")


def _provider(
    kind: str, base_url: str, keys: tuple[str, ...], *, path: str = "", headers: Mapping[str, str] | None = None
) -> Mapping[str, Any]:
    entry: dict[str, Any] = {"name": kind, "kind": kind, "base_url": base_url, "keys": keys, "models": (), "query": {}}
    return {**entry, "headers": dict(headers or {}), "path": path}
