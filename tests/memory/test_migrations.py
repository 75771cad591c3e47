"""Store files that released revisions wrote, opened by this one: nothing is lost, going up, down and up again.

`data/stores/<revision>.db.gz` is what a Move37 of that revision left behind: a short campaign with the embedded model,
and a second one with the rows that a short campaign does not make (a duplicate, a failure, an open experiment, a
finding, a retired lesson, texts with NUL and half a surrogate pair). A released revision without such a file
fails here.
Not covered: what a revision means (tests of the parts that use its tables).
"""

import gzip
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, select, text

from memory import schema
from memory.database import Database
from memory.errors import Conflict, SchemaOutdated
from memory.identity import TEXT_PREFIX
from memory.store import Store, open_store
from memory.testing import PROGRAM, completed, new_campaign
from move37 import views
from move37.workspace import Workspace

needs_postgres = pytest.mark.skipif(
    not os.environ.get("MOVE37_TEST_POSTGRES"), reason="MOVE37_TEST_POSTGRES is not set"
)
STORES = Path(__file__).parent / "data" / "stores"
SCRIPTS = ScriptDirectory(str(schema.SCRIPTS))
RELEASED = [
    script.revision
    for script in reversed(list(SCRIPTS.walk_revisions()))
    if script.revision != SCRIPTS.get_current_head()
]

Tables = dict[str, list[tuple[str, ...]]]


@pytest.fixture(params=RELEASED)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old_file(revision: str, tmp_path: Path) -> Path:
    """A writable copy of the file that the revision left behind."""
    path = tmp_path / "old" / "move37.db"
    path.parent.mkdir()
    path.write_bytes(gzip.decompress((STORES / f"{revision}.db.gz").read_bytes()))
    return path


@pytest.fixture(params=["sqlite-file", pytest.param("postgresql", marks=needs_postgres)])
def old_url(request: pytest.FixtureRequest, revision: str, old_file: Path) -> str:
    """The old store on either database: PostgreSQL gets the tables of that revision and the rows of the file."""
    if request.param == "sqlite-file":
        return f"sqlite:///{old_file}"
    url = str(request.getfixturevalue("postgres_url"))
    with closing(Database(url, busy_timeout_s=30.0)) as database:
        schema.migrate(database, revision)
    _copy(f"sqlite:///{old_file}", url)
    return url


def _copy(source_url: str, target_url: str) -> None:
    """Every row of one database into the same tables of another."""
    source, target = create_engine(source_url), create_engine(target_url)
    with source.connect() as reading, target.begin() as writing:
        writing.execute(text("SET TIME ZONE 'UTC'"))  # SQLite keeps moments without a zone
        old, new = MetaData(), MetaData()
        old.reflect(reading)
        new.reflect(writing)
        for table in new.sorted_tables:
            rows = [dict(row) for row in reading.execute(select(old.tables[table.name])).mappings()]
            if rows and table.name != "alembic_version":
                writing.execute(table.insert(), rows)
            if "id" in table.columns and table.columns["id"].autoincrement is True:
                writing.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {len(rows) + 1})"))
    source.dispose()
    target.dispose()


def contents(url: str, columns: dict[str, list[str]] | None = None) -> Tables:
    """Every row of every table as text; with `columns`, of those columns alone."""
    found: Tables = {}
    engine = create_engine(url)
    with engine.connect() as connection:
        for table, names in (columns or columns_of(connection)).items():
            listed = ", ".join(f'"{name}"' for name in names)
            rows = connection.execute(text(f'SELECT {listed} FROM "{table}"'))
            found[table] = sorted(tuple(map(str, row)) for row in rows)
    engine.dispose()
    return found


def columns_of(connection: Connection) -> dict[str, list[str]]:
    made = inspect(connection)
    return {
        table: [column["name"] for column in made.get_columns(table)]
        for table in made.get_table_names()
        if table != "alembic_version"
    }


def of_url(url: str, ask: Callable[[Connection], Any]) -> Any:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = ask(connection)
    engine.dispose()
    return found


def schema_of(url: str) -> Any:
    """Tables with columns, keys, checks and indices, in an order that does not depend on how they came to be."""

    def ask(connection: Connection) -> Any:
        made = inspect(connection)
        return {
            table: (
                sorted((c["name"], str(c["type"]), c["nullable"]) for c in made.get_columns(table)),
                made.get_pk_constraint(table)["constrained_columns"],
                sorted((str(c["name"]), str(c["sqltext"])) for c in made.get_check_constraints(table)),
                sorted(
                    (c["constrained_columns"], c["referred_table"], c["referred_columns"])
                    for c in made.get_foreign_keys(table)
                ),
                sorted((str(i["name"]), i["column_names"], bool(i["unique"])) for i in made.get_indexes(table)),
            )
            for table in sorted(made.get_table_names())
        }

    return of_url(url, ask)


def triggers_of(url: str) -> set[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if url.startswith("sqlite")
        else "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text NOT LIKE '%.%'"
    )
    return set(of_url(url, lambda connection: list(connection.execute(text(query)).scalars())))


def test_every_released_revision_left_a_file() -> None:
    assert {path.name for path in STORES.iterdir()} >= {f"{revision}.db.gz" for revision in RELEASED}
    assert RELEASED


def test_the_file_is_of_its_revision_and_has_rows_everywhere(revision: str, old_file: Path) -> None:
    assert (
        of_url(f"sqlite:///{old_file}", lambda c: c.execute(text("SELECT * FROM alembic_version")).scalar()) == revision
    )
    assert all(contents(f"sqlite:///{old_file}").values())


def test_upgrade_keeps_every_row(old_url: str, revision: str) -> None:
    columns = of_url(old_url, columns_of)
    before = contents(old_url)
    with pytest.raises(SchemaOutdated):
        open_store(old_url, upgrade=False)
    assert contents(old_url) == before
    told: list[tuple[str, str]] = []
    open_store(old_url, create=False, on_upgrade=lambda found, new: told.append((found, new))).close()
    assert told == [(revision, schema.HEAD_REVISION)]
    after = contents(old_url, columns=columns)
    added = set(after.pop("identities")) - set(before["identities"])  # the same experiments under the stricter L0
    hashed = [row for row in before["identities"] if row[2].startswith("t1-")]
    assert len(added) == len(hashed) == len(contents(old_url)["identities"]) - len(before["identities"])
    assert all(row[2].startswith(TEXT_PREFIX) for row in added)
    assert after == {name: rows for name, rows in before.items() if name != "identities"}


def test_upgraded_store_has_the_schema_of_a_new_one(
    old_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    open_store(old_url).close()
    if old_url.startswith("sqlite"):
        new_url = f"sqlite:///{tmp_path}/new.db"
        open_store(new_url).close()
        assert schema_of(old_url) == schema_of(new_url)
        assert triggers_of(old_url) == triggers_of(new_url)
        with closing(sqlite3.connect(old_url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    else:  # the tables on PostgreSQL were made by the same scripts; test_store_opening compares them with the models
        assert triggers_of(old_url) >= {"guard_experiments_update", "guard_campaigns_delete"}


def test_down_and_up_again_loses_nothing(old_url: str, revision: str) -> None:
    before, old_schema, old_triggers = contents(old_url), schema_of(old_url), triggers_of(old_url)
    open_store(old_url).close()
    upgraded, new_schema, new_triggers = contents(old_url), schema_of(old_url), triggers_of(old_url)
    with closing(Database(old_url, busy_timeout_s=30.0)) as database:
        schema.downgrade(database, revision)
        assert schema.current_revision(database) == revision
    assert contents(old_url) == before
    assert (schema_of(old_url), triggers_of(old_url)) == (old_schema, old_triggers)
    open_store(old_url).close()
    assert without_ids(contents(old_url)) == without_ids(upgraded)
    assert (schema_of(old_url), triggers_of(old_url)) == (new_schema, new_triggers)


def without_ids(tables: Tables) -> Tables:
    """What was filled in by a migration may be numbered anew."""
    return {name: sorted(row[1:] for row in rows) if name == "ledger" else rows for name, rows in tables.items()}


def test_upgraded_rows_are_read_and_finished_ones_stay_final(old_url: str, tmp_path: Path) -> None:
    store = open_store(old_url)
    campaigns = store.campaigns()
    assert [(one.name, one.state) for one in campaigns] == [("first", "finished"), ("second", "stopped")]
    workspace = Workspace.find(tmp_path, old_url)
    for campaign in campaigns:
        experiments = store.experiments(campaign.id)
        assert views.status(workspace, store, campaign)["experiments"]["total"] == len(experiments)
        assert [one["id"] for one in views.lineage(store, campaign)["nodes"]] == [one.id for one in experiments]
        for experiment in experiments:
            shown = views.show(store, experiment)
            assert shown["status"] == experiment.status
            assert len(shown["trials"]) == len(store.trials(experiment.id))
    assert store.exchanges("second-0003")[0].text == "\ud800 \x00 \x1a0000 é ∀"
    assert store.campaign("second").announcements == ["half a pair \ud83d and a NUL \x00", "note"]
    done = store.experiment("first-0003")
    with pytest.raises(Conflict):
        store.finish_experiment(done.id, status="completed", score=0.99, program_sha256=done.program_sha256)
    store.close()


def test_what_was_spent_is_what_the_old_rows_say(old_url: str) -> None:
    def ask(connection: Connection) -> list[Any]:
        per_campaign = "JOIN experiments e ON e.id = t.experiment_id GROUP BY e.campaign_id ORDER BY e.campaign_id"
        calls = "SELECT e.campaign_id, SUM(t.prompt_tokens), SUM(t.completion_tokens), SUM(t.cost_usd), COUNT(*)"
        return [
            *connection.execute(text(f"{calls} FROM exchanges t {per_campaign}")),
            *connection.execute(text(f"SELECT e.campaign_id, SUM(t.device_s) FROM trials t {per_campaign}")),
        ]

    stated = of_url(old_url, ask)
    store = open_store(old_url)
    spent = {one.id: store.spent(one.id) for one in store.campaigns()}
    for campaign_id, *values in stated:
        now = spent[campaign_id]
        if len(values) == 1:
            assert now.device_s == pytest.approx(values[0])
        else:
            assert (now.prompt_tokens, now.completion_tokens, now.calls) == (values[0], values[1], values[3])
            assert now.cost_usd == pytest.approx(values[2])
    store.close()


def test_upgraded_store_goes_on(old_url: str) -> None:
    store = open_store(old_url)
    campaign = store.campaign("second")
    left_open = store.experiment("second-0004")
    assert left_open.status == "open"
    store.close_attempt(left_open.id, 2, "accepted")
    ending: dict[str, Any] = {"score": 0.75, "program_sha256": store.put_program(PROGRAM)}
    assert store.finish_experiment(left_open.id, status="completed", **ending).finished
    following = completed(store, campaign, 5, parent=left_open.id)
    store.put_event(campaign.id, "went on")
    assert store.counts(campaign.id).completed == 4
    assert completed(store, new_campaign(store, "third"), 0).finished
    assert store.experiment(following.id).parent_id == left_open.id
    _spends(store, following.id)
    store.close()


def _spends(store: Store, experiment_id: str) -> None:
    before = store.spent(store.experiment(experiment_id).campaign_id).device_s
    place: dict[str, Any] = {"task": "recall", "tier": "smoke", "seed": 0, "data": "selection"}
    trial = store.open_trial(experiment_id, **place, objective_hash="o0")
    store.finish_trial(trial.id, state="completed", score=0.5, device_s=1.5)
    assert store.spent(store.experiment(experiment_id).campaign_id).device_s == pytest.approx(before + 1.5)
