"""Rate and concurrency limits under a clock that only moves when somebody waits for it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.limits import WINDOW_S, Limiter, Limits


class Clock:
    """Time that passes when everybody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._sleepers, (self.now + seconds, self._number, woken))
        await woken

    async def run(self, tasks: list[asyncio.Task[None]]) -> None:
        while not all(task.done() for task in tasks):
            for _ in range(20):
                await asyncio.sleep(0)
            if self._sleepers:
                at, _, woken = heapq.heappop(self._sleepers)
                self.now = max(self.now, at)
                if not woken.done():
                    woken.set_result(None)


async def started(
    limits: Limits, sizes: list[int], *, lasts_s: float = 1.0, prepare: Callable[[Limiter], None] = lambda limiter: None
) -> list[float]:
    """When requests of these sizes start that all ask at 0, in the order in which they ask."""
    clock = Clock()
    limiter = Limiter(limits, clock=clock, sleep=clock.sleep)
    prepare(limiter)
    times = [0.0] * len(sizes)

    async def one(place: int, tokens: int) -> None:
        async with limiter.admit(tokens):
            times[place] = clock.now
            await clock.sleep(lasts_s)

    await clock.run([asyncio.ensure_future(one(place, tokens)) for place, tokens in enumerate(sizes)])
    return times


async def test_without_limits_all_start_at_once() -> None:
    assert await started(Limits(), [10] * 5) == [0.0] * 5


async def test_requests_per_minute() -> None:
    assert await started(Limits(requests_per_minute=2), [1] * 5) == [0, 0, 60, 60, 120]


async def test_tokens_per_minute_and_the_order_of_asking() -> None:
    """The small one that came last does not overtake the large one."""
    assert await started(Limits(tokens_per_minute=100), [60, 60, 10]) == [0, 60, 60]


async def test_a_request_larger_than_the_limit_starts_when_it_has_the_minute_to_itself() -> None:
    assert await started(Limits(tokens_per_minute=100), [50, 500, 50]) == [0, 60, 120]


async def test_concurrency() -> None:
    assert await started(Limits(concurrency=2), [1] * 5, lasts_s=3.0) == [0, 0, 3, 3, 6]


async def test_a_pause_is_everybody_s() -> None:
    assert await started(Limits(), [1, 1], prepare=lambda limiter: limiter.pause(7.5)) == [7.5, 7.5]


async def test_tokens_count_as_reported_once_they_are() -> None:
    clock = Clock()
    limiter = Limiter(Limits(tokens_per_minute=100), clock=clock, sleep=clock.sleep)
    async with limiter.admit(90) as admission:
        admission.tokens = 20
    async with limiter.admit(80):
        assert clock.now == 0.0


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    clock = Clock()
    limiter = Limiter(Limits(requests_per_minute=1, concurrency=1), clock=clock, sleep=clock.sleep)

    async def one() -> None:
        async with limiter.admit(1):
            await asyncio.sleep(0)

    first, second, third = (asyncio.ensure_future(one()) for _ in range(3))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    await clock.run([first, second, third])
    assert second.cancelled()
    assert clock.now == WINDOW_S


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=25),
    requests=st.integers(1, 6),
    tokens=st.integers(60, 120),
)
def test_no_minute_has_more_than_the_limits(sizes: list[int], requests: int, tokens: int) -> None:
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    times = asyncio.run(started(limits, sizes, lasts_s=0.5))
    assert times == sorted(times)
    for start in times:
        within = [size for size, at in zip(sizes, times, strict=True) if start <= at < start + WINDOW_S]
        assert len(within) <= requests
        assert sum(within) <= tokens


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=1), Limits(tokens_per_minute=1)])
async def test_the_window_moves_on(limits: Limits) -> None:
    assert await started(limits, [1] * 3) == [0, 60, 120]
