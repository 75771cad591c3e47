"""What a proposal costs before a model is asked, at 10,000 experiments: the choice, the evidence, the rendered prompt.

Usage, from the repository's root:
    python -m benchmarks.prompt_assembly [--experiments 10000] [--repeats 100] [--directory DIR] [--output FILE.md]

One campaign of so many experiments in a SQLite store (benchmarks/memory_store.py says what is realistic about it), in
a process that has read it once, as a campaign's process has. Every repeat is another proposal: another parent, another
mode, other siblings to read. CPU time stands beside the clock, which other work on the machine disturbs; 99th
percentiles of both. Tokens are those of `memory.tokens.estimate`, which leans high.

Parts: `select` chooses mode, parents and exemplars; `evidence` reads and selects what is to be shown; `render` renders
it, as often as it takes to bring it within the budget of tokens, and records which published findings are shown.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.memory_scale import loop_of
from benchmarks.memory_store import Plan, build
from memory.records import Experiment
from memory.store import Store, open_store
from memory.tokens import estimate
from move37 import steps
from move37.loop import Loop
from move37.selecting import selected

PARTS = ("select", "evidence", "render", "all")
LIMIT_MS = 50


@dataclass(frozen=True)
class Assembled:
    """One proposal: seconds on the clock and of the processor by part, and what came of it."""

    clock: dict[str, float]
    cpu: dict[str, float]
    tokens: int
    mode: str


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    began, used = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - began, time.process_time() - used, result


def assembled(loop: Loop, store: Store, opened: Experiment) -> Assembled:
    """The steps of `steps.select` and `steps.research` up to the prompt, for an experiment that is open."""
    clock, cpu = {}, {}
    clock["select"], cpu["select"], chosen = timed(lambda: asyncio.run(selected(loop, opened)))
    experiment = store.select(opened.id, chosen.parent_id, chosen.exemplar_ids, chosen.selection)
    store.put_attempt(opened.id, 1, origin="proposal")
    clock["evidence"], cpu["evidence"], context = timed(lambda: asyncio.run(steps._evidence(loop, experiment)))
    clock["render"], cpu["render"], (_, prompt) = timed(lambda: steps._fitted(loop, experiment, context))
    for parts in (clock, cpu):
        parts["all"] = sum(parts.values())
    return Assembled(clock, cpu, sum(estimate(m.content) for m in prompt.messages), str(chosen.selection["mode"]))


def measure(path: Path, experiments: int, repeats: int, tokens: int) -> tuple[Assembled, list[Assembled]]:
    """The first proposal of a process, which reads everything, and the others."""
    plan = Plan("scale", experiments)
    for _ in build(f"sqlite:///{path}", [plan]):
        pass
    with closing(open_store(f"sqlite:///{path}")) as store:
        loop = loop_of(store, store.campaigns()[0])
        search = loop.config.search.model_copy(update={"prompt_tokens": tokens})
        loop = replace(loop, config=loop.config.model_copy(update={"search": search, "parallel": 1}))
        found = []
        for number in range(repeats + 1):
            settings = {"arm": "agents", "track": "sequence", "tier": "smoke"}
            opened = store.open_experiment(loop.campaign.id, experiments + number, kind="proposal", **settings)
            found.append(assembled(loop, store, opened))
            store.finish_experiment(
                opened.id, status="failed", reason="reply_malformed", message="", score=None, name=""
            )
    return found[0], found[1:]


def table(first: Assembled, found: Sequence[Assembled]) -> list[str]:
    lines = [
        "| part | CPU ms, median | CPU ms, p99 | ms, median | ms, p99 | first of a process, CPU ms |",
        "|---|---|---|---|---|---|",
    ]
    for part in PARTS:
        cells = [f(one) for one in ([x.cpu[part] for x in found], [x.clock[part] for x in found]) for f in (_mid, _p99)]
        shown = " | ".join(f"{1e3 * cell:.1f}" for cell in (*cells, first.cpu[part]))
        lines.append(f"| {part} | {shown} |")
    return lines


def _mid(values: Sequence[float]) -> float:
    return statistics.median(values)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def report(experiments: int, repeats: int, budgets: Sequence[int], directory: Path | None) -> list[str]:
    lines = [f"# Prompt assembly at {experiments:,} experiments", ""]
    for tokens in budgets:
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            first, found = measure(Path(folder) / "move37.db", experiments, repeats, tokens)
        over = sum(one.tokens > tokens for one in found)
        modes = ", ".join(f"{mode} {sum(x.mode == mode for x in found)}" for mode in sorted({x.mode for x in found}))
        lines += [
            f"## search.prompt_tokens = {tokens:,}",
            "",
            f"{len(found)} prompts ({modes}); {over} over the budget, the longest {max(x.tokens for x in found):,} "
            f"tokens, median {int(_mid([x.tokens for x in found])):,}. Asked for: at most {LIMIT_MS} ms.",
            "",
            *table(first, found),
            "",
        ]
    return [*lines, f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--budgets", type=int, nargs="+", default=[24_000, 12_000])
    parser.add_argument("--directory", type=Path, help="where the stores are made, and removed afterwards")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(report(arguments.experiments, arguments.repeats, arguments.budgets, arguments.directory)) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
