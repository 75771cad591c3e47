"""A sandbox for benchmarks that train hundreds of programs: workers are forked from one process that has torch loaded.

The worker's code and the frames are those of every other sandbox, so scores are the same to the last bit; only the 2
CPU-seconds of start-up per job are saved. Limits of wall time are `PATIENCE` times what they are elsewhere, so that a
machine with other work does not turn into refused programs. For programs of our own only: nothing is isolated, and a
worker that hangs is ended by an alarm.

`python -m benchmarks.forked SOCKET` is the server: one connection, one worker.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox.conversation import Ending, Sink
from sandbox.environment import worker_environment
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Job, JobOutcome, Limits, Progress

PATIENCE = 20.0
_ALARM_S = 3600


class ForkedSandbox(PooledSandbox):
    """Implements `Sandbox`; `close` ends the server."""

    level = "process"
    isolated = False
    _transient = (OSError,)

    def __init__(self) -> None:
        super().__init__(Holdings.of(()))
        self._folder = tempfile.TemporaryDirectory(prefix="move37-forked-")
        self._socket = f"{self._folder.name}/socket"
        root = str(Path(__file__).parent.parent)
        environment = worker_environment(Limits(), scratch=self._folder.name) | {"PYTHONPATH": root}
        command = [sys.executable, "-m", "benchmarks.forked", self._socket]
        self._server = subprocess.Popen(command, cwd=root, env=environment, stdin=subprocess.PIPE)

    def provenance(self) -> dict[str, Any]:
        return {"level": self.level, "isolated": False, "forked": True}

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        phases = tuple(replace(phase, timeout_s=PATIENCE * phase.timeout_s) for phase in job.phases)
        limits = replace(job.limits, start_timeout_s=PATIENCE * job.limits.start_timeout_s)
        return await super().run(
            replace(job, phases=phases, limits=limits), deadline_s=deadline_s, on_progress=on_progress
        )

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> "_Connected":
        for _ in range(6000):
            if os.path.exists(self._socket):  # noqa: ASYNC240, PTH110  a look at a name blocks nobody
                break
            await asyncio.sleep(0.1)
        return _Connected(*await asyncio.open_unix_connection(self._socket))

    async def _release(self) -> None:
        self._server.terminate()
        self._server.wait()
        self._folder.cleanup()


class _Connected:
    """A worker at the other end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._over = asyncio.Event()

    async def pump(self, on_output: Sink, on_log: Sink) -> None:
        try:
            while data := await self._reader.read(1 << 20):
                on_output(data)
        finally:
            self._over.set()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ended(self) -> Ending:
        await self._over.wait()
        return Ending(0)

    async def peak_memory(self) -> int | None:
        return None

    async def destroy(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def serve(path: str) -> None:
    """Forks a worker for every connection, until terminated or left alone by whoever started it."""
    import torch

    from evaluator import catalogue
    from evaluator.channel import Channel
    from evaluator.gates import limits
    from evaluator.gates.ladder import run_gates
    from evaluator.tracing.levels import run_identities
    from evaluator.warmup import one_step
    from evaluator.worker import hello
    from evaluator.worker import serve as work

    torch.set_num_threads(1)
    limits.STEP_LIMIT_S *= PATIENCE
    honest = catalogue.source("attention_with_convolution")
    run_gates(honest, "sequence", "smoke", None, lengths=[])  # loads what every worker will have then
    run_identities(honest, "sequence", "smoke", ["l2", "l3"])
    one_step()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{path}.new")
    listening.listen()
    Path(f"{path}.new").rename(path)
    starter = os.getppid()
    listening.settimeout(5.0)
    while os.getppid() == starter:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.alarm(_ALARM_S)
            connection.setblocking(True)
            os.dup2(connection.fileno(), 0)
            os.dup2(connection.fileno(), 1)
            connection.close()
            listening.close()
            channel = Channel.over_standard_streams()
            channel.send_control(hello())
            os._exit(work(channel))
        connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
