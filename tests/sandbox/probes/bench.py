"""Runs one probe in one backend and looks at the host before and after.

Whatever a probe does, afterwards: none of its processes is left, no container, no control group, nothing new in shared
memory or in the directories for temporary files, no System V segment, no more open files here than before; nobody
connected to the host's listeners; nothing that came back holds the canary, which the host keeps in its environment and
in a readable file; the job ended when it had to; and this process never needed much memory for it.

NOT covered: what is not asked for above; and on a machine where others work, the epilogue looks only at what is a
probe's by its token or its user id.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from evaluator.wire import arrays_cap
from sandbox import ownership
from sandbox.bubblewrap import BubblewrapSandbox
from sandbox.cgroups import PREFIX
from sandbox.containers import UID, DockerSandbox, open_docker
from sandbox.containers import WORKER as CONTAINER_WORKER
from sandbox.errors import SandboxUnavailable
from sandbox.process import ProcessSandbox
from sandbox.protocol import JobOutcome
from sandbox.selftest import Testable
from sandbox.uids import UID_RANGE
from tests.sandbox.probes.conversations import LIGHT_WORKER, harmless, job, start_s
from tests.sandbox.probes.probe import Evidence, Probe

CANARY_VARIABLE = "OPENAI_API_KEY"
SLACK_S = 5.0  # start, kill and removal, on a busy machine
GONE_S = 2.0
HOST_MEMORY = 64 << 20  # beside the replies: a log, a few frames, and what Python keeps
CHECK_EVERY = 6  # probes between two harmless jobs
SHARED_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm")


def opened(level: str) -> Testable:
    """The backend, or a skip that says why not."""
    try:
        match level:
            case "docker":
                return open_docker()
            case "bubblewrap":
                return BubblewrapSandbox()
            case "process":
                return ProcessSandbox()
        if importlib.util.find_spec(f"sandbox.{level}") is None:
            pytest.skip(f"there is no {level} sandbox")
        return cast("Testable", getattr(importlib.import_module(f"sandbox.{level}"), f"{level.title()}Sandbox")())
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))


class Bench:
    """One backend, and on the host everything that a probe must not reach. Use as a context manager."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.sandbox = opened(level)
        self._canary = secrets.token_hex(16)
        self._abstract = f"move37-{secrets.token_hex(8)}"
        self._ran = 0

    def __enter__(self) -> Bench:
        self._kept = os.environ.get(CANARY_VARIABLE), tempfile.tempdir
        os.environ[CANARY_VARIABLE] = self._canary
        self._directory = tempfile.TemporaryDirectory()
        home = Path(self._directory.name)
        home.chmod(0o755)
        self._file = home / "canary"
        self._file.write_text(self._canary)
        self._scratch = home / "temporary"
        self._scratch.mkdir()
        tempfile.tempdir = str(self._scratch)
        self._listeners = [socket.create_server(("0.0.0.0", 0)), _abstract_listener(self._abstract)]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("0.0.0.0", 0))
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run(self.sandbox.close())
        for listener in (*self._listeners, self._datagrams):
            listener.close()
        variable, tempfile.tempdir = self._kept
        del os.environ[CANARY_VARIABLE]
        if variable is not None:
            os.environ[CANARY_VARIABLE] = variable
        self._directory.cleanup()

    async def run(self, probe: Probe) -> Evidence:
        """Runs `probe` and asserts what has to hold whatever it does. What it may have done is for `probe.judge`."""
        if self._ran == 0:
            await self._play(harmless(), secrets.token_hex(8))  # whatever the host opens once is open now
        self._ran += 1
        token = secrets.token_hex(8)
        open_files, segments, entries = self._open_files(), _segments(), self._entries(token)
        memory = _reset_peak()
        evidence = await self._play(probe, token)
        grown = _status("VmHWM") - memory
        self._assert_harmless_words(probe, evidence)
        replies = sum(arrays_cap(phase.reply) for phase in job(probe, self._asked(token)).phases if phase.reply)
        assert grown <= HOST_MEMORY + 4 * replies, f"the host needed {grown >> 20} MiB"
        await _soon(lambda: not running(token), lambda: f"left running: {running(token)}")
        await _soon(lambda: not self._containers(), lambda: f"left containers: {self._containers()}")
        await _soon(lambda: not _groups(), lambda: f"left control groups: {_groups()}")
        await _soon(lambda: self._entries(token) <= entries, lambda: f"left files: {self._entries(token) - entries}")
        await _soon(lambda: _segments() <= segments, lambda: f"left segments: {_segments() - segments}")
        await _soon(lambda: self._open_files() <= open_files, lambda: f"{self._open_files() - open_files} more files")
        self._assert_nobody_came()
        if self._ran % CHECK_EVERY == 0:
            await self.assert_usable()
        return evidence

    async def assert_usable(self) -> None:
        """The sandbox still runs a harmless job."""
        evidence = await self._play(harmless(), secrets.token_hex(8))
        assert evidence.outcome.completed, evidence.outcome
        assert evidence.found == {"sum": 45}

    async def _play(self, probe: Probe, token: str) -> Evidence:
        played = job(probe, self._asked(token))
        deadline_s = start_s(probe) + probe.timeout_s * len(played.phases)
        sandbox = self._with_worker(probe, token)
        began = time.monotonic()
        breaches = 0
        async with asyncio.timeout(deadline_s + 4 * SLACK_S):
            task: asyncio.Task[JobOutcome] = asyncio.create_task(sandbox.run(played, deadline_s=deadline_s))
            while not task.done():
                await asyncio.wait((task,), timeout=0.02 if probe.meanwhile else None)
                breaches += bool(probe.meanwhile and probe.meanwhile(token))
            outcome = await task
        wall_s = time.monotonic() - began
        assert wall_s <= deadline_s + SLACK_S, f"it took {wall_s:.1f} s: {outcome}"
        assert sum(outcome.phase_wall_s) <= sum(phase.timeout_s for phase in played.phases) + SLACK_S
        return Evidence(self.level, outcome, wall_s, breaches)

    def _with_worker(self, probe: Probe, token: str) -> Testable:
        """The sandbox with the worker that `probe` is for, whose command line holds `token`."""
        if probe.conversation != "evaluator":
            python = "python3" if self.level == "docker" else sys.executable
            return self.sandbox.with_command((python, "-c", LIGHT_WORKER, token))
        match self.level:
            case "landlock":  # it has a way of its own to start the evaluator; no token then, the control group tells
                return self.sandbox
            case "docker":
                return self.sandbox.with_command((*CONTAINER_WORKER, token))
        return self.sandbox.with_command((sys.executable, "-m", "evaluator", token))

    def _asked(self, token: str) -> dict[str, Any]:
        return {
            "token": token,
            "tcp": self._listeners[0].getsockname()[1],
            "udp": self._datagrams.getsockname()[1],
            "abstract": self._abstract,
            "addresses": _addresses(),
            "file": str(self._file),
            "directory": str(Path(__file__).parent),
            "orchestrator": os.getpid(),
            "yranac": self._canary[::-1],  # so that what it is told is not what it looks for
        }

    def _assert_harmless_words(self, probe: Probe, evidence: Evidence) -> None:
        outcome = evidence.outcome
        assert self._canary not in f"{outcome.replies}{outcome.log}{outcome.message}", "it saw the canary"
        assert len(outcome.log) <= 4 * probe.limits.log_bytes + 8192  # a byte may be shown as four characters
        assert "\x1b" not in outcome.log + outcome.message

    def _assert_nobody_came(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        self._datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            self._datagrams.recv(1)

    def _containers(self) -> list[str]:
        """Containers of this process that the engine still has."""
        if not isinstance(self.sandbox, DockerSandbox):
            return []
        owner = ownership.owner()
        found = self.sandbox._engine.client.api.containers(
            all=True, filters={"label": f"{ownership.OWNER_LABEL}={owner}"}
        )
        return [str(container["Names"]) for container in found]

    def _open_files(self) -> int:
        if isinstance(self.sandbox, DockerSandbox):
            self.sandbox._engine.client.api.close()  # idle connections to the engine come and go
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    def _entries(self, token: str) -> frozenset[str]:
        """What lies in the host's shared directories and comes from a sandbox, by name or by owner."""
        found = {str(path) for path in self._scratch.iterdir()}
        for directory in map(Path, SHARED_DIRECTORIES):
            for path in directory.iterdir():
                try:
                    owner = path.lstat().st_uid
                except FileNotFoundError:  # somebody else's, just gone
                    continue
                if token in path.name or owner in UID_RANGE or owner == UID:
                    found.add(str(path))
        return frozenset(found)


async def _soon(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    ends = time.monotonic() + GONE_S
    while not holds():
        assert time.monotonic() < ends, otherwise()
        await asyncio.sleep(0.02)


def running(token: str) -> list[int]:
    """Processes of the host, those inside sandboxes included, whose command line holds `token`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and token.encode() in entry.joinpath("cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended while we looked
            continue
    return [pid for pid in found if pid != os.getpid()]


def _abstract_listener(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0{name}")
    listener.listen(8)
    return listener


def _addresses() -> list[str]:
    """The host's own IPv4 addresses, as far as its routing table tells: among them the bridge that containers use."""
    lines = Path("/proc/net/fib_trie").read_text().splitlines()
    hosts = {before.split()[-1] for before, line in pairwise(lines) if "/32 host LOCAL" in line}
    return sorted(hosts)


def _groups() -> list[str]:
    """Control groups that this process has made for jobs and that are still there."""
    owner = f"{PREFIX}{ownership.pid_namespace()}-{os.getpid()}-"
    return [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(owner)]


def _segments() -> frozenset[str]:
    """System V shared memory, semaphores and queues of the host, by kind and id."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
        found |= {f"{kind} {row.split()[1]}" for row in rows}
    return frozenset(found)


def _reset_peak() -> int:
    """Makes the kernel forget this process's peak of resident memory; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    """A size from this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))
