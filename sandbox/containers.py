"""The Docker sandbox: one hardened container per job, spoken to over its stdin and stdout alone.

Covered: no network, a read-only root without any of the host's files, no capability, no new privileges, an own user
id, a filter on system calls (`seccomp.json`: the calls that an interpreter with PyTorch needs, sockets of the AF_UNIX
family only, neither io_uring nor user namespaces), limits on memory (swap included), CPU, processes, open files and
scratch space (in the same memory limit), and an end from outside: SIGKILL at the deadline, and removal always. When the
orchestrator is killed, three things end its containers: `reaper.py`, a process that notices within milliseconds; the
container itself, whose stdin closes with the orchestrator's socket and is watched by `launcher.py`; and the janitor of
the next orchestrator.
NOT covered: bugs in the kernel or the container runtime (`runtime="runsc"` puts a second kernel in between, where
gVisor is installed); engines with other security defaults than a local root engine (a rootless engine on cgroup v1
accepts memory limits and ignores them: the self-test tries one); engines reached over TLS or SSH, whose attach
streams cannot be read without a thread each; video memory, of which a job has a whole device's.

Nothing of a container is reused, committed or mounted, and a program has no say in image, command or environment.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from docker.errors import APIError, ImageNotFound
from docker.types import DeviceRequest, LogConfig, Ulimit

from sandbox import ownership
from sandbox.attach import ContainerWorker
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
from sandbox.errors import (
    BUILD_COMMAND,
    DiskFull,
    EngineUnreachable,
    GpuUnavailable,
    ImageMissing,
    RuntimeMissing,
    SandboxUnavailable,
)
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Limits
from sandbox.reaper import Reaper
from sandbox.waiting import to_the_end
from sandbox.watch import EngineWatch

UID = 64037  # also in the Dockerfile; not 65534, which other services share
WORKER = ("python3", "-m", "evaluator")
SCRATCH_INODES = 16384
SECCOMP_PROFILE = Path(__file__).with_name("seccomp.json")


class DockerSandbox(PooledSandbox):
    """Implements `Sandbox` with containers. See the module; made by `open_docker`."""

    level = "docker"
    isolated = True
    _failure = "engine"
    _transient = ENGINE_ERRORS

    def __init__(
        self,
        engine: Engine,
        image: ImageInfo,
        watch: EngineWatch,
        reaper: Reaper,
        holdings: Holdings,
        *,
        version: str,
        command: Sequence[str] = WORKER,
        runtime: str = "",
    ) -> None:
        super().__init__(holdings)
        self._engine = engine
        self._image = image
        self._watch = watch
        self._reaper = reaper
        self._command = tuple(command)
        self._runtime = runtime
        self._version = version

    def provenance(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "isolated": self.isolated,
            "engine": self._version,
            "runtime": self._runtime or "default",
            "image_id": self._image.image_id,
            "base_image_id": self._image.base_image_id,
            "bootstrap": self._image.bootstrap,
            "source_hash": self._image.source_hash,
            "requirements_hash": self._image.requirements_hash,
            "flags_hash": flags_hash(container_settings(Limits(), {}, runtime=self._runtime)),
        }

    def with_command(self, command: Sequence[str]) -> Self:
        return type(self)(
            self._engine,
            self._image,
            self._watch,
            self._reaper,
            self._holdings,
            version=self._version,
            command=command,
            runtime=self._runtime,
        )

    async def _release(self) -> None:
        await self._engine.tidied()
        await asyncio.to_thread(self._watch.close)
        await asyncio.to_thread(lambda: self._reaper.close(self._engine.leftovers))
        await asyncio.to_thread(self._engine.close)

    async def _start(self, limits: Limits, lifetime_s: float, *, device: str = "") -> ContainerWorker:
        self._engine.tidy()
        worker = ContainerWorker(self._engine, self._watch, f"move37-{secrets.token_hex(8)}")
        launch = json.dumps({"watch_stdin": True, "lifetime_s": lifetime_s})
        command = ("python3", "/opt/move37/launcher.py", launch, *self._command)
        labels = ownership.labels(lifetime_s=lifetime_s)
        settings = container_settings(limits, labels, runtime=self._runtime, device=device)
        try:
            await worker.start(self._image.image_id, command, settings)
        except BaseException as error:
            await to_the_end(worker.destroy())
            if isinstance(error, APIError) and (lasting := _lasting(error, self._image.tag, self._runtime)) is not None:
                raise lasting from error
            raise
        return worker


def _lasting(error: APIError, image: str, runtime: str) -> SandboxUnavailable | None:
    """What the engine's refusal of a container means, if trying again will not help."""
    said = str(error.explanation or error)
    if isinstance(error, ImageNotFound):
        return ImageMissing("docker", f"the image {image!r} has gone from the engine", f"Build it: `{BUILD_COMMAND}`.")
    if "no space left on device" in said:
        return DiskFull(
            "docker", f"the engine's disk is full ({said})", "Free space: `docker system df`, `docker system prune`."
        )
    if "could not select device driver" in said:
        return GpuUnavailable(
            "docker",
            f"the engine cannot hand in a GPU ({said})",
            "Install the NVIDIA Container Toolkit, 1.17.8 or later.",
        )
    if "runtime" in said.lower() and runtime and runtime in said:
        return RuntimeMissing(
            "docker",
            f"the engine does not know the runtime {runtime!r} ({said})",
            "Install it, or leave out --runtime.",
        )
    return None


def open_docker(
    image: str = IMAGE, *, command: Sequence[str] = WORKER, runtime: str = "", devices: Sequence[str] | None = ()
) -> DockerSandbox:
    """The Docker sandbox, if it can be used here. Blocking; removes what dead orchestrators left behind.

    `runtime` names one that the engine knows ("runsc"); `devices` are the GPUs that jobs may lease, by index or UUID.

    Raises:
        EngineUnreachable, ImageMissing, ImageStale, RuntimeMissing: each with its remedy.
        SandboxUnavailable: the engine is reached in a way whose streams we cannot read.
    """
    engine = connect()
    watch: EngineWatch | None = None
    try:
        engine.require_plain_socket()
        found = inspect_image(engine, image)
        require_current(found)
        require_runtime(engine, runtime)
        remove_abandoned(engine)
        version = engine_version(engine)
        watch = EngineWatch(engine)
        # The reaper comes last: one that is left alone removes every container of this process.
        return DockerSandbox(
            engine, found, watch, Reaper(), Holdings.of(devices), version=version, command=command, runtime=runtime
        )
    except BaseException:
        if watch is not None:
            watch.close()
        engine.close()
        raise


def engine_version(engine: Engine) -> str:
    """Raises EngineUnreachable when it does not say."""
    try:
        return str(engine.client.version()["Version"])
    except ENGINE_ERRORS as error:
        raise EngineUnreachable("docker", f"the engine does not say its version: {error}", "Is it running?") from error


def require_runtime(engine: Engine, runtime: str) -> None:
    """Raises RuntimeMissing unless the engine knows `runtime`."""
    if not runtime:
        return
    try:
        known = sorted(engine.client.info().get("Runtimes") or {})
    except ENGINE_ERRORS as error:
        raise SandboxUnavailable("docker", f"the engine does not describe itself: {error}", "Restart it.") from error
    if runtime not in known:
        why = f"the engine does not know the container runtime {runtime!r}; it knows {', '.join(known) or 'none'}"
        raise RuntimeMissing("docker", why, "Install it and register it with the engine, or leave out --runtime.")


def container_settings(
    limits: Limits, labels: dict[str, str], *, runtime: str = "", device: str = ""
) -> dict[str, Any]:
    """Keyword arguments of `containers.create`: every flag that confines a job."""
    scratch = f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes},nr_inodes={SCRATCH_INODES},mode=1777"
    # Inline JSON: the SDK hands the engine the profile's text; a path would be taken for one.
    profile = json.dumps(json.loads(SECCOMP_PROFILE.read_text()), separators=(",", ":"))
    environment = worker_environment(limits, scratch="/tmp")  # noqa: S108
    gpu: dict[str, Any] = {}
    if device:
        # One device, and of the driver only what computing needs: no display, no video, no graphics.
        gpu = {"device_requests": [DeviceRequest(driver="", device_ids=[device], capabilities=[["gpu"]])]}
        environment["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    return {
        **gpu,
        **({"runtime": runtime} if runtime else {}),
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
        "environment": environment,
        "use_config_proxy": False,  # else the SDK adds the proxies of ~/.docker/config.json, passwords included
        "labels": labels,
    }
