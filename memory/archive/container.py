"""Reading a zip file that somebody else made.

Notable: nothing is ever unpacked to disk, and no name in the file is used as a path; sizes are capped by what is
actually inflated, row by row; every checksum is compared before the first row is looked at.
"""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from memory.archive import manifest as manifests
from memory.archive.errors import ArchiveDamaged, ArchiveUnreadable, ArchiveVersion
from memory.archive.manifest import Manifest
from memory.archive.membership import TABLES
from memory.revision import HEAD_REVISION

_PROGRAM = re.compile(r"programs/([0-9a-f]{64})\.py")
_PARQUET = re.compile(r"tables/[a-z_]+\.parquet")
_CHUNK = 2**20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What an archive may inflate to, in bytes."""

    total: int = 16 * 2**30
    row: int = 64 * 2**20
    program: int = 64 * 2**20


class Container:
    """An open archive; once checked, its content is what its manifest says."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, limits: Limits) -> None:
        self.path = path
        self._archive = archive
        self._limits = limits
        self._streams: list[BinaryIO] = []
        self.manifest: Manifest
        self.programs: set[str]

    def lines(self, table: str) -> Iterator[bytes]:
        """The rows of a table, as they are written.

        Raises:
            ArchiveUnreadable: a row is larger than the limit, or the file breaks off.
        """
        name = _file(table)
        with self._open(name) as stream, self._translated(name):
            number = 0
            while line := stream.readline(self._limits.row + 1):
                number += 1
                if len(line) > self._limits.row:
                    raise ArchiveUnreadable(
                        self.path, f"table {table}, row {number} is larger than {self._limits.row:,} bytes"
                    )
                yield line

    def check(self) -> None:
        """Read the manifest and compare everything with it; raises as `opened`."""
        self._check_directory()
        self.manifest = self._manifest()
        self._check_names()
        self.programs = self._check_content()

    def close(self) -> None:
        """Close what an error left open."""
        for stream in self._streams:
            stream.close()

    def _check_directory(self) -> None:
        entries = self._archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise ArchiveUnreadable(self.path, "it holds two files of one name")
        total = sum(entry.file_size for entry in entries)
        if total > self._limits.total:
            raise ArchiveUnreadable(
                self.path,
                f"it would inflate to {total:,} bytes; at most {self._limits.total:,} are read. If you trust it, raise "
                "the limit with --max-gib",
            )
        for entry in entries:
            if entry.flag_bits & 1:
                raise ArchiveUnreadable(self.path, "it is encrypted. Decrypt it first")

    def _manifest(self) -> Manifest:
        if manifests.NAME not in self._archive.namelist():
            raise ArchiveUnreadable(
                self.path, "this is a zip file, but no archive of Move37: it has no manifest.json. Name another file"
            )
        try:
            header = manifests.header(self._read(manifests.NAME, manifests.MAX_BYTES))
            written_by = header.get("written_by")
            if header.get("version") != manifests.VERSION:
                raise ArchiveVersion(
                    self.path,
                    f"it has version {header.get('version')!r} of the format and this Move37 reads version "
                    f"{manifests.VERSION}. Use the Move37 that wrote it ({written_by}), or a newer one",
                )
            found = manifests.parse(header)
        except manifests.BadManifest as error:
            raise ArchiveDamaged(self.path, f"{error}. Export the campaign again") from error
        self._check_revision(found)
        return found

    def _check_revision(self, found: Manifest) -> None:
        if found.schema_revision > HEAD_REVISION:
            raise ArchiveVersion(
                self.path,
                f"its rows are of schema revision {found.schema_revision} and this Move37 knows revisions up to "
                f"{HEAD_REVISION}. Use the Move37 that wrote it ({found.written_by}), or a newer one",
            )
        if found.schema_revision < HEAD_REVISION:
            raise ArchiveVersion(
                self.path,
                f"its rows are of schema revision {found.schema_revision} and this Move37 reads {HEAD_REVISION}. "
                f"Import it with the Move37 that wrote it ({found.written_by}), open that store with this one, which "
                "upgrades it, and export again",
            )

    def _check_names(self) -> None:
        """Exactly the files that the manifest lists, the programs, and the manifest."""
        names = set(self._archive.namelist())
        listed = set(self.manifest.files)
        for name in sorted(names - listed - {manifests.NAME}):
            if not _PROGRAM.fullmatch(name):
                raise ArchiveDamaged(self.path, f"it holds a file that does not belong there: {name[:80]!r}")
        for table in TABLES:
            if _file(table) not in names & listed:
                raise ArchiveDamaged(self.path, f"the table {table} is missing ({_file(table)})")
        for name in sorted(listed):
            if name not in names:
                raise ArchiveDamaged(self.path, f"{name[:80]!r} is in the manifest and not in the file")
            if name not in map(_file, TABLES) and not _PARQUET.fullmatch(name):
                raise ArchiveDamaged(self.path, f"the manifest names a file of an unknown kind: {name[:80]!r}")

    def _check_content(self) -> set[str]:
        """Compares every checksum and count; the hashes of the programs."""
        for name, expected in self.manifest.files.items():
            digest, size, lines = self._digest(name, self._limits.total)
            if size != expected.bytes or digest != expected.sha256:
                raise ArchiveDamaged(self.path, f"{name} is not what the manifest says: its checksum differs")
            if name.endswith(".jsonl") and lines != expected.rows:
                raise ArchiveDamaged(self.path, f"{name} has {lines} rows; the manifest says {expected.rows}")
        programs = {found[1] for name in self._archive.namelist() if (found := _PROGRAM.fullmatch(name))}
        for key in sorted(programs):
            if self._digest(f"programs/{key}.py", self._limits.program)[0] != key:
                raise ArchiveDamaged(self.path, f"programs/{key}.py is another program than its name says")
        if len(programs) != self.manifest.programs:
            raise ArchiveDamaged(
                self.path, f"it holds {len(programs)} programs; the manifest says {self.manifest.programs}"
            )
        return programs

    def _digest(self, name: str, limit: int) -> tuple[str, int, int]:
        """SHA-256, bytes and lines of a file."""
        digest, size, lines = hashlib.sha256(), 0, 0
        with self._open(name) as stream, self._translated(name):
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                lines += chunk.count(b"\n")
                if size > limit:
                    raise ArchiveUnreadable(self.path, f"{name} is larger than {limit:,} bytes")
                digest.update(chunk)
        return digest.hexdigest(), size, lines

    def _read(self, name: str, limit: int) -> bytes:
        with self._open(name) as stream, self._translated(name):
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise ArchiveUnreadable(self.path, f"{name} is larger than {limit:,} bytes")
        return data

    def _open(self, name: str) -> BinaryIO:
        with self._translated(name):
            stream = io.BufferedReader(cast(io.RawIOBase, self._archive.open(name)), _CHUNK)
        self._streams = [*(one for one in self._streams if not one.closed), stream]
        return stream

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise ArchiveUnreadable(
                self.path, f"{name} cannot be read ({error or type(error).__name__}): truncated or damaged"
            ) from error


def _file(table: str) -> str:
    return f"tables/{table}.jsonl"


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Container]:
    """The archive at `path`, checked.

    Raises:
        ArchiveUnreadable: no zip file, truncated, encrypted, too large, or not one of ours.
        ArchiveVersion: of another format or schema.
        ArchiveDamaged: something is missing, added or changed.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ArchiveUnreadable(path, f"it cannot be read ({error.strerror or error}). Name another file") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ArchiveUnreadable(
            path, f"this is no archive, or one that was cut off ({error}). Name another file, or fetch it again"
        ) from error
    with archive, closing(Container(path, archive, limits)) as container:
        container.check()
        yield container
