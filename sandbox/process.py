"""The process sandbox: a separate interpreter, and no isolation.

For programs that are trusted because of how they were made (the embedded grammar's), for tests, and for whoever says
`--accept-unsafe`.

Covered: a crash, a leak or an endless loop stays in the worker; memory, file size and CPU time are limited per process,
and memory and processes as a whole where a control group can be made (`cgroups.py`); the environment is not inherited;
a worker dies with its orchestrator; what it forked is killed with it.
NOT covered: anything hostile. System calls are not filtered. A program can read and write whatever the user can, reach
the network, and signal the orchestrator. One that stops or kills its launcher, which finds and ends whatever it starts,
and that also replaces its environment, may leave a process behind where there is no control group. NPROC is not set: it
counts every process of the user, the orchestrator's own included.
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
from sandbox.cgroups import open_cgroups
from sandbox.environment import flags_hash, package_paths, worker_environment
from sandbox.pool import StartedWorker
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Limits
from sandbox.subprocesses import SubprocessWorker, rlimits

_SWEEPS = 20
_MARK = "MOVE37_WORKER"  # in the environment of a worker and, unless they take care, of all its descendants


class ProcessSandbox(PooledSandbox):
    """Implements `Sandbox` without isolation. See the module."""

    level = "process"
    isolated = False

    def __init__(
        self,
        *,
        command: Sequence[str] = (sys.executable, "-m", "evaluator"),
        devices: Sequence[str] | None = (),
        holdings: Holdings | None = None,
    ) -> None:
        super().__init__(holdings or Holdings.of(devices))
        self._command = tuple(command)
        self._cgroups = open_cgroups()

    def provenance(self) -> dict[str, Any]:
        flags = rlimits(Limits(), 0.0)
        return {
            "level": self.level,
            "isolated": self.isolated,
            "flags_hash": flags_hash(sorted(flags)),
            "memory_cgroup": self._cgroups.version,
        }

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(command=command, holdings=self._holdings)

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> StartedWorker:
        allowed = rlimits(limits, lifetime_s)
        del allowed["NPROC"]
        if device:
            del allowed["AS"]  # a GPU's driver reserves far more address space than it uses
        scratch = tempfile.mkdtemp(prefix="move37-")
        settings: dict[str, Any] = {"limits": allowed, "watch_stdin": True, "lifetime_s": lifetime_s}
        settings["scratch"] = scratch
        mark = secrets.token_hex(16)
        environment = worker_environment(limits, scratch=scratch) | {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(map(str, [Path(evaluator.__file__).parent.parent, *package_paths()])),
            "CUDA_VISIBLE_DEVICES": device,
            _MARK: mark,
        }
        try:
            scope = self._cgroups.scope(memory_bytes=limits.memory_bytes, pids=limits.pids, cpus=limits.cpus)
            if scope is not None:
                settings["cgroup"] = scope.join_files()
            confined = (sys.executable, "-I", "-S", str(launcher.__file__), json.dumps(settings), *self._command)
            worker = await SubprocessWorker.start(confined, environment=environment, directory=scratch, scope=scope)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return _MarkedWorker(worker, mark, scratch)


class _MarkedWorker:
    """A child process, its scratch directory, and the mark by which whatever it leaves is known."""

    def __init__(self, child: SubprocessWorker, mark: str, scratch: str) -> None:
        self._child = child
        self._mark = mark
        self._scratch = scratch
        self.pump, self.send = child.pump, child.send
        self.ended, self.peak_memory = child.ended, child.peak_memory

    async def destroy(self) -> None:
        await self._child.terminate()
        self._child.kill()
        await asyncio.to_thread(sweep, f"{_MARK}={self._mark}".encode())
        await self._child.destroy()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)


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
