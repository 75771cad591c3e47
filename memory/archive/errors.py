"""Errors of archives and of imported listings. Each says which file, table and row, what is wrong, and what to do.

MemoryStoreError
└── ArchiveError                 nothing was stored, and nothing half-written is left
    ├── ArchiveUnwritable        the file cannot be written
    ├── ParquetUnavailable       the library that writes Parquet is not installed
    ├── ArchiveUnreadable        no archive, truncated, encrypted, or larger than the limits
    ├── ArchiveVersion           another format, or the schema of another Move37
    ├── ArchiveDamaged           its content is not what its manifest says
    ├── RowInvalid               a row that cannot be stored: names table and row
    ├── OriginMissing            it builds on a campaign that this store lacks
    ├── CampaignDiffers          a campaign of this id or name is there, with other content
    └── ListingInvalid           a published lineage that cannot be a lineage: names the node
"""

from pathlib import Path

from memory.errors import MemoryStoreError


class ArchiveError(MemoryStoreError):
    """Base class. `file` is the archive or listing."""

    def __init__(self, file: Path | str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file = str(file)
        self.why = why


class ArchiveUnwritable(ArchiveError):
    """The archive cannot be written to its place."""


class ParquetUnavailable(ArchiveError):
    """pyarrow is not installed."""

    def __init__(self, file: Path | str) -> None:
        super().__init__(file, "its Parquet files need pyarrow. pip install pyarrow, or export with --no-parquet")


class ArchiveUnreadable(ArchiveError):
    """This is no archive, or one that cannot be read."""


class ArchiveVersion(ArchiveError):
    """Written in a format, or for a schema, that this version does not read."""


class ArchiveDamaged(ArchiveError):
    """The content is not what the manifest promises."""


class RowInvalid(ArchiveError):
    """A row that cannot be stored. `row` counts from 1."""

    def __init__(self, file: Path | str, table: str, row: int, why: str) -> None:
        super().__init__(file, f"table {table}, row {row}: {why}")
        self.table = table
        self.row = row


class OriginMissing(ArchiveError):
    """The archive's campaign refers to rows of another campaign, which the store lacks."""

    def __init__(self, file: Path | str, campaign_id: str, name: str, key: str) -> None:
        super().__init__(
            file,
            f"it builds on {key} of the campaign '{name}' ({campaign_id}), which this store does not hold. Import that "
            "campaign first, or export this one with --with-origins",
        )
        self.campaign_id = campaign_id
        self.name = name


class CampaignDiffers(ArchiveError):
    """A campaign of this id or name is in the store already, and is not the same."""

    def __init__(self, file: Path | str, name: str, why: str) -> None:
        super().__init__(file, f"the campaign '{name}' is in this store already, and {why}. Import into another store")
        self.name = name


class ListingInvalid(ArchiveError):
    """A published lineage that cannot be one. `where` names the entry."""

    def __init__(self, file: Path | str, where: str, why: str) -> None:
        super().__init__(file, f"{where}: {why}")
        self.where = where
