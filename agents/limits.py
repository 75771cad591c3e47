"""Limits of one model: requests and tokens per minute, and requests at the same time.

A sliding window: in no 60 seconds do more requests, or more tokens, start than configured. Tokens count as estimated
when a request starts and as reported once it has ended. Requests are admitted in the order in which they asked. A
server that asks to slow down (`pause`) slows all requests of its model, not only the one that it told.

Why not a leaky bucket such as aiolimiter's: it lets a burst and then the steady rate through, up to twice the limit in
the first minute; it refuses amounts above its capacity, prefers small ones to those that came first, and takes no
correction once the true amount is known.

Not covered: other processes that use the same key.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may be asked; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


UNLIMITED = Limits()


@dataclass(slots=True)
class Admission:
    """One request that was let through. `tokens` is corrected by who knows better."""

    at: float
    tokens: int


class Limiter:
    """Lets requests of one model through, as many as its limits allow. One event loop's."""

    def __init__(
        self,
        limits: Limits = UNLIMITED,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._queue = asyncio.Lock()  # asyncio's lock is fair: first come, first served
        self._slots = asyncio.Semaphore(limits.concurrency) if limits.concurrency else None
        self._recent: deque[Admission] = deque()
        self._not_before = float("-inf")

    @asynccontextmanager
    async def admit(self, tokens: int) -> AsyncIterator[Admission]:
        """Waits until a request of about so many tokens may start, and holds its slot until it has ended.

        A request of more tokens than a minute allows is let through when nothing else was within the last minute.
        """
        if self._slots is None:
            yield await self._turn(tokens)
            return
        async with self._slots:
            yield await self._turn(tokens)

    @property
    def paused_s(self) -> float:
        """For how long nothing will start, whatever the window says."""
        return max(self._not_before - self._clock(), 0.0)

    def pause(self, seconds: float) -> None:
        """Let nothing start for so long."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    async def _turn(self, tokens: int) -> Admission:
        async with self._queue:
            while (wait_s := self._wait_s(tokens)) > 0:
                await self._sleep(wait_s)
            admission = Admission(self._clock(), tokens)
            self._recent.append(admission)
        return admission

    def _wait_s(self, tokens: int) -> float:
        """How long at least until such a request may start; 0: now."""
        now = self._clock()
        while self._recent and self._recent[0].at + WINDOW_S <= now:
            self._recent.popleft()
        free_at = max(self._not_before, now)
        requests = self._limits.requests_per_minute
        if requests is not None and len(self._recent) >= requests:
            free_at = max(free_at, self._recent[-requests].at + WINDOW_S)
        budget = self._limits.tokens_per_minute
        if budget is not None:
            left = sum(admission.tokens for admission in self._recent)
            for admission in self._recent:
                if left + tokens <= budget:
                    break
                left -= admission.tokens
                free_at = max(free_at, admission.at + WINDOW_S)
        return free_at - now
