"""The bandit over modes and models: UCB1 on visible rewards, ablations at a fixed share, no matter who is faster."""

import dataclasses
import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.opening import open_model
from benchmarks import simulated
from memory.records import Experiment
from move37 import launch, modes
from move37.config import load, stored
from move37.models import open_chat_models
from move37.modes import Play, draw
from move37.replaying import replay_campaign


@dataclass
class One:
    """An experiment as the bandit sees it."""

    id: str
    score: float | None
    parent_id: str | None = None
    kind: str = "proposal"
    selection: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "failed" if self.score is None else "completed"


def test_every_arm_is_played_once_before_one_is_played_twice() -> None:
    played: list[Play] = []
    order = []
    for _ in range(3):
        order.append(draw(played, ("a", "b", "c")).arm)
        played.append(Play(order[-1], 1.0 if order[-1] == "a" else 0.0))
    assert order == ["a", "b", "c"]


def test_the_index_is_that_of_auer_and_others() -> None:
    played = [Play("a", 0.5), Play("a", 0.7), Play("b", 0.9)]
    arms = {arm.name: arm for arm in draw(played, ("a", "b")).arms}
    assert arms["a"].mean == pytest.approx(0.6)
    assert arms["a"].bound == pytest.approx(0.6 + math.sqrt(2 * math.log(3) / 2))
    assert arms["b"].bound == pytest.approx(0.9 + math.sqrt(2 * math.log(3) / 1))


def test_the_better_arm_is_played_most_and_no_arm_starves() -> None:
    rng = random.Random(3)
    chances = {"good": 0.8, "poor": 0.2, "bad": 0.05}
    played: list[Play] = []
    for _ in range(600):
        arm = draw(played, tuple(chances)).arm
        played.append(Play(arm, float(rng.random() < chances[arm]), tuple(chances)))
    counts = {name: sum(play.arm == name for play in played) for name in chances}
    assert counts["good"] > 400
    assert min(counts.values()) >= 10
    assert 0 < draw(played, tuple(chances)).regret < 200


def test_experiments_in_flight_do_not_all_try_one_mode() -> None:
    chosen = [draw([], ("a", "b", "c"), pending).arm for pending in range(3)]
    assert chosen == ["a", "b", "c"]


def test_regret_counts_only_arms_that_could_be_chosen() -> None:
    best = [Play("rare", 1.0, ("rare", "usual"))]
    usual = [Play("usual", 0.0, ("usual",))] * 9
    assert draw(best + usual, ("usual",)).regret == 0.0
    assert draw([*best, Play("usual", 0.0, ("rare", "usual"))], ("usual",)).regret == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("score", "parent", "earned"),
    [(0.55, 0.5, 0.5), (0.9, 0.5, 1.0), (0.4, 0.5, 0.0), (None, 0.5, 0.0), (0.4, None, 0.0)],
)
def test_a_reward_is_a_share_of_a_full_gain(score: float | None, parent: float | None, earned: float) -> None:
    assert modes.reward(score, parent) == pytest.approx(earned)


@given(
    drawn=st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0, 0.3), st.sampled_from([(), ("a",), ("a", "b")]), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    asked=st.lists(st.integers(0, 40), max_size=12),
    pending=st.integers(0, 3),
)
def test_plays_come_to_the_same_for_whoever_asks_in_whatever_order(
    drawn: list[tuple[str, float, tuple[str, ...], bool]], asked: list[int], pending: int
) -> None:
    """To the last bit: the sums are in the order of the plays, however often they are taken up again."""
    every = [One("e-0", 0.2, kind="starter")]
    for number, (arm, score, among, counts) in enumerate(drawn, 1):
        account = {"arms": [{"name": name} for name in among]}
        selection = {"mode": arm if counts else "ablate", "bandit": account}
        every.append(One(f"e-{number}", score, f"e-{number // 2}", selection=selection))
    known = modes.Plays("mode", "improve")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(modes, "_STEP", 4)
        for count in asked:
            visible = every[:count]
            plain = modes.plays(visible, "mode", "improve")
            assert draw(known.of(visible), ("b", "a"), pending) == draw(plain, ("b", "a"), pending)


def test_failures_earn_nothing_and_ablations_and_starters_are_no_plays() -> None:
    visible = [
        One("e-0", 0.2, kind="starter"),
        One("e-1", 0.3, "e-0", selection={"mode": "combine"}),
        One("e-2", None, "e-1", selection={"mode": "explore"}),
        One("e-3", 0.1, "e-1", selection={"mode": "ablate"}),
        One("e-4", 0.25, "e-0"),
    ]
    found = [(play.arm, round(play.reward, 6)) for play in modes.plays(visible, "mode", "improve")]
    assert found == [("combine", 1.0), ("explore", 0.0), ("improve", 0.5)]


def test_ablations_have_a_fixed_share() -> None:
    drawn = [modes.choose([], modes.MODES, ordinal=n, pending=0)[0] for n in range(40)]
    assert drawn.count("ablate") == 40 // modes.ABLATE_EVERY
    without = [m for m in modes.MODES if m != "ablate"]
    assert all(modes.choose([], without, ordinal=n, pending=0)[0] != "ablate" for n in range(40))
    assert modes.choose([], ["ablate"], ordinal=0, pending=0)[0] == "ablate"


def test_impossible_modes_are_left_out() -> None:
    starter: Any = One("e-0", 0.2, kind="starter")
    proposal: Any = One("e-1", 0.2)
    assert modes.possible(modes.MODES, parent=starter, others=False, published=False) == ("improve", "explore")
    assert modes.possible(modes.MODES, parent=proposal, others=True, published=True) == modes.MODES
    assert modes.possible(("combine",), parent=starter, others=False, published=False) == ("improve",)


def test_a_stored_campaign_from_before_keeps_to_improvements() -> None:
    config = load(None, {"name": "old"})
    assert config.search.modes == modes.MODES
    assert config.search.novelty > 0
    data = config.frozen()
    del data["search"]["modes"], data["search"]["novelty"]
    assert stored(data).search.modes == ("improve",)
    assert stored(data).search.novelty == 0.0


@pytest.fixture(scope="module")
def campaign() -> tuple[Any, Any, list[Experiment]]:
    config = load(None, {"name": "sim", "experiments": 16, "parallel": 3, "seed": 2, "search.prompt_tokens": 9000})
    store, made = simulated.campaign(config)
    return store, made, store.experiments(made.id)


def test_what_decided_is_stored_and_depends_on_what_is_visible_alone(campaign: Any) -> None:
    _, _, experiments = campaign
    proposals = [e for e in experiments if e.kind == "proposal"]
    assert {e.selection["mode"] for e in proposals} >= {"improve", "combine", "explore"}
    for e in proposals:
        if e.selection.get("requested_by"):  # an ablation that an analyst asked for: no bandit was asked
            continue
        account = e.selection["bandit"]
        assert account["plays"] <= max(0, e.index - 3 - 1)
        assert {"name", "plays", "mean", "bound"} == set(account["arms"][0])
        assert account["regret"] >= 0
        if e.selection["mode"] == "combine":
            assert e.selection["second"] not in {e.parent_id, *e.exemplar_ids}


def test_the_prompt_says_the_mode_and_shows_the_second_parent(campaign: Any) -> None:
    store, _, experiments = campaign
    for e in experiments:
        if e.kind == "proposal":
            asked = store.exchanges(e.id)[0].request["messages"][1]["content"]
            assert f"\n## Mode\n\n{e.selection['mode']}: " in asked
            assert ("\n## Second parent: " in asked) == (e.selection["mode"] == "combine")


def test_a_replay_chooses_the_same(campaign: Any) -> None:
    store, made, _ = campaign
    assert replay_campaign(store, made).differences == []


def test_of_several_models_each_experiment_is_one_s() -> None:
    one = {"name": "first", "base_url": "http://127.0.0.1:9/v1"}
    config = load(None, {"name": "two", "model": {**one, "others": [{"name": "second"}, {"name": "move37-grammar"}]}})
    assert config.model.names == ("first", "second", "move37-grammar")
    opened = open_chat_models(config)
    assert [(name, m.kind) for name, m in opened.items()] == [
        ("first", "language-model"),
        ("second", "language-model"),
        ("move37-grammar", "grammar"),
    ]
    assert not config.model.embedded
    assert not load(None, {"name": "x", "model": {"others": [{"name": "second"}]}}).model.embedded
    assert not config.model.priced


class Counted:
    """The embedded model under another name."""

    kind = "grammar"

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[int] = []
        self._model = open_model()

    async def complete(self, messages: Any, **settings: Any) -> Any:
        completion = await self._model.complete(messages, **settings)
        self.asked.append(len(messages))
        return dataclasses.replace(completion, model=self.name)

    async def close(self) -> None:
        await self._model.close()


@pytest.mark.thorough
def test_the_model_that_was_selected_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {name: Counted(name) for name in ("first", "second")}
    monkeypatch.setattr(launch, "open_chat_models", lambda config: models)
    model = {"name": "first", "base_url": "http://127.0.0.1:9/v1", "others": [{"name": "second"}]}
    settings = {"name": "two", "experiments": 8, "model": model, "search.novelty": 0.0, "search.modes": ["improve"]}
    store, made = simulated.campaign(load(None, settings))
    proposals = [e for e in store.experiments(made.id) if e.kind == "proposal"]
    assert {e.selection["model"] for e in proposals} == {"first", "second"}
    for e in proposals:
        assert {x.model for x in store.exchanges(e.id)} == {e.selection["model"]}
    assert models["second"].asked
    assert replay_campaign(store, made).differences == []
    assert modes.summary(proposals, "model", "first")["arms"]
