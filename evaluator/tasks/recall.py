"""In-context recall, plain and noisy: key-value pairs from a map that is new in every sequence.

Source: Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), tasks in-context
recall and noisy in-context recall. As there, the training target is the whole next-token language model, while accuracy
counts only values whose key was seen before. Sizes and step counts are in `evaluator.tiers`.
Different: vectorised, fresh data every step, and all randomness comes from the generator passed in.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks.task import Batch, BoolArray, IntArray, Task, seen_before


def _next_token_batch(sequence: IntArray, is_value: BoolArray, is_key: BoolArray) -> Batch:
    """From (B, L+1) tokens: inputs, their successors, and which successors are recallable or pure chance."""
    tokens, targets = sequence[:, :-1], sequence[:, 1:]
    # The key of a value is the token before it, hence "known" is read at the input position.
    known = seen_before(sequence)[:, :-1]
    return Batch(
        tokens=np.ascontiguousarray(tokens),
        targets=np.ascontiguousarray(targets),
        trained=np.ones(tokens.shape, dtype=np.bool_),
        scored=is_value[:, 1:] & known,
        unpredictable=np.ascontiguousarray(is_key[:, 1:]),
    )


@dataclass(frozen=True)
class InContextRecall(Task):
    """Keys are [0, V/2), values [V/2, V); keys are i.i.d. uniform, the map is uniform per sequence."""

    name: ClassVar[str] = "recall"
    title: ClassVar[str] = "In-context recall"
    description: ClassVar[str] = (
        "Sequences of key-value pairs under a key-to-value map drawn anew for each sequence. The model predicts every "
        "next token; it is scored on the values of keys that appeared earlier in the same sequence."
    )

    vocabulary: int = 16
    length: int = 48

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary // 2)

    @property
    def canary_chance(self) -> float:
        return 1.0 / (self.vocabulary // 2)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        half = self.vocabulary // 2
        pairs = self.length // 2 + 1
        values_of = rng.integers(half, 2 * half, size=(size, half))
        keys = rng.integers(0, half, size=(size, pairs))
        sequence = np.empty((size, 2 * pairs), dtype=np.int64)
        sequence[:, 0::2] = keys
        sequence[:, 1::2] = np.take_along_axis(values_of, keys, axis=1)
        sequence = sequence[:, : self.length + 1]
        is_key = np.broadcast_to(np.arange(self.length + 1) % 2 == 0, sequence.shape)
        return _next_token_batch(sequence, ~is_key, is_key)


@dataclass(frozen=True)
class NoisyRecall(Task):
    """Vocabulary halves: keys and values as above in the lower half, noise tokens in the upper one.

    `noise` is the expected fraction of tokens that are noise. An event is a noise token (one position) or a pair (two),
    so events are noise with probability p = 2 noise / (1 + noise), which makes p / (p + 2 (1 - p)) = noise.
    """

    name: ClassVar[str] = "noisy_recall"
    title: ClassVar[str] = "Noisy in-context recall"
    description: ClassVar[str] = (
        "In-context recall with irrelevant noise tokens, from a vocabulary of their own, between the key-value pairs. "
        "The model must ignore them; it is scored on the values of keys that appeared earlier in the sequence."
    )

    vocabulary: int = 32
    length: int = 48
    noise: float = 0.2

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary // 4)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        half, quarter = self.vocabulary // 2, self.vocabulary // 4
        width = self.length + 1
        noisy = rng.random((size, width)) < 2 * self.noise / (1 + self.noise)
        values_of = rng.integers(quarter, half, size=(size, quarter))
        keys = rng.integers(0, quarter, size=(size, width))
        heads = np.where(noisy, rng.integers(half, 2 * half, size=(size, width)), keys)
        values = np.take_along_axis(values_of, keys, axis=1)
        # Event e begins where the events before it end; what falls behind the sequence lands in a spare column.
        ends = np.cumsum(np.where(noisy, 1, 2), axis=1)
        starts = np.minimum(ends - np.where(noisy, 1, 2), width)
        tails = np.where(noisy, width, np.minimum(starts + 1, width))
        sequence = np.zeros((size, width + 1), dtype=np.int64)
        np.put_along_axis(sequence, starts, heads, axis=1)
        np.put_along_axis(sequence, tails, values, axis=1)
        sequence = sequence[:, :width]
        return _next_token_batch(
            sequence,
            is_value=(sequence >= quarter) & (sequence < half),
            is_key=np.zeros(sequence.shape, dtype=np.bool_),
        )
