"""Multi-query associative recall.

Source: Arora et al. 2024, "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927):
pairs first, then each key is asked once, at gaps drawn from a power law (a = 0.01); the loss is on the answers only.
Different: vectorised; the slots that ask nothing hold a blank token; all randomness comes from the generator passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks import sampling
from evaluator.tasks.task import Batch, IntArray, Plan, Task, nothing

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

    order: ClassVar[int] = 1
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "half of it are values: from twice the pairs and one",
        "length": "from three times the pairs",
        "pairs": "what the state must hold: from 1",
    }

    vocabulary: int = 32
    length: int = 32
    pairs: int = 4

    def check(self) -> None:
        self.require("pairs", self.pairs >= 1, self.axes["pairs"])
        least = max(4, 2 * (self.pairs + 1))
        self.require("vocabulary", self.vocabulary >= least, f"from {least} with pairs={self.pairs}")
        self.require("length", self.length >= 3 * self.pairs, f"from {3 * self.pairs} with pairs={self.pairs}")

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary - self.vocabulary // 2)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        half, pairs = self.vocabulary // 2, self.pairs
        keys = 1 + sampling.distinct(rng, size, half - 1, pairs)
        values = rng.integers(half, self.vocabulary, size=(size, pairs))
        asked_at = sampling.flat(self._gaps(rng, size) + 2 * pairs, self.length)
        tokens = np.zeros((size, self.length), dtype=np.int64)
        tokens[:, 0 : 2 * pairs : 2] = keys
        tokens[:, 1 : 2 * pairs : 2] = values
        tokens.reshape(-1)[asked_at] = keys
        targets = np.zeros_like(tokens)
        targets.reshape(-1)[asked_at] = values
        asked = targets != 0  # values are never 0
        return Batch(tokens, targets, trained=asked, scored=asked, unpredictable=nothing(tokens))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(), steps=40),
            "smoke": Plan(cls(), steps=300),
            "standard": Plan(cls(vocabulary=64, length=48, pairs=8), steps=800),
            "full": Plan(cls(vocabulary=128, length=128, pairs=16), steps=6000),
        }

    def _gaps(self, rng: np.random.Generator, size: int) -> IntArray:
        """(size, pairs) distinct slots behind the pairs, weighted towards the near ones.

        Weighted sampling without replacement by exponential keys: the smallest E_i / w_i are the draw.
        Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
        """
        slots = self.length - 2 * self.pairs
        weights = _POWER * np.arange(1, slots + 1) ** (_POWER - 1)
        keys = rng.standard_exponential(size=(size, slots))
        keys /= weights
        return sampling.smallest(keys, self.pairs)
