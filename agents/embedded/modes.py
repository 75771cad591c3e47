"""What the embedded researcher makes of the mode that a prompt asks for: which of its changes it may draw from.

Notable: where none of its changes fits the mode, it draws from all of them, and says nothing else. It uses a published
finding in the one sense in which a grammar can: it adds the component that the finding is about.
Not covered: an ablation that the analyst asked for (`ablating`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.embedded.ablating import asked_to_remove
from agents.embedded.changes import Change
from agents.embedded.reading import Section, titled

ABOUT: Mapping[str, tuple[str, ...]] = {
    "ShortConvolution": ("short-convolution", "canon-layers", "convolution-then-attention", "lawcat"),
    "SoftmaxAttention": ("softmax-attention", "hybrid-ratio", "repeat-after-me", "mqar-zoology"),
    "DeltaRule": ("delta-net", "fast-weights-delta-rule", "gated-delta-net"),
    "LinearAttention": ("linear-attention", "based"),
    "GatedLinearAttention": ("gla",),
    "Retention": ("retnet",),
    "GatedRecurrence": ("griffin", "hgrn2", "min-gru", "qrnn-sru"),
    "DiagonalSSM": ("s4d", "lru", "s4"),
    "SelectiveSSM": ("mamba", "mamba-2"),
    "RWKVTimeMix": ("rwkv-4",),
    "LongConvolution": ("hyena", "long-convolutions-simple"),
    "MultiplicativeGate": ("gating-in-general", "gated-attention-output"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The mode, the other parent of a combination, and the published findings that are shown; `ablation`: the part that
    the analyst asked to have taken away, "" if none."""

    mode: str
    ablation: str
    second: str
    entries: tuple[str, ...]
    shown: str


def read_asked(parts: Sequence[Section]) -> Asked:
    """Of the researcher's prompt; a prompt without a mode asks for an improvement."""
    mode, literature = titled(parts, "Mode"), titled(parts, "From the literature")
    lines = (literature.prose if literature else "").split("\n")
    second = next((part.title for part in parts if part.title.startswith("Second parent: ")), "")
    sources = [block.body for part in parts if part.title.split(": ")[0] in _PROGRAMS for block in part.blocks]
    return Asked(
        mode=(mode.prose if mode else "").strip().partition(":")[0] or "improve",
        ablation=asked_to_remove("\n".join(block.body for block in mode.blocks)) if mode else "",
        second=second.removeprefix("Second parent: ").partition(" ")[0],
        entries=tuple(line[2:].partition(":")[0] for line in lines if line.startswith("- ")),
        shown="\n".join(sources),
    )


_PROGRAMS = frozenset({"Parent", "Second parent", "Exemplar"})


def of_mode(options: Sequence[Change], asked: Asked) -> list[Change]:
    """The changes that are what the mode asks for; none, or all of them, where it makes no difference."""
    match asked.mode:
        case "ablate":
            return [option for option in options if option.operator == "removal"]
        case "combine":
            return [o for o in options if o.operator == "crossover" and asked.second in o.label.split()]
        case "transfer":
            return [option for option in options if used(option, asked)]
        case "explore":
            return [option for option in options if f"class {option.component}(" not in asked.shown]
        case _:
            return list(options)


def used(change: Change, asked: Asked) -> list[str]:
    """The findings shown that are about what the change adds."""
    if change.operator == "removal":
        return []
    return [entry for entry in asked.entries if entry in ABOUT.get(change.component, ())][:3]


def ablation(change: Change) -> str:
    """What to remove if the change is in place."""
    if change.operator == "removal":
        return "Nothing is left to remove: putting the component back should undo the difference."
    return f"Remove {change.component} again: the differences to the parent should vanish within noise."
