"""Text that comes out of a sandbox: bounded while it is collected, harmless when it is shown.

A program may print without end and print anything: the middle is dropped and counted, bytes that are not UTF-8 are
escaped, and terminal control characters are taken out, since logs end in terminals, HTML pages and prompts.
"""

from __future__ import annotations

from evaluator.text import CONTROL


def shown(text: str) -> str:
    """`text` without the characters that act on a terminal instead of being shown."""
    return CONTROL.sub("", text)


class BoundedLog:
    """Keeps the first and the last `cap_bytes / 2` of a stream and counts the rest."""

    def __init__(self, cap_bytes: int) -> None:
        self._half = cap_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data[-self._half :] if self._half else b""
            if len(self._tail) > 4 * self._half:  # trimmed now and then, not at every piece
                del self._tail[: len(self._tail) - self._half]

    def text(self) -> str:
        tail = bytes(self._tail[-self._half :]) if self._half else b""
        dropped = self.total_bytes - len(self._head) - len(tail)
        gap = f"\n[... {dropped} bytes dropped ...]\n".encode() if dropped else b""
        return shown((bytes(self._head) + gap + tail).decode("utf-8", errors="backslashreplace"))
