"""Ablations in the grammar: which part of a design can be taken away, and the change that does it.

A part is a component (its removal is one of the grammar's changes) or a setting that can be turned off. What is asked
for is said in the words of the changes' labels: "rotary of SoftmaxAttention", "ShortConvolution".

Not covered: requests in other words than the grammar's. They are answered by any removal there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agents.embedded.changes import Change
from agents.embedded.genome import LEAVES, Leaf, Mixer, Setting, leaves, read_design, trees
from agents.embedded.program import read_program

# Settings that are parts, and what they are when the part is gone.
OFF: Mapping[str, Setting] = {
    "rotary": False,
    "qk_norm": False,
    "normalise": False,
    "output_gate": False,
    "gated": False,
    "activation": "none",
}
_ASKED = re.compile(r'Take away: "(.*?)"\. ')


def part_to_remove(source: str, change: str, d_model: int) -> str | None:
    """A part of what the change brought; None where taking it away would only undo the change, or nothing is known.

    Taken away whole, the component that a change brought gives the parent back, so a setting of it is turned off.
    """
    mixer = read_program(source, d_model)
    if mixer is None or change.startswith(("remove ", "set ")):
        return None
    brought = component_of(change)
    for part in _leaves(mixer):
        for name, value in part.settings:
            if part.kind == brought and name in OFF and value != OFF[name]:
                return f"{name} of {part.kind}"
    return None


def component_of(change: str) -> str | None:
    """The component that a change brought, by its label."""
    named: list[str] = [word for word in re.findall(r"\w+", change) if word in LEAVES]
    if not named:
        return None
    return named[0] if change.startswith(("put ", "take ", "add ")) else named[-1]


def idea_kept(stated: str, source: str, change: str, d_model: int) -> str:
    """Whether a repaired program is still the stated design: yes; partly, if what the change brought is in it; no."""
    design, measured = read_design(stated), read_program(source, d_model)
    if design is None or measured is None or design == measured:
        return "yes"  # outside the grammar nothing can be said against it
    brought = component_of(change)
    return "partly" if brought is None or brought in {part.kind for part in _leaves(measured)} else "no"


def _leaves(mixer: Mixer) -> list[Leaf]:
    return [part for tree in trees(mixer) for part in leaves(tree)]


def asked_to_remove(text: str) -> str:
    """What a request asks to take away, or ""."""
    found = _ASKED.search(text)
    return found[1] if found else ""


def answering(asked: str, fresh: Sequence[Change], options: Sequence[Change]) -> list[Change]:
    """The changes that take away what is asked for; of these the `fresh` ones, where there are any.

    If nothing is named that the grammar could take away, any removal is better than a change of another kind.
    """
    named = [option for option in options if _answers(asked, option)]
    return [option for option in named if option in fresh] or named or [o for o in fresh if _removes(o)]


def _answers(asked: str, option: Change) -> bool:
    if option.operator == "removal":
        return re.search(rf"\b{re.escape(option.component)}\b", asked) is not None and " of " not in asked
    turned = re.match(r"set (\w+) of (\w+) to (\w+)", option.label)
    return turned is not None and f"{turned[1]} of {turned[2]}" in asked and _is_off(turned[1], turned[3])


def _removes(option: Change) -> bool:
    turned = re.match(r"set (\w+) of \w+ to (\w+)", option.label)
    return option.operator == "removal" or (turned is not None and _is_off(turned[1], turned[2]))


def _is_off(name: str, value: str) -> bool:
    return name in OFF and value == str(OFF[name]).lower()
