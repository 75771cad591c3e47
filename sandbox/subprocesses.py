"""Workers that are child processes of the orchestrator: what the bubblewrap, landlock and process backends share.

Notable:
- `asyncio`'s `Process` reads through streams with flow control, and some Python versions let its `wait()` hang as
  long as a grandchild holds a pipe. Here a protocol takes every byte as it comes and sees the exit itself.
- The child is spawned from the event loop's own thread. That matters: a parent-death signal fires when the *thread*
  that spawned the child ends, and a pool thread may end at any time.
- A fresh session makes the child a process group leader, so that the whole group can be killed.
- A worker in a control group is ended as a whole when the kernel has killed any process in it for memory. cgroup v2
  does so itself; v1 kills one process at a time, and what is left would go on with a part missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast

from sandbox.cgroups import CgroupScope
from sandbox.conversation import Ending, Sink
from sandbox.protocol import Limits
from sandbox.uids import Uid

_OUTPUT, _LOG = 1, 2
TERMINATE_TIMEOUT_S = 1.0  # a launcher that a program has stopped does not answer
MEMORY_POLL_S = 0.2
GONE_TIMEOUT_S = 5.0  # SIGKILL takes milliseconds; a process in uninterruptible sleep may take longer than we wait


class SubprocessWorker(asyncio.SubprocessProtocol):
    """One child process, its three pipes, and its end."""

    def __init__(self, scope: CgroupScope | None = None, uid: Uid | None = None) -> None:
        self._scope = scope
        self._uid = uid
        self._out_of_memory = False
        self._sinks: dict[int, Sink] = {}
        self._early: dict[int, bytearray] = {_OUTPUT: bytearray(), _LOG: bytearray()}  # before `pump` is called
        self._streams_ended = asyncio.Event()
        self._open_streams = {_OUTPUT, _LOG}
        self._exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._deaf = False
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str = "/",
        scope: CgroupScope | None = None,
        uid: Uid | None = None,
    ) -> Self:
        """`scope` is a group that `command` joins by itself, `uid` one that it takes on; they are ours from here on,
        also when this raises.

        Raises:
            OSError: the command cannot be run.
        """
        loop = asyncio.get_running_loop()
        try:
            _, worker = await loop.subprocess_exec(
                lambda: cls(scope, uid),
                *command,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                close_fds=True,
            )
        except BaseException:
            if scope is not None:
                scope.remove()
            if uid is not None:
                uid.release()
            raise
        return worker

    # asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        stdin.set_write_buffer_limits(0)  # so that "may write again" means "all has been written"

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        sink = self._sinks.get(fd)
        if sink is not None:
            sink(data)
        else:
            self._early[fd] += data

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._deaf = True
            self._writable.set()
        self._open_streams.discard(fd)
        if not self._open_streams:
            self._streams_ended.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def process_exited(self) -> None:
        self._exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._writable.set()
        self._streams_ended.set()
        self._closed.set()

    # Worker

    @property
    def pid(self) -> int:
        return self._process.get_pid()

    @property
    def _process(self) -> asyncio.SubprocessTransport:
        if self._transport is None:
            raise RuntimeError("the worker was used before it was started")
        return self._transport

    async def pump(self, on_output: Sink, on_log: Sink) -> None:
        self._sinks = {_OUTPUT: on_output, _LOG: on_log}
        for fd, early in self._early.items():
            if early:
                self._sinks[fd](bytes(early))
                early.clear()
        await self._streams_ended.wait()

    async def send(self, data: bytes) -> None:
        if self._deaf:
            raise BrokenPipeError("the worker no longer reads")
        cast("asyncio.WriteTransport", self._process.get_pipe_transport(0)).write(data)
        await self._writable.wait()
        if self._deaf:
            raise BrokenPipeError("the worker stopped reading")

    async def ended(self) -> Ending:
        while not self._exited.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._scope is None else MEMORY_POLL_S):
                    await self._exited.wait()
            if self._scope is not None and self._ran_out_of_memory():
                await asyncio.to_thread(self._scope.kill)
        return Ending(exit_code=self._process.get_returncode(), out_of_memory=self._ran_out_of_memory())

    async def peak_memory(self) -> int | None:
        """The group's own maximum where it keeps one (page cache included), else the largest single process's."""
        counted = self._scope.peak_bytes() if self._scope is not None else None
        return highest_resident(self.pid) if counted is None else counted

    def _ran_out_of_memory(self) -> bool:
        self._out_of_memory = self._out_of_memory or (self._scope is not None and self._scope.oom_killed())
        return self._out_of_memory

    async def terminate(self) -> None:
        """Asks the launcher to end the worker and all that it started, and waits until it has, for a while."""
        if self._exited.is_set():
            return
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            os.kill(self.pid, signal.SIGTERM)
            async with asyncio.timeout(TERMINATE_TIMEOUT_S):
                await self._exited.wait()

    async def destroy(self) -> None:
        """Kills the process group and waits until the child, and whoever holds its pipes, is gone."""
        self._sinks = {_OUTPUT: _discard, _LOG: _discard}
        self.kill()
        if self._scope is not None:
            await asyncio.to_thread(self._scope.kill)
        with contextlib.suppress(TimeoutError):  # whoever holds a pipe for longer has escaped: see the backend's limits
            async with asyncio.timeout(GONE_TIMEOUT_S):
                await self._exited.wait()
                await self._streams_ended.wait()
        if self._scope is not None:
            await asyncio.to_thread(self._scope.remove)
        self._process.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_TIMEOUT_S):
                await self._closed.wait()
        if self._uid is not None:
            self._uid.release()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _discard(_: bytes) -> None:
    """Takes what a worker still writes while it is being killed."""


def highest_resident(pid: int) -> int | None:
    """The largest peak of resident memory, in bytes, among a process and its descendants; None once they are gone."""
    peaks: list[int] = []
    pending = [pid]
    while pending:
        process = Path(f"/proc/{pending.pop()}")
        try:
            status = process.joinpath("status").read_text()
            for children in process.glob("task/*/children"):
                pending += [int(child) for child in children.read_text().split()]
        except OSError:  # it ended while we looked
            continue
        peaks += [int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")]
    return max(peaks, default=None)


def rlimits(limits: Limits, lifetime_s: float) -> dict[str, int]:
    """Per-process limits for `launcher.py`; CPU time ends what has escaped every deadline."""
    return {
        "AS": limits.memory_bytes,
        "NPROC": limits.pids,
        "FSIZE": limits.tmp_bytes,
        "NOFILE": 1024,
        "CORE": 0,
        "CPU": max(60, int(2 * lifetime_s * max(1.0, limits.cpus))),
    }
