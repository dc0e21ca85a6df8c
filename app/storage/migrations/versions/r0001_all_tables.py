"""
All tables. A file of the older application is adopted on the way: its rows are set aside, then copied.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from app.storage import adopt

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, whatever was there before."""
    connection = op.get_bind()
    old = connection.dialect.name == "sqlite" and adopt.is_old_file(connection)
    if old:
        adopt.set_aside(connection)
    for make in (_keys, _statistics, _configuration, _clients, _records, _sessions, _facts):
        make()
    op.execute("INSERT INTO revision (id, value) VALUES (1, 0)")
    if old:
        adopt.bring_back(connection, context.config.attributes["vault"])


def _keys() -> None:
    op.create_table(
        "providers",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("base_url", sa.Text(), server_default="", nullable=False),
        sa.Column("formats", sa.Text(), server_default="[]", nullable=False),
        sa.Column("models", sa.Text(), server_default="[]", nullable=False),
        sa.Column("headers", sa.Text(), server_default="", nullable=False),
        sa.Column("query", sa.Text(), server_default="{}", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="100", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("created_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "keys",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), server_default="Unnamed", nullable=False),
        sa.Column("key_value", sa.Text(), nullable=False),
        sa.Column("key_hmac", sa.String(length=64), nullable=False),
        sa.Column("key_hint", sa.String(length=16), server_default="", nullable=False),
        sa.Column("provider", sa.String(length=64), server_default="gemini", nullable=False),
        sa.Column("group", sa.String(length=128), server_default="", nullable=False),
        sa.Column("models", sa.Text(), server_default="[]", nullable=False),
        sa.Column("status", sa.String(length=16), server_default="Healthy", nullable=False),
        sa.Column("disabled_until", sa.Float(), nullable=True),
        sa.Column("reason", sa.String(length=64), server_default="", nullable=False),
        sa.Column("evidence", sa.Text(), server_default="", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="1", nullable=False),
        sa.Column("last_rotated_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("state_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("state_by", sa.String(length=16), server_default="system", nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total_requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_hmac"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_keys_provider", "keys", ["provider"], unique=False)
    op.create_table(
        "key_model_rests",
        sa.Column("key_id", ID, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(length=64), server_default="", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", "model"),
    )
    op.create_table(
        "imported_keys",
        sa.Column("key_hmac", sa.String(length=64), nullable=False),
        sa.Column("imported_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key_hmac"),
    )


def _statistics() -> None:
    op.create_table(
        "daily_stats",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("date", sa.String(length=10), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("successes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_latency_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error_codes", sa.Text(), server_default="{}", nullable=False),
        sa.Column("model_usage", sa.Text(), server_default="{}", nullable=False),
        sa.UniqueConstraint("key_id", "date"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "model_stats",
        sa.Column("key_id", ID, nullable=False),
        sa.Column("date", sa.String(length=10), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", "date", "model"),
    )


def _configuration() -> None:
    op.create_table(
        "settings",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "model_aliases",
        sa.Column("alias", sa.String(length=256), nullable=False),
        sa.Column("target", sa.String(length=320), nullable=False),
        sa.Column("created_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("alias"),
    )
    op.create_table(
        "model_prices",
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("input_per_million", sa.Float(), nullable=False),
        sa.Column("output_per_million", sa.Float(), nullable=False),
        sa.Column("cached_per_million", sa.Float(), nullable=True),
        sa.Column("updated_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )


def _clients() -> None:
    op.create_table(
        "clients",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("key_prefix", sa.String(length=16), nullable=False),
        sa.Column("active", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("scopes", sa.Text(), server_default="[]", nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_hash"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "client_grants",
        sa.Column("client_id", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("pattern", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("client_id", "kind", "pattern"),
    )


def _records() -> None:
    op.create_table(
        "requests",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("method", sa.String(length=16), server_default="", nullable=False),
        sa.Column("path", sa.Text(), server_default="", nullable=False),
        sa.Column("dialect", sa.String(length=32), server_default="", nullable=False),
        sa.Column("operation", sa.String(length=16), server_default="", nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("upstream_model", sa.Text(), nullable=True),
        sa.Column("provider", sa.String(length=64), nullable=True),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("client_id", ID, nullable=True),
        sa.Column("stream", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome", sa.String(length=32), server_default="", nullable=False),
        sa.Column("error_code", sa.String(length=64), server_default="", nullable=False),
        sa.Column("duration_ms", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_byte_ms", sa.Integer(), nullable=True),
        sa.Column("request_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("response_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("peer", sa.String(length=64), server_default="", nullable=False),
        sa.Column("user_agent", sa.Text(), server_default="", nullable=False),
        sa.Column("attempts", sa.Text(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_requests_request_id", "requests", ["request_id"], unique=False)
    op.create_index("ix_requests_started_at", "requests", ["started_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("color", sa.String(length=16), server_default="", nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _sessions() -> None:
    op.create_table(
        "session_keys",
        sa.Column("hint", sa.String(length=64), nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("hint"),
    )
    op.create_index("ix_session_keys_seq", "session_keys", ["seq"], unique=False)
    op.create_table(
        "admin_sessions",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(length=16), server_default="cookie", nullable=False),
        sa.Column("password_hash", sa.String(length=64), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "login_attempts",
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("locked_until", sa.Float(), server_default="0", nullable=False),
        sa.Column("last_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("peer"),
    )


def _facts() -> None:
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("value", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
