"""Trains every reference architecture on every task and writes the table that the smoke tier is judged by.

Usage, from the repository's root:
    python -m benchmarks.reference_mixers [--seeds 0 1] [--tier smoke] [--parallel 2] [--only NAME ...]

What it answers: does a tier of CPU seconds rank known mixers as published work and longer training do? The order it is
compared with (`ORDER`) was measured beforehand with other code, at the same sizes: Spearman .93 with the literature.
Every trial takes the path of a campaign's trial: its own worker process, frames over pipes, labels on the host.

Not covered: isolation (the programs are our own, so the process sandbox will do) and GPUs.
"""

import argparse
import asyncio
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scipy.stats import spearmanr

from evaluator import catalogue, tiers
from evaluator.gating import CostProfile, gate_phases, read_gate_reply
from evaluator.objective import objective_hash
from evaluator.phases import Phase
from evaluator.trial import TrialRequest, TrialResult, score_trial, trial_phases
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, JobOutcome

TRACK = "sequence"
# Best first, with the composites of the study that fixed sizes, steps and recipe of the smoke tier.
ORDER = {
    "attention_with_convolution": 0.98,
    "delta_net": 0.85,
    "linear_attention_with_convolution": 0.79,
    "softmax_attention": 0.62,
    "gated_delta_net": 0.47,
    "gated_linear_attention": 0.44,
    "gated_recurrence": 0.39,
    "diagonal_ssm": 0.24,
    "short_convolution": 0.22,
    "mlp": 0.0,
}


class BenchmarkError(Exception):
    """A reference failed a gate or a trial: no table can be written."""


@dataclass
class Row:
    """One program: results by (task, seed), what it costs, and the CPU seconds of one seed over all tasks."""

    name: str
    cost: CostProfile
    results: dict[tuple[str, int], TrialResult] = field(default_factory=dict)
    cpu_s: float = 0.0

    def over_seeds(self, metric: str, task: str) -> list[float]:
        return [result.metrics[metric] for (name, _), result in sorted(self.results.items()) if name == task]

    def mean(self, metric: str) -> float:
        return _mean([result.metrics[metric] for result in self.results.values()])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


async def converse(sandbox: ProcessSandbox, label: str, phases: tuple[Phase, ...]) -> JobOutcome:
    outcome = await sandbox.run(Job(label, phases))
    if not outcome.completed:
        raise BenchmarkError(f"{label} failed ({outcome.reason}): {outcome.message}\n{outcome.log}")
    return outcome


async def measure(
    sandbox: ProcessSandbox, name: str, *, tier: str, seeds: Sequence[int], parallel: int, start_cpu_s: float
) -> Row:
    """Gates, then all trials of one program, `parallel` at a time."""
    source = catalogue.source(name)
    outcome = await converse(sandbox, f"{name}: gates", gate_phases(source, track=TRACK, tier=tier))
    report = read_gate_reply(outcome.replies[0])  # type: ignore[arg-type]
    if report.cost is None:
        raise BenchmarkError(f"{name} was rejected by a gate: {report.first_failure}")
    row = Row(name, report.cost)
    slots = asyncio.Semaphore(parallel)

    async def trial(task: str, seed: int) -> None:
        request = TrialRequest(TRACK, tier, task, seed)
        async with slots:
            outcome = await converse(sandbox, f"{name}: {task}, seed {seed}", trial_phases(source, request))
        result = score_trial(request, outcome.replies, outcome.phase_wall_s)
        if result.status != "ok":
            raise BenchmarkError(f"{name} on {task}, seed {seed}: {result.reason}: {result.message}")
        row.results[task, seed] = result
        curve = " ".join(f"{point['accuracy']:.2f}" for point in result.curve)
        print(f"  {name:34s} {task:18s} seed {seed}  {curve}  {outcome.phase_wall_s[0]:5.1f} s", flush=True)

    before = _children_cpu_s()
    tasks = tiers.get(TRACK, tier).tasks
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            for seed in seeds:
                group.create_task(trial(task, seed))
    spent = _children_cpu_s() - before - start_cpu_s * len(row.results)
    row.cpu_s = spent / len(seeds)
    return row


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def start_up_cpu_s(sandbox: ProcessSandbox) -> float:
    """What a worker costs before it does anything: imports and one optimiser step. A warm pool hides it."""
    before = _children_cpu_s()
    for _ in range(2):
        await converse(sandbox, "start-up", ())
    return (_children_cpu_s() - before) / 2


def rank_correlation(known: Sequence[Row], metric: str) -> float:
    """Spearman's rho between the rows' means and `ORDER`."""
    return float(spearmanr([ORDER[row.name] for row in known], [row.mean(metric) for row in known]).statistic)


def table(rows: Sequence[Row], *, tier: str, seeds: Sequence[int], start_cpu_s: float) -> str:
    tasks = tiers.get(TRACK, tier).tasks
    columns = [
        *tasks,
        "composite",
        "curve score",
        "study",
        "CPU-s",
        "parameters",
        "of them mixers",
        "FLOPs/token",
        "exponent",
    ]
    lines = [
        f"# Reference mixers at tier `{tier}`",
        "",
        f"Written by `benchmarks/reference_mixers.py`; seeds {', '.join(map(str, seeds))}; {_machine()};",
        f"objective {objective_hash(TRACK, tier, tasks, seeds)[:12]}.",
        "",
        "Tasks: accuracy at the end of training, mean over seeds (each seed in brackets). Composite: mean over tasks",
        "and seeds of (accuracy - chance) / (1 - chance) at the end; curve score: the same over 10, 25, 50 and 100 %",
        "of the steps, which is what a campaign selects on. Study: the composite measured beforehand with other code.",
        f"CPU-s: for one seed of all tasks, without the worker's start-up ({start_cpu_s:.1f} CPU-s a trial, which a",
        "warm pool hides). Exponent: growth of the mixers' work with sequence length.",
        "",
        "Two choices of the references were made while looking at seeds 0 and 1 of this tier: no activation after a",
        "leading convolution, and taps that start at the present. Other seeds (`--seeds 2 3`) are untouched by them.",
        "The study's Gated DeltaNet had an output gate; this one differs from `delta_net` by its decay alone.",
        "",
        "| architecture | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in sorted(rows, key=lambda row: -row.mean("normalised_accuracy")):
        cells = []
        for task in tasks:
            values = row.over_seeds("accuracy", task)
            cells.append(f"{_mean(values):.2f} ({' '.join(f'{value:.2f}' for value in values)})")
        cells += [f"**{row.mean('normalised_accuracy'):.3f}**", f"{row.mean('curve_score'):.3f}"]
        cells += [f"{ORDER[row.name]:.2f}" if row.name in ORDER else "", f"{row.cpu_s:.0f}"]
        cells += [f"{row.cost.parameters:,}", f"{row.cost.mixer_parameters:,}"]
        cells += [f"{row.cost.flops_per_token:,.0f}", f"{row.cost.length_exponent:.2f}"]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines.append("")
    known = [row for row in rows if row.name in ORDER]
    if len(known) > 2:
        for metric, label in (("normalised_accuracy", "composite"), ("curve_score", "curve score")):
            rho = rank_correlation(known, metric)
            lines.append(f"- Spearman's rho of the {label} with the study's order: **{rho:.2f}** (n = {len(known)})")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    from importlib.metadata import version

    return f"{platform.machine()}, one thread per trial, Python {platform.python_version()}, torch {version('torch')}"


async def run(arguments: argparse.Namespace) -> str:
    sandbox = ProcessSandbox()
    start_cpu_s = await start_up_cpu_s(sandbox)
    print(f"a worker's start-up takes {start_cpu_s:.1f} CPU-s", flush=True)
    rows = []
    for name in arguments.only or catalogue.names():
        settings = {"tier": arguments.tier, "seeds": arguments.seeds, "parallel": arguments.parallel}
        row = await measure(sandbox, name, start_cpu_s=start_cpu_s, **settings)
        rows.append(row)
        print(
            f"{name}: composite {row.mean('normalised_accuracy'):.3f}, curve {row.mean('curve_score'):.3f}, "
            f"{row.cpu_s:.0f} CPU-s per seed",
            flush=True,
        )
    return table(rows, tier=arguments.tier, seeds=arguments.seeds, start_cpu_s=start_cpu_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tier", default="smoke", choices=tiers.names(TRACK))
    parser.add_argument("--parallel", type=int, default=2, help="trials at a time: at most one per core")
    parser.add_argument("--only", nargs="+", choices=catalogue.names(), help="these programs only")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    text = asyncio.run(run(arguments))
    arguments.output.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
