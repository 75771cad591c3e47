"""One trial: the conversation that trains a program on a task, and the score of what came back. Host side, no torch.

Phases: `train` (program and training stream go in; no evaluation input exists in the sandbox yet); `blind` (evaluation
inputs whose every token after a secret cut, one scored position per row, comes from another sequence); `predict` (the
inputs themselves); both return logits at four checkpoints; `audit` (prefixes go in; the last position's logits must be
those of the whole sequence). Labels stay here.

`blind` comes first and looks like `predict`: at the cuts both must answer alike, and what is right on whole sequences
must be as often right at the cuts. So a program that reads ahead, or remembers what it was shown, gains nothing.

A text task trains on a corpus that the host sends along; with a large vocabulary, logits come back for some columns
(positions that are the same in every row) only. An auto-encoding task answers from the last position, after the whole
input, so nothing can be audited for causality: its phases are `train` and `predict`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from evaluator import scoring, tiers
from evaluator.errors import WireError
from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.tasks import streams
from evaluator.tasks.streams import Data
from evaluator.tasks.task import Batch, Task
from evaluator.text import bounded_message
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

    `learning_rates` other than the recipe's one are all trained, and the one with the lowest late training loss is
    scored: recurrent mixers learn in a narrow window (arXiv 2508.19029). The trial's time is that of all runs.
    """

    track: str
    tier: str
    task: str
    seed: int
    data: Data = "selection"
    salt: str = ""
    learning_rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """The verdict on one trial. `score` is the mean over the learning curve of what the task measures; None unless
    `ok`: accuracy, normalised so that guessing is 0, or the share of eight bits that a byte does not cost.

    `claims` are words of the container about how it ran (device, precision, what was compiled and why): stored as such.
    """

    status: Literal["ok", "invalid"]
    reason: str
    message: str
    score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    claims: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Material:
    """The evaluation side of a trial, recomputed from the request whenever it is needed.

    N sequences of L positions, of which K columns are asked for; `batch` holds all positions, `asked` those columns.
    """

    tier: Tier
    task: Task
    batch: Batch
    columns: np.ndarray  # (K,) ascending
    audited: tuple[tuple[np.ndarray, int], ...]  # (row indices, position) per prefix length
    cuts: np.ndarray  # (N,) the last position of each row that is true in the blind inputs
    blind: np.ndarray  # (N, L) tokens

    @property
    def asked(self) -> Batch:
        """The batch at the columns asked for: (N, K) everywhere."""
        return Batch(*(getattr(self.batch, name)[:, self.columns] for name in Batch.__dataclass_fields__))

    @property
    def cut_columns(self) -> np.ndarray:
        """(N,) where the cuts stand among the columns."""
        return np.searchsorted(self.columns, self.cuts)

    @property
    def causal(self) -> bool:
        return self.task.head == "token"


def _material(request: TrialRequest) -> _Material:
    tier = tiers.get(request.track, request.tier).for_task(request.task)
    task = tier.task(request.task)
    rng = streams.generator(_words(request, "evaluation"))
    table = _table(request, task)
    batch = task.batch(rng, tier.evaluation_sequences, table)
    columns = np.arange(task.length)
    if task.scored_columns:
        worth = np.flatnonzero(batch.scored.any(axis=0))
        columns = np.sort(rng.choice(worth, size=min(task.scored_columns, worth.size), replace=False))
    scored = np.zeros(batch.scored.shape, dtype=np.bool_)
    scored[:, columns] = batch.scored[:, columns]
    batch = replace(batch, scored=scored)
    # One position out of each quarter of the columns, drawn after the data.
    audited = []
    for low, high in pairwise(int(edge) for edge in np.linspace(0, columns.size - 1, AUDIT_LENGTHS + 1)):
        position = int(columns[min(int(rng.integers(max(1, low), max(2, high))), columns.size - 1)])
        rows = rng.choice(tier.evaluation_sequences, size=min(AUDIT_ROWS, tier.evaluation_sequences), replace=False)
        audited.append((np.sort(rows), position))
    candidates = [np.flatnonzero(row) if row.any() else columns for row in batch.scored]
    cuts = np.array([rng.choice(one) for one in candidates])
    other = task.batch(rng, tier.evaluation_sequences, table).tokens
    blind = np.where(np.arange(task.length) <= cuts[:, None], batch.tokens, other)
    return _Material(tier, task, batch, columns, tuple(audited), cuts, blind)


def _words(request: TrialRequest, role: streams.Role) -> streams.Words:
    return streams.words(role, task=request.task, seed=request.seed, data=request.data, salt=request.salt)


def _table(request: TrialRequest, task: Task) -> np.ndarray:
    """What the evaluation shares with training (a fixed table), or the text that evaluation sequences are cut from."""
    if task.corpus_name is not None:
        return task.corpus(request.data)
    return task.table(streams.generator(_words(request, "table")))


def trial_phases(source: str, request: TrialRequest) -> tuple[Phase, ...]:
    """The phases of a trial of `source`.

    Raises:
        UnknownTrack, UnknownTier, UnknownTask: the request names what does not exist.
    """
    material = _material(request)
    task, tier = material.task, material.tier
    job = control(
        {
            "type": "job",
            "kind": "trial",
            "protocol": PROTOCOL_VERSION,
            "track": request.track,
            "tier": request.tier,
            "task": request.task,
            "learning_rates": list(request.learning_rates),
            "streams": {role: list(_words(request, role)) for role in ("train", "initialisation", "table")},
        }
    )
    sent = [job, Frame(FrameKind.PROGRAM, source.encode("utf-8"))]
    if task.corpus_name is not None:
        sent.append(arrays({"corpus": _compact(task.corpus("train"), task.vocabulary)}))
    count, columns = material.batch.tokens.shape[0], material.columns
    logits = ArraySpec("logits", "float32", (len(FRACTIONS), count, columns.size, task.vocabulary))
    train = Phase("train", tuple(sent), None, tier.train_timeout_s * max(1, len(request.learning_rates)))

    def asking(name: str, tokens: np.ndarray) -> Phase:
        return Phase(name, (arrays({"tokens": tokens, "columns": columns}),), (logits,), tier.predict_timeout_s)

    predict = asking("predict", material.batch.tokens)
    return (
        (train, asking("blind", material.blind), predict, _audit_phase(material))
        if material.causal
        else (train, predict)
    )


def _compact(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Tokens in the smallest type that holds them: a corpus of hundreds of millions has to fit into one frame."""
    return tokens.astype(np.uint8 if vocabulary <= 1 << 8 else np.uint16 if vocabulary <= 1 << 16 else np.int32)


def _audit_phase(material: _Material) -> Phase:
    prefixes = {
        f"prefix_{index}": material.batch.tokens[rows, : position + 1]
        for index, (rows, position) in enumerate(material.audited)
    }
    answers = tuple(
        ArraySpec(f"logits_{index}", "float32", (rows.size, material.task.vocabulary))
        for index, (rows, _) in enumerate(material.audited)
    )
    return Phase("audit", (arrays(prefixes),), answers, material.tier.predict_timeout_s)


def score_trial(request: TrialRequest, replies: Sequence[Any], phase_wall_s: Sequence[float]) -> TrialResult:
    """Score the replies to `trial_phases`, in order: a control object, then dicts of arrays.

    Raises:
        WireError: the replies are not those of a completed trial.
    """
    material = _material(request)
    expected = 4 if material.causal else 2
    if len(replies) != expected or len(phase_wall_s) != expected:
        raise WireError(f"this trial has {expected} replies and times, got {len(replies)} and {len(phase_wall_s)}")
    numbers, claims = _claims(replies[0])
    answered = [array for reply in replies[1:] for array in reply.values()]
    if not all(np.isfinite(array).all() for array in answered):
        message = "The model's logits hold NaN or infinite values."
        return TrialResult("invalid", "non_finite", message, None, numbers, claims=claims)
    task = material.task
    curve = _curve(material, request.task, replies[2 if material.causal else 1]["logits"])
    score = float(np.mean([_worth(task, point) for point in curve]))
    runs = max(1, len(request.learning_rates))
    tokens = runs * material.tier.plan(request.task).steps * material.tier.batch * task.length
    metrics = numbers | {
        "accuracy": curve[-1]["accuracy"],
        "curve_score": score,
        "loss": curve[-1]["loss"],
        "final_score": _worth(task, curve[-1]),
        "train_tokens_per_s": tokens / max(phase_wall_s[0], 1e-9),
    }
    if task.measure == "bits_per_byte":
        metrics["bits_per_byte"] = curve[-1]["bits_per_byte"]
    else:
        metrics["normalised_accuracy"] = scoring.normalise(curve[-1]["accuracy"], task.chance)
    fault = _fault(material, replies, metrics) if material.causal else None
    if fault is not None:
        return TrialResult("invalid", *fault, None, metrics, curve, claims)
    return TrialResult("ok", "ok", f"Curve score {score:.3f}.", score, metrics, curve, claims)


def _worth(task: Task, point: Mapping[str, float]) -> float:
    """One point of the curve on the scale that is averaged over tasks: 0 for knowing nothing, 1 for everything."""
    if task.measure == "bits_per_byte":
        return 1.0 - point["bits_per_byte"] / 8.0
    return scoring.normalise(point["accuracy"], task.chance)


def _fault(material: _Material, replies: Sequence[Any], metrics: dict[str, float]) -> tuple[str, str] | None:
    """Reason and message if an audit finds that answers depend on the future. Adds its measurements to `metrics`."""
    blind, logits = replies[1]["logits"], replies[2]["logits"]
    audit = _audit(material, logits[-1], [replies[3][f"logits_{index}"] for index in range(len(material.audited))])
    hidden = scoring.blind_audit(logits, blind, material.asked, material.cut_columns)
    canary = scoring.canary_z(logits[-1], material.asked, material.task.canary_chance)
    metrics |= {
        "prefix_gap": audit.gap,
        "prefix_worst": audit.worst,
        "blind_flipped": hidden.flipped,
        "blind_z": hidden.z,
        "blind_gap": hidden.gap,
        "blind_z_nats": hidden.z_nats,
        "canary_z": canary,
    }
    if not hidden.consistent:
        return "future_dependent", (
            f"With other tokens after the scored position, {100 * hidden.flipped:.1f} % of the predictions changed and "
            f"likelihoods by {hidden.gap:.4f} nats; whole sequences were right {hidden.z:.1f} and likely "
            f"{hidden.z_nats:.1f} standard errors more often: it used later tokens."
        )
    if not audit.consistent:
        return "prefix_inconsistent", (
            f"Given only a prefix the model predicts otherwise ({100 * audit.moved:.0f} % of audited positions moved; "
            f"likelihood gap {audit.gap:.4f} nats): it used later tokens of the sequence."
        )
    if canary > CANARY_Z:
        return "predicts_chance", (
            f"The model predicts tokens that are drawn at random ({canary:.0f} standard deviations above chance)."
        )
    return None


def _curve(material: _Material, task: str, logits: np.ndarray) -> list[dict[str, float]]:
    steps = material.tier.checkpoints(task)
    asked = material.asked
    curve = []
    for fraction, step, values in zip(FRACTIONS, steps, logits, strict=True):
        scores = scoring.score(values, asked)
        point = {"fraction": fraction, "step": step, "accuracy": scores.accuracy, "loss": scores.loss}
        if material.task.measure == "bits_per_byte":
            point["bits_per_byte"] = scoring.bits_per_byte(scores.loss, material.task.bytes_per_token)
        curve.append(point)
    return curve


def _audit(material: _Material, logits: np.ndarray, prefix_logits: Sequence[np.ndarray]) -> scoring.PrefixAudit:
    at = {position: int(np.searchsorted(material.columns, position)) for _, position in material.audited}
    whole = np.concatenate([logits[rows, at[position]] for rows, position in material.audited])
    targets = np.concatenate([material.batch.targets[rows, position] for rows, position in material.audited])
    return scoring.audit(whole, np.concatenate(prefix_logits), targets)


_NUMBERS = ("parameters", "mixer_parameters", "mlp_hidden", "peak_memory_bytes", "learning_rate", "runs")
_WORDS_CAP = 12


def _claims(done: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """What the container says about itself: stored and shown as its claims, never part of a score.

    Raises:
        WireError: a claim is missing, no plain number, or no short text.
    """
    for name in _NUMBERS:
        if type(done.get(name)) not in (int, float):
            raise WireError(f"the training phase reported no number for {name!r}")
    words = done.get("execution", {})
    if not isinstance(words, dict) or len(words) > _WORDS_CAP or not all(isinstance(v, str) for v in words.values()):
        raise WireError("the training phase reported an execution that is not a few short texts")
    return (
        {name: float(done[name]) for name in _NUMBERS},
        {bounded_message(name)[:40]: bounded_message(text)[:200] for name, text in words.items()},
    )
