"""Tiers: how much compute a trial gets. With the tasks' plans, everything that fixes a trial but its program and seed.

Which tasks a tier offers, at which size and for how many steps, stands in the tasks' files (`Task.plans`). Here is what
they share: the model's size, the batch, the recipe, the time limits.

The recipe of micro, smoke and standard (AdamW, learning rate 1e-2, betas .9/.98, weight decay .01, 10 % warm-up, cosine
to 5 %, clip 1.0, fresh data every step, float32) is the one with which ten known mixers ranked as in the literature
(Spearman .93 over five tasks, at the sizes and steps of smoke). Tokens are fixed, never seconds: under contention, time
budgets moved step counts by 20 %.

Tier full needs an accelerator and has never been run: its sizes are a proposal, its recipe one usual for small language
models (betas .9/.95, weight decay .1, bfloat16). Width 128, two layers, batch 128 and a rate of 1e-3, the upper end of
their sweep, are those of the synthetic tasks' authors. Source: the published settings of Poli et al. 2024 (arXiv
2403.17844).

Parameters: `body_parameters` is the budget for everything but the embedding, which the tied head shares and whose size
is the task's vocabulary. It is what softmax attention with a SwiGLU of width 8/3 d takes:
n (4 d² + 3 d ⌊8d/3⌋ + 2d) + d.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from evaluator.errors import ImpossibleSize, UnknownTask, UnknownTier, UnknownTrack
from evaluator.tasks import registry
from evaluator.tasks.task import Plan, Task

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
BUDGET_TOLERANCE = 0.02
# Floats of logits in one training step, and in the answer of a trial: 256 MiB. More is not the program's fault.
MOST_LOGITS = 1 << 26


@dataclass(frozen=True)
class Recipe:
    """The frozen training recipe. `precision` bfloat16 means autocast on an accelerator, and nothing on a CPU."""

    learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    warmup: float = 0.1
    floor: float = 0.05
    clip: float = 1.0
    diverged_above: float = 100.0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Tier:
    """One tier of one track. The timeouts are host-clock limits per phase, an order of magnitude above the usual.

    A task may change batch, model size, evaluation size and learning rate: `for_task` is the tier with those in place.
    Tasks are asked for by NAME or NAME:AXIS=VALUE (`evaluator.tasks.registry`).
    """

    name: str
    track: str
    description: str
    d_model: int
    n_layers: int
    batch: int
    evaluation_sequences: int
    train_timeout_s: float
    predict_timeout_s: float
    gates_timeout_s: float
    minimal_mlp: int
    recipe: Recipe = Recipe()
    accelerator: bool = False
    more_lengths: tuple[int, ...] = ()

    @property
    def plans(self) -> Mapping[str, Plan]:
        """What the tier offers, by task name. Tasks of installed packages are among them."""
        return registry.plans(self.track, self.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.plans)

    @property
    def ranking_tasks(self) -> tuple[str, ...]:
        """Those whose scores a search may select on."""
        return tuple(name for name, plan in self.plans.items() if plan.ranks)

    @property
    def body_parameters(self) -> int:
        d = self.d_model
        return self.n_layers * (4 * d * d + 3 * d * (8 * d // 3) + 2 * d) + d

    @property
    def most_mixer_parameters(self) -> int:
        """What the mixers of all layers together may take, so that an MLP of width `minimal_mlp` still fits."""
        d, n = self.d_model, self.n_layers
        return self.body_parameters - (2 * n + 1) * d - 3 * d * n * self.minimal_mlp

    @property
    def lengths(self) -> tuple[int, ...]:
        """The distinct sequence lengths of the tier's ranking tasks, and `more_lengths`: what the gates must probe."""
        return tuple(sorted({*(plan.task.length for plan in self.plans.values() if plan.ranks), *self.more_lengths}))

    def probing(self, lengths: Iterable[int]) -> "Tier":
        """The tier whose gates look at these lengths as well: those of tasks that are resized or do not rank."""
        return replace(self, more_lengths=tuple(sorted(set(lengths))))

    def plan(self, spec: str) -> Plan:
        """The plan of a task at this tier, resized as `spec` says.

        Raises:
            UnknownTask: the tier has no such task.
            UnknownAxis, ImpossibleSize, TaskSpecMalformed: the sizes in `spec` are none of the task's.
        """
        bare, plans = spec.partition(":")[0], self.plans
        if bare not in plans:
            raise UnknownTask(bare, plans, of=f"tier {self.name!r}")
        name, sizes = registry.parse(spec)
        plan = plans[name]
        if not sizes:
            return plan
        resized = replace(plan, task=plan.task.resized(sizes))
        self._require_affordable(resized)
        return resized

    def _require_affordable(self, plan: Plan) -> None:
        """Raises: ImpossibleSize: its logits would not fit, in a training step or in the reply of a trial."""
        task = plan.task
        trained = _first(plan.batch, self.batch) * task.length * task.vocabulary
        columns = task.scored_columns or task.length
        sequences = _first(plan.evaluation_sequences, self.evaluation_sequences)
        answered = len(FRACTIONS) * sequences * columns * task.vocabulary
        if max(trained, answered) > MOST_LOGITS:
            longest = int(task.length * MOST_LOGITS / max(trained, answered))
            possible = (
                f"up to {longest} with vocabulary {task.vocabulary} at tier {self.name!r}, or a smaller vocabulary"
            )
            raise ImpossibleSize(task.name, "length", task.length, possible)

    def task(self, spec: str) -> Task:
        """Raises: as `plan`."""
        return self.plan(spec).task

    def for_task(self, spec: str) -> "Tier":
        """The tier as it trains one task: what the task's plan overrides is in place. Raises: as `plan`."""
        plan = self.plan(spec)
        rate = self.recipe.learning_rate if plan.learning_rate is None else plan.learning_rate
        return replace(
            self,
            batch=_first(plan.batch, self.batch),
            d_model=_first(plan.d_model, self.d_model),
            n_layers=_first(plan.n_layers, self.n_layers),
            evaluation_sequences=_first(plan.evaluation_sequences, self.evaluation_sequences),
            recipe=replace(self.recipe, learning_rate=rate),
        )

    def budget(self, spec: str) -> int:
        """Total parameters of every model trained on the task, within `BUDGET_TOLERANCE`."""
        tier = self.for_task(spec)
        return tier.body_parameters + tier.task(spec).vocabulary * tier.d_model

    def checkpoints(self, spec: str) -> tuple[int, ...]:
        """The steps after which parameters are kept: 10, 25, 50 and 100 % of the budget."""
        steps = self.plan(spec).steps
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


def _first(override: int | None, usual: int) -> int:
    return usual if override is None else override


_SMOKE = Tier(
    name="smoke",
    track="sequence",
    description="CPU seconds per trial: ranks learning speed and filters; it crowns nobody.",
    d_model=32,
    n_layers=2,
    batch=32,
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
    train_timeout_s=900.0,
)
_MICRO = replace(
    _SMOKE,
    name="micro",
    description="For tests and plumbing, about a second per trial: its scores rank nothing.",
    d_model=16,
    n_layers=2,
    batch=16,
    evaluation_sequences=64,
    train_timeout_s=60.0,
    predict_timeout_s=30.0,
    minimal_mlp=8,
)
_FULL = replace(
    _SMOKE,
    name="full",
    description="For a GPU, never run yet: longer synthetic tasks at width 128, language models of 20 M parameters.",
    d_model=128,
    n_layers=2,
    batch=128,
    evaluation_sequences=1024,
    train_timeout_s=6 * 3600.0,
    predict_timeout_s=600.0,
    gates_timeout_s=900.0,
    minimal_mlp=64,
    recipe=Recipe(learning_rate=1e-3, beta2=0.95, weight_decay=0.1, precision="bfloat16"),
    accelerator=True,
)
_TIERS = MappingProxyType(
    {"sequence": MappingProxyType({tier.name: tier for tier in (_MICRO, _SMOKE, _STANDARD, _FULL)})}
)


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
