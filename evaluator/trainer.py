"""Trains one model on one task. Inside the sandbox only.

Notable:
- Fresh data every step: nothing to overfit, no training set to store.
- All parameters are views of one flat tensor (and all gradients of another): clipping and AdamW are a handful of
  operations per step instead of a handful per parameter. Elementwise, so the result is that of separate parameters.
- AdamW is torch's own functional form; the `torch.optim.AdamW` constructor would import `torch._dynamo` (1.5 s).
- One thread, fixed data order: CPU runs are bitwise repeatable on one machine.
- The candidate's module computes hidden states only. Targets, loss and optimiser never pass through it.
- A loss that explodes ends the run as `diverged`; one that has not moved, as `stalled`.
Not covered: more than one process. On an accelerator the same loop runs (`evaluator.execution`); never executed on one.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adamw import adamw

from evaluator import execution
from evaluator.execution import Execution, Step
from evaluator.phases import PROGRESS_PER_PHASE
from evaluator.program import CandidateError
from evaluator.skeleton import LanguageModel
from evaluator.tasks.streams import Words, generator
from evaluator.tasks.task import Task
from evaluator.tiers import Recipe, Tier

_CHUNK_STEPS = 10  # batches drawn per generator call: amortises NumPy's overhead
_CHECK_EVERY = 10  # steps between looks at the loss on an accelerator, where every look waits for the device
# The mean loss of the last tenth of training must lie below that of the first steps by this share. An MLP, which can
# learn nothing but token frequencies, gains at least 15 % on every ranking task of smoke (docs/evaluation.md).
_LEAST_GAIN = 1e-3
_FIRST_STEPS = 5
_STALL_STEPS = 40  # shorter runs say nothing about a stall

Snapshot = dict[str, Tensor]
Progress = Callable[[int, int, float], None]


class FlatParameters:
    """Trainable parameters and their gradients as two flat float32 tensors; complex parameters as pairs of floats."""

    def __init__(self, model: nn.Module) -> None:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sizes = [parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in trainable]
        device = trainable[0].device if trainable else torch.device("cpu")
        self.values = torch.empty(sum(sizes), device=device)
        self.gradients = torch.zeros(sum(sizes), device=device)
        self._parameters = trainable
        self._gradients: list[Tensor] = []
        with torch.no_grad():
            pieces = zip(trainable, torch.split(self.values, sizes), torch.split(self.gradients, sizes), strict=True)
            for parameter, value, gradient in pieces:
                home, slope = _shaped(value, parameter), _shaped(gradient, parameter)
                home.copy_(parameter)
                parameter.data = home
                self._gradients.append(slope)
        self.attach()

    def attach(self) -> None:
        """Make `backward` accumulate into the flat gradient."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    if like.is_complex():
        return torch.view_as_complex(flat.view(*like.shape, 2))
    return flat.view(like.shape)


@dataclass(frozen=True)
class Training:
    """What a training run leaves: the parameters at the tier's checkpoints, the last loss and its mean over the last
    tenth of the steps, and how the steps were run."""

    snapshots: tuple[Snapshot, ...]
    loss: float
    late_loss: float
    execution: dict[str, str]


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Linear warm-up, then cosine to `floor` of the peak. Index 0 is the first step."""
    warmup = max(1, round(recipe.warmup * steps))
    rates = []
    for step in range(steps):
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            phase = (step - warmup) / max(1, steps - warmup)
            factor = recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * phase))
        rates.append(recipe.learning_rate * factor)
    return rates


def batches(
    task: Task, stream: Words, table: np.ndarray, batch: int, steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`steps` times: tokens (B, L), flat indices (M,) of the trained positions, targets (M,) there."""
    rng = generator(stream)
    for first in range(0, steps, _CHUNK_STEPS):
        drawn = task.batch(rng, batch * _CHUNK_STEPS, table)
        for offset in range(min(_CHUNK_STEPS, steps - first)):
            rows = slice(offset * batch, (offset + 1) * batch)
            trained = np.flatnonzero(drawn.trained[rows])
            targets = drawn.targets[rows].reshape(-1)[trained]
            yield torch.from_numpy(drawn.tokens[rows]), torch.from_numpy(trained), torch.from_numpy(targets)


class Optimiser:
    """AdamW over flat parameters, with norm clipping."""

    def __init__(self, flat: FlatParameters, recipe: Recipe) -> None:
        self._flat = flat
        self._recipe = recipe
        self._moments = torch.zeros_like(flat.values), torch.zeros_like(flat.values)
        self._steps = torch.tensor(0.0)

    def step(self, learning_rate: float) -> None:
        recipe, gradients = self._recipe, self._flat.gradients
        # Source: Pascanu et al. 2013 (arXiv 1211.5063), norm clipping; the epsilon is torch's.
        gradients.mul_((recipe.clip / (torch.linalg.vector_norm(gradients) + 1e-6)).clamp_(max=1.0))
        adamw(
            [self._flat.values],
            [gradients],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps],
            foreach=False,
            amsgrad=False,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            lr=learning_rate,
            weight_decay=recipe.weight_decay,
            eps=recipe.epsilon,
            maximize=False,
        )


class LossWatch:
    """Looks at the training loss: typed errors for one that explodes and for one that never moves.

    Raises (from `see` and `close`):
        CandidateError: `diverged`: non-finite, or above the recipe's bound. `stalled`: no lower at the end.
    """

    def __init__(self, recipe: Recipe, steps: int, *, every: int) -> None:
        self._bound, self._steps, self._every = recipe.diverged_above, steps, every
        self._tenth = max(1, steps // 10)
        self._first: list[float] = []
        self._last: list[float] = []
        self.value = math.nan

    def see(self, step: int, loss: Tensor) -> None:
        if step % self._every and step > _FIRST_STEPS and step != self._steps:
            return
        self.value = float(loss)
        if not abs(self.value) <= self._bound:  # false for NaN too
            raise CandidateError(
                "diverged",
                f"the training loss was {self.value:.4g} at step {step} of {self._steps}; normalise what the mixer "
                f"returns, or bound its gates and decays",
            )
        if step <= _FIRST_STEPS:
            self._first.append(self.value)
        elif step > self._steps - self._tenth:
            self._last.append(self.value)

    @property
    def late(self) -> float:
        """Mean loss over the last tenth of the steps."""
        return sum(self._last) / len(self._last) if self._last else self.value

    def close(self) -> None:
        if self._steps < _STALL_STEPS or not self._first or not self._last:
            return
        first, last = sum(self._first) / len(self._first), self.late
        if last > first * (1.0 - _LEAST_GAIN):
            raise CandidateError(
                "stalled",
                f"the training loss did not fall: {first:.4g} at first, {last:.4g} at the end; "
                f"see that gradients reach the parameters and that the mixer's output is not vanishingly small",
            )


def train(
    model: LanguageModel,
    tier: Tier,
    task_name: str,
    stream: Words,
    table: np.ndarray,
    progress: Progress,
    *,
    steps: int | None = None,
    on: Execution | None = None,
) -> Training:
    """Train for the task's steps (or for `steps` of them). Runs the program's code.

    Args:
        tier: as `Tier.for_task` makes it: its batch and recipe are those of the task.
        table: what the task shares between training and evaluation, or the training text.

    Raises:
        CandidateError: see `LossWatch`.
    """
    where = on or execution.choose(tier.recipe)
    plan, recipe = tier.plan(task_name), tier.recipe
    model.to(where.device)
    flat = FlatParameters(model)
    optimiser = Optimiser(flat, recipe)
    watch = LossWatch(recipe, plan.steps, every=_CHECK_EVERY if where.accelerated else 1)
    checkpoints = set(tier.checkpoints(task_name))
    report_every = max(1, math.ceil(plan.steps / PROGRESS_PER_PHASE))
    rates = learning_rates(recipe, plan.steps)
    snapshots: list[Snapshot] = []
    take: Step | None = None
    how: dict[str, str] = {}
    model.train()
    gc.freeze()  # not collected first: that took 3 % of a smoke trial
    data = batches(plan.task, stream, table, tier.batch, plan.steps if steps is None else steps)
    for step, drawn in enumerate(data, start=1):
        batch = drawn if not where.accelerated else _moved(drawn, where)
        if take is None:
            take, how = execution.fastest(where, _forms(model, flat, where, tier, batch), batch)
        watch.see(step, take(*batch))
        optimiser.step(rates[step - 1])
        if step in checkpoints:
            snapshots.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        if step % report_every == 0:
            progress(step, plan.steps, watch.value)
    gc.unfreeze()
    if steps is None:
        watch.close()
    return Training(tuple(snapshots), watch.value, watch.late, {**where.reasons, **how})


def _moved(batch: tuple[Tensor, Tensor, Tensor], where: Execution) -> tuple[Tensor, Tensor, Tensor]:
    tokens, trained, targets = (one.pin_memory().to(where.device, non_blocking=True) for one in batch)
    return tokens, trained, targets


def _forms(
    model: LanguageModel, flat: FlatParameters, where: Execution, tier: Tier, batch: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Callable[[], Step]]:
    """The ways to launch a step that are worth timing here, the plain one first."""

    def plain(tokens: Tensor, trained: Tensor, targets: Tensor) -> Tensor:
        flat.gradients.zero_()
        return _forward_backward(model, tokens, trained, targets, where)

    forms: dict[str, Callable[[], Step]] = {"plain": lambda: plain}
    if where.accelerated:
        forms["graph"] = lambda: execution.captured(plain, batch)
    if where.accelerated and tier.accelerator:  # compiling takes minutes: for long runs only
        forms["compiled"] = lambda: execution.compiled(plain)
    return forms


def _forward_backward(
    model: LanguageModel, tokens: Tensor, trained: Tensor, targets: Tensor, where: Execution
) -> Tensor:
    with torch.autocast(where.device.type, dtype=torch.bfloat16, enabled=where.autocast):
        hidden = model.hidden(tokens).flatten(0, 1)
        if trained.numel() != hidden.shape[0]:
            hidden = hidden.index_select(0, trained)
        logits = functional.linear(hidden, model.embedding.weight)
    loss = functional.cross_entropy(logits.float(), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def predict(model: LanguageModel, tokens: Tensor, columns: Tensor | None = None, *, rows: int = 64) -> Tensor:
    """(N, L) -> logits (N, L, V) float32 on the CPU, or (N, K, V) at K columns; in eval mode, `rows` at a time."""
    model.eval()
    device = model.embedding.weight.device
    asked = None if columns is None else columns.to(device)
    with torch.no_grad():
        pieces = [model(chunk.to(device), asked).float().cpu() for chunk in torch.split(tokens, rows)]
    return torch.cat(pieces)
