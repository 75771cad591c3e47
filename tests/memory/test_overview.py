"""The overview: the same answers as the store's own, the same refusals, and without what takes long to import.

Not covered: what `move37 status` makes of it (tests/move37/test_reading_commands.py).
"""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memory.errors import NotFound, SchemaTooNew, StoreBusy, StoreCorrupt, StoreMissing, StoreUnavailable
from memory.overview import FileOverview, Overview, open_overview
from memory.records import Usage
from memory.revision import HEAD_REVISION
from memory.store import Store, open_store
from memory.testing import Ticking, completed, exchange, new_campaign, new_experiment, trial

ROOT = Path(__file__).parents[2]
ODD = "NUL \x00, half a pair \ud83d, the escape \x1a0000, é ∀"


def filled(url: str) -> Store:
    """Campaigns in every state, of every origin, with and without anything in them."""
    store = open_store(url, clock=Ticking())
    new_campaign(store, "zero")
    busy = new_campaign(store, "busy", announcements=[ODD, "two"], seed=2**62, arms=["agents", "starters"])
    for index, score in enumerate((0.25, 0.75, 0.75, 0.5)):
        completed(store, busy, index, score)
    store.finish_experiment(new_experiment(store, busy, 4).id, status="failed", reason="exception", message=ODD)
    spending = new_experiment(store, busy, 5, name=ODD)
    exchange(store, spending, usage=Usage(10, 5, False), cost_usd=0.5)
    exchange(store, spending, turn=1, usage=Usage(7, 2, True), cost_usd=None)
    store.finish_trial(trial(store, spending).id, state="failed", reason="exception", device_s=1.25)
    store.end_session(store.begin_session(busy.id, {"pid": 1, "host": ODD}).id)
    store.heartbeat(store.begin_session(busy.id, {"pid": 2}).id)
    store.set_campaign_state(busy.id, "stopped", because=ODD)
    priceless = new_campaign(store, "priceless")
    best = completed(store, priceless, 0)
    exchange(store, new_experiment(store, priceless, 1), cost_usd=None)
    new_campaign(store, "fork", forked_from=priceless.id, forked_at=best.id)
    store.set_campaign_state(new_campaign(store, "again", replay_of=busy.id).id, "finished")
    return store


@pytest.fixture
def store(shared_url: str) -> Iterator[Store]:
    with closing(filled(shared_url)) as opened:
        yield opened


def test_it_says_what_the_store_says(store: Store, shared_url: str) -> None:
    with closing(open_overview(shared_url)) as overview:
        assert isinstance(overview, FileOverview) is shared_url.startswith("sqlite")
        campaigns = overview.campaigns()
        assert [one.name for one in campaigns] == ["zero", "busy", "priceless", "fork", "again"]
        assert campaigns == store.campaigns()
        for campaign in campaigns:
            assert overview.by_status(campaign.id) == store.by_status(campaign.id)
            assert overview.best(campaign.id) == store.best(campaign.id)
            assert overview.spent(campaign.id) == store.spent(campaign.id)
        with pytest.raises(NotFound, match="nowhere"):
            overview.spent("nowhere")
        assert campaigns[1].announcements == [ODD, "two"]
        assert campaigns[1].stopped_because == ODD


def test_the_name_of_the_best_comes_back_as_it_was(sqlite_url: str) -> None:
    with closing(open_store(sqlite_url)) as store:
        campaign = new_campaign(store)
        made = completed(store, campaign, 0)
        other = new_experiment(store, campaign, 1)
        sha256 = made.program_sha256
        store.finish_experiment(other.id, status="completed", score=0.9, program_sha256=sha256, name=ODD)
        with closing(open_overview(sqlite_url)) as overview:
            best = overview.best(campaign.id)
        assert best == store.best(campaign.id)
        assert best is not None
        assert best.name == ODD


def test_it_reads_what_was_written_after_it_was_opened(store: Store, shared_url: str) -> None:
    with closing(open_overview(shared_url)) as overview:
        before = overview.campaigns()
        made = new_campaign(store, "later")
        assert overview.campaigns() == [*before, made]


def refusal(url: str) -> Overview:
    return open_overview(url, busy_timeout_s=0.05)


def everything(url: str) -> list[object]:
    with closing(refusal(url)) as overview:
        ids = [one.id for one in overview.campaigns()]
        return [(overview.by_status(one), overview.best(one), overview.spent(one)) for one in ids]


def test_what_is_no_store_of_ours_is_refused_as_by_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="Start a campaign"):
        refusal(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreMissing, match="empty"):
        refusal(f"sqlite:///{tmp_path}/empty.db")
    (tmp_path / "notes.txt").write_bytes(b"this is a text file, longer than a header\n" * 200)
    with pytest.raises(StoreCorrupt, match=r"notes\.txt"):
        refusal(f"sqlite:///{tmp_path}/notes.txt")
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    with pytest.raises(StoreCorrupt, match="customers"):
        refusal(f"sqlite:///{tmp_path}/other.db")
    for url in ("runs/move37.db", "nosuch://x", "", f"sqlite:///{tmp_path}"):
        with pytest.raises(StoreUnavailable):
            refusal(url)


def test_a_newer_store_is_refused_and_one_of_this_revision_is_not(sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    open_overview(sqlite_url).close()
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match="9999") as caught:
        refusal(sqlite_url)
    assert caught.value.ours == HEAD_REVISION


def test_a_damaged_or_locked_store_is_a_typed_error(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with closing(open_store(sqlite_url)) as store:
        campaign = new_campaign(store)
        for index in range(30):
            completed(store, campaign, index)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA journal_mode=DELETE")
        overview = refusal(sqlite_url)
        holder.execute("BEGIN EXCLUSIVE")
        with closing(overview), pytest.raises(StoreBusy, match="another process"):
            overview.campaigns()
        with pytest.raises(StoreBusy, match="another process"):
            refusal(sqlite_url)
        holder.execute("ROLLBACK")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreCorrupt, match="backup"):
        everything(sqlite_url)


def test_an_up_to_date_file_is_read_without_a_database_library(sqlite_url: str) -> None:
    open_store(sqlite_url).close()
    script = (
        "import sys; from memory.overview import open_overview; "
        f"open_overview({sqlite_url!r}).campaigns(); "
        "print([name for name in ('sqlalchemy', 'alembic', 'asyncio', 'importlib.metadata') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
