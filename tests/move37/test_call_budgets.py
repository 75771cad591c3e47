"""What calls reserve: a bounded one never exceeds a budget, of unbounded ones at most one does."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contexts import Message
from agents.gateway import Prices
from agents.wire import Usage
from memory.records import Spent
from memory.tokens import estimate
from move37.budget import UNBOUNDED_REPLY_TOKENS, Budget, Reserved
from move37.config import BudgetConfig, FurtherModel, ModelConfig
from move37.errors import BudgetExhausted

PROMPT = [Message("user", "one two three four")]  # 4 tokens by the estimate
PRICED = {"input_usd_per_million": 1e6, "output_usd_per_million": 2e6}  # a dollar and two per token


class Purse:
    """What was spent, as the store would say."""

    def __init__(self) -> None:
        self.tokens = 0
        self.usd = 0.0

    def spent(self) -> Spent:
        return Spent(self.tokens, self.tokens, 0, self.usd, 0, 0, 0.0, 0.0)


def priced(**settings: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": "m", "base_url": "http://127.0.0.1/v1", **PRICED, **settings})


async def spend(budget: Budget, purse: Purse, reply: int) -> bool:
    """One call; False if there was no room for it."""
    try:
        async with budget.call(PROMPT):
            await asyncio.sleep(0)
            used = Usage(estimate(PROMPT[0].content), reply)
            purse.tokens += used.total
            purse.usd += Prices(1e6, 2e6).cost_usd(used)
    except BudgetExhausted:
        return False
    return True


def test_what_a_call_reserves() -> None:
    assert estimate(PROMPT[0].content) == 4
    assert Reserved.of(PROMPT, priced(max_output_tokens=10)) == Reserved(14, 24.0, bounded=True)
    open_ended = Reserved.of(PROMPT, priced())
    assert (open_ended.tokens, open_ended.bounded) == (4 + UNBOUNDED_REPLY_TOKENS, False)


def test_the_dearest_of_the_models_counts() -> None:
    dear = FurtherModel(name="other", input_usd_per_million=3e6, output_usd_per_million=3e6)
    assert Reserved.of(PROMPT, priced(max_output_tokens=10, fallbacks=(dear,))).usd == 42.0


def test_a_model_that_is_given_experiments_of_its_own_counts_as_well() -> None:
    dear = FurtherModel(name="other", input_usd_per_million=3e6, output_usd_per_million=3e6)
    assert Reserved.of(PROMPT, priced(max_output_tokens=10, others=(dear,))).usd == 42.0


@pytest.mark.parametrize("limits", [BudgetConfig(tokens=41), BudgetConfig(usd=71.9)], ids=["tokens", "usd"])
async def test_a_bounded_call_starts_only_if_it_fits_whole(limits: BudgetConfig) -> None:
    """14 tokens or 24 dollars each: the third would not fit, although some is left."""
    purse = Purse()
    budget = Budget(limits, purse.spent, priced(max_output_tokens=10))
    assert [await spend(budget, purse, 10) for _ in range(3)] == [True, True, False]
    with pytest.raises(BudgetExhausted, match="and the next call may use"):
        async with budget.call(PROMPT):
            pytest.fail("there is no room")


async def test_who_does_not_fit_beside_the_others_waits_and_fits_into_what_they_left() -> None:
    purse = Purse()
    budget = Budget(BudgetConfig(tokens=28), purse.spent, priced(max_output_tokens=10))
    done = await asyncio.gather(*(spend(budget, purse, 1) for _ in range(6)))
    assert done == [True, True, True, False, False, False]
    assert purse.tokens == 15  # 5 each; 13 are left and a call may use 14


@given(
    limit=st.integers(1, 400),
    replies=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    bound=st.none() | st.just(30),
)
def test_never_over_by_more_than_one_call_and_not_at_all_where_replies_are_bounded(
    limit: int, replies: list[int], bound: int | None
) -> None:
    async def run() -> tuple[int, int]:
        purse = Purse()
        budget = Budget(BudgetConfig(tokens=limit), purse.spent, priced(max_output_tokens=bound))
        await asyncio.gather(*(spend(budget, purse, reply) for reply in replies))
        return purse.tokens, max(replies) + 4

    tokens, largest = asyncio.run(run())
    assert tokens <= limit if bound else tokens < limit + largest


async def test_a_failed_call_gives_its_reservation_back() -> None:
    purse = Purse()
    budget = Budget(BudgetConfig(tokens=20), purse.spent, priced(max_output_tokens=10))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with budget.call(PROMPT):
                raise ZeroDivisionError
    assert await spend(budget, purse, 10)


async def test_without_limits_on_tokens_or_money_calls_do_not_wait_for_each_other() -> None:
    purse = Purse()
    budget = Budget(BudgetConfig(minutes=1), purse.spent)
    async with budget.call(PROMPT), budget.call(PROMPT):
        pass
