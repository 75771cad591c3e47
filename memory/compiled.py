"""The compiled version of L0's scanner (`text_scan.c`): found, checked and called; five times as fast as NumPy's.

Installing builds it beside its source where there is a C compiler (`hatch_build.py`); the keys are the same without it.
Notable: the library says of which source it was built, and one that is older than the source beside it is not used.
Not covered: what a canonical form is (`memory.identity`).
"""

import ctypes
import threading
from hashlib import sha256
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("text_scan.c")
LIBRARY: Final = SOURCE.with_name("_text_scan.so")
UNSURE: Final = -1  # as in the source

_USUAL: Final = 100_000  # bytes of text for which a thread keeps room

REMEDY: Final = "where there is a C compiler, install again (make install)"


class Unsure(Exception):
    """The compiled version leaves a text to the other one."""


class TextScanner:
    """Canonical forms by the library at `path`; `kinds` is the table of `memory.identity`, 256 bytes.

    Raises OSError where the library cannot be loaded, and where it was built of another source than `SOURCE`.
    """

    def __init__(self, kinds: bytes, path: Path = LIBRARY) -> None:
        # PyDLL keeps the interpreter's lock: to give it back and to take it again may cost more than the call.
        library = ctypes.PyDLL(str(path))
        try:
            library.built_of.restype = ctypes.c_char_p
        except AttributeError as error:
            raise OSError(f"{path} is none of {SOURCE.name}: {error}") from error
        if library.built_of() != sha256(SOURCE.read_bytes()).hexdigest().encode():
            raise OSError(f"{path} was built of another version of {SOURCE.name}")
        library.prepare(kinds)
        self._canonical = library.canonical
        self._canonical.restype = ctypes.c_int64
        self._canonical.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p]
        self._room = threading.local()

    def canonical(self, source: str) -> memoryview | None:
        """The canonical form, valid until the thread's next call; None where the text does not tokenize.

        Raises Unsure for texts that are left to the other version.
        """
        try:
            text = (source if source.endswith("\n") else f"{source}\n").encode()
        except UnicodeEncodeError:
            raise Unsure("a lone surrogate") from None
        size = len(text)
        if size > _USUAL:
            room = ctypes.create_string_buffer(5 * size + 64)
        else:
            try:
                room = self._room.bytes
            except AttributeError:
                room = self._room.bytes = ctypes.create_string_buffer(5 * _USUAL + 64)
        found: int = self._canonical(text, size, room)
        if found == UNSURE:
            raise Unsure("a rare layout")
        return memoryview(room)[:found] if found >= 0 else None
