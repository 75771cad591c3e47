"""The schema's history: one alembic revision per file in `versions`, named r<revision>_<what>.py."""
