"""One trial: the conversation that trains a program on a task, and the score of what came back. Host side, no torch.

Phases: `train` (program and training stream go in; no evaluation input exists in the sandbox yet); `blind` (evaluation
inputs whose every token after a secret cut, one scored position per row, comes from another sequence); `predict` (the
inputs themselves); both return logits at four checkpoints; `audit` (prefixes go in; the last position's logits must be
those of the whole sequence). Labels stay here.

`blind` comes first and looks like `predict`: at the cuts both must answer alike, and what is right on whole sequences
must be as often right at the cuts. So a program that reads ahead, or remembers what it was shown, gains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from evaluator import scoring, tiers
from evaluator.errors import WireError
from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.tasks import streams
from evaluator.tasks.streams import Data
from evaluator.tasks.task import Batch
from evaluator.tiers import FRACTIONS, Tier
from evaluator.wire import ArraySpec, Frame, FrameKind, arrays, control

AUDIT_LENGTHS = 4
AUDIT_ROWS = 16
CANARY_Z = 5.0


@dataclass(frozen=True)
class TrialRequest:
    """What one trial measures.

    `salt` is a secret of the host mixed into the evaluation stream. Without it the evaluation data of a small seed can
    be recomputed by whoever guesses the seed; results under different salts are not paired.
    """

    track: str
    tier: str
    task: str
    seed: int
    data: Data = "selection"
    salt: str = ""


@dataclass(frozen=True)
class TrialResult:
    """The verdict on one trial. `score` is the mean normalised accuracy over the learning curve; None unless `ok`."""

    status: Literal["ok", "invalid"]
    reason: str
    message: str
    score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Material:
    """The evaluation side of a trial, recomputed from the request whenever it is needed."""

    tier: Tier
    batch: Batch
    audited: tuple[tuple[np.ndarray, int], ...]  # (row indices, position) per prefix length
    cuts: np.ndarray  # (N,) the last position of each row that is true in the blind inputs
    blind: np.ndarray  # (N, L) tokens


def _material(request: TrialRequest) -> _Material:
    tier = tiers.get(request.track, request.tier)
    task = tier.task(request.task)
    rng = streams.generator(_words(request, "evaluation"))
    batch = task.batch(rng, tier.evaluation_sequences, _table(request))
    # One position out of each quarter of the sequence, drawn after the data.
    edges = [int(edge) for edge in np.linspace(1, task.length - 1, AUDIT_LENGTHS + 1)]
    audited = []
    for low, high in pairwise(edges):
        position = int(rng.integers(low, high))
        rows = rng.choice(tier.evaluation_sequences, size=min(AUDIT_ROWS, tier.evaluation_sequences), replace=False)
        audited.append((np.sort(rows), position))
    columns = [np.flatnonzero(row) if row.any() else np.arange(task.length) for row in batch.scored]
    cuts = np.array([rng.choice(candidates) for candidates in columns])
    other = task.batch(rng, tier.evaluation_sequences, _table(request)).tokens
    blind = np.where(np.arange(task.length) <= cuts[:, None], batch.tokens, other)
    return _Material(tier, batch, tuple(audited), cuts, blind)


def _words(request: TrialRequest, role: streams.Role) -> streams.Words:
    return streams.words(role, task=request.task, seed=request.seed, data=request.data, salt=request.salt)


def _table(request: TrialRequest) -> np.ndarray:
    task = tiers.get(request.track, request.tier).task(request.task)
    return task.table(streams.generator(_words(request, "table")))


def trial_phases(source: str, request: TrialRequest) -> tuple[Phase, ...]:
    """The phases of a trial of `source`.

    Raises:
        UnknownTrack, UnknownTier, UnknownTask: the request names what does not exist.
    """
    material = _material(request)
    tier, batch = material.tier, material.batch
    task = tier.task(request.task)
    job = control(
        {
            "type": "job",
            "kind": "trial",
            "protocol": PROTOCOL_VERSION,
            "track": request.track,
            "tier": request.tier,
            "task": request.task,
            "streams": {role: list(_words(request, role)) for role in ("train", "initialisation", "table")},
        }
    )
    program = Frame(FrameKind.PROGRAM, source.encode("utf-8"))
    count, length = batch.tokens.shape
    prefixes = {
        f"prefix_{index}": batch.tokens[rows, : position + 1] for index, (rows, position) in enumerate(material.audited)
    }
    answers = tuple(
        ArraySpec(f"logits_{index}", "float32", (rows.size, task.vocabulary))
        for index, (rows, _) in enumerate(material.audited)
    )
    logits = ArraySpec("logits", "float32", (len(FRACTIONS), count, length, task.vocabulary))
    return (
        Phase("train", (job, program), None, tier.train_timeout_s),
        Phase("blind", (arrays({"tokens": material.blind}),), (logits,), tier.predict_timeout_s),
        Phase("predict", (arrays({"tokens": batch.tokens}),), (logits,), tier.predict_timeout_s),
        Phase("audit", (arrays(prefixes),), answers, tier.predict_timeout_s),
    )


def score_trial(request: TrialRequest, replies: Sequence[Any], phase_wall_s: Sequence[float]) -> TrialResult:
    """Score the replies to `trial_phases`, in order: a control object, then three dicts of arrays.

    Raises:
        WireError: the replies are not those of a completed trial.
    """
    if len(replies) != 4 or len(phase_wall_s) != 4:
        raise WireError(f"a trial has 4 replies and 4 times, got {len(replies)} and {len(phase_wall_s)}")
    material = _material(request)
    blind, logits = replies[1]["logits"], replies[2]["logits"]
    prefix_logits = [replies[3][f"logits_{index}"] for index in range(len(material.audited))]
    claims = _claims(replies[0])
    if not all(np.isfinite(array).all() for array in (blind, logits, *prefix_logits)):
        return TrialResult("invalid", "non_finite", "The model's logits hold NaN or infinite values.", None, claims)
    task = material.tier.task(request.task)
    curve = _curve(material, logits, request.task)
    audit = _audit(material, logits[-1], prefix_logits)
    hidden = scoring.blind_audit(logits, blind, material.batch, material.cuts)
    canary = scoring.canary_z(logits[-1], material.batch, task.canary_chance)
    score = float(np.mean([scoring.normalise(point["accuracy"], task.chance) for point in curve]))
    tokens = material.tier.plan(request.task).steps * material.tier.batch * task.length
    metrics = claims | {
        "accuracy": curve[-1]["accuracy"],
        "normalised_accuracy": scoring.normalise(curve[-1]["accuracy"], task.chance),
        "curve_score": score,
        "loss": curve[-1]["loss"],
        "prefix_gap": audit.gap,
        "prefix_worst": audit.worst,
        "blind_flipped": hidden.flipped,
        "blind_z": hidden.z,
        "canary_z": canary,
        "train_tokens_per_s": tokens / max(phase_wall_s[0], 1e-9),
    }
    if not hidden.consistent:
        message = (
            f"With other tokens after the scored position, {100 * hidden.flipped:.1f} % of the predictions changed, "
            f"and whole sequences were right {hidden.z:.1f} standard errors more often: it used later tokens."
        )
        return TrialResult("invalid", "future_dependent", message, None, metrics, curve)
    if not audit.consistent:
        message = (
            f"Given only a prefix the model predicts otherwise ({100 * audit.moved:.0f} % of audited positions moved; "
            f"likelihood gap {audit.gap:.4f} nats): it used later tokens of the sequence."
        )
        return TrialResult("invalid", "prefix_inconsistent", message, None, metrics, curve)
    if canary > CANARY_Z:
        message = f"The model predicts tokens that are drawn at random ({canary:.0f} standard deviations above chance)."
        return TrialResult("invalid", "predicts_chance", message, None, metrics, curve)
    return TrialResult("ok", "ok", f"Curve score {score:.3f}.", score, metrics, curve)


def _curve(material: _Material, logits: np.ndarray, task: str) -> list[dict[str, float]]:
    steps = material.tier.checkpoints(task)
    curve = []
    for fraction, step, values in zip(FRACTIONS, steps, logits, strict=True):
        scores = scoring.score(values, material.batch)
        curve.append({"fraction": fraction, "step": step, "accuracy": scores.accuracy, "loss": scores.loss})
    return curve


def _audit(material: _Material, logits: np.ndarray, prefix_logits: Sequence[np.ndarray]) -> scoring.PrefixAudit:
    whole = np.concatenate([logits[rows, position] for rows, position in material.audited])
    targets = np.concatenate([material.batch.targets[rows, position] for rows, position in material.audited])
    return scoring.audit(whole, np.concatenate(prefix_logits), targets)


_CLAIMS = ("parameters", "mixer_parameters", "mlp_hidden", "peak_memory_bytes")


def _claims(done: Mapping[str, Any]) -> dict[str, float]:
    """What the container says about itself: stored and shown as its claims, never part of a score.

    Raises:
        WireError: a claim is missing or no plain number.
    """
    for name in _CLAIMS:
        if type(done.get(name)) not in (int, float):
            raise WireError(f"the training phase reported no number for {name!r}")
    return {name: float(done[name]) for name in _CLAIMS}
