"""What the backends have in common: a job gets a worker, warm or new, holds its conversation, and the worker is ended.

A backend says how to start a worker (`_start`) and what to record about it (`provenance`); see `Sandbox` for the
promises. A worker's end is waited for whatever happens, a cancellation included: until then the job is not over, its
device is not free, and `close` does not return.

Devices: a job that needs a GPU leases one for as long as it runs, so that no two jobs share a device (video memory
knows no cgroup). The worker is shown that device and no other; a job that needs none is shown none.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sandbox.conversation import SEND_TIMEOUT_S, Conversation, NotStarted
from sandbox.errors import GpuUnavailable, SandboxUnavailable
from sandbox.gpus import present
from sandbox.pool import Ready, StartedWorker, WarmPool, warm_size
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Progress
from sandbox.waiting import ended, to_the_end


@dataclass
class Holdings:
    """What a sandbox holds, and shares with those that `with_command` makes of it: closing one closes all.

    `devices`: GPUs by index or UUID; None for those that the driver's tool names when one is needed.
    """

    devices: tuple[str, ...] | None = ()
    free: asyncio.Queue[str] | None = None  # of the devices
    jobs: set[asyncio.Task[JobOutcome]] = field(default_factory=set)
    pools: list[WarmPool] = field(default_factory=list)
    closing: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, devices: Sequence[str] | None) -> Holdings:
        return cls(None if devices is None else tuple(devices))


class PooledSandbox(ABC):
    """Base of the backends."""

    level: str
    isolated: bool
    _failure = "start"  # what such a failure is called in an outcome
    _transient: tuple[type[Exception], ...] = (OSError,)  # from starting a worker: try the job again

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._pool = WarmPool(self._begin, 0, Limits())

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """See `Sandbox.provenance`."""

    @abstractmethod
    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> StartedWorker:
        """Starts a worker that is to last `lifetime_s`. Ends what it started if it fails.

        Raises:
            SandboxUnavailable: no worker can be started until somebody mends something.
            One of `_transient`: this one could not be started.
        """

    async def _release(self) -> None:  # noqa: B027 - most backends hold nothing else
        """Gives back what the backend holds besides workers, once the last worker has ended."""

    def keep_warm(self, count: int, limits: Limits) -> int:
        """Keeps up to `count` workers with `limits` waiting, as far as memory allows. Returns how many that is.

        Call it once, on the event loop that will run the jobs.
        """
        self._pool = WarmPool(self._begin, warm_size(count), limits)
        self._holdings.pools.append(self._pool)
        self._pool.fill()
        return self._pool.size

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        """See `Sandbox.run`. A job that `close` ends is an infrastructure failure."""
        if self._holdings.closing is not None:
            raise SandboxUnavailable(self.level, "it has been closed", "Open it again.")
        task = asyncio.create_task(self._run(job, deadline_s, on_progress))
        self._holdings.jobs.add(task)
        task.add_done_callback(self._holdings.jobs.discard)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await to_the_end(_silenced(task))
            raise
        if task.cancelled():
            return self._failed("lost", "the sandbox was closed while the job ran")
        return task.result()

    async def require_gpu(self, limits: Limits) -> str:
        """Proves that a job can have a GPU: the name of the one that a worker saw.

        Raises:
            GpuUnavailable: there is none, the sandbox cannot hand it in, or the worker's PyTorch cannot use it.
        """
        job = Job("a look for a GPU", (), limits, accelerator=True)
        outcome = await self.run(job)
        if not outcome.completed:
            remedy = "The image needs a CUDA build of PyTorch, the host NVIDIA's driver and Container Toolkit."
            raise GpuUnavailable(self.level, f"a worker that was given one cannot use it ({outcome.message})", remedy)
        return str(outcome.provenance["hello"]["accelerator"])

    async def close(self) -> None:
        """Ends the jobs that run and the workers that wait. Idempotent."""
        if self._holdings.closing is None:
            self._holdings.closing = asyncio.create_task(self._close())
        await ended(self._holdings.closing)
        self._holdings.closing.result()

    async def _close(self) -> None:
        jobs = tuple(self._holdings.jobs)
        for task in jobs:
            task.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)  # whoever runs a job is told how it ended
        for pool in self._holdings.pools:
            await pool.drain()
        await self._release()

    async def _run(self, job: Job, deadline_s: float | None, on_progress: Progress | None) -> JobOutcome:
        began = time.monotonic()
        async with AsyncExitStack() as held:
            if job.timed:
                await held.enter_async_context(self._pool.stillness())
            try:
                async with asyncio.timeout(deadline_s) as limit:
                    device = await held.enter_async_context(self._lease(job))
                    ready, warm = await self._worker_for(job, lifetime_s(job, deadline_s), device)
            except NotStarted as failure:
                return failure.outcome
            except self._transient as error:
                if limit.expired():
                    return self._failed("start", f"the deadline of {deadline_s:g} s passed before a worker had started")
                return self._failed(self._failure, f"no worker could be started: {type(error).__name__}: {error}")
            held.push_async_callback(to_the_end, ready.end())
            ready.conversation.annotate(warm=warm, device=device)
            spent_s = time.monotonic() - began
            return await ready.conversation.hold(job, deadline_s=deadline_s, on_progress=on_progress, spent_s=spent_s)

    async def _worker_for(self, job: Job, lifetime_s: float, device: str) -> tuple[Ready, bool]:
        if job.accelerator:
            return await self._begin(job.limits, lifetime_s, device=device), False
        return await self._pool.take(job.limits, lifetime_s)

    async def _begin(self, limits: Limits, lifetime_s: float, *, device: str = "") -> Ready:
        """A worker that has greeted. Ends it if it does not.

        Raises:
            NotStarted, ProtocolMismatch, and what `_start` raises.
        """
        born = time.monotonic()
        worker = await self._start(limits, lifetime_s, device=device)
        ready = Ready(worker, Conversation(worker, limits, self.provenance()), born + lifetime_s, born)
        try:
            await ready.conversation.greet()
        except BaseException:
            await to_the_end(ready.end())
            raise
        return ready

    def _failed(self, reason: str, message: str) -> JobOutcome:
        return JobOutcome(OutcomeKind.INFRASTRUCTURE_FAILED, reason, message, provenance=self.provenance())

    @asynccontextmanager
    async def _lease(self, job: Job) -> AsyncIterator[str]:
        """The device that the job may use, empty if it needs none. Waits until one is free."""
        if not job.accelerator:
            yield ""
            return
        free = await self._devices()
        if free is None:
            raise GpuUnavailable(
                self.level,
                f"{job.job_id} needs a GPU and this sandbox has none to give",
                "Choose a smaller tier, or see what `move37 doctor` says about GPUs; `--gpus` names devices.",
            )
        device = await free.get()
        try:
            yield device
        finally:
            free.put_nowait(device)

    async def _devices(self) -> asyncio.Queue[str] | None:
        """Those that are free now; None if there are none at all, which is asked again next time."""
        holdings = self._holdings
        if holdings.free is None:
            found = await asyncio.to_thread(present) if holdings.devices is None else holdings.devices
            if found and holdings.free is None:  # nobody was quicker
                holdings.free = asyncio.Queue()
                for each in found:
                    holdings.free.put_nowait(each)
        return holdings.free


async def _silenced(task: asyncio.Task[Any]) -> None:
    """Waits for a task whose result nobody wants any more, an error included."""
    await asyncio.gather(task, return_exceptions=True)


def lifetime_s(job: Job, deadline_s: float | None) -> float:
    """How long a worker may need for a job at the very most; then it ends by itself, should the host not end it."""
    if deadline_s is not None:
        return deadline_s
    return job.limits.start_timeout_s + sum(SEND_TIMEOUT_S + phase.timeout_s for phase in job.phases) + 60.0
