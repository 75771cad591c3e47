"""The worker's end of the wire: blocking frames over private copies of stdin and stdout. Inside the sandbox only.

The program keeps file descriptors 0 and 1, but they lead to nothing and to the log: a stray `print` breaks no frame.
"""

import io
import os
import sys
from collections.abc import Mapping
from typing import Any

from evaluator.errors import WireError
from evaluator.wire import Frame, FrameKind, FrameReader, control, encode_frame, read_control

_FROM_HOST_CAP = 1 << 30  # the host is trusted; this only bounds a mistake


class HostGoneError(Exception):
    """The host closed its end: nobody is left to answer."""


class Channel:
    """Reads and writes whole frames."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._reader = FrameReader(arrays_cap=_FROM_HOST_CAP)
        self._waiting: list[Frame] = []

    @classmethod
    def over_standard_streams(cls) -> "Channel":
        """Take stdin and stdout away: fd 0 becomes /dev/null, fd 1 becomes the log (stderr)."""
        read_fd, write_fd = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # os._exit and kill flush nothing
        return cls(read_fd, write_fd)

    def send(self, frame: Frame) -> None:
        data = memoryview(encode_frame(frame))
        while data:
            data = data[os.write(self._write_fd, data) :]

    def send_control(self, message: Mapping[str, Any]) -> None:
        self.send(control(message))

    def receive(self, kind: FrameKind) -> bytes:
        """The payload of the next frame, which must be of `kind`.

        Raises:
            HostGoneError: end of the stream.
            WireError: a frame of another kind.
        """
        while not self._waiting:
            data = os.read(self._read_fd, 1 << 20)
            if not data:
                raise HostGoneError
            self._waiting = self._reader.feed(data)
        frame = self._waiting.pop(0)
        if frame.kind is not kind:
            raise WireError(f"expected a {kind.name} frame from the host, got {frame.kind.name}")
        return frame.payload

    def receive_control(self) -> dict[str, Any]:
        return read_control(self.receive(FrameKind.CONTROL))
