"""The data-flow graph of a program, in a form in which rewrites of one computation come out alike. No torch here.

A node is an operation on nodes; the same operation on the same nodes is the same node, so what a program computes twice
counts once. Nodes are made in canonical form:
- reshapes, permutes, and every chain of them: one node `view` (factors of the operand's size, their order, the shape);
- slices and selections compose, and move in front of views where the cut falls on a whole factor;
- elementwise operations move in front of views and slices that all their operands share;
- operands of commutative operations, and the two sides of a matrix product, in the order of their colours.
A *colour* hashes a node's operation and its operands' colours: alike for alike subtrees, whatever their leaves' names.

`digest` writes out everything that reaches the roots, each node once, numbered at its first visit: two graphs have one
digest only if they are the same graph, so an order chosen badly loses a match and never makes a false one.
Not covered: associativity, distributivity, and every other rule that changes rounding. Those are for L3.
"""

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from evaluator.tracing.factors import Factor, Shape, canonical, refined, refined_both

MOST_NODES = 40_000
COMMUTATIVE = frozenset(
    {"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and",
     "bitwise_or", "bitwise_xor", "hypot", "logaddexp"}
)  # fmt: skip
_DIFFERENTIABLE = ("float", "bfloat", "complex")
_COLOUR_BYTES = 12


class Untraceable(Exception):
    """The program cannot be written down as a graph; the message says why, as the end of a sentence."""


class Node(NamedTuple):
    """One operation. `tracked`: a gradient can flow through it, to a parameter or to the input."""

    op: str
    operands: tuple[int, ...]
    attrs: tuple[Any, ...]
    shape: Shape
    dtype: str
    tracked: bool
    colour: bytes


class Graph:
    """Makes nodes, and hashes them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._index: dict[tuple[Any, ...], int] = {}

    def make(
        self,
        op: str,
        operands: Sequence[int] = (),
        attrs: tuple[Any, ...] = (),
        *,
        shape: Shape,
        dtype: str,
        unique: bool = False,
        tracked: bool | None = None,
    ) -> int:
        """The node of an operation; a new one each time if `unique` (a parameter, an input, a random draw).

        Raises:
            Untraceable: there are too many.
        """
        given = tuple(operands)
        key = (op, given, attrs, shape, dtype)
        if not unique and (found := self._index.get(key)) is not None:
            return found
        if len(self.nodes) >= MOST_NODES:
            raise Untraceable(f"it takes more than {MOST_NODES} operations at the lengths that are traced")
        if tracked is None:
            tracked = dtype.startswith(_DIFFERENTIABLE) and any(self.nodes[n].tracked for n in given)
        hashed = blake2b(repr((op, attrs, shape, dtype)).encode(), digest_size=_COLOUR_BYTES)
        for operand in given:
            hashed.update(self.nodes[operand].colour)
        self.nodes.append(Node(op, given, attrs, shape, dtype, tracked, hashed.digest()))
        if not unique:
            self._index[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def shape(self, node: int) -> Shape:
        """The shape of a node's value."""
        return self.nodes[node].shape

    def full(self, value: Any, shape: Shape, dtype: str) -> int:
        """A tensor of one value."""
        return self.make("full", (), (value,), shape=shape, dtype=dtype)

    def stop(self, node: int) -> int:
        """The same value, through which no gradient flows."""
        one = self.nodes[node]
        return self.make("stop", (node,), shape=one.shape, dtype=one.dtype, tracked=False) if one.tracked else node

    def cast(self, node: int, dtype: str) -> int:
        """The value in another dtype."""
        one = self.nodes[node]
        if one.dtype == dtype:
            return node
        if one.op == "full":
            return self.full(one.attrs[0], one.shape, dtype)
        return self.make("cast", (node,), shape=one.shape, dtype=dtype)

    # ---- views

    def reshape(self, node: int, shape: Shape) -> int:
        """The same elements in row-major order, in another shape."""
        one = self.nodes[node]
        if one.shape == shape:
            return node
        if one.op == "full":
            return self.full(one.attrs[0], shape, one.dtype)
        if one.op == "view":
            return self._view(one.operands[0], one.attrs[0], one.attrs[1], shape)
        return self._view(node, (math.prod(shape),), (0,), shape)

    def permute(self, node: int, order: Sequence[int]) -> int:
        """Dimension i of the result is dimension `order[i]` of the operand."""
        one = self.nodes[node]
        shape = tuple(one.shape[d] for d in order)
        if one.op == "full" or math.prod(shape) == 0:
            return self.reshape(node, shape)
        source = node
        groups: list[list[Factor]] = [[((d,), size)] for d, size in enumerate(one.shape)]
        if one.op == "view" and (fitted := refined(_factors(one), one.shape)) is not None:
            source, groups = one.operands[0], fitted
        sizes, ranks = canonical([factor for d in order for factor in groups[d]])
        return self._view(source, sizes, ranks, shape)

    def _view(self, source: int, sizes: Shape, order: Shape, shape: Shape) -> int:
        one = self.nodes[source]
        if len(order) <= 1:
            if one.shape == shape:
                return source
            sizes, order = (math.prod(shape),), (0,)
        return self.make("view", (source,), (sizes, order), shape=shape, dtype=one.dtype)

    def expand(self, node: int, shape: Shape) -> int:
        """The value repeated along new dimensions and along those of size 1."""
        one = self.nodes[node]
        if one.shape == shape:
            return node
        if one.op == "full":
            return self.full(one.attrs[0], shape, one.dtype)
        if one.op == "expand":
            return self.expand(one.operands[0], shape)
        while one.shape and one.shape[0] == 1:
            node = self.reshape(node, one.shape[1:])
            one = self.nodes[node]
        return node if one.shape == shape else self.make("expand", (node,), shape=shape, dtype=one.dtype)

    def slice(self, node: int, ranges: Sequence[tuple[int, int, int]]) -> int:
        """A cut by (start, length, step) in every dimension."""
        one = self.nodes[node]
        shape = tuple(length for _, length, _ in ranges)
        if shape == one.shape and all(start == 0 for start, length, _ in ranges if length > 0):
            return node
        if one.op == "full":
            return self.full(one.attrs[0], shape, one.dtype)
        if one.op == "slice":
            inner = one.attrs[0]
            both = [(a + s * b, n, b * t) for (a, _, b), (s, n, t) in zip(inner, ranges, strict=True)]
            return self.slice(one.operands[0], both)
        if one.op == "view" and (moved := self._slice_before_view(one, ranges, shape)) is not None:
            return moved
        return self.make("slice", (node,), (tuple(ranges),), shape=shape, dtype=one.dtype)

    def _slice_before_view(self, view: Node, ranges: Sequence[tuple[int, int, int]], shape: Shape) -> int | None:
        """view then slice, as slice then view: where each cut dimension is the outermost factor of an operand's one."""
        source = view.operands[0]
        before = self.shape(source)
        fitted = refined_both(_factors(view), before, view.shape)
        if fitted is None:
            return None
        ours, theirs = fitted  # factors by dimension of the operand, and of the view
        place = {group[0][0]: (d, math.prod(size for _, size in group[1:])) for d, group in enumerate(ours) if group}
        cuts = [(0, size, 1) for size in before]
        changed = {}
        for d, (start, length, step) in enumerate(ranges):
            if (start, length, step) == (0, view.shape[d], 1):
                continue
            if len(theirs[d]) != 1 or (key := theirs[d][0][0]) not in place:
                return None
            at, inner = place[key]
            if inner > 1 and step != 1:
                return None
            cuts[at] = (start * inner, length * inner, step)
            changed[key] = length
        cut = self.slice(source, cuts)
        factors = [(key, changed.get(key, size)) for group in theirs for key, size in group]
        return self._view(cut, *canonical(factors), shape)

    # ---- arithmetic

    def pointwise(
        self, op: str, operands: Sequence[int], attrs: tuple[Any, ...] = (), *, shape: Shape, dtype: str
    ) -> int:
        """An elementwise operation with broadcasting."""
        given = [self._without_expansion(n, operands, shape) for n in operands]
        if (moved := self._before_views(op, given, attrs, shape, dtype)) is not None:
            return moved
        if op in COMMUTATIVE:
            given.sort(key=lambda n: self.nodes[n].colour)
        return self.make(op, given, attrs, shape=shape, dtype=dtype)

    def _without_expansion(self, node: int, operands: Sequence[int], shape: Shape) -> int:
        """An operand that broadcasting alone brings to `shape`, in as few dimensions as that takes."""
        one = self.nodes[node]
        if one.op == "expand" and any(n != node and self.shape(n) == shape for n in operands):
            node = one.operands[0]
            one = self.nodes[node]
        keep = one.shape
        if any(len(self.shape(n)) > len(keep) for n in operands) or any(self.shape(n) == shape for n in operands):
            while keep and keep[0] == 1 and keep != shape:
                keep = keep[1:]
        return self.reshape(node, keep)

    def _before_views(
        self, op: str, operands: list[int], attrs: tuple[Any, ...], shape: Shape, dtype: str
    ) -> int | None:
        large = [n for n in operands if math.prod(self.shape(n)) > 1 and len(self.shape(n)) > 0]
        if not large or any(n not in large and self.shape(n) != () for n in operands):
            return None
        first = self.nodes[large[0]]
        whole = [n for n in large if self.shape(n) == shape]
        if first.op in ("view", "slice") and len(whole) == len(large):
            inner = self.shape(first.operands[0])
            if any(
                self.nodes[n].op != first.op
                or self.nodes[n].attrs != first.attrs
                or self.shape(self.nodes[n].operands[0]) != inner
                for n in large
            ):
                return None
            given = [self.nodes[n].operands[0] if n in large else n for n in operands]
            done = self.pointwise(op, given, attrs, shape=inner, dtype=dtype)
            return self.slice(done, first.attrs[0]) if first.op == "slice" else self._view_of(done, first)
        return self._before_reshape(op, operands, whole, attrs, shape, dtype)

    def _view_of(self, node: int, like: Node) -> int:
        if len(like.attrs[1]) <= 1:
            return self.reshape(node, like.shape)
        if self.nodes[node].op == "view":  # `permute` composes, given the factors as dimensions
            return self.reshape(self.permute(self.reshape(node, like.attrs[0]), like.attrs[1]), like.shape)
        return self._view(node, like.attrs[0], like.attrs[1], like.shape)

    def _before_reshape(
        self, op: str, operands: list[int], whole: list[int], attrs: tuple[Any, ...], shape: Shape, dtype: str
    ) -> int | None:
        """A view and vectors along its last dimension, a linear's bias: before the view if that leaves the last
        dimension alone, else on its rows."""
        if len(set(whole)) != 1 or not shape:
            return None
        one = self.nodes[whole[0]]
        if one.op != "view" or any(n != whole[0] and self.shape(n) not in ((), shape[-1:]) for n in operands):
            return None
        inner, moved = self.shape(one.operands[0]), one.operands[0]
        if len(one.attrs[1]) > 1 or not inner or inner[-1] != shape[-1]:
            inner = (math.prod(shape[:-1]), shape[-1])
            moved = self.reshape(whole[0], inner)
            if moved == whole[0]:
                return None
        given = [moved if n == whole[0] else n for n in operands]
        return self.reshape(self.pointwise(op, given, attrs, shape=inner, dtype=dtype), shape)

    def contract(self, left: int, right: int, dtype: str) -> int:
        """Batched product over the last dimension of both: (B, M, K) and (B, N, K) to (B, M, N)."""
        (batch, m, _), n = self.shape(left), self.shape(right)[1]
        if self.nodes[left].colour > self.nodes[right].colour:
            turned = self.make("contract", (right, left), shape=(batch, n, m), dtype=dtype)
            return self.permute(turned, (0, 2, 1))
        return self.make("contract", (left, right), shape=(batch, m, n), dtype=dtype)

    # ---- hashing

    def digest(self, roots: Sequence[int], header: str, *, size: int = 20) -> str:
        """The hash of all that reaches `roots`, in their order. `header` says what the roots are."""
        return blake2b(self.written(roots, header).encode(), digest_size=size).hexdigest()

    def written(self, roots: Sequence[int], header: str) -> str:
        """What `digest` hashes: a line per node, operands by number, leaves first."""
        colours = self._refined_colours(roots)
        numbers: dict[int, int] = {}
        lines = [header]
        pending = [*reversed(roots)]
        while pending:
            node = pending[-1]
            if node in numbers:
                pending.pop()
                continue
            one = self.nodes[node]
            given = one.operands
            if one.op in COMMUTATIVE:
                given = tuple(sorted(given, key=colours.__getitem__))
            missing = [n for n in given if n not in numbers]
            if missing:
                pending.extend(reversed(missing))
                continue
            pending.pop()
            numbers[node] = len(numbers)
            listed = ",".join(str(numbers[n]) for n in given)
            lines.append(f"{one.op}|{one.attrs!r}|{one.shape}|{one.dtype}|{listed}")
        lines.append(",".join(str(numbers[n]) for n in roots))
        return "\n".join(lines)

    def reached(self, roots: Iterable[int]) -> list[int]:
        """The nodes that reach a root, in the order in which they were made."""
        seen = set(roots)
        pending = list(seen)
        while pending:
            for operand in self.nodes[pending.pop()].operands:
                if operand not in seen:
                    seen.add(operand)
                    pending.append(operand)
        return sorted(seen)

    def _refined_colours(self, roots: Sequence[int]) -> dict[int, bytes]:
        """Colours that also tell what a node is used for, down and up once: two alike projections of which only one
        goes through an activation get colours of their own. Source: Weisfeiler and Leman 1968, one round."""
        order = self.reached(roots)
        uses: dict[int, list[bytes]] = {node: [] for node in order}
        for place, root in enumerate(roots):
            uses[root].append(b"root%d" % place)
        context: dict[int, bytes] = {}
        for node in reversed(order):
            one = self.nodes[node]
            context[node] = _hashed(one.colour, *sorted(uses[node]))
            for place, operand in enumerate(one.operands):
                told = 0 if one.op in COMMUTATIVE else place
                uses[operand].append(b"%d" % told + context[node])
        final: dict[int, bytes] = {}
        for node in order:
            below = [final[n] for n in self.nodes[node].operands]
            final[node] = _hashed(context[node], *(sorted(below) if self.nodes[node].op in COMMUTATIVE else below))
        return final


def _factors(view: Node) -> list[Factor]:
    """The factors of a view in the order of its result."""
    sizes, order = view.attrs
    return [((place,), sizes[place]) for place in order]


def _hashed(*parts: bytes) -> bytes:
    return blake2b(b"\x00".join(parts), digest_size=_COLOUR_BYTES).digest()
