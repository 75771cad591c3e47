"""The embedded coder: writes a stated design down, and repairs what a gate rejected.

A rejected program that is not what the grammar would write for its design holds a fault of its own: the design is
written again. One that is lets no doubt that the design is at fault: it is shrunk or simplified.
"""

from __future__ import annotations

import ast
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
    source = first_block(titled(parts, "Rejected program"))
    rejected = read_program(source, setting.d_model)
    intact = rejected is not None and _same_code(source, rejected)
    if intact:
        assert rejected is not None
        mended = mend(rejected, reason, setting, rng)
    else:  # the fault is in what was written, not in what was meant
        mended = design or rejected or SAFE
    lineage = (
        f"Repair after the gate {verdict.get('gate', '?')} rejected the program ({reason or 'no reason given'}); "
        f"the hypothesis was: {_change(stated)}."
    )
    return _reply(f"Changed because of {reason or 'the verdict'}.", mended, stated, lineage)


def _same_code(source: str, mixer: Mixer) -> bool:
    """Whether a program is the one that the grammar writes for its design, docstring and layout aside."""
    ours = program(mixer, Heading("-", "-", "-"), catalogue_library())
    return _code(source) == _code(ours)


def _code(source: str) -> str:
    tree = ast.parse(source)
    tree.body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return ast.dump(tree)


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
