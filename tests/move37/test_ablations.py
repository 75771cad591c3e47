"""Which requested ablation is carried out, and by whom."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.records import Campaign, Experiment
from memory.store import Store, open_store
from move37 import ablations, launch
from move37.ablations import is_slot, requests
from move37.config import CampaignConfig, stored
from move37.loop import Visibility

Config = Callable[..., CampaignConfig]


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


class Campaigned:
    """As much of a loop as the choice needs."""

    def __init__(self, store: Store, campaign: Campaign, config: CampaignConfig) -> None:
        self.store, self.config = store, config
        self.visibility = Visibility.of(store, campaign)

    def requested(self, experiment: Experiment) -> ablations.Requested | None:
        return ablations.requested(self, experiment)  # type: ignore[arg-type]


def completed(
    store: Store,
    campaign: Campaign,
    index: int,
    *,
    asks: str = "",
    sign: int = 1,
    attributed: bool = True,
    **selection: Any,
) -> Experiment:
    """A completed experiment; `asks` is what its analyst wants taken away."""
    made = opened(store, campaign, index)
    store.select(made.id, None, [], selection)
    body: dict[str, Any] = {"measured": {"sign": sign, "attributed": attributed}}
    if asks:
        body["ablation_request"] = {"remove": asks, "expect": "it falls"}
    store.put_lesson(made.id, f"lesson of {made.id}", body=body)
    return store.finish_experiment(
        made.id, status="completed", score=0.1, program_sha256=store.put_program(f"# {index}\n")
    )


def opened(store: Store, campaign: Campaign, index: int) -> Experiment:
    return store.open_experiment(campaign.id, index, arm="grammar", kind="proposal", track="sequence", tier="micro")


def begun(store: Store, config: CampaignConfig) -> tuple[Campaign, Campaigned]:
    campaign = launch.start(store, config)
    return campaign, Campaigned(store, campaign, config)


@given(share=st.floats(0, 1), length=st.integers(1, 300))
def test_slots_are_as_many_as_the_share_says_and_evenly_spaced(share: float, length: int) -> None:
    slots = [index for index in range(length) if is_slot(index, share)]
    assert len(slots) <= length * share + 1e-6
    assert len(slots) >= length * share - 1 - 1e-6
    if share > 0:
        gaps = [b - a for a, b in itertools.pairwise(slots)]
        assert all(gap >= int(1 / share) for gap in gaps)


def test_gains_come_first_and_then_the_oldest(store: Store, tiny_config: Config) -> None:
    campaign, _ = begun(store, tiny_config())
    for index, sign in [(0, 0), (1, 1), (2, -1), (3, 1)]:
        completed(store, campaign, index, asks=f"part {index}", sign=sign)
    completed(store, campaign, 4)
    completed(store, campaign, 5, asks="part 5", attributed=False)
    found = requests(store.lessons(campaign.id), store.experiments(campaign.id))
    assert [one.remove for one in found] == ["part 1", "part 3", "part 0", "part 2"]


def test_a_request_is_carried_out_once_whatever_came_of_it(store: Store, tiny_config: Config) -> None:
    campaign, loop = begun(store, tiny_config(search__ablation_share=1.0, search__starters=["mlp"]))
    completed(store, campaign, 0)
    asker = completed(store, campaign, 1, asks="the gate")
    second = opened(store, campaign, 2)
    asked = loop.requested(second)
    assert asked is not None
    assert asked.parent_id == asker.id
    assert 'Take away: "the gate".' in asked.text
    assert "exp-0001" in asked.text
    assert "tiny" not in asked.text
    store.select(second.id, asked.parent_id, [], ablations.selection(asked))
    store.finish_experiment(second.id, status="failed", reason="reply_malformed")
    assert loop.requested(opened(store, campaign, 3)) is None


def test_requests_of_refuted_lessons_are_dropped(store: Store, tiny_config: Config) -> None:
    campaign, loop = begun(store, tiny_config(search__ablation_share=1.0, search__starters=["mlp"]))
    completed(store, campaign, 0)
    completed(store, campaign, 1, asks="the gate")
    refuter = completed(store, campaign, 2)
    store.put_evidence(store.lessons(campaign.id)[1].id, refuter.id, "contradicts", "replicated: it fell")
    assert loop.requested(opened(store, campaign, 3)) is None


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_two_in_flight_never_take_the_same_request(store: Store, tiny_config: Config, parallel: int) -> None:
    """Whoever asks first: what the others in flight take is worked out, not looked up."""
    campaign, loop = begun(
        store, tiny_config(search__ablation_share=1.0, search__starters=["mlp"], parallel=parallel, experiments=12)
    )
    completed(store, campaign, 0)
    for index in (1, 2, 3):
        completed(store, campaign, index, asks=f"part {index}")
    flying = [opened(store, campaign, index) for index in range(4, 4 + parallel)]
    wanted = [loop.requested(one) for one in reversed(flying)]
    taken = [one.parent_id for one in wanted if one is not None]
    assert len(taken) == len(set(taken))
    assert taken
    assert [loop.requested(one) for one in flying] == wanted[::-1]


def test_no_share_no_ablation(store: Store, tiny_config: Config) -> None:
    campaign, loop = begun(store, tiny_config(search__ablation_share=0.0, search__starters=["mlp"]))
    completed(store, campaign, 0)
    completed(store, campaign, 1, asks="the gate")
    assert loop.requested(opened(store, campaign, 2)) is None


def test_the_first_of_a_fork_goes_on_from_its_node(store: Store, tiny_config: Config) -> None:
    config = tiny_config(search__ablation_share=1.0, search__starters=["mlp"])
    campaign, _ = begun(store, config)
    completed(store, campaign, 0)
    completed(store, campaign, 1, asks="the gate")
    node = completed(store, campaign, 2)
    forked = config.model_copy(update={"name": "fork"})
    fork = launch.start(store, forked, node)
    loop = Campaigned(store, fork, forked)
    assert loop.requested(opened(store, fork, 3)) is None
    store.finish_experiment("fork-0003", status="failed", reason="diverged")
    asked = loop.requested(opened(store, fork, 4))
    assert asked is not None
    assert asked.parent_id == "tiny-0001"


def test_a_campaign_from_before_runs_none(tiny_config: Config) -> None:
    data = tiny_config().frozen()
    del data["search"]["ablation_share"]
    assert stored(data).search.ablation_share == 0.0
    assert tiny_config().search.ablation_share == 0.2
