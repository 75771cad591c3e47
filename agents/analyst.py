"""The analyst: compares the prediction with the measurement and draws one lesson."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

from agents.contexts import AnalysisContext, Prompt
from agents.conversation import corrected, packaged, prompt_of
from agents.errors import ReplyMalformed
from agents.replies import Analysis, check_lessons, parse_json
from prompts.loader import Prompts

ASKED = "one JSON object of the form given above, and nothing else"


def messages(prompts: Prompts, context: AnalysisContext) -> Prompt:
    """Show hypothesis, program, outcome and cost beside the parent's, siblings, and lessons to weigh."""
    shown = {one.name: getattr(context, one.name) for one in fields(context) if one.name != "brief"}
    return prompt_of(
        prompts.render("analyst_system.md.j2", brief=context.brief),
        prompts.render("analyst.md.j2", tasks=context.brief.tasks, **shown),
    )


def parse(text: str, *, finish_reason: str | None = None, lessons: Collection[str] | None = None) -> Analysis:
    """The analysis of a reply; with `lessons`, those that were shown, evidence may name no other.

    Raises:
        ReplyMalformed: see `agents.replies.parse_json`.
    """
    analysis = parse_json(text, Analysis, finish_reason=finish_reason)
    if lessons is not None:
        check_lessons(text, analysis, lessons)
    return analysis


def corrective(prompt: Prompt, reply_text: str, error: ReplyMalformed, *, prompts: Prompts | None = None) -> Prompt:
    """The same conversation with the unusable reply and the reason, for one corrective round."""
    return corrected(prompt, reply_text, error, ASKED, prompts or packaged())
