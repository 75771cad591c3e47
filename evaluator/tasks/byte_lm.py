"""A byte-level language model of Python's standard library: real text without a download.

The host sends the training split into the sandbox; evaluation windows come from another split (`corpora` says what
keeps them apart). A program could carry or find this text, since it is public; see the ADR on training text.

It never ranks. At a fixed small compute the order of nine known mixers had a rank correlation of -.11 with the
literature's (two layers, width 64): a gated short convolution wins, because few tokens reward local mixing. It is a
check that a program models text at all: after the 200 steps of smoke, attention with convolution is at 3.3 bits per
byte and an MLP without mixing at 3.8 (one seed).
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from evaluator.tasks import corpora, stdlib_text
from evaluator.tasks.task import Batch, Plan, Size, Split, Task

_COLUMNS = 32


@dataclass(frozen=True)
class ByteLanguageModel(Task):
    """Tokens are bytes. Every next byte is trained; scored are those at `scored_columns` positions."""

    name: ClassVar[str] = "byte_lm"
    title: ClassVar[str] = "Byte-level language model"
    description: ClassVar[str] = (
        "The next byte of Python source code, everywhere. Measured in bits per byte on files that were not trained on."
    )
    measure: ClassVar[Literal["accuracy", "bits_per_byte"]] = "bits_per_byte"
    corpus_name: ClassVar[str | None] = "the standard library of this Python, as bytes"
    earliest_cut: ClassVar[float] = 0.25
    order: ClassVar[int] = 8
    axes: ClassVar[Mapping[str, str]] = {"length": "from 3 to the size of the smallest split"}

    vocabulary: int = 256
    length: int = 128

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary == 256, "256")

    @property
    def chance(self) -> float:
        return 0.0

    @property
    def scored_columns(self) -> int:
        return min(_COLUMNS, self.length)

    def corpus(self, split: Split) -> np.ndarray[Any, Any]:
        return stdlib_text.tokens(split)

    def batch(self, rng: np.random.Generator, size: int, table: np.ndarray[Any, Any]) -> Batch:
        return corpora.window_batch(rng, size, self.length, table, task=self.name)

    def parameters(self) -> dict[str, Size]:
        return self.sizes() | {"corpus": stdlib_text.digest(), "python": platform.python_version()}

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        """Fixed numbers of bytes: 0.2 MB at smoke, 1.5 MB at standard, 20 MB (two passes and a half) at full."""
        return {
            "micro": Plan(cls(length=48), steps=40, ranks=False),
            "smoke": Plan(
                cls(), steps=200, ranks=False, batch=8, learning_rate=5e-3, d_model=64, evaluation_sequences=128
            ),
            "standard": Plan(
                cls(length=256),
                steps=732,
                ranks=False,
                batch=8,
                learning_rate=5e-3,
                d_model=64,
                evaluation_sequences=256,
            ),
            "full": Plan(cls(length=512), steps=1220, ranks=False, batch=32, n_layers=4, evaluation_sequences=1024),
        }
