"""The analyst: compares the prediction with the measurement and draws one lesson."""

from __future__ import annotations

from agents.contexts import AnalysisContext, Prompt
from agents.conversation import corrected, packaged, prompt_of
from agents.errors import ReplyMalformed
from agents.replies import Analysis, parse_json
from prompts.loader import Prompts

ASKED = "one JSON object of the form given above, and nothing else"


def messages(prompts: Prompts, context: AnalysisContext) -> Prompt:
    """Show hypothesis, program, outcome and cost beside the parent's."""
    return prompt_of(
        prompts.render("analyst_system.md.j2", brief=context.brief),
        prompts.render(
            "analyst.md.j2",
            tasks=context.brief.tasks,
            experiment=context.experiment,
            hypothesis=context.hypothesis,
            source=context.source,
            status=context.status,
            reason=context.reason,
            parent=context.parent,
            per_task=context.per_task,
            per_seed=context.per_seed,
            curves=context.curves,
            cost=context.cost,
            parent_cost=context.parent_cost,
        ),
    )


def parse(text: str, *, finish_reason: str | None = None) -> Analysis:
    """The analysis of a reply.

    Raises:
        ReplyMalformed: see `agents.replies.parse_json`.
    """
    return parse_json(text, Analysis, finish_reason=finish_reason)


def corrective(prompt: Prompt, reply_text: str, error: ReplyMalformed, *, prompts: Prompts | None = None) -> Prompt:
    """The same conversation with the unusable reply and the reason, for one corrective round."""
    return corrected(prompt, reply_text, error, ASKED, prompts or packaged())
