"""What the grammar believes before it has seen a measurement: sizes, and coarse abilities of each component.

The numbers order components as the literature on synthetic recall tasks does, rounded; they say where to look first.
Measured scores in the prompt correct them (`agents.embedded.evidence`). They are why the embedded model is a baseline
with background knowledge: that it proposes attention behind a convolution is no discovery.

Source: Arora et al. 2023 "Zoology" (arXiv:2312.04927) for associative recall and the role of short convolutions; Poli
et al. 2024 "MAD" (arXiv:2403.17844) for selective copying, noisy recall and memorisation; Yang et al. 2024
(arXiv:2406.06484) for the delta rule; Yang et al. 2024 "GLA" (arXiv:2312.06635) for decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.embedded.genome import Gate, Leaf, Mixer, Parallel, Tree, layer_tree, nodes

# Room for the mixer, in units of d_model^2 per layer and averaged over layers. The budget holds about 12 per layer in
# all, and the channel MLP must keep a minimum.
AFFORDABLE = 9.5

# How well a component finds an earlier value by its content, 0 to 1.
CONTENT: Mapping[str, float] = {
    "SoftmaxAttention": 1.0,
    "DeltaRule": 0.9,
    "LinearAttention": 0.7,
    "GatedLinearAttention": 0.5,
    "Retention": 0.4,
    "SelectiveSSM": 0.4,
    "RWKVTimeMix": 0.4,
    "GatedRecurrence": 0.35,
    "LongConvolution": 0.3,
    "DiagonalSSM": 0.15,
    "ShortConvolution": 0.05,
    "PointwiseMLP": 0.0,
}
# How well it keeps chosen positions apart from noise, which copying needs.
SELECTION: Mapping[str, float] = {
    "SoftmaxAttention": 0.7,
    "DeltaRule": 0.45,
    "LinearAttention": 0.35,
    "GatedLinearAttention": 0.35,
    "Retention": 0.3,
    "SelectiveSSM": 0.35,
    "RWKVTimeMix": 0.3,
    "GatedRecurrence": 0.3,
    "LongConvolution": 0.25,
    "DiagonalSSM": 0.25,
    "ShortConvolution": 0.05,
    "PointwiseMLP": 0.0,
}


# What brings the previous tokens into the present channel by itself.
SHIFTING = frozenset(
    {"ShortConvolution", "DeltaRule", "GatedLinearAttention", "SelectiveSSM", "RWKVTimeMix", "LongConvolution"}
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a whole network of mixers can do, by the coarse reckoning above."""

    content: float
    selection: float
    shift: bool
    mixes: bool


def cost(tree: Tree, d_model: int) -> float:
    """Parameters of one layer's mixer in units of d_model^2, biases left out."""
    return sum(_node_cost(node, d_model) for node in nodes(tree))


def _node_cost(node: Tree, d_model: int) -> float:
    match node:
        case Gate():
            return 2.0
        case Parallel(_, _, "gate"):
            return 1.0
        case Leaf():
            return _leaf_cost(node, d_model)
    return 0.0


def _leaf_cost(node: Leaf, d_model: int) -> float:
    match node:
        case Leaf(kind="ShortConvolution"):
            return int(node["kernel_size"]) / d_model
        case Leaf(kind="DeltaRule"):
            return 4.0 + 3 * int(node["kernel_size"]) / d_model + (1.0 if node["gated"] else 0.0)
        case Leaf(kind="GatedLinearAttention"):
            decay = 2 * min(16, d_model // 2) + 3 * int(node["kernel_size"])
            return 4.0 + decay / d_model + (1.0 if node["output_gate"] else 0.0)
        case Leaf(kind="SoftmaxAttention" | "LinearAttention" | "Retention"):
            return 5.0 if node.kind == "Retention" else 4.0
        case Leaf(kind="DiagonalSSM"):
            return 1.0 + 4 * int(node["d_state"]) / d_model
        case Leaf(kind="SelectiveSSM"):
            return _selective_cost(node, d_model)
        case Leaf(kind="RWKVTimeMix"):
            return 5.0 + 2 * min(16, d_model // 2) / d_model
        case Leaf(kind="LongConvolution"):
            return 4.0 + (16 + 3 * int(node["kernel_size"])) / d_model
        case Leaf(kind="GatedRecurrence"):
            return 4.0 * int(node["expansion"])
        case Leaf(kind="PointwiseMLP"):
            return 2.0 * int(node["expansion"])
    return 0.0


def _selective_cost(node: Leaf, d_model: int) -> float:
    """Projections of the gate, the input, both state directions and the step; taps; the way out."""
    expansion, state = int(node["expansion"]), int(node["d_state"])
    inner = expansion * d_model + 2 * state
    entering = expansion * d_model + inner + int(node["n_heads"])
    return entering / d_model + int(node["kernel_size"]) * inner / d_model**2 + expansion


def mean_cost(mixer: Mixer, d_model: int, n_layers: int) -> float:
    return sum(cost(layer_tree(mixer, layer, n_layers), d_model) for layer in range(n_layers)) / n_layers


def abilities(mixer: Mixer, n_layers: int) -> Abilities:
    """The best of each ability over all layers: one layer with it is often enough."""
    found = [node for layer in range(n_layers) for node in nodes(layer_tree(mixer, layer, n_layers))]
    components = [node for node in found if isinstance(node, Leaf)]
    gated = any(isinstance(node, Gate) for node in found)
    selection = max(SELECTION[component.kind] for component in components)
    return Abilities(
        content=max(_content(component) for component in components),
        selection=min(1.0, selection + (0.05 if gated else 0.0)),
        shift=any(_shifts(component) for component in components),
        mixes=any(component.kind != "PointwiseMLP" for component in components),
    )


def _shifts(component: Leaf) -> bool:
    return component.kind in SHIFTING and dict(component.settings).get("kernel_size") != 1


def _content(component: Leaf) -> float:
    content = CONTENT[component.kind]
    if component.kind == "SoftmaxAttention" and component["window"]:
        return 0.6 * content  # what has left the window is lost
    if component.kind == "DeltaRule" and component["gated"]:
        return 0.75 * content  # decay slows the learning of exact recall
    return content


def expected(able: Abilities, task: str) -> float:
    """Expected value of a task between 0 (chance) and 1, by its name; unknown tasks get the mean of the families."""
    recall = able.content * (1.0 if able.shift else 0.4)
    queries = able.content * (1.0 if able.shift else 0.85)
    copying = min(1.0, able.selection + (0.2 * able.content if able.shift else 0.0))
    stored = 1.0 if able.mixes else 0.0
    if "mqar" in task or "multi" in task:
        return queries
    if "recall" in task:
        return 0.9 * recall if "nois" in task else recall
    if "cop" in task:
        return copying
    if "memor" in task:
        return stored
    return (recall + queries + copying + stored) / 4


def expected_score(mixer: Mixer, n_layers: int, tasks: Sequence[str]) -> float:
    able = abilities(mixer, n_layers)
    return sum(expected(able, task) for task in tasks) / max(1, len(tasks))
