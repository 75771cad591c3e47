"""What a task is: a value that draws batches of tokens, the targets at each position, and which positions count.

Shapes: B examples, L positions. Targets stand at the position that has to predict them (`targets[:, t]` is judged
against the logits at `t`), so nobody shifts anything later.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Batch:
    """`tokens` (B, L) int64 in [0, vocabulary); `targets` (B, L) int64; `trained` and `scored` (B, L) bool.

    `trained` carries the training loss, `scored` the accuracy. `unpredictable` marks positions whose target is drawn
    independently of everything before it: beating chance there proves that the future was read.
    """

    tokens: IntArray
    targets: IntArray
    trained: BoolArray
    scored: BoolArray
    unpredictable: BoolArray


@dataclass(frozen=True)
class Task:
    """A frozen set of sizes and a generator. Subclasses are pure: all randomness comes from the generator passed in."""

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]

    vocabulary: int
    length: int

    @property
    def chance(self) -> float:
        """Accuracy at scored positions of the best predictor that has no access to the context."""
        raise NotImplementedError

    @property
    def canary_chance(self) -> float:
        """Best possible accuracy at unpredictable positions; 0 where the task has none."""
        return 0.0

    def table(self, rng: np.random.Generator) -> IntArray:
        """What training and evaluation share beyond the distribution (empty for all tasks but memorisation)."""
        del rng
        return np.zeros(0, dtype=np.int64)

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        """`size` fresh examples. The same generator state gives the same batch."""
        raise NotImplementedError

    def parameters(self) -> dict[str, int | float]:
        """The sizes, for the objective's hash."""
        return asdict(self)


def nothing(tokens: IntArray) -> BoolArray:
    """An all-false mask over the positions of `tokens`."""
    return np.zeros(tokens.shape, dtype=np.bool_)


def seen_before(sequence: IntArray) -> BoolArray:
    """(B, L) -> (B, L): True where the token occurred at an earlier position of its own row."""
    length = sequence.shape[1]
    order = np.argsort(sequence, axis=1, kind="stable")
    ordered = np.take_along_axis(sequence, order, axis=1)
    repeats = np.zeros(sequence.shape, dtype=np.bool_)
    if length > 1:
        repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = np.empty_like(repeats)
    np.put_along_axis(found, order, repeats, axis=1)
    return found
