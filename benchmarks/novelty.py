"""Which hypotheses count as a repeat: false alarms among different designs, and how many paraphrases are seen.

Usage, from the repository's root: python -m benchmarks.novelty [--campaigns 3] [--experiments 62] [--output FILE.md]

Different designs: all pairs of hypotheses that the embedded model proposed in campaigns (real loop and prompts, made-up
scores: benchmarks/simulated.py); each of them beside itself with the design changed in one place and not one word of
the rest (a number, a component, the order of two, a layer for the other); pairs of different hypotheses in prose,
written by hand (data/hypotheses_prose.json). The same design: each of those proposed beside itself in other words, and
the pairs in prose that mean one thing. A share comes with its 95 % interval (Wilson).

Not covered: hypotheses of language models, of which none are at hand: prose by hand stands in for them, and is little.
"""

import argparse
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.embedded.wording import MEMORY
from benchmarks import simulated
from evaluator.statistics import wilson
from memory.neighbours import Neighbours
from memory.vectors import HashedText
from move37.config import load
from move37.novelty import same_terms
from move37.recalling import normalised, wording

PROSE = Path(__file__).parent / "data" / "hypotheses_prose.json"
THRESHOLDS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
Hypothesis = dict[str, Any]
SYNONYMS = {
    "replace": "swap", "Replace": "Swap", "by": "for", "put": "place", "Put": "Place", "Remove": "Drop",
    "remove": "drop", "Add": "Insert", "add": "insert", "keeps": "holds", "weighs": "ranks", "so": "thus",
    "which": "that", "because": "since", "expected": "foreseen", "weakest": "poorest", "occurs": "appears",
    "prediction": "forecast", "state": "memory", "position": "place",
}  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """Pairs of one kind. `same` says whether their designs are one."""

    kind: str
    same: bool
    pairs: tuple[tuple[Hypothesis, Hypothesis], ...]


def recorded(campaigns: int, experiments: int) -> list[list[Hypothesis]]:
    """The hypotheses of embedded campaigns, campaign by campaign."""
    found = []
    for seed in range(1, campaigns + 1):
        settings = {"name": f"novelty-{seed}", "experiments": experiments, "seed": seed, "search.novelty": 0.0}
        store, made = simulated.campaign(load(None, settings), world=seed)
        found.append([one.hypothesis for one in store.experiments(made.id) if one.hypothesis])
        store.close()
    return found


def reworded(one: Hypothesis) -> Hypothesis:
    """The same proposal in other words: the other sentence of the grammar, synonyms, other connectives."""
    mechanism = str(one["mechanism"])
    for first, *others in MEMORY.values():
        for second in others[:1]:
            mechanism = mechanism.replace(first, "\0").replace(second, first).replace("\0", second)
    said = {name: _synonyms(str(one[name])) for name in ("title", "change")}
    design = str(one["design"]).replace("layers: ", "layers have ").replace("layer: ", "layer has ").replace("; ", ", ")
    return {**one, **said, "mechanism": _synonyms(mechanism), "design": design}


def _synonyms(text: str) -> str:
    return re.sub(r"\w+", lambda word: SYNONYMS.get(word[0], word[0]), text)


def _number(design: str) -> str:
    return re.sub(r"(\w+)=(\d+)", lambda found: f"{found[1]}={2 * int(found[2]) + 1}", design, count=1)


def _component(design: str) -> str:
    names = re.findall(r"[A-Z]\w+", design)
    other = next(name for name in ("Retention", "GatedRecurrence", "DeltaRule") if name not in names[:1])
    return design.replace(names[0], other, 1)


def _order(design: str) -> str:
    found = re.search(r"(\w+\([^()]*\)), (\w+\([^()]*\))", design)
    return design if found is None else design.replace(found[0], f"{found[2]}, {found[1]}")


def _layers(design: str) -> str:
    swaps = {"even": "odd", "odd": "even", "earlier": "later", "later": "earlier", "first": "last", "last": "first"}
    return re.sub(r"\b(?:even|odd|earlier|later|first|last)\b", lambda word: swaps[word[0]], design)


CHANGES: dict[str, Callable[[str], str]] = {
    "one number changed": _number,
    "one component changed": _component,
    "two components in the other order": _order,
    "the layers the other way round": _layers,
}


def cases(campaigns: Sequence[Sequence[Hypothesis]]) -> Iterator[Pairs]:
    """Every kind of pair."""
    proposed = [one for campaign in campaigns for one in campaign]
    pairs = [pair for campaign in campaigns for pair in itertools.combinations(campaign, 2)]
    yield Pairs("proposed in one campaign", False, tuple(p for p in pairs if not _one_design(*p)))
    for kind, change in CHANGES.items():
        changed = [(one, {**one, "design": change(str(one["design"]))}) for one in proposed]
        yield Pairs(kind, False, tuple(pair for pair in changed if not _one_design(*pair)))
    prose = list(itertools.combinations(json.loads(PROSE.read_text(encoding="utf-8")), 2))
    yield Pairs("different, in prose", False, tuple(p for p in prose if p[0]["of"] != p[1]["of"]))
    yield Pairs("proposed, in other words", True, tuple((one, reworded(one)) for one in proposed))
    yield Pairs("the same, in prose", True, tuple(p for p in prose if p[0]["of"] == p[1]["of"]))


def _one_design(one: Hypothesis, other: Hypothesis) -> bool:
    return normalised(one["design"]) == normalised(other["design"])


def similarities(pairs: Pairs) -> list[tuple[float, bool]]:
    """Cosine and whether the terms agree, of each pair."""
    index = Neighbours(HashedText("hypothesis"))
    names = {id(one): str(place) for place, one in enumerate(one for pair in pairs.pairs for one in pair)}
    index.sync((names[id(one)], wording(one)) for pair in pairs.pairs for one in pair)
    found = []
    for one, other in pairs.pairs:
        nearest = index.nearest_to(names[id(one)], 1, among={names[id(other)]})
        found.append((nearest[0].similarity if nearest else 1.0, same_terms(one, other)))
    return found


def share(count: int, n: int) -> str:
    found = wilson(count, n)
    return f"{count} of {n} [{100 * (found.low or 0):.2f}, {100 * (found.high or 0):.2f}] %"


def report(campaigns: Sequence[Sequence[Hypothesis]]) -> list[str]:
    kinds = list(cases(campaigns))
    measured = {pairs.kind: similarities(pairs) for pairs in kinds}
    different = [found for pairs in kinds if not pairs.same for found in measured[pairs.kind]]
    lines = [
        "# Novelty before code",
        "",
        f"{sum(map(len, campaigns))} hypotheses of {len(campaigns)} embedded campaigns.",
        "",
        "## How near pairs are",
        "",
        "| pairs | n | terms agree | median cosine | highest, terms agree | highest |",
        "|---|---|---|---|---|---|",
    ]
    for pairs in kinds:
        found = measured[pairs.kind]
        cosines = sorted(cosine for cosine, _ in found)
        agreeing = [cosine for cosine, agree in found if agree]
        highest = f"{max(agreeing):.3f}" if agreeing else "-"
        lines.append(
            f"| {pairs.kind} ({'one design' if pairs.same else 'different'}) | {len(found)} | {len(agreeing)} | "
            f"{cosines[len(cosines) // 2]:.3f} | {highest} | {cosines[-1]:.3f} |"
        )
    lines += [
        "",
        "## Thresholds",
        "",
        "| cosine at least | false alarms, words | false alarms, words and terms | other words, seen | prose, seen |",
        "|---|---|---|---|---|",
    ]
    for threshold in THRESHOLDS:
        alone = sum(cosine >= threshold for cosine, _ in different)
        both = sum(cosine >= threshold and agree for cosine, agree in different)
        seen = [
            share(sum(c >= threshold and agree for c, agree in measured[pairs.kind]), len(pairs.pairs))
            for pairs in kinds
            if pairs.same
        ]
        lines.append(
            f"| {threshold} | {share(alone, len(different))} | {share(both, len(different))} | {' | '.join(seen)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=3)
    parser.add_argument("--experiments", type=int, default=62)
    parser.add_argument("--recorded", type=Path, help="hypotheses by campaign (JSON) instead of running campaigns")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.recorded is not None:
        campaigns = json.loads(arguments.recorded.read_text(encoding="utf-8"))
    else:
        campaigns = recorded(arguments.campaigns, arguments.experiments)
    text = "\n".join(report(campaigns)) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
