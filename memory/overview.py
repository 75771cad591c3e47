"""What `status` shows of every campaign: what they are, how far they came, what they spent.

Notable: `status` is typed often, and SQLAlchemy takes longer to import than everything else that it does. So a SQLite
file of the present revision is asked through the standard library; whatever else there is (another database, a store
that has to be upgraded, a file that is no store) goes to `memory.store.open_store`, which answers the same questions or
says what is wrong. A test holds the two against each other.
Not covered: everything that reads more than this, or writes.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

from memory.errors import NotFound
from memory.escaping import unescape
from memory.failures import BUSY, of_sqlite
from memory.records import Campaign, ExperimentStatus, Outline, Session, Spent
from memory.revision import HEAD_REVISION, OUR_TABLES

RecordT = TypeVar("RecordT")
_FILE = "sqlite:///"


class Overview(Protocol):
    """Some readings of a store; each as `memory.reader.StoreReader` has it, which is one of these."""

    def close(self) -> None:
        """Close the connections."""

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""

    def by_status(self, campaign_id: str) -> dict[str, int]:
        """How many experiments have each of the five statuses."""

    def best(self, campaign_id: str) -> Outline | None:
        """The completed experiment of the highest score, of equal ones the earliest, if any completed."""

    def spent(self, campaign_id: str) -> Spent:
        """What the campaign used."""


def open_overview(url: str, *, busy_timeout_s: float = 30.0) -> Overview:
    """Open the store at a SQLAlchemy URL to look at it; raises as `memory.store.open_store(url, create=False)`."""
    connection = _connected(url, busy_timeout_s)
    if connection is not None:
        return FileOverview(url, connection)
    from memory.store import open_store

    return open_store(url, create=False, busy_timeout_s=busy_timeout_s)


def _connected(url: str, busy_timeout_s: float) -> sqlite3.Connection | None:
    """A connection to a SQLite file that is a store of the present revision; None for anything else."""
    name = url.removeprefix(_FILE)
    if name == url or "?" in name or not Path(name).is_file():
        return None
    try:
        connection = sqlite3.connect(name, timeout=busy_timeout_s, isolation_level=None)
    except sqlite3.Error:
        return None
    try:
        tables = {table for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables >= OUR_TABLES:
            revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            if revisions == [(HEAD_REVISION,)]:
                return connection
    except sqlite3.Error as error:
        if _code(error) & 0xFF in BUSY:  # it was waited for already
            connection.close()
            raise of_sqlite(url, _code(error), str(error)) from error
    connection.close()
    return None


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # not every error has one


class FileOverview:
    """An `Overview` of a SQLite file. Each method is one read transaction; for the thread that opened it."""

    def __init__(self, url: str, connection: sqlite3.Connection) -> None:
        self._url = url
        self._connection = connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""
        with self._reading() as connection:
            return _records(connection, Campaign, "campaigns ORDER BY created_at, name")

    def by_status(self, campaign_id: str) -> dict[str, int]:
        """How many experiments have each of the five statuses."""
        with self._reading() as connection:
            query = "SELECT status, count(*) FROM experiments WHERE campaign_id = ? GROUP BY status"
            found = dict(connection.execute(query, (campaign_id,)).fetchall())
        return {status: found.get(status, 0) for status in get_args(ExperimentStatus)}

    def best(self, campaign_id: str) -> Outline | None:
        """The completed experiment of the highest score, of equal ones the earliest, if any completed."""
        columns = ", ".join(f'"{name}"' for name in Outline._fields)
        completed = "campaign_id = :campaign AND status = 'completed'"
        highest = f"SELECT max(score) FROM experiments WHERE {completed}"  # noqa: S608 - names of ours
        query = f'SELECT {columns} FROM experiments WHERE {completed} AND score = ({highest}) ORDER BY "index" LIMIT 1'  # noqa: S608
        with self._reading() as connection:
            row = connection.execute(query, {"campaign": campaign_id}).fetchone()
        if row is None:
            return None
        found = Outline._make(row)
        return found._replace(name=unescape(found.name))

    def spent(self, campaign_id: str) -> Spent:
        """What the campaign used.

        Raises:
            NotFound: no such campaign.
        """
        with self._reading() as connection:
            if connection.execute("SELECT 1 FROM campaigns WHERE id = ?", (campaign_id,)).fetchone() is None:
                raise NotFound("campaign", campaign_id)
            kept = "SELECT kind, amount, entries FROM ledger_totals WHERE campaign_id = ?"
            totals = {kind: (amount, n) for kind, amount, n in connection.execute(kept, (campaign_id,))}
            ran = _records(connection, Session, "sessions WHERE campaign_id = ? ORDER BY started_at, id", campaign_id)
        return Spent.of(totals, sum(one.wall_s for one in ran))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                if self._connection.in_transaction:  # some errors end it
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise of_sqlite(self._url, _code(error), str(error)) from error


def _records(connection: sqlite3.Connection, kind: type[RecordT], where: str, *values: str) -> list[RecordT]:
    """Records whose fields are the columns of a table, as in `memory.models.snapshot`."""
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    rows = connection.execute(f"SELECT {', '.join(names)} FROM {where}", values)  # noqa: S608 - names of ours
    return [kind(*map(_value, names, row)) for row in rows]


def _value(name: str, stored: Any) -> Any:
    """What the column `name` holds, as memory/columns.py reads it."""
    decode = _DECODED.get(name)
    return stored if stored is None or decode is None else decode(stored)


def _moment(stored: str) -> datetime:
    return datetime.fromisoformat(stored).replace(tzinfo=UTC)


_DECODED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("config", "objective", "announcements", "arms", "origin", "owner"), json.loads),
    **dict.fromkeys(("created_at", "finished_at", "started_at", "last_seen_at", "ended_at"), _moment),
    "stopped_because": unescape,
    "read_only": bool,
}
