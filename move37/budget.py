"""Budgets: what a campaign may spend, checked before every model call and every trial.

What was spent is derived from the store (exchanges, trials, sessions), never counted beside it, so a resumed campaign
cannot spend twice.

A model call reserves what it may use at most before it is made. Where `max_output_tokens` is configured, it does not
start unless that fits beside what is spent and what other calls in flight have reserved: tokens and money are then not
exceeded at all, but for what an endpoint puts around a prompt or bills for replies that it could not deliver. Where
nothing bounds a reply, a call may also start when no other is in flight and the budget is not reached: it is then
exceeded by that one call at most. A call that has to wait for that waits for calls in flight only.

Not covered: the minutes of work in flight; it is allowed to end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agents.contexts import Message
from agents.wire import Usage
from memory.records import Spent
from memory.tokens import estimate
from move37.config import BudgetConfig, ModelConfig
from move37.errors import BudgetExhausted

# What a reply may have where nothing bounds it, for the purpose of reserving: more than models are known to write.
UNBOUNDED_REPLY_TOKENS = 65_536


@dataclass(frozen=True)
class Reserved:
    """What a call may use at most. `bounded`: the endpoint was told to stop there."""

    tokens: int
    usd: float
    bounded: bool

    @classmethod
    def of(cls, messages: Sequence[Message], model: ModelConfig) -> "Reserved":
        """For a prompt, by an estimate of its tokens that leans high and the dearest of the configured models."""
        prompt = sum(estimate(message.content) for message in messages)
        reply = model.max_output_tokens or UNBOUNDED_REPLY_TOKENS
        prices = [
            known for endpoint in (model, *model.fallbacks, *model.others) if (known := endpoint.prices) is not None
        ]
        usd = max((known.cost_usd(Usage(prompt, reply)) for known in prices), default=0.0)
        return cls(prompt + reply, usd, bounded=model.max_output_tokens is not None)


@dataclass
class _Flight:
    """Calls that are being made, and who waits for one to end."""

    reserved: list[Reserved] = field(default_factory=list)
    ended: asyncio.Condition = field(default_factory=asyncio.Condition)


@dataclass(frozen=True)
class Budget:
    """The limits and where to read what is spent. One event loop's."""

    limits: BudgetConfig
    spent: Callable[[], Spent]
    model: ModelConfig = field(default_factory=ModelConfig)
    _flight: _Flight = field(default_factory=_Flight, compare=False, repr=False)

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

    @asynccontextmanager
    async def call(self, messages: Sequence[Message]) -> AsyncIterator[None]:
        """Around a model call and the storing of what it used.

        Raises:
            BudgetExhausted: one of the limits is reached, or would be exceeded by what the call may use.
        """
        if self.limits.usd is None and self.limits.tokens is None:
            self.check()
            yield
            return
        most = Reserved.of(messages, self.model)
        async with self._flight.ended:
            while not self._fits(most):
                await self._flight.ended.wait()
            self._flight.reserved.append(most)
        try:
            yield
        finally:
            self._flight.reserved.remove(most)
            async with self._flight.ended:
                self._flight.ended.notify_all()

    def _fits(self, most: Reserved) -> bool:
        """Whether the call may start now; otherwise once a call in flight has ended.

        Raises:
            BudgetExhausted: there is none to wait for.
        """
        self.check()
        spent, others, limits = self.spent(), self._flight.reserved, self.limits
        tokens = spent.tokens + sum(other.tokens for other in others)
        usd = (spent.cost_usd or 0.0) + sum(other.usd for other in others)
        over_tokens = limits.tokens is not None and tokens + most.tokens > limits.tokens
        over_usd = limits.usd is not None and usd + most.usd > limits.usd
        if not over_tokens and not over_usd:
            return True
        if others:
            return False
        if not most.bounded:
            return True
        if over_tokens and limits.tokens is not None:
            raise BudgetExhausted("tokens", spent.tokens, limits.tokens, needed=most.tokens)
        raise BudgetExhausted("usd", spent.cost_usd or 0.0, limits.usd or 0.0, needed=most.usd)
