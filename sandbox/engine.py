"""The Docker engine, as this package uses it: reached, asked about the image, tidied up, and never blocking the loop.

Notable:
- The SDK is synchronous. Calls run in threads of our own; a cancelled caller waits for the call under way, so that no
  container is created behind the back of the code that should remove it.
- Listing is sparse: a full listing inspects every container, races those that are being removed, and hangs on a
  wedged one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import parse_host
from requests.exceptions import RequestException

from sandbox import ownership
from sandbox.errors import BUILD_COMMAND, EngineUnreachable, ImageMissing, ImageStale, SandboxUnavailable
from sandbox.source import SOURCE_LABEL, source_hash

IMAGE = "move37-sandbox:latest"
BASE_LABEL = "move37.base-image"
BOOTSTRAP_LABEL = "move37.bootstrap"
REQUIREMENTS_LABEL = "move37.requirements-hash"

CALL_TIMEOUT_S = 30
ENGINE_ERRORS = (DockerException, RequestException, OSError)

_T = TypeVar("_T")


@dataclass(frozen=True)
class ImageInfo:
    """A sandbox image and what it was made from."""

    tag: str
    image_id: str
    base_image_id: str
    bootstrap: bool
    source_hash: str
    requirements_hash: str
    size_bytes: int


class Engine:
    """A connection to a Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="move37-docker")

    async def call(self, function: Callable[[], _T]) -> _T:
        """Runs a blocking call in a thread. Cancelled, it lets the call finish first."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait((future,))
            raise

    def incarnation(self) -> tuple[int, int] | None:
        """Changes when the engine is restarted, as far as a local socket tells: it is then a new file."""
        adapter = self.client.api.get_adapter(self.client.api.base_url)
        path = getattr(adapter, "socket_path", None)  # of the SDK's adapter for unix sockets
        try:
            status = Path(path).stat() if path else None
        except OSError:
            return None
        return (status.st_ino, status.st_ctime_ns) if status else None

    def require_plain_socket(self) -> None:
        """Raises SandboxUnavailable when the engine is reached over TLS or SSH."""
        address = str(self.client.api.base_url)
        if not address.startswith(("http+docker://localhost", "http://")):
            why = f"the engine is reached at {address}, and attach streams over TLS or SSH cannot be read"
            raise SandboxUnavailable("docker", why, "Use a local engine, or forward its socket.")

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        self.client.close()


def connect() -> Engine:
    """The engine that the environment names (DOCKER_HOST), or the local one.

    Raises:
        EngineUnreachable: nothing answers there.
    """
    try:
        _try_local_socket()
        client = docker.from_env(timeout=CALL_TIMEOUT_S)
        client.ping()
    except ENGINE_ERRORS as error:
        why = f"no Docker engine answers ({type(error).__name__}: {str(error)[:200]})"
        remedy = "Start Docker, or set DOCKER_HOST; the user must be allowed to talk to it."
        raise EngineUnreachable("docker", why, remedy) from error
    return Engine(client)


def _try_local_socket() -> None:
    """Raises OSError when nothing listens on the engine's unix socket: the SDK would leave one of its own open."""
    address = str(parse_host(os.environ.get("DOCKER_HOST")))
    if address.startswith("http+unix://"):
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(CALL_TIMEOUT_S)
            attempt.connect(address.removeprefix("http+unix://"))


def inspect_image(engine: Engine, tag: str = IMAGE) -> ImageInfo:
    """The sandbox image.

    Raises:
        ImageMissing: there is none.
    """
    try:
        image = engine.client.images.get(tag)
    except ImageNotFound:
        raise ImageMissing("docker", f"the engine has no image {tag!r}", f"Build it with `{BUILD_COMMAND}`.") from None
    except ENGINE_ERRORS as error:
        why = f"the engine failed to describe {tag!r}: {error}"
        raise EngineUnreachable("docker", why, "Is it running?") from error
    found: dict[str, str] = image.labels
    return ImageInfo(
        tag=tag,
        image_id=str(image.id),
        base_image_id=found.get(BASE_LABEL, ""),
        bootstrap=found.get(BOOTSTRAP_LABEL) == "true",
        source_hash=found.get(SOURCE_LABEL, ""),
        requirements_hash=found.get(REQUIREMENTS_LABEL, ""),
        size_bytes=int(image.attrs["Size"]),
    )


def require_current(image: ImageInfo) -> None:
    """Raises ImageStale unless the image holds this checkout's evaluator."""
    ours = source_hash()
    if image.source_hash != ours:
        why = f"the image {image.tag!r} holds evaluator {image.source_hash[:12] or 'unknown'}, this is {ours[:12]}"
        command = f"{BUILD_COMMAND} --bootstrap" if image.bootstrap else BUILD_COMMAND  # the way it was built before
        raise ImageStale("docker", why, f"Rebuild it with `{command}`.")


def remove_abandoned(engine: Engine) -> int:
    """The janitor: removes workers whose orchestrator is dead. Returns how many.

    Raises:
        EngineUnreachable: the engine stopped answering.
    """
    removed = 0
    try:
        containers = engine.client.containers.list(
            all=True, sparse=True, ignore_removed=True, filters={"label": ownership.OWNER_LABEL}
        )
        for container in containers:
            attributes: dict[str, Any] = container.attrs
            if not ownership.is_abandoned(attributes["Labels"], running=attributes["State"] == "running"):
                continue
            try:
                container.remove(force=True, v=True)
                removed += 1
            except APIError as error:
                if error.status_code not in (404, 409):  # gone, or being removed by somebody else
                    raise
    except ENGINE_ERRORS as error:
        raise EngineUnreachable("docker", f"the engine failed while tidying up: {error}", "Is it running?") from error
    return removed
