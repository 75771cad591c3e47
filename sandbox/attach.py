"""One container and the stream that is attached to it.

Notable: whoever ends a container through the engine (a user, a restart of the engine) must not be mistaken for the
program in it. An exit by a signal is the program's only if nothing else explains it: see `EngineWatch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from sandbox.conversation import Ending, Sink
from sandbox.engine import ENGINE_ERRORS, Engine
from sandbox.watch import EngineWatch

_DIE_EVENT_WITHIN_S = 1.0
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

    def __init__(self, engine: Engine, watch: EngineWatch, name: str) -> None:
        self._engine = engine
        self._watch = watch
        self._name = name
        self._breaks = watch.breaks
        self._created = False
        self._peak: int | None = None
        self._peak_file: Path | None = None
        self._socket: socket.socket | None = None
        self._attachment: Any = None  # owns the socket: it must not be collected before us
        self._stream_ended = asyncio.Event()

    async def start(self, image: str, command: Sequence[str], settings: dict[str, Any]) -> None:
        """Creates, attaches, starts: attached later, the first output would be lost, since nothing logs it."""
        api = self._engine.client.api
        self._watch.follow(self._name)
        self._created = True  # before it is: a creation that times out may have succeeded
        await self._engine.call(
            lambda: self._engine.client.containers.create(image, list(command), name=self._name, **settings)
        )
        attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._attachment = await self._engine.call(lambda: api.attach_socket(self._name, params=attach))
        self._socket = cast("socket.socket", self._attachment._sock)  # the SDK offers no other way to it
        self._socket.setblocking(False)
        await self._engine.call(lambda: api.start(self._name))
        inspected = await self._engine.call(lambda: api.inspect_container(self._name))
        self._peak_file = peak_file(int(inspected["State"]["Pid"]), str(inspected["Id"]))

    async def pump(self, on_output: Sink, on_log: Sink) -> None:
        pieces = Demultiplexer(on_output, on_log)
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._attached, 1 << 18):
                pieces.feed(data)
                await asyncio.sleep(0)  # reading what is there already does not give others a turn
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
            if not state["Running"]:
                code, out_of_memory = int(state["ExitCode"]), bool(state["OOMKilled"])
                lost = await self._ended_by_others() if code > 128 and not out_of_memory else ""
                return Ending(code, out_of_memory, lost)
            await asyncio.sleep(0.05)
        return Ending(None, lost="its stream ended while it was still running")

    async def _ended_by_others(self) -> str:
        """Who but the program ended it, once the engine has told all there is to tell; empty if nobody."""
        ends_at = time.monotonic() + _DIE_EVENT_WITHIN_S
        while not self._told() and time.monotonic() < ends_at:  # noqa: ASYNC110 - a thread learns of it
            await asyncio.sleep(0.01)
        if self._watch.breaks != self._breaks:
            return "the engine was restarted"
        return "it was killed through the engine, by somebody else" if self._watch.was_killed(self._name) else ""

    def _told(self) -> bool:
        return self._watch.has_died(self._name) or self._watch.breaks != self._breaks

    async def peak_memory(self) -> int | None:
        """Read from the container's control group on this host: the engine's own statistics take up to a second, and
        under cgroup v2 hold no maximum. None when the engine runs elsewhere. The group goes with the container."""
        if self._peak_file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._peak = int(self._peak_file.read_text())
        return self._peak

    async def destroy(self) -> None:
        """Closes the socket, then SIGKILL and removal: the engine would wait for a reader that has stopped reading."""
        if self._socket is not None:
            self._socket.close()
            self._attachment.close()
        if self._created:
            self._created = False
            await self._engine.remove(self._name)
        self._watch.forget(self._name)

    @property
    def _attached(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the container is not attached")
        return self._socket


def peak_file(pid: int, container: str) -> Path | None:
    """Where the kernel keeps the highest memory use of a container whose first process is `pid`, if that is here."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:  # another machine's pid, or a group that we see under another name
            continue
        if controllers == "":
            file = Path("/sys/fs/cgroup", path.lstrip("/"), "memory.peak")
        elif "memory" in controllers.split(","):
            file = Path("/sys/fs/cgroup/memory", path.lstrip("/"), "memory.max_usage_in_bytes")
        else:
            continue
        return file if file.is_file() else None
    return None
