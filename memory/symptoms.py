"""Symptoms: the closed vocabulary in which a shortcoming is named, and the rules that read it off an observation.

The rules are few, explicit and without memory: the same observation always has the same symptoms. A symptom says what
was seen and not why; whoever reads it has to judge. Thresholds are conventions, chosen by us and not fitted to data.
Not covered: symptoms that no number here shows (`UNOBSERVED`); these are asked for by name only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from memory.errors import ValueRefused

SYMPTOMS: dict[str, str] = {
    "recall-fails": "the value that goes with a key is not returned, even for few pairs at short distance",
    "recall-fails-at-length": "recall works for few pairs and falls as pairs or distances grow",
    "fuzzy-match-fails": "keys or values of several tokens are not matched",
    "poor-copying": "earlier tokens are not reproduced in their order",
    "noise-not-filtered": "tokens without meaning disturb what is remembered",
    "forgets-early-tokens": "what stood early in the sequence is lost at its end",
    "compresses-poorly": "the last state does not hold the sequence",
    "memorisation-fails": "fixed facts are not learnt into the parameters",
    "no-state-tracking": "a state that every token changes is not followed",
    "order-blind": "the order of tokens makes no difference",
    "no-local-patterns": "adjacent tokens are not combined",
    "global-context-missing": "distant parts of an image do not influence each other",
    "fails-beyond-trained-length": "what works at the trained length fails at longer ones",
    "no-learning": "the loss does not fall, or the score stays at chance",
    "slow-convergence": "the score still rises steeply when the budget ends",
    "plateaus-early": "the score stops rising well below its ceiling",
    "unstable-training": "training diverges or gives values that are not finite",
    "loss-spikes": "a score or loss that was reached is lost again during training",
    "gradient-vanishes-with-depth": "lower or additional layers hardly learn",
    "mixing-collapses": "positions or heads become alike, or all weight lies on one position",
    "dead-parameters": "some parameters receive no gradient or no tokens",
    "numerically-fragile": "results depend on precision, or overflow",
    "over-budget-parameters": "the mixer needs more parameters than it may",
    "quadratic-cost": "work grows much faster than the length",
    "slow-step": "a training step takes too long",
    "memory-heavy": "too much memory is used",
    "leaks-future": "an output depends on later inputs",
    "batch-dependence": "an output depends on other examples or on earlier calls",
    "underfits-small-data": "too little inductive bias for the amount of data",
    "overfits": "much better on training data than on new data",
    "seed-variance-high": "repetitions with another seed differ widely",
    "ranking-unreliable": "cheap scores do not order candidates as expensive ones do",
    "search-stagnates": "children no longer improve on their parents",
}
UNOBSERVED = frozenset(
    {
        "gradient-vanishes-with-depth",
        "mixing-collapses",
        "global-context-missing",
        "underfits-small-data",
        "ranking-unreliable",
    }
)

WEAK = 0.5  # share of the way from chance to ceiling below which a task counts as weak
AT_CHANCE = 0.05  # share below which it counts as not learnt at all
APART = 0.15  # difference of shares at which one task is said to lag behind another
RISING = 0.1  # rise of the share in the last stretch of the curve that counts as steep; the same as a fall for a spike
FLAT = 0.02  # rise below which the curve counts as flat
NEAR_CEILING = 0.8  # share from which a flat or rising curve is no complaint
STEEP_COST = 1.5  # exponent of work in the length from which it counts as superlinear
WIDE_SPREAD = 0.1  # standard deviation of the share over seeds
OVERFIT_GAP = 0.2  # share on training data less share on new data
STERILE = 5  # children in a row without a gain

_OF_REASON: dict[str, tuple[str, ...]] = {
    "diverged": ("unstable-training",),
    "non_finite": ("unstable-training", "numerically-fragile"),
    "unstable": ("numerically-fragile",),
    "stalled": ("no-learning",),
    "does_not_learn": ("no-learning",),
    "over_budget": ("over-budget-parameters",),
    "not_causal": ("leaks-future",),
    "length_dependent": ("leaks-future",),
    "batch_dependent": ("batch-dependence",),
    "stateful": ("batch-dependence",),
    "timeout": ("slow-step",),
    "too_slow": ("slow-step",),
    "too_complex": ("quadratic-cost",),
    "out_of_memory": ("memory-heavy",),
    "dead_parameters": ("dead-parameters",),
    "duplicate": ("search-stagnates",),
    "unchanged": ("search-stagnates",),
}
_OF_WEAK_TASK: dict[str, tuple[str, ...]] = {
    "recall": ("recall-fails",),
    "mqar": ("recall-fails-at-length",),
    "noisy_recall": ("noise-not-filtered",),
    "fuzzy_recall": ("fuzzy-match-fails",),
    "selective_copying": ("poor-copying", "noise-not-filtered"),
    "compression": ("compresses-poorly",),
    "memorisation": ("memorisation-fails",),
    "state_tracking": ("no-state-tracking",),
    "byte_lm": ("no-local-patterns",),
    "token_lm": ("no-local-patterns",),
}
_BEHIND_RECALL: dict[str, str] = {
    "mqar": "recall-fails-at-length",
    "noisy_recall": "noise-not-filtered",
    "fuzzy_recall": "fuzzy-match-fails",
}


@dataclass(frozen=True)
class TaskScore:
    """A score on a task, all in one unit. The family is the name before the first colon: `mqar` of `mqar:pairs=8`.

    Attributes:
        training: the score on training data, where it is known.
        beyond: whether it was measured at lengths longer than trained.
    """

    task: str
    score: float
    chance: float
    ceiling: float = 1.0
    training: float | None = None
    beyond: bool = False

    def __post_init__(self) -> None:
        values = [self.score, self.chance, self.ceiling, *([] if self.training is None else [self.training])]
        if not all(map(math.isfinite, values)) or self.ceiling <= self.chance:
            raise ValueRefused(f"a score of task {self.task!r}", "it needs finite numbers, the ceiling above chance")

    @property
    def family(self) -> str:
        return self.task.partition(":")[0]

    def share(self, score: float | None = None) -> float:
        """How far from chance (0) to the ceiling (1); below 0 where it is worse than chance."""
        return ((self.score if score is None else score) - self.chance) / (self.ceiling - self.chance)


@dataclass(frozen=True)
class Observation:
    """What is known of an experiment. Whatever is not known is left out and gives no symptom.

    Attributes:
        reason: code of a failure, "" or "ok" where there is none.
        curve: share of the way to the ceiling at increasing shares of the training budget, in order.
        cost_exponent: work grows like the length to this power.
        seed_spread: standard deviation of the share over seeds.
        children_without_gain: how many children in a row did not improve on it.
    """

    tasks: tuple[TaskScore, ...] = ()
    reason: str = ""
    curve: tuple[float, ...] = ()
    cost_exponent: float | None = None
    seed_spread: float | None = None
    children_without_gain: int = 0


@dataclass(frozen=True)
class Sign:
    """A symptom, and the fact it was read from."""

    symptom: str
    because: str


def symptoms_of(observation: Observation) -> tuple[str, ...]:
    """The symptoms of an observation, each once, in the order of the vocabulary."""
    return tuple(sign.symptom for sign in signs(observation))


def signs(observation: Observation) -> tuple[Sign, ...]:
    """The symptoms with what each was first read from, in the order of the vocabulary."""
    found: dict[str, Sign] = {}
    for rule in (_from_reason, _from_tasks, _from_contrasts, _from_lengths, _from_curve, _from_figures):
        for symptom, because in rule(observation):
            found.setdefault(symptom, Sign(symptom, because))
    return tuple(found[symptom] for symptom in SYMPTOMS if symptom in found)


Signs = Iterator[tuple[str, str]]


def _from_reason(observation: Observation) -> Signs:
    for symptom in _OF_REASON.get(observation.reason, ()):
        yield symptom, f"it ended with {observation.reason}"


def _shares(observation: Observation) -> dict[str, float]:
    """The lowest share of each family, at trained lengths."""
    shares: dict[str, float] = {}
    for task in observation.tasks:
        if not task.beyond:
            shares[task.family] = min(task.share(), shares.get(task.family, math.inf))
    return shares


def _from_tasks(observation: Observation) -> Signs:
    for family, share in sorted(_shares(observation).items()):
        if share < WEAK:
            for symptom in _OF_WEAK_TASK.get(family, ()):
                yield symptom, f"{family} is at {share:.0%} of the way from chance"


def _from_contrasts(observation: Observation) -> Signs:
    shares = _shares(observation)
    weak = {family for family, share in shares.items() if share < WEAK}
    if "recall" in shares:
        for family, symptom in _BEHIND_RECALL.items():
            if shares.get(family, math.inf) <= shares["recall"] - APART:
                yield symptom, f"{family} is at {shares[family]:.0%}, recall at {shares['recall']:.0%}"
    if "compression" in weak and weak & {"mqar", "selective_copying"}:
        yield "forgets-early-tokens", "compression is weak, and so is what asks for early tokens"
    if all(shares.get(family, math.inf) < AT_CHANCE for family in ("selective_copying", "state_tracking")):
        yield "order-blind", "selective_copying and state_tracking, which turn on order, are at chance"
    if len(shares) > 1 and all(share < AT_CHANCE for share in shares.values()):
        yield "no-learning", "every task is at chance"


def _from_lengths(observation: Observation) -> Signs:
    shares = _shares(observation)
    for task in observation.tasks:
        at_length = shares.get(task.family)
        if task.beyond and at_length is not None and at_length >= WEAK > task.share():
            because = f"{task.task} is at {task.share():.0%} beyond the trained length and at {at_length:.0%} within"
            yield "fails-beyond-trained-length", because
        if task.training is not None and task.share(task.training) - task.share() >= OVERFIT_GAP:
            yield "overfits", f"{task.task} is at {task.share():.0%}, at {task.share(task.training):.0%} in training"


def _from_curve(observation: Observation) -> Signs:
    curve = [value for value in observation.curve if math.isfinite(value)]
    if len(curve) < 2:
        return
    before, last = curve[-2:]
    if max(curve) < AT_CHANCE:
        yield "no-learning", f"the curve never leaves chance: at most {max(curve):.0%}"
    elif last < NEAR_CEILING and last - before >= RISING:
        yield "slow-convergence", f"the curve still rises at the end, from {before:.0%} to {last:.0%}"
    elif last < NEAR_CEILING and abs(last - before) < FLAT:
        yield "plateaus-early", f"the curve is flat at {last:.0%}"
    falls = [(a, b) for a, b in pairwise(curve) if a - b >= RISING]
    if falls:
        yield "loss-spikes", f"the curve falls from {falls[0][0]:.0%} to {falls[0][1]:.0%}"


def _from_figures(observation: Observation) -> Signs:
    exponent, spread = observation.cost_exponent, observation.seed_spread
    if exponent is not None and exponent >= STEEP_COST:
        yield "quadratic-cost", f"work grows like the length to the power {exponent:.2f}"
    if spread is not None and spread >= WIDE_SPREAD:
        yield "seed-variance-high", f"the standard deviation over seeds is {spread:.2f}"
    if observation.children_without_gain >= STERILE:
        yield "search-stagnates", f"{observation.children_without_gain} children in a row did not improve on it"
