"""
Sums of all requests by the hour and day, and by client, day and model.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COUNTS = ("requests", "successes", "tokens_in", "tokens_out", "cached_tokens")
OBJECTS = ("outcomes", "statuses", "verdicts", "error_codes", "latencies", "first_tokens")


def upgrade() -> None:
    """What the statistics of keys know of days before is carried over; they know no hours."""
    _make_tables()
    op.execute(
        "INSERT INTO period_stats (period, requests, successes, tokens_in, tokens_out)"
        " SELECT date, sum(requests), sum(successes), sum(tokens_in), sum(tokens_out)"
        " FROM daily_stats GROUP BY date"
    )
    op.execute(
        "INSERT INTO client_stats (date, client_id, model, requests, successes, tokens_in, tokens_out, cached_tokens)"
        " SELECT date, 0, model, sum(requests), sum(requests), sum(tokens_in), sum(tokens_out), sum(cached_tokens)"
        " FROM model_stats GROUP BY date, model"
    )


def _make_tables() -> None:
    op.create_table(
        "period_stats",
        sa.Column("period", sa.String(length=13), nullable=False),
        *_counts(),
        *(sa.Column(name, sa.Text(), server_default="{}", nullable=False) for name in OBJECTS),
        sa.PrimaryKeyConstraint("period"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "client_stats",
        sa.Column("date", sa.String(length=10), nullable=False),
        sa.Column("client_id", ID, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        *_counts(),
        sa.PrimaryKeyConstraint("date", "client_id", "model"),
        sqlite_with_rowid=False,
    )


def _counts() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in COUNTS]
