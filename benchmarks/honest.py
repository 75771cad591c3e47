"""Honest programs for measuring false alarms: every reference, and random designs of the embedded model's grammar."""

import random
from collections.abc import Iterator

from agents.embedded.changes import fits
from agents.embedded.genome import (
    CHOICES,
    LEAVES,
    Gate,
    Leaf,
    Mixer,
    Norm,
    Parallel,
    Serial,
    Tree,
    canonical_mixer,
    design_text,
    leaf,
)
from agents.embedded.library import catalogue_library
from agents.embedded.render import Heading, program
from evaluator import catalogue, tiers
from evaluator.program import CandidateError, load
from evaluator.skeleton import build_model

_TIER = tiers.get("sequence", "smoke")
_RULES = ("alternate", "first", "last")


def references() -> Iterator[tuple[str, str]]:
    """Name and source of every reference."""
    for name in catalogue.names():
        yield name, catalogue.source(name)


def grammar_programs(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Design and source of `count` different designs within the smoke tier's budget, the same for the same seed."""
    rng = random.Random(seed)
    library = catalogue_library()
    seen: set[str] = set()
    while len(seen) < count:
        mixer = _mixer(rng)
        text = design_text(mixer)
        if text in seen or not fits(mixer, _TIER.d_model, _TIER.n_layers):
            continue
        source = program(mixer, Heading("A random design.", "Drawn from the grammar.", "None."), library)
        if _within_budget(source):
            seen.add(text)
            yield text, source


def _within_budget(source: str) -> bool:
    # `fits` goes by an estimate; a program that is refused for its true size is not accused wrongly.
    try:
        build_model(*load(source), _TIER, vocabulary=2, seed=0)
    except CandidateError as error:
        if error.reason != "over_budget":
            raise
        return False
    return True


def _mixer(rng: random.Random) -> Mixer:
    tree = _tree(rng, rng.randint(1, 4))
    if rng.random() < 0.5:
        return canonical_mixer(Mixer(tree))
    return canonical_mixer(Mixer(tree, rng.choice(_RULES), _tree(rng, rng.randint(1, 3))))  # type: ignore[arg-type]


def _tree(rng: random.Random, leaves: int) -> Tree:
    """A tree of `leaves` components, some of it wrapped in a gate or a norm."""
    if leaves == 1:
        tree: Tree = _leaf(rng)
    else:
        left = rng.randint(1, leaves - 1)
        pair = _tree(rng, left), _tree(rng, leaves - left)
        tree = Serial(*pair) if rng.random() < 0.5 else Parallel(*pair, rng.choice(("sum", "gate")))
    wrapped = rng.random()
    if wrapped < 0.1:
        return Gate(tree)
    return Norm(tree, rng.choice(("rms", "layer"))) if wrapped < 0.2 else tree


def _leaf(rng: random.Random) -> Leaf:
    kind = rng.choice(sorted(LEAVES))
    chosen = {
        name: rng.choice([value for value in CHOICES[name] if type(value) is type(default)])
        for name, default in LEAVES[kind].items()
    }
    return leaf(kind, **chosen)
