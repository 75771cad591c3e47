"""Measures what a program costs: parameters, work, traffic, memory, state, speed. Inside the sandbox only.

The answer is `evaluator.profile.CostReport`. FLOPs, bytes and operations are counted by watching every operation, in
the forward and in the backward pass. The machine's peak and bandwidth are measured in the same job, so that the
roofline is that of the core the program just ran on.

What is not covered:
- fused kernels: traffic is that of the operations as torch dispatches them, with attention under its math backend;
- caches: the bandwidth is that of a large copy, and tensors of the small tiers never leave the cache;
- the optimiser: the same for every program, and timed by `benchmarks/torch_share.py`.
The whole runs on an accelerator if the worker has one (waiting for the device around every timing); state and growth
with length are measured on the CPU always. The accelerator's branches have never been executed on one.

B batch, L length, D d_model, V vocabulary, T probed length, M probes.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from evaluator import execution, tiers
from evaluator.cost import WorkCounter, length_exponent
from evaluator.execution import Execution
from evaluator.gates.specimen import Specimen, check_output, jitter, normal
from evaluator.phases import FAILURE_REASONS
from evaluator.profile import Pass, Roofline, StateSize
from evaluator.program import CandidateError, load, seed_generators
from evaluator.skeleton import LanguageModel, Sizes, build_model
from evaluator.tiers import Tier

VOCABULARY = 16
# Five warm-up runs and fifteen timed ones, or fewer where they take longer than this: the whole job takes CPU seconds.
_WARM_UP, _REPEATS, _LEAST_REPEATS, _LIMIT_S = 5, 15, 3, 1.5
# Work is counted on fewer rows where a batch is large: the math backend's attention takes B·H·L² numbers.
_COUNTED_TOKENS = 16_384
_PROBED_SEQUENCES = 4
# Side of the square matrices whose product gives the peak, and the bytes of the copy that gives the bandwidth.
_MATRIX = {"cpu": 768, "cuda": 8192}
_COPY_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
_MACHINE_REPEATS = 6

# The state is probed at 20 and at 40 steps. 20 steps of width 32 bring in 640 numbers, more than the matrix states of
# the references at that width hold (544); wider models are probed at 32, since the work grows like D^4.
_CUT, _STATE_WIDTH = 20, 32
# Singular values below this part of the largest are negligible; rounding left 3e-16. With it, float64 gave the exact
# state of the references where that is known (short convolution 3 D, matrix states, gated recurrence D); with 1e-9 one
# number was lost. Where a program computes in float32, what lies within `_NOISE_MARGIN` of its rounding is left out.
_STATE_TOLERANCE, _NOISE_MARGIN = 1e-12, 30.0
# At the second cut, a little more probes than the state found at the first: enough to see that it grows.
_MORE_PROBES, _SPARE_PROBES = 1.25, 32
_ROWS = 32  # probes per backward pass: fastest, since a chunk's tensors then stay in the cache
# Operations that allocate and write nothing, and those that overwrite their first argument without reading it.
_ALLOCATING = ("empty", "new_empty")
_OVERWRITING = frozenset({"zero_", "fill_", "copy_"})


def run_profile(source: str, track: str, tier_name: str, task: str | None = None) -> dict[str, Any]:
    """The `profile` that `evaluator.profile.read_profile_reply` reads. Runs the program's code.

    Raises:
        CandidateError: the program cannot be built or run at this tier. Its other errors come out as they are.
    """
    try:
        return {"profile": _profile(source, tiers.get(track, tier_name), task)}
    except CandidateError as error:
        if error.reason in FAILURE_REASONS:
            raise
        raise CandidateError("forward_failed", error.message, line=error.line, trace=error.trace) from error


def _profile(source: str, tier: Tier, task: str | None) -> dict[str, Any]:
    builder, kind = load(source)
    vocabulary, length, decoded = VOCABULARY, max(tier.lengths), 0
    if task is not None:
        tier, one = tier.for_task(task), tier.task(task)
        vocabulary, length = one.vocabulary, one.length
        decoded = length if one.head == "autoencoder" else 0
    where = execution.choose(tier.recipe)

    def fresh() -> tuple[LanguageModel, Sizes]:
        return build_model(builder, kind, tier, vocabulary, seed=0, decoded=decoded)

    model, sizes = fresh()
    bench = Bench.of(model.to(where.device), where, vocabulary, tier.batch, length)
    rise = bench.memory_rise()
    saved = bench.saved_bytes()
    roofline = machine(where)
    passes = {name: bench.measured(name, roofline) for name in ("inference", "training")}
    reached, active = touched(fresh()[0], bench.tokens[:_PROBED_SEQUENCES].cpu())
    narrow = replace(tier, d_model=min(tier.d_model, _STATE_WIDTH))
    return {
        "device": where.device.type,
        "threads": torch.get_num_threads(),
        "vocabulary": vocabulary,
        "batch": tier.batch,
        "length": length,
        "parameters": sizes.total,
        "mixer_parameters": sizes.program,
        "reached_parameters": reached,
        "active_parameters": active,
        "parameter_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "saved_bytes_per_token": saved / bench.tokens.numel(),
        "memory_rise_bytes": rise,
        "length_exponent": length_exponent(Specimen(builder, kind, tier)),
        "roofline": asdict(roofline),
        **{name: asdict(one) for name, one in passes.items()},
        "state": asdict(state_size(Specimen(builder, kind, narrow))),
    }


# ---- work, traffic and time of the whole model


class Traffic(WorkCounter):  # type: ignore[no-untyped-call]
    """Counts bytes and operations beside the FLOPs, and adds up the roofline's time of each operation."""

    def __init__(self, roofline: Roofline) -> None:
        super().__init__()
        self.bytes = self.operations = 0
        self.predicted_s = 0.0
        self._roofline = roofline

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.flops
        out = super().__torch_dispatch__(func, types, args, kwargs)
        moved = bytes_moved(func, args, kwargs or {}, out)
        self.bytes += moved
        self.operations += moved > 0
        self.predicted_s += self._roofline.seconds(self.flops - before, moved)
        return out


def bytes_moved(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """What an operation reads and writes; 0 for one that returns a view or untouched memory.

    A tensor that was expanded counts with the memory behind it, not with its shape.
    """
    name = func._opname
    written = _tensors(out)
    if func.is_view or name.startswith(_ALLOCATING) or not written:
        return 0
    read = _tensors((args, kwargs))
    if not func._schema.is_mutable:
        storages = {tensor.untyped_storage().data_ptr() for tensor in read}
        if all(tensor.untyped_storage().data_ptr() in storages for tensor in written):
            return 0  # a view that its schema does not declare, as `_unsafe_view`
    elif name in _OVERWRITING:
        read = read[1:]
    return sum(_memory(tensor) for tensor in (*read, *written))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


@dataclass
class Bench:
    """The whole model on one batch of random tokens."""

    model: LanguageModel
    where: Execution
    tokens: Tensor  # (B, L)
    targets: Tensor  # (B, L)

    @classmethod
    def of(cls, model: LanguageModel, where: Execution, vocabulary: int, batch: int, length: int) -> "Bench":
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randint(vocabulary, (2, batch, length), generator=generator).to(where.device)
        return cls(model, where, drawn[0], drawn[1])

    def training(self, rows: int | None = None) -> None:
        """Forward and backward pass of `rows` sequences (all by default)."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        self._loss(rows).backward()  # type: ignore[no-untyped-call]

    def _loss(self, rows: int | None = None) -> Tensor:
        with self._precision():
            logits = self.model(self.tokens[:rows])
        return functional.cross_entropy(logits.float().flatten(0, 1), self.targets[:rows].flatten())

    def inference(self, rows: int | None = None) -> None:
        self.model.eval()
        with torch.no_grad(), self._precision():
            self.model(self.tokens[:rows])

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.where.device.type, dtype=torch.bfloat16, enabled=self.where.autocast)

    def measured(self, name: str, roofline: Roofline) -> Pass:
        run: Callable[..., None] = getattr(self, name)
        length = self.tokens.shape[1]
        rows = max(1, min(len(self.tokens), _COUNTED_TOKENS // length))
        traffic = Traffic(roofline)
        with sdpa_kernel(SDPBackend.MATH), traffic:
            run(rows)
        timing = timed(run, self.where)
        return Pass(
            flops_per_token=traffic.flops / (rows * length),
            bytes_per_token=traffic.bytes / (rows * length),
            operations=traffic.operations,
            seconds=timing.seconds,
            spread=timing.spread,
            cpu_s=timing.cpu_s,
            repeats=timing.repeats,
            predicted_s=traffic.predicted_s * len(self.tokens) / rows,
        )

    def memory_rise(self) -> int:
        """How far one training step raises the peak. To be asked before anything else has raised it."""
        if self.where.accelerated:
            torch.cuda.reset_peak_memory_stats(self.where.device)
            before = torch.cuda.memory_allocated(self.where.device)
            self.training()
            self.where.wait()
            return max(0, torch.cuda.max_memory_allocated(self.where.device) - before)
        before = _peak_resident_bytes()
        self.training()
        return _peak_resident_bytes() - before

    def saved_bytes(self) -> int:
        """Memory that the forward pass keeps for the backward pass, each piece once, parameters left out."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}  # held, lest two pieces have one address after the other

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage
            return tensor

        self.model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._loss()
        return sum(storage.nbytes() for storage in kept.values())


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Timing:
    """Median wall and CPU seconds, and the interquartile range of the wall times over their median."""

    seconds: float
    cpu_s: float
    spread: float
    repeats: int


def timed(run: Callable[[], object], where: Execution) -> Timing:
    """Time `run` after warm-up, `_REPEATS` times or until `_LIMIT_S` is over."""
    for _ in _within(_LIMIT_S / 3, least=1, most=_WARM_UP):
        run()
        where.wait()
    walls, cpus = [], []
    for _ in _within(_LIMIT_S, least=_LEAST_REPEATS, most=_REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        where.wait()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    low, median, high = statistics.quantiles(walls, n=4, method="inclusive")
    return Timing(median, statistics.median(cpus), (high - low) / median, len(walls))


def _within(seconds: float, *, least: int, most: int) -> Iterator[int]:
    end = time.perf_counter() + seconds
    for index in range(most):
        if index >= least and time.perf_counter() > end:
            return
        yield index


def machine(where: Execution) -> Roofline:
    """The device's peak (a square matrix product in the recipe's precision) and bandwidth (a copy): best of a few."""
    device = where.device
    side, size = _MATRIX[device.type], _COPY_BYTES[device.type]
    dtype = torch.bfloat16 if where.autocast else torch.float32
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    product = torch.empty_like(matrix)
    product_s = _fastest(lambda: torch.mm(matrix, matrix, out=product), where)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _fastest(lambda: target.copy_(source), where)
    return Roofline(2.0 * side**3 / product_s, 2.0 * size / copy_s)


def _fastest(run: Callable[[], Any], where: Execution) -> float:
    times = []
    for _ in range(_MACHINE_REPEATS):
        began = time.perf_counter()
        run()
        where.wait()
        times.append(time.perf_counter() - began)
    return min(times)


# ---- parameters that take part


def touched(model: LanguageModel, tokens: Tensor) -> tuple[int, int]:
    """Parameters with a gradient: from all `tokens` (B, L) at once; and on average from one row's last output."""
    jitter(model, seed=2)
    model.eval()
    weights = normal((*tokens.shape, model.embedding.num_embeddings), seed=3).float()
    reached = _with_gradient(model, (model(tokens) * weights).sum())
    single = [
        _with_gradient(model, (model(row[None])[0, -1] * weight[-1]).sum())
        for row, weight in zip(tokens, weights, strict=True)
    ]
    return reached, round(statistics.fmean(single))


def _with_gradient(model: nn.Module, output: Tensor) -> int:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    return sum(
        int((torch.view_as_real(gradient) if gradient.is_complex() else gradient).count_nonzero())
        for gradient in gradients
        if gradient is not None
    )


# ---- the state between past and future


def state_size(specimen: Specimen) -> StateSize:
    """The rank between past and future of every layer, float64, parameters jittered, at two cuts."""
    width, tolerance = specimen.tier.d_model, _STATE_TOLERANCE
    limits, ranks = [], []
    for index in range(specimen.tier.n_layers):
        layer = specimen.layer(index, torch.float64, jittered=True).eval()
        first = _CUT * width
        early, noise = numerical_rank(layer, width, cut=_CUT, probes=first)
        second = min(2 * first, math.ceil(_MORE_PROBES * early) + _SPARE_PROBES)
        late, later_noise = numerical_rank(layer, width, cut=2 * _CUT, probes=second)
        tolerance = max(tolerance, noise, later_noise)
        limits.append((first, second))
        ranks.append((early, late))
    return StateSize(width, tolerance, (_CUT, 2 * _CUT), tuple(limits), tuple(ranks))


def numerical_rank(layer: nn.Module, width: int, *, cut: int, probes: int) -> tuple[int, float]:
    """Rank of d outputs from `cut` on / d inputs before it at a random input, at most `probes`; and its tolerance.

    `probes` random combinations of the later outputs have the same rank as all of them, almost surely, up to their
    number. Rows of a batch are independent, so one backward pass of a repeated input gives a combination per row.

    Raises:
        CandidateError: `non_finite`, or the layer does not keep its input's shape and dtype.
    """
    later = max(cut, math.ceil(probes / width) + 1)
    weights = normal((probes, later, width), seed=6)
    sums = weights[:_ROWS].sum(dim=0, keepdim=True)
    gradients = _pulled_back(layer, torch.cat((weights, sums)), cut)  # (M + 1, T, D)
    if not bool(gradients.isfinite().all()):
        raise CandidateError("non_finite", "the gradient of a layer's outputs by its inputs is not finite in float64")
    past, of_sums = gradients[:-1, :cut].flatten(1), gradients[-1, :cut].flatten()
    if float(past.norm()) <= _STATE_TOLERANCE * float(gradients[:-1].norm()):
        return 0, _STATE_TOLERANCE  # nothing but rounding: an FFT spreads that over all positions
    # The gradient of a sum is the sum of gradients, but for rounding.
    apart = float((of_sums - past[:_ROWS].sum(dim=0)).norm() / of_sums.norm())
    tolerance = max(_STATE_TOLERANCE, _NOISE_MARGIN * apart)
    values = torch.linalg.svdvals(past)
    return int((values > tolerance * values[0]).sum()), tolerance


def _pulled_back(layer: nn.Module, weights: Tensor, cut: int) -> Tensor:
    """Gradients by a random input (T, D) of the sums over outputs from `cut` on, weighted with each of `weights`."""
    _, later, width = weights.shape
    x = normal((1, cut + later, width), seed=5).repeat(_ROWS, 1, 1).requires_grad_()
    seed_generators(0)
    y = check_output(x, layer(x * 1.0))
    if not y.requires_grad:
        return torch.zeros(len(weights), cut + later, width, dtype=x.dtype)
    pieces = []
    for chosen in torch.split(weights, _ROWS):
        cotangent = torch.zeros_like(y)
        cotangent[: len(chosen), cut:] = chosen
        (gradient,) = torch.autograd.grad(y, x, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True)
        pieces.append(gradient[: len(chosen)])
    return torch.cat(pieces)
