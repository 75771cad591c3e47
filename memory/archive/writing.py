"""Export: one consistent view of a campaign, streamed into a zip file.

Notable: the same state of the store gives the same bytes (fixed times in the zip, rows in the order of their keys,
numbers that the database counts up renumbered from 1), on every database. The file appears whole or not at all.
Not covered: what is not in the database (the knowledge base, checkpoints, which can be made again, and locks).
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from memory import campaigns
from memory.archive import parquet
from memory.archive.encoding import encode
from memory.archive.errors import ArchiveUnwritable
from memory.archive.manifest import NAME, CampaignEntry, FileEntry, Manifest, Requirement
from memory.archive.membership import TABLES, Membership, in_order, is_owned, numbered
from memory.columns import Moment
from memory.database import Database
from memory.records import Campaign
from memory.revision import HEAD_REVISION

if TYPE_CHECKING:
    from memory.store import Store

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say
_BATCH = 500

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Exported:
    """What an export wrote. `requires` names the campaigns that an import has to find in its store."""

    path: Path
    bytes: int
    sha256: str
    campaign: Campaign
    campaigns: list[str]
    requires: list[str]
    rows: dict[str, int]
    programs: int


def export_from(
    store: "Store",
    campaign: str,
    path: Path,
    *,
    written_by: str,
    with_origins: bool = False,
    with_parquet: bool = True,
    on_progress: Progress | None = None,
) -> Exported:
    """`export_campaign` for whoever holds a store."""
    return export_campaign(
        store._database,
        campaign,
        path,
        written_by=written_by,
        with_origins=with_origins,
        with_parquet=with_parquet,
        on_progress=on_progress,
    )


def export_campaign(
    database: Database,
    campaign: str,
    path: Path,
    *,
    written_by: str,
    with_origins: bool = False,
    with_parquet: bool = True,
    on_progress: Progress | None = None,
) -> Exported:
    """Write the campaign of this name or id to `path`, replacing a file that is there.

    Args:
        written_by: the version that the archive shall name.
        with_origins: include the campaigns that it refers to (what it was forked from), and theirs.
        with_parquet: add Parquet files of experiments and trials for analysis; they are not read on import.
        on_progress: told the table and how many of its rows were written so far.

    Raises:
        NotFound: no such campaign.
        ArchiveUnwritable: the file cannot be written; nothing is left of it.
        ParquetUnavailable: pyarrow is not installed.
        StoreUnavailable: as every method of the store.
    """
    if with_parquet:
        parquet.library(path)
    with database.read() as session:
        if not database.is_sqlite:  # one view for all the queries; on SQLite every transaction is one
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        found = campaigns.find(session, campaign)
        with _whole(path) as archive:
            exporter = _Exporter(session, archive, on_progress)
            manifest = exporter.write(found, written_by, with_origins=with_origins, with_parquet=with_parquet)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = {_table_of(name): entry.rows for name, entry in manifest.files.items() if name.endswith(".jsonl")}
    return Exported(
        path=path,
        bytes=path.stat().st_size,
        sha256=digest,
        campaign=found,
        campaigns=[one.name for one in manifest.campaigns],
        requires=[one.name for one in manifest.requires],
        rows=rows,
        programs=manifest.programs,
    )


def _table_of(name: str) -> str:
    return name.removeprefix("tables/").removesuffix(".jsonl")


@contextmanager
def rows_of(session: Session, table: Table, membership: Membership) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows of a table that belong, streamed in order, with their numbers counted anew."""
    order = in_order(table, session.connection().dialect)
    query = select(table).where(membership.condition(table)).order_by(*order)
    counted = numbered(table)
    with session.execute(query.execution_options(yield_per=_BATCH)) as stream:
        numbered_rows = enumerate(stream.mappings(), start=1)
        yield (dict(row) if counted is None else {**row, counted.name: place} for place, row in numbered_rows)


class _Exporter:
    """One export in progress."""

    def __init__(self, session: Session, archive: zipfile.ZipFile, on_progress: Progress | None) -> None:
        self._session = session
        self._archive = archive
        self._on_progress = on_progress or (lambda table, rows: None)
        self._files: dict[str, FileEntry] = {}
        self._newest: datetime | None = None

    def write(self, campaign: Campaign, written_by: str, *, with_origins: bool, with_parquet: bool) -> Manifest:
        membership, requires = self._closure(campaign.id, with_origins=with_origins)
        for table in TABLES.values():
            self._table(table, membership)
        programs = self._programs(membership)
        if with_parquet:
            for name, data, rows in parquet.files(self._session, membership):
                self._archive.writestr(_entry(name), data)
                self._files[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data), rows)
        manifest = Manifest(
            schema_revision=HEAD_REVISION,
            written_by=written_by,
            campaign=CampaignEntry(campaign.id, campaign.name),
            campaigns=[CampaignEntry(key, self._name(key)) for key in membership.campaign_ids],
            requires=requires,
            as_of=None if self._newest is None else self._newest.astimezone(UTC).isoformat(),
            files=dict(sorted(self._files.items())),
            programs=programs,
        )
        self._archive.writestr(_entry(NAME), manifest.text())
        return manifest

    def _closure(self, campaign_id: str, *, with_origins: bool) -> tuple[Membership, list[Requirement]]:
        """The campaigns to write, and what they need of others."""
        wanted = {campaign_id}
        while True:
            membership = Membership(wanted)
            outside = membership.outside(self._session)
            others = {one.campaign_id for one in outside}
            if not with_origins or not others:
                break
            wanted |= others
        requires = [
            Requirement(
                other, self._name(other), {one.table: list(one.keys) for one in outside if one.campaign_id == other}
            )
            for other in sorted(others)
        ]
        return membership, requires

    def _name(self, campaign_id: str) -> str:
        return campaigns.find(self._session, campaign_id).name

    def _table(self, table: Table, membership: Membership) -> None:
        name = f"tables/{table.name}.jsonl"
        digest, size, count = hashlib.sha256(), 0, 0
        times = [c.name for c in table.columns if isinstance(c.type, Moment)] if is_owned(table) else []
        with (
            rows_of(self._session, table, membership) as rows,
            self._archive.open(_entry(name), "w", force_zip64=True) as out,
        ):
            for row in rows:
                line = encode(table, row)
                out.write(line)
                digest.update(line)
                size += len(line)
                count += 1
                moments = [row[column] for column in times if row[column] is not None]
                self._newest = max([*moments, *([self._newest] if self._newest else [])], default=None)
                if count % _BATCH == 0:
                    self._on_progress(table.name, count)
        self._files[name] = FileEntry(digest.hexdigest(), size, count)
        self._on_progress(table.name, count)

    def _programs(self, membership: Membership) -> int:
        count = 0
        with rows_of(self._session, TABLES["programs"], membership) as rows:
            for row in rows:
                self._archive.writestr(_entry(f"programs/{row['sha256']}.py"), row["source"].encode())
                count += 1
        return count


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, wherever it is written
    entry.external_attr = 0o644 << 16
    return entry


@contextmanager
def _whole(path: Path) -> Iterator[zipfile.ZipFile]:
    """A new zip file that takes its name once it is complete."""
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                yield archive
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        Path(draft).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ArchiveUnwritable:
    return ArchiveUnwritable(path, f"it cannot be written ({error.strerror}). Name another place with --out")
