"""What the environment may say, and what is refused with the variable's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from app.config import Config
from app.errors import ConfigError


def refused(variable: str, **environ: str) -> str:
    """The message with which `environ` is refused, which must name `variable`."""
    with pytest.raises(ConfigError) as caught:
        Config.from_env(environ)
    assert caught.value.variable == variable
    assert str(caught.value).startswith(f"{variable}: ")
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults():
    config = Config.from_env({})

    assert (config.host, config.port, config.workers, config.threads) == ("127.0.0.1", 5000, 1, 64)
    assert config.database_url == "sqlite:///data/keys.db"
    assert config.key_file == Path("data/encryption.key")
    assert config.run_dir == Path("data/run")
    assert config.client_auth == "auto"
    assert config.environment == "production"
    assert config.log_level == "INFO"
    assert config.graceful_timeout_s == 30
    assert config.trusted_proxies == 0
    assert config.compiled == "auto"
    assert config.password is None
    assert config.secret_key is None
    assert config.encryption_key is None
    assert dict(config.provider_keys) == {"gemini": (), "openai": (), "anthropic": ()}
    assert dict(config.provider_base_urls) == {}
    assert dict(config.setting_overrides) == {}
    assert config.environment_providers == ()
    assert len(config.warnings) == 1
    assert "MIDDLEWARE_PASSWORD" in config.warnings[0]


def test_empty_values_count_as_unset():
    names = ("PORT", "HOST", "CLIENT_AUTH", "MIDDLEWARE_PASSWORD", "DB_PATH", "DATABASE_URL", "SECRET_KEY")
    more = ("WEB_CONCURRENCY", "OPENAI_API_KEYS", "REQUEST_TIMEOUT", "SECRET_KEY_FILE", "GEMINI_BASE_URL", "FLASK_ENV")

    assert Config.from_env(dict.fromkeys(names + more, "")) == Config.from_env({})
    assert Config.from_env(dict.fromkeys(names + more, "  ")) == Config.from_env({})


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("PORT", "abc", "between 0 and 65535"),
        ("PORT", "65536", "between 0 and 65535"),
        ("PORT", "-1", "between 0 and 65535"),
        ("PORT", "5000.5", "between 0 and 65535"),
        ("PORT", "٥", "between 0 and 65535"),
        ("WEB_CONCURRENCY", "0", "between 1 and 64"),
        ("WEB_CONCURRENCY", "two", "between 1 and 64"),
        ("THREADS", "0", "between 1 and 1000"),
        ("GRACEFUL_TIMEOUT", "soon", "between 0 and 3600"),
        ("TRUSTED_PROXIES", "yes", "between 0 and 100"),
        ("CLIENT_AUTH", "foo", "auto, required, open"),
        ("FLASK_ENV", "staging", "production, development"),
        ("COMPILED", "yes", "auto, off, required"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("HOST", "not a host", "address or a host name"),
        ("HOST", "127.0.0.1.5", "address or a host name"),
        ("HOST", "http://localhost", "address or a host name"),
        ("DATABASE_URL", "keys.db", "sqlite:///path/to/file"),
        ("DATABASE_URL", "mysql://u:p@h/d", "sqlite:///path/to/file"),
        ("DATABASE_URL", "sqlite://keys.db", "sqlite:///path/to/file"),
        ("DATABASE_URL", "sqlite://", "memory"),
        ("DATABASE_URL", "sqlite:///:memory:", "memory"),
        ("DATABASE_URL", "postgresql://u:p@h:port/d", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:p@h", "postgresql://"),
        ("DB_PATH", "data/keys.db?mode=memory", "path of a file"),
        ("OPENAI_BASE_URL", "api.openai.com", "https://api.example.com"),
        ("OPENAI_BASE_URL", "ftp://api.openai.com", "https://api.example.com"),
        ("GEMINI_BASE_URL", "https://", "https://api.example.com"),
        ("GEMINI_BASE_URL", "https://host:port", "https://api.example.com"),
        ("ANTHROPIC_BASE_URL", "https://a b", "https://api.example.com"),
        ("ANTHROPIC_BASE_URL", "https://u:p@host", "no user name"),
        ("ANTHROPIC_BASE_URL", "https://host/?a=b", "no query"),
        ("OPENAI_API_KEYS", "sk-ä", "characters that no key has"),
        ("MAX_RETRIES", "50", "between 1 and 20"),
        ("REQUEST_TIMEOUT", "4", "between 5 and 3600"),
        ("ENABLE_CORS", "perhaps", "true or false"),
        ("FAILOVER_STRATEGY", "best", "round_robin, least_used, random, priority"),
        ("MODEL_DEFAULT", "a\x07b", "control characters"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_would_be_right(variable, value, hint):
    assert hint in refused(variable, **{variable: value})


def test_a_bad_database_url_is_not_quoted_because_it_may_hold_a_password():
    assert "hunter2" not in refused("DATABASE_URL", DATABASE_URL="mysql://u:hunter2@h/d")


def test_listening_beyond_this_machine_takes_a_password():
    assert "HOST=0.0.0.0" in refused("MIDDLEWARE_PASSWORD", HOST="0.0.0.0")
    assert "HOST=" in refused("MIDDLEWARE_PASSWORD", HOST="::")
    assert "HOST=" in refused("MIDDLEWARE_PASSWORD", HOST="my-server.example")

    config = Config.from_env({"HOST": "0.0.0.0", "MIDDLEWARE_PASSWORD": "correct horse"})
    assert not config.is_loopback
    assert config.warnings == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_password(host):
    assert Config.from_env({"HOST": host}).is_loopback


def test_an_open_proxy_beyond_this_machine_is_warned_about():
    config = Config.from_env({"HOST": "0.0.0.0", "MIDDLEWARE_PASSWORD": "correct horse", "CLIENT_AUTH": "open"})

    assert any("CLIENT_AUTH=open" in warning for warning in config.warnings)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JWT_SECRET", "secret"),
        ("SECRET_KEY", "secret"),
        ("ADMIN_PASSWORD", "admin123"),
        ("MIDDLEWARE_PASSWORD", "admin123"),
        ("MIDDLEWARE_PASSWORD", "ChangeMe"),
    ],
)
def test_secrets_that_everyone_knows_are_refused_in_production_and_warned_about_in_development(variable, value):
    assert value not in refused(variable, **{variable: value}).split(": ", 1)[1]

    config = Config.from_env({variable: value, "NODE_ENV": "development"})
    assert any(warning.startswith(variable) for warning in config.warnings)


def test_node_env_is_another_name_of_flask_env():
    assert Config.from_env({"NODE_ENV": "development"}).environment == "development"
    assert Config.from_env({"NODE_ENV": "development", "FLASK_ENV": "production"}).environment == "production"


def test_the_other_names_of_secrets_work():
    config = Config.from_env({"ADMIN_PASSWORD": "correct horse", "JWT_SECRET": "battery staple"})

    assert config.password == "correct horse"
    assert config.secret_key == b"battery staple"


@pytest.mark.parametrize(("first", "second"), [("MIDDLEWARE_PASSWORD", "ADMIN_PASSWORD"), ("SECRET_KEY", "JWT_SECRET")])
def test_two_names_of_one_secret_must_agree(first, second):
    message = refused(second, **{first: "this one", second: "that one"})

    assert first in message
    assert "this one" not in message
    assert "that one" not in message
    Config.from_env({first: "the same", second: "the same"})


def test_secrets_can_lie_in_files(tmp_path):
    for name, text in {"password": "from a file\n", "keys": "sk-first,\nsk-second\n", "key": "x" * 20}.items():
        (tmp_path / name).write_text(text)

    config = Config.from_env(
        {
            "MIDDLEWARE_PASSWORD_FILE": str(tmp_path / "password"),
            "OPENAI_API_KEYS_FILE": str(tmp_path / "keys"),
            "ENCRYPTION_KEY_FILE": str(tmp_path / "key"),
        }
    )

    assert config.password == "from a file"
    assert config.provider_keys["openai"] == ("sk-first", "sk-second")
    assert config.encryption_key == "x" * 20
    assert config.key_file is None


def test_a_secret_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"x" * 100_000)

    assert "cannot be read" in refused("SECRET_KEY_FILE", SECRET_KEY_FILE=str(tmp_path / "missing"))
    assert "cannot be read" in refused("SECRET_KEY_FILE", SECRET_KEY_FILE=str(tmp_path))
    assert "must hold the secret" in refused("MIDDLEWARE_PASSWORD_FILE", MIDDLEWARE_PASSWORD_FILE=f"{tmp_path}/empty")
    assert "UTF-8" in refused("ENCRYPTION_KEY_FILE", ENCRYPTION_KEY_FILE=str(tmp_path / "binary"))
    assert "must hold the secret" in refused("ENCRYPTION_KEY_FILE", ENCRYPTION_KEY_FILE=str(tmp_path / "huge"))


def test_a_secret_and_its_file_must_agree(tmp_path):
    (tmp_path / "password").write_text("one")

    refused("MIDDLEWARE_PASSWORD_FILE", MIDDLEWARE_PASSWORD="two", MIDDLEWARE_PASSWORD_FILE=str(tmp_path / "password"))


def test_upstream_keys_come_from_all_names_each_once_and_in_order():
    config = Config.from_env(
        {
            "GEMINI_API_KEYS": "AIza-1, AIza-2,,AIza-1",
            "GEMINI_API_KEY": "AIza-3",
            "GOOGLE_API_KEY": "AIza-2",
            "OPENAI_API_KEY": "sk-1",
            "ANTHROPIC_API_KEY": "sk-ant-1",
        }
    )

    assert config.provider_keys["gemini"] == ("AIza-1", "AIza-2", "AIza-3")
    assert config.provider_keys["openai"] == ("sk-1",)
    assert config.provider_keys["anthropic"] == ("sk-ant-1",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://api.openai.com", "https://api.openai.com"),
        ("https://api.openai.com/", "https://api.openai.com"),
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("https://api.openai.com/v1/", "https://api.openai.com"),
        ("https://example.com/v1beta", "https://example.com"),
        ("http://127.0.0.1:8080/prefix/v1", "http://127.0.0.1:8080/prefix"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://example.com/my-v1", "https://example.com/my-v1"),
    ],
)
def test_base_urls_lose_their_version_path(given, kept):
    assert Config.from_env({"OPENAI_BASE_URL": given}).provider_base_urls["openai"] == kept


def test_database_parts_make_a_postgres_url():
    environ = {
        "DATABASE_HOST": "db.internal",
        "DATABASE_NAME": "proxy",
        "DATABASE_USER": "user@org",
        "DATABASE_PASSWORD": "p/w@:#",
    }

    config = Config.from_env(environ)
    assert config.database_url == "postgresql+psycopg://user%40org:p%2Fw%40%3A%23@db.internal:5432/proxy"
    assert config.key_file == Path("data/encryption.key")
    assert "p/w@:#" in config.secrets

    config = Config.from_env({**environ, "DATABASE_HOST": "::1", "DATABASE_PORT": "6000"})
    assert "@[::1]:6000/" in config.database_url


def test_database_parts_must_be_complete_and_alone():
    refused("DATABASE_NAME", DATABASE_HOST="db", DATABASE_USER="u")
    refused("DATABASE_USER", DATABASE_HOST="db", DATABASE_NAME="n")
    refused("DATABASE_PORT", DATABASE_HOST="db", DATABASE_NAME="n", DATABASE_USER="u", DATABASE_PORT="many")
    refused("DATABASE_HOST", DATABASE_HOST="d b", DATABASE_NAME="n", DATABASE_USER="u")
    refused("DATABASE_HOST", DATABASE_HOST="db", DATABASE_URL="sqlite:///x.db")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql+psycopg://u:p@h:5433/d?sslmode=require"),
        ("sqlite:////var/lib/keys.db", "sqlite:////var/lib/keys.db"),
        ("sqlite+pysqlite:///keys.db", "sqlite:///keys.db"),
    ],
)
def test_database_urls_of_the_usual_forms_are_taken(given, used):
    assert Config.from_env({"DATABASE_URL": given, "DB_PATH": "elsewhere.db"}).database_url == used


def test_the_key_file_lies_beside_the_database(tmp_path):
    config = Config.from_env({"DB_PATH": str(tmp_path / "my.db")})

    assert config.database_url == f"sqlite:///{tmp_path}/my.db"
    assert config.key_file == tmp_path / "encryption.key"
    assert config.run_dir == tmp_path / "run"


def test_live_settings_come_from_the_environment_in_capitals():
    config = Config.from_env({"REQUEST_TIMEOUT": "30", "LOG_LEVEL": "warn", "ENABLE_CORS": "on", "MODEL_DEFAULT": "m"})

    assert dict(config.setting_overrides) == {
        "request_timeout": "30",
        "log_level": "WARNING",
        "enable_cors": "true",
        "model_default": "m",
    }
    assert config.log_level == "WARNING"
    assert config.model_default == "m"


def test_databricks_is_described_by_the_environment():
    environ = {
        "MODEL_PROVIDER": "databricks",
        "DATABRICKS_API_BASE": "https://x.cloud.databricks.com/",
        "DATABRICKS_API_KEY": "dapi1",
    }

    (provider,) = Config.from_env(environ).environment_providers
    assert provider["name"] == provider["kind"] == "databricks"
    assert provider["base_url"] == "https://x.cloud.databricks.com"
    assert provider["keys"] == ("dapi1",)
    assert provider["path"] == "/serving-endpoints/databricks-claude-sonnet-4-5/invocations"

    (provider,) = Config.from_env({**environ, "DATABRICKS_ENDPOINT_PATH": "/other"}).environment_providers
    assert provider["path"] == "/other"
    refused("DATABRICKS_ENDPOINT_PATH", **environ, DATABRICKS_ENDPOINT_PATH="no-slash")
    refused("DATABRICKS_API_KEY", DATABRICKS_API_BASE="https://x.cloud.databricks.com")
    refused("DATABRICKS_API_BASE", DATABRICKS_API_KEY="dapi1")


def test_azure_anthropic_is_described_by_the_environment():
    environ = {
        "AZURE_ANTHROPIC_ENDPOINT": "https://r.services.ai.azure.com/anthropic/v1/messages",
        "AZURE_ANTHROPIC_API_KEY": "azure-key",
    }

    (provider,) = Config.from_env(environ).environment_providers
    assert provider["kind"] == "azure-anthropic"
    assert provider["base_url"] == "https://r.services.ai.azure.com/anthropic"
    assert provider["headers"] == {"anthropic-version": "2023-06-01"}
    refused("AZURE_ANTHROPIC_VERSION", **environ, AZURE_ANTHROPIC_VERSION="a\nb")
    refused("AZURE_ANTHROPIC_API_KEY", AZURE_ANTHROPIC_ENDPOINT="https://r.services.ai.azure.com/anthropic")
    refused("AZURE_ANTHROPIC_ENDPOINT", AZURE_ANTHROPIC_ENDPOINT="r.services", AZURE_ANTHROPIC_API_KEY="azure-key")


def test_a_chosen_provider_without_credentials_is_warned_about():
    config = Config.from_env({"MODEL_PROVIDER": "azure-anthropic", "MIDDLEWARE_PASSWORD": "correct horse"})

    assert len(config.warnings) == 1
    assert "AZURE_ANTHROPIC_ENDPOINT" in config.warnings[0]


def test_neither_repr_nor_mutation_gives_secrets_away():
    config = Config.from_env(
        {
            "MIDDLEWARE_PASSWORD": "hidden-password",
            "SECRET_KEY": "hidden-secret-key",
            "ENCRYPTION_KEY": "hidden-encryption-key",
            "OPENAI_API_KEYS": "hidden-openai",
            "DATABASE_URL": "postgresql://u:hidden-db@h/d",
            "DATABRICKS_API_BASE": "https://x.example",
            "DATABRICKS_API_KEY": "hidden-databricks",
        }
    )

    assert "hidden" not in repr(config)
    assert set(config.secrets) == {
        "hidden-password",
        "hidden-secret-key",
        "hidden-encryption-key",
        "hidden-openai",
        "hidden-db",
        "hidden-databricks",
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.password = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.provider_keys["openai"] = ()  # type: ignore[index]
