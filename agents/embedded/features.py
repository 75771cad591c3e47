"""A design as numbers: what two designs share, for a model of what they score.

Every feature is the mean over the layers of a network, so that one layer of two counts half. Weights say how much a
difference in a feature sets two designs apart; a component counts most, a setting least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agents.embedded.genome import Gate, Leaf, Mixer, Norm, Parallel, Serial, Tree, layer_tree, leaves, nodes
from agents.embedded.priors import CONTENT, SHIFTING, mean_cost

# Distance that a full difference in a feature of this kind makes, squared.
WEIGHTS: Mapping[str, float] = {
    "component": 1.0,
    "core": 1.0,
    "shifted": 0.7,
    "structure": 0.35,
    "setting": 0.2,
    "first": 0.15,
    "size": 0.5,
}

Features = Mapping[str, float]


@lru_cache(maxsize=4096)
def features(mixer: Mixer, n_layers: int) -> Features:
    """Names with values, kinds before the colon as in `WEIGHTS`; what is absent is 0."""
    found: dict[str, float] = defaultdict(float)
    for layer in range(n_layers):
        for name in _of_tree(layer_tree(mixer, layer, n_layers)):
            found[name] += 1 / n_layers
    for part in leaves(layer_tree(mixer, 0, n_layers)):
        found[f"first:{part.kind}"] = 1.0
    found["size:parameters"] = mean_cost(mixer, 32, n_layers) / 10
    return found


def _of_tree(tree: Tree) -> Iterator[str]:
    """The names that hold for one layer, each once."""
    parts = leaves(tree)
    core = max(parts, key=lambda part: CONTENT[part.kind])
    names = {f"core:{core.kind}"}
    if any(part.kind in SHIFTING for part in parts):
        names.add("shifted:any")
        names.add(f"shifted:{core.kind}")
    for node in nodes(tree):
        match node:
            case Leaf(kind, settings):
                names.add(f"component:{kind}")
                names.update(f"setting:{kind}.{name}={value}" for name, value in settings)
            case Serial():
                names.add("structure:Serial")
            case Parallel(_, _, mix):
                names.add(f"structure:Parallel.{mix}")
            case Gate():
                names.add("structure:Gate")
            case Norm():
                names.add("structure:Norm")
    yield from sorted(names)


def matrix(designs: Sequence[Mixer], n_layers: int) -> NDArray[np.float64]:
    """(designs, features), scaled so that Euclidean distance is distance between designs."""
    rows = [features(design, n_layers) for design in designs]
    names = sorted(set().union(*rows)) if rows else []
    column = {name: index for index, name in enumerate(names)}
    values = np.zeros((len(rows), len(names)))
    for row, found in zip(values, rows, strict=True):
        for name, value in found.items():
            row[column[name]] = value * WEIGHTS[name.partition(":")[0]] ** 0.5
    return values


def components_of(mixer: Mixer, n_layers: int) -> frozenset[str]:
    """The classes a design uses, with the settings that change what they compute; combinators included."""
    names: set[str] = set()
    for layer in range(n_layers):
        for node in nodes(layer_tree(mixer, layer, n_layers)):
            match node:
                case Leaf(kind="DeltaRule"):
                    names.add("GatedDeltaRule" if node["gated"] else "DeltaRule")
                case Leaf(kind="SoftmaxAttention"):
                    names.add("WindowAttention" if node["window"] else "SoftmaxAttention")
                case Leaf(kind=kind):
                    names.add(kind)
                case Gate():
                    names.add("MultiplicativeGate")
                case Parallel():
                    names.add("Parallel")
    return frozenset(names)
