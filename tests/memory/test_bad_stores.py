"""Bad stores and bad values: each is a typed error that names what, and leaves everything as it was.

Not covered: missing, foreign, newer, locked and full stores (test_store_opening), JSON in general
(test_store_properties), bad archives and trees (their importers' tests).
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from memory.errors import MemoryStoreError, ProgramUnstorable, StoreCorrupt, StoreUnavailable, ValueRefused
from memory.models import Base
from memory.records import Usage
from memory.store import Store, open_store
from memory.testing import PROGRAM, VERDICT, Ticking, completed, exchange, new_campaign, new_experiment, trial

NAN, INFINITE = float("nan"), float("inf")
ODD = "NUL \x00, half a pair \ud83d, the escape \x1a0000, é ∀"


def contents(store: Store) -> dict[str, list[str]]:
    with store._database.read() as session:
        return {
            name: sorted(map(str, session.execute(text(f'SELECT * FROM "{name}"')).all()))
            for name in Base.metadata.tables
        }


Call = Callable[[Store, str], object]
NOT_FINITE: dict[str, tuple[str, Call]] = {
    "score of a trial": ("score of demo-0000/", lambda s, e: s.finish_trial(_open(s, e), state="completed", score=NAN)),
    "metric": (
        r"metrics of demo-0000/.*\.accuracy",
        lambda s, e: s.finish_trial(_open(s, e), state="completed", score=0.5, metrics={"accuracy": INFINITE}),
    ),
    "curve": (
        r"curve of demo-0000/.*\[1\]\.loss",
        lambda s, e: s.finish_trial(_open(s, e), state="completed", score=0.5, curve=[{}, {"loss": NAN}]),
    ),
    "seconds": ("device time of demo-0000/", lambda s, e: s.charge_trial(_open(s, e), -INFINITE)),
    "seconds below zero": ("negative", lambda s, e: s.charge_trial(_open(s, e), -1.0)),
    "score": ("score of demo-0000", lambda s, e: s.finish_experiment(e, status="failed", score=INFINITE)),
    "environment": (
        "environment.cost",
        lambda s, e: s.finish_experiment(e, status="failed", environment={"cost": NAN}),
    ),
    "latency": ("latency of exchange demo-0000/", lambda s, e: exchange(s, s.experiment(e), latency_s=NAN)),
    "price": ("cost of exchange demo-0000/", lambda s, e: exchange(s, s.experiment(e), cost_usd=INFINITE)),
    "request": (
        r"exchange request.*\.temperature",
        lambda s, e: exchange(s, s.experiment(e), request={"temperature": NAN}),
    ),
    "hypothesis": ("hypothesis.size", lambda s, e: s.put_attempt(e, 2, origin="proposal", hypothesis={"size": NAN})),
    "detail": ("attempt detail.x", lambda s, e: s.close_attempt(e, 1, "accepted", {"x": NAN})),
    "verdict": ("verdict detail.x", lambda s, e: s.put_verdicts(e, 1, [VERDICT | {"detail": {"x": NAN}}])),
    "selection": ("selection.p", lambda s, e: s.select(e, None, [], {"p": INFINITE})),
    "analysis": ("analysis.x", lambda s, e: s.put_analysis(e, {"x": NAN})),
    "lesson": ("lesson.effect", lambda s, e: s.put_lesson(e, "claim", body={"effect": NAN})),
    "finding": (
        "finding statistics.p",
        lambda s, e: s.put_finding(e, e, statistics={"p": NAN}, claim_objective_hash="o9"),
    ),
    "event": ("event payload.x", lambda s, e: s.put_event(s.experiment(e).campaign_id, "noted", {"x": NAN})),
    "configuration": (r"config\.rate", lambda s, e: new_campaign(s, "other", config={"rate": NAN})),
}


def _open(store: Store, experiment_id: str) -> str:
    return str(trial(store, store.experiment(experiment_id)).id)


@pytest.mark.parametrize("what", NOT_FINITE)
def test_what_is_not_finite_is_refused_by_name_and_stores_nothing(store: Store, what: str) -> None:
    named, call = NOT_FINITE[what]
    experiment = new_experiment(store, new_campaign(store))
    store.put_attempt(experiment.id, 1, origin="proposal")
    _open(store, experiment.id)  # counted once more by the calls that finish it: a try, not a row
    before = contents(store)
    with pytest.raises(ValueRefused, match=named):
        call(store, experiment.id)
    after = contents(store)
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    assert {name: rows for name, rows in after.items() if name != "trials"} == {
        name: rows for name, rows in before.items() if name != "trials"
    }
    assert [(one.state, one.device_s) for one in store.trials(experiment.id)] == [("open", 0.0)]


def test_nul_and_half_pairs_come_back_wherever_a_model_or_a_program_may_write(store: Store) -> None:
    campaign = new_campaign(store, announcements=[ODD])
    store.set_campaign_state(campaign.id, "running", announcement=ODD)
    experiment = new_experiment(store, campaign, name=ODD)
    store.put_attempt(experiment.id, 1, origin="proposal", edit=ODD, hypothesis={ODD: [ODD]})
    store.put_verdicts(experiment.id, 1, [VERDICT | {"message": ODD, "detail": {"line": ODD}}])
    exchange(store, experiment, text=ODD, model=ODD, finish_reason=ODD, request={"messages": [{"content": ODD}]})
    store.finish_trial(
        trial(store, experiment).id, state="failed", reason="exception", message=ODD, log=ODD, metrics={ODD: 1.0}
    )
    lesson = store.put_lesson(experiment.id, ODD, body={"change": ODD})
    store.put_analysis(experiment.id, {"summary": ODD})
    store.finish_experiment(experiment.id, status="failed", reason="exception", message=ODD, name=ODD)
    done = store.experiment(experiment.id)
    assert (done.name, done.message, store.campaign("demo").announcements) == (ODD, ODD, [ODD, ODD])
    (attempt,), (verdict,) = store.attempts(experiment.id), store.verdicts(experiment.id)
    assert (attempt.edit, attempt.hypothesis, verdict.message, verdict.detail) == (
        ODD,
        {ODD: [ODD]},
        ODD,
        {"line": ODD},
    )
    (said,), (run,) = store.exchanges(experiment.id), store.trials(experiment.id)
    assert (said.text, said.model, said.finish_reason) == (ODD, ODD, ODD)
    assert said.request == {"messages": [{"content": ODD}]}
    assert (run.message, run.log, run.metrics) == (ODD, ODD, {ODD: 1.0})
    assert store.lessons(campaign.id) == [lesson]
    assert (lesson.claim, lesson.body) == (ODD, {"change": ODD})
    analysis = store.analysis(experiment.id)
    assert analysis is not None
    assert analysis.body == {"summary": ODD}


@pytest.mark.parametrize("bad", ["", " a", "a\x00", "\ud800", "line\nbreak", "x" * 121])
def test_names_of_ours_are_words(store: Store, bad: str) -> None:
    campaign = new_campaign(store)
    experiment = new_experiment(store, campaign)
    before = contents(store)
    calls: list[Callable[[], object]] = [
        lambda: new_experiment(store, campaign, 1, arm=bad),
        lambda: trial(store, experiment, task=bad),
        lambda: store.put_event(campaign.id, bad),
        lambda: store.reserve(campaign.id, "L0", bad, experiment.id),
        lambda: _exchange_of(store, experiment.id, bad),
        lambda: new_campaign(store, bad),
        lambda: new_campaign(store, "other", arms=[bad]),
    ]
    for call in calls:
        with pytest.raises(ValueRefused):
            call()
    assert contents(store) == before


def _exchange_of(store: Store, experiment_id: str, role: str) -> object:
    request: dict[str, Any] = {"request_key": "k", "template_hashes": {}, "model": "m", "request": {}, "response": None}
    answer: dict[str, Any] = {"text": "", "cost_usd": None, "latency_s": 0.0, "finish_reason": "stop"}
    return store.put_exchange(experiment_id, role, 1, 0, **request, usage=Usage(1, 1, estimated=False), **answer)


def test_program_with_nul_or_half_a_pair_is_refused_with_its_place(store: Store) -> None:
    for source, place in (("x = 1\n\x00", "character 6"), ("x = '\udfff'", "character 5")):
        with pytest.raises(ProgramUnstorable, match=place):
            store.put_program(source)
    assert contents(store)["programs"] == []


def test_program_of_ten_megabytes_comes_back(store: Store) -> None:
    source = PROGRAM + "# " + "x" * (10 * 1024 * 1024) + "\n"
    key = store.put_program(source)
    assert store.put_program(source) == key
    assert store.program(key).source == source
    assert store.program(key).l0 == store.program(store.put_program(PROGRAM)).l0  # a comment, however long


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A store with a campaign of thirty, closed."""
    path = tmp_path / "move37.db"
    store = open_store(f"sqlite:///{path}", clock=Ticking())
    campaign = new_campaign(store)
    for index in range(30):
        completed(store, campaign, index)
    store.close()
    return path


def read_all(path: Path) -> None:
    """Everything in the store."""
    with closing(open_store(f"sqlite:///{path}", create=False)) as store:
        for campaign in store.campaigns():
            for experiment in store.experiments(campaign.id):
                store.program(str(experiment.program_sha256))
            store.events(campaign.id)
            store.trials(campaign_id=campaign.id)


def test_cut_off_anywhere_it_is_corrupt_or_missing_and_stays_as_it_is(whole: Path) -> None:
    content = whole.read_bytes()
    for part in (
        15,
        99,
        100,
        512,
        4095,
        4096,
        4097,
        *(len(content) * n // 7 for n in range(1, 7)),
        len(content) - 4096,
    ):
        whole.write_bytes(content[:part])
        with pytest.raises(StoreCorrupt, match=r"move37\.db.*(damaged|not an experiment memory)"):
            read_all(whole)
        assert whole.read_bytes() == content[:part]
    whole.write_bytes(content)
    read_all(whole)


def test_overwritten_pages_are_never_an_untyped_error(whole: Path) -> None:
    content = whole.read_bytes()
    seen = 0
    for page in range(0, len(content) // 4096, 3):
        for junk in (b"\x00" * 4096, b"\xff" * 4096):
            whole.write_bytes(content[: page * 4096] + junk + content[(page + 1) * 4096 :])
            try:
                read_all(whole)  # a page of an index that nothing here reads may be anything
            except MemoryStoreError:
                seen += 1
            for leftover in ("-wal", "-shm"):
                whole.with_name(whole.name + leftover).unlink(missing_ok=True)
    assert seen > 10


def test_torn_journal_costs_its_end_and_nothing_before(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/move37.db")
    campaign = new_campaign(store)
    for number in range(40):
        store.put_event(campaign.id, "noted", {"number": number})
    journal = (tmp_path / "move37.db-wal").read_bytes()
    kept = []
    for part in (0, 1, 32, 33, *(len(journal) * n // 6 for n in range(1, 6)), len(journal)):
        place = tmp_path / f"cut{part}"
        place.mkdir()
        shutil.copy(tmp_path / "move37.db", place / "move37.db")
        (place / "move37.db-wal").write_bytes(journal[:part])
        try:
            again = open_store(f"sqlite:///{place}/move37.db", create=False)
        except StoreUnavailable:
            continue  # the tables themselves were in the part that is gone
        with closing(again):
            for found in again.campaigns():
                numbers = [event.payload["number"] for event in again.events(found.id)]
                assert numbers == list(range(len(numbers)))
                kept.append(len(numbers))
    store.close()
    assert kept == sorted(kept)
    assert kept[-1] == 40


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_same_names_and_revision_but_other_columns(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE alembic_version (version_num TEXT); CREATE TABLE campaigns (id INTEGER, subject TEXT);"
            f"CREATE TABLE experiments (id INTEGER, title TEXT); INSERT INTO alembic_version VALUES ('{revision}');"
        )
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"other\.db"):
        read_all(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("versions", [[], ["0001", "0002"], ["1"], ["head"], [""]])
def test_version_table_that_says_nothing_of_ours(whole: Path, versions: list[str]) -> None:
    with closing(sqlite3.connect(whole)) as connection:
        connection.execute("DELETE FROM alembic_version")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(one,) for one in versions])
        connection.commit()
    with pytest.raises(StoreUnavailable, match=r"move37\.db"):
        read_all(whole)
