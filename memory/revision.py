"""Which revision of the schema this Move37 works with, and by which tables a database is known to be a store of ours.

Apart from memory/schema.py, so that asking takes nothing but this.
"""

HEAD_REVISION = "0002"  # a test compares it with alembic's head
OUR_TABLES = frozenset({"alembic_version", "campaigns", "experiments"})
