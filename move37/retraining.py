"""An experiment's replay: the stored program trained again, and every metric compared with the stored one.

Where the environment is the same in everything that decides arithmetic, the metrics have to come out bit-identical.
Elsewhere (another processor, PyTorch, number of threads or device) sums are rounded in another order, and training
carries the difference on: there a tolerance per metric applies, stated in `tolerance_of` with its reasons.

Throughput and memory depend on the machine's mood: they are shown and never compared. Not covered: proving that two
processors are the same one; what the kernel tells of them is all that is recorded (`machine.fingerprint`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluator.trial import TrialRequest
from memory.records import Experiment, Trial
from memory.store import Store
from move37.errors import NotThere
from move37.laboratory import Laboratory, Progress, TrialOutcome
from move37.launch import check_objective, stored_config

UNREPEATABLE = frozenset({"train_tokens_per_s", "peak_memory_bytes"})

# What decides the last bit of a sum: the instructions that the kernels are made of, the libraries that bring them (an
# image has its own), how many threads share a sum, on which device and at which precision. Not the sandbox's walls, the
# kernel or the interpreter: those are shown where they differ, and excuse nothing.
DECISIVE = frozenset({
    "processor", "cpu.vendor", "cpu.family", "cpu.model", "cpu.arithmetic", "machine", "libc", "image_id",
    "hello.torch", "hello.numpy", "hello.threads", "hello.accelerator", "device", "execution.device",
    "execution.precision",
})  # fmt: skip
_WORDS = frozenset({"cpu.arithmetic", "cpu.flags"})
_ACCIDENTAL = frozenset({"warm", "execution.step"})  # differ from one run to the next on one machine

_ON_A_SCALE_OF_ONE = 0.02
_LOSS = 0.05
_SCORES = frozenset({"score", "curve_score", "final_score", "accuracy", "normalised_accuracy"})
_AUDITS = frozenset({
    "prefix_gap", "prefix_worst", "blind_flipped", "blind_gap", "blind_z", "blind_z_nats", "canary_z",
})  # fmt: skip


def tolerance_of(metric: str, override: float | None = None) -> float | None:
    """How far a metric may lie from the stored one where the environment differs; None: it is not compared there.

    - Scores and accuracies: 0.02. More than ten times what rounding did: with PyTorch's kernels held to older
      instruction sets (AVX2, then nothing beyond SSE) on one machine, softmax attention on `recall` at tier smoke moved
      by 0.0005 in its score and 0.0017 in an accuracy. And less than another training seed does: the pooled standard
      deviations of the score at that tier are 0.023 to 0.062 (docs/evaluation.md), so that a result which only another
      seed would explain is not taken for a reproduction.
    - The loss: 0.05 nats, by the first measure; it moved by 0.004.
    - The figures of the audits (leak and canary statistics): not compared. They are made of rounding themselves; what
      they are for is the verdict, and how the trial ended is compared.
    - Counts (parameters, points of a curve, runs, learning rate, how it ended): exact. They depend on no sum.

    `override` replaces the first two.
    """
    if metric in _SCORES or metric.startswith("accuracy at "):
        return _ON_A_SCALE_OF_ONE if override is None else override
    if metric == "loss":
        return _LOSS if override is None else override
    return None if metric in _AUDITS or metric in UNREPEATABLE else 0.0


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one trial, stored and measured again. `tolerance` is what applied to it: 0.0 is bit for bit."""

    task: str
    seed: int
    metric: str
    stored: float | None
    replayed: float | None
    compared: bool
    tolerance: float | None = 0.0

    @property
    def identical(self) -> bool:
        """Bit-identical (NaN never is)."""
        return self.stored == self.replayed

    @property
    def difference(self) -> float:
        """Absolute; infinity where one side is missing."""
        if self.stored is None or self.replayed is None:
            return 0.0 if self.identical else math.inf
        return abs(self.stored - self.replayed)

    @property
    def within(self) -> bool:
        """Whether it counts as reproduced."""
        return not self.compared or self.tolerance is None or self.difference <= self.tolerance


@dataclass(frozen=True)
class ExperimentReplay:
    """What a replay of an experiment found.

    `environment_differences`: field, as stored, as here. `tolerance`: what applied to scores (and accuracies) and to
    losses; empty where the bits have to agree.
    """

    experiment: str
    comparisons: list[MetricComparison]
    environment_differences: dict[str, tuple[Any, Any]]
    tolerance: dict[str, float]

    @property
    def decisive(self) -> list[str]:
        """The differing fields that may change the last bit; with one of them the tolerance applies."""
        return [name for name in self.environment_differences if name in DECISIVE]

    @property
    def identical(self) -> bool:
        """Whether every repeatable metric came out bit-identical."""
        return all(c.identical for c in self.comparisons if c.compared)

    @property
    def reproduced(self) -> bool:
        """Whether it counts as the same result: identical, or elsewhere and within the tolerance."""
        return all(c.within for c in self.comparisons)

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference of a metric that is compared; infinity where one side is missing."""
        compared = (c.difference for c in self.comparisons if c.compared and c.tolerance is not None)
        return max(compared, default=0.0)


async def replay_experiment(
    store: Store,
    experiment: Experiment,
    laboratory: Laboratory,
    *,
    on_progress: Progress | None = None,
    tolerance: float | None = None,
) -> ExperimentReplay:
    """Trains the stored program again, trial by trial. `tolerance` replaces the stated one of scores and losses.

    Raises:
        ConfigError, NotThere: as `require_retrainable`.
    """
    goal = stored_config(store.campaign(experiment.campaign_id)).objective
    source, trials = require_retrainable(store, experiment)
    outcomes: list[tuple[Trial, TrialOutcome]] = []
    environment: dict[str, tuple[Any, Any]] = {}
    for trial in trials:
        if on_progress is not None:
            on_progress({"task": trial.task, "seed": trial.seed})
        request = TrialRequest(
            experiment.track, trial.tier, trial.task, trial.seed, trial.data, goal.salt or "", goal.learning_rates
        )
        outcome = await laboratory.trial(source, request, label=f"{trial.id}/replay", on_progress=on_progress)
        outcomes.append((trial, outcome))
        environment.update(environment_differences(trial.environment, outcome.environment))
    elsewhere = not DECISIVE.isdisjoint(environment)
    rows = [row for trial, outcome in outcomes for row in _compare(trial, outcome, elsewhere, tolerance)]
    applied = {m: tolerance_of(m, tolerance) or 0.0 for m in ("score", "loss")} if elsewhere else {}
    return ExperimentReplay(experiment.id, rows, environment, applied)


def require_retrainable(store: Store, experiment: Experiment) -> tuple[str, list[Trial]]:
    """The program and the finished trials of an experiment.

    Raises:
        ConfigError: its campaign was not run by Move37, or the objective has changed since (scorer or recipe).
        NotThere: it is not finished, or nothing was trained, so there is no result to compare with.
    """
    campaign = store.campaign(experiment.campaign_id)
    config = stored_config(campaign)
    if not experiment.finished:
        raise NotThere(
            f"{experiment.id} is not finished: there is no result to compare with yet. `move37 resume "
            f"{campaign.name}` finishes it."
        )
    trials = [t for t in store.trials(experiment.id) if t.state != "open"]
    if experiment.program_sha256 is None or not trials:
        raise NotThere(
            f"{experiment.id} was never trained ({experiment.status}: {experiment.reason}), so there is no metric to "
            f"compare. `move37 replay {campaign.name}` re-drives how it came to that."
        )
    check_objective(campaign, config)
    return store.program(experiment.program_sha256).source, trials


def _compare(trial: Trial, outcome: TrialOutcome, elsewhere: bool, override: float | None) -> list[MetricComparison]:
    pairs: list[tuple[str, float | None, float | None]] = [
        ("score", trial.score, outcome.score),
        (f"ended as {trial.reason}", 1.0, float(trial.reason == outcome.reason)),
        ("curve points", len(trial.curve), len(outcome.curve)),
    ]
    pairs += [(m, trial.metrics.get(m), outcome.metrics.get(m)) for m in sorted({*trial.metrics, *outcome.metrics})]
    pairs += [
        (f"accuracy at {old['fraction']:.0%}", old["accuracy"], new["accuracy"])
        for old, new in zip(trial.curve, outcome.curve, strict=False)
    ]
    return [
        MetricComparison(
            trial.task,
            trial.seed,
            metric,
            stored,
            replayed,
            compared=metric not in UNREPEATABLE,
            tolerance=tolerance_of(metric, override) if elsewhere else 0.0,
        )
        for metric, stored, replayed in pairs
    ]


def environment_differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, nested ones dotted: as stored, as here; of lists of flags, those that only one has. What
    differs by accident is left out, and so is `cpu` where the stored trial is from before it was recorded."""
    before, now = _flat(stored), _flat(here)
    skipped = _ACCIDENTAL if "cpu" in stored else {*_ACCIDENTAL, *(name for name in now if name.startswith("cpu."))}
    return {
        name: _apart(before.get(name), now.get(name)) if name in _WORDS else (before.get(name), now.get(name))
        for name in sorted({*before, *now} - skipped)
        if before.get(name) != now.get(name)
    }


def _apart(stored: Any, here: Any) -> tuple[str, str]:
    """The words that only one of them has."""
    before, now = (str(words or "").split() for words in (stored, here))
    return " ".join(x for x in before if x not in now), " ".join(x for x in now if x not in before)


def _flat(environment: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    platform = flat.get("platform")
    if isinstance(platform, str) and "-with-" in platform:
        flat["libc"] = platform.rpartition("-with-")[2]  # its mathematics, apart from the kernel's release
    return flat
