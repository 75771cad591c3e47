"""Opening a store: new, missing, older, newer, foreign, damaged, full, busy; and without importing alembic."""

import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, create_engine, inspect, text

from memory import schema
from memory.database import Database
from memory.errors import (
    Conflict,
    SchemaOutdated,
    SchemaTooNew,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreMissing,
    StoreUnavailable,
)
from memory.models import Base
from memory.store import open_store
from memory.testing import completed, new_campaign, new_experiment

ROOT = Path(__file__).parents[2]


def stamp(url: str, revision: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()


def test_head_revision_is_alembics_head() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(schema.SCRIPTS)).get_current_head() == schema.HEAD_REVISION


def test_migrations_make_the_tables_of_the_models(shared_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    open_store(shared_url).close()
    engine = create_engine(shared_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        made = inspect(connection)
        for table in Base.metadata.tables.values():  # alembic does not compare these two
            checks = {check["name"] for check in made.get_check_constraints(table.name)}
            assert checks == {c.name for c in table.constraints if isinstance(c, CheckConstraint)}, table.name
            assert made.get_pk_constraint(table.name)["constrained_columns"] == list(table.primary_key.columns.keys())
    engine.dispose()


def test_opening_again_finds_everything(shared_url: str) -> None:
    first = open_store(shared_url)
    campaign = new_campaign(first)
    first.close()
    second = open_store(shared_url, create=False)
    assert second.campaigns() == [campaign]
    second.close()


def test_opening_an_up_to_date_store_does_not_import_alembic(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    store.close()
    script = (
        "import sys; from memory.store import open_store; "
        f"store = open_store({sqlite_url!r}, create=False); store.campaigns(); "
        "print([name for name in ('alembic', 'pydantic', 'torch', 'langgraph') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="Start a campaign"):
        open_store(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreMissing, match="empty"):
        open_store(f"sqlite:///{tmp_path}/empty.db", create=False)
    open_store(f"sqlite:///{tmp_path}/new/folder/made.db").close()
    assert (tmp_path / "new/folder/made.db").exists()


def test_newer_store_is_refused(shared_url: str) -> None:
    open_store(shared_url).close()
    stamp(shared_url, "9999")
    with pytest.raises(SchemaTooNew, match="9999") as caught:
        open_store(shared_url)
    assert (caught.value.found, caught.value.ours) == ("9999", schema.HEAD_REVISION)


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Move37 whose schema is one revision further."""
    scripts = tmp_path / "migrations"
    shutil.copytree(schema.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "r9000_next.py").write_text(
        "from alembic import op\nimport sqlalchemy as sa\n"
        f"revision = '9000'\ndown_revision = {schema.HEAD_REVISION!r}\nbranch_labels = depends_on = None\n"
        "def upgrade():\n    op.add_column('campaigns', sa.Column('motto', sa.Text()))\n"
    )
    monkeypatch.setattr(schema, "SCRIPTS", scripts)
    monkeypatch.setattr(schema, "HEAD_REVISION", "9000")


PRESENT = schema.HEAD_REVISION


def make_old(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with a campaign, of the revision before."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCRIPTS", Path(schema.__file__).parent / "migrations")
        patch.setattr(schema, "HEAD_REVISION", PRESENT)
        store = open_store(url)
        campaign = new_campaign(store)
        completed(store, campaign, 0)
        store.close()
    return campaign.id


@pytest.mark.usefixtures("next_revision")
def test_older_store_is_upgraded_and_says_so(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign_id = make_old(shared_url, monkeypatch)
    with pytest.raises(SchemaOutdated, match="upgrade=True"):
        open_store(shared_url, upgrade=False)
    told: list[tuple[str, str]] = []
    store = open_store(shared_url, on_upgrade=lambda found, new: told.append((found, new)))
    assert told == [(PRESENT, "9000")]
    assert store.campaign("demo").id == campaign_id
    assert store.experiment("demo-0000").status == "completed"
    store.close()
    open_store(shared_url, upgrade=False).close()


@pytest.mark.parametrize(
    "content", [b"this is a text file, longer than a header\n" * 200, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"notes\.txt"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="customers"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before
    ours = f"sqlite:///{tmp_path}/ours.db"
    open_store(ours).close()
    stamp(ours, "ae1027a6acf")
    with pytest.raises(StoreCorrupt, match="ae1027a6acf"):
        open_store(ours)


def test_truncated_store(tmp_path: Path) -> None:
    path = tmp_path / "move37.db"
    store = open_store(f"sqlite:///{path}")
    campaign = new_campaign(store)
    for index in range(30):
        completed(store, campaign, index)
    store.close()
    whole = path.read_bytes()
    assert not path.with_name("move37.db-wal").exists()
    for part in (len(whole) // 2, 4096 * 3, 1000):
        path.write_bytes(whole[:part])
        with pytest.raises(StoreCorrupt, match="backup"):
            open_store(f"sqlite:///{path}").experiments(campaign.id)


def test_bad_urls_and_paths(tmp_path: Path) -> None:
    for url in ("runs/move37.db", "nosuch://x", ""):
        with pytest.raises(StoreUnavailable, match="sqlite:///"):
            open_store(url)
    with pytest.raises(StoreUnavailable, match="directory"):
        open_store(f"sqlite:///{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        open_store(f"sqlite:///{tmp_path}/file/below/move37.db")
    with pytest.raises(StoreUnavailable) as caught:
        open_store("postgresql+psycopg://somebody:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


def test_locked_store_is_busy(sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url, busy_timeout_s=0.05)
    campaign = new_campaign(store)
    other = sqlite3.connect(tmp_path / "move37.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="Wait"):
        new_experiment(store, campaign)
    assert store.experiments(campaign.id) == []  # readers are not kept waiting
    other.execute("ROLLBACK")
    other.close()
    assert new_experiment(store, campaign).index == 0
    store.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "tiny"
    place.mkdir()
    if os.geteuid() != 0 or libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    libc.umount2(bytes(place), 2)


def fill(url: str) -> None:
    store = open_store(url)
    campaign = new_campaign(store)
    kept = 0

    def write_on() -> None:
        nonlocal kept
        for index in range(1000):
            store.put_event(campaign.id, "noise", {"text": "x" * 10_000, "n": index})
            kept += 1

    try:
        with pytest.raises(StoreFull, match="Free some space"):
            write_on()
        assert kept > 5
        assert [event.payload["n"] for event in store.events(campaign.id)] == list(range(kept))
    finally:
        store.close()


def test_full_disk(tiny_disk: Path) -> None:
    fill(f"sqlite:///{tiny_disk}/move37.db")


def test_full_database(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error from SQLite's own page limit, where no file system can be mounted."""
    original = Database._on_sqlite_connect

    def limited(self: Database, connection: sqlite3.Connection, record: object) -> None:
        original(self, connection, record)
        connection.execute("PRAGMA max_page_count = 200")

    monkeypatch.setattr(Database, "_on_sqlite_connect", limited)
    fill(sqlite_url)


def test_sqlite_settings(sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    database = Database(sqlite_url, busy_timeout_s=30.0)
    with database.connection() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert settings == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_integrity_errors_of_the_database_are_conflicts(sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    database = Database(sqlite_url, busy_timeout_s=1.0)
    with pytest.raises(Conflict, match="FOREIGN KEY"), database.write() as session:
        session.execute(text("INSERT INTO analyses VALUES ('nobody', '{}', '2030-01-01')"))
    database.close()
