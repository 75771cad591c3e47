"""State tracking: the running product of the elements of a finite group.

Word problems of groups that are not solvable (A5, S5) are complete for NC1 (Barrington 1989), which attention and
diagonal linear recurrences of bounded depth cannot reach at all lengths unless TC0 = NC1.
Source: Merrill, Petty and Sabharwal 2024 (arXiv 2404.08819), the task and its groups; Liu et al. 2023 (arXiv
2210.10749), shortcuts that shallow models learn instead at a fixed length.
Notable: all L prefix products of all rows by log2 L look-ups in the group's table (multiplication is associative).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import ClassVar

import numpy as np

from evaluator.tasks.task import Batch, IntArray, Plan, Task, nothing

GROUPS = ("Z2", "Z60", "S3", "A4", "S4", "A5", "S5")


@dataclass(frozen=True)
class StateTracking(Task):
    """Token = group element, target = product of all elements so far. The vocabulary is the order of the group."""

    name: ClassVar[str] = "state_tracking"
    title: ClassVar[str] = "State tracking"
    description: ClassVar[str] = (
        "Random elements of a finite group. At every position the model must give the product of all elements up to "
        "and including it: a state that each token permutes and that no bounded window determines."
    )
    order: ClassVar[int] = 7
    axes: ClassVar[Mapping[str, str]] = {
        "group": f"one of {', '.join(GROUPS)}: cyclic (Z), symmetric (S) or alternating (A)",
        "length": "elements to multiply: from 3",
    }

    vocabulary: int = field(init=False, default=6)
    length: int = 24
    group: str = "S3"

    def __post_init__(self) -> None:
        self.require("group", self.group in GROUPS, self.axes["group"])
        object.__setattr__(self, "vocabulary", multiplication(self.group).shape[0])
        super().__post_init__()

    @property
    def chance(self) -> float:
        return 1.0 / self.vocabulary

    def batch(self, rng: np.random.Generator, size: int, table: IntArray) -> Batch:
        tokens = rng.integers(0, self.vocabulary, size=(size, self.length))
        everywhere = ~nothing(tokens)
        targets = prefix_products(tokens, multiplication(self.group))
        return Batch(tokens, targets, trained=everywhere, scored=everywhere, unpredictable=nothing(tokens))

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        """Reported only, below tier full: at smoke the range over ten mixers was .05, and .04 separate attention with
        convolution (.08, one seed) from an MLP (.04).
        """
        return {
            "micro": Plan(cls(length=12), steps=40, ranks=False),
            "smoke": Plan(cls(), steps=250, ranks=False),
            "standard": Plan(cls(), steps=800, ranks=False),
            "full": Plan(cls(group="A5", length=32), steps=8000),
        }


def prefix_products(elements: IntArray, table: IntArray) -> IntArray:
    """(B, L) -> (B, L): the product of elements 0 to t, the earlier one on the left.

    Source: Hillis and Steele 1986, "Data parallel algorithms": after the step of span s, every position holds the
    product of the 2s elements that end there.
    """
    products, order, span = elements.copy(), table.shape[0], 1
    flat = table.reshape(-1)
    while span < products.shape[1]:
        products[:, span:] = flat[products[:, :-span] * order + products[:, span:]]
        span *= 2
    return products


@functools.cache
def multiplication(group: str) -> IntArray:
    """(V, V): the element that `row` times `column` is. Element 0 is the identity."""
    kind, degree = group[0], int(group[1:])
    if kind == "Z":
        table = (np.arange(degree)[:, None] + np.arange(degree)) % degree
    else:
        elements = np.array([p for p in permutations(range(degree)) if kind == "S" or _even(p)])
        places = degree ** np.arange(degree)
        codes = elements @ places  # a permutation read as a number
        order = np.argsort(codes)
        # (a b)(i) = a(b(i)): the right factor acts first.
        products = elements[:, elements] @ places  # (V, V)
        table = order[np.searchsorted(codes[order], products)]
    table.setflags(write=False)
    return table


def _even(permutation: tuple[int, ...]) -> bool:
    inversions = sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :])
    return inversions % 2 == 0
