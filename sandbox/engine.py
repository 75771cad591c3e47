"""The Docker engine, as this package uses it: reached, asked about the image, tidied up, and never blocking the loop.

Notable:
- The SDK is synchronous. Calls run in threads of our own; a cancelled caller waits for the call under way, so that no
  container is created behind the back of the code that should remove it.
- Listing is sparse: a full listing inspects every container, races those that are being removed, and hangs on a
  wedged one.
- The API version is agreed upon: the newest that both the SDK and the engine know. Left alone, the SDK speaks whatever
  the engine's newest is, also one that it does not know.

NOT covered: an engine that is not Docker's behind the same API (Podman's was never tried).
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.constants import DEFAULT_DOCKER_API_VERSION, DEFAULT_UNIX_SOCKET
from docker.errors import APIError, DockerException, NotFound
from docker.utils import compare_version, parse_host
from requests.exceptions import RequestException, Timeout

from sandbox import ownership
from sandbox.errors import (
    BUILD_COMMAND,
    EngineForbidden,
    EngineIncompatible,
    EngineUnreachable,
    ImageMissing,
    ImageStale,
    SandboxUnavailable,
)
from sandbox.source import SOURCE_LABEL, source_hash
from sandbox.waiting import ended

IMAGE = "move37-sandbox:latest"
BASE_LABEL = "move37.base-image"
BOOTSTRAP_LABEL = "move37.bootstrap"
REQUIREMENTS_LABEL = "move37.requirements-hash"

OLDEST_API = "1.41"  # of Docker 20.10, the oldest engine that this was run on; none before it is maintained
NEWEST_API = DEFAULT_DOCKER_API_VERSION  # that the SDK knows

ANSWER_TIMEOUT_S = 10  # for the first question: an engine that is up answers in milliseconds
CALL_TIMEOUT_S = 30
ENGINE_ERRORS = (DockerException, RequestException, OSError)

_RESTART = "Look into its log and restart it; `docker version` and `docker ps` must work."

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
        self.leftovers: set[str] = set()  # containers that could not be removed
        self._tidying: asyncio.Task[None] | None = None

    async def call(self, function: Callable[[], _T]) -> _T:
        """Runs a blocking call in a thread. Cancelled, it lets the call finish first."""

        def asked() -> _T:
            self.knock()
            return function()

        future = asyncio.get_running_loop().run_in_executor(self._threads, asked)
        await ended(future)
        return future.result()

    async def remove(self, container: str) -> None:
        """Ends a container and removes it. One that cannot be removed now is one of `leftovers`."""
        for _ in range(2):  # a removal that times out goes through the second time
            try:
                await self.call(lambda: self.client.api.remove_container(container, force=True, v=True))
            except NotFound:
                break
            except ENGINE_ERRORS:
                continue
            else:
                break
        else:
            self.leftovers.add(container)
            return
        self.leftovers.discard(container)

    def tidy(self) -> None:
        """Begins to try again what an engine that was away could not do. Nobody waits for it."""
        if self.leftovers and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.create_task(self._remove_leftovers())

    async def tidied(self) -> None:
        """Tries once more, and returns when that is over. What is still left then is in `leftovers`."""
        self.tidy()
        if self._tidying is not None:
            await ended(self._tidying)

    async def _remove_leftovers(self) -> None:
        for container in tuple(self.leftovers):
            await self.remove(container)

    @property
    def is_local(self) -> bool:
        """Whether it is reached through a socket of this machine."""
        path = self._socket_path
        return path is not None and path.exists()

    @property
    def _socket_path(self) -> Path | None:
        adapter = self.client.api.get_adapter(self.client.api.base_url)
        path = str(getattr(adapter, "socket_path", ""))  # of the SDK's adapter for unix sockets
        return Path(path) if path else None

    def knock(self) -> None:
        """Raises OSError when nobody listens on the engine's local socket.

        Asked by the SDK while the engine is away, each question leaves a socket open until it is garbage.
        """
        if self._socket_path is not None:
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.settimeout(ANSWER_TIMEOUT_S)
                attempt.connect(str(self._socket_path))

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
        EngineForbidden: it is there, and this user may not talk to it.
        EngineIncompatible: it and the SDK have no version of the API in common.
        EngineUnreachable: nothing answers there, not in time, or with an error.
    """
    try:
        _try_local_socket()
        version = _agreed_version(_ask_version())
        return Engine(docker.from_env(version=version, timeout=CALL_TIMEOUT_S))
    except ENGINE_ERRORS as error:
        raise _unreachable(error) from error


def engine_address() -> str:
    """Where the engine is looked for, as a user would write it."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET.removeprefix("http+")


def _local_socket() -> Path | None:
    """The engine's unix socket; None when it is reached in another way. Raises DockerException for a bad address."""
    address = str(parse_host(os.environ.get("DOCKER_HOST")))
    return Path(address.removeprefix("http+unix://")) if address.startswith("http+unix://") else None


def _try_local_socket() -> None:
    """Raises OSError when nothing listens on the engine's unix socket: the SDK would leave one of its own open."""
    path = _local_socket()
    if path is not None:
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(ANSWER_TIMEOUT_S)
            attempt.connect(str(path))


def _ask_version() -> dict[str, Any]:
    client = docker.from_env(version=OLDEST_API, timeout=ANSWER_TIMEOUT_S)  # named, lest the constructor asks by itself
    try:
        answer = client.api.version(api_version=False)
    except (KeyError, TypeError):  # the SDK's own, about an error that is not worded as Docker words them
        return {}
    finally:
        client.close()
    return answer if isinstance(answer, dict) else {}


def _agreed_version(theirs: dict[str, Any]) -> str:
    """The newest API version that the engine and the SDK have in common. Raises EngineIncompatible if there is none."""
    try:
        name, newest = str(theirs["Version"]), str(theirs["ApiVersion"])
        oldest = str(theirs.get("MinAPIVersion") or OLDEST_API)
        too_old, too_new = compare_version(newest, OLDEST_API) > 0, compare_version(NEWEST_API, oldest) > 0
    except (KeyError, ValueError):
        why = f"what answers at {engine_address()} does not name its API version, as a Docker engine does"
        raise EngineIncompatible("docker", why, "Point DOCKER_HOST to a Docker engine.") from None
    if too_old:
        why = f"the engine (Docker {name}) speaks API {newest} at most, and {OLDEST_API} at least is needed"
        raise EngineIncompatible("docker", why, "Update Docker to 20.10 or later.")
    if too_new:
        why = (
            f"the engine (Docker {name}) speaks API {oldest} at least, and the installed Docker SDK "
            f"{docker.__version__} knows {NEWEST_API} at most"
        )
        raise EngineIncompatible("docker", why, "Update the Python package: pip install --upgrade docker.")
    return newest if compare_version(newest, NEWEST_API) >= 0 else NEWEST_API


def _unreachable(error: BaseException) -> EngineUnreachable:
    """What a failed first contact means, and what to do about it."""
    where = engine_address()
    causes = list(_causes(error))
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if numbers & {errno.EACCES, errno.EPERM}:
        return _forbidden()
    if any(isinstance(cause, TimeoutError | Timeout) for cause in causes):
        why = f"the Docker engine at {where} did not answer within {ANSWER_TIMEOUT_S:g} s"
        return EngineUnreachable("docker", why, "Restart it; `docker version` must answer at once.")
    if any(isinstance(cause, APIError) for cause in causes):
        why = f"the Docker engine at {where} answers with an error ({brief(error)})"
        return EngineUnreachable("docker", why, "Look into its log and restart it; `docker version` must work.")
    if errno.ENOENT in numbers:
        said = "there is no such socket"
    elif errno.ECONNREFUSED in numbers:
        said = "nobody listens there"
    else:
        said = brief(error)
    others = " or ".join(f"DOCKER_HOST=unix://{path}" for path in _other_sockets())
    hint = f" There is another socket here: set {others}." if others else ""
    remedy = f"Start Docker (`sudo systemctl start docker`), or set DOCKER_HOST to where it listens.{hint}"
    return EngineUnreachable("docker", f"no Docker engine answers at {where}: {said}", remedy)


def _forbidden() -> EngineForbidden:
    path = _local_socket()
    why = f"this user (uid {os.geteuid()}) may not open the Docker engine's socket at {engine_address()}"
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name if path is not None else "docker"
    except (OSError, KeyError):  # its directory is closed to us as well, or the group has no name
        group = "docker"
    if group == "root":
        group = "docker"  # to join root's own group is no remedy
    remedy = (
        f"Join its group, which makes you as good as root on this machine, and log in again: "
        f"`sudo usermod -aG {group} $USER`; or run a rootless engine and set DOCKER_HOST to its socket "
        f"(unix:///run/user/{os.geteuid()}/docker.sock)."
    )
    return EngineForbidden("docker", why, remedy)


def _other_sockets() -> list[Path]:
    """Sockets where a rootless engine or Docker Desktop would listen, and the environment does not point to."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    candidates = (Path(runtime, "docker.sock"), Path.home() / ".docker" / "desktop" / "docker.sock")
    return [path for path in candidates if os.access(path, os.W_OK) and f"unix://{path}" != engine_address()]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from or during, and what it wraps as its argument: urllib3 and requests do both."""
    pending, seen = [error], set[int]()
    while pending:
        cause = pending.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        linked = (cause.__cause__, cause.__context__, *cause.args)
        pending += [other for other in linked if isinstance(other, BaseException)]


def brief(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def inspect_image(engine: Engine, tag: str = IMAGE) -> ImageInfo:
    """The sandbox image.

    Raises:
        ImageMissing: there is none.
    """
    try:
        image = engine.client.images.get(tag)
    except NotFound:
        raise ImageMissing("docker", f"the engine has no image {tag!r}", f"Build it with `{BUILD_COMMAND}`.") from None
    except ENGINE_ERRORS as error:
        why = f"the engine failed to describe the image {tag!r} ({brief(error)})"
        raise EngineUnreachable("docker", why, _RESTART) from error
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
        why = f"the engine failed while abandoned workers were removed ({brief(error)})"
        raise EngineUnreachable("docker", why, _RESTART) from error
    return removed
