"""The process sandbox: a separate interpreter, and no isolation.

For programs that are trusted because of how they were made (the embedded grammar's), for tests, and for whoever says
`--accept-unsafe`.

Covered: a crash, a leak or an endless loop stays in the worker; memory, file size and CPU time are limited per process;
the environment is not inherited; a worker dies with its orchestrator; what it forked is killed with it.
NOT covered: anything hostile. A program can read and write whatever the user can, reach the network, and signal the
orchestrator. One that stops or kills its launcher, which finds and ends whatever it starts, and that also replaces its
environment, may leave a process behind. NPROC is not set: it counts every process of the user, the orchestrator's own
included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import evaluator
from sandbox import launcher
from sandbox.conversation import converse
from sandbox.environment import flags_hash, package_paths, worker_environment
from sandbox.protocol import Job, JobOutcome, OutcomeKind, Progress
from sandbox.subprocesses import SubprocessWorker, rlimits

_SWEEPS = 20
_MARK = "MOVE37_WORKER"  # in the environment of a worker and, unless they take care, of all its descendants


class ProcessSandbox:
    """Implements `Sandbox` without isolation. See the module."""

    level = "process"
    isolated = False

    def __init__(self, *, command: Sequence[str] = (sys.executable, "-m", "evaluator")) -> None:
        self._command = tuple(command)

    def provenance(self) -> dict[str, Any]:
        flags = rlimits(Job("", ()).limits, 0.0)
        return {"level": self.level, "isolated": self.isolated, "flags_hash": flags_hash(sorted(flags))}

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        scratch = tempfile.mkdtemp(prefix="move37-")
        mark = secrets.token_hex(16)
        worker: SubprocessWorker | None = None
        try:
            worker = await self._start(job, scratch, mark)
            return await converse(
                worker, job, deadline_s=deadline_s, on_progress=on_progress, provenance=self.provenance()
            )
        except OSError as error:
            return JobOutcome(
                OutcomeKind.INFRASTRUCTURE_FAILED,
                "start",
                f"no worker could be started: {error}",
                provenance=self.provenance(),
            )
        finally:
            await asyncio.shield(_end(worker, mark, scratch))

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(command=command)

    async def close(self) -> None:
        """Nothing is held between jobs."""

    async def _start(self, job: Job, scratch: str, mark: str) -> SubprocessWorker:
        limits = rlimits(job.limits, sum(phase.timeout_s for phase in job.phases))
        del limits["NPROC"]
        settings = json.dumps({"limits": limits, "watch_stdin": True})
        environment = worker_environment(job.limits, scratch=scratch) | {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(map(str, [Path(evaluator.__file__).parent.parent, *package_paths()])),
            _MARK: mark,
        }
        confined = (sys.executable, "-I", "-S", str(launcher.__file__), settings, *self._command)
        return await SubprocessWorker.start(confined, environment=environment, directory=scratch)


async def _end(worker: SubprocessWorker | None, mark: str, scratch: str) -> None:
    if worker is not None:
        await worker.terminate()
        worker.kill()
        await asyncio.to_thread(sweep, f"{_MARK}={mark}".encode())
        await worker.destroy()
    await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def sweep(marker: bytes) -> int:
    """Kills every process whose environment holds `marker`. Returns how many it killed.

    It ends after two passes in a row that find none: one pass may miss a process whose parent forked it after the list
    was read and ended before its own environment was.
    """
    killed: set[int] = set()
    clean = 0
    for _ in range(_SWEEPS):
        found = {pid for pid in _processes() if _environment_holds(pid, marker)}
        clean = 0 if found else clean + 1
        if clean == 2:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(0.01)  # a killed process takes a moment to go
    return len(killed)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _environment_holds(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone
        return False
