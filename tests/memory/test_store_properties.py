"""Properties of the store: every value comes back as it went in, and an experiment lives as its contract says."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy.dialects import postgresql, sqlite

from memory.columns import Moment, plain
from memory.errors import Conflict, NotFound, ProgramUnstorable, ValueRefused
from memory.escaping import escape, unescape
from memory.records import Usage
from memory.store import Store, open_store
from memory.testing import PROGRAM, Ticking, exchange, new_campaign, new_experiment, trial

any_text = st.text(alphabet=st.characters(codec=None), max_size=40)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(any_text, json_values, max_size=4)
many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(payload=json_objects)
def test_json_comes_back_as_it_went_in(store: Store, payload: dict[str, Any]) -> None:
    if not store.campaigns():
        new_campaign(store)
    made = store.put_event(store.campaign("demo").id, "any", payload)
    (read,) = store.events(made.campaign_id, after=made.id - 1)
    assert read.payload == payload
    assert repr(read.payload) == repr(payload)  # 1 and 1.0, True and 1, the order of keys


@many
@given(texts=st.lists(any_text, min_size=1, max_size=3))
def test_any_text_comes_back_as_it_went_in(store: Store, texts: list[str]) -> None:
    if not store.campaigns():
        new_campaign(store)
    campaign = store.campaign("demo")
    experiment = new_experiment(store, campaign, store.counts(campaign.id).experiments)
    for turn, text in enumerate(texts):
        exchange(store, experiment, turn, text=text)
    assert [one.text for one in store.exchanges(experiment.id)] == texts


@many
@given(source=any_text)
def test_programs_come_back_or_are_refused(store: Store, source: str) -> None:
    storable = "\x00" not in source and not any("\ud800" <= character <= "\udfff" for character in source)
    if storable:
        assert store.program(store.put_program(source)).source == source
    else:
        with pytest.raises(ProgramUnstorable):
            store.put_program(source)


@given(any_text)
def test_escaping_is_reversible_and_rare(text: str) -> None:
    assert unescape(escape(text)) == text
    assert escape("plain text, é ∀\n\t") == "plain text, é ∀\n\t"
    escape(text).encode()
    assert "\x00" not in escape(text)


@given(
    st.recursive(
        st.sampled_from([float("nan"), float("inf"), -float("inf"), object(), b"bytes", {1}, {2: "key"}]),
        lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.just("k"), inner, min_size=1),
        max_leaves=3,
    )
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueRefused, match="thing"):
        plain({"given": value}, "thing")


def test_deep_and_cyclic_values_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueRefused, match="deeper"):
        plain(cycle, "cycle")
    assert plain({"t": (1, (2,))}, "tuples") == {"t": [1, [2]]}


zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))])


@given(st.datetimes(timezones=zones, min_value=datetime(1990, 1, 1), max_value=datetime(2200, 1, 1)))
def test_moments_keep_their_instant(moment: datetime) -> None:
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        column = Moment()
        read = column.process_result_value(column.process_bind_param(moment, dialect), dialect)
        assert read == moment
        assert read is not None
        assert read.tzinfo is UTC


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueRefused, match="timezone"):
        Moment().process_bind_param(datetime(2030, 1, 1), sqlite.dialect())


class ExperimentLife(RuleBasedStateMachine):
    """A model of one campaign in dictionaries, and the store beside it."""

    experiments = Bundle("experiments")

    @initialize()
    def begin(self) -> None:
        self.store = open_store("sqlite://", clock=Ticking())
        self.campaign = new_campaign(self.store)
        self.program = self.store.put_program(PROGRAM)
        self.status: dict[str, str] = {}
        self.frozen: dict[str, object] = {}
        self.parents: dict[str, str | None] = {}
        self.owners: dict[str, str] = {}
        self.attempts: dict[str, dict[int, str | None]] = {}
        self.device_s = 0.0
        self.tokens = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    @rule(target=experiments, index=st.integers(0, 5))
    def open_experiment(self, index: int) -> str:
        experiment = new_experiment(self.store, self.campaign, index)
        assert experiment.status == self.status.setdefault(experiment.id, "open")
        self.attempts.setdefault(experiment.id, {})
        return experiment.id

    @rule(child=experiments, parent=st.none() | experiments)
    def select(self, child: str, parent: str | None) -> None:
        allowed = parent is None or self.status[parent] != "open"
        if child in self.parents:
            if self.parents[child] == parent:
                self.store.select(child, parent, [], {"why": "test"})
            else:
                with pytest.raises(Conflict):
                    self.store.select(child, parent, [], {"why": "test"})
        elif self.status[child] == "open" and allowed and parent != child:
            self.store.select(child, parent, [], {"why": "test"})
            self.parents[child] = parent
        else:
            with pytest.raises(Conflict):
                self.store.select(child, parent, [], {"why": "test"})

    @rule(experiment=experiments, number=st.integers(1, 3))
    def attempt(self, experiment: str, number: int) -> None:
        if number in self.attempts[experiment] or self.status[experiment] == "open":
            self.store.put_attempt(experiment, number, origin="proposal")
            self.attempts[experiment].setdefault(number, None)
        else:
            with pytest.raises(Conflict):
                self.store.put_attempt(experiment, number, origin="proposal")

    @rule(experiment=experiments, number=st.integers(1, 3), outcome=st.sampled_from(["accepted", "gate_failed"]))
    def close(self, experiment: str, number: int, outcome: Any) -> None:
        if number not in self.attempts[experiment]:
            with pytest.raises(NotFound):
                self.store.close_attempt(experiment, number, outcome)
        elif self.attempts[experiment][number] in (None, outcome):
            self.store.close_attempt(experiment, number, outcome)
            self.attempts[experiment][number] = outcome
        else:
            with pytest.raises(Conflict):
                self.store.close_attempt(experiment, number, outcome)

    @rule(experiment=experiments, key=st.sampled_from(["k1", "k2"]))
    def reserve(self, experiment: str, key: str) -> None:
        owner = self.owners.setdefault(key, experiment)
        answer = self.store.reserve(self.campaign.id, "L0", key, experiment)
        assert (answer.granted, answer.owner) == (owner == experiment, owner)

    @rule(experiment=experiments, seconds=st.integers(0, 9), tokens=st.integers(0, 50))
    def use(self, experiment: str, seconds: int, tokens: int) -> None:
        snapshot = self.store.experiment(experiment)
        exchange(self.store, snapshot, len(self.store.exchanges(experiment)), usage=Usage(tokens, 1, estimated=True))
        self.tokens += tokens + 1
        opened = trial(self.store, snapshot, seed=tokens)
        if opened.state == "open":
            self.store.finish_trial(opened.id, state="completed", score=0.5, device_s=seconds)
            self.device_s += seconds

    @rule(experiment=experiments, status=st.sampled_from(["completed", "rejected", "failed"]))
    def finish(self, experiment: str, status: Any) -> None:
        result: dict[str, Any] = {"status": status, "reason": "ok"}
        if status == "completed":
            result |= {"score": 0.5, "program_sha256": self.program}
        if self.status[experiment] in ("open", status):
            self.frozen[experiment] = self.store.finish_experiment(experiment, **result)
            self.status[experiment] = status
        else:
            with pytest.raises(Conflict):
                self.store.finish_experiment(experiment, **result)

    @invariant()
    def store_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {one.id: one for one in self.store.experiments(self.campaign.id)}
        assert {key: one.status for key, one in found.items()} == self.status
        assert all(found[key] == one for key, one in self.frozen.items())
        assert {key: one.attempts for key, one in found.items()} == {k: len(v) for k, v in self.attempts.items()}
        spent = self.store.spent(self.campaign.id)
        assert (spent.tokens, spent.device_s) == (self.tokens, self.device_s)


# Explaining a failure traces every line of SQLAlchemy and takes minutes.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
ExperimentLife.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None, phases=_PHASES)
TestExperimentLife = ExperimentLife.TestCase


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://", clock=Ticking())
    yield opened
    opened.close()
