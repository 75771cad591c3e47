"""The random control: a researcher that draws designs from the grammar and looks at no measurement.

The distribution is uniform over what each production of the grammar offers, not over finished designs (which would
favour the components with the most settings):

    layers    alike or of two kinds, evenly; of two kinds, the rule "alternate", "first" or "last", evenly
    tree      1 to `MAX_LEAVES` components, evenly; more than one is split into two parts at an even position, joined
              by `Serial`, a summed `Parallel` or a gated `Parallel`, evenly
    wrapping  every subtree: none (8 in 10), `MultiplicativeGate` or `PreNorm` (1 in 10 each)
    leaf      one of `LEAVES`, evenly; every setting one of its `CHOICES`, evenly

What does not fit (`changes.fits`: depth, leaves, parameters, head counts: the limits of the embedded model too) is
drawn again, so that small designs are more frequent; so is what the prompt shows as tried: repeats would only waste
the control's budget.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from agents.embedded.changes import fits
from agents.embedded.genome import (
    CHOICES,
    LEAVES,
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
    leaf,
    per_layer,
)

_RULES: tuple[Rule, ...] = ("alternate", "first", "last")
_WRAPPED = 0.1  # each of the two wrappings


def draw(rng: random.Random, d_model: int, n_layers: int, avoid: Collection[tuple[str, ...]] = ()) -> Mixer:
    """A design that fits and is none of `avoid` (designs as `per_layer` identifies them)."""
    while True:
        mixer = _mixer(rng)
        if fits(mixer, d_model, n_layers) and per_layer(mixer, n_layers) not in avoid:
            return mixer


def _mixer(rng: random.Random) -> Mixer:
    tree = _tree(rng, rng.randint(1, MAX_LEAVES))
    if rng.random() < 0.5:
        return canonical_mixer(Mixer(tree))
    return canonical_mixer(Mixer(tree, rng.choice(_RULES), _tree(rng, rng.randint(1, MAX_LEAVES))))


def _tree(rng: random.Random, count: int) -> Tree:
    tree: Tree = _leaf(rng) if count == 1 else _pair(rng, count)
    wrapped = rng.random()
    if wrapped < _WRAPPED:
        return Gate(tree)
    return Norm(tree, str(rng.choice(CHOICES["norm"]))) if wrapped < 2 * _WRAPPED else tree


def _pair(rng: random.Random, count: int) -> Tree:
    left = rng.randint(1, count - 1)
    first, second = _tree(rng, left), _tree(rng, count - left)
    joined = rng.choice(("serial", *CHOICES["mix"]))
    return Serial(first, second) if joined == "serial" else Parallel(first, second, str(joined))


def _leaf(rng: random.Random) -> Leaf:
    kind = rng.choice(tuple(LEAVES))
    return leaf(kind, **{name: rng.choice(offered(name, default)) for name, default in LEAVES[kind].items()})


def offered(name: str, default: Setting) -> tuple[Setting, ...]:
    """What a setting may be: of the type of its default, since `True == 1`."""
    return tuple(value for value in CHOICES[name] if type(value) is type(default))
