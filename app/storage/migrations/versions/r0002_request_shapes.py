"""
What many requests have in common moves from their rows into a table of its own.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SHARED = (
    "method, path, dialect, operation, model, upstream_model, provider, client_id, stream, status, outcome, error_code,"
    " peer, user_agent"
)
OWN = (
    "id, request_id, started_at, key_id, duration_ms, first_byte_ms, request_bytes, response_bytes, input_tokens,"
    " output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, attempts"
)
INDEXED = ("request_id", "started_at")


def upgrade() -> None:
    """The shape of rows that are there already gets the id of the first of them: new ones are above 2**62."""
    _make_shapes()
    op.execute(
        f"INSERT INTO request_shapes (id, {SHARED}, seen_at)"
        f" SELECT min(id), {SHARED}, max(started_at) FROM requests GROUP BY {SHARED}"
    )
    if op.get_bind().dialect.name == "sqlite":
        _move_rows()
    else:
        _change_rows()


def _make_shapes() -> None:
    op.create_table(
        "request_shapes",
        sa.Column("id", ID, autoincrement=False, nullable=False),
        sa.Column("method", sa.String(length=16), server_default="", nullable=False),
        sa.Column("path", sa.Text(), server_default="", nullable=False),
        sa.Column("dialect", sa.String(length=32), server_default="", nullable=False),
        sa.Column("operation", sa.String(length=16), server_default="", nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("upstream_model", sa.Text(), nullable=True),
        sa.Column("provider", sa.String(length=64), nullable=True),
        sa.Column("client_id", ID, nullable=True),
        sa.Column("stream", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("status", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome", sa.String(length=32), server_default="", nullable=False),
        sa.Column("error_code", sa.String(length=64), server_default="", nullable=False),
        sa.Column("peer", sa.String(length=64), server_default="", nullable=False),
        sa.Column("user_agent", sa.Text(), server_default="", nullable=False),
        sa.Column("seen_at", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _move_rows() -> None:
    """SQLite: a new table, because an altered one would carry the columns that went."""
    for name in INDEXED:
        op.drop_index(f"ix_requests_{name}", "requests")
    op.rename_table("requests", "requests_before")
    op.create_table(
        "requests",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("shape_id", ID, nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("duration_ms", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_byte_ms", sa.Integer(), nullable=True),
        sa.Column("request_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("response_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute(
        f"INSERT INTO requests ({OWN}, shape_id)"
        f" SELECT {OWN}, min(id) OVER (PARTITION BY {SHARED}) FROM requests_before"
    )
    op.drop_table("requests_before")
    for name in INDEXED:
        op.create_index(f"ix_requests_{name}", "requests", [name], unique=False)


def _change_rows() -> None:
    """PostgreSQL: in place, so that the sequence of the ids goes on."""
    op.add_column("requests", sa.Column("shape_id", ID, nullable=True))
    op.execute(
        "UPDATE requests SET shape_id = first.shape_id"
        f" FROM (SELECT id, min(id) OVER (PARTITION BY {SHARED}) AS shape_id FROM requests) AS first"
        " WHERE first.id = requests.id"
    )
    op.alter_column("requests", "shape_id", nullable=False)
    op.alter_column("requests", "attempts", server_default="")
    for name in SHARED.split(", "):
        op.drop_column("requests", name)
