"""The embedded coder: writes a stated design down, and shrinks or simplifies one that a gate rejected."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from agents.embedded.changes import core_of, fits
from agents.embedded.genome import (
    Gate,
    Leaf,
    Mixer,
    Norm,
    Parallel,
    Serial,
    Tree,
    canonical_mixer,
    leaf,
    nodes,
    per_layer,
    read_design,
    replace,
    trees,
)
from agents.embedded.library import catalogue_library
from agents.embedded.priors import CONTENT, mean_cost
from agents.embedded.program import read_program
from agents.embedded.reading import Section, Setting, first_block, read_list, read_programs, titled
from agents.embedded.render import Heading, program

SAFE = Mixer(Serial(leaf("ShortConvolution"), leaf("LinearAttention")))


def write(setting: Setting, parts: Sequence[Section], rng: random.Random) -> str:
    """The reply to a request for a program, or for a repair if a verdict is shown."""
    stated = read_list(titled(parts, "Hypothesis"))
    design = read_design(first_block(titled(parts, "Design")))
    if titled(parts, "Verdict") is not None:
        return _repaired(setting, parts, stated, design, rng)
    parents = read_programs(parts, "Parent")
    lineage = "Starts a line of its own."
    if parents:
        score = "" if parents[0].score is None else f", which scored {parents[0].score:.3f}"
        lineage = f"Derived from {parents[0].experiment} ({parents[0].name}){score}, by one change: {_change(stated)}."
    note = "The program of the hypothesis."
    if design is None:
        note = "The design is outside the grammar, so this is the nearest program it can write."
        design = (read_program(parents[0].source, setting.d_model) if parents else None) or SAFE
    return _reply(note, design, stated, lineage)


def _change(stated: dict[str, str]) -> str:
    return stated.get("change", "not stated").rstrip(".")


def _reply(note: str, mixer: Mixer, stated: dict[str, str], lineage: str) -> str:
    heading = Heading(stated.get("title", "A mixer"), stated.get("mechanism", ""), lineage)
    return f"{note}\n\n```python\n{program(mixer, heading, catalogue_library())}```\n"


def _repaired(
    setting: Setting, parts: Sequence[Section], stated: dict[str, str], design: Mixer | None, rng: random.Random
) -> str:
    verdict = read_list(titled(parts, "Verdict"))
    reason = verdict.get("reason", "")
    rejected = read_program(first_block(titled(parts, "Rejected program")), setting.d_model)
    start = rejected or design or SAFE
    mended = mend(start, reason, setting, rng) if rejected is not None else start
    lineage = (
        f"Repair after the gate {verdict.get('gate', '?')} rejected the program ({reason or 'no reason given'}); "
        f"the hypothesis was: {_change(stated)}."
    )
    return _reply(f"Changed because of {reason or 'the verdict'}.", mended, stated, lineage)


def mend(mixer: Mixer, reason: str, setting: Setting, rng: random.Random) -> Mixer:
    """The nearest design that avoids the reason: cheaper when over budget, else simpler. Never the same design."""
    own = per_layer(mixer, setting.n_layers)
    options = [canonical_mixer(option) for option in _simpler(mixer)]
    options = [option for option in options if per_layer(option, setting.n_layers) != own]
    price = mean_cost(mixer, setting.d_model, setting.n_layers)
    if reason == "over_budget":
        options = [option for option in options if mean_cost(option, setting.d_model, setting.n_layers) < price]
    options = [option for option in options if fits(option, setting.d_model, setting.n_layers)]
    if options:
        # The dearest of the cheaper ones keeps the most of the hypothesis.
        return max(options, key=lambda option: mean_cost(option, setting.d_model, setting.n_layers))
    fallbacks = [
        Mixer(Serial(leaf("ShortConvolution"), leaf("LinearAttention"))),
        Mixer(Serial(leaf("ShortConvolution"), leaf("SoftmaxAttention"))),
        Mixer(leaf("LinearAttention")),
    ]
    return rng.choice([option for option in fallbacks if per_layer(option, setting.n_layers) != own])


def _simpler(mixer: Mixer) -> Iterator[Mixer]:
    for tree in trees(mixer):
        for changed in _simpler_trees(tree):
            is_selected = tree is mixer.tree
            yield Mixer(changed, mixer.rule, mixer.other) if is_selected else Mixer(mixer.tree, mixer.rule, changed)
    if mixer.other is not None:
        yield from (Mixer(tree) for tree in trees(mixer))


def _simpler_trees(tree: Tree) -> Iterator[Tree]:
    for node in dict.fromkeys(nodes(tree)):
        match node:
            case Leaf(kind, settings):
                for name, value in settings:
                    if name in {"expansion", "d_state"} and int(value) > 1:
                        yield replace(tree, node, node.with_setting(name, int(value) // 2))
                if node["output_gate"] if "output_gate" in dict(settings) else False:
                    yield replace(tree, node, node.with_setting("output_gate", False))
                if node != leaf(kind):
                    yield replace(tree, node, leaf(kind))
            case Serial(first, second) | Parallel(first, second, _):
                kept = max((first, second), key=_rank)
                yield replace(tree, node, kept)
                if isinstance(node, Parallel) and node.mix == "gate":
                    yield replace(tree, node, Parallel(first, second, "sum"))
            case Gate(inner) | Norm(inner, _):
                yield replace(tree, node, inner)


def _rank(tree: Tree) -> float:
    return CONTENT[core_of(tree).kind]
