"""Errors of the experiment memory. Each says what failed, to what, and what to do about it.

    MemoryStoreError
    ├── StoreUnavailable          cannot be reached, opened or written
    │   ├── StoreMissing          nothing there, and creating was not asked for
    │   ├── StoreBusy             another process held the lock for longer than the busy timeout
    │   ├── StoreFull             no room left on the device
    │   ├── StoreCorrupt          damaged, or not a store of Move37
    │   ├── SchemaTooNew          written by a newer Move37
    │   └── SchemaOutdated        written by an older Move37, and upgrading was not asked for
    ├── NotFound                  no such row
    ├── Conflict                  contradicts what is stored; finished rows never change
    └── ValueRefused              the value cannot be stored faithfully
        └── ProgramUnstorable     NUL or lone surrogates in a program's text

After any of them nothing of the failed call is stored: every method of the store is one transaction.
"""


class MemoryStoreError(Exception):
    """Base class of everything the store raises on purpose."""


class StoreUnavailable(MemoryStoreError):
    """The database cannot be reached, opened or written."""

    def __init__(self, url: str, why: str, remedy: str) -> None:
        super().__init__(f"{self._what(url)}: {why}. {remedy}")
        self.url = url
        self.why = why
        self.remedy = remedy

    @staticmethod
    def _what(url: str) -> str:
        return f"the experiment memory {url} cannot be used"


class StoreMissing(StoreUnavailable):
    """There is no store at this URL and the caller did not ask for one to be created."""


class StoreBusy(StoreUnavailable):
    """Another process kept the write lock, or a deadlock was broken, for longer than the busy timeout."""


class StoreFull(StoreUnavailable):
    """The device has no room left; the transaction was rolled back."""


class StoreCorrupt(StoreUnavailable):
    """The file is damaged, or is a database of something else."""


class SchemaTooNew(StoreUnavailable):
    """The store was written by a newer version of Move37."""

    def __init__(self, url: str, found: str, ours: str) -> None:
        super().__init__(
            url,
            f"its schema is revision {found} and this Move37 knows revisions up to {ours}",
            "Use the Move37 that wrote it, or a newer one",
        )
        self.found = found
        self.ours = ours


class SchemaOutdated(StoreUnavailable):
    """The store was written by an older version of Move37 and was opened with `upgrade=False`."""

    def __init__(self, url: str, found: str, ours: str) -> None:
        super().__init__(
            url,
            f"its schema is revision {found} and this Move37 needs revision {ours}",
            "Back it up and open it with upgrade=True: opening for work upgrades it",
        )
        self.found = found
        self.ours = ours


class NotFound(MemoryStoreError):
    """No row with this id."""

    def __init__(self, kind: str, key: str, remedy: str = "") -> None:
        super().__init__(f"no {kind} {key!r} in the experiment memory{'. ' + remedy if remedy else ''}")
        self.kind = kind
        self.key = key


class Conflict(MemoryStoreError):
    """The call contradicts a stored row: a name taken, a finished row changed, a key used for something else."""

    def __init__(self, kind: str, key: str, why: str) -> None:
        super().__init__(f"{kind} {key!r}: {why}")
        self.kind = kind
        self.key = key
        self.why = why


class ValueRefused(MemoryStoreError):
    """The value would not come back as it went in (NaN, a key that is not text, a name that is no id, ...)."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} cannot be stored: {why}")
        self.what = what
        self.why = why


class ProgramUnstorable(ValueRefused):
    """A program's text holds NUL or lone surrogates; the static gates reject such a program first."""
