"""ASI-Arch's published lineage as a read-only campaign (arXiv 2507.18074; memory/archive/listing.py reads its files).

Notable: everything is checked before anything is written; the tree decides, the gallery adds programs, motivations,
summaries and results to some of its nodes. Scores stay on their own scale, which the objective states.
Not covered: measuring any of it again. Nodes without a published program are known by their score alone.
"""

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memory.archive.errors import CampaignDiffers
from memory.archive.inserting import Inserter, Progress, Row
from memory.archive.listing import KIND, Listing, Node, figures, read
from memory.archive.membership import TABLES
from memory.archive.reading import Imported
from memory.campaigns import is_name
from memory.columns import json_text
from memory.database import Database
from memory.errors import ValueRefused
from memory.identity import l0, literal_hash
from memory.models import CampaignRow, ProgramRow

if TYPE_CHECKING:
    from memory.store import Store

_TIER = "published"
_OBJECTIVE = {
    "published": "ASI-Arch",
    "source": "arXiv 2507.18074",
    "track": "sequence",
    "scale": "the fitness that its authors published, higher is better; no measurement of ours, comparable with none",
}
_RESULT_OBJECTIVE = {
    "published": "ASI-Arch",
    "what": "the results beside a gallery entry, from another run than its score",
}


def import_into(
    store: "Store", tree: Path, gallery: Path | None = None, *, name: str = KIND, on_progress: Progress | None = None
) -> Imported:
    """Bring a published lineage into the store: see `import_lineage`."""
    return import_lineage(store._database, store._clock, tree, gallery, name=name, on_progress=on_progress)


def import_lineage(
    database: Database,
    clock: Callable[[], datetime],
    tree: Path,
    gallery: Path | None = None,
    *,
    name: str = KIND,
    on_progress: Progress | None = None,
) -> Imported:
    """Store the lineage of `tree`, with what `gallery` adds, as the campaign `name`: one transaction.

    Importing the same files again changes nothing.

    Raises:
        ListingInvalid: a file is not what it should be; names the node.
        CampaignDiffers: a campaign of this name came from elsewhere.
        ValueRefused: `name` is no campaign name.
        StoreUnavailable: as every method of the store.
    """
    if not is_name(name):
        raise ValueRefused(f"campaign name {name!r}", "it has to be 1 to 80 of letters, digits, '.', '_' and '-'")
    listing = read(tree, gallery)
    with database.write() as session:
        stored = session.scalars(select(CampaignRow).where(CampaignRow.name == name)).one_or_none()
        if stored is not None:
            if stored.origin != listing.origin:
                raise CampaignDiffers(tree, name, "it was not made of these files; --name imports under another name")
            return Imported(stored.id, name, [name], [name], warnings=listing.warnings)
        rows = _Rows(name, clock(), listing)
        inserter = Inserter(session, tree, on_progress)
        counts = inserter.insert(rows.tables(_programs_of(session, listing)))
    return Imported(rows.campaign_id, name, [name], [], counts, warnings=listing.warnings)


def _programs_of(session: Session, listing: Listing) -> set[str]:
    """Which of the programs the store has already."""
    wanted = {_sha256(entry.program) for entry in listing.gallery.values() if entry.program is not None}
    return set(session.scalars(select(ProgramRow.sha256).where(ProgramRow.sha256.in_(wanted))))


class _Rows:
    """The rows of the campaign."""

    def __init__(self, name: str, now: datetime, listing: Listing) -> None:
        self._name = name
        self._now = now
        self._listing = listing
        self.campaign_id = f"c-{_digest([name, listing.origin])[:8]}"

    def tables(self, known_programs: set[str]) -> dict[str, list[Row]]:
        """Everything to insert, but for programs that are there."""
        given = {
            "campaigns": iter([self._campaign()]),
            "programs": self._programs(known_programs),
            "experiments": map(self._experiment, self._listing.nodes.values()),
            "identities": self._identities(),
            "analyses": self._analyses(),
            "trials": self._trials(),
        }
        return {
            table: [
                Row(number, dict.fromkeys(TABLES[table].columns.keys()) | values)
                for number, values in enumerate(rows, start=1)
            ]
            for table, rows in given.items()
        }

    def _id(self, index: int) -> str:
        return f"{self._name}-{index:04d}"

    def _campaign(self) -> dict[str, Any]:
        origin = self._listing.origin
        config = {"imported": KIND, "experiments": len(self._listing.nodes)}
        return {
            "id": self.campaign_id,
            "name": self._name,
            "state": "finished",
            "config": config,
            "config_hash": _digest(config),
            "objective": _OBJECTIVE,
            "objective_hash": _digest(_OBJECTIVE),
            "seed": 0,
            "announcements": [f"imported from {origin['file']}: scores are as published, on a scale of their own"],
            "stopped_because": "imported",
            "arms": [KIND],
            "origin": origin,
            "read_only": True,
            "created_at": self._now,
            "finished_at": self._now,
        }

    def _experiment(self, node: Node) -> dict[str, Any]:
        entry = self._listing.gallery.get(node.index)
        published = {"index": node.index, "name": node.name}
        hypothesis = {"change": node.name}
        if entry is not None and entry.motivation is not None:
            hypothesis["mechanism"] = entry.motivation
        if entry is not None and entry.parameters is not None:
            published["parameters"] = entry.parameters
        return {
            "id": self._id(node.index),
            "campaign_id": self.campaign_id,
            "index": node.index,
            "arm": KIND,
            "kind": "starter" if node.parent is None else "proposal",
            "track": "sequence",
            "tier": _TIER,
            "status": "failed" if node.score is None else "completed",
            "reason": "no_score" if node.score is None else "",
            "message": "no score was published" if node.score is None else "",
            "parent_id": None if node.parent is None else self._id(node.parent),
            "exemplar_ids": [],
            "selection": {"strategy": _TIER},
            "selected_at": self._now,
            "name": node.title,
            "hypothesis": hypothesis,
            "program_sha256": None if entry is None or entry.program is None else _sha256(entry.program),
            "score": node.score,
            "environment": {"published": published},
            "created_at": self._now,
            "finished_at": self._now,
        }

    def _programs(self, known: set[str]) -> Iterator[dict[str, Any]]:
        seen = set(known)
        for _, source in self._sources():
            key = _sha256(source)
            if key not in seen:
                seen.add(key)
                yield {
                    "sha256": key,
                    "source": source,
                    "n_lines": len(source.splitlines()),
                    "l0": l0(source),
                    "literal_hash": literal_hash(source),
                    "created_at": self._now,
                }

    def _identities(self) -> Iterator[dict[str, Any]]:
        """The first of equal programs holds the identity, as in a campaign of ours."""
        held: set[str] = set()
        for index, source in self._sources():
            key = l0(source)
            if key not in held:
                held.add(key)
                yield {
                    "campaign_id": self.campaign_id,
                    "level": "L0",
                    "key": key,
                    "experiment_id": self._id(index),
                    "created_at": self._now,
                }

    def _sources(self) -> Iterator[tuple[int, str]]:
        for index, entry in self._listing.gallery.items():
            if entry.program is not None:
                yield index, entry.program

    def _analyses(self) -> Iterator[dict[str, Any]]:
        for index, entry in self._listing.gallery.items():
            if entry.summary is not None:
                body = {"summary": entry.summary, "published": True}
                yield {"experiment_id": self._id(index), "body": body, "created_at": self._now}

    def _trials(self) -> Iterator[dict[str, Any]]:
        for index, entry in self._listing.gallery.items():
            for kind, text in entry.results.items():
                metrics, missing = figures(text, self._listing.nodes[index].name)
                without = f"; none for {', '.join(missing)}" if missing else ""
                yield {
                    "id": f"{self._id(index)}/{kind}/{_TIER}/0/selection",
                    "experiment_id": self._id(index),
                    "task": kind,
                    "tier": _TIER,
                    "seed": 0,
                    "data": "selection",
                    "objective_hash": _digest(_RESULT_OBJECTIVE),
                    "state": "completed",
                    "reason": _TIER,
                    "message": f"{len(metrics)} figures as published{without}",
                    "metrics": metrics,
                    "curve": [],
                    "log": text,
                    "tries": 1,
                    "device_s": 0.0,
                    "environment": {},
                    "started_at": self._now,
                    "finished_at": self._now,
                }


def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()
