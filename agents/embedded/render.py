"""Writes a design down as a readable single-file program."""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass

from agents.embedded.genome import (
    Gate,
    Leaf,
    Mixer,
    Norm,
    Parallel,
    Rule,
    Serial,
    Tree,
    canonical_mixer,
    expression,
    nodes,
    trees,
)
from agents.embedded.library import Library

COLUMNS = 100
_CONDITION: dict[Rule, str] = {
    "alternate": "layer_index % 2 == 0",
    "first": "layer_index == 0",
    "last": "layer_index == n_layers - 1",
}
_COMBINATOR: dict[type, str] = {Serial: "Serial", Parallel: "Parallel", Gate: "MultiplicativeGate", Norm: "PreNorm"}


@dataclass(frozen=True, slots=True)
class Heading:
    """What the module docstring says."""

    title: str
    mechanism: str
    lineage: str


def program(mixer: Mixer, heading: Heading, library: Library) -> str:
    """The complete program: docstring, imports, the definitions that are used, `build_mixer`."""
    mixer = canonical_mixer(mixer)
    kinds = dict.fromkeys(
        node.kind if isinstance(node, Leaf) else _COMBINATOR[type(node)]
        for tree in trees(mixer)
        for node in nodes(tree)
    )
    imports, definitions = library.program_parts(kinds)
    parts = [_docstring(heading), "\n".join(imports), *(f"\n{definition}" for definition in definitions)]
    return "\n\n".join([*parts, f"\n{_entry_point(mixer)}"]) + "\n"


def _entry_point(mixer: Mixer) -> str:
    lines = ["def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:"]
    if mixer.other is None:
        lines.append(f"    return {pretty(mixer.tree, 4, 7)}")
    else:
        lines.append(f"    if {_CONDITION[mixer.rule]}:")
        lines.append(f"        return {pretty(mixer.tree, 8, 7)}")
        lines.append(f"    return {pretty(mixer.other, 4, 7)}")
    return "\n".join(lines)


def pretty(tree: Tree, indent: int, lead: int = 0) -> str:
    """The expression on one line where it fits, else one argument per line."""
    line = expression(tree)
    if indent + lead + len(line) <= COLUMNS or isinstance(tree, Leaf):
        return line
    match tree:
        case Serial(first, second):
            arguments = [pretty(first, indent + 4), pretty(second, indent + 4)]
        case Parallel(first, second, mix):
            arguments = [pretty(first, indent + 4), pretty(second, indent + 4), f'mix="{mix}"']
        case Gate(inner):
            arguments = [pretty(inner, indent + 4)]
        case Norm(inner, norm):
            arguments = [pretty(inner, indent + 4), f'norm="{norm}"']
    margin = " " * (indent + 4)
    body = "".join(f"{margin}{argument},\n" for argument in ["d_model", *arguments])
    return f"{_COMBINATOR[type(tree)]}(\n{body}{' ' * indent})"


def _docstring(heading: Heading) -> str:
    paragraphs = [
        _safe(heading.title).rstrip(".") + ".",
        *textwrap.wrap(_safe(heading.mechanism), COLUMNS, break_long_words=True),
    ]
    first, *mechanism = paragraphs
    text = "\n".join(textwrap.wrap(first, COLUMNS - 3)) + "\n\n" + "\n".join(mechanism)
    lineage = "\n".join(textwrap.wrap(_safe(heading.lineage), COLUMNS))
    return f'"""{text}\n\n{lineage}\n"""'


def _safe(text: str) -> str:
    """Text that cannot end the docstring or hide anything in it."""
    kept = "".join(c if unicodedata.category(c) not in {"Cc", "Cf", "Cs"} else " " for c in text)
    return " ".join(kept.replace("\\", "/").replace('"', "'").split()) or "-"
