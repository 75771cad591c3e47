"""L3: what the built layers compute, as a hash of rounded numbers. Inside the sandbox only.

In float64, on fixed probes at the shortest and longest length of the tier's tasks: outputs in evaluation mode,
gradients of a fixed projection of them with respect to the input and to every parameter, and the outputs in training
mode where they differ. With them the graph of each parameter's initialisation, recorded while the layers are built as
in `evaluator.tracing.trace`, but on real tensors: a program whose control flow depends on values has a function too.

Parameters get values that do not depend on their names or on the order of their making: first all of one shape get the
same, and the gradients under those put them in order (where two tie, swapping them changes nothing that was seen, and
the order of registration decides); then each gets its own. What is shared stays shared.

Numbers are projections on fixed random directions, relative to the tensor's norm, rounded to `_DIGITS` decimals.
Where it was measured (benchmarks/identity_executed.md) rewrites agreed to 1e-14 and one-operation changes differed by
more than 1e-3. A number that lies at the border of two roundings can part two rewrites; it never joins two functions.
A tensor whose norm is `_NOUGHT` of the layer's largest is rounding noise, and counts as zero.

No key: results that differ between two runs, random results in evaluation mode, results that are not finite, programs
that compute in float32 inside may get one that no rewrite shares. Not covered: lengths and widths other than the
tier's; at tiers with sequences longer than `MOST_LENGTH` there is no key.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn

from evaluator.gates.specimen import blamed_on, check_output, normal, widened
from evaluator.program import seed_generators
from evaluator.tiers import Tier
from evaluator.tracing.graph import Untraceable
from evaluator.tracing.recorder import Recorder
from evaluator.tracing.trace import Built, built_under, shapes

PREFIX = "f1-"
MOST_LENGTH = 512
_DIGITS = 6
_NOUGHT = 1e-10
_TIE = 1e-9
_AGREE = 1e-9
_DIRECTIONS = 4
_SCALE = 0.5


def function_key(source: str, tier: Tier) -> str:
    """The program's key at L3 for one tier. Runs the program's code, three times forward and twice backward.

    Raises:
        Untraceable: it has none, and why.
        CandidateError: the program cannot be built or run.
    """
    return PREFIX + blake2b(repr(function_numbers(source, tier)).encode(), digest_size=20).hexdigest()


def function_numbers(source: str, tier: Tier) -> list[object]:
    """What the key hashes: names and rounded numbers. Raises: as `function_key`."""
    if max(length for _, length in shapes(tier)) > MOST_LENGTH:
        raise Untraceable(f"the tier has sequences longer than {MOST_LENGTH}, which are too many to compute for a hash")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # what a program precomputes is then as exact as what it computes
    try:
        recorder = Recorder(real=True)
        built = built_under(recorder, source, tier)
        for layer in built.layers:
            widened(layer)
        return _Function(built, tier, recorder).numbers()
    finally:
        torch.set_default_dtype(default)


class _Function:
    def __init__(self, built: Built, tier: Tier, recorder: Recorder) -> None:
        self._built = built
        self._tier = tier
        self._graph = recorder.graph
        self._named = dict(built.model.layers.named_parameters())

    def numbers(self) -> list[object]:
        for parameter in self._named.values():
            _fill(parameter, 0)
        order = self._ordered()
        for place, name in enumerate(order, start=1):
            _fill(self._named[name], place)
        nodes = [self._built.parameters[name] for name in order]
        found: list[object] = [self._built.kind, self._built.count, self._graph.digest(nodes, "initialisation")]
        for index, layer in enumerate(self._built.layers):
            for batch, length in shapes(self._tier):
                found.extend(self._of_layer(index, layer, order, batch, length))
        return found

    def _ordered(self) -> list[str]:
        """The parameters in an order that follows from what each does."""
        colours = {name: self._graph.nodes[node].colour for name, node in self._built.parameters.items()}
        told: dict[str, list[float]] = {name: [] for name in self._named}
        batch, length = shapes(self._tier)[0]
        for index, layer in enumerate(self._built.layers):
            _, gradients = self._backward(index, layer.eval(), batch, length)
            for name, gradient in gradients[1:]:
                told[name].append(0.0 if gradient is None else float((gradient * _direction(gradient, 1)).sum()))
                told[name].append(0.0 if gradient is None else float(gradient.norm()))
        kind = {n: (tuple(p.shape), str(p.dtype), colours[n]) for n, p in self._named.items()}
        names = list(self._named)
        ranks = [_ranked([told[name][place] for name in names]) for place in range(2 * len(self._built.layers))]
        places = {name: i for i, name in enumerate(names)}
        return sorted(names, key=lambda n: (kind[n], [rank[places[n]] for rank in ranks]))

    def _of_layer(self, index: int, layer: nn.Module, order: Sequence[str], batch: int, length: int) -> list[object]:
        y, gradients = self._backward(index, layer.eval(), batch, length)
        again = self._forward(index, layer, batch, length, seed=2)
        if not _alike(y, again):
            raise Untraceable("its results in evaluation mode differ from run to run")
        trained = self._forward(index, layer.train(), batch, length, seed=3)
        if not _alike(trained, self._forward(index, layer, batch, length, seed=3)):
            raise Untraceable("its results in training mode differ between runs from one seed")
        if not _alike(y, self._forward(index, layer.eval(), batch, length, seed=4)):
            raise Untraceable("running it changes what it computes")
        by_name = dict(gradients)
        listed = [by_name["input"], *(by_name[name] for name in order)]
        largest = max((float(g.norm()) for g in listed if g is not None), default=0.0)
        found: list[object] = [_rounded(y, float(y.norm())), [_rounded(g, largest) for g in listed]]
        return [*found, "alike" if _alike(y, trained) else _rounded(trained, float(trained.norm()))]

    def _probe(self, index: int, batch: int, length: int) -> Tensor:
        return normal((batch, length, self._tier.d_model), seed=7_000 + 10 * length + index)

    def _forward(self, index: int, layer: nn.Module, batch: int, length: int, *, seed: int) -> Tensor:
        x = self._probe(index, batch, length)
        seed_generators(seed)
        with torch.no_grad(), blamed_on("forward_failed", f"running layer {index} at B={batch}, L={length}"):
            return _finite(check_output(x, layer(x)).detach())

    def _backward(
        self, index: int, layer: nn.Module, batch: int, length: int
    ) -> tuple[Tensor, list[tuple[str, Tensor | None]]]:
        """The output, and the gradients by name, the input's first."""
        x = self._probe(index, batch, length).requires_grad_()
        seed_generators(1)
        trained = {name: p for name, p in self._named.items() if p.requires_grad}
        with blamed_on("forward_failed", f"running layer {index} forward and backward at B={batch}, L={length}"):
            y = check_output(x, layer(x.view_as(x)))
            given: Sequence[Tensor | None] = [None] * (1 + len(trained))
            if y.requires_grad:
                loss = (y * _direction(y, 5)).sum()
                given = torch.autograd.grad(loss, [x, *trained.values()], allow_unused=True)
        found = dict(zip(["input", *trained], given, strict=True))
        for gradient in given:
            if gradient is not None:
                _finite(gradient)
        return _finite(y.detach()), [(name, found.get(name)) for name in ("input", *self._named)]


def _fill(parameter: nn.Parameter, place: int) -> None:
    shape = tuple(parameter.shape)
    seed = int.from_bytes(blake2b(repr((shape, place)).encode(), digest_size=6).digest(), "little")
    values = normal(shape, seed) * (_SCALE / math.sqrt(max(1, shape[-1])) if len(shape) > 1 else _SCALE)
    with torch.no_grad():
        parameter.copy_(values)


def _direction(like: Tensor, seed: int) -> Tensor:
    return normal(tuple(like.shape), seed).to(like.dtype)


def _ranked(values: Sequence[float]) -> list[int]:
    """The rank of each value; values that differ by no more than rounding share one."""
    largest = max(map(abs, values), default=0.0)
    ranks, rank, before = [0] * len(values), 0, None
    for place in sorted(range(len(values)), key=values.__getitem__):
        if before is not None and values[place] - before > _TIE * largest:
            rank += 1
        before = values[place]
        ranks[place] = rank
    return ranks


def _rounded(tensor: Tensor | None, scale: float) -> list[object]:
    """A tensor as numbers that tell it from others: its shape, its norm, and projections relative to the norm."""
    if tensor is None:
        return ["none"]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    norm = float(tensor.norm())
    if norm <= _NOUGHT * scale or norm == 0.0:
        return [list(tensor.shape), "zero"]
    told: list[object] = [list(tensor.shape), f"{norm:.{_DIGITS}e}"]
    for seed in range(_DIRECTIONS):
        value = round(float((tensor * _direction(tensor, 20 + seed)).sum()) / norm, _DIGITS)
        told.append(value + 0.0)  # no negative zero
    return told


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _AGREE * (one.abs().max() + 1e-300)) if one.numel() else True


def _finite(tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise Untraceable("its results or gradients are not finite on the probes")
    return tensor
