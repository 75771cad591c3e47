"""In-context recall, plain and noisy: key-value pairs from a map that is new in every sequence.

Source: Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), tasks in-context
recall and noisy in-context recall. As there, the training target is the whole next-token language model, while accuracy
counts only values whose key was seen before.
Different: vectorised, fresh data every step, and all randomness comes from the generator passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks import sampling
from evaluator.tasks.task import Batch, BoolArray, IntArray, Plan, Task


def _next_token_batch(sequence: IntArray, is_value: BoolArray, is_key: BoolArray) -> Batch:
    """From (B, L+1) tokens: inputs, their successors, and which successors are recallable or pure chance."""
    tokens, targets = sequence[:, :-1], sequence[:, 1:]
    # The key of a value is the token before it, hence "known" is read at the input position.
    known = sampling.repeats(sequence)[:, :-1]
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

    order: ClassVar[int] = 0
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "half of it are keys, half values: even, 4 to 65536",
        "length": "from 3, and so long that keys repeat",
    }

    vocabulary: int = 16
    length: int = 48

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary >= 4 and self.vocabulary % 2 == 0, self.axes["vocabulary"])
        self.require_questions(self.vocabulary / 2, (self.length + 1) / 2, 1.0, "a smaller vocabulary than this")

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

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(), steps=40),
            "smoke": Plan(cls(), steps=250),
            "standard": Plan(cls(), steps=800),
            "full": Plan(cls(vocabulary=32, length=128), steps=4000),
        }


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

    order: ClassVar[int] = 3
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "a quarter of it keys, a quarter values, half noise: a multiple of 4, 8 to 65536",
        "length": "from 3, and so long that keys repeat",
        "noise": "expected fraction of tokens that are noise: 0 to 0.9",
    }

    vocabulary: int = 32
    length: int = 48
    noise: float = 0.2

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary >= 8 and self.vocabulary % 4 == 0, self.axes["vocabulary"])
        self.require("noise", 0.0 <= self.noise <= 0.9, self.axes["noise"])
        pairs = (1.0 - self.noise) * (self.length + 1) / 2
        self.require_questions(self.vocabulary / 4, pairs, 1.0, "a smaller vocabulary, less noise")

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary // 4)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        half, quarter = self.vocabulary // 2, self.vocabulary // 4
        width = self.length + 1
        noisy = rng.random((size, width)) < 2 * self.noise / (1 + self.noise)
        values_of = rng.integers(quarter, half, size=(size, quarter))
        keys = rng.integers(0, quarter, size=(size, width))
        noise = rng.integers(half, 2 * half, size=(size, width))
        is_value = _follows_a_key(noisy)
        values = np.take_along_axis(values_of, np.roll(keys, 1, axis=1), axis=1)  # of the key before
        sequence = np.where(is_value, values, np.where(noisy, noise, keys))
        return _next_token_batch(sequence, is_value, is_key=np.zeros(sequence.shape, dtype=np.bool_))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(), steps=40),
            "smoke": Plan(cls(), steps=250),
            "standard": Plan(cls(), steps=800),
            "full": Plan(cls(length=128), steps=4000),
        }


def _follows_a_key(noisy: BoolArray) -> BoolArray:
    """(B, L) -> (B, L): where values stand, if every position that does not hold one is noise or a key as drawn.

    A value follows each key, so v[t] = not (v[t-1] or noisy[t-1]). After the last noisy draw before t, whatever stands
    there, v is false once and then alternates: it is true at odd distances.
    """
    positions = np.arange(noisy.shape[1], dtype=np.int32)
    last = np.maximum.accumulate(np.where(noisy, positions, np.int32(-1)), axis=1)
    values = np.zeros_like(noisy)
    last ^= positions + 1  # the lowest bit: whether the distance from the next position is odd
    values[:, 1:] = (last[:, :-1] & 1) == 0
    return values
