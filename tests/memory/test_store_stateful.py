"""The store against a model of it in dictionaries: any order of calls, with crashes between them.

Two campaigns are written to side by side: experiments, attempts, verdicts, identities, trials, lessons, events. After
every step the store and the model agree, what was finished is as it was, and no key has two owners. A crash closes the
connections without a word and opens the file again (a store in memory has no crash that it survives).
Not covered: several processes at once (test_store_durability), values (test_store_properties), PostgreSQL.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory.database import Database
from memory.errors import Conflict, NotFound
from memory.records import Experiment, Trial
from memory.store import Store, open_store
from memory.testing import PROGRAM, VERDICT, Ticking, new_campaign, new_experiment

NAMES = ("one", "two")
places = st.tuples(st.sampled_from(NAMES), st.integers(0, 1))
keys = st.sampled_from(["k0", "k1"])
seconds = st.sampled_from([0.0, 0.5, 2.0])


@dataclass
class Model:
    """What one experiment should be."""

    status: str = "open"
    attempts: dict[int, str | None] = field(default_factory=dict)
    verdicts: dict[int, list[bool]] = field(default_factory=dict)
    trials: dict[int, tuple[str, float, int]] = field(default_factory=dict)  # state, seconds, tries
    lessons: dict[str, str] = field(default_factory=dict)


@cache
def template() -> Path:
    """An empty store, made once."""
    path = Path(tempfile.mkdtemp(prefix="move37-stateful-")) / "empty.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="module", autouse=True)
def _no_template_left() -> Any:
    yield
    if template.cache_info().currsize:
        shutil.rmtree(template().parent)
        template.cache_clear()


class StoreLife(RuleBasedStateMachine):
    """A store in memory."""

    @initialize()
    def begin(self) -> None:
        self.clock = Ticking()
        self.store = self.empty()
        self.campaigns = {name: new_campaign(self.store, name) for name in NAMES}
        self.program = self.store.put_program(PROGRAM)
        self.models: dict[tuple[str, int], Model] = {}
        self.owners: dict[tuple[str, str], str] = {}
        self.events: dict[str, list[tuple[int, Any]]] = {name: [] for name in NAMES}
        self.finished: dict[str, Experiment] = {}
        self.trained: dict[str, Trial] = {}
        for name in NAMES:
            self.open_experiment((name, 0))

    def empty(self) -> Store:
        database = Database("sqlite://", busy_timeout_s=5.0)
        with closing(sqlite3.connect(template())) as made, database.connection() as connection:
            connection.exec_driver_sql("COMMIT")  # the copy takes the place of the transaction that was begun
            made.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
            connection.exec_driver_sql("BEGIN")
        return Store(database, clock=self.clock)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    def known(self, place: tuple[str, int]) -> Model | None:
        return self.models.get(place)

    def refuses(self, error: type[Exception], call: Any) -> None:
        with pytest.raises(error):
            call()

    @rule(place=places)
    def open_experiment(self, place: tuple[str, int]) -> None:
        name, index = place
        opened = new_experiment(self.store, self.campaigns[name], index)
        assert opened.id == id_of(place)
        assert opened.status == self.models.setdefault(place, Model()).status

    @rule(place=places, number=st.integers(1, 2))
    def put_attempt(self, place: tuple[str, int], number: int) -> None:
        def call() -> Any:
            return self.store.put_attempt(id_of(place), number, origin="proposal")

        model = self.known(place)
        if model is None:
            self.refuses(NotFound, call)
        elif number in model.attempts or model.status == "open":
            assert call().outcome == model.attempts.setdefault(number, None)
        else:
            self.refuses(Conflict, call)

    @rule(place=places, number=st.integers(1, 2), outcome=st.sampled_from(["accepted", "gate_failed"]))
    def close_attempt(self, place: tuple[str, int], number: int, outcome: Any) -> None:
        def call() -> Any:
            return self.store.close_attempt(id_of(place), number, outcome)

        model = self.known(place)
        if model is None or number not in model.attempts:
            self.refuses(NotFound, call)
        elif model.attempts[number] in (None, outcome):
            assert call().outcome == outcome
            model.attempts[number] = outcome
        else:
            self.refuses(Conflict, call)

    @rule(place=places, number=st.integers(1, 2), passed=st.lists(st.booleans(), min_size=1, max_size=3))
    def put_verdicts(self, place: tuple[str, int], number: int, passed: list[bool]) -> None:
        def call() -> Any:
            return self.store.put_verdicts(id_of(place), number, [VERDICT | {"passed": one} for one in passed])

        model = self.known(place)
        if model is None or number not in model.attempts:
            self.refuses(NotFound, call)
            return
        there = model.verdicts.get(number, [])
        agree = all(old == new for old, new in zip(there, passed, strict=False))
        if agree and (model.status == "open" or len(passed) <= len(there)):
            model.verdicts[number] = max(there, passed, key=len)
            assert [one.passed for one in call()] == model.verdicts[number]
        else:
            self.refuses(Conflict, call)

    @rule(place=places, key=keys)
    def reserve(self, place: tuple[str, int], key: str) -> None:
        name, _ = place

        def call() -> Any:
            return self.store.reserve(self.campaigns[name].id, "L0", key, id_of(place))

        if self.known(place) is None:
            self.refuses(NotFound, call)
            return
        owner = self.owners.setdefault((name, key), id_of(place))
        answer = call()
        assert (answer.granted, answer.owner) == (owner == id_of(place), owner)

    @rule(place=places, key=keys)
    def reserve_in_another_campaign(self, place: tuple[str, int], key: str) -> None:
        other = next(name for name in NAMES if name != place[0])
        error = NotFound if self.known(place) is None else Conflict
        self.refuses(error, lambda: self.store.reserve(self.campaigns[other].id, "L0", key, id_of(place)))

    @rule(place=places, seed=st.integers(0, 1))
    def open_trial(self, place: tuple[str, int], seed: int) -> None:
        model = self.known(place)
        if model is None:
            self.refuses(NotFound, lambda: self._trial(place, seed))
            return
        state, used, tries = model.trials.get(seed, ("open", 0.0, 0))
        model.trials[seed] = (state, used, tries + (state == "open"))
        opened = self._trial(place, seed)
        assert (opened.state, opened.device_s, opened.tries) == model.trials[seed]

    def _trial(self, place: tuple[str, int], seed: int) -> Trial:
        settings: dict[str, Any] = {"task": "recall", "tier": "smoke", "data": "selection", "objective_hash": "o0"}
        return self.store.open_trial(id_of(place), seed=seed, **settings)

    @rule(place=places, seed=st.integers(0, 1), used=seconds, end=st.sampled_from(["lost", "completed", "failed"]))
    def try_ends(self, place: tuple[str, int], seed: int, used: float, end: Any) -> None:
        trial_id = f"{id_of(place)}/recall/smoke/{seed}/selection"
        model = self.known(place)

        def call() -> Trial:
            if end == "lost":
                return self.store.charge_trial(trial_id, used)
            return self.store.finish_trial(trial_id, state=end, score=0.5, device_s=used)

        if model is None or seed not in model.trials:
            self.refuses(NotFound, call)
            return
        state, before, tries = model.trials[seed]
        if state == "open":
            model.trials[seed] = ("open" if end == "lost" else end, before + used, tries)
            done = call()
            if end != "lost":
                self.trained[done.id] = done
        elif state == end:
            assert call() == self.trained[trial_id]  # said again: nothing is charged twice
        else:
            self.refuses(Conflict, call)

    @rule(place=places, status=st.sampled_from(["completed", "rejected", "failed"]))
    def finish(self, place: tuple[str, int], status: Any) -> None:
        result: dict[str, Any] = {"status": status}
        if status == "completed":
            result |= {"score": 0.5, "program_sha256": self.program}

        def call() -> Experiment:
            return self.store.finish_experiment(id_of(place), **result)

        model = self.known(place)
        if model is None:
            self.refuses(NotFound, call)
        elif model.status in ("open", status):
            model.status = status
            done = call()
            assert self.finished.setdefault(done.id, done).finished_at == done.finished_at
            self.finished[done.id] = done
        else:
            self.refuses(Conflict, call)

    @rule(place=places, claim=keys, level=st.sampled_from(["observed", "ablated", "replicated"]))
    def put_lesson(self, place: tuple[str, int], claim: str, level: Any) -> None:
        def call() -> Any:
            return self.store.put_lesson(id_of(place), claim, level=level)

        model = self.known(place)
        if model is None:
            self.refuses(NotFound, call)
            return
        order = ["observed", "ablated", "replicated"]
        model.lessons[claim] = max(model.lessons.get(claim, level), level, key=order.index)
        assert call().level == model.lessons[claim]

    @rule(name=st.sampled_from(NAMES), number=st.integers())
    def put_event(self, name: str, number: int) -> None:
        event = self.store.put_event(self.campaigns[name].id, "noted", {"number": number})
        assert all(event.id > before for before, _ in self.events[name])
        self.events[name].append((event.id, {"number": number}))

    @invariant()
    def store_and_model_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, campaign in self.campaigns.items():
            models = {place: model for place, model in self.models.items() if place[0] == name}
            self._agrees(campaign.id, models)
            assert [(one.id, one.payload) for one in self.store.events(campaign.id)] == self.events[name]
            for (of, key), owner in self.owners.items():
                held = self.store.identity(self.campaigns[of].id, "L0", key)
                assert held is not None
                assert held.experiment_id == owner

    def _agrees(self, campaign_id: str, models: dict[tuple[str, int], Model]) -> None:
        found = {one.id: one for one in self.store.experiments(campaign_id)}
        assert {key: one.status for key, one in found.items()} == {id_of(p): m.status for p, m in models.items()}
        assert all(found[key] == one for key, one in self.finished.items() if key in found)
        counts = self.store.counts(campaign_id)
        assert counts.experiments == len(models)
        assert counts.attempts == sum(len(model.attempts) for model in models.values())
        assert counts.trials == sum(len(model.trials) for model in models.values())
        assert counts.lessons == sum(len(model.lessons) for model in models.values())
        trials = {one.id: one for one in self.store.trials(campaign_id=campaign_id)}
        assert all(trials[key] == one for key, one in self.trained.items() if key in trials)
        assert sorted((one.state, one.device_s, one.tries) for one in trials.values()) == sorted(
            run for model in models.values() for run in model.trials.values()
        )
        used = sum(run[1] for model in models.values() for run in model.trials.values())
        assert self.store.spent(campaign_id).device_s == used


class StoreFileLife(StoreLife):
    """A store in a file, which is closed and opened again."""

    def empty(self) -> Store:
        self.directory = tempfile.TemporaryDirectory(prefix="move37-stateful-")
        self.url = f"sqlite:///{self.directory.name}/move37.db"
        shutil.copy(template(), Path(self.directory.name) / "move37.db")
        return open_store(self.url, create=False, clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @precondition(lambda self: self.models)
    @rule()
    def crash(self) -> None:
        """Whatever is begun is not ended, and another process takes over."""
        with pytest.raises(KeyboardInterrupt):
            self.interrupted()
        self.store.close()
        self.store = open_store(self.url, create=False, clock=self.clock)
        assert all(self.store.analysis(id_of(place)) is None for place in self.models)

    def interrupted(self) -> None:
        with self.store._database.write() as session:
            connection = session.connection()
            connection.exec_driver_sql("UPDATE trials SET tries = 99 WHERE state = 'open'")
            connection.exec_driver_sql("INSERT INTO analyses SELECT id, '{}', '2030-01-01' FROM experiments LIMIT 1")
            raise KeyboardInterrupt


def id_of(place: tuple[str, int]) -> str:
    name, index = place
    return f"{name}-{index:04d}"


# Explaining a failure traces every line of SQLAlchemy and takes minutes.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
for _machine in (StoreLife, StoreFileLife):
    _machine.TestCase.settings = settings(max_examples=6, stateful_step_count=20, deadline=None, phases=_PHASES)
TestStoreLife = StoreLife.TestCase
TestStoreFileLife = StoreFileLife.TestCase
