"""Multi-query associative recall.

Source: Arora et al. 2024, "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927):
pairs first, then each key is asked once, at gaps drawn from a power law (a = 0.01); the loss is on the answers only.
Different: vectorised; the slots that ask nothing hold a blank token; all randomness comes from the generator passed in.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks.task import Batch, IntArray, Task, nothing

_POWER = 0.01


@dataclass(frozen=True)
class MultiQueryRecall(Task):
    """Token 0 is blank, keys are [1, V/2), values [V/2, V). The answer stands at the position of the query."""

    name: ClassVar[str] = "mqar"
    title: ClassVar[str] = "Multi-query associative recall"
    description: ClassVar[str] = (
        "Key-value pairs at the start, then every key once more at a random later position among blanks. At the "
        "position of the repeated key the model must give the value that was paired with it."
    )

    vocabulary: int = 32
    length: int = 32
    pairs: int = 4

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary - self.vocabulary // 2)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        half, pairs = self.vocabulary // 2, self.pairs
        keys = 1 + _distinct(rng, size, half - 1, pairs)
        values = rng.integers(half, self.vocabulary, size=(size, pairs))
        tokens = np.zeros((size, self.length), dtype=np.int64)
        tokens[:, 0 : 2 * pairs : 2] = keys
        tokens[:, 1 : 2 * pairs : 2] = values
        positions = 2 * pairs + self._gaps(rng, size)
        np.put_along_axis(tokens, positions, keys, axis=1)
        targets = np.zeros_like(tokens)
        np.put_along_axis(targets, positions, values, axis=1)
        asked = nothing(tokens)
        np.put_along_axis(asked, positions, values=True, axis=1)
        return Batch(tokens, targets, trained=asked, scored=asked, unpredictable=nothing(tokens))

    def _gaps(self, rng: np.random.Generator, size: int) -> IntArray:
        """(size, pairs) distinct slots behind the pairs, weighted towards the near ones.

        Weighted sampling without replacement by exponential keys: the smallest E_i / w_i are the draw.
        Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
        """
        slots = self.length - 2 * self.pairs
        weights = _POWER * np.arange(1, slots + 1) ** (_POWER - 1)
        return np.argsort(rng.exponential(size=(size, slots)) / weights, axis=1)[:, : self.pairs]


def _distinct(rng: np.random.Generator, size: int, below: int, count: int) -> IntArray:
    """(size, count) integers in [0, below), distinct within a row, uniform and in random order."""
    return np.argsort(rng.random((size, below)), axis=1)[:, :count]
