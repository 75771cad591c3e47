"""Campaigns that do without one of their parts, so that what the part is worth can be measured.

`search.without` names the parts. Each is left out at one place: what the researcher is told (`memory`, `knowledge`),
what both agents are shown (`exemplars`), who is asked (`analyst`), what is refused (`dedup`). Selection of the parent
stays as it is: a search without it is another arm (`move37-random`), not an ablation.
"""

from dataclasses import replace
from typing import get_args

from agents.contexts import Memory, ResearchContext
from move37.config import Part

PARTS: tuple[Part, ...] = get_args(Part)

MEANING: dict[Part, str] = {
    "memory": "the researcher sees the parent and exemplars, and nothing of what else was tried or learnt",
    "exemplars": "researcher and coder are shown no program beside the parent",
    "knowledge": "the researcher is shown no published findings",
    "analyst": "nobody explains results, so there are no lessons",
    "dedup": "a program that was tried before is trained again",
}


def told(context: ResearchContext, without: tuple[Part, ...]) -> ResearchContext:
    """The context without the parts that the campaign leaves out. What this very experiment repeated stays: it is the
    reason for the question."""
    if "memory" in without:
        context = replace(context, history=(), lessons=(), memory=Memory(knowledge=context.memory.knowledge))
    if "knowledge" in without:
        context = replace(context, memory=replace(context.memory, knowledge=()))
    return context
