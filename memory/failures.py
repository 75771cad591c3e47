"""What an error code of SQLite means for a store: whoever talks to the file says the same of it."""

import sqlite3

from memory.errors import StoreBusy, StoreCorrupt, StoreFull, StoreUnavailable

BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
FREE_SPACE = "Free some space and repeat: nothing of this step was stored, everything before it was"
WAIT = "Wait for the other process, or stop it, and repeat"
REACH = "Check that the path or server exists and can be written"

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Growing the shared-memory file of the WAL fails with an I/O error, not with SQLITE_FULL, when the device is full.
_FULL_IO = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE})
_RESTORE = "Restore it from a backup, or name another file"


def of_sqlite(shown_url: str, extended_code: int, why: str) -> StoreUnavailable:
    """The typed error of an extended result code (https://www.sqlite.org/rescode.html)."""
    if extended_code & 0xFF == sqlite3.SQLITE_FULL or extended_code in _FULL_IO:
        return StoreFull(shown_url, f"the device is full ({why})", FREE_SPACE)
    if extended_code & 0xFF in BUSY:
        return StoreBusy(shown_url, f"another process is writing ({why})", WAIT)
    if extended_code & 0xFF in _CORRUPT:
        return StoreCorrupt(shown_url, f"the file is damaged or no database ({why})", _RESTORE)
    return StoreUnavailable(shown_url, why, REACH)
