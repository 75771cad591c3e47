"""Two programs side by side: `move37 diff`. Each is an experiment of the store or a file.

Notable: an experiment may have no program (an imported one, one whose model wrote none) and a program may not parse;
then the part that cannot be had is left out and says why, and the rest stands. Texts beyond `MAX_LINES` are not
compared line by line, since that takes time that grows with the square of their length.
Not covered: what is compared (`memory.structural_diff`, `move37.tracing`), drawing (`move37.report.difference`).
"""

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memory.records import Experiment
from memory.store import Store
from memory.structural_diff import Change, compare
from memory.structure import Component, Unreadable, components
from move37 import views
from move37.errors import ConfigError, NotThere
from move37.tracing import Tracer

MAX_LINES = 20_000


@dataclass(frozen=True)
class Side:
    """One of the two: `source` is None where there is no program, `missing` then says so."""

    label: str
    experiment: Experiment | None
    source: str | None
    missing: str | None

    def as_dict(self) -> dict[str, Any]:
        """As in the JSON interface."""
        one = self.experiment
        return {
            "label": self.label,
            "experiment": views.node(one) if one else None,
            "score": one.score if one else None,
            "has_program": self.source is not None,
            "missing": self.missing,
        }


def file_side(path: Path) -> Side:
    """A program in a file.

    Raises:
        ConfigError: it cannot be read, or is not text in UTF-8.
    """
    try:
        return Side(str(path), None, path.read_text(encoding="utf-8"), None)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}: is it a program?") from error


def experiment_side(store: Store, experiment_id: str) -> Side:
    """The program of an experiment.

    Raises:
        NotThere: there is no such experiment.
    """
    one = views.find_experiment(store, experiment_id)
    if one is None:
        raise NotThere(
            f"there is no experiment '{experiment_id}', and no file of that name. `move37 lineage` lists the ids."
        )
    if one.program_sha256 is None:
        return Side(one.id, one, None, f"no program stored for {one.id} ({one.status})")
    return Side(one.id, one, store.program(one.program_sha256).source, None)


def difference(
    store: Store | None, before: Side, after: Side, *, structural: bool = True, textual: bool = True
) -> dict[str, Any]:
    """`move37 diff --json`: the parts not asked for are None. `store` may be None for two files."""
    both = before.source is not None and after.source is not None
    metrics = None
    if store is not None and before.experiment is not None and after.experiment is not None:
        metrics = Tracer(store).compare(before.experiment, after.experiment).as_dict()
    return {
        "a": before.as_dict(),
        "b": after.as_dict(),
        "identical": before.source == after.source if both else None,
        "metrics": metrics,
        "structural": _structural(before, after) if structural else None,
        "textual": _textual(before, after) if textual else None,
    }


def _missing(before: Side, after: Side) -> str | None:
    return "; ".join(side.missing for side in (before, after) if side.missing) or None


def _structural(before: Side, after: Side) -> dict[str, Any]:
    empty: dict[str, Any] = {"available": False, "reason": None, "same": None, "counts": None, "changes": None}
    if before.source is None or after.source is None:
        return empty | {"reason": _missing(before, after)}
    read: list[tuple[Component, ...]] = []
    for side, source in ((before, before.source), (after, after.source)):
        try:
            read.append(components(source))
        except Unreadable as error:
            return empty | {"reason": f"{side.label} has no structure to compare: {error}"}
    found = compare(*read)
    changes = [_change(change) for change in found.changes]
    return {"available": True, "reason": None, "same": found.same, "counts": dict(found.counts), "changes": changes}


def _change(change: Change) -> dict[str, Any]:
    return {
        "what": change.what,
        "kind": change.component.kind,
        "before": _component(change.before),
        "after": _component(change.after),
    }


def _component(component: Component | None) -> dict[str, Any] | None:
    return None if component is None else asdict(component)


def _textual(before: Side, after: Side) -> dict[str, Any]:
    empty: dict[str, Any] = {"available": False, "reason": None, "added": None, "removed": None, "lines": None}
    if before.source is None or after.source is None:
        return empty | {"reason": _missing(before, after)}
    one, other = before.source.splitlines(), after.source.splitlines()
    if max(len(one), len(other)) > MAX_LINES:
        return empty | {"reason": f"{len(one):,} and {len(other):,} lines; more than {MAX_LINES:,} are not compared"}
    lines = list(difflib.unified_diff(one, other, before.label, after.label, lineterm=""))
    body = lines[2:]
    return {
        "available": True,
        "reason": None,
        "added": sum(line.startswith("+") for line in body),
        "removed": sum(line.startswith("-") for line in body),
        "lines": lines,
    }
