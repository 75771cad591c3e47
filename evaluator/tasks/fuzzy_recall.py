"""Fuzzy in-context recall: keys and values are motifs of one to a few tokens.

Source: Poli et al. 2024 (arXiv 2403.17844), task fuzzy in-context recall. As there: the tokens of a motif differ, its
size is uniform, the training target is the whole next-token language model, and only values of keys of the largest
size count (a shorter key may be the beginning of a longer one, so its value cannot be told for certain).
Different:
- The keys of a sequence come from a pool of `keys` motifs, one of them of the largest size. There, keys are drawn from
  all motifs, so that nothing but one planted probe repeats, and a sequence has a single scored value.
- No padding: the sequence is cut where it is full. Hence no special tokens, and halves of the vocabulary.
- Training and evaluation have one distribution, fresh data every step; there, all keys of an evaluation sequence have
  the largest size.
- Vectorised. There, all motifs of the vocabulary are listed for every example: 3.7 s each at a vocabulary of 128.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks import sampling
from evaluator.tasks.task import Batch, IntArray, Plan, Task, nothing


@dataclass(frozen=True)
class FuzzyRecall(Task):
    """Key tokens are [0, V/2), value tokens [V/2, V): where a motif ends shows in what follows it.

    B examples, K motifs in the pool, M tokens in the largest motif, N events (a key and its value), W = L + 1 tokens.
    """

    name: ClassVar[str] = "fuzzy_recall"
    title: ClassVar[str] = "Fuzzy in-context recall"
    description: ClassVar[str] = (
        "In-context recall where keys and values are motifs of several adjacent tokens, of varying size. The model "
        "predicts every next token; it is scored on the value tokens of longest keys that appeared earlier."
    )
    order: ClassVar[int] = 5
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "half of it for keys, half for values: even, 4 to 4096, half of it at least motif and keys",
        "length": "from 3, and so long that keys repeat",
        "motif": "most tokens in a key or a value: 1 to 4",
        "keys": "different keys in a sequence: from 1",
    }

    vocabulary: int = 16
    length: int = 48
    motif: int = 3
    keys: int = 4

    def check(self) -> None:
        possible = self.axes["vocabulary"]
        self.require("vocabulary", 4 <= self.vocabulary <= 4096 and self.vocabulary % 2 == 0, possible)
        half = self.vocabulary // 2
        self.require("motif", 1 <= self.motif <= min(4, half), f"1 to {min(4, half)} with this vocabulary")
        self.require("keys", 1 <= self.keys <= half, f"1 to {half} with this vocabulary")
        events = (self.length + 1) / (self.motif + 1)
        self.require_questions(self.keys, events, 1.0 / self.motif, "fewer keys, smaller motifs")

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary // 2)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        pool, key_sizes, sizes = self._pool(rng, size)
        width = self.length + 1
        chosen = rng.integers(0, self.keys, size=(size, width // 2 + 1))  # an event takes two tokens at least
        ends = np.cumsum(np.take_along_axis(sizes, chosen, axis=1), axis=1)
        event = _events(ends, width)
        starts = ends - np.take_along_axis(sizes, chosen, axis=1)
        offsets = np.arange(width) - np.take_along_axis(starts, event, axis=1)
        entry = np.take_along_axis(chosen, event, axis=1)
        sequence = pool.reshape(size, -1)[np.arange(size)[:, None], entry * pool.shape[2] + offsets]
        longest = np.take_along_axis(key_sizes == self.motif, chosen, axis=1)
        asked = np.take_along_axis(sampling.repeats(chosen) & longest, event, axis=1)
        tokens = np.ascontiguousarray(sequence[:, :-1])
        return Batch(
            tokens=tokens,
            targets=np.ascontiguousarray(sequence[:, 1:]),
            trained=np.ones(tokens.shape, dtype=np.bool_),
            scored=(asked & (sequence >= self.vocabulary // 2))[:, 1:],
            unpredictable=nothing(tokens),
        )

    def _pool(self, rng: np.random.Generator, size: int) -> tuple[IntArray, IntArray, IntArray]:
        """Key and value of each pool entry side by side (B, K, 2M), the key's size and that of both (B, K).

        Beyond an entry's size stands anything.
        """
        half, most = self.vocabulary // 2, self.motif
        codes = self._codes(rng, size * self.keys).reshape(size, self.keys)
        codes[:, 0] = self._codes(rng, size, least=most)
        sampling.redraw_repeats(codes, lambda wanted: self._codes(rng, int(wanted.sum())))
        digits = codes[..., None] // (half + 1) ** np.arange(most) % (half + 1)
        key_sizes = np.count_nonzero(digits, axis=2)
        values = half + sampling.distinct(rng, size * self.keys, half, most).reshape(size, self.keys, most)
        pool = np.concatenate([digits - 1, np.zeros_like(digits)], axis=2)
        np.put_along_axis(pool, key_sizes[..., None] + np.arange(most), values, axis=2)
        return pool, key_sizes, key_sizes + rng.integers(1, most + 1, size=key_sizes.shape)

    def _codes(self, rng: np.random.Generator, count: int, *, least: int = 1) -> IntArray:
        """(count,) motifs as numbers in base V/2 + 1: token + 1 as digit, 0 where the motif has ended. Below 2^45."""
        half, most = self.vocabulary // 2, self.motif
        tokens = sampling.distinct(rng, count, half, most)
        sizes = rng.integers(least, most + 1, size=(count, 1))
        digits = np.where(np.arange(most) < sizes, tokens + 1, 0)
        codes: IntArray = (digits * (half + 1) ** np.arange(most)).sum(axis=1)
        return codes

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        """Reported only, below tier full: it was not among the tasks with which those tiers' ranking was checked.

        It does separate mixers at smoke. Curve scores, one seed: attention with convolution .39, DeltaNet .22,
        attention .05, diagonal SSM -.01, gated linear attention -.06, convolution -.07, MLP -.10.
        """
        return {
            "micro": Plan(cls(), steps=40, ranks=False),
            "smoke": Plan(cls(), steps=250, ranks=False),
            "standard": Plan(cls(length=64), steps=800, ranks=False),
            "full": Plan(cls(length=96, keys=8), steps=12_000),
        }


def _events(ends: IntArray, width: int) -> IntArray:
    """(B, N) ascending ends -> (B, W): which event a position belongs to."""
    begins = np.zeros((ends.shape[0], width + 1), dtype=np.int64)
    sampling.put(begins, np.minimum(ends, width), 1)  # what ends behind the sequence lands in the spare column
    return np.cumsum(begins[:, :width], axis=1)
