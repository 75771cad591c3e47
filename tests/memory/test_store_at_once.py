"""Writes of one statement on PostgreSQL: the same as the long way, refusals included, whoever writes beside them."""

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from memory import experiments
from memory.database import Database
from memory.errors import Conflict, MemoryStoreError, StoreUnavailable
from memory.records import Experiment
from memory.store import Store, open_store
from memory.testing import PROGRAM, VERDICT, exchange, new_campaign, new_experiment, trial

ODD = "nul \x00, surrogate \ud800, escape \x1a, percent %s %(x)s, quote ' \""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Store]:
    if not os.environ.get("MOVE37_TEST_POSTGRES"):
        pytest.skip("MOVE37_TEST_POSTGRES is not set")
    opened = open_store(str(request.getfixturevalue("postgres_url")))
    yield opened
    opened.close()


def every_write(store: Store) -> Iterator[tuple[Any, Any]]:
    """Ten writes: what each returned, and what is read back."""
    campaign = new_campaign(store)
    opened = new_experiment(store, campaign, name=ODD, environment={"text": ODD})
    yield opened, store.experiment(opened.id)
    key = store.put_program(PROGRAM)
    yield key, store.program(key).sha256
    hypothesis = {"why": ODD}
    yield (
        store.put_attempt(opened.id, 1, origin="proposal", edit=ODD, hypothesis=hypothesis, program_sha256=key),
        store.attempts(opened.id)[0],
    )
    yield store.reserve(campaign.id, "L0", key, opened.id).owner, store.identities(opened.id)[0].experiment_id
    verdicts = [VERDICT, {**VERDICT, "gate": "shape", "passed": False, "message": ODD, "line": 3, "detail": {"n": [1]}}]
    yield store.put_verdicts(opened.id, 1, verdicts), store.verdicts(opened.id)
    yield exchange(store, opened, text=ODD), store.exchanges(opened.id)[0]
    started = trial(store, opened)
    yield started, store.trials(opened.id)[0]
    metrics = {"accuracy": 0.1 + 0.2, "none": None}
    yield (
        store.finish_trial(started.id, state="completed", score=0.5, metrics=metrics, log=ODD, device_s=2.5),
        store.trials(opened.id)[0],
    )
    yield store.put_event(campaign.id, "e", {"n": ODD}, experiment_id=opened.id), store.events(campaign.id)[0]
    yield (
        store.finish_experiment(opened.id, status="completed", score=0.5, program_sha256=key, hypothesis=hypothesis),
        store.experiment(opened.id),
    )
    amounts = {one.kind: one.amount for one in store.charges(campaign.id)}
    yield amounts, {"calls": 1, "prompt_tokens": 100, "completion_tokens": 20, "usd": 0.25, "device_s": 2.5}
    yield store.spent(campaign.id).device_s, 2.5


def test_what_a_write_returns_is_what_is_read_back(store: Store) -> None:
    for returned, stored in every_write(store):
        assert returned == stored


def test_each_first_write_takes_one_statement(server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    statements, long_ways = [], []
    at_once, write = Database.at_once, Database.write
    monkeypatch.setattr(Database, "at_once", lambda *given: statements.append(1) or at_once(*given))
    monkeypatch.setattr(Database, "write", lambda *given: long_ways.append(1) or write(*given))
    assert all(returned == stored for returned, stored in every_write(server))
    assert (len(statements), len(long_ways)) == (10, 1)  # the campaign itself


def while_finishing(store: Store, experiment: Experiment, write: Callable[[], Any]) -> Any:
    """What a write comes to that begins while another finishes the experiment, and has to wait for it."""
    outcome: list[Any] = []

    def begin() -> None:
        try:
            outcome.append(write())
        except MemoryStoreError as error:
            outcome.append(error)

    ending = {"status": "failed", "reason": "infrastructure", "message": "", "score": None}
    thread = threading.Thread(target=begin)
    with store._database.write(experiment.id) as session:
        experiments.finish(session, datetime.now(UTC), experiment.id, ending, {})
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits its turn
    thread.join(30)
    return outcome[0]


def test_a_write_that_waited_sees_what_it_waited_for(server: Store) -> None:
    campaign = new_campaign(server)
    first, second, third = (new_experiment(server, campaign, index) for index in range(3))
    late = while_finishing(server, first, lambda: server.put_attempt(first.id, 1, origin="proposal"))
    assert isinstance(late, Conflict)
    assert server.attempts(first.id) == []
    server.put_attempt(second.id, 1, origin="proposal")
    late = while_finishing(server, second, lambda: server.put_verdicts(second.id, 1, [VERDICT]))
    assert isinstance(late, Conflict)
    assert server.verdicts(second.id) == []
    late = while_finishing(server, third, lambda: server.finish_experiment(third.id, status="rejected", reason="size"))
    assert isinstance(late, Conflict)
    assert server.experiment(third.id).status == "failed"


def test_who_follows_the_ledger_misses_no_entry(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = new_campaign(store)
    opened = [new_experiment(store, campaign, index) for index in range(4)]

    def spend(experiment: Experiment) -> None:
        for turn in range(15):
            exchange(store, experiment, turn)

    writers = [threading.Thread(target=spend, args=(one,)) for one in opened]
    for thread in writers:
        thread.start()
    followed = []
    while any(thread.is_alive() for thread in writers):
        followed += store.charges(campaign.id, after=followed[-1].id if followed else 0)
    followed += store.charges(campaign.id, after=followed[-1].id if followed else 0)
    assert followed == store.charges(campaign.id)
    assert len(followed) == 4 * 15 * 4
    store.close()


def test_a_lost_connection_is_named_and_the_next_write_makes_another(server: Store) -> None:
    campaign = new_campaign(server)
    server.put_event(campaign.id, "before", {})
    with server._database.connection() as connection:
        mine = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    other = open_store(str(server._database.engine.url.render_as_string(hide_password=False)))
    with other._database.connection() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
    other.close()
    with pytest.raises(StoreUnavailable):
        server.put_event(campaign.id, "lost", {})
    server.put_event(campaign.id, "after", {})
    assert [event.kind for event in server.events(campaign.id)] == ["before", "after"]
