"""Selective copying: content tokens at random places among blanks, to be repeated in order after a copy token.

Source: Poli et al. 2024 (arXiv 2403.17844), task selective copying; after Gu and Dao 2023 (arXiv 2312.00752).
Different: the places of the content tokens are drawn from the generator passed in, so a seed fixes the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluator.tasks import sampling
from evaluator.tasks.task import Batch, IntArray, Plan, Task, nothing


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """Content is [0, V-2), blank is V-2, copy is V-1. Answers stand at the last `copied` positions, all blank."""

    name: ClassVar[str] = "selective_copying"
    title: ClassVar[str] = "Selective copying"
    description: ClassVar[str] = (
        "Content tokens scattered among blanks, then a copy token, then blanks: at those last blanks the model must "
        "repeat the content tokens in their original order."
    )

    order: ClassVar[int] = 2
    earliest_cut: ClassVar[float] = 0.25  # rank correlation with the end: .92 (benchmarks)
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "content tokens and two special ones: 4 to 65536",
        "length": "how far the content is scattered: from twice the copied tokens and one",
        "copied": "content tokens to keep in order: from 1",
    }

    vocabulary: int = 16
    length: int = 48
    copied: int = 8

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary >= 4, self.axes["vocabulary"])
        self.require("copied", self.copied >= 1, self.axes["copied"])
        least = 2 * self.copied + 1
        self.require("length", self.length >= least, f"from {least} with copied={self.copied}")

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary - 2)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        blank, copy = self.vocabulary - 2, self.vocabulary - 1
        body = self.length - self.copied - 1
        content = rng.integers(0, blank, size=(size, self.copied))
        places = np.sort(sampling.smallest(rng.random((size, body)), self.copied), axis=1)
        tokens = np.full((size, self.length), blank, dtype=np.int64)
        sampling.put(tokens, places, content)
        tokens[:, body] = copy
        targets = np.zeros_like(tokens)
        targets[:, -self.copied :] = content
        asked = nothing(tokens)
        asked[:, -self.copied :] = True
        return Batch(tokens, targets, trained=asked, scored=asked, unpredictable=nothing(tokens))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(), steps=40),
            "smoke": Plan(cls(), steps=250),
            "standard": Plan(cls(), steps=800),
            "full": Plan(cls(length=96, copied=16), steps=4000),
        }
