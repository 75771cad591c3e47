"""Which experiments an experiment may know, in a campaign of its own and in forks, and what a fork is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory.records import Campaign, Experiment
from memory.store import Store, open_store
from move37 import forking, launch
from move37.config import CampaignConfig
from move37.copying import copy_experiments
from move37.errors import ConfigError, NotThere
from move37.loop import Visibility, horizon

Config = Callable[..., CampaignConfig]


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


def completed(store: Store, campaign: Campaign, index: int, *, score: float = 0.1) -> Experiment:
    """A finished experiment with a program and a lesson of its own."""
    made = opened(store, campaign, index)
    program = store.put_program(f"# {made.id}\n")
    store.reserve(campaign.id, "L0", f"key of {made.id}", made.id)
    store.put_lesson(made.id, f"lesson of {made.id}")
    return store.finish_experiment(made.id, status="completed", score=score, program_sha256=program)


def opened(store: Store, campaign: Campaign, index: int) -> Experiment:
    return store.open_experiment(campaign.id, index, arm="grammar", kind="proposal", track="sequence", tier="micro")


def forked(store: Store, config: CampaignConfig, node: Experiment) -> Campaign:
    return launch.start(store, config, node)


def indices(experiments: list[Experiment]) -> list[int]:
    return [e.index for e in experiments]


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("starters", [("mlp",), ("mlp", "short_convolution", "diagonal_ssm")])
def test_a_fork_sees_what_its_node_saw_and_its_node(
    store: Store, tiny_config: Config, parallel: int, starters: tuple[str, ...]
) -> None:
    config = tiny_config(parallel=parallel, search__starters=list(starters), experiments=9)
    campaign = launch.start(store, config)
    experiments = [completed(store, campaign, index) for index in range(9)]
    for node in experiments:
        fork = forked(store, config.model_copy(update={"name": f"fork-{node.index}", "parallel": 1}), node)
        saw = Visibility.of(store, campaign).experiments(node.index)
        sees = Visibility.of(store, fork)
        assert sees.first == sees.proposals == node.index + 1
        assert indices(saw) == list(range(horizon(node.index, parallel, len(starters)) + 1))
        assert [e.id for e in sees.experiments(sees.first)] == [*(e.id for e in saw), node.id]
        assert sees.first_parent(sees.first) == node
        assert sees.first_parent(sees.first + 1) is None


def test_a_fork_of_a_fork_sees_the_whole_way_and_no_side_branch(store: Store, tiny_config: Config) -> None:
    config = tiny_config(parallel=2, experiments=9)
    campaign = launch.start(store, config)
    experiments = [completed(store, campaign, index) for index in range(7)]
    left = forked(store, config.model_copy(update={"name": "left"}), experiments[4])  # saw 0 to 2
    own = [completed(store, left, index) for index in range(5, 9)]
    deep = forked(store, config.model_copy(update={"name": "deep"}), own[2])  # index 7, saw up to 5
    sees = Visibility.of(store, deep)
    expected = ["tiny-0000", "tiny-0001", "tiny-0002", "tiny-0004", "left-0005", "left-0007"]
    assert [e.id for e in sees.experiments(8)] == expected
    assert [x.experiment_id for x in sees.lessons(8)] == expected
    for experiment in [*experiments, *own]:
        holder = experiment.id if experiment.id in expected else None
        assert sees.tried("L0", f"key of {experiment.id}") == holder
    mine = [completed(store, deep, index) for index in (8, 9)]
    assert [e.id for e in sees.experiments(10)] == [*expected, mine[0].id]  # with two in flight, 10 does not see 9


def test_a_lesson_that_was_refuted_later_is_shown_as_it_stood(store: Store, tiny_config: Config) -> None:
    config = tiny_config(experiments=5)
    campaign = launch.start(store, config)
    experiments = [completed(store, campaign, index) for index in range(5)]
    lessons = store.lessons(campaign.id)
    store.retire_lesson(lessons[0].id, experiments[2].id)
    store.retire_lesson(lessons[1].id, experiments[4].id)
    fork = forked(store, config.model_copy(update={"name": "fork"}), experiments[3])
    shown = {x.experiment_id: x.retired_by for x in Visibility.of(store, fork).lessons(4)}
    assert shown["tiny-0000"] == experiments[2].id
    assert shown["tiny-0001"] is None


def test_the_level_of_a_lesson_is_what_its_reader_can_know(store: Store, tiny_config: Config) -> None:
    """An origin, two forks and a fork of one of them: evidence of one branch is nothing to the other."""
    config = tiny_config(experiments=9)
    campaign = launch.start(store, config)
    experiments = [completed(store, campaign, index) for index in range(4)]
    lesson = store.lessons(campaign.id)[1]
    left, right = (forked(store, config.model_copy(update={"name": n}), experiments[2]) for n in ("left", "right"))
    store.put_evidence(lesson.id, experiments[3].id, "supports", "ablated: it fell")
    store.put_evidence(lesson.id, completed(store, left, 3).id, "supports", "replicated: it rose")
    node = completed(store, left, 4)
    deep = forked(store, config.model_copy(update={"name": "deep"}), node)
    store.put_evidence(lesson.id, completed(store, right, 3).id, "contradicts", "replicated: it fell")
    store.put_evidence(lesson.id, completed(store, deep, 5).id, "contradicts", "stated: I think")

    def seen(of: Campaign, index: int) -> tuple[str, str | None]:
        found = next(x for x in Visibility.of(store, of).lessons(index) if x.id == lesson.id)
        return found.level, found.retired_by

    assert seen(campaign, 3) == ("observed", None)
    assert seen(campaign, 4) == ("ablated", None)
    assert seen(left, 3) == ("observed", None)
    assert seen(left, 4) == seen(deep, 6) == ("replicated", None)
    assert seen(right, 4) == ("observed", "right-0003")

    scratch = open_store("sqlite://")  # where a fork is replayed: what its experiments saw has to come along
    for origin, last in ((campaign, experiments[2]), (left, node)):
        copy = scratch.create_campaign(
            origin.name, config=origin.config, config_hash="", objective={}, objective_hash="", seed=0, arms=[],
            forked_from=None if origin is campaign else scratch.campaigns()[0].id, forked_at=origin.forked_at,
        )  # fmt: skip
        for experiment in store.experiments(origin.id):
            scratch.put_program(store.program(str(experiment.program_sha256)).source)
        copy_experiments(store, scratch, copy.id, last)
    copied = scratch.evidence(scratch.campaigns()[0].id)
    assert [(x.lesson_id, x.experiment_id) for x in copied] == [(lesson.id, "left-0003")]
    scratch.close()


def test_a_node_without_a_score_is_no_parent(store: Store, tiny_config: Config) -> None:
    campaign = launch.start(store, tiny_config())
    completed(store, campaign, 0)
    completed(store, campaign, 1)
    failed = opened(store, campaign, 2)
    node = store.finish_experiment(failed.id, status="failed", reason="reply_malformed")
    planned = forking.plan(store, node.id, {})
    assert Visibility.of(store, forked(store, planned.config, planned.node)).first_parent(3) is None


def test_the_configuration_is_the_origins_with_what_was_given_over_it(
    store: Store, tiny_config: Config, tmp_path: Path
) -> None:
    campaign = launch.start(store, tiny_config(seed=7, search__exemplars=2))
    node = completed(store, campaign, 0)
    file = tmp_path / "fork.toml"
    file.write_text("seed = 8\n[search]\nhistory = 3\n")
    config = forking.plan(store, node.id, {"experiments": 5, "budget.minutes": 2.0}, file).config
    assert (config.seed, config.experiments, config.budget.minutes) == (8, 5, 2.0)
    assert (config.search.exemplars, config.search.history) == (2, 3)
    assert (config.name, config.objective.tasks) == ("tiny-fork-1", ("recall",))
    forked(store, config, node)
    assert forking.plan(store, node.id, {}).config.name == "tiny-fork-2"
    assert len(forking.free_name(store, "x" * 40)) == 40


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("one", "http://a/v1", 1.0)),
        ({"model.name": "one"}, ("one", "http://a/v1", 1.0)),
        ({"model.name": "two"}, ("two", "http://a/v1", None)),
        ({"model.base_url": "http://b/v1"}, (None, "http://b/v1", None)),
        ({"model.name": "two", "model.base_url": "http://b/v1"}, ("two", "http://b/v1", None)),
        ({"model.name": "move37-grammar"}, ("move37-grammar", None, None)),
    ],
)
def test_another_model_keeps_neither_the_old_ones_prices_nor_the_wrong_place(
    store: Store, tiny_config: Config, given: dict[str, str], expected: tuple[Any, ...]
) -> None:
    old = {"name": "one", "base_url": "http://a/v1", "input_usd_per_million": 1.0, "output_usd_per_million": 2.0}
    campaign = launch.start(store, tiny_config(**{f"model__{key}": value for key, value in old.items()}))
    node = completed(store, campaign, 0)
    model = forking.plan(store, node.id, given).config.model
    assert (model.name, model.base_url, model.input_usd_per_million) == expected


def test_what_cannot_be_forked_is_said_with_what_to_do(store: Store, tiny_config: Config) -> None:
    campaign = launch.start(store, tiny_config())
    with pytest.raises(NotThere, match="`move37 lineage CAMPAIGN` lists the ids"):
        forking.plan(store, "tiny-0000", {})
    node = opened(store, campaign, 0)
    with pytest.raises(ConfigError, match="is not finished"):
        forking.plan(store, node.id, {})
    store.finish_experiment(node.id, status="failed", reason="diverged")
    with pytest.raises(ConfigError, match="nothing that tiny-0000 could see was completed"):
        forking.plan(store, node.id, {})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"objective.tier": "smoke"}, "would change objective.tier"),
        ({"objective.seeds": [0, 1]}, "would change objective.seeds"),
        ({"objective.salt": "x"}, "would change objective.salt"),
        ({"search.starters": ["mlp"]}, "runs no starters"),
        ({"experiments": 0}, "experiments"),
        ({"search.exemplar": 2}, "did you mean 'search.exemplars'"),
        ({"model.name": "x", "budget.usd": 1.0}, "a money budget needs prices"),
    ],
)
def test_an_override_that_would_change_the_ruler_is_refused(
    store: Store, tiny_config: Config, given: dict[str, Any], told: str
) -> None:
    node = completed(store, launch.start(store, tiny_config()), 0)
    with pytest.raises(ConfigError, match=told):
        forking.plan(store, node.id, given)
    assert [c.name for c in store.campaigns()] == ["tiny"]


def test_a_campaign_of_another_system_or_of_another_ruler_is_not_forked(store: Store, tiny_config: Config) -> None:
    foreign = store.create_campaign(
        "foreign", config={}, config_hash="", objective={}, objective_hash="", seed=0, arms=["evolution"]
    )
    with pytest.raises(ConfigError, match="was not run by Move37"):
        forking.plan(store, completed(store, foreign, 0).id, {})
    config = tiny_config(name="older")
    older = store.create_campaign(
        "older", config=config.frozen(), config_hash="", objective={}, objective_hash="other", seed=0, arms=["grammar"]
    )
    with pytest.raises(ConfigError, match="Use the version that launched it"):
        forking.plan(store, completed(store, older, 0).id, {})
