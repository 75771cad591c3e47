"""Where a user's data lives: the runs directory, the store's address, locks.

A campaign is held by one process at a time through an `flock` on `runs/locks/<id>.lock`: the kernel releases it at
`kill -9`, so there is no stale lock to clean. Not covered: two machines sharing one PostgreSQL store and different
runs directories.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from move37.errors import CampaignBusy, ConfigError, NotThere

if TYPE_CHECKING:
    from memory.overview import Overview
    from memory.store import Store

RUNS_VARIABLE = "MOVE37_RUNS"
STORE_VARIABLE = "MOVE37_STORE"


@dataclass(frozen=True)
class Workspace:
    """The runs directory and the store's URL."""

    runs: Path
    store_url: str

    @classmethod
    def find(cls, runs: Path | None = None, store: str | None = None) -> "Workspace":
        """Flags first, then `MOVE37_RUNS`/`MOVE37_STORE`, then `runs/` of the working directory."""
        directory = (runs or Path(os.environ.get(RUNS_VARIABLE, "runs"))).expanduser().absolute()
        url = store or os.environ.get(STORE_VARIABLE) or f"sqlite:///{directory / 'move37.db'}"
        return cls(directory, url)

    def open(self, *, create: bool = False) -> "Store":
        """Opens the store; reading commands do not create one.

        Raises:
            NotThere: there is no store yet and `create` is false.
            ConfigError: the runs directory cannot be made.
        """
        from memory.store import open_store

        self._check_file(create=create)
        return open_store(self.store_url, create=create)

    def overview(self) -> "Overview":
        """Opens what `status` of all campaigns needs of the store, which is there in a fraction of the time.

        Raises:
            NotThere: there is no store yet.
        """
        from memory.overview import open_overview

        self._check_file(create=False)
        return open_overview(self.store_url)

    def _check_file(self, *, create: bool) -> None:
        if self.store_url.startswith("sqlite:///"):
            path = Path(self.store_url.removeprefix("sqlite:///"))
            if create:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise ConfigError(f"cannot create {path.parent}: {error.strerror}") from error
            elif not path.exists():
                raise NotThere(
                    f"there is no experiment memory at {path} yet. `move37 run` starts a campaign; "
                    f"--runs-dir or {RUNS_VARIABLE} points at another place."
                )

    def _brought_path(self, campaign_id: str) -> Path:
        return self.runs / "imported" / campaign_id

    def mark_brought(self, campaign_id: str) -> None:
        """Remembers that a campaign came from elsewhere. See `move37.brought`.

        Raises:
            ConfigError: the runs directory cannot be written.
        """
        path = self._brought_path(campaign_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise ConfigError(f"cannot write in {self.runs}: {error.strerror}. Choose another --runs-dir.") from error

    def is_brought(self, campaign_id: str) -> bool:
        """Whether a campaign came from elsewhere, and nobody has trusted it."""
        return self._brought_path(campaign_id).exists()

    def trust(self, campaign_id: str) -> None:
        """The user vouches for a campaign that came from elsewhere."""
        self._brought_path(campaign_id).unlink(missing_ok=True)

    def _lock_path(self, campaign_id: str) -> Path:
        return self.runs / "locks" / f"{campaign_id}.lock"

    @contextmanager
    def hold(self, campaign_id: str, name: str) -> Iterator[None]:
        """Holds the campaign for this process.

        Raises:
            CampaignBusy: another live process holds it.
        """
        path = self._lock_path(campaign_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write in {self.runs}: {error.strerror}. Choose another --runs-dir.") from error
        try:
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                owner = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
                raise CampaignBusy(
                    f"campaign '{name}' is running in process {owner}. Watch it with `move37 status {name}`, "
                    "or stop that process first."
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_held(self, campaign_id: str) -> bool:
        """Whether a live process runs the campaign."""
        try:
            descriptor = os.open(self._lock_path(campaign_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except PermissionError:  # somebody else's runs: the file is there, more cannot be said
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _lock(descriptor: int) -> None:
    """Takes the lock; tries for a moment, because `status` looks at it with a shared lock of some microseconds."""
    for _ in range(4):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
