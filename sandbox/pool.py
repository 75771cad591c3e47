"""Workers that wait for a job: started, greeted, with PyTorch and an optimiser step behind them.

Covered: a job gets a worker that waits, or else one that is just starting, or else a new one; a worker does one job, as
ever, so that waiting changes when it started and nothing about its isolation. The pool refills itself in the
background, replaces what died or grew old, holds still while a job measures time, and ends every worker when it is
drained.
NOT covered: jobs that need a GPU. A waiting worker would hold the device, or its memory, from the one at work.

Notable: a start that failed in the background is forgotten, and the next job starts a worker of its own, whose
failure it reports: what was wrong a minute ago may be mended. Nothing is retried in a hurry; see `_TEND_S`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandbox.conversation import Conversation, Worker
from sandbox.protocol import Limits
from sandbox.waiting import to_the_end

AGE_S = 600.0  # an idle worker is replaced after this long
LASTS_S = 6 * 3600.0  # a worker ends itself after its lifetime, should nobody else; nobody knows the first job's
WORKER_BYTES = 400 << 20  # what an idle one was seen to hold is 230 to 300 MB
_SHARE_OF_MEMORY = 0.25  # of what is available; the rest is for the jobs at work
_TEND_S = 15.0


class StartedWorker(Worker, Protocol):
    """A worker that its backend can end."""

    async def destroy(self) -> None:
        """Ends it and all that it started. Idempotent; never raises for what the worker did."""


@dataclass
class Ready:
    """A worker that has greeted. It must be ended by `end`, whatever becomes of it."""

    worker: StartedWorker
    conversation: Conversation
    serves_until: float  # on the monotonic clock: then it ends by itself, as it was told when it started
    born: float

    async def end(self) -> None:
        await self.conversation.close()
        await self.worker.destroy()


Start = Callable[[Limits, float], Awaitable[Ready]]  # limits, and for how many seconds the worker must last


def warm_size(wanted: int) -> int:
    """How many idle workers this machine's available memory allows, at most `wanted`."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
            return max(0, min(wanted, int(available * _SHARE_OF_MEMORY) // WORKER_BYTES))
    return wanted


class WarmPool:
    """See the module. One event loop's; all workers in it have the same limits."""

    def __init__(self, start: Start, size: int, limits: Limits) -> None:
        self.size = size
        self._start = start
        self._limits = limits
        self._lifetime_s = LASTS_S  # or the longest that a job has asked for so far
        self._workers: deque[asyncio.Task[Ready]] = deque()
        self._starting = asyncio.Semaphore(os.cpu_count() or 1)  # beyond that they only slow each other
        self._still = 0
        self._tending: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()

    def fill(self) -> None:
        """Begins to start what is missing, and to look after what waits. Idempotent."""
        if self._tending is None and self.size:
            self._tending = asyncio.create_task(self._tend())
        self._refill()

    async def take(self, limits: Limits, lifetime_s: float) -> tuple[Ready, bool]:
        """A worker for a job, and whether it had been waiting. The caller ends it.

        Raises what starting a worker raises (`Start`), if one had to be started or waited for.
        """
        fits = limits == self._limits
        if fits:
            self._lifetime_s = max(self._lifetime_s, lifetime_s)
        try:
            if fits and (waiting := self._pick(lifetime_s)) is not None:
                was_ready = waiting.done()
                return await _owned(waiting), was_ready
            return await self._start(limits, lifetime_s), False
        finally:
            self._refill()

    @asynccontextmanager
    async def stillness(self) -> AsyncIterator[None]:
        """The pool starts nothing meanwhile, and what it was starting has started: for jobs that measure time. Jobs
        that are run beside such a one start their own workers as ever."""
        self._still += 1
        try:
            if self._workers:
                await asyncio.wait(self._workers)
            yield
        finally:
            self._still -= 1
            self._refill()

    async def drain(self) -> None:
        """Ends every waiting worker and starts no more."""
        self.size = 0
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait((self._tending,))
            self._tending = None
        workers, self._workers = list(self._workers), deque()
        for task in workers:
            if not task.done():
                task.cancel()
        await asyncio.gather(*(_end(task) for task in workers), *self._endings)

    def _pick(self, lifetime_s: float) -> asyncio.Task[Ready] | None:
        """Takes the longest waiting worker that lasts for a job, or else one that is starting, out of the pool."""
        self._discard_unfit(lifetime_s)
        ready = (task for task in self._workers if task.done())
        chosen = next(ready, None) or next(iter(self._workers), None)
        if chosen is not None:
            self._workers.remove(chosen)
        return chosen

    def _refill(self) -> None:
        if self._still:
            return
        while len(self._workers) < self.size:
            self._workers.append(asyncio.create_task(self._start_one()))

    async def _start_one(self) -> Ready:
        async with self._starting:
            return await self._start(self._limits, AGE_S + self._lifetime_s)

    def _discard_unfit(self, lifetime_s: float = 0.0) -> None:
        for task in [task for task in self._workers if task.done() and not _fit(task, lifetime_s)]:
            self._workers.remove(task)
            self._endings.add(ending := asyncio.create_task(_end(task)))
            ending.add_done_callback(self._endings.discard)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TEND_S)
            if not self._still:
                self._discard_unfit()
                self._refill()


def _fit(task: asyncio.Task[Ready], lifetime_s: float) -> bool:
    if task.cancelled() or task.exception() is not None:
        return False
    ready, now = task.result(), time.monotonic()
    return ready.conversation.waits and now - ready.born < AGE_S and now + lifetime_s <= ready.serves_until


async def _owned(task: asyncio.Task[Ready]) -> Ready:
    """The result of a task that only we know of: cancelled while we wait, we end what it may still bring."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await to_the_end(_end(task))
        raise


async def _end(task: asyncio.Task[Ready]) -> None:
    await asyncio.wait((task,))
    if not task.cancelled() and task.exception() is None:  # a start that failed has ended what it started
        await task.result().end()
