"""The changes the grammar can make to a design, each one atomic and labelled.

A label says what changed in words that recur ("replace ShortConvolution by DeltaRule"), so that lessons about a
change can be found again, followed by where it was made if the layers differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from agents.embedded.genome import (
    CHOICES,
    LEAVES,
    MAX_DEPTH,
    MAX_LEAVES,
    Gate,
    Leaf,
    Mixer,
    Norm,
    Parallel,
    Rule,
    Serial,
    Setting,
    Tree,
    canonical_mixer,
    depth,
    leaf,
    leaves,
    nodes,
    per_layer,
    replace,
    trees,
)
from agents.embedded.priors import AFFORDABLE, CONTENT, mean_cost

Operator = Literal["convolution", "core", "setting", "gate", "hybrid", "crossover", "layers", "removal", "norm"]

CORES = ("SoftmaxAttention", "DeltaRule", "LinearAttention", "GatedLinearAttention", "Retention", "GatedRecurrence")
MINOR_CORES = ("DiagonalSSM", "ShortConvolution", "SelectiveSSM", "RWKVTimeMix", "LongConvolution")


@dataclass(frozen=True, slots=True)
class Change:
    """One step away from a design. `component` is what was added or changed, as a class name."""

    operator: Operator
    label: str
    component: str
    mixer: Mixer


def change_kind(change: str) -> str:
    """A change's label without the place where it was made: what lessons of several experiments share."""
    return change.partition(" in ")[0].strip().lower()


def core_of(tree: Tree) -> Leaf:
    """The component that carries the mixer: the one that finds most by content."""
    return max(leaves(tree), key=lambda component: CONTENT[component.kind])


def fits(mixer: Mixer, d_model: int, n_layers: int) -> bool:
    """Whether a design is small enough to be built, paid for and read."""
    if mean_cost(mixer, d_model, n_layers) > AFFORDABLE:
        return False
    for tree in trees(mixer):
        found = leaves(tree)
        if len(found) > MAX_LEAVES or depth(tree) > MAX_DEPTH:
            return False
        if any(d_model % int(value) for part in found for name, value in part.settings if name == "n_heads"):
            return False
    return True


def changes(mixer: Mixer, exemplars: Sequence[tuple[str, Mixer]], d_model: int, n_layers: int) -> list[Change]:
    """Every change that gives another design and fits, in a fixed order."""
    own = per_layer(mixer, n_layers)
    found: dict[tuple[str, ...], Change] = {}
    for change in _all(mixer, exemplars, n_layers):
        tidy = Change(change.operator, change.label, change.component, canonical_mixer(change.mixer))
        key = per_layer(tidy.mixer, n_layers)
        if key != own and key not in found and fits(tidy.mixer, d_model, n_layers):
            found[key] = tidy
    return list(found.values())


def _all(mixer: Mixer, exemplars: Sequence[tuple[str, Mixer]], n_layers: int) -> Iterator[Change]:
    places: list[tuple[str, Tree, bool]] = [("", mixer.tree, True)]
    if mixer.other is not None:
        selected, remaining = {
            "alternate": ("even layers", "odd layers"),
            "first": ("the first layer", "the later layers"),
            "last": ("the last layer", "the earlier layers"),
        }.get(mixer.rule, ("", ""))
        places = [(f" in {selected}", mixer.tree, True), (f" in {remaining}", mixer.other, False)]
    for where, tree, is_selected in places:
        for operator, label, component, changed in _tree_changes(tree, exemplars):
            other = mixer.other
            whole = Mixer(changed, mixer.rule, other) if is_selected else Mixer(mixer.tree, mixer.rule, changed)
            yield Change(operator, f"{label}{where}", component, whole)
    yield from _layer_changes(mixer, exemplars, n_layers)


TreeChange = tuple[Operator, str, str, Tree]


def _tree_changes(tree: Tree, exemplars: Sequence[tuple[str, Mixer]]) -> Iterator[TreeChange]:
    core = core_of(tree)
    yield from _convolutions(tree)
    for kind in (*CORES, *MINOR_CORES):
        if kind != core.kind:
            yield "core", f"replace {core.kind} by {kind}", kind, replace(tree, core, leaf(kind))
    yield from _settings(tree)
    yield from _hybrids(tree, core)
    for name, exemplar in exemplars:
        best = core_of(exemplar.tree)
        if best.kind != core.kind:
            label = f"take {best.kind} from {name} for {core.kind}"
            yield "crossover", label, best.kind, replace(tree, core, best)
    yield from _removals(tree)


def _convolutions(tree: Tree) -> Iterator[TreeChange]:
    """A short convolution before the whole mixer, unless one stands there."""
    front = tree
    while isinstance(front, Serial | Gate | Norm):
        front = front.first if isinstance(front, Serial) else front.inner
    if isinstance(front, Leaf) and front.kind == "ShortConvolution":
        return
    for kernel_size in (4, 3):
        convolution = leaf("ShortConvolution", kernel_size=kernel_size)
        label = f"add ShortConvolution of {kernel_size} before the core"
        yield "convolution", label, "ShortConvolution", Serial(convolution, tree)


def _settings(tree: Tree) -> Iterator[TreeChange]:
    for part in dict.fromkeys(leaves(tree)):
        for name, old in part.settings:
            for value in CHOICES[name]:
                if value != old and type(value) is type(old):
                    label = f"set {name} of {part.kind} to {_word(value)}"
                    yield "setting", label, part.kind, replace(tree, part, part.with_setting(name, value))


def _word(value: Setting) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _hybrids(tree: Tree, core: Leaf) -> Iterator[TreeChange]:
    if not any(isinstance(node, Gate) for node in nodes(tree)):
        yield "gate", f"gate {core.kind} multiplicatively", "MultiplicativeGate", Gate(tree)
    for node in nodes(tree):
        if isinstance(node, Serial) and isinstance(node.second, Leaf):
            inner = node.second
            yield "norm", f"normalise before {inner.kind}", "PreNorm", replace(tree, inner, Norm(inner))
            break
    for kind in (*CORES, *MINOR_CORES):
        if any(part.kind == kind for part in leaves(tree)):
            continue
        for mix in ("sum", "gate"):
            beside = Parallel(core, leaf(kind), mix)
            label = f"put {kind} beside {core.kind} by {mix}"
            yield "hybrid", label, kind, replace(tree, core, beside)
        yield "hybrid", f"put {kind} after {core.kind}", kind, replace(tree, core, Serial(core, Norm(leaf(kind))))


def _removals(tree: Tree) -> Iterator[TreeChange]:
    for node in dict.fromkeys(nodes(tree)):
        match node:
            case Serial(first, second) | Parallel(first, second, _):
                for kept, dropped in ((second, first), (first, second)):
                    name = core_of(dropped).kind
                    yield "removal", f"remove {name}", name, replace(tree, node, kept)
            case Gate(inner):
                yield "removal", "remove MultiplicativeGate", "MultiplicativeGate", replace(tree, node, inner)
            case Norm(inner, _):
                yield "removal", "remove PreNorm", "PreNorm", replace(tree, node, inner)
            case Leaf():
                continue


def _layer_changes(mixer: Mixer, exemplars: Sequence[tuple[str, Mixer]], n_layers: int) -> Iterator[Change]:
    if mixer.other is not None:
        for kept in trees(mixer):
            name = core_of(kept).kind
            yield Change("removal", f"use {name} of one layer in every layer", name, Mixer(kept))
        return
    if n_layers < 2:
        return
    core = core_of(mixer.tree)
    rules: tuple[Rule, ...] = ("alternate", "first", "last")
    for rule in rules:
        place = {"alternate": "even layers", "first": "the first layer", "last": "the last layer"}[rule]
        for kind in (*CORES, *MINOR_CORES):
            if kind != core.kind and kind in LEAVES:
                selected = replace(mixer.tree, core, leaf(kind))
                label = f"replace {core.kind} by {kind} in {place}"
                yield Change("layers", label, kind, Mixer(selected, rule, mixer.tree))
        for name, exemplar in exemplars:
            kind = core_of(exemplar.tree).kind
            label = f"take the mixer of {name} in {place}"
            yield Change("crossover", label, kind, Mixer(exemplar.tree, rule, mixer.tree))
