"""A crash right after every single write of the store, then resume: nothing is lost and nothing repeated.

The kill tests beside this one are real but random; this one is exhaustive. It re-drives a recorded campaign that went
through repairs, a repetition and a malformed reply, so that no model and no training is needed.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluator import catalogue
from memory.records import Campaign
from memory.store import Store, open_store
from move37 import briefing
from move37.budget import Budget
from move37.campaign import drive
from move37.config import BudgetConfig, validate
from move37.loop import Loop
from move37.replaying import ReplayModel, StoredLaboratory
from move37.turnstile import Turnstile
from prompts.loader import Prompts
from tests.move37.conftest import Play, outcomes
from tests.move37.scripted import fenced

pytestmark = pytest.mark.campaign

_WRITES = (
    "set_campaign_state", "begin_session", "open_experiment", "select", "put_program", "put_attempt", "close_attempt",
    "reserve", "put_verdicts", "put_exchange", "open_trial", "finish_trial", "finish_experiment", "put_analysis",
    "put_lesson", "put_evidence", "retire_lesson",
)  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL: after it, the store answers nobody."""


class DyingStore:
    """Hands every call to a real store and dies after the n-th write."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self.left = writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left < 0:
                raise Killed
            result = method(*args, **kwargs)
            if name in _WRITES:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            return result

        return call


@pytest.fixture
def eventful(play: Play) -> tuple[Store, Campaign]:
    """Repairs, a repetition, a malformed reply and a plain success, in one recorded campaign."""
    attention = catalogue.source("softmax_attention")
    store, _, launched = play(
        fenced("def build_mixer(:"),  # tiny-0001: does not parse, then a NUL byte, then not causal, then good
        fenced("x = '\0'"),
        fenced(attention.replace("is_causal=True", "is_causal=False")),
        fenced(attention),
        fenced(catalogue.source("mlp")),  # tiny-0002: repeats the starter, then good
        fenced(catalogue.source("retention")),
        "no program",  # tiny-0003: malformed twice
        "still none",
        experiments=4,
    )
    statuses = [e.status for e in store.experiments(launched.campaign.id)]
    assert statuses == ["completed", "completed", "completed", "failed"]
    assert [e.attempts for e in store.experiments(launched.campaign.id)] == [1, 4, 2, 1]
    return store, launched.campaign


@pytest.fixture
def again(eventful: tuple[Store, Campaign]) -> Iterator[Callable[[], tuple[Store, Campaign]]]:
    """Makes empty stores for re-driving the campaign."""
    _, campaign = eventful
    made: list[Store] = []

    def make() -> tuple[Store, Campaign]:
        store = open_store("sqlite://")
        made.append(store)
        copy = store.create_campaign(
            name=campaign.name,
            config=campaign.config,
            config_hash=campaign.config_hash,
            objective=campaign.objective,
            objective_hash=campaign.objective_hash,
            seed=campaign.seed,
            arms=campaign.arms,
        )
        return store, copy

    yield make
    for store in made:
        store.close()


def run(original: Store, source: Campaign, store: Any, campaign: Campaign, checkpoint_file: Path | None) -> None:
    config = validate(campaign.config)
    loop = Loop(
        store=store,
        campaign=campaign,
        config=config,
        brief=briefing.brief(config),
        prompts=Prompts(),
        model=ReplayModel(original.exchanges(campaign_id=source.id)),
        laboratory=StoredLaboratory(original, source),
        budget=Budget(BudgetConfig(), lambda: store.spent(campaign.id)),
        turnstile=Turnstile(),
        notify=lambda kind, payload: None,
    )
    asyncio.run(drive(loop, checkpoint_file=checkpoint_file))


@pytest.mark.parametrize(
    ("checkpoints", "stride"),
    [
        pytest.param(False, 1, marks=pytest.mark.thorough, id="checkpoints lost"),
        pytest.param(True, 3, marks=pytest.mark.thorough, id="with checkpoints, every third write"),
        pytest.param(False, 12, id="checkpoints lost, every twelfth write"),
        pytest.param(True, 8, marks=pytest.mark.thorough, id="with checkpoints, every eighth write"),
    ],
)
def test_resume_after_a_crash_at_every_write(
    eventful: tuple[Store, Campaign],
    again: Callable[[], tuple[Store, Campaign]],
    tmp_path: Path,
    checkpoints: bool,
    stride: int,
) -> None:
    original, source = eventful
    expected = outcomes(original, source.name)
    asked = [(x.id, x.text) for x in original.exchanges(campaign_id=source.id)]
    crashes = 0
    for writes in range(0, 1000, stride):
        store, campaign = again()
        file = tmp_path / f"{writes}.db" if checkpoints else None
        dying = DyingStore(store, writes)
        if _dies(lambda: run(original, source, dying, campaign, file)):  # noqa: B023 - called at once
            crashes += 1
            run(original, source, store, campaign, file)
        assert outcomes(store, campaign.name) == expected, f"after a crash at write {writes}"
        assert sorted((x.id, x.text) for x in store.exchanges(campaign_id=campaign.id)) == sorted(asked)
        assert len(store.trials(campaign_id=campaign.id)) == len(original.trials(campaign_id=source.id))
        if dying.left >= 0:
            break
    assert crashes > 60 / stride


def _dies(work: Callable[[], None]) -> bool:
    try:
        work()
    except (Killed, BaseExceptionGroup) as error:
        if not _is_kill(error):
            raise
        return True
    return False


def _is_kill(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_kill(inner) for inner in error.exceptions)
    return isinstance(error, Killed)
