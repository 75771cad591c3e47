"""Budgets: what a campaign may spend, checked before every model call and every trial.

What was spent is derived from the store (exchanges, trials, sessions), never counted beside it, so a resumed campaign
cannot spend twice. Work in flight is allowed to end: the overrun is at most that.
"""

from collections.abc import Callable
from dataclasses import dataclass

from memory.records import Spent
from move37.config import BudgetConfig
from move37.errors import BudgetExhausted


@dataclass(frozen=True)
class Budget:
    """The limits and where to read what is spent."""

    limits: BudgetConfig
    spent: Callable[[], Spent]

    def check(self) -> None:
        """Says nothing while there is room.

        Raises:
            BudgetExhausted: one of the limits is reached.
        """
        limits = self.limits
        if limits.usd is None and limits.tokens is None and limits.minutes is None:
            return
        spent = self.spent()
        if limits.usd is not None and (spent.cost_usd or 0.0) >= limits.usd:
            raise BudgetExhausted("usd", spent.cost_usd or 0.0, limits.usd)
        if limits.tokens is not None and spent.tokens >= limits.tokens:
            raise BudgetExhausted("tokens", spent.tokens, limits.tokens)
        if limits.minutes is not None and spent.wall_s >= 60 * limits.minutes:
            raise BudgetExhausted("minutes", round(spent.wall_s / 60, 2), limits.minutes)
