"""What makes a parallel campaign repeatable, and what stops it."""

import asyncio

import pytest

from memory.records import Spent
from move37.budget import Budget
from move37.config import BudgetConfig
from move37.errors import BudgetExhausted, CampaignBusy
from move37.loop import horizon
from move37.turnstile import Turnstile
from move37.workspace import Workspace


async def test_the_turnstile_lets_pass_in_index_order_whoever_comes_first() -> None:
    turnstile, passed = Turnstile(), []

    async def go(index: int) -> None:
        await turnstile.wait(index)
        passed.append(index)
        await turnstile.settle(index)

    async with asyncio.TaskGroup() as group:
        for index in (3, 1, 2, 0):
            group.create_task(go(index))
    assert passed == [0, 1, 2, 3]


def test_starters_see_nothing_and_proposals_see_all_starters_then_all_but_what_is_in_flight() -> None:
    assert [horizon(i, parallel=2, starters=2) for i in range(6)] == [-1, -1, 1, 1, 2, 3]
    assert [horizon(i, parallel=1, starters=1) for i in range(4)] == [-1, 0, 1, 2]


def spent(**values: float) -> Spent:
    zero = {"tokens": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0, "calls": 0, "unpriced_calls": 0}
    return Spent(**{**zero, "wall_s": 0.0, "device_s": 0.0, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "below", "at"),
    [
        (BudgetConfig(usd=1.0), {"cost_usd": 0.99}, {"cost_usd": 1.0}),
        (BudgetConfig(tokens=100), {"tokens": 99}, {"tokens": 100}),
        (BudgetConfig(minutes=2.0), {"wall_s": 119.0}, {"wall_s": 120.0}),
    ],
)
def test_a_budget_stops_exactly_when_it_is_reached(limits: BudgetConfig, below: dict, at: dict) -> None:
    assert Budget(limits, lambda: spent(**below)).check() is None
    with pytest.raises(BudgetExhausted, match="budget is spent"):
        Budget(limits, lambda: spent(**at)).check()


def test_a_campaign_is_held_by_one_holder_at_a_time(tmp_path: object) -> None:
    workspace = Workspace(tmp_path, "sqlite://")  # type: ignore[arg-type]
    assert not workspace.is_held("c-1")
    with workspace.hold("c-1", "one"):
        assert workspace.is_held("c-1")
        with pytest.raises(CampaignBusy, match="running in process"), workspace.hold("c-1", "one"):
            pytest.fail("held twice")
        with workspace.hold("c-2", "two"):
            assert workspace.is_held("c-2")
    assert not workspace.is_held("c-1")
