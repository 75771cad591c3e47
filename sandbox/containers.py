"""The Docker sandbox: one hardened container per job, spoken to over its stdin and stdout alone.

Covered: no network, a read-only root without any of the host's files, no capability, no new privileges, an own user
id, a filter on system calls (`seccomp.json`: the calls that an interpreter with PyTorch needs, sockets of the AF_UNIX
family only, neither io_uring nor user namespaces), limits on memory (swap included), CPU, processes, open files and
scratch space (in the same memory limit), and an end from outside: SIGKILL at the deadline, removal always, a janitor
for what a dead orchestrator left. Between them the container ends itself: its stdin closes with the orchestrator's
socket, and `launcher.py` watches it.
NOT covered: bugs in the kernel or the container runtime; engines with other
security defaults than a local root engine (a rootless engine on cgroup v1 accepts memory limits and ignores them: the
self-test tries one); engines reached over TLS or SSH, whose attach streams cannot be read without a thread each.

Nothing of a container is reused, committed or mounted, and a program has no say in image, command or environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

from docker.types import LogConfig, Ulimit

from sandbox import ownership
from sandbox.conversation import SEND_TIMEOUT_S, Ending, Sink, converse
from sandbox.engine import (
    ENGINE_ERRORS,
    IMAGE,
    Engine,
    ImageInfo,
    connect,
    inspect_image,
    remove_abandoned,
    require_current,
)
from sandbox.environment import flags_hash, worker_environment
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Progress

UID = 64037  # also in the Dockerfile; not 65534, which other services share
WORKER = ("python3", "-m", "evaluator")
SCRATCH_INODES = 16384
SECCOMP_PROFILE = Path(__file__).with_name("seccomp.json")

_HEADER = struct.Struct(">BxxxL")  # of a piece in Docker's multiplexed attach stream: which stream, how many bytes
_STDOUT = 1


class Demultiplexer:
    """Splits Docker's attach stream into output and log. Incremental; never holds more than a header."""

    def __init__(self, on_output: Sink, on_log: Sink) -> None:
        self._sinks = on_output, on_log
        self._header = b""
        self._sink = on_log
        self._left = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self._left == 0:
                missing = _HEADER.size - len(self._header)
                self._header, data = self._header + data[:missing], data[missing:]
                if len(self._header) == _HEADER.size:
                    stream, self._left = _HEADER.unpack(self._header)
                    self._sink = self._sinks[stream != _STDOUT]
                    self._header = b""
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._sink(piece)


class ContainerWorker:
    """A started container and the socket that is attached to it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._incarnation = engine.incarnation()
        self._socket: socket.socket | None = None
        self._attachment: Any = None  # owns the socket: it must not be collected before us
        self._stream_ended = asyncio.Event()

    async def start(self, image: str, command: Sequence[str], settings: dict[str, Any]) -> None:
        """Creates, attaches, starts: attached later, the first output would be lost, since nothing logs it."""
        api = self._engine.client.api
        await self._engine.call(
            lambda: self._engine.client.containers.create(image, list(command), name=self._name, **settings)
        )
        attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._attachment = await self._engine.call(lambda: api.attach_socket(self._name, params=attach))
        self._socket = cast("socket.socket", self._attachment._sock)  # the SDK offers no other way to it
        self._socket.setblocking(False)
        await self._engine.call(lambda: api.start(self._name))

    async def pump(self, on_output: Sink, on_log: Sink) -> None:
        pieces = Demultiplexer(on_output, on_log)
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._attached, 1 << 18):
                pieces.feed(data)
        finally:
            self._stream_ended.set()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._attached, data)

    async def ended(self) -> Ending:
        """The attach stream ends with the container's last process; only the engine knows how."""
        await self._stream_ended.wait()
        for _ in range(40):
            try:
                inspected = await self._engine.call(lambda: self._engine.client.api.inspect_container(self._name))
            except ENGINE_ERRORS as error:
                return Ending(None, lost=f"the engine does not know it any more: {error}")
            state: dict[str, Any] = inspected["State"]
            if self._engine.incarnation() != self._incarnation:
                return Ending(None, lost="the engine was restarted")
            if not state["Running"]:
                return Ending(int(state["ExitCode"]), out_of_memory=bool(state["OOMKilled"]))
            await asyncio.sleep(0.05)
        return Ending(None, lost="its stream ended while it was still running")

    async def peak_memory(self) -> int | None:
        """cgroup v1 keeps a maximum; v2's is not in the engine's statistics."""
        try:
            stats = await self._engine.call(
                lambda: self._engine.client.api.stats(self._name, stream=False, one_shot=True)
            )
        except ENGINE_ERRORS:  # a figure for information; the conversation itself notices a lost engine
            return None
        peak = stats.get("memory_stats", {}).get("max_usage")
        return int(peak) if peak else None

    async def destroy(self) -> None:
        """Closes the socket, then SIGKILL and removal: the engine would wait for a reader that has stopped reading."""
        if self._socket is not None:
            self._socket.close()
            self._attachment.close()
        for _ in range(2):  # a removal that times out goes through the second time, or is the janitor's
            with contextlib.suppress(*ENGINE_ERRORS):
                await self._engine.call(
                    lambda: self._engine.client.api.remove_container(self._name, force=True, v=True)
                )
                return

    @property
    def _attached(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the container is not attached")
        return self._socket


class DockerSandbox:
    """Implements `Sandbox` with containers. See the module; made by `open_docker`."""

    level = "docker"
    isolated = True

    def __init__(self, engine: Engine, image: ImageInfo, *, command: Sequence[str] = WORKER) -> None:
        self._engine = engine
        self._image = image
        self._command = tuple(command)
        self._version = str(engine.client.version()["Version"])

    def provenance(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "isolated": self.isolated,
            "engine": self._version,
            "image_id": self._image.image_id,
            "base_image_id": self._image.base_image_id,
            "bootstrap": self._image.bootstrap,
            "source_hash": self._image.source_hash,
            "requirements_hash": self._image.requirements_hash,
            "flags_hash": flags_hash(container_settings(Limits(), {})),
        }

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        worker = ContainerWorker(self._engine, f"move37-{secrets.token_hex(8)}")
        provenance = self.provenance()
        try:
            lifetime_s = deadline_s if deadline_s is not None else _lifetime_s(job)
            labels = ownership.labels(campaign=job.campaign, job_id=job.job_id, lifetime_s=lifetime_s)
            launch = json.dumps({"watch_stdin": True, "lifetime_s": lifetime_s})
            command = ("python3", "/opt/move37/launcher.py", launch, *self._command)
            await worker.start(self._image.image_id, command, container_settings(job.limits, labels))
            return await converse(worker, job, deadline_s=deadline_s, on_progress=on_progress, provenance=provenance)
        except ENGINE_ERRORS as error:
            message = f"the Docker engine could not run the job: {type(error).__name__}: {error}"
            return JobOutcome(OutcomeKind.INFRASTRUCTURE_FAILED, "engine", message, provenance=provenance)
        finally:
            await asyncio.shield(worker.destroy())

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(self._engine, self._image, command=command)

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)


def open_docker(image: str = IMAGE, *, command: Sequence[str] = WORKER) -> DockerSandbox:
    """The Docker sandbox, if it can be used here. Blocking; removes what dead orchestrators left behind.

    Raises:
        EngineUnreachable, ImageMissing, ImageStale: each with its remedy.
        SandboxUnavailable: the engine is reached in a way whose streams we cannot read.
    """
    engine = connect()
    try:
        engine.require_plain_socket()
        found = inspect_image(engine, image)
        require_current(found)
        remove_abandoned(engine)
        return DockerSandbox(engine, found, command=command)
    except BaseException:
        engine.close()
        raise


def _lifetime_s(job: Job) -> float:
    return job.limits.start_timeout_s + sum(SEND_TIMEOUT_S + phase.timeout_s for phase in job.phases) + 60.0


def container_settings(limits: Limits, labels: dict[str, str]) -> dict[str, Any]:
    """Keyword arguments of `containers.create`: every flag that confines a job."""
    scratch = f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes},nr_inodes={SCRATCH_INODES},mode=1777"
    # Inline JSON: the SDK hands the engine the profile's text; a path would be taken for one.
    profile = json.dumps(json.loads(SECCOMP_PROFILE.read_text()), separators=(",", ":"))
    return {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", f"seccomp={profile}"],
        "user": f"{UID}:{UID}",
        "ipc_mode": "none",
        "tmpfs": {"/tmp": scratch},  # noqa: S108 - the container's own
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,  # equal: no swap on top
        "nano_cpus": math.ceil(limits.cpus * 1e9),
        "pids_limit": limits.pids,
        "oom_score_adj": 500,
        "ulimits": [
            Ulimit(name="nofile", soft=1024, hard=1024),
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="fsize", soft=limits.tmp_bytes, hard=limits.tmp_bytes),
        ],
        "log_config": LogConfig(type="none"),  # a flood would fill the host's disk
        "init": True,
        "stdin_open": True,
        "tty": False,
        "auto_remove": False,  # it would take exit code and OOM flag with it
        "restart_policy": {"Name": "no"},
        "environment": worker_environment(limits, scratch="/tmp"),  # noqa: S108
        "labels": labels,
    }
