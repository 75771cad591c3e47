"""Novelty before code: whether a hypothesis repeats an earlier one. Asked when it parses, before the coder is.

Two rules, over what the experiment may see and over its own earlier attempts:
1. the same design: the design texts are equal up to white space, case and a final stop. Designs of the embedded grammar
   are canonical, so that for them this is exact;
2. nearly the same words: the cosine of the hypotheses' vectors (`memory.vectors.HashedText`) is at least
   `search.novelty`, and both designs name the same things in the same order (`terms`): names, numbers, quoted words,
   and the words that turn a meaning round. Words alone cannot tell a width of 4 from one of 8, or "before" from
   "after": of different designs of the grammar, cosines of 0.99 are common. What was measured: benchmarks/novelty.md.
   It was measured for hashed text; where an endpoint makes the vectors, this rule is not asked.

What ended without a program tested nothing and cannot be repeated. Not covered: programs that are the same although
their hypotheses are not: the identity ladder (`reserving`) sees to those.
"""

import re
from dataclasses import dataclass
from typing import Any

from evaluator.verdict import Verdict
from memory.records import Attempt, Experiment
from move37.loop import Loop
from move37.recalling import normalised, wording

GATE = "novelty"
LEVEL = "hypothesis"

_LOOKED_AT = 16  # of the nearest, for one with the same terms
_BELOW_SAME = 0.999999  # 1.0 says that the designs are equal
_TERM = re.compile(r"[^\W_]*[A-Z_]\w*|\d[\w.]*\d|\d|[\"'][^\"']{1,40}[\"']|[a-z]+")
_DECIDING = frozenset({
    "first", "last", "even", "odd", "earlier", "later", "before", "after", "behind", "every", "each", "both", "only",
    "without", "no", "not", "instead", "beside", "sum", "product", "gate", "gated", "true", "false", "none", "single",
    "one", "two", "three", "four", "half", "twice", "double", "causal", "shared", "separate", "learned", "fixed",
    "query", "key", "value", "queries", "keys", "values", "input", "output", "pre", "post",
})  # fmt: skip


@dataclass(frozen=True)
class Repeat:
    """What a hypothesis repeats. `similarity` is 1.0 for the same design."""

    experiment: str
    similarity: float


async def check(loop: Loop, experiment: Experiment, attempt: Attempt) -> Verdict | None:
    """The refusal of a hypothesis that was tried; None: it is new, or the campaign does not ask.

    Deterministic: the same memory and the same hypothesis give the same verdict.
    """
    search = loop.config.search
    if search.novelty <= 0 or "dedup" in search.without or attempt.hypothesis is None:
        return None
    visible = loop.visible(experiment)
    await loop.recollection.learn(loop.store, visible)
    found = _own(loop, attempt) or _same_design(loop, visible, attempt.hypothesis)
    found = found or _near(loop, visible, attempt.hypothesis)
    if found is None:
        return None
    said = "the same design" if found.similarity == 1.0 else f"nearly the same hypothesis ({found.similarity:.3f})"
    detail = {"duplicate_of": found.experiment, "level": LEVEL, "similarity": found.similarity}
    return Verdict(GATE, False, "duplicate", f"already proposed in {found.experiment}: {said}", detail=detail)


def terms(design: object) -> tuple[str, ...]:
    """What decides a design, in order: names with a capital or an underscore, numbers, quoted words, deciding words."""
    found = []
    for term in _TERM.findall(str(design)):
        if not term.isalpha() or not term.islower():
            found.append(term.strip("\"'").lower())
        elif term in _DECIDING:
            found.append(term)
    return tuple(found)


def same_terms(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the designs of two hypotheses name the same things in the same order."""
    return terms(one.get("design", "")) == terms(other.get("design", ""))


def _own(loop: Loop, attempt: Attempt) -> Repeat | None:
    """What an earlier attempt of this experiment, with the same design, was found to repeat."""
    mine = normalised((attempt.hypothesis or {}).get("design", ""))
    for earlier in loop.store.attempts(attempt.experiment_id):
        if earlier.number >= attempt.number or earlier.outcome != "duplicate" or earlier.hypothesis is None:
            continue
        if normalised(earlier.hypothesis.get("design", "")) == mine:
            repeated = earlier.detail.get("duplicate_of") or earlier.detail["equivalent_of"]
            return Repeat(str(repeated), 1.0)
    return None


def _same_design(loop: Loop, visible: list[Experiment], hypothesis: dict[str, Any]) -> Repeat | None:
    """The earliest with the same design."""
    mine = normalised(hypothesis.get("design", ""))
    for found in loop.recollection.designs.get(mine, ()) if mine else ():
        one = loop.recollection.view.get(found, visible[-1].index)
        if one is not None and _tested(one):
            return Repeat(_original(one), 1.0)
    return None


def _near(loop: Loop, visible: list[Experiment], hypothesis: dict[str, Any]) -> Repeat | None:
    """The nearest in words that names the same things, if it is near enough."""
    if not loop.config.embeddings.hashed:
        return None
    view, up_to = loop.recollection.view, visible[-1].index

    def comparable(key: str) -> bool:
        one = view.get(key, up_to)
        return one is not None and _tested(one)

    for near in loop.recollection.hypotheses.nearest(wording(hypothesis), _LOOKED_AT, among=comparable):
        one = view.get(near.key, up_to)
        if near.similarity < loop.config.search.novelty or one is None:
            return None
        if same_terms(one.hypothesis or {}, hypothesis):
            return Repeat(_original(one), min(near.similarity, _BELOW_SAME))
    return None


def _tested(experiment: Experiment) -> bool:
    return experiment.kind == "proposal" and experiment.program_sha256 is not None


def _original(experiment: Experiment) -> str:
    """The experiment itself, or the one that it was found to repeat."""
    return experiment.duplicate_of or experiment.equivalent_of or experiment.id
