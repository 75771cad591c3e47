"""Tiers: how much compute a trial gets. Everything that fixes a trial but its program, task and seed is here.

Sizes and step counts of `smoke` and `standard`, and the recipe (AdamW, learning rate 1e-2, betas .9/.98, weight decay
.01, 10 % warm-up, cosine to 5 %, clip 1.0, fresh data every step, float32), are those with which ten known mixers
ranked as in the literature (Spearman .93 over five tasks). Tokens are fixed, never seconds: under contention, time
budgets moved step counts by 20 %.

Parameters: `body_parameters` is the budget for everything but the embedding, which the tied head shares and whose size
is the task's vocabulary. It is what softmax attention with a SwiGLU of width 8/3 d takes:
n (4 d² + 3 d ⌊8d/3⌋ + 2d) + d.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from evaluator.errors import UnknownTask, UnknownTier, UnknownTrack
from evaluator.tasks import registry
from evaluator.tasks.mqar import MultiQueryRecall
from evaluator.tasks.task import Task

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
BUDGET_TOLERANCE = 0.02


@dataclass(frozen=True)
class TaskPlan:
    """A task at this tier's size, and how many training steps it gets."""

    task: Task
    steps: int


@dataclass(frozen=True)
class Recipe:
    """The frozen training recipe."""

    learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    warmup: float = 0.1
    floor: float = 0.05
    clip: float = 1.0
    diverged_above: float = 100.0


@dataclass(frozen=True)
class Tier:
    """One tier of one track. The timeouts are host-clock limits per phase, an order of magnitude above the usual."""

    name: str
    track: str
    description: str
    d_model: int
    n_layers: int
    batch: int
    plans: Mapping[str, TaskPlan]
    evaluation_sequences: int
    train_timeout_s: float
    predict_timeout_s: float
    gates_timeout_s: float
    minimal_mlp: int
    recipe: Recipe = Recipe()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.plans)

    @property
    def body_parameters(self) -> int:
        d = self.d_model
        return self.n_layers * (4 * d * d + 3 * d * (8 * d // 3) + 2 * d) + d

    @property
    def lengths(self) -> tuple[int, ...]:
        """The distinct sequence lengths of the tier's tasks: what the gates must probe."""
        return tuple(sorted({plan.task.length for plan in self.plans.values()}))

    def plan(self, task: str) -> TaskPlan:
        """Raises: UnknownTask: the tier has no such task."""
        if task not in self.plans:
            raise UnknownTask(task, self.plans, of=f"tier {self.name!r}")
        return self.plans[task]

    def task(self, name: str) -> Task:
        return self.plan(name).task

    def budget(self, task: str) -> int:
        """Total parameters of every model trained on `task`, within `BUDGET_TOLERANCE`."""
        return self.body_parameters + self.task(task).vocabulary * self.d_model

    def checkpoints(self, task: str) -> tuple[int, ...]:
        """The steps after which parameters are kept: 10, 25, 50 and 100 % of the budget."""
        steps = self.plan(task).steps
        return tuple(max(1, round(fraction * steps)) for fraction in FRACTIONS)

    def describe(self) -> dict[str, Any]:
        """What the objective's hash covers."""
        recipe = {name: getattr(self.recipe, name) for name in Recipe.__dataclass_fields__}
        return {
            "d_model": self.d_model,
            "n_layers": self.n_layers,
            "batch": self.batch,
            "body_parameters": self.body_parameters,
            "minimal_mlp": self.minimal_mlp,
            "evaluation_sequences": self.evaluation_sequences,
            "fractions": list(FRACTIONS),
            "recipe": recipe,
        }


def _plans(steps: Mapping[str, int], **resized: Task) -> Mapping[str, TaskPlan]:
    return MappingProxyType(
        {name: TaskPlan(resized.get(name, registry.get(name)), count) for name, count in steps.items()}
    )


_SMOKE = Tier(
    name="smoke",
    track="sequence",
    description="CPU seconds per trial: ranks learning speed and filters; it crowns nobody.",
    d_model=32,
    n_layers=2,
    batch=32,
    plans=_plans({"recall": 250, "mqar": 300, "selective_copying": 250, "noisy_recall": 250, "memorisation": 150}),
    evaluation_sequences=256,
    train_timeout_s=240.0,
    predict_timeout_s=60.0,
    gates_timeout_s=90.0,
    minimal_mlp=16,
)
_STANDARD = replace(
    _SMOKE,
    name="standard",
    description="CPU minutes per trial: 800 steps, larger multi-query recall; gated models get the steps they need.",
    plans=_plans(
        dict.fromkeys(registry.names("sequence"), 800), mqar=MultiQueryRecall(vocabulary=64, length=48, pairs=8)
    ),
    train_timeout_s=900.0,
)
_MICRO = replace(
    _SMOKE,
    name="micro",
    description="For tests and plumbing, about a second per trial: its scores rank nothing.",
    d_model=16,
    n_layers=2,
    batch=16,
    plans=_plans(dict.fromkeys(registry.names("sequence"), 40)),
    evaluation_sequences=64,
    train_timeout_s=60.0,
    predict_timeout_s=30.0,
    minimal_mlp=8,
)
_TIERS = MappingProxyType({"sequence": MappingProxyType({tier.name: tier for tier in (_MICRO, _SMOKE, _STANDARD)})})


def names(track: str) -> tuple[str, ...]:
    """Tier names of a track, from the cheapest.

    Raises:
        UnknownTrack: there is no such track.
    """
    if track not in _TIERS:
        raise UnknownTrack(track, _TIERS)
    return tuple(_TIERS[track])


def get(track: str, name: str) -> Tier:
    """The tier of a track.

    Raises:
        UnknownTrack: there is no such track.
        UnknownTier: the track has no such tier (its message names those that exist).
    """
    if name not in names(track):
        raise UnknownTier(name, _TIERS[track], of=f"track {track!r}")
    return _TIERS[track][name]
