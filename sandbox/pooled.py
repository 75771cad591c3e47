"""What the backends have in common: a job gets a worker, warm or new, holds its conversation, and the worker is ended.

A backend says how to start a worker (`_start`) and what to record about it (`provenance`); see `Sandbox` for the
promises.

Devices: a job that needs a GPU leases one for as long as it runs, so that no two jobs share a device (video memory
knows no cgroup). The worker is shown that device and no other; a job that needs none is shown none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sandbox.conversation import SEND_TIMEOUT_S, Conversation, NotStarted
from sandbox.errors import GpuUnavailable
from sandbox.gpus import present
from sandbox.pool import Ready, StartedWorker, WarmPool, warm_size
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Progress


class PooledSandbox:
    """Base of the backends. Not a sandbox by itself."""

    level: str
    isolated: bool
    _failure = "start"  # what such a failure is called in an outcome
    _transient: tuple[type[Exception], ...] = (OSError,)  # from starting a worker: try the job again

    def __init__(self, *, devices: Sequence[str] | None = ()) -> None:
        """`devices`: GPUs by index or UUID; None for those that the driver's tool names when one is needed."""
        self._devices = None if devices is None else tuple(devices)
        self._free: asyncio.Queue[str] | None = None
        self._pool = WarmPool(self._begin, 0, Limits())

    def provenance(self) -> dict[str, Any]:
        raise NotImplementedError

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> StartedWorker:
        """Starts a worker that is to last `lifetime_s`. Ends what it started if it fails.

        Raises:
            SandboxUnavailable: no worker can be started until somebody mends something.
            One of `_transient`: this one could not be started.
        """
        raise NotImplementedError

    def keep_warm(self, count: int, limits: Limits) -> int:
        """Keeps up to `count` workers with `limits` waiting, as far as memory allows. Returns how many that is.

        Call it once, on the event loop that will run the jobs.
        """
        self._pool = WarmPool(self._begin, warm_size(count), limits)
        self._pool.fill()
        return self._pool.size

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        """See `Sandbox.run`."""
        if job.timed:
            async with self._pool.stillness():
                return await self._run(job, deadline_s, on_progress)
        return await self._run(job, deadline_s, on_progress)

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
        """Ends the workers that wait."""
        await self._pool.drain()

    async def _run(self, job: Job, deadline_s: float | None, on_progress: Progress | None) -> JobOutcome:
        began = time.monotonic()
        ready: Ready | None = None
        try:
            async with self._lease(job) as device:
                try:
                    async with asyncio.timeout(deadline_s):
                        ready, warm = await self._worker_for(job, lifetime_s(job, deadline_s), device)
                    left_s = None if deadline_s is None else max(0.0, deadline_s - (time.monotonic() - began))
                    ready.conversation.annotate(warm=warm, device=device)
                    return await ready.conversation.hold(job, deadline_s=left_s, on_progress=on_progress)
                finally:
                    if ready is not None:
                        await asyncio.shield(ready.end())
        except NotStarted as failure:
            return failure.outcome
        except TimeoutError:
            return self._not_started(
                "start", f"the job's deadline of {deadline_s:g} s passed before a worker had started"
            )
        except self._transient as error:
            return self._not_started(self._failure, f"no worker could be started: {type(error).__name__}: {error}")

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
            await asyncio.shield(ready.end())
            raise
        return ready

    def _not_started(self, reason: str, message: str) -> JobOutcome:
        return JobOutcome(OutcomeKind.INFRASTRUCTURE_FAILED, reason, message, provenance=self.provenance())

    @asynccontextmanager
    async def _lease(self, job: Job) -> AsyncIterator[str]:
        """The device that the job may use, empty if it needs none. Waits until one is free."""
        if not job.accelerator:
            yield ""
            return
        if self._devices is None:
            self._devices = await asyncio.to_thread(present)
        if not self._devices:
            raise GpuUnavailable(
                self.level,
                f"{job.job_id} needs a GPU and this sandbox has none to give",
                "Choose a smaller tier, or see what `move37 doctor` says about GPUs; `--gpus` names devices.",
            )
        if self._free is None:
            self._free = asyncio.Queue()
            for each in self._devices:
                self._free.put_nowait(each)
        device = await self._free.get()
        try:
            yield device
        finally:
            self._free.put_nowait(device)


def lifetime_s(job: Job, deadline_s: float | None) -> float:
    """How long a worker may need for a job at the very most; then it ends by itself, should the host not end it."""
    if deadline_s is not None:
        return deadline_s
    return job.limits.start_timeout_s + sum(SEND_TIMEOUT_S + phase.timeout_s for phase in job.phases) + 60.0
