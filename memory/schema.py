"""Is there a store, is it ours, is it up to date; create or upgrade it.

Notable: opening an up-to-date store compares one string and does not import alembic (0.1 s); alembic is imported when
there is something to do. Creating and upgrading hold the write lock, so that processes which open a new store at the
same moment do it once.
Not covered: going back to an older revision by itself; `downgrade` is there for who asks for it.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from memory.database import Database
from memory.errors import SchemaOutdated, SchemaTooNew, StoreCorrupt, StoreMissing, StoreUnavailable
from memory.revision import HEAD_REVISION, OUR_TABLES

SCRIPTS = Path(__file__).parent / "migrations"

_REVISION = re.compile(r"\d{4}")
_MIGRATION_LOCK = 0x6D6F766533  # PostgreSQL advisory lock: any constant that all of our processes share
_LOG = logging.getLogger(__name__)


def prepare(
    database: Database, *, create: bool, upgrade: bool, on_upgrade: Callable[[str, str], None] | None = None
) -> None:
    """Make sure that `database` holds a store of revision `HEAD_REVISION`; raises as `memory.store.open_store`."""
    _check_place(database, create=create)
    found = current_revision(database)
    if found is None:
        if not create:
            raise StoreMissing(database.shown_url, "the database is empty", "Start a campaign first")
        _create(database)
    elif found > HEAD_REVISION:
        raise SchemaTooNew(database.shown_url, found, HEAD_REVISION)
    elif found < HEAD_REVISION:
        if not upgrade:
            raise SchemaOutdated(database.shown_url, found, HEAD_REVISION)
        _LOG.warning("upgrading %s from schema revision %s to %s", database.shown_url, found, HEAD_REVISION)
        if on_upgrade is not None:
            on_upgrade(found, HEAD_REVISION)
        migrate(database)


def current_revision(database: Database) -> str | None:
    """The revision of the store, or None when the database is empty.

    Raises:
        StoreCorrupt: there are tables, but not ours.
    """
    with database.connection() as connection:
        tables = _tables(connection, database)
        if not tables:
            return None
        if not tables >= OUR_TABLES:
            raise _foreign(database, f"it holds other tables ({', '.join(sorted(tables)[:3])})")
        revisions = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if len(revisions) != 1 or not _REVISION.fullmatch(str(revisions[0])):
        raise _foreign(database, f"its schema revision is {' and '.join(map(repr, revisions)) or 'not there'}")
    return str(revisions[0])


def migrate(database: Database, target: str = "head") -> None:
    """Run the packaged migrations up to `target`, in one transaction, under the write lock."""
    _run(database, "upgrade", target)


def downgrade(database: Database, target: str) -> None:
    """Run them back to `target`: for tests, and for who has to hand a store to an older Move37.

    Raises:
        ValueError: the older revision has no place for something that is stored; nothing was changed.
    """
    _run(database, "downgrade", target)


def _run(database: Database, direction: str, target: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with _rebuilding(database) if database.is_sqlite else database.connection(write=True) as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        getattr(command, direction)(config, target)


@contextmanager
def _rebuilding(database: Database) -> Iterator[Connection]:
    """A transaction in which a SQLite table may be made anew: foreign keys are checked at its end, as a whole.

    https://www.sqlite.org/lang_altertable.html#otheralter
    """
    outside = database.engine.execution_options(move37_begin="")
    with database.translated(), outside.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")  # does nothing within a transaction
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                _check_references(connection, database)
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
        finally:
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _check_references(connection: Connection, database: Database) -> None:
    dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if dangling is not None:
        raise StoreCorrupt(
            database.shown_url,
            f"row {dangling[1]} of {dangling[0]} refers to a row of {dangling[2]} that is not there",
            "Restore it from a backup, or name another file",
        )


def _create(database: Database) -> None:
    if database.is_sqlite and not database.is_memory:
        database.use_wal()
    migrate(database)


def _check_place(database: Database, *, create: bool) -> None:
    if not database.is_sqlite or database.is_memory:
        return
    path = Path(str(database.url.database))
    if path.is_dir():
        raise StoreUnavailable(database.shown_url, "it is a directory", "Name a file")
    if path.exists():
        return
    if not create:
        raise StoreMissing(database.shown_url, "there is no such file", "Start a campaign first, or name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            database.shown_url, f"its directory cannot be made ({error})", "Name a path that can be written"
        ) from error


def _tables(connection: Connection, database: Database) -> set[str]:
    if database.is_sqlite:  # the inspector costs 10 ms of start-up
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}
    return set(inspect(connection).get_table_names())


def _foreign(database: Database, why: str) -> StoreCorrupt:
    return StoreCorrupt(database.shown_url, f"this is not an experiment memory: {why}", "Name another file or database")
