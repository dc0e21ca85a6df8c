"""
What Alembic runs for each upgrade. The connection is handed in, inside a transaction of ours, so that an upgrade
happens whole or not at all.
"""

from __future__ import annotations

from alembic import context

from app.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
