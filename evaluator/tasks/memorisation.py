"""Memorisation: a fixed key-to-value table that has to be learnt into the parameters.

Source: Poli et al. 2024 (arXiv 2403.17844), task memorization.
Notable: here alone training and evaluation share something beyond the distribution: the table. It comes from a stream
of its own (role "table" of the trial's seed), so every program of a seed learns the same one; the keys of the
evaluation data still come from the evaluation stream only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks.task import Batch, IntArray, Plan, Task


@dataclass(frozen=True)
class Memorisation(Task):
    """With K = (V-1) // 2: keys are [0, K), values [K, 2K), and 2K asks for the value of the key just before it.

    The table is a bijection, so that a constant answer is right with probability 1/K and no better.
    """

    name: ClassVar[str] = "memorisation"
    title: ClassVar[str] = "Memorisation"
    description: ClassVar[str] = (
        "Keys, each followed by a query token, at which the model must give the key's value under a table that never "
        "changes during a trial. It needs one step of token mixing and room in the parameters."
    )

    order: ClassVar[int] = 4
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "room that the table takes in the parameters: 5 to 65536, (V - 1) // 2 keys",
        "length": "twice the keys asked for in a sequence: even, from 4",
    }

    vocabulary: int = 128
    length: int = 32

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary >= 5, self.axes["vocabulary"])
        self.require("length", self.length >= 4 and self.length % 2 == 0, self.axes["length"])

    @property
    def keys(self) -> int:
        return (self.vocabulary - 1) // 2

    @property
    def chance(self) -> float:
        return 1.0 / self.keys

    def table(self, rng: np.random.Generator) -> IntArray:
        return self.keys + rng.permutation(self.keys)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        keys = rng.integers(0, self.keys, size=(size, self.length // 2))
        tokens = np.full((size, self.length), 2 * self.keys, dtype=np.int64)
        tokens[:, 0::2] = keys
        targets = np.zeros_like(tokens)
        targets[:, 1::2] = table[keys]
        asked = np.broadcast_to(np.arange(self.length) % 2 == 1, tokens.shape).copy()
        return Batch(tokens, targets, trained=asked, scored=asked, unpredictable=np.zeros_like(asked))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(), steps=40),
            "smoke": Plan(cls(), steps=150),
            "standard": Plan(cls(), steps=800),
            "full": Plan(cls(vocabulary=512), steps=2000),
        }
