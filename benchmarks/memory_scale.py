"""What the experiment memory answers at a hundred thousand experiments, and how its file grows.

Usage, from the repository's root:
    python -m benchmarks.memory_scale [--experiments 100000] [--repeats 200] [--directory DIR] [--output FILE.md]

Builds a SQLite store (benchmarks/memory_store.py says what is realistic about it and what is not): one campaign of
10,000 experiments and six others, about 27 kB per experiment, so 2.7 GB and some minutes by default. Then measures,
medians and 99th percentiles, with the store's file in the page cache:
- the look-up of an identity that is held, and of one that is not;
- what one step of the largest campaign reads: the parent's choice and the researcher's context;
- `status` of all campaigns, in this process and as a process of its own, beside `--help`, one over an empty store and
  one of the largest campaign alone, which says more;
- the lineage of the largest campaign: as data, and `move37 lineage` as a process of its own;
- one write of each kind that a campaign makes most.
Beside them stand the readings that they replaced, where they are still there to be timed.

Not covered: a cold page cache, PostgreSQL (benchmarks/memory_writers.py), stores on a network disk.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory_store import Plan, build, plans
from memory.records import Campaign, Experiment
from memory.store import Store, open_store
from move37 import briefing, choosing, steps, views
from move37.config import stored
from move37.loop import Loop
from move37.workspace import Workspace
from prompts.loader import Prompts

ROOT = Path(__file__).resolve().parents[1]
PARTS = (0.25, 0.5, 1.0)  # of all experiments, where the file is weighed


@dataclass(frozen=True)
class Figure:
    """Milliseconds of one reading, on the clock and of a processor, and what was asked for."""

    name: str
    median_ms: float
    cpu_ms: float
    p99_ms: float
    limit_ms: float | None = None


@dataclass(frozen=True)
class Weight:
    """The file when it held so many experiments."""

    experiments: int
    size_bytes: int
    seconds: float


def weigh(url: str, path: Path, campaigns: list[Plan]) -> Iterator[Weight]:
    """Builds the store, and weighs it on the way."""
    total = sum(plan.experiments for plan in campaigns)
    waiting = [round(total * part) for part in PARTS]
    began = time.perf_counter()
    for written in build(url, campaigns):
        if waiting and written >= waiting[0]:
            waiting.pop(0)
            size = sum(one.stat().st_size for one in path.parent.iterdir() if one.name.startswith(path.name))
            yield Weight(written, size, time.perf_counter() - began)


def timed(name: str, call: Callable[[], object], repeats: int, limit_ms: float | None = None) -> Figure:
    """One call before the clock starts, then so many on it."""
    call()
    seconds, processor = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), _processor_s()
        call()
        seconds.append(time.perf_counter() - began)
        processor.append(_processor_s() - used)
    seconds.sort()
    slowest = seconds[min(len(seconds) - 1, int(0.99 * repeats))]
    cpu_s = statistics.fmean(processor)  # its clock ticks every hundredth of a second
    return Figure(name, 1e3 * statistics.median(seconds), 1e3 * cpu_s, 1e3 * slowest, limit_ms)


def _processor_s() -> float:
    """Of this process and those that it waited for: other work on the machine makes the clock wait, but not this."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def process(name: str, *arguments: str, repeats: int, limit_ms: float | None = None) -> Figure:
    """A whole process of the command line."""
    command = [sys.executable, "-m", "move37", *arguments]
    return timed(name, lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True), repeats, limit_ms)


def loop_of(store: Store, campaign: Campaign) -> Loop:
    """The loop of a campaign, with nobody to ask and nowhere to train."""
    settings = stored(campaign.config)
    nobody: Any = None
    return Loop(
        store=store,
        campaign=campaign,
        config=settings,
        brief=briefing.brief(settings),
        prompts=Prompts(),
        model=nobody,
        laboratory=nobody,
        budget=nobody,
        turnstile=nobody,
        notify=lambda kind, told: None,
    )


def _steps(store: Store, campaign: Campaign, repeats: int) -> Iterator[Figure]:
    """What a proposal at the end of the campaign costs before a model is asked: the choice, and the whole prompt."""
    last = store.outline(campaign.id)[-1].index
    loop = loop_of(store, campaign)
    opened = store.open_experiment(campaign.id, last + 1, arm="agents", kind="proposal", track="sequence", tier="smoke")

    def choice() -> choosing.Choice:
        return choosing.choose(loop.visible(opened), seed=7, index=opened.index, exemplars=loop.config.search.exemplars)

    began, used = time.perf_counter(), _processor_s()
    chosen = choice()
    selected = store.select(opened.id, chosen.parent.id, [one.id for one in chosen.exemplars], chosen.rationale)
    store.put_attempt(opened.id, 1, origin="proposal")
    _prompt(loop, selected)
    first = 1e3 * (time.perf_counter() - began)
    processor = 1e3 * (_processor_s() - used)
    yield Figure("choice and context, the first of a process, which reads everything", first, processor, first)
    yield timed("choice of the parent", choice, repeats)
    yield timed("context of the prompt", lambda: _prompt(loop, selected), repeats)
    yield timed("choice and context", lambda: (choice(), _prompt(loop, selected)), repeats, 50)


def _prompt(loop: Loop, experiment: Experiment) -> None:
    steps._fitted(loop, experiment, asyncio.run(steps._evidence(loop, experiment)))


def measure(path: Path, repeats: int) -> Iterator[Figure]:
    """The figures, one after the other."""
    url, few = f"sqlite:///{path}", max(5, repeats // 20)
    with closing(open_store(url)) as store:
        largest = max(store.campaigns(), key=lambda one: sum(store.by_status(one.id).values()))
        middle = store.experiment_at(largest.id, sum(store.by_status(largest.id).values()) // 2)
        yield from _readings(store, largest.id, str(middle.id if middle else ""), repeats)
        yield from _steps(store, largest, few)
        workspace = Workspace.find(path.parent, url)
        everything = lambda: [views.status(workspace, store, one) for one in store.campaigns()]  # noqa: E731
        yield timed("`status` of all campaigns, in process, from the store", everything, few, 300)
        yield timed(
            "`status` of all campaigns, in process, as the command reads it", lambda: _glance(workspace), few, 300
        )
        yield timed("lineage of the largest campaign, as data", lambda: views.lineage(store, largest), 5, 2_000)
        yield from _writes(store, repeats)
    runs = ("--runs-dir", str(path.parent))
    yield process("`move37 --help`, whole process, which asks nothing", "--help", repeats=15)
    yield process("`move37 status`, whole process", "status", *runs, repeats=15, limit_ms=300)
    yield process("`move37 status` of the largest campaign, whole process", "status", largest.name, *runs, repeats=9)
    with tempfile.TemporaryDirectory() as empty:
        open_store(f"sqlite:///{empty}/move37.db").close()
        yield process("`move37 status` of an empty store, whole process", "status", "--runs-dir", empty, repeats=15)
    yield process("`move37 lineage`, whole process", "lineage", largest.name, *runs, repeats=3, limit_ms=2_000)


def _glance(workspace: Workspace) -> None:
    with closing(workspace.overview()) as overview:
        for one in overview.campaigns():
            views.status(workspace, overview, one)


def _readings(store: Store, campaign_id: str, middle: str, repeats: int) -> Iterator[Figure]:
    held = store.identities(middle) or store.identities(store.outline(campaign_id)[0].id)
    key = held[0]
    yield timed("identity that is held", lambda: store.identity(campaign_id, key.level, key.key), repeats, 1)
    yield timed("identity that is not", lambda: store.identity(campaign_id, key.level, "none"), repeats, 1)
    yield timed("an experiment", lambda: store.experiment(middle), repeats)
    yield timed("the best experiment", lambda: store.best(campaign_id), repeats)
    yield timed("what was spent", lambda: store.spent(campaign_id), repeats)
    yield timed("how many of each status", lambda: store.by_status(campaign_id), repeats)


def _writes(store: Store, repeats: int) -> Iterator[Figure]:
    campaign = store.create_campaign(
        "written", config={}, config_hash="", objective={}, objective_hash="o0", seed=0, arms=["agents"]
    )
    indices = iter(range(10 * repeats))

    def opened() -> Experiment:
        settings = {"arm": "agents", "track": "sequence", "tier": "smoke"}
        return store.open_experiment(campaign.id, next(indices), kind="proposal", **settings)

    yield timed("write: an experiment opened", opened, repeats)
    yield timed("write: an event", lambda: store.put_event(campaign.id, "noted", {"n": 1}), repeats)


def table(weights: list[Weight], figures: list[Figure]) -> Iterator[str]:
    """Markdown."""
    yield "| experiments | file | bytes per experiment | seconds to build |"
    yield "|---|---|---|---|"
    for one in weights:
        each = one.size_bytes / one.experiments
        yield f"| {one.experiments:,} | {one.size_bytes / 1e6:,.0f} MB | {each:,.0f} | {one.seconds:.0f} |"
    yield ""
    yield "| reading | median ms | CPU ms | p99 ms | asked for |"
    yield "|---|---|---|---|---|"
    for figure in figures:
        limit = "" if figure.limit_ms is None else f"< {figure.limit_ms:,.0f} ms"
        yield f"| {figure.name} | {figure.median_ms:,.2f} | {figure.cpu_ms:,.2f} | {figure.p99_ms:,.2f} | {limit} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--directory", type=Path, help="where the store is made, and removed afterwards")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory) / "move37.db"
        weights = list(weigh(f"sqlite:///{path}", path, plans(arguments.experiments)))
        figures = list(measure(path, arguments.repeats))
    load = os.getloadavg()[0]
    text = "\n".join([f"{os.cpu_count()} cores, load {load:.1f} at the end.", "", *table(weights, figures), ""])
    print(text)
    if arguments.output:
        arguments.output.write_text(f"# The store at scale\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
