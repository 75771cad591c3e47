"""Finished rows do not change, whoever asks: raw SQL against every kind of database."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from memory.errors import Conflict
from memory.models import Base, ExperimentRow
from memory.store import Store, open_store
from memory.testing import PROGRAM, VERDICT, completed, exchange, new_campaign, new_experiment, trial


@pytest.fixture
def filled(shared_url: str) -> str:
    """A store with at least one row in every table."""
    store = open_store(shared_url)
    campaign = new_campaign(store)
    store.end_session(store.begin_session(campaign.id, {"pid": 1}).id)
    experiment = new_experiment(store, campaign, 0)
    store.select(experiment.id, None, [], {"why": "first"})
    store.put_attempt(experiment.id, 1, origin="proposal", program_sha256=store.put_program(PROGRAM))
    store.put_verdicts(experiment.id, 1, [VERDICT])
    store.close_attempt(experiment.id, 1, "accepted")
    store.reserve(campaign.id, "L0", "k", experiment.id)
    exchange(store, experiment)
    store.finish_trial(trial(store, experiment).id, state="completed", score=0.5)
    store.finish_experiment(
        experiment.id, status="completed", score=0.5, program_sha256=store.put_program(PROGRAM), name="first"
    )
    store.put_analysis(experiment.id, {"summary": "s"})
    second = completed(store, campaign, 1)
    lesson = store.put_lesson(experiment.id, "claim")
    store.put_evidence(lesson.id, second.id, "contradicts", "it fell")
    store.retire_lesson(lesson.id, second.id)
    store.put_program_key(store.put_program(PROGRAM), "l1", "", key="s1-0", cost_s=0.01)
    store.put_knowledge_uses(experiment.id, ["delta-rule"])
    store.put_vectors("program", "hash-1", {"a": b"12"})
    store.put_finding(experiment.id, second.id, statistics={"p": 0.01}, claim_objective_hash="o9")
    store.put_event(campaign.id, "done")
    store.set_campaign_state(campaign.id, "finished", because="budget")
    store.close()
    return shared_url


@pytest.fixture
def raw(filled: str) -> Iterator[Connection]:
    """A connection that knows nothing of the store's rules."""
    engine = create_engine(filled)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def contents(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: sorted(tuple(map(str, row)) for row in connection.execute(text(f'SELECT * FROM "{name}"')))
        for name in Base.metadata.tables
    }


def refused(connection: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError, match="immutable"):
        connection.execute(text(statement))
    connection.rollback()


def test_no_row_is_deleted_or_changed(raw: Connection) -> None:
    before = contents(raw)
    assert all(before.values()), [name for name, rows in before.items() if not rows]
    for name, table in Base.metadata.tables.items():
        refused(raw, f'DELETE FROM "{name}"')
        for column in table.columns:
            refused(raw, f'UPDATE "{name}" SET "{column.name}" = "{column.name}"')
    assert contents(raw) == before


def test_no_row_is_replaced(raw: Connection) -> None:
    before = contents(raw)
    for name, table in Base.metadata.tables.items():
        if raw.dialect.name == "postgresql":
            refused(raw, f'TRUNCATE "{name}" CASCADE')
            key = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
            first = next(iter(table.columns)).name
            refused(
                raw,
                f'INSERT INTO "{name}" SELECT * FROM "{name}" ON CONFLICT ({key}) '
                f'DO UPDATE SET "{first}" = excluded."{first}"',
            )
        else:
            refused(raw, f'INSERT OR REPLACE INTO "{name}" SELECT * FROM "{name}"')
            refused(raw, f'INSERT OR IGNORE INTO "{name}" SELECT * FROM "{name}"')
    assert contents(raw) == before


def test_sqlite_keys_and_rowids_of_others_cannot_be_taken(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    campaign = new_campaign(store)
    completed(store, campaign, 0)
    new_experiment(store, campaign, 1)
    store.close()
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        before = contents(connection)
        others = ", ".join(f'"{column.name}"' for column in ExperimentRow.__table__.columns if column.name != "id")
        moved = others.replace('"index"', "99")
        first, second = "FROM experiments WHERE id = 'demo-0000'", "FROM experiments WHERE id = 'demo-0001'"
        for statement in (
            "UPDATE OR REPLACE experiments SET id = 'demo-0000' WHERE id = 'demo-0001'",
            "UPDATE OR REPLACE experiments SET \"index\" = 0 WHERE id = 'demo-0001'",
            "UPDATE OR REPLACE experiments SET rowid = 1 WHERE id = 'demo-0001'",
            f"INSERT OR REPLACE INTO experiments (id, {others}) SELECT 'x', {others} {first}",
            f"INSERT OR REPLACE INTO experiments (rowid, id, {others}) SELECT 1, 'x', {moved} {second}",
            "UPDATE OR REPLACE campaigns SET name = 'demo' || name",
        ):
            refused(connection, statement)
        assert contents(connection) == before
    engine.dispose()


def test_open_rows_keep_what_was_fixed(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = new_campaign(store)
    experiment = new_experiment(store, campaign)
    store.select(experiment.id, None, [], {"why": "first"})
    trial(store, experiment)
    store.close()
    engine = create_engine(shared_url)
    with engine.connect() as connection:
        for statement in (
            "UPDATE campaigns SET config = '{}'",
            "UPDATE campaigns SET objective_hash = 'other'",
            "UPDATE experiments SET arm = 'random'",
            "UPDATE experiments SET selection = '{}'",
            "UPDATE trials SET objective_hash = 'other'",
            "DELETE FROM trials",
        ):
            refused(connection, statement)
        connection.execute(text("UPDATE trials SET tries = 2"))
        connection.commit()
    engine.dispose()


def test_refusal_of_the_database_surfaces_as_conflict(store: Store) -> None:
    campaign = new_campaign(store)
    done = completed(store, campaign, 0)
    with pytest.raises(Conflict, match="immutable"), store._database.write() as session:
        session.execute(text("UPDATE experiments SET score = 1.0 WHERE id = :id"), {"id": done.id})
    assert store.experiment(done.id) == done
