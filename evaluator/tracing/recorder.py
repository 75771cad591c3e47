"""Watches a program's operations and keeps the graph of what every tensor is. Inside the sandbox only.

Tensors without values (torch's meta device) unless asked for real ones: then no result can steer what is executed, and
one trace stands for every input of its shape. What must know a value cannot be traced.

Notable:
- A tensor's storage counts how often it was written. An in-place operation is its out-of-place form, written; whoever
  looks at the storage through another tensor sees the write: as itself where both look at the same elements, and else
  by sizes, strides and offset.
- What is computed while gradients are off, or from `detach`, is marked where a gradient is cut.
- Tensors that hold real values (`torch.tensor([...])`, NumPy) are constants, known by their bytes.
- Sources that the graph cannot stand for are refused: a generator that the program seeds or brings along, a tensor
  whose making was not seen, operations that write in other ways than into their first argument.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from evaluator.tracing.calls import Call, Ref, Result, attribute, dtype_name, random_draw
from evaluator.tracing.factors import Shape
from evaluator.tracing.graph import Graph, Untraceable
from evaluator.tracing.quick import quick
from evaluator.tracing.rules import RULES, apply

Geometry = tuple[Shape, Shape, int]  # sizes, strides, offset
_META = torch.device("meta")
# In-place operations that change how a tensor looks at its storage, and not what is stored.
_RESTRIDED = frozenset({"unsqueeze", "squeeze", "t", "transpose", "swapaxes"})
_ALLOCATED = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"})


@dataclass(frozen=True)
class _Kind:
    """What is known of an operation before it runs."""

    name: str
    overload: str
    names: tuple[str, ...]
    in_place: bool
    writes_elsewhere: bool
    out: str | None
    places: bool
    random: bool
    pointwise: bool


@cache
def _kind(func: Any) -> _Kind:
    schema = func._schema
    name = schema.name.partition("::")[2]
    written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    in_place = name.endswith("_") and not name.endswith("__") and written == [schema.arguments[0].name]
    out = written[0] if len(written) == 1 and not in_place and schema.arguments[-1].name == written[0] else None
    return _Kind(
        name.removesuffix("_") if in_place else name,
        schema.overload_name,
        tuple(a.name for a in schema.arguments),
        in_place,
        bool(written) and not in_place and out is None,
        out,
        any(a.name == "device" for a in schema.arguments),
        torch.Tag.nondeterministic_seeded in func.tags,
        torch.Tag.pointwise in func.tags,
    )


@dataclass
class _Storage:
    """What a storage holds: `base` as seen by `geometry`, and what others see of it since the last write."""

    memory: torch.UntypedStorage  # kept alive, or its address could come again
    base: int
    geometry: Geometry
    version: int = 0
    seen: dict[Geometry, int] = field(default_factory=dict)


class _Known(NamedTuple):
    tensor: Tensor  # kept alive, or its id could come again
    node: int
    storage: int
    version: int
    geometry: Geometry


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what runs inside it. `failure` is set once something could not be recorded, even if the program went on.

    `seed` is what torch's generator was seeded with before the program ran.

    Args:
        real: compute with values, on the CPU.
    """

    def __init__(self, *, real: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.failure: Untraceable | None = None
        self._real = real
        self._known: dict[int, _Known] = {}
        self._storages: dict[int, _Storage] = {}
        self._constants: dict[int, tuple[Tensor, Tensor]] = {}
        self.seed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _kind(func)
        kwargs = dict(kwargs or {})
        try:
            if not self._real:
                args, kwargs = self._without_values(kind, args, kwargs)
            self._require_our_generator(kind, kwargs)
            given, before = self._given(kind, args, kwargs)
            result = None if self._real else quick(kind.name, args, kwargs, in_place=kind.in_place)
            if result is None:
                result = func(*args, **kwargs)
            self._note(kind, given, before, args, kwargs, result)
        except Untraceable as failure:
            self.failure = self.failure or failure
            raise
        return result

    # ---- what the caller asks

    def node(self, tensor: Tensor) -> int:
        """The node of what a tensor holds now.

        Raises:
            Untraceable: nobody saw how it came to be.
        """
        storage, geometry = _place(tensor)
        known = self._known.get(id(tensor))
        held = self._storages.get(storage)
        if held is None:
            return self._constant(tensor)
        if known and (known.storage, known.version, known.geometry) == (storage, held.version, geometry):
            return known.node
        return self._read(held, geometry, dtype_name(tensor.dtype))

    def input(self, shape: Shape, label: str) -> Tensor:
        """A tensor that stands for any input, float32. Outside of the recorder."""
        with torch.device("cpu" if self._real else "meta"):
            tensor = torch.empty(shape, requires_grad=True)
        self._register(
            tensor,
            self.graph.make("input", (), (label,), shape=shape, dtype="float32", unique=True, tracked=True),
        )
        return tensor

    def parameters(self, model: nn.Module) -> dict[str, int]:
        """From here on every parameter is a leaf, which knows how it was initialised. The nodes by name.

        Raises:
            Untraceable: two parameters lie in one storage.
        """
        nodes, taken = {}, set()
        for name, parameter in model.named_parameters():
            storage, geometry = _place(parameter)
            if storage in taken:
                raise Untraceable("two of its parameters share memory without being one")
            taken.add(storage)
            node = self.graph.make(
                "parameter",
                (self.node(parameter),),
                (parameter.requires_grad,),
                shape=tuple(parameter.shape),
                dtype=dtype_name(parameter.dtype),
                unique=True,
                tracked=parameter.requires_grad,
            )
            self._replace(storage, node, geometry)
            self._register(parameter, node)
            nodes[name] = node
        return nodes

    # ---- one operation

    def _require_our_generator(self, kind: _Kind, kwargs: Mapping[str, Any]) -> None:
        if kind.random and torch.initial_seed() != self.seed:
            raise Untraceable("it seeds torch's generator")
        if kwargs.get("generator") is not None:
            raise Untraceable("it draws from a generator of its own")

    def _without_values(self, kind: _Kind, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kind.places:
            kwargs["device"] = _META
            kwargs.pop("pin_memory", None)
        if kind.in_place and isinstance(args[0], Tensor) and args[0].device != _META:
            raise Untraceable("it writes into a tensor that was made outside of torch")
        given = tuple(self._valueless(value) for value in args)
        return given, {name: self._valueless(value) for name, value in kwargs.items()}

    def _valueless(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device == _META:
                return value
            if id(value) not in self._constants:
                empty = value.detach().to(_META).requires_grad_(value.requires_grad)
                self._register(empty, self._constant(value))
                self._constants[id(value)] = (value, empty)
            return self._constants[id(value)][1]
        return [self._valueless(item) for item in value] if isinstance(value, list | tuple) else value

    def _given(
        self, kind: _Kind, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Tensor | None]:
        target = args[0] if kind.in_place else kwargs.get(kind.out) if kind.out else None
        bound = {**dict(zip(kind.names, args, strict=False)), **kwargs}
        if kind.out:
            bound.pop(kind.out, None)
        if kind.name in _ALLOCATED or (kind.in_place and kind.name in ("fill", "zero", "copy")):
            bound.pop("self", None)
        return {name: self._referred(value) for name, value in bound.items()}, target

    def _referred(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            node = self.node(value)
            return Ref(node if torch.is_grad_enabled() else self.graph.stop(node))
        return [self._referred(item) for item in value] if isinstance(value, list | tuple) else value

    def _note(
        self,
        kind: _Kind,
        given: dict[str, Any],
        target: Tensor | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        if kind.writes_elsewhere:
            raise Untraceable(f"the operation {kind.name} writes into its arguments")
        results = [result] if isinstance(result, Tensor) else result
        if not isinstance(results, list | tuple) or not all(isinstance(one, Tensor) for one in results):
            if _has_tensor(args) or _has_tensor(tuple(kwargs.values())):
                raise Untraceable(f"the operation {kind.name} turns a tensor into a number")
            return
        call = Call(
            self.graph,
            kind.name,
            kind.overload,
            given,
            tuple(tuple(one.shape) for one in results),
            tuple(dtype_name(one.dtype) for one in results),
            kind.pointwise,
            kind.in_place,
        )
        made: Result = random_draw(call) if kind.random and kind.name not in RULES else apply(call)
        nodes = made if isinstance(made, list) else [made]
        if target is not None and kind.name not in _RESTRIDED:
            self._write(target, nodes[0])
            return
        for one, node in zip(results, nodes, strict=True):
            self._register(one, node)

    # ---- storages

    def _register(self, tensor: Tensor, node: int) -> None:
        storage, geometry = _place(tensor)
        held = self._storages.get(storage)
        if held is None:
            held = self._storages[storage] = _Storage(tensor.untyped_storage(), node, geometry)
        held.seen.setdefault(geometry, node)
        self._known[id(tensor)] = _Known(tensor, node, storage, held.version, geometry)

    def _replace(self, storage: int, node: int, geometry: Geometry) -> None:
        held = self._storages[storage]
        held.base, held.geometry, held.seen = node, geometry, {geometry: node}
        held.version += 1

    def _write(self, target: Tensor, node: int) -> None:
        storage, geometry = _place(target)
        held = self._storages.get(storage)
        if held is None:
            raise Untraceable("it writes into a tensor whose making was not seen")
        shape, dtype = tuple(target.shape), dtype_name(target.dtype)
        node = self.graph.cast(self.graph.expand(node, shape), dtype)
        if _covers(target):
            self._replace(storage, node, geometry)
        else:
            base = self.graph.nodes[held.base]
            where = _squeezed(geometry)
            value = self.graph.reshape(node, where[0])
            attrs = (held.geometry, where)
            whole = self.graph.make("written", (held.base, value), attrs, shape=base.shape, dtype=base.dtype)
            self._replace(storage, whole, held.geometry)
            held.seen[geometry] = node
        self._register(target, node)

    def _read(self, held: _Storage, geometry: Geometry, dtype: str) -> int:
        if geometry not in held.seen:
            base = self.graph.nodes[held.base]
            if _is_contiguous(geometry) and _is_contiguous(held.geometry) and _size(geometry) == _size(held.geometry):
                node = self.graph.reshape(held.base, geometry[0])
            else:
                where = _squeezed(geometry)
                node = self.graph.make("read", (held.base,), (held.geometry, where), shape=where[0], dtype=base.dtype)
                node = self.graph.reshape(node, geometry[0])
            held.seen[geometry] = node
        node = held.seen[geometry]
        if self.graph.nodes[node].dtype != dtype:
            raise Untraceable("it looks at memory in another dtype")
        return node

    def _constant(self, tensor: Tensor) -> int:
        if tensor.device == _META:
            raise Untraceable("it uses a tensor whose making was not seen")
        values = tensor.detach().cpu().contiguous()
        shape, dtype = tuple(values.shape), dtype_name(values.dtype)
        if values.numel() == 1:
            return self.graph.full(attribute(values.reshape(()).item()), shape, dtype)
        data = values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
        digest = blake2b(data, digest_size=20).hexdigest()
        node = self.graph.make("constant", (), (digest,), shape=shape, dtype=dtype)
        if self._real:
            self._register(tensor, node)
        return node


def _place(tensor: Tensor) -> tuple[int, Geometry]:
    geometry = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
    return tensor.untyped_storage()._cdata, geometry


def _covers(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage, each element once."""
    if tensor.numel() != tensor.untyped_storage().nbytes() // max(1, tensor.element_size()):
        return False
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _is_contiguous(geometry: Geometry) -> bool:
    expected = 1
    for size, stride in zip(reversed(geometry[0]), reversed(geometry[1]), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return geometry[2] == 0


def _squeezed(geometry: Geometry) -> Geometry:
    pairs = [(size, stride) for size, stride in zip(geometry[0], geometry[1], strict=True) if size != 1]
    return tuple(size for size, _ in pairs), tuple(stride for _, stride in pairs), geometry[2]


def _size(geometry: Geometry) -> int:
    return math.prod(geometry[0])


def _has_tensor(values: Iterable[Any]) -> bool:
    return any(isinstance(v, Tensor) or (isinstance(v, list | tuple) and _has_tensor(v)) for v in values)
