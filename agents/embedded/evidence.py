"""What the prompt's measurements say against the priors.

Every scored design is compared with what the priors expected of it. The differences are averaged per component and
per kind of change, each mean shrunk towards zero as if two further observations had shown no difference. That is all
the statistics there is: a dozen experiments carry no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.embedded.genome import Gate, Leaf, Mixer, Parallel, layer_tree, nodes
from agents.embedded.priors import expected_score

SHRINKAGE = 2.0


@dataclass(frozen=True, slots=True)
class Observation:
    """A design that was measured."""

    mixer: Mixer
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Corrections to the priors: per component, and per first words of a change's label."""

    components: dict[str, float]
    changes: dict[str, float]
    seen: dict[str, int]

    def correction(self, mixer: Mixer, n_layers: int) -> float:
        """How much more than the priors say such a design scored so far."""
        known = [self.components[name] for name in components_of(mixer, n_layers) if name in self.components]
        return sum(known) / len(known) if known else 0.0

    def change_effect(self, change: str) -> float:
        return self.changes.get(change_kind(change), 0.0)


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


def change_kind(change: str) -> str:
    """A change's label without the place where it was made: what lessons of several experiments share."""
    return change.partition(" in ")[0].strip().lower()


def weigh(
    observations: Sequence[Observation], effects: Iterable[tuple[str, float]], n_layers: int, tasks: Sequence[str]
) -> Evidence:
    """Corrections from measured designs and from (change, effect on the score) pairs."""
    residuals: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for observation in observations:
        residual = observation.score - expected_score(observation.mixer, n_layers, tasks)
        for name in components_of(observation.mixer, n_layers):
            residuals[name].append(residual)
            seen[name] += 1
    by_change: dict[str, list[float]] = defaultdict(list)
    for change, effect in effects:
        by_change[change_kind(change)].append(effect)
    return Evidence(_shrunk(residuals), _shrunk(by_change), dict(seen))


def _shrunk(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(found) / (len(found) + SHRINKAGE) for name, found in values.items()}
