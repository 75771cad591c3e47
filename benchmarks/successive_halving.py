"""Replays successive halving over recorded learning curves: what it saves, what it loses, and what its audit measures.

Usage, from the repository's root:
    python -m benchmarks.successive_halving [--record] [--seeds 400]

The curves are 24 programs on three tasks (`benchmarks.halving_curves` says which and how); `--record` trains them
again, a quarter of an hour on one core. Replaying takes seconds and trains nothing.

Questions, in order: at which rung does a task's score so far predict its final one (that decides `earliest_cut`)? Is
the mean of the curve so far or its last point the better predictor? What do schedules save and lose, on the whole field
and on smaller fields drawn from it, with and without the references that stand out?

Not covered: several seeds per program, other tiers, and language modelling.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.halving_curves import RECORDED, REFERENCES, record
from evaluator.halving import Curves, Predictor, Replay, Schedule, replay, so_far
from evaluator.scoring import normalise
from evaluator.statistics import Interval, spearman

FIELD = 8  # of the smaller fields: two cuts leave two survivors
TOP = 3
SAVED_TARGET, REGRET_TARGET = 0.45, 0.02
# Rank correlation with a task's final score from which the task may cut. The study this follows cut language modelling
# at .88 and refused to cut recall at .64 (16 programs).
CUT_ABOVE = 0.85
PREDICTORS: tuple[Predictor, ...] = ("mean", "last")


@dataclass(frozen=True)
class Recording:
    """The recorded file: its head, normalised accuracies, and seconds of training."""

    head: Mapping[str, Any]
    curves: Curves
    seconds: Mapping[str, Mapping[str, float]]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.head["chance"])


@dataclass(frozen=True)
class Trialled:
    """A schedule on fields drawn from some candidates: replays with the curves that they were played over."""

    label: str
    played: tuple[tuple[Replay, Curves], ...]

    def mean(self, values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def cells(self) -> list[str]:
        """Means over replays; the largest regret beside the mean one."""
        replays = [one for one, _ in self.played]
        saved = 1 - self.mean([one.compute for one in replays])
        regrets = [one.regret for one in replays]
        met = round(saved, 3) >= SAVED_TARGET and round(self.mean(regrets), 4) <= REGRET_TARGET
        audited = sum(len(one.audited) for one in replays)
        caught = sum(len(set(one.audited) & set(one.false_kills)) for one in replays)
        return [
            f"{100 * saved:.1f} %",
            f"{100 * self.mean([one.audit_compute for one in replays]):.1f} %",
            f"{100 * self.mean(regrets):.2f} % ({100 * max(regrets):.0f} %)",
            f"{100 * self.mean([end_regret(one, curves) for one, curves in self.played]):.2f} %",
            f"{100 * self.mean([float(one.best in one.survivors) for one in replays]):.1f} %",
            f"{100 * self.mean([one.top_kept(TOP) for one in replays]):.0f} %",
            f"{100 * self.mean([one.false_kill_rate for one in replays]):.2f} %",
            f"{100 * caught / audited:.2f} % of {audited:,}" if audited else "",
            "yes" if met else "no",
        ]


def load(path: Path) -> Recording:
    head = json.loads(path.read_text(encoding="utf-8"))
    kept, chance = head.pop("candidates"), head["chance"]

    def curve(task: str, accuracies: Sequence[float]) -> dict[float, float]:
        return {at: normalise(value, chance[task]) for at, value in zip(head["fractions"], accuracies, strict=True)}

    curves = {
        name: {task: curve(task, one["accuracy"]) for task, one in candidate["tasks"].items()}
        for name, candidate in kept.items()
    }
    seconds = {name: {task: one["train_s"] for task, one in c["tasks"].items()} for name, c in kept.items()}
    return Recording(head, curves, seconds)


def correlation(recording: Recording, task: str, rung: float, predictor: Predictor, *, end: bool = False) -> Interval:
    """Of a task's score at a rung with its final curve score, or with its accuracy at the end."""
    curves = [tasks[task] for tasks in recording.curves.values()]
    early = [so_far(curve, rung, predictor) for curve in curves]
    return spearman(early, [so_far(curve, 1.0, "last" if end else "mean") for curve in curves])


def earliest_cuts(recording: Recording) -> dict[str, float]:
    """The first deciding rung at which a task's mean so far correlates enough; half the budget where none does."""
    rungs = Schedule().rungs[:-1]
    return {
        task: next((r for r in rungs if correlation(recording, task, r, "mean").estimate >= CUT_ABOVE), rungs[-1])
        for task in recording.tasks
    }


def end_regret(played: Replay, curves: Curves) -> float:
    """Regret in accuracy at the end of training: the best among survivors against the best of all, over the range."""
    ends = {name: sum(curve[1.0] for curve in curves[name].values()) / len(curves[name]) for name in played.full}
    best, worst = max(ends.values()), min(ends.values())
    return (best - max(ends[name] for name in played.survivors)) / (best - worst) if best > worst else 0.0


def trials(recording: Recording, cuts: Mapping[str, float], seeds: int) -> Iterator[Trialled]:
    """Schedules on the whole field, then the measured one on smaller fields and without the references."""
    everyone = sorted(recording.curves)
    walks = [name for name in everyone if name not in REFERENCES]
    measured = Schedule(earliest_cut=cuts)

    def on(label: str, names: Sequence[str], size: int, schedule: Schedule, **options: Any) -> Trialled:
        rng = random.Random(0)
        fields = [{name: recording.curves[name] for name in rng.sample(names, size)} for _ in range(seeds)]
        return Trialled(label, tuple((replay(f, schedule, seed=s, **options), f) for s, f in enumerate(fields)))

    everything = len(everyone)
    yield on("as measured", everyone, everything, measured)
    yield on("the same, last point instead of mean", everyone, everything, measured, predictor="last")
    yield on("the same, without audit", everyone, everything, Schedule(earliest_cut=cuts, audit=0.0))
    yield on("the same, in seconds of training", everyone, everything, measured, costs=recording.seconds)
    every = Schedule(earliest_cut=dict.fromkeys(cuts, 0.25))
    yield on("every task from 25 %", everyone, everything, every)
    late = Schedule(earliest_cut=dict.fromkeys(cuts, 0.5))
    yield on("every task from 50 %", everyone, everything, late)
    yield on("as measured, eta 3", everyone, everything, Schedule(eta=3, earliest_cut=cuts))
    yield on(f"as measured, fields of {FIELD}", everyone, FIELD, measured)
    yield on(f"every task from 25 %, fields of {FIELD}", everyone, FIELD, every)
    yield on(f"last point, fields of {FIELD}", everyone, FIELD, measured, predictor="last")
    yield on("as measured, random programs only", walks, len(walks), measured)
    yield on(f"as measured, random programs only, fields of {FIELD}", walks, FIELD, measured)
    yield on(f"every task from 50 %, random programs only, fields of {FIELD}", walks, FIELD, late)


COLUMNS = (
    "schedule", "compute saved", "of full, audit's cost", "regret of the selected (largest)", "regret at the end",
    "best kept", f"of the best {TOP} kept", "false kills", "as the audit measures them", "both targets met",
)  # fmt: skip

NOTES = """
Targets: 45 % of the compute saved at 2 % regret, as rounded here.
Compute: steps trained over the steps of training everyone in full; audits are counted as spent. Regret: curve score of
the best survivor against the best of all, in parts of the field's range; the largest over all replays in brackets.
Regret at the end: the same for accuracy at the end of training. False kills: stopped candidates that would have beaten
the selected one, as a part of all stopped; beside it the part among the audited, pooled over replays, which is all that
a campaign gets to see. Means over replays that differ in the audit's draw, and with smaller fields in their candidates.

With eta 2, two cuts and an audit of a tenth, the expected saving is 45 % exactly: half is trained for nobody, and the
audit gives back .1 (1/2 x 3/4 + 1/4 x 1/2) = 5 %. In seconds it is less, since those that learn best are dearer here.

On the whole field the schedule is deterministic but for the audit, so that its regret is one observation; the smaller
fields say how it varies. They overlap, and `earliest_cut` was chosen on the same curves. References stand out more than
a campaign's candidates will, and are kept by any rule: the rows without them are the ones to plan by. There, halving
small fields from 25 % loses the best too often, because it blooms late. Cuts from 50 % only, or one large field instead
of many small ones, lose less here.
"""


def rung_table(recording: Recording) -> list[str]:
    lines = ["| task | at | mean so far | last point | mean so far with the accuracy at the end |", "|---" * 5 + "|"]
    for task in recording.tasks:
        for rung in Schedule().rungs[:-1]:
            cells = [_shown(correlation(recording, task, rung, predictor)) for predictor in PREDICTORS]
            cells.append(_shown(correlation(recording, task, rung, "mean", end=True)))
            lines.append(f"| {task} | {100 * rung:.0f} % | " + " | ".join(cells) + " |")
    return lines


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def report(recording: Recording, seeds: int) -> str:
    cuts, head = earliest_cuts(recording), recording.head
    lines = [
        f"# Successive halving on {len(recording.curves)} recorded learning curves",
        "",
        f"Written by `benchmarks/successive_halving.py`: {len(REFERENCES)} references and "
        f"{len(recording.curves) - len(REFERENCES)} random programs of the embedded grammar,",
        f"tier `{head['tier']}`, seed {head['seed']}, scorer version {head['scorer']}, objective "
        f"{head['objective'][:12]}; {head['measured_with']}.",
        "",
        "Rank correlation of a task's score at a rung with its final curve score, with bootstrap 95 % intervals:",
        "",
        *rung_table(recording),
        "",
        f"A task may cut from the first rung with {CUT_ABOVE} or more, else from 50 %: "
        + ", ".join(f"{task} {100 * cut:.0f} %" for task, cut in cuts.items())
        + ".",
        "",
        f"Schedules, {seeds} replays each; rungs 25, 50, 100 %, eta 2, audit 10 %, mean so far, unless said otherwise:",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(
            f"| {trialled.label} | " + " | ".join(trialled.cells()) + " |"
            for trialled in trials(recording, cuts, seeds)
        ),
    ]
    return "\n".join(lines) + "\n" + NOTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="train the programs again first")
    parser.add_argument("--seeds", type=int, default=400, help="replays per schedule")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    if arguments.record:
        record()
    text = report(load(RECORDED), arguments.seeds)
    arguments.output.write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
