"""The grammar: a mixer as a tree of known classes, and the tree as Python text, both ways.

    mixer     := one tree for every layer, or two trees and the rule that says which layer gets which
    tree      := leaf | Serial(tree, tree) | Parallel(tree, tree) | MultiplicativeGate(tree) | PreNorm(tree)
    leaf      := one of `LEAVES` with literal settings

Notable:
* text is canonical: every setting is written, `Serial` leans right, the branches of a summed `Parallel` are sorted,
  so that equal text is equal design;
* reading never runs anything: a shown program is parsed, and one that is not made of these classes is opaque (`None`);
* `per_layer` unfolds the rule, because with two layers "even layers" and "first layer" say the same.

Not covered: what the classes compute (the catalogue of reference programs), and how they do (the experiments).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

Setting: TypeAlias = int | bool | str
Rule = Literal["uniform", "alternate", "first", "last"]
MAX_LEAVES = 4
MAX_DEPTH = 5
MAX_INTEGER = 1 << 20
Names: TypeAlias = Mapping[str, ast.expr]

# Keyword parameters of each leaf class with their defaults, in the order in which they are written.
LEAVES: Mapping[str, Mapping[str, Setting]] = {
    "ShortConvolution": {"kernel_size": 4, "activation": "silu"},
    "SoftmaxAttention": {"n_heads": 2, "window": 0, "rotary": True, "qk_norm": False},
    "LinearAttention": {"n_heads": 2, "feature_map": "elu", "normalise": True},
    "GatedLinearAttention": {"n_heads": 2, "kernel_size": 4, "output_gate": True},
    "DeltaRule": {"n_heads": 2, "kernel_size": 4, "gated": False},
    "Retention": {"n_heads": 2},
    "DiagonalSSM": {"d_state": 8},
    "SelectiveSSM": {"n_heads": 4, "expansion": 2, "d_state": 16, "kernel_size": 4},
    "RWKVTimeMix": {"n_heads": 2},
    "LongConvolution": {"kernel_size": 3},
    "GatedRecurrence": {"expansion": 1},
    "PointwiseMLP": {"expansion": 1},
}
# What each setting may be. Head counts are further limited to divisors of the width (`fits`).
CHOICES: Mapping[str, tuple[Setting, ...]] = {
    "kernel_size": (2, 3, 4, 6, 8),
    "activation": ("silu", "none"),
    "n_heads": (1, 2, 4),
    "window": (0, 8, 16),
    "rotary": (True, False),
    "qk_norm": (False, True),
    "feature_map": ("elu", "relu", "exp", "squared_relu"),
    "normalise": (True, False),
    "output_gate": (True, False),
    "gated": (False, True),
    "d_state": (4, 8, 16),
    "expansion": (1, 2),
    "mix": ("sum", "gate"),
    "norm": ("rms", "layer"),
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One class with its settings, complete and in the order of `LEAVES`."""

    kind: str
    settings: tuple[tuple[str, Setting], ...]

    def with_setting(self, name: str, value: Setting) -> Leaf:
        return Leaf(self.kind, tuple((key, value if key == name else old) for key, old in self.settings))

    def __getitem__(self, name: str) -> Setting:
        return dict(self.settings)[name]


@dataclass(frozen=True, slots=True)
class Serial:
    first: Tree
    second: Tree


@dataclass(frozen=True, slots=True)
class Parallel:
    first: Tree
    second: Tree
    mix: str = "sum"


@dataclass(frozen=True, slots=True)
class Gate:
    inner: Tree


@dataclass(frozen=True, slots=True)
class Norm:
    inner: Tree
    norm: str = "rms"


Tree: TypeAlias = Leaf | Serial | Parallel | Gate | Norm


@dataclass(frozen=True, slots=True)
class Mixer:
    """A whole design. `other` is the tree of the layers that the rule does not select; None when uniform.

    The rule "alternate" selects even layers.
    """

    tree: Tree
    rule: Rule = "uniform"
    other: Tree | None = None


def leaf(kind: str, **settings: Setting) -> Leaf:
    """A leaf with the class's defaults for what is not said."""
    defaults = LEAVES[kind]
    assert settings.keys() <= defaults.keys(), f"{kind} has no {settings.keys() - defaults.keys()}"
    return Leaf(kind, tuple((name, settings.get(name, default)) for name, default in defaults.items()))


def canonical(tree: Tree) -> Tree:
    """The same function written one way: `Serial` leans right, a summed `Parallel` is sorted, `Norm` is not doubled."""
    match tree:
        case Serial(Serial(a, b), c):
            return canonical(Serial(a, Serial(b, c)))
        case Serial(first, second):
            first, second = canonical(first), canonical(second)
            return canonical(Serial(first, second)) if isinstance(first, Serial) else Serial(first, second)
        case Parallel(first, second, mix):
            branches = [canonical(first), canonical(second)]
            if mix == "sum":
                branches.sort(key=expression)
            return Parallel(branches[0], branches[1], mix)
        case Gate(inner):
            return Gate(canonical(inner))
        case Norm(inner, norm):
            inner = canonical(inner)
            return inner if isinstance(inner, Norm) else Norm(inner, norm)
        case Leaf():
            return tree


def canonical_mixer(mixer: Mixer) -> Mixer:
    """The canonical trees, and "uniform" where both are equal."""
    tree = canonical(mixer.tree)
    other = None if mixer.other is None else canonical(mixer.other)
    return Mixer(tree) if other is None or other == tree else Mixer(tree, mixer.rule, other)


def expression(tree: Tree) -> str:
    """The Python expression that builds a tree, on one line."""
    match tree:
        case Leaf(kind, settings):
            keywords = "".join(f", {name}={value!r}" for name, value in settings)
            return f"{kind}(d_model{keywords})".replace("'", '"')
        case Serial(first, second):
            return f"Serial(d_model, {expression(first)}, {expression(second)})"
        case Parallel(first, second, mix):
            return f'Parallel(d_model, {expression(first)}, {expression(second)}, mix="{mix}")'
        case Gate(inner):
            return f"MultiplicativeGate(d_model, {expression(inner)})"
        case Norm(inner, norm):
            return f'PreNorm(d_model, {expression(inner)}, norm="{norm}")'


_RULE_WORDS: Mapping[Rule, tuple[str, str]] = {
    "alternate": ("even layers", "odd layers"),
    "first": ("first layer", "later layers"),
    "last": ("last layer", "earlier layers"),
}


def design_text(mixer: Mixer) -> str:
    """The design as a hypothesis states it; `read_design` is its inverse."""
    if mixer.other is None:
        return f"every layer: {expression(mixer.tree)}"
    selected, remaining = _RULE_WORDS[mixer.rule]
    return f"{selected}: {expression(mixer.tree)}; {remaining}: {expression(mixer.other)}"


def read_design(text: str) -> Mixer | None:
    """The design that a text states in the words of `design_text`, or None."""
    text = " ".join(text.split())
    if text.startswith("every layer: "):
        tree = read_expression(text.removeprefix("every layer: "))
        return None if tree is None else canonical_mixer(Mixer(tree))
    for rule, (selected, remaining) in _RULE_WORDS.items():
        if text.startswith(f"{selected}: ") and f"; {remaining}: " in text:
            left, right = text.removeprefix(f"{selected}: ").split(f"; {remaining}: ", 1)
            tree, other = read_expression(left), read_expression(right)
            if tree is not None and other is not None:
                return canonical_mixer(Mixer(tree, rule, other))
    return None


def read_expression(text: str) -> Tree | None:
    """The tree of one expression, or None if it is anything else."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree_of(node, {})


def literal(node: ast.expr, names: Names, nesting: int = 0) -> Setting | None:
    """The value of a constant, a known name, or small integer arithmetic over them (`max(2, d_model // 64)`)."""
    if nesting > MAX_DEPTH:
        return None
    match node:
        case ast.Constant(bool() | int() | str() as value):
            return value
        case ast.Name(name) if name in names:
            return literal(names[name], names, nesting + 1)
        case ast.BinOp(left, ast.FloorDiv() | ast.Mult() as operator, right):
            operands = [literal(left, names, nesting + 1), literal(right, names, nesting + 1)]
        case ast.Call(ast.Name("max" | "min" as operator), [left, right], []):
            operands = [literal(left, names, nesting + 1), literal(right, names, nesting + 1)]
        case _:
            return None
    integers = [value for value in operands if type(value) is int and 0 <= value <= MAX_INTEGER]
    if len(integers) < 2 or (isinstance(operator, ast.FloorDiv) and not integers[1]):
        return None
    if isinstance(operator, ast.FloorDiv):
        return integers[0] // integers[1]
    if isinstance(operator, ast.Mult):
        return integers[0] * integers[1]
    return max(integers) if operator == "max" else min(integers)


def tree_of(node: ast.expr, names: Names, depth: int = 0) -> Tree | None:
    """The tree of a syntax node; `names` holds local assignments to look through."""
    if depth > 2 * MAX_DEPTH:
        return None
    if isinstance(node, ast.Name) and node.id in names:
        return tree_of(names[node.id], names, depth + 1)
    if not isinstance(node, ast.Call):
        return None
    if ast.unparse(node.func) == "nn.Sequential":
        return _sequence_of(node, names, depth)
    if not isinstance(node.func, ast.Name) or not _takes_width(node):
        return None
    kind, arguments = node.func.id, node.args[1:]
    keywords: dict[str | None, ast.expr] = {word.arg: word.value for word in node.keywords if word.arg != "d_model"}
    if kind in LEAVES:
        return None if arguments else _leaf_of(kind, keywords, names)
    places = ("first", "second") if kind in {"Serial", "Parallel"} else ("inner",)
    keywords.update(zip(places, arguments, strict=False))
    parts: dict[str, Tree] = {}
    for name in ("first", "second", "inner"):
        if name in keywords:
            part = tree_of(keywords[name], names, depth + 1)
            if part is None:
                return None
            parts[name] = part
    words = {name: value.value for name, value in keywords.items() if isinstance(value, ast.Constant)}
    return _combined(kind, parts, words)


def _sequence_of(node: ast.Call, names: Names, depth: int) -> Tree | None:
    parts = [tree_of(argument, names, depth + 1) for argument in node.args]
    known = [part for part in parts if part is not None]
    if node.keywords or not known or len(known) < len(parts):
        return None
    return reduce(Serial, known)


def _takes_width(call: ast.Call) -> bool:
    if call.args:
        return isinstance(call.args[0], ast.Name) and call.args[0].id == "d_model"
    return any(word.arg == "d_model" and isinstance(word.value, ast.Name) for word in call.keywords)


def _combined(kind: str, parts: Mapping[str, Tree], words: Mapping[str | None, object]) -> Tree | None:
    mix, norm = words.get("mix", "sum"), words.get("norm", "rms")
    if parts.keys() == {"first", "second"}:
        if kind == "Serial":
            return Serial(parts["first"], parts["second"])
        if kind == "Parallel" and mix in CHOICES["mix"]:
            return Parallel(parts["first"], parts["second"], str(mix))
    if parts.keys() == {"inner"}:
        if kind == "MultiplicativeGate":
            return Gate(parts["inner"])
        if kind == "PreNorm" and norm in CHOICES["norm"]:
            return Norm(parts["inner"], str(norm))
    return None


def _leaf_of(kind: str, keywords: Mapping[str | None, ast.expr], names: Names) -> Leaf | None:
    settings: dict[str, Setting] = {}
    for name, node in keywords.items():
        value = literal(node, names)
        if name is None or name not in LEAVES[kind] or type(value) is not type(LEAVES[kind][name]):
            return None
        assert value is not None
        settings[name] = value
    return leaf(kind, **settings)


def nodes(tree: Tree) -> Iterator[Tree]:
    """Every node, outermost first."""
    yield tree
    match tree:
        case Serial(first, second) | Parallel(first, second, _):
            yield from nodes(first)
            yield from nodes(second)
        case Gate(inner) | Norm(inner, _):
            yield from nodes(inner)


def leaves(tree: Tree) -> list[Leaf]:
    return [node for node in nodes(tree) if isinstance(node, Leaf)]


def depth(tree: Tree) -> int:
    match tree:
        case Serial(first, second) | Parallel(first, second, _):
            return 1 + max(depth(first), depth(second))
        case Gate(inner) | Norm(inner, _):
            return 1 + depth(inner)
        case Leaf():
            return 1


def trees(mixer: Mixer) -> list[Tree]:
    return [mixer.tree] if mixer.other is None else [mixer.tree, mixer.other]


def replace(tree: Tree, old: Tree, new: Tree) -> Tree:
    """The tree with every occurrence of `old` exchanged."""
    if tree == old:
        return new
    match tree:
        case Serial(first, second):
            return Serial(replace(first, old, new), replace(second, old, new))
        case Parallel(first, second, mix):
            return Parallel(replace(first, old, new), replace(second, old, new), mix)
        case Gate(inner):
            return Gate(replace(inner, old, new))
        case Norm(inner, norm):
            return Norm(replace(inner, old, new), norm)
        case Leaf():
            return tree


def layer_tree(mixer: Mixer, layer: int, n_layers: int) -> Tree:
    """The tree of one layer."""
    selected = {
        "uniform": True,
        "alternate": layer % 2 == 0,
        "first": layer == 0,
        "last": layer == n_layers - 1,
    }[mixer.rule]
    return mixer.tree if selected or mixer.other is None else mixer.other


def per_layer(mixer: Mixer, n_layers: int) -> tuple[str, ...]:
    """What identifies a design in a network of `n_layers`: the expression of every layer."""
    return tuple(expression(canonical(layer_tree(mixer, layer, n_layers))) for layer in range(n_layers))
