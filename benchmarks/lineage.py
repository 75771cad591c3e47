"""How long `move37 lineage` takes on 10,000 experiments: real processes, output included, and the pure functions alone.

Three shapes: one line of 10,000 generations, a tree whose parents are drawn from all earlier experiments, a star. Half
of the experiments have five trials. Commands are interleaved, medians of N runs; a plain `status` stands beside them as
what any command costs. Prints a Markdown table; `--output` writes it.
"""

import argparse
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from memory.lineage import Forest
from memory.records import Experiment
from memory.store import open_store
from memory.testing import completed, new_campaign, trial

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 2.0
TRIALS = 5
SHAPES: dict[str, Callable[[int, random.Random], int]] = {
    "line": lambda index, rng: index - 1,
    "tree": lambda index, rng: rng.randrange(index),
    "star": lambda index, rng: 0,
}
COMMANDS: dict[str, list[str]] = {
    "`status`": ["status"],
    "`lineage`": ["lineage"],
    "`lineage --limit 0`": ["lineage", "--limit", "0"],
    "`lineage --summary`": ["lineage", "--summary"],
    "`lineage --of LAST`": ["lineage", "--of", "bench-9999"],
    "`lineage --common A B`": ["lineage", "--common", "bench-9999", "bench-5000"],
    "`lineage --json`": ["lineage", "--json"],
    "`lineage --format dot`": ["lineage", "--format", "dot"],
    "`lineage --format mermaid`": ["lineage", "--format", "mermaid"],
    "`lineage --format graphml`": ["lineage", "--format", "graphml"],
    "`lineage --format html`": ["lineage", "--format", "html"],
}


def fill(path: Path, shape: str, n: int) -> None:
    """A store with one campaign of `n` experiments: one is made by the store, the others are copies of its rows."""
    rng = random.Random(0)
    store = open_store(f"sqlite:///{path}")
    campaign = new_campaign(store, "bench")
    first = completed(store, campaign, 0)
    for seed in range(TRIALS):
        made = trial(store, first, seed)
        store.finish_trial(
            made.id, state="completed", reason="ok", message="", score=0.5, metrics={"accuracy": 0.5},
            curve=[{"fraction": f, "accuracy": 0.5} for f in (0.1, 0.25, 0.5, 1.0)], log="", device_s=1.0,
        )  # fmt: skip
    store.close()
    parents = [SHAPES[shape](index, rng) for index in range(1, n)]
    with closing(sqlite3.connect(path)) as database:
        copy_rows(
            database, "experiments", [
                {"id": f"bench-{i:04d}", "index": i, "parent_id": f"bench-{p:04d}", "score": rng.random()}
                for i, p in enumerate(parents, start=1)
            ],
        )  # fmt: skip
        for seed in range(TRIALS):
            copy_rows(
                database, "trials", [
                    {"id": f"t-{i}-{seed}", "experiment_id": f"bench-{i:04d}", "seed": seed, "score": rng.random()}
                    for i in range(1, n, 2)
                ],
            )  # fmt: skip
        database.commit()


def copy_rows(database: sqlite3.Connection, table: str, changes: list[dict[str, object]]) -> None:
    """Copies of the first row of a table, each with these columns changed."""
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    names = ", ".join(f'"{name}"' for name in columns)
    changed = list(changes[0])
    values = ", ".join(f":{name}" if name in changed else f'"{name}"' for name in columns)
    database.executemany(
        f'INSERT INTO "{table}" ({names}) SELECT {values} FROM (SELECT * FROM "{table}" ORDER BY rowid LIMIT 1)',
        changes,
    )


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def process(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process, its output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s = timed(lambda: subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commands(directory: Path, shapes: list[str], runs: int) -> dict[str, dict[str, str]]:
    """Median seconds by command and shape: wall, and CPU in brackets."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(runs):
        for shape in shapes:
            for name, arguments in COMMANDS.items():
                store = f"sqlite:///{directory / shape}.db"
                took = process([sys.executable, "-m", "move37", *arguments, "--store", store])
                seconds.setdefault((name, shape), []).append(took)

    def median(name: str, shape: str) -> str:
        wall, cpu = (statistics.median(values) for values in zip(*seconds[name, shape], strict=True))
        return f"{wall:.2f} ({cpu:.2f})"

    return {name: {shape: median(name, shape) for shape in shapes} for name in COMMANDS}


def functions(experiments: list[Experiment], runs: int) -> dict[str, str]:
    """Median milliseconds of the pure functions."""
    forest = Forest(experiments)
    last = forest.experiments[-1].id
    questions: dict[str, Callable[[], object]] = {
        "index (`Forest`)": lambda: Forest(experiments),
        "path": lambda: forest.path(last),
        "common ancestor": lambda: forest.common_ancestor(last, forest.experiments[len(forest) // 2].id),
        "descendants of the root": lambda: forest.descendants(forest.roots[0].id),
        "descendant counts": forest.descendant_counts,
        "summary": forest.summary,
    }
    seconds: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(runs):
        for name, question in questions.items():
            seconds[name].append(timed(question))
    return {name: f"{1e3 * statistics.median(values):.1f}" for name, values in seconds.items()}


def table(first: str, shapes: list[str], rows: dict[str, dict[str, str]]) -> list[str]:
    lines = [f"| {first} | {' | '.join(shapes)} |", f"|---|{'---|' * len(shapes)}"]
    lines += [f"| {name} | {' | '.join(row[shape] for shape in shapes)} |" for name, row in rows.items()]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    shapes: list[str] = asked.shapes
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pure: dict[str, dict[str, str]] = {}
        for shape in shapes:
            fill(directory / f"{shape}.db", shape, asked.experiments)
            store = open_store(f"sqlite:///{directory / shape}.db")
            for question, value in functions(store.experiments(store.campaign("bench").id), asked.runs).items():
                pure.setdefault(question, {})[shape] = value
            store.close()
        whole = commands(directory, shapes, asked.runs)
    lines = [
        f"# Lineage of {asked.experiments:,} experiments",
        "",
        f"`python -m benchmarks.lineage`, medians of {asked.runs} interleaved runs, SQLite. Whole processes with their",
        f"output, wall seconds (CPU seconds); limit {LIMIT_S:g} s.",
        "",
        *table("command", shapes, whole),
        "",
        "The pure functions on experiments in hand, milliseconds.",
        "",
        *table("function", shapes, pure),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
