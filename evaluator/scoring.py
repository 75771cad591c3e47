"""The trusted scorer: metrics from logits and labels that never met inside the sandbox. NumPy, on the host.

N evaluation sequences, L positions, V vocabulary, C checkpoints, M scored positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluator.tasks.task import Batch

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Scores:
    """Accuracy and cross-entropy (nats) over the scored positions."""

    accuracy: float
    loss: float


def log_softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalised: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def score(logits: FloatArray, batch: Batch) -> Scores:
    """Scores of one checkpoint's logits (N, L, V), which must be finite."""
    chosen = logits[batch.scored]  # (M, V)
    labels = batch.targets[batch.scored]
    likelihood = log_softmax(chosen)[np.arange(labels.size), labels]
    return Scores(accuracy=float(np.mean(_first_choice_is(chosen, labels))), loss=float(-likelihood.mean()))


def _first_choice_is(logits: FloatArray, labels: np.ndarray) -> np.ndarray:
    """The label's logit beats every other one; a tie is a miss, or a constant output would score on class 0."""
    own = logits[np.arange(labels.size), labels]
    rivals = logits.copy()
    rivals[np.arange(labels.size), labels] = -np.inf
    hits: np.ndarray = own > rivals.max(axis=-1)
    return hits


def normalise(accuracy: float, chance: float) -> float:
    """z: 0 at chance, 1 when perfect. Negative values are kept: they average out over seeds and tasks."""
    return (accuracy - chance) / (1.0 - chance)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Cross-entropy in nats per token as bits per byte of the text behind the tokens: independent of the vocabulary.

    Source: Gao et al. 2020, "The Pile" (arXiv 2101.00027), section 3.1.
    """
    return loss / float(np.log(2.0)) / bytes_per_token


def canary_z(logits: FloatArray, batch: Batch, chance: float) -> float:
    """Standard scores above chance at positions whose target no causal model can know; 0 where a task has none."""
    count = int(batch.unpredictable.sum())
    if count == 0:
        return 0.0
    hits = float(np.mean(_first_choice_is(logits[batch.unpredictable], batch.targets[batch.unpredictable])))
    return float((hits - chance) / np.sqrt(chance * (1.0 - chance) / count))


@dataclass(frozen=True)
class PrefixAudit:
    """How far predictions from a prefix alone differ from those made with the whole sequence.

    Attributes:
        gap: mean negative log-likelihood of the true target from the prefix, minus that from the whole sequence (nats).
        worst: largest logit difference, relative to the spread of the logits.
        moved: fraction of audited positions whose difference exceeds `MOVED_ABOVE`.
    """

    gap: float
    worst: float
    moved: float

    @property
    def consistent(self) -> bool:
        return self.moved <= MOVED_FRACTION and abs(self.gap) <= GAP_ABOVE


# A trained leak showed gaps of 0.012 to 0.55 bits, an honest model 0.0000; 0.002 bits is the study's bound.
GAP_ABOVE = 0.002 * float(np.log(2.0))
# Honest differences are float32 noise from other matrix shapes (about 1e-6, amplified by training to at most 1e-4); a
# hard router may flip one position on such noise, hence a fraction and not the worst case.
MOVED_ABOVE = 1e-2
MOVED_FRACTION = 0.05


def audit(whole: FloatArray, prefix: FloatArray, targets: np.ndarray) -> PrefixAudit:
    """Compare (K, V) logits at K audited positions against their prefix-only twins."""
    rows = np.arange(targets.size)
    gap = log_softmax(whole)[rows, targets] - log_softmax(prefix)[rows, targets]
    spread = max(float(whole.std()), 1e-6)
    difference = np.abs(whole - prefix).max(axis=-1) / spread
    return PrefixAudit(
        gap=float(gap.mean()), worst=float(difference.max()), moved=float(np.mean(difference > MOVED_ABOVE))
    )


@dataclass(frozen=True)
class BlindAudit:
    """Whether what is scored survives when everything after the scored position is replaced.

    Judged in both quantities that are scored, accuracy and likelihood, so no scale of the logits hides anything, and at
    every checkpoint that enters the score. Shapes are equal, so an honest model answers alike but for a tie or two.

    Attributes:
        flipped: largest fraction, over the checkpoints, of rows whose prediction at the cut was right once, wrong once.
        z: largest excess, in standard errors, of the accuracy on whole sequences over that at the cuts. A program that
            recognises the audited rows and answers them honestly has to be as bad everywhere, or shows here.
        gap: largest difference, over the checkpoints, between the mean likelihoods (nats) of the labels at the cuts.
        z_nats: as `z`, for the likelihood.
    """

    flipped: float
    z: float
    gap: float
    z_nats: float

    @property
    def consistent(self) -> bool:
        right = self.flipped <= FLIPPED_FRACTION and self.z <= BLIND_Z
        return right and self.gap <= GAP_ABOVE and self.z_nats <= BLIND_Z


# Shapes are equal, so an honest model flips only where float32 noise meets a tie: none in the references.
FLIPPED_FRACTION = 0.02
# The audited rows are among the scored ones, so an honest excess is well below one standard error of two means.
BLIND_Z = 4.0


def blind_audit(whole: FloatArray, blind: FloatArray, batch: Batch, cuts: np.ndarray) -> BlindAudit:
    """Compare logits (C, N, L, V) for whole sequences with those where the tokens after `cuts` (N,) were replaced.

    Rows in which nothing is scored have no cut that matters and are left out.
    """
    rows = np.flatnonzero(batch.scored.any(axis=1))
    at = cuts[rows]
    labels = batch.targets[rows, at]
    weights = batch.scored[rows] / batch.scored[rows].sum(axis=1, keepdims=True)  # every row counts once
    found = []
    for seen, unseen in zip(whole, blind, strict=True):
        hits = _first_choice_is(unseen[rows, at], labels)
        flipped = float(np.mean(hits != _first_choice_is(seen[rows, at], labels)))
        right = np.zeros(batch.scored.shape)
        right[batch.scored] = _first_choice_is(seen[batch.scored], batch.targets[batch.scored])
        full = float((right[rows] * weights).sum() / rows.size)
        pooled = (full + float(hits.mean())) / 2
        error = np.sqrt(max(pooled * (1.0 - pooled), 1e-9) * 2.0 / rows.size)
        nats = _likelihood(unseen[rows, at], labels)
        gap = abs(float(np.mean(_likelihood(seen[rows, at], labels) - nats)))
        everywhere = np.zeros(batch.scored.shape)
        everywhere[batch.scored] = _likelihood(seen[batch.scored], batch.targets[batch.scored])
        each = (everywhere[rows] * weights).sum(axis=1)
        spread = np.sqrt(max(float(each.var() + nats.var()), 1e-9) / rows.size)
        found.append((flipped, (full - float(hits.mean())) / error, gap, float((each - nats).mean()) / spread))
    flips, excesses, gaps, excesses_nats = zip(*found, strict=True)
    return BlindAudit(max(flips), float(max(excesses)), max(gaps), float(max(excesses_nats)))


def _likelihood(logits: FloatArray, labels: np.ndarray) -> FloatArray:
    """(M, V) -> log-likelihood (nats) of each label."""
    return log_softmax(logits)[np.arange(labels.size), labels]  # type: ignore[no-any-return]
