"""An operation as the rules see it, and what it is in the graph without one. Inside the sandbox only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from evaluator.tracing.factors import Shape
from evaluator.tracing.graph import Graph, Untraceable


class Ref(int):
    """A node's number, where a tensor stood among an operation's arguments."""


class Call(NamedTuple):
    """One operation as it ran: `given` by the schema's names with tensors as `Ref`s; its results' shapes and dtypes."""

    graph: Graph
    name: str
    overload: str
    given: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    pointwise: bool
    in_place: bool

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def dtype(self) -> str:
        return self.dtypes[0]

    def node(self, name: str = "self") -> Ref:
        """The tensor argument of that name."""
        value = self.given[name]
        if not isinstance(value, Ref):
            raise Untraceable(f"{self.name} was called in a form that is not known")
        return value

    def operand(self, name: str) -> int:
        """The argument of that name, a number as a tensor of no dimension."""
        value = self.given[name]
        return value if isinstance(value, Ref) else self.graph.full(self.number(value), (), self.dtype)

    def number(self, value: Any) -> Any:
        """A Python number as an attribute; a float where the result is one."""
        if isinstance(value, int) and not isinstance(value, bool) and self.dtype.startswith(("float", "bfloat")):
            value = float(value)
        return attribute(value)

    def elementwise(self, op: str, *operands: int) -> int:
        return self.graph.pointwise(op, operands, shape=self.broadcast(*operands), dtype=self.dtype)

    def broadcast(self, *operands: int) -> Shape:
        shapes = [self.graph.shape(n) for n in operands]
        return tuple(torch.broadcast_shapes(*shapes)) if len(set(shapes)) > 1 else shapes[0]  # type: ignore[no-untyped-call]


Result = int | list[int]
Rule = Callable[[Call], Result]

# Arguments that say where and how a result lies in memory, not what it is.
_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "generator", "implicit"})
_DIMENSIONS = frozenset({"dim", "dims", "dim0", "dim1", "start_dim", "end_dim"})
_FACTORIES = frozenset({"arange", "eye", "linspace", "logspace", "tril_indices", "triu_indices", "hann_window"})


def attribute(value: Any) -> Any:
    """An argument as hashable plain data."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, complex):
        return "complex", attribute(value.real), attribute(value.imag)
    if isinstance(value, list | tuple):
        return tuple(attribute(item) for item in value)
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout | torch.device):
        return str(value)
    raise Untraceable(f"an operation has an argument of type {type(value).__name__[:60]}")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def generic(call: Call) -> Result:
    """The operation as it is."""
    operands: list[int] = []
    rank = _rank(call)
    attrs = []
    for name, value in call.given.items():
        if name in _PLACEMENT or (name == "dtype" and call.name in _FACTORIES):
            continue
        plain = _from_front(value, rank) if name in _DIMENSIONS else value
        attrs.append((name, template(plain, operands)))
    if call.pointwise and len(call.shapes) == 1:
        return call.graph.pointwise(call.name, operands, tuple(attrs), shape=call.shape, dtype=call.dtype)
    if len(call.shapes) == 1:
        return call.graph.make(call.name, operands, tuple(attrs), shape=call.shape, dtype=call.dtype)
    whole = call.graph.make(call.name, operands, tuple(attrs), shape=(), dtype=call.dtypes[0] if call.dtypes else "")
    parts = zip(call.shapes, call.dtypes, strict=True)
    return [
        call.graph.make("part", (whole,), (place,), shape=shape, dtype=dtype)
        for place, (shape, dtype) in enumerate(parts)
    ]


def template(value: Any, operands: list[int]) -> Any:
    if isinstance(value, Ref):
        operands.append(int(value))
        return "@"
    if isinstance(value, list | tuple):
        return tuple(template(item, operands) for item in value)
    return attribute(value)


def _rank(call: Call) -> int:
    for value in call.given.values():
        if isinstance(value, Ref):
            return len(call.graph.shape(value))
        if isinstance(value, list | tuple) and value and isinstance(value[0], Ref):
            return len(call.graph.shape(value[0])) + (call.name == "stack")
    return len(call.shape)


def _from_front(value: Any, rank: int) -> Any:
    if isinstance(value, int) and not isinstance(value, Ref | bool):
        return value + rank if value < 0 else value
    return tuple(_from_front(item, rank) for item in value) if isinstance(value, list | tuple) else value


def random_draw(call: Call) -> Result:
    """Any other random operation: a new node each time."""
    operands: list[int] = []
    attrs = tuple((name, template(value, operands)) for name, value in call.given.items() if name not in _PLACEMENT)
    whole = call.graph.make(call.name, operands, attrs, shape=call.shape, dtype=call.dtype, unique=True)
    if len(call.shapes) == 1:
        return whole
    return [
        call.graph.make("part", (whole,), (place,), shape=shape, dtype=dtype)
        for place, (shape, dtype) in enumerate(zip(call.shapes, call.dtypes, strict=True))
    ]


def table(rule: Rule, names: Sequence[str]) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)
