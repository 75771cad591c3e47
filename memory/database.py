"""Connections, transactions and the translation of database errors.

Notable:
- SQLite runs in WAL mode with synchronous=NORMAL: a killed process loses nothing that was committed; a power cut may
  lose the last transactions but does not damage the file.
- Writes begin with BEGIN IMMEDIATE, so that two writers queue at the start instead of failing at the end. On
  PostgreSQL writers queue where they write the same thing: the server commits the others together, and a store whose
  writers all wait for each other's disk would be several times slower. Most writes there are one statement (`at_once`).
- An in-memory SQLite store has one connection which its users share in turn; never nest transactions of one thread.
Not covered: which tables there are (memory/models.py), how they come to be (memory/schema.py).
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from memory.columns import json_text
from memory.errors import Conflict, MemoryStoreError, StoreBusy, StoreFull, StoreUnavailable, ValueRefused
from memory.failures import BUSY, FREE_SPACE, REACH, WAIT, of_sqlite

_PG_FULL = frozenset({"53100"})
_PG_BUSY = frozenset({"40001", "40P01", "55P03"})

_BEGIN_WRITING = "BEGIN IMMEDIATE"
_ASK_AGAIN_S = 0.0015
_WRITER_LOCK = 0x6D6F76653337  # "move37"
_ALONE = f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})"
_WITH_OTHERS = f"SELECT pg_advisory_xact_lock_shared({_WRITER_LOCK})"
TURN = (
    f"turn AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({_WRITER_LOCK})::text "
    "|| pg_advisory_xact_lock(%(whose_turn)s::bigint)::text AS taken)"
)
LEDGER_SHARED = "pg_advisory_xact_lock_shared(hashtextextended('ledger of ' || campaign_id, 0))"


class Database:
    """An engine with the transactions of the store: `read`, `write`, and `connection` for schema work."""

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        self.url = _parsed(url)
        self.shown_url = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._busy_timeout_ms = int(busy_timeout_s * 1000)
        self.engine = self._engine()
        writing = {"move37_begin": _BEGIN_WRITING} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._writer = self.engine.execution_options(**writing)
        self.writes_at_once = self.url.get_dialect().driver == "psycopg"

    @property
    def is_memory(self) -> bool:
        """Whether this is a SQLite database in memory."""
        return self.is_sqlite and self.url.database in (None, "", ":memory:")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One read transaction: a consistent view. Raises the errors of memory/errors.py."""
        with self._session(self.engine) as session:
            yield session

    @contextmanager
    def write(self, subject: str | None = None) -> Iterator[Session]:
        """One write transaction, committed at the end, rolled back by any exception.

        Writers take turns: on SQLite all of them (BEGIN IMMEDIATE), on PostgreSQL those of the same `subject`, which
        names whatever is read and then written (an experiment, a campaign, a key), and without one all of them. The
        locks there are ours; the transaction's end releases them.
        """
        with self._session(self._writer) as session:
            if not self.is_sqlite:  # one round trip begins and waits; the driver commits what it finds begun
                mine = _ALONE if subject is None else f"{_WITH_OTHERS}, pg_advisory_xact_lock({_lock_of(subject)})"
                session.connection().exec_driver_sql(f"BEGIN; {mine}")
            yield session

    def at_once(self, statement: str, subject: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """One statement that is a write transaction of its own (memory/at_once.py); the first row it returns.

        None when it returned none or the database refused it: nothing is stored then. The driver is asked directly: the
        way through SQLAlchemy takes longer than the driver and the server's part of a row together.
        """
        with self.translated():
            pooled = self.engine.raw_connection()
            driver: Any = pooled.driver_connection
            dbapi: Any = self.engine.dialect.dbapi
            refusals = (dbapi.IntegrityError, dbapi.DataError, OverflowError, UnicodeEncodeError)
            found: tuple[Any, ...] | None = None
            try:
                driver.autocommit = True
                with suppress(*refusals):
                    found = driver.execute(statement, {**parameters, "whose_turn": _lock_of(subject)}).fetchone()
                driver.autocommit = False
            except dbapi.Error as error:
                if driver.closed:
                    self.engine.dispose()  # as SQLAlchemy does: the others have lost their server as well
                pooled.invalidate()
                raise DBAPIError(statement, None, error) from error
            except BaseException:
                pooled.invalidate()  # interrupted in whatever state
                raise
            finally:
                pooled.close()
        return found

    @contextmanager
    def connection(self, *, write: bool = False) -> Iterator[Connection]:
        """A bare connection in a transaction."""
        with self.translated(), (self._writer if write else self.engine).begin() as connection:
            if write and not self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection

    def use_wal(self) -> None:
        """Switch a SQLite file to WAL: a property of the file, which cannot change within a transaction."""
        outside = self.engine.execution_options(move37_begin="")
        with self.translated(), outside.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        with self.translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the driver into typed ones."""
        try:
            yield
        except IntegrityError as error:
            raise self._integrity(error) from error
        except DBAPIError as error:
            raise self._typed(error) from error
        except (OverflowError, UnicodeEncodeError) as error:  # of the SQLite driver, before SQLAlchemy sees them
            raise ValueRefused("a value", str(error)) from error
        except PoolTimeout as error:
            raise StoreBusy(self.shown_url, f"no connection became free ({error})", WAIT) from error

    def _integrity(self, error: IntegrityError) -> MemoryStoreError:
        return Conflict("row in", self.shown_url, f"the database refused the write: {_first_line(error)}")

    def _typed(self, error: DBAPIError) -> MemoryStoreError:
        why = _first_line(error)
        extended = getattr(error.orig, "sqlite_errorcode", None)
        state = getattr(error.orig, "sqlstate", None)
        if state in _PG_FULL:
            return StoreFull(self.shown_url, f"the server's device is full ({why})", FREE_SPACE)
        if state in _PG_BUSY:
            return StoreBusy(self.shown_url, f"the server broke a conflict with another writer ({why})", WAIT)
        if isinstance(error, DataError):
            return ValueRefused("a value", why)
        if extended is not None:
            return of_sqlite(self.shown_url, extended, why)
        return StoreUnavailable(self.shown_url, why, REACH)

    def _engine(self) -> Engine:
        options: dict[str, Any] = {"json_serializer": json_text}
        if self.is_sqlite:
            options["connect_args"] = {"check_same_thread": False, "timeout": self._busy_timeout_ms / 1000}
            options["poolclass"] = QueuePool
            if self.is_memory:
                options |= {"pool_size": 1, "max_overflow": 0}
        try:
            engine = create_engine(self.url, **options)
        except ModuleNotFoundError as error:
            raise StoreUnavailable(
                self.shown_url, f"its driver is not installed ({error})", "pip install 'move37[postgresql]'"
            ) from error
        if self.is_sqlite:
            event.listen(engine, "connect", self._on_sqlite_connect)
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _on_sqlite_connect(self, connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own transactions begin late and deferred; ours begin in `_begin_sqlite`.
        connection.isolation_level = None
        for pragma in (f"busy_timeout={self._busy_timeout_ms}", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")


def share_ledger(session: Session, campaign_id: str) -> None:
    """Say that entries are being made in the ledger of a campaign, until the write transaction ends."""
    _ledger(session, LEDGER_SHARED, campaign_id)


def close_ledger(session: Session, campaign_id: str) -> None:
    """Wait for whoever is making entries: what is read next is all that there will ever be up to its last id."""
    _ledger(session, "pg_advisory_xact_lock(hashtextextended('ledger of ' || campaign_id, 0))", campaign_id)


def _ledger(session: Session, lock: str, campaign_id: str) -> None:
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        statement = f"SELECT {lock} FROM (SELECT CAST(:id AS text) AS campaign_id) AS one"  # noqa: S608 - constants
        connection.execute(text(statement), {"id": campaign_id})


def _lock_of(subject: str) -> int:
    digest = blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("move37_begin", "BEGIN")
    if begin == _BEGIN_WRITING:
        _begin_writing(connection)
    elif begin:
        connection.exec_driver_sql(begin)


def _begin_writing(connection: Connection) -> None:
    """Take the write lock, asking every millisecond or two.

    SQLite's own waiting asks ever more seldom, down to every 100 ms, while whoever has the lock comes back for it at
    once: with eight writers some of them waited for seconds, and might have given up.
    """
    driver: Any = connection.connection.driver_connection
    [(timeout_ms,)] = driver.execute("PRAGMA busy_timeout").fetchall()
    deadline = time.monotonic() + timeout_ms / 1000 - _ASK_AGAIN_S
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while time.monotonic() < deadline:
            try:
                driver.execute(_BEGIN_WRITING)
            except sqlite3.OperationalError as error:
                if (error.sqlite_errorcode & 0xFF) not in BUSY:
                    break  # tried once more below, where it becomes an error of the store
                time.sleep(random.uniform(0.5, 1.5) * _ASK_AGAIN_S)
            else:
                return
    finally:
        driver.execute(f"PRAGMA busy_timeout={timeout_ms}")
    connection.exec_driver_sql(_BEGIN_WRITING)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        shown = url if "@" not in url else "(password not shown)"
        raise StoreUnavailable(
            shown, f"this is no database URL ({_first_line(error)})", "Write for example sqlite:///runs/move37.db"
        ) from error
    return parsed


def _first_line(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    lines = str(original).splitlines()
    return lines[0] if lines else type(original).__name__
