"""Stores of every kind: SQLite in a file and in memory, and PostgreSQL where MOVE37_TEST_POSTGRES names a server."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.store import Store, open_store
from memory.testing import Ticking

POSTGRES = os.environ.get("MOVE37_TEST_POSTGRES")
needs_postgres = pytest.mark.skipif(
    not POSTGRES, reason="MOVE37_TEST_POSTGRES is not set (postgresql+psycopg://user@host/database)"
)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/move37.db"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A schema of its own, dropped afterwards."""
    from sqlalchemy import create_engine, text

    assert POSTGRES
    schema = f"move37_test_{secrets.token_hex(4)}"
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(params=["sqlite-file", "sqlite-memory", pytest.param("postgresql", marks=needs_postgres)])
def store_url(request: pytest.FixtureRequest) -> str:
    """A database of each kind, empty."""
    if request.param == "sqlite-memory":
        return "sqlite://"
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite-file" else "postgres_url"))


@pytest.fixture(params=["sqlite-file", pytest.param("postgresql", marks=needs_postgres)])
def shared_url(request: pytest.FixtureRequest) -> str:
    """A database of each kind that several processes can open, empty."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite-file" else "postgres_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url, clock=Ticking())
    yield opened
    opened.close()
