"""Alembic's environment. The caller (memory/schema.py) owns connection and transaction; there is no offline mode."""

from alembic import context

from memory.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
