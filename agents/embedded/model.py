"""The embedded models as a function: messages and a seed in, text out. They differ in the researcher alone.

They read the same prompts as a language model and nothing else: no store, no clock, no process state. The random
numbers are drawn from the hash of the request, so that the same request gives the same bytes wherever it is asked.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from agents.contexts import Message
from agents.embedded import analyst, coder, researcher
from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL
from agents.embedded.reading import read_setting, sections


class RequestUnreadable(Exception):  # answered as an OpenAI error by the server, never raised to a caller
    """The messages are not a prompt of this system, or of a track that the grammar does not cover.

    Attributes:
        code: The error code of the response.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def answer(messages: Sequence[Message], seed: int | None, model: str = EMBEDDED_MODEL, *, informed: bool = True) -> str:
    """The reply of an embedded model to a rendered prompt. Not `informed`: without its priors, for measuring them.

    Raises:
        RequestUnreadable: it is no prompt that the grammar can answer.
    """
    system = next((message.content for message in messages if message.role == "system"), "")
    evidence = next((message.content for message in messages if message.role == "user"), "")
    setting = read_setting(system)
    if setting is None:
        raise RequestUnreadable(
            "the embedded model answers the prompts of Move37's researcher, coder and analyst only", "unknown_prompt"
        )
    if setting.track != "sequence":
        raise RequestUnreadable(
            f"the embedded grammar covers the sequence track, not {setting.track}: use a language model",
            "unsupported_track",
        )
    parts = sections(evidence)
    rng = random.Random(request_digest(messages, seed))
    if setting.role == "coder":
        return coder.write(setting, parts, rng)
    if setting.role == "analyst":
        return _json(analyst.analyse(parts, setting.d_model))
    found = researcher.read_evidence(parts)
    if found is None:
        raise RequestUnreadable("the researcher's prompt shows no parent program", "unknown_prompt")
    if model == RANDOM_MODEL:
        return _json(researcher.draw(setting, found, rng))
    return _json(researcher.propose(setting, found, rng, informed=informed))


def request_digest(messages: Sequence[Message], seed: int | None) -> str:
    """Content hash of what the reply depends on."""
    canonical = json.dumps(
        {"messages": [message.as_dict() for message in messages], "seed": seed}, sort_keys=True, ensure_ascii=True
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _json(value: dict[str, object]) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```\n"
