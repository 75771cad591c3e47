"""What finding things in the memory costs when there are many: neighbours, parent selection, the context of a prompt.

One campaign of N experiments in a real SQLite store (default 100,000), with invented hypotheses and scores. Medians of
interleaved runs; CPU time stands beside wall time, which other work on the machine disturbs. Prints Markdown tables.
Exact search and the graph are timed in turn over the same entries. The store is filled with SQL at once, not through
its methods: how fast it writes is another benchmark.

Programs are the reference programs under other names and constants. A sample of them is encoded, not all: their vectors
are searched just as those of hypotheses, of which all are.
"""

import argparse
import gc
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from evaluator import catalogue
from memory import retrieval, tokens
from memory.models import ExperimentRow, ProgramRow
from memory.neighbours import Neighbours
from memory.store import Store, open_store, utc_now
from memory.vectors import DIMENSIONS, HashedText
from memory.view import Glance, View
from move37 import choosing

SEED = 7
PROGRAMS = (
    "delta_net", "gated_delta_net", "softmax_attention", "linear_attention", "gated_linear_attention", "retention",
    "diagonal_ssm", "selective_ssm", "long_convolution", "short_convolution", "gated_recurrence", "rwkv", "hybrid",
)  # fmt: skip
VERBS = (
    "Add",
    "Remove",
    "Gate",
    "Normalise",
    "Share",
    "Double",
    "Halve",
    "Delay",
    "Replace",
    "Initialise",
    "Interleave",
)
SITES = (
    "the queries", "the keys", "the values", "the decay of the state", "the write strength of the delta rule",
    "the output of every head", "the short convolution", "the residual branch", "the second layer only",
    "the first layer only", "the chunk boundaries", "the head dimension", "the feature map", "the positional signal",
)  # fmt: skip
MEANS = (
    "with a depthwise convolution of {n} taps", "by a learned gate with bias {n}", "with a rank-{n} projection",
    "by a softplus with offset {n}", "over windows of {n} steps", "with {n} heads instead of two",
    "by an exponential moving average of length {n}", "with rotary angles of base {n}",
)  # fmt: skip
REASONS = (
    "so that recall survives longer distances", "because noisy keys collide in a state of this size",
    "so that copying does not wait for the state to settle", "since the decay forgets what was written first",
    "because the gradient through the gate vanishes early in training", "so that the two layers stop doing the same",
    "as local context is what selective copying lacks", "because the score varies most between seeds on this task",
)  # fmt: skip


def hypothesis(number: int) -> str:
    """The text of an invented hypothesis: a change, a mechanism, what it should do."""
    rng = random.Random(f"hypothesis:{SEED}:{number}")
    said = []
    for _ in range(2):
        means = rng.choice(MEANS).format(n=rng.choice((2, 3, 4, 6, 8, 16, 32, 64, 128)))
        said.append(f"{rng.choice(VERBS)} {rng.choice(SITES)} {means}, {rng.choice(REASONS)}.")
    return f"{' '.join(said)} Expected effect {rng.uniform(-0.1, 0.3):+.2f} on the mean score."


def program(number: int) -> str:
    """A reference program with other names and constants, and a line of its own."""
    rng = random.Random(f"program:{SEED}:{number}")
    source = catalogue.source(rng.choice(PROGRAMS))
    names = sorted(set(re.findall(r"self\.(\w+)", source)))
    for name in rng.sample(names, min(3, len(names))):
        source = re.sub(rf"\b{name}\b", f"{name}_{rng.choice(('mix', 'in', 'path', 'low', 'aux'))}", source)
    source = re.sub(r"\b(2|4|16|64)\b", lambda found: str(int(found[0]) * rng.choice((1, 1, 2))), source)
    return f"{source}\n\nSCALE_{number % 97} = {rng.uniform(0, 1):.3f}\n"


def record(number: int) -> Glance:
    """The light columns of an invented experiment: most descend from a good one of the last few hundred."""
    rng = random.Random(f"record:{SEED}:{number}")
    drawn = rng.random()
    status = "completed" if drawn < 0.55 or number < 13 else rng.choice(("rejected", "failed", "duplicate"))
    reason = "ok" if status == "completed" else rng.choice(("causality", "timeout", "non_finite", "l1", "malformed"))
    parent = None if number < 13 else max(0, number - rng.choice((1, 3, 40, 300, number)))
    score = min(0.99, max(0.0, rng.gauss(0.5, 0.15))) if status == "completed" else None
    named = None if parent is None else name_of(parent)
    return Glance(name_of(number), number, named, status, reason, score, hypothesis(number)[:40], f"{number:064x}")


def name_of(number: int) -> str:
    return f"bench-{number:04d}"


def filled(store: Store, count: int) -> str:
    """A campaign of `count` finished experiments; returns its id."""
    campaign = store.create_campaign(
        "bench", config={}, config_hash="c", objective={}, objective_hash="o", seed=SEED, arms=["agents"]
    )
    now = utc_now()
    for start in range(0, count, 5000):
        numbers = range(start, min(start + 5000, count))
        with store._database.write() as session:
            session.execute(insert(ProgramRow), [_program_row(number, now) for number in numbers])
            session.execute(insert(ExperimentRow), [_experiment_row(campaign.id, number, now) for number in numbers])
    return campaign.id


def _program_row(number: int, now: Any) -> dict[str, Any]:
    sha = f"{number:064x}"
    return {"sha256": sha, "source": f"x = {number}\n", "n_lines": 1, "l0": sha, "literal_hash": sha, "created_at": now}


def _experiment_row(campaign_id: str, number: int, now: Any) -> dict[str, Any]:
    one = record(number)
    light = {name: getattr(one, name) for name in Glance.__slots__}
    rest = dict.fromkeys(("duplicate_of", "equivalent_of"), name_of(0) if one.status == "duplicate" else None)
    return light | rest | {
        "campaign_id": campaign_id, "arm": "agents", "kind": "proposal", "track": "sequence", "tier": "smoke",
        "message": "", "exemplar_ids": [], "selection": {}, "selected_at": now, "environment": {},
        "hypothesis": {"change": hypothesis(number)}, "created_at": now, "finished_at": now,
    }  # fmt: skip


def glances(store: Store, campaign_id: str, after: int = -1) -> Iterator[Glance]:
    """The light columns of what a campaign finished after an index."""
    columns = [getattr(ExperimentRow, name) for name in Glance.__slots__]
    query = select(*columns).where(ExperimentRow.campaign_id == campaign_id, ExperimentRow.index > after)
    with store._database.read() as session:
        for row in session.execute(query.where(ExperimentRow.status != "open")):
            yield Glance(*row)


def chosen(view: View[Glance], up_to: int, index: int, exemplars: int = 2) -> tuple[str, ...]:
    """The parent and exemplars that `choosing.choose` takes, from what the view keeps in order.

    It looks at the leaders and their number of children, and draws the last exemplar by its place in the ranking.
    """
    assert not view.programs_repeat
    rng = random.Random(f"select:{SEED}:{index}")
    leaders = [view.ranked_at(place, up_to) for place in range(min(choosing._LEADERS, view.n_ranked(up_to)))]
    children = Counter({one.id: view.n_children(one.id, up_to) for one in leaders})
    parent = rng.choices(leaders, weights=choosing._weights(leaders, children))[0]  # type: ignore[arg-type]
    rank = leaders.index(parent)
    places = [place for place in range(exemplars) if place != rank][: exemplars - 1]  # the best besides the parent
    drawn = rng.choice(range(len(places), view.n_ranked(up_to) - 1))
    places.append(drawn + (rank <= drawn))
    return (parent.id, *(view.ranked_at(place, up_to).id for place in places))


def context(store: Store, view: View[Glance], index: Neighbours, parent: str, up_to: int) -> tokens.Fitted:
    """Neighbours, selection, the rows of what was selected, lines of text, and the budget."""
    wanted = retrieval.k_near(view, parent, up_to=up_to)
    near = index.nearest_to(parent, wanted, among=lambda key: view.visible(key, up_to))
    selection = retrieval.select(view, parent, up_to=up_to, near={"hypothesis": near})
    with store._database.read() as session:
        query = select(ExperimentRow.id, ExperimentRow.hypothesis).where(ExperimentRow.id.in_(selection.ids))
        changes = {key: body["change"] for key, body in session.execute(query)}
    tried = tuple(f"{one.fact.id} {one.similarity:.2f} {changes[one.fact.id]}" for one in selection.tried)
    sections = {  # from what is kept longest
        "lineage": _lines(selection.lineage.facts[::-1], changes),
        "tried": tried,
        "failures": tuple(f"{x.reason} {x.count} {x.example.id}" for x in selection.failures),
        "best": _lines(selection.best, changes),
        "worst": _lines(selection.worst, changes),
    }

    def measure(fitted: tokens.Fitted) -> int:
        return tokens.estimate("\n".join(line for name, n in fitted.kept.items() for line in sections[name][:n]))

    return tokens.fit({name: len(lines) for name, lines in sections.items()}, 1500, measure)


def _lines(facts: Sequence[retrieval.Fact], changes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{one.id} {one.status} {one.score} {changes[one.id]}" for one in facts)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of CPU time, and what came of it."""
    started = time.process_time()
    result = run()
    return (time.process_time() - started) * 1e3, result


def interleaved(cases: dict[str, Callable[[int], Any]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of each case (CPU, wall), run after run in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for run in range(-1, runs):  # the first, which loads things, does not count
        for name, case in cases.items():
            started, busy = time.perf_counter(), time.process_time()
            case(run)
            if run >= 0:
                taken[name].append((time.process_time() - busy, time.perf_counter() - started))
    return {name: [(cpu * 1e3, wall * 1e3) for cpu, wall in values] for name, values in taken.items()}


def table(taken: dict[str, list[tuple[float, float]]]) -> list[str]:
    lines = ["| what | CPU ms | wall ms | slowest wall ms |", "|---|---|---|---|"]
    for name, values in taken.items():
        cpu, wall = zip(*values, strict=True)
        lines.append(f"| {name} | {statistics.median(cpu):.2f} | {statistics.median(wall):.2f} | {max(wall):.2f} |")
    return [*lines, ""]


def held(build: Callable[[], Any]) -> tuple[float, Any]:
    """Bytes of Python and NumPy memory that what `build` returns holds."""
    gc.collect()
    tracemalloc.start()
    result = build()
    gc.collect()
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held_bytes, result


def built(count: int, directory: Path) -> tuple[list[str], Neighbours]:
    """What building costs, in CPU time; and the index."""
    encoder = HashedText("hypothesis")
    encoder.encode(["load the library"])
    index = Neighbours(encoder)
    texts = [(name_of(number), hypothesis(number)) for number in range(count)]
    build_ms, _ = timed(lambda: index.sync(texts))
    save_ms, _ = timed(lambda: index.save(directory / "index"))
    load_ms, loaded = timed(lambda: Neighbours.load(directory / "index", encoder))
    held_bytes, again = held(lambda: Neighbours.load(directory / "index", encoder))
    assert len(loaded) == len(again) == count
    sample = [program(number) for number in range(min(500, count))]
    code = HashedText("program")
    program_ms, _ = timed(lambda: code.encode(sample))
    lines = sum(text.count("\n") for text in sample) / len(sample)
    size = (directory / "index").stat().st_size
    rows = (
        ("encode and add all hypotheses", f"{build_ms / 1e3:.1f} s, {build_ms / count:.3f} ms each"),
        ("encode one program", f"{program_ms / len(sample):.2f} ms (mean of {len(sample)}, {lines:.0f} lines)"),
        ("save to a file", f"{save_ms / 1e3:.2f} s, {size / count:.0f} bytes per experiment"),
        ("load from the file", f"{load_ms / 1e3:.2f} s"),
        ("held in memory", f"{held_bytes / count:.0f} bytes per experiment"),
    )
    return ["| index | CPU time, size |", "|---|---|", *(f"| {name} | {cost} |" for name, cost in rows), ""], index


def lookups(index: Neighbours, count: int, runs: int) -> list[str]:
    """Look-ups of ten in all of the index, under a horizon, in a small part of it; and adding one."""
    asked = [hypothesis(count + run) for run in range(runs)]
    few = {name_of(number) for number in range(0, count, 100)}
    early = {name_of(number) for number in range(count - 4)}
    cases = {
        "10 nearest": lambda run: index.nearest(asked[run], 10),
        "10 nearest among all but the last 4": lambda run: index.nearest(
            asked[run], 10, among=lambda key: key in early
        ),
        "10 nearest among one in a hundred": lambda run: index.nearest(asked[run], 10, among=few),
        "10 nearest to a program or hypothesis that is in it": lambda run: index.nearest_to(name_of(run + 50), 10),
        "encode and add one": lambda run: index.sync([(f"new-{run}", f"{asked[run]} again")]),
    }
    return table(interleaved(cases, runs))


def against_graph(index: Neighbours, count: int, runs: int) -> list[str]:
    """Exact search and the graph in turn, over the first `count` entries; how many of ten the graph finds."""
    exact, graph = (Neighbours(HashedText("hypothesis"), exact_up_to=at) for at in (count * 2, 1))
    vectors = {key: index._codes[place].astype("float32") for place, key in enumerate(index._keys[:count])}
    for one in (exact, graph):
        one.sync_vectors(vectors)
    graph_ms, _ = timed(lambda: graph.nearest(hypothesis(0), 1))
    size = len(graph._graph.save())
    asked = [hypothesis(10**7 + run) for run in range(runs)]
    cases = {
        "10 nearest, exact": lambda run: exact.nearest(asked[run], 10),
        "10 nearest, graph": lambda run: graph.nearest(asked[run], 10),
        "add one and find it, exact": lambda run: (
            exact.sync([(f"x{run}", f"{asked[run]} x")]),
            exact.nearest_to(f"x{run}", 1),
        ),
        "add one and find it, graph": lambda run: (
            graph.sync([(f"x{run}", f"{asked[run]} x")]),
            graph.nearest_to(f"x{run}", 1),
        ),
    }
    taken = interleaved(cases, runs)
    found = [{o.key for o in exact.nearest(text, 10)} & {o.key for o in graph.nearest(text, 10)} for text in asked]
    recall = sum(map(len, found)) / (10 * len(found))
    told = f"The graph takes {graph_ms / 1e3:.1f} s of CPU time to build, {graph_ms / count:.2f} ms an entry,"
    return [f"{told} and {size / count:.0f} bytes each besides. Its recall@10 is {recall:.3f}.", "", *table(taken)]


def contexts(store: Store, campaign_id: str, exact: Neighbours, count: int, runs: int) -> list[str]:
    """What a prompt needs of a view that is in memory; and what it takes to read it all."""
    load_ms, view = timed(lambda: View(glances(store, campaign_id)))
    held_bytes, _ = held(lambda: View(glances(store, campaign_id)))
    parents = [chosen(view, count - 4, count + run)[0] for run in range(runs)]
    plain = [view.get(name_of(number)) for number in range(count - 3)]
    for run in range(3):
        whole = choosing.choose(plain, seed=SEED, index=count + run, exemplars=2)  # type: ignore[arg-type]
        ids = (whole.parent.id, *(one.id for one in whole.exemplars))
        assert ids == chosen(view, count - 4, count + run), "the view chooses others"

    def both(run: int) -> Any:
        return context(store, view, exact, chosen(view, count - 4, count + run)[0], count - 4)

    cases = {
        "parent selection over a list of all that is visible": lambda run: choosing.choose(
            plain,  # type: ignore[arg-type]
            seed=SEED,
            index=count + run,
            exemplars=2,
        ),
        "parent selection over the view": lambda run: chosen(view, count - 4, count + run),
        "context: neighbours, selection, rows, budget": lambda run: context(
            store, view, exact, parents[run], count - 4
        ),
        "parent selection over the view, and context": both,
        "ask the store for what is new": lambda run: view.add(glances(store, campaign_id, count - 2)),
    }
    before = f"{load_ms / 1e3:.2f} s of CPU time to read the light columns of all into a view, once per process;"
    return [f"{before} {held_bytes / count:.0f} bytes held per experiment.", "", *table(interleaved(cases, runs))]


def report(count: int, graph: int, runs: int) -> list[str]:
    parts = f"usearch {version('usearch')}, scikit-learn {version('scikit-learn')}, Python {platform.python_version()}"
    title = f"{count:,} experiments, {DIMENSIONS} dimensions, {runs} interleaved runs; {parts}, {os.cpu_count()} cores"
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(f"sqlite:///{directory}/move37.db")
        campaign_id = filled(store, count)
        building, index = built(count, Path(directory))
        lines = [f"{title}, load {os.getloadavg()[0]:.1f}.", "", "## Index", "", *building]
        lines += ["## A prompt", "", *contexts(store, campaign_id, index, count, runs)]
        lines += ["## Look-ups, exact", "", *lookups(index, count, runs)]
        for size in graph_sizes(graph):
            lines += [f"## Exact and graph, {size:,}", "", *against_graph(index, size, runs)]
        store.close()
    return ["# Retrieval", "", *lines]


def graph_sizes(largest: int) -> list[int]:
    return [size for size in (largest // 10, largest) if size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--graph", type=int, default=100_000, help="entries to compare exact search and graph over")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(report(arguments.count, min(arguments.graph, arguments.count), arguments.runs)).rstrip() + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
        print(f"written to {arguments.output}", file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
