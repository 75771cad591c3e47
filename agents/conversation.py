"""Putting rendered templates together into a conversation."""

from __future__ import annotations

from functools import cache

from agents.contexts import Message, Prompt
from agents.errors import ReplyMalformed
from prompts.loader import Prompts, Rendered

REPLY_SHOWN_CHARS = 8_000


@cache
def packaged() -> Prompts:
    """The templates that come with the package."""
    return Prompts()


def prompt_of(system: Rendered, user: Rendered) -> Prompt:
    """A system and a user message with the hashes of both templates."""
    return Prompt(
        messages=(Message("system", system.text), Message("user", user.text)),
        template_hashes={system.name: system.template_hash, user.name: user.template_hash},
    )


def corrected(prompt: Prompt, reply_text: str, error: ReplyMalformed, asked: str, prompts: Prompts) -> Prompt:
    """The conversation continued by the unusable reply (capped) and a request to correct its form."""
    sendable = (
        reply_text[:REPLY_SHOWN_CHARS].encode("utf-8", "backslashreplace").decode()
    )  # lone surrogates cannot travel
    shown = sendable.strip() or "(empty reply)"
    request = prompts.render("corrective.md.j2", why=error.why, asked=asked)
    return Prompt(
        messages=(*prompt.messages, Message("assistant", shown), Message("user", request.text)),
        template_hashes={**prompt.template_hashes, request.name: request.template_hash},
    )
