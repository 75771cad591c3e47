"""How long the published lineage takes to come in, to go out as an archive, and to come back from it.

    python -m benchmarks.asi_arch_import [--tree TREE.json] [--rounds 5] [--output FILE]

- tree: `asi_arch.import_into` of the published tree into an empty store, beside
- one by one: the same nodes through the store's own methods, a transaction each (open, select, finish), alternating
  with it. They end as `failed`, since nothing may be called completed without a program there; the rows are as many.
- tree and gallery: with 106 programs of 417 lines (how many and how long the published ones are), made up here, with
  motivations, summaries and two tables of results each.
- export, import: `writing.export_from` and `reading.import_into` (memory.archive) of that.

Wall-clock medians and extremes, SQLite in a file. Validation and reading the files count; making the empty store does
not.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from memory import asi_arch
from memory.archive import reading, writing
from memory.archive.listing import read
from memory.store import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT.parent / "shared" / "data" / "asi_arch_tree.json"
PROGRAMS, LINES = 106, 417
GOAL_S = 5.0


def gallery_of(tree: Path, path: Path) -> Path:
    """A made-up gallery over every sixteenth node."""
    entries = []
    for node in list(read(tree).nodes.values())[:: 1772 // PROGRAMS][:PROGRAMS]:
        body = "\n".join(f"    x = x * {node.index} + {line}" for line in range(LINES - 4))
        table = ",".join(f"{column}" for column in range(22)) + "\n" + ",".join(["1.5"] * 22) + "\n"
        entries.append(
            {
                "name": node.name,
                "index": node.index,
                "parent": node.parent,
                "program": f"import torch\n\n\ndef forward(x):\n{body}\n    return x\n",
                "motivation": "A gate lets the layer forget. " * 60,
                "summary": "It helped on recall and cost little. " * 60,
                "parameters": "464.54M",
                "score": node.score,
                "result": {"train": table, "test": table},
            }
        )
    path.write_text(json.dumps(entries))
    return path


def one_by_one(store: Store, tree: Path) -> None:
    """The nodes through the store's methods."""
    campaign = store.create_campaign(
        "asi-arch", config={}, config_hash="", objective={}, objective_hash="", seed=0, arms=["asi-arch"]
    )
    for node in read(tree).nodes.values():
        one = store.open_experiment(
            campaign.id,
            node.index,
            arm="asi-arch",
            kind="proposal",
            track="sequence",
            tier="published",
            name=node.title,
        )
        store.select(one.id, None if node.parent is None else f"asi-arch-{node.parent:04d}", [], {})
        store.finish_experiment(one.id, status="failed", reason="not_measured", score=node.score)


class Bench:
    """Empty stores, and the time that something takes in one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        open_store(f"sqlite:///{folder}/blank.db").close()

    def timed(self, work: Callable[[Store], object]) -> float:
        """Seconds of `work` over a new store."""
        self._made += 1
        path = self._folder / f"{self._made}.db"
        shutil.copy(self._folder / "blank.db", path)
        with closing(open_store(f"sqlite:///{path}")) as store:
            return seconds(lambda: work(store))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(tree: Path, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds per part, round by round."""
    bench = Bench(folder)
    gallery = gallery_of(tree, folder / "gallery.json")
    file = folder / "a.zip"
    full = open_store(f"sqlite:///{folder}/full.db")
    asi_arch.import_into(full, tree, gallery)
    writing.export_from(full, "asi-arch", file, written_by="benchmark")  # imports pyarrow, once
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for part, took in (
            ("import of the tree", bench.timed(lambda store: asi_arch.import_into(store, tree))),
            ("the same nodes one by one, a transaction each step", bench.timed(lambda store: one_by_one(store, tree))),
            ("import of tree and gallery", bench.timed(lambda store: asi_arch.import_into(store, tree, gallery))),
            ("export", seconds(lambda: writing.export_from(full, "asi-arch", file, written_by="benchmark"))),
            ("import of the archive", bench.timed(lambda store: reading.import_into(store, file))),
        ):
            found.setdefault(part, []).append(took)
    full.close()
    return found


def table(found: dict[str, list[float]], nodes: int, rounds: int) -> str:
    """The figures as Markdown."""
    lines = [
        "# The published lineage: in, out and back",
        "",
        f"{nodes:,} nodes; SQLite in a file; wall-clock seconds, median of {rounds} rounds (fastest to slowest), parts "
        f"alternating. {platform.machine()}, Python {platform.python_version()}. Asked for: import under {GOAL_S:g} s.",
        "",
        "| part | seconds |",
        "|---|---|",
    ]
    for part, values in found.items():
        lines.append(f"| {part} | **{statistics.median(values):.2f}** ({min(values):.2f} to {max(values):.2f}) |")
    lines += ["", f"Written by `python -m benchmarks.asi_arch_import --rounds {rounds}`.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=TREE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not arguments.tree.exists():
        sys.exit(f"{arguments.tree} is not there: name the published tree with --tree")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.tree, arguments.rounds, Path(folder))
    text = table(found, len(read(arguments.tree).nodes), arguments.rounds)
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
