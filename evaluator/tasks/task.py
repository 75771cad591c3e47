"""What a task is: a value that draws batches of tokens, the targets at each position, and which positions count.

To add a task, write one file beside this one: a frozen dataclass under `Task`, whose `plans` give its size and its
training at every tier that is to offer it. The registry finds it. Packages outside add theirs by the entry point group
`move37.tasks`.

Shapes: B examples, L positions. Targets stand at the position that has to predict them (`targets[:, t]` is judged
against the logits at `t`), so nobody shifts anything later.
"""

import abc
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from evaluator.errors import CorpusUnavailable, ImpossibleSize

IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Size = int | float | str
Split = Literal["train", "selection", "claim"]

FEWEST_STEPS = 8
MOST_VOCABULARY = 65_536
MOST_LENGTH = 16_384
# Logits of one sequence at one checkpoint that are worth sending back: 256 KiB, hence 256 MiB for a trial of 256.
_LOGITS_SENT = 1 << 16


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
class Plan:
    """A task at one tier's size, and how it is trained there. None means: the tier's own setting.

    Attributes:
        ranks: False if it is trained and reported only, and never part of the score that a search selects on.
    """

    task: "Task"
    steps: int
    ranks: bool = True
    batch: int | None = None
    learning_rate: float | None = None
    d_model: int | None = None
    n_layers: int | None = None
    evaluation_sequences: int | None = None

    def __post_init__(self) -> None:
        """Raises: ImpossibleSize: too few steps for four checkpoints at 10, 25, 50 and 100 % of them."""
        if self.steps < FEWEST_STEPS:
            raise ImpossibleSize(self.task.name, "steps", self.steps, f"from {FEWEST_STEPS}")

    def describe(self) -> dict[str, int | float | None]:
        """What the objective's hash covers beside the sizes: all that changes a score."""
        names = ("steps", "batch", "learning_rate", "d_model", "n_layers", "evaluation_sequences")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Task(abc.ABC):
    """A frozen set of sizes and a generator. Subclasses are pure: all randomness comes from the generator passed in.

    Class attributes:
        measure: what is scored. "bits_per_byte" has no chance level: the score is the share of eight bits saved.
        head: "autoencoder" tasks are answered from the last position's state, after the whole input was seen.
        corpus_name: of a text task, what its text is. The host sends the training text into the sandbox as the `table`.
        earliest_cut: the fraction of the budget before which successive halving must not judge by this task. Recall
            is a phase transition, and a late bloomer looks dead at a quarter; language modelling is smooth.
            Source: measured on 16 random variants, rank correlation with the final metric .84 at a half (recall),
            .88 at a quarter (language modelling).
        axes: what may be resized (fields of the dataclass), and which values are possible.
        order: where reports show it; equals by name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    track: ClassVar[str] = "sequence"
    order: ClassVar[int] = 100
    measure: ClassVar[Literal["accuracy", "bits_per_byte"]] = "accuracy"
    head: ClassVar[Literal["token", "autoencoder"]] = "token"
    corpus_name: ClassVar[str | None] = None
    earliest_cut: ClassVar[float] = 0.5
    axes: ClassVar[Mapping[str, str]] = {}

    vocabulary: int
    length: int

    def __post_init__(self) -> None:
        """Raises: ImpossibleSize: the generator cannot make these sizes."""
        self.require("vocabulary", 2 <= self.vocabulary <= MOST_VOCABULARY, f"2 to {MOST_VOCABULARY}")
        self.require("length", 3 <= self.length <= MOST_LENGTH, f"3 to {MOST_LENGTH}")
        self.check()

    def check(self) -> None:  # noqa: B027  most tasks have something to check, not all
        """What the sizes of this task must fulfil beyond the common bounds, by `require`."""

    def require(self, axis: str, fulfilled: bool, possible: str) -> None:
        """Raises: ImpossibleSize: `fulfilled` is false."""
        if not fulfilled:
            raise ImpossibleSize(self.name, axis, getattr(self, axis), possible)

    def require_questions(self, keys: float, events: float, share: float, hint: str) -> None:
        """For tasks that score what repeats: too short a sequence over too many keys has nothing to score.

        Of n events over K keys, about n (n - 1) / 2K repeat an earlier key; `share` of these are scored. One for every
        four sequences is asked for, so that an evaluation of 64 is without any once in 10^7 trials.

        Raises:
            ImpossibleSize: the length is too small for that.
        """
        expected = share * events * (events - 1.0) / (2.0 * keys)
        self.require("length", events >= 1.0 and expected >= 0.25, f"longer, or {hint}: keys must repeat")

    @property
    @abc.abstractmethod
    def chance(self) -> float:
        """Accuracy at scored positions of the best predictor that has no access to the context."""

    @property
    def canary_chance(self) -> float:
        """Best possible accuracy at unpredictable positions; 0 where the task has none."""
        return 0.0

    @property
    def bytes_per_token(self) -> float:
        """Of a text task: bytes of text behind one token of the evaluation splits, on average."""
        return 1.0

    @property
    def scored_columns(self) -> int:
        """Above 0: logits come back for so many positions only, the same in all rows. 0: for all of them.

        A large vocabulary would make the reply of a trial gigabytes.
        """
        if self.vocabulary * self.length <= _LOGITS_SENT:
            return 0
        return max(8, _LOGITS_SENT // self.vocabulary)

    def table(self, rng: np.random.Generator) -> IntArray:
        """What training and evaluation share beyond the distribution (empty for all tasks but memorisation)."""
        del rng
        return np.zeros(0, dtype=np.int64)

    def corpus(self, split: Split) -> np.ndarray[Any, Any]:
        """Of a text task: the tokens of one split, which `batch` takes as its table. Host side only.

        Raises:
            CorpusUnavailable: this is no text task, or its text cannot be had on this machine.
        """
        raise CorpusUnavailable(
            f"task {self.name!r} has no {split} text, its data are drawn from a seed", "ask its `batch` for data"
        )

    @abc.abstractmethod
    def batch(self, rng: np.random.Generator, size: int, table: np.ndarray[Any, Any]) -> Batch:
        """`size` fresh examples. The same generator state gives the same batch."""

    @classmethod
    @abc.abstractmethod
    def plans(cls) -> Mapping[str, Plan]:
        """The task at every tier, by the tier's name; a tier that is missing does not offer it."""

    def resized(self, sizes: Mapping[str, Size]) -> Self:
        """Raises: ImpossibleSize: the generator cannot make these sizes."""
        changes: dict[str, Any] = dict(sizes)
        return replace(self, **changes)

    def sizes(self) -> dict[str, Size]:
        """The value of every axis."""
        return asdict(self)

    def parameters(self) -> dict[str, Size]:
        """What decides the data beside the seed, for the objective's hash: the sizes, and what text it is.

        Raises:
            CorpusUnavailable: the text of a text task cannot be had on this machine.
        """
        return self.sizes()


def nothing(tokens: IntArray) -> BoolArray:
    """An all-false mask over the positions of `tokens`."""
    return np.zeros(tokens.shape, dtype=np.bool_)
