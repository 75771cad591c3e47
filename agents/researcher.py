"""The researcher: proposes one atomic, falsifiable change to a parent architecture."""

from __future__ import annotations

from collections.abc import Collection

from agents.contexts import Prompt, ResearchContext
from agents.conversation import corrected, packaged, prompt_of
from agents.errors import ReplyMalformed
from agents.replies import Proposal, check_knowledge, check_tasks, parse_json
from prompts.loader import Prompts

ASKED = "one JSON object of the form given above, and nothing else"


def messages(prompts: Prompts, context: ResearchContext) -> Prompt:
    """System message (role, contract, tasks: stable within a campaign), then this experiment's evidence."""
    return prompt_of(
        prompts.render("researcher_system.md.j2", brief=context.brief),
        prompts.render(
            "researcher.md.j2",
            parent=context.parent,
            exemplars=context.exemplars,
            history=context.history,
            lessons=context.lessons,
            collisions=context.collisions,
            memory=context.memory,
            tasks=context.brief.tasks,
            mode=context.mode,
            second=context.second,
            ablation=context.ablation,
        ),
    )


def parse(
    text: str,
    *,
    finish_reason: str | None = None,
    tasks: Collection[str] | None = None,
    entries: Collection[str] | None = None,
) -> Proposal:
    """The hypothesis of a reply. With `tasks`, predictions for anything else are malformed; with `entries`, so are ids
    of other published findings.

    Raises:
        ReplyMalformed: see `agents.replies.parse_json`.
    """
    hypothesis = parse_json(text, Proposal, finish_reason=finish_reason)
    if tasks is not None:
        check_tasks(text, hypothesis, tasks)
    if entries is not None:
        check_knowledge(text, hypothesis, entries)
    return hypothesis


def corrective(prompt: Prompt, reply_text: str, error: ReplyMalformed, *, prompts: Prompts | None = None) -> Prompt:
    """The same conversation with the unusable reply and the reason, for one corrective round."""
    return corrected(prompt, reply_text, error, ASKED, prompts or packaged())
