"""Removes the containers of an orchestrator at the moment it dies, however it dies.

A process in a session of its own, with one end of a pipe whose other end only the orchestrator holds: the kernel closes
that one even on `kill -9`, and the read here ends. An orderly end says so first, and what is left to do: nothing, or
the containers that an engine which was away could not remove.

Covered: containers of exactly this orchestrator (pid, start time, boot), those that the engine was still creating at
that moment included: it looks again for a while. NOT covered: a reaper that was killed too. Then the containers end
with their stdin, and what is left of them is the next orchestrator's to remove (`engine.remove_abandoned`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox import ownership

if TYPE_CHECKING:
    from sandbox.engine import Engine

_LOOKS_FOR_S = 3.0  # a creation under way when the orchestrator died takes a moment to show
_GIVES_UP_S = 120.0  # an engine that is down may come back
_CLOSE_TIMEOUT_S = 5.0
_ORDERLY = "an orderly end"


class Reaper:
    """The orchestrator's end: starts the process, and tells it when it is not needed any more."""

    def __init__(self) -> None:
        root = str(Path(__file__).parent.parent)
        # Of the environment only what leads to the engine: keys are not this process's business.
        kept = {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("DOCKER_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.reaper", ownership.owner()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**kept, "PATH": "/usr/bin:/bin", "PYTHONPATH": root},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, leftovers: Iterable[str] = ()) -> None:
        """Sends it away, or leaves it the containers that could not be removed. Idempotent."""
        assert self._process.stdin is not None
        names = sorted(leftovers)
        if not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it is gone already
                self._process.stdin.write("".join(f"{line}\n" for line in (_ORDERLY, *names)).encode())
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if names:
            self._process.returncode = 0  # it outlives us: nobody waits for it, and that is no oversight
            return
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(owner: str) -> None:
    from sandbox.engine import connect  # now, not when there is a hurry
    from sandbox.errors import SandboxUnavailable

    first, *names = sys.stdin.read().split("\n")
    orderly = first == _ORDERLY
    left = {name for name in names if name}
    if orderly and not left:
        return
    gives_up_at = time.monotonic() + _GIVES_UP_S
    while time.monotonic() < gives_up_at:
        try:
            engine = connect()
        except SandboxUnavailable:
            time.sleep(0.5)
            continue
        try:
            if _remove(engine, left) if orderly else _remove_all(engine, owner):
                return
        finally:
            engine.close()


def _remove(engine: Engine, containers: set[str]) -> bool:
    """Removes `containers`, and takes out of the set which are gone. False if some are not."""
    from docker.errors import NotFound

    from sandbox.engine import ENGINE_ERRORS

    for container in tuple(containers):
        try:
            engine.client.api.remove_container(container, force=True, v=True)
        except NotFound:
            pass
        except ENGINE_ERRORS:
            time.sleep(0.5)
            continue
        containers.discard(container)
    return not containers


def _remove_all(engine: Engine, owner: str) -> bool:
    """Removes the containers of `owner` until none has shown for a while. False if the engine went away meanwhile."""
    from docker.errors import APIError

    from sandbox.engine import ENGINE_ERRORS

    def remove(container: str) -> None:
        with contextlib.suppress(APIError):  # gone, or being removed by somebody else
            engine.client.api.remove_container(container, force=True, v=True)

    quiet_since = time.monotonic()
    with ThreadPoolExecutor(16) as threads:
        while time.monotonic() - quiet_since < _LOOKS_FOR_S:
            try:
                filters = {"label": f"{ownership.OWNER_LABEL}={owner}"}
                found = [container["Id"] for container in engine.client.api.containers(all=True, filters=filters)]
                list(threads.map(remove, found))
            except ENGINE_ERRORS:
                return False
            if found:
                quiet_since = time.monotonic()
            else:
                time.sleep(0.05)
    return True


if __name__ == "__main__":
    main(sys.argv[1])
