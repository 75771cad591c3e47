"""Compression: a whole sequence has to be decoded from the hidden state of its last position.

Source: Poli et al. 2024 (arXiv 2403.17844), task compression: random tokens, a compression token at the end, and an
auto-encoder whose decoder (`evaluator.skeleton.AutoEncoder`) sees nothing else.
Different: vectorised; the compression token itself, which is always the same, is neither trained nor scored.

The labels are the inputs. Whoever sees the inputs knows the answers, so the task measures honest programs only: one
that carried its input past the bottleneck could be right everywhere, and no audit of causality applies, since
everything may depend on the whole input. Hence it never ranks, at any tier. (Nor could it at the size of smoke: its
range over ten mixers was .13, and most lay within .02 of each other.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from evaluator.tasks.task import Batch, IntArray, Plan, Task, nothing


@dataclass(frozen=True)
class Compression(Task):
    """Content is [0, V-1), V-1 at the last position says that all is there. `targets[:, t]` is `tokens[:, t]`."""

    name: ClassVar[str] = "compression"
    title: ClassVar[str] = "Compression"
    description: ClassVar[str] = (
        "Random tokens, then a compression token. All tokens must be decoded, by a decoder that is given, from the "
        "hidden state of that last position alone."
    )
    head: ClassVar[Literal["token", "autoencoder"]] = "autoencoder"
    order: ClassVar[int] = 6
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "content tokens and the compression token: 3 to 65536",
        "length": "content tokens and the compression token: from 3",
    }

    vocabulary: int = 16
    length: int = 32

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary >= 3, self.axes["vocabulary"])

    @property
    def chance(self) -> float:
        return 1.0 / (self.vocabulary - 1)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        tokens = rng.integers(0, self.vocabulary - 1, size=(size, self.length))
        tokens[:, -1] = self.vocabulary - 1
        asked = ~nothing(tokens)
        asked[:, -1] = False
        return Batch(tokens, tokens.copy(), trained=asked, scored=asked, unpredictable=nothing(tokens))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        return {
            "micro": Plan(cls(length=16), steps=40, ranks=False),
            "smoke": Plan(cls(), steps=250, ranks=False),
            "standard": Plan(cls(), steps=800, ranks=False),
            "full": Plan(cls(), steps=8000, ranks=False),
        }
