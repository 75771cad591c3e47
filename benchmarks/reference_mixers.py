"""Trains every reference architecture on a tier's tasks: the table that the tier is judged by, and the stored scores.

Usage, from the repository's root:
    python -m benchmarks.reference_mixers [--seeds 0 1 2] [--tier smoke] [--tasks ...] [--parallel 2] [--only NAME ...]

What it answers: does a tier of CPU seconds rank known mixers as published work and longer training do? The order it is
compared with (`ORDER`) was measured beforehand with other code, at the same sizes: Spearman .93 with the literature.
Every trial takes the path of a campaign's trial: its own worker process, frames over pipes, labels on the host.

Besides the table it writes `evaluator/measurements/<tier>.json`: the scores by seed with which `move37 evaluate`
compares any program, and from which the noise floors come. A run over some programs or tasks replaces those only.

Not covered: isolation (the programs are our own, so the process sandbox will do) and GPUs.
"""

import argparse
import asyncio
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from evaluator import catalogue, measured, tiers
from evaluator.gating import CostProfile, gate_phases, read_gate_reply
from evaluator.objective import SCORER_VERSION, task_hash
from evaluator.phases import Phase
from evaluator.statistics import pooled_seed_std, smallest_detectable, spearman
from evaluator.trial import TrialRequest, TrialResult, score_trial, trial_phases
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, JobOutcome

TRACK = "sequence"
STORED = Path(measured.__file__).parent / "measurements"
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

    def mean(self, metric: str, tasks: Sequence[str]) -> float:
        return _mean([value for task in tasks for value in self.over_seeds(metric, task)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


async def converse(sandbox: ProcessSandbox, label: str, phases: tuple[Phase, ...]) -> JobOutcome:
    outcome = await sandbox.run(Job(label, phases))
    if not outcome.completed:
        raise BenchmarkError(f"{label} failed ({outcome.reason}): {outcome.message}\n{outcome.log}")
    return outcome


async def measure(
    sandbox: ProcessSandbox,
    name: str,
    *,
    tier: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    parallel: int,
    start_cpu_s: float,
) -> Row:
    """Gates, then all trials of one program, `parallel` at a time."""
    source = catalogue.source(name)
    outcome = await converse(sandbox, f"{name}: gates", gate_phases(source, track=TRACK, tier=tier))
    report = read_gate_reply(outcome.replies[0])
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
        print(f"  {name:40s} {task:18s} seed {seed}  {curve}  {outcome.phase_wall_s[0]:5.1f} s", flush=True)

    before = _children_cpu_s()
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


def table(rows: Sequence[Row], *, tier: str, tasks: Sequence[str], seeds: Sequence[int], start_cpu_s: float) -> str:
    ranking = [task for task in tasks if tiers.get(TRACK, tier).plan(task).ranks] or list(tasks)
    columns = [*tasks, "composite", "curve score", "study", "CPU-s", "parameters", "of them mixers", "FLOPs/token"]
    lines = [
        f"# Reference mixers at tier `{tier}`",
        "",
        f"Written by `benchmarks/reference_mixers.py`; seeds {', '.join(map(str, seeds))}; {machine()};",
        f"scorer {SCORER_VERSION}.",
        "",
        "Tasks: accuracy at the end of training (bits per byte for text), mean over seeds (each seed in brackets).",
        "Composite: mean of (accuracy - chance) / (1 - chance) at the end, over seeds and these tasks:",
        f"{', '.join(ranking)};",
        "curve score: the same over 10, 25, 50 and 100 % of the steps, which is what a campaign selects on.",
        "Study: the composite measured beforehand with other code, at the sizes of smoke.",
        f"CPU-s: for one seed of all tasks, without the worker's start-up ({start_cpu_s:.1f} CPU-s a trial, which a",
        "warm pool hides).",
        "",
        "Of the references, the taps that start at the present, no activation after a leading convolution, convolution",
        "and SiLU on q, k and v in gated linear attention, and the output gate of Gated DeltaNet were decided while",
        "looking at seeds 0 and 1 of tier smoke. Seed 2 is untouched by them.",
        "",
        "| architecture | " + " | ".join(columns) + " | exponent |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in sorted(rows, key=lambda row: -row.mean("final_score", ranking)):
        cells = [_cell(row, tier, task) for task in tasks]
        cells += [f"**{row.mean('final_score', ranking):.3f}**", f"{row.mean('curve_score', ranking):.3f}"]
        cells += [f"{ORDER[row.name]:.2f}" if row.name in ORDER else "", f"{row.cpu_s:.0f}"]
        cells += [f"{row.cost.parameters:,}", f"{row.cost.mixer_parameters:,}", f"{row.cost.flops_per_token:,.0f}"]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.cost.length_exponent:.2f} |")
    return "\n".join([*lines, "", *_correlations(rows, ranking, tier), "", *noise(rows, tier, tasks, ranking)]) + "\n"


def _cell(row: Row, tier: str, task: str) -> str:
    text = tiers.get(TRACK, tier).task(task).measure == "bits_per_byte"
    values = row.over_seeds("bits_per_byte" if text else "accuracy", task)
    return f"{_mean(values):.2f} ({' '.join(f'{value:.2f}' for value in values)})"


def _correlations(rows: Sequence[Row], ranking: Sequence[str], tier: str) -> list[str]:
    """The study measured at the sizes of smoke, where its order is of learning speed."""
    known = [row for row in rows if row.name in ORDER]
    lines = []
    if tier != "smoke" or len(known) < 4:
        known = []
    for title, metric in (("composite", "final_score"), ("curve score", "curve_score")) if known else ():
        found = spearman([ORDER[row.name] for row in known], [row.mean(metric, ranking) for row in known])
        lines.append(
            f"- Spearman's rho of the {title} with the study's order: **{found.estimate:.2f}** "
            f"(n = {len(known)}, {found.confidence:.0%} interval {found.low:.2f} to {found.high:.2f})"
        )
    costs = sorted(row.cpu_s for row in rows)
    lines.append(f"- CPU-s per program and seed at the median reference: **{costs[len(costs) // 2]:.0f}**")
    return lines


def noise(rows: Sequence[Row], tier: str, tasks: Sequence[str], ranking: Sequence[str]) -> list[str]:
    """The noise floors: seed standard deviation of the curve score, pooled over the references."""
    lines = [
        "## Noise floor",
        "",
        "Standard deviation of the curve score between seeds of one reference, pooled over the references; and the",
        "smallest difference that seed noise does not produce by itself at 2 and at 5 seeds a side.",
        "",
        "| task | sigma | 95 % interval | detectable, n = 2 | n = 5 |",
        "|---|---|---|---|---|",
    ]
    groups = {task: [row.over_seeds("curve_score", task) for row in rows] for task in tasks}
    composites = [
        [_mean(values) for values in zip(*(row.over_seeds("curve_score", task) for task in ranking), strict=True)]
        for row in rows
    ]
    if len(composites[0]) < 2:
        return []
    for name, values in (*groups.items(), ("composite", composites)):
        sigma = pooled_seed_std(values)
        two, five = (smallest_detectable(sigma.estimate, n) for n in (2, 5))
        lines.append(
            f"| {name} | {sigma.estimate:.4f} | {sigma.low:.4f} to {sigma.high:.4f} | {two:.3f} | {five:.3f} |"
        )
    return lines


def machine() -> str:
    return f"{platform.machine()}, one thread per trial, Python {platform.python_version()}, torch {version('torch')}"


def store(rows: Sequence[Row], tier: str, tasks: Sequence[str], folder: Path = STORED) -> Path:
    """Lays the new scores over the stored ones, task by task and program by program."""
    path = folder / f"{tier}.json"
    before = measured.decode(path.read_text(encoding="utf-8")) if path.exists() else measured.Measurements(tier, "")
    if before.measured_with not in ("", machine()):
        raise BenchmarkError(f"{path.name} was measured with {before.measured_with}: move it away to measure anew")
    merged = dict(before.tasks)
    for task in tasks:
        digest = task_hash(TRACK, tier, task)
        scores = {name: dict(one) for name, one in before.scores(TRACK, task).items()}
        for row in rows:
            own = {seed: row.results[t, seed].metrics["curve_score"] for t, seed in row.results if t == task}
            scores[row.name] = dict(sorted({**scores.get(row.name, {}), **own}.items()))
        merged[task] = (digest, scores)
    profiles = {**before.parameters, **{row.name: row.cost.as_dict() for row in rows}}
    current = {task: one for task, one in merged.items() if one[0] == task_hash(TRACK, tier, task)}
    path.parent.mkdir(exist_ok=True)
    text = measured.encode(replace(before, measured_with=machine(), tasks=current, parameters=profiles))
    path.write_text(text, encoding="utf-8")
    return path


async def run(arguments: argparse.Namespace) -> tuple[list[Row], float]:
    sandbox = ProcessSandbox()
    start_cpu_s = await start_up_cpu_s(sandbox)
    print(f"a worker's start-up takes {start_cpu_s:.1f} CPU-s", flush=True)
    rows = []
    for name in arguments.only or catalogue.names():
        settings = {"tier": arguments.tier, "tasks": arguments.tasks, "seeds": arguments.seeds}
        row = await measure(sandbox, name, start_cpu_s=start_cpu_s, parallel=arguments.parallel, **settings)
        rows.append(row)
        store([row], arguments.tier, arguments.tasks)
        print(f"{name}: {row.cpu_s:.0f} CPU-s per seed", flush=True)
    return rows, start_cpu_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tier", default="smoke", choices=tiers.names(TRACK))
    parser.add_argument("--tasks", nargs="+", help="default: those that rank at the tier")
    parser.add_argument("--parallel", type=int, default=2, help="trials at a time: at most one per core")
    parser.add_argument("--only", nargs="+", choices=catalogue.names(), help="these programs only")
    parser.add_argument("--output", type=Path, help="the table (default: beside this script, by tier)")
    arguments = parser.parse_args()
    arguments.tasks = arguments.tasks or list(tiers.get(TRACK, arguments.tier).ranking_tasks)
    rows, start_cpu_s = asyncio.run(run(arguments))
    text = table(rows, tier=arguments.tier, tasks=arguments.tasks, seeds=arguments.seeds, start_cpu_s=start_cpu_s)
    suffix = "" if arguments.tier == "smoke" else f"_{arguments.tier}"
    output = arguments.output or Path(__file__).with_name(f"reference_mixers{suffix}.md")
    print(f"\n{text}")
    if arguments.only and not arguments.output:
        print("not written: a table of some programs would replace that of all; --output says where to")
    else:
        output.write_text(text, encoding="utf-8")
        print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
