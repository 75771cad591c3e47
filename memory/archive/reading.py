"""Import: an archive into a store, in one transaction, after everything in it was checked.

Notable: every owned row has to lead to a campaign of the archive, so that an archive cannot add to what is there;
shared rows (programs, their keys, vectors) that the store has already stay as they are; numbers that the database
counts up are given anew, in the same order.
Not covered: renaming a campaign on the way in. Ids of experiments, trials and lessons are made of its name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Float, Table, select, tuple_
from sqlalchemy.orm import Session

from memory.archive.container import Container, Limits, opened
from memory.archive.encoding import BadValue, decode, encode
from memory.archive.errors import ArchiveDamaged, CampaignDiffers, OriginMissing, RowInvalid
from memory.archive.inserting import Inserter, Progress, Row
from memory.archive.membership import ROOT, TABLES, Membership, is_owned, key_columns, numbered, owner, target
from memory.archive.writing import rows_of
from memory.campaigns import is_id, is_name
from memory.columns import Moment
from memory.database import Database
from memory.models import CampaignRow

if TYPE_CHECKING:
    from memory.store import Store

_BATCH = 500
_MEASURED = (Moment, DateTime, Float)  # what differs when the same is found out twice


@dataclass(frozen=True)
class Imported:
    """What an import did. `already_there` names campaigns that the store held before, equal in every row.

    `rows` counts what was inserted. `kept` counts shared rows whose key the store had with another content: the
    store's stayed.
    """

    campaign_id: str
    name: str
    campaigns: list[str]
    already_there: list[str]
    rows: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    warnings: list[str] = field(default_factory=list)


def import_into(
    store: "Store",
    path: Path,
    *,
    limits: Limits | None = None,
    on_progress: Progress | None = None,
    on_new: Callable[[str], None] | None = None,
) -> Imported:
    """`import_campaign` for whoever holds a store."""
    return import_campaign(store._database, path, limits=limits, on_progress=on_progress, on_new=on_new)


def import_campaign(
    database: Database,
    path: Path,
    *,
    limits: Limits | None = None,
    on_progress: Progress | None = None,
    on_new: Callable[[str], None] | None = None,
) -> Imported:
    """Bring the campaigns of an archive into the store, all or nothing.

    `on_new` gets the id of every campaign that the store did not hold, before anybody can see it there; if it raises,
    nothing is imported.

    Raises:
        ArchiveUnreadable, ArchiveVersion, ArchiveDamaged: the file is not what it should be.
        RowInvalid: a row that cannot be stored, or points at nothing.
        OriginMissing: the campaign builds on another one, which is neither in the archive nor in the store.
        CampaignDiffers: the store has a campaign of this id or name, and it is not the same.
        StoreUnavailable: as every method of the store.
    """
    with opened(path, limits or Limits()) as container, database.write() as session:
        return _Importer(session, container, on_progress).run(on_new)


class _Importer:
    """One import in progress."""

    def __init__(self, session: Session, container: Container, on_progress: Progress | None) -> None:
        self._session = session
        self._container = container
        self._path = container.path
        self._on_progress = on_progress
        self._kept = 0
        self._campaign_of: dict[str, dict[str, str]] = {}

    def run(self, on_new: Callable[[str], None] | None) -> Imported:
        manifest = self._container.manifest
        self._index_owners()
        there = self._already_there()
        self._check_requirements()
        inserter = Inserter(self._session, self._path, self._on_progress)
        counts = inserter.insert({name: self._new_rows(table, there) for name, table in TABLES.items()})
        names = {one.id: one.name for one in manifest.campaigns}
        for new in sorted(names.keys() - there):
            if on_new is not None:
                on_new(new)
        return Imported(
            campaign_id=manifest.campaign.id,
            name=manifest.campaign.name,
            campaigns=[one.name for one in manifest.campaigns],
            already_there=[names[key] for key in sorted(there)],
            rows=counts,
            kept=self._kept,
        )

    def _rows(self, table: Table) -> Iterator[Row]:
        for number, line in enumerate(self._container.lines(table.name), start=1):
            with self._bad(table, number):
                yield Row(number, decode(table, line))

    @contextmanager
    def _bad(self, table: Table, number: int) -> Iterator[None]:
        try:
            yield
        except BadValue as error:
            raise RowInvalid(self._path, table.name, number, str(error)) from error

    def _index_owners(self) -> None:
        """Which campaign every row that others belong to is of."""
        listed = {one.id: one.name for one in self._container.manifest.campaigns}
        found = {row.values["id"]: row.values["name"] for row in map(self._named, self._rows(TABLES[ROOT]))}
        if found != listed:
            raise ArchiveDamaged(self._path, "the manifest lists other campaigns than the table of campaigns")
        self._campaign_of[ROOT] = {key: key for key in found}
        owning = {target(column).name for table in TABLES.values() if (column := owner(table)) is not None}
        for name in sorted(owning - {ROOT}):
            if is_owned(TABLES[name]):
                self._index(TABLES[name])

    def _named(self, row: Row) -> Row:
        """The campaign's row, if its id and name are such as this store gives: both become names of files."""
        for column, sound in (("id", is_id), ("name", is_name)):
            if not sound(row.values[column]):
                why = f"{column} {row.values[column][:80]!r} is none that a campaign can have"
                raise RowInvalid(self._path, ROOT, row.number, why)
        return row

    def _index(self, table: Table) -> None:
        [key] = key_columns(table)
        self._campaign_of[table.name] = {row.values[key.name]: self._campaign(table, row) for row in self._rows(table)}

    def _campaign(self, table: Table, row: Row) -> str:
        """The campaign of an owned row."""
        column = owner(table)
        if column is None:
            return str(row.values["id"])
        above = target(column)
        if above.name not in self._campaign_of:
            self._index(above)
        key = row.values[column.name]
        campaign = self._campaign_of[above.name].get(key)
        if campaign is None:
            raise RowInvalid(
                self._path, table.name, row.number, f"{column.name} is {key!r}, which is not in the archive"
            )
        return campaign

    def _already_there(self) -> set[str]:
        """The campaigns that the store has, each compared row by row."""
        there: set[str] = set()
        for entry in self._container.manifest.campaigns:
            stored = self._session.get(CampaignRow, entry.id)
            named = self._session.execute(select(TABLES[ROOT].c.id).where(TABLES[ROOT].c.name == entry.name)).scalar()
            if named is not None and named != entry.id:
                raise CampaignDiffers(self._path, entry.name, f"it is another one of that name ({named})")
            if stored is not None:
                self._compare(entry.id, entry.name)
                there.add(entry.id)
        return there

    def _compare(self, campaign_id: str, name: str) -> None:
        membership = Membership({campaign_id})
        for table in filter(is_owned, TABLES.values()):
            with rows_of(self._session, table, membership) as stored:
                ours = (encode(table, row) for row in stored)
                theirs = self._renumbered(table, campaign_id)
                if any(mine != other for mine, other in zip_longest(ours, theirs)):
                    raise CampaignDiffers(self._path, name, f"its rows of {table.name} are not those of the archive")

    def _renumbered(self, table: Table, campaign_id: str) -> Iterator[bytes]:
        """The archive's rows of one campaign, as an archive of it alone would have them."""
        counted = numbered(table)
        position = 0
        for row in self._rows(table):
            if self._campaign(table, row) == campaign_id:
                position += 1
                changed = {} if counted is None else {counted.name: position}
                yield encode(table, row.values | changed)

    def _check_requirements(self) -> None:
        for requirement in self._container.manifest.requires:
            for name, keys in requirement.rows.items():
                if name not in TABLES:
                    raise ArchiveDamaged(self._path, f"the manifest requires rows of an unknown table: {name[:80]!r}")
                [key] = key_columns(TABLES[name])
                for wanted in keys:
                    if self._session.execute(select(key).where(key == wanted)).first() is None:
                        raise OriginMissing(self._path, requirement.id, requirement.name, wanted)

    def _new_rows(self, table: Table, there: set[str]) -> Iterator[Row]:
        """What has to be inserted of a table."""
        if is_owned(table):
            yield from (row for row in self._rows(table) if self._campaign(table, row) not in there)
            return
        rows = self._rows(table)
        while batch := list(islice(rows, _BATCH)):
            known = self._known(table, batch)
            for row in batch:
                if table.name == "programs":
                    self._check_program(row)
                stored = known.get(_key(table, row.values))
                if stored is None:
                    yield row
                elif _content(table, stored) != _content(table, row.values):
                    self._kept += 1

    def _known(self, table: Table, batch: list[Row]) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The store's rows of these keys."""
        wanted = tuple_(*key_columns(table)).in_([_key(table, row.values) for row in batch])
        found = self._session.execute(select(table).where(wanted)).mappings()
        return {_key(table, stored): dict(stored) for stored in found}

    def _check_program(self, row: Row) -> None:
        """That the row and the file of a program are the program that its hash names."""
        source, key = row.values["source"], row.values["sha256"]
        try:
            data = source.encode()
        except UnicodeEncodeError as error:
            why = f"the program holds a lone surrogate at character {error.start}"
            raise RowInvalid(self._path, "programs", row.number, why) from error
        if "\x00" in source:
            why = f"the program holds NUL at character {source.index(chr(0))}"
        elif sha256(data).hexdigest() != key:
            why = f"the program's hash is not {key}"
        elif key not in self._container.programs:
            why = f"programs/{key}.py is missing"
        else:
            return
        raise RowInvalid(self._path, "programs", row.number, why)


def _key(table: Table, values: Any) -> tuple[Any, ...]:
    return tuple(values[column.name] for column in key_columns(table))


def _content(table: Table, values: dict[str, Any]) -> dict[str, Any]:
    return {column.name: values[column.name] for column in table.columns if not isinstance(column.type, _MEASURED)}
