"""What the engine says about our containers: who was killed through it, and whether it has gone away meanwhile.

An attached stream that ends tells neither. The engine's event stream does: it breaks when the engine stops, however it
stops, and a `kill` through the engine is an event while a signal from inside a container is none.

Covered: events of this process's own containers, from the moment the constructor returns. NOT covered: what happens
while the stream is being set up again after a break; a break is itself the answer for every container of that time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException
from requests.exceptions import RequestException

from sandbox import ownership

if TYPE_CHECKING:
    from sandbox.engine import Engine

_ERRORS = (DockerException, RequestException, OSError)
_RECONNECT_S = 0.2
_CONNECT_TIMEOUT_S = 10.0


class EngineWatch:
    """Reads the engine's events in a thread of its own, until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.breaks = 0
        self._engine = engine
        self._followed: set[str] = set()
        self._killed: set[str] = set()
        self._died: set[str] = set()
        self._stream: Any = None
        self._connected = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="move37-engine-events", daemon=True)
        self._thread.start()
        self._connected.wait(_CONNECT_TIMEOUT_S)

    def was_killed(self, container: str) -> bool:
        """Whether somebody sent it a signal through the engine, which includes ourselves."""
        return container in self._killed

    def has_died(self, container: str) -> bool:
        return container in self._died

    def follow(self, container: str) -> None:
        """Remembers what happens to this one from now on."""
        self._followed.add(container)

    def forget(self, container: str) -> None:
        """Frees what is remembered about a container that is gone; its removal is an event too, and comes later."""
        self._followed.discard(container)
        self._killed.discard(container)
        self._died.discard(container)

    def close(self) -> None:
        self._closed.set()
        stream = self._stream
        if stream is not None:
            try:
                stream.close()
            except (*_ERRORS, AttributeError):  # it has just ended by itself
                pass
        self._thread.join(_CONNECT_TIMEOUT_S)

    def _read(self) -> None:
        filters = {
            "type": "container",
            "event": ["kill", "die"],
            "label": f"{ownership.OWNER_LABEL}={ownership.owner()}",
        }
        while not self._closed.is_set():
            try:
                self._engine.knock()
                self._stream = self._engine.client.api.events(filters=filters, decode=True)
                self._connected.set()
                for event in self._stream:
                    self._note(event)
            except _ERRORS:
                pass
            if not self._closed.is_set():
                self.breaks += 1
                self._closed.wait(_RECONNECT_S)

    def _note(self, event: dict[str, Any]) -> None:
        name = event.get("Actor", {}).get("Attributes", {}).get("name", "")
        if name not in self._followed:
            return
        if event.get("Action") == "kill":
            self._killed.add(name)
        elif event.get("Action") == "die":
            self._died.add(name)
