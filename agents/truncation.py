"""Whether a server silently cut the prompt: Ollama drops its beginning, contract first, and answers with a 200.

The sign is `usage.prompt_tokens`, the server's own count of what it read. Two rules, either of which is enough:
* it lies below `FACTOR` of `least_tokens`, a count of pieces, and more than `MARGIN_TOKENS` below it;
* three prompts had exactly this count, no prompt of the model had more, and one of the three has a tenth and
  `MARGIN_TOKENS` more pieces than another: they were all cut to the server's window. This finds, at the third call,
  cuts that the first rule is too cautious for.

Tokens counted over `least_tokens`, by sum and the smallest for one text, of five tokenizers (cl100k, o200k, Llama 3,
Qwen 3, DeepSeek): the reference programs 0.94 to 0.99, smallest 0.93; 150 of this repository's Python files 0.97 to
1.03, smallest 0.83; paragraphs of its documents 1.03 to 1.07, smallest 0.91; tables, JSON, numbers 1.0 and more;
Chinese 1.28, Japanese 1.54, Korean 1.77, Russian 1.59, German 1.66, Arabic 1.77, Hindi 1.78, Thai 0.93 and more.

Why no factor per model that is learnt from earlier calls: the ratio differs more between code, prose and Chinese within
one model than between models, and the prompts of the roles differ in just that.

Not covered: servers that count only what was not in their cache and do not say so; `check_truncation = false` is for
them. Prompts that lost less than the first rule sees, as long as the second has not met three of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agents.contexts import Message

FACTOR = 0.7
MARGIN_TOKENS = 200
_GROWTH = 1.1
_ALIKE = 3

_PIECE = re.compile(
    r"(?:[A-Za-z]|[^\x00-\x7f\s]){1,16}"  # a word, whatever its script; below, those without spaces are told apart
    r"|\d{1,3}"
    r"|[^\w\s\x80-\U0010ffff]{1,80}|_{1,80}"  # a run of punctuation, a ruled line
    r"|[\r\n][\s]*"  # a line break with its indentation; other white space goes with what follows
)
_SPACELESS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
_SPACELESS_PER_TOKEN = 2.5  # Chinese is the densest: up to 2.0 characters per token were counted


def least_tokens(text: str) -> int:
    """A count of tokens that vocabularies of today stay above or near: words, numbers, runs of punctuation, lines."""
    spaceless = len(_SPACELESS.findall(text))
    rest = _SPACELESS.sub(" ", text) if spaceless else text
    return len(_PIECE.findall(rest)) + int(spaceless / _SPACELESS_PER_TOKEN)


def prompt_least_tokens(messages: Sequence[Message]) -> int:
    """`least_tokens` of a whole prompt, without what a server puts around messages."""
    return sum(least_tokens(message.content) for message in messages)


class TruncationWatch:
    """Looks at the counts of one model, call by call."""

    def __init__(self) -> None:
        self._most = 0  # tokens that the server ever read
        self._at_most: list[int] = []  # pieces of prompts of which it read so many: fewest, one more, most

    def suspicion(self, least: int, read: int) -> str:
        """Why a prompt of `least` tokens, of which the server read `read`, was cut; "" if nothing says so."""
        if read < FACTOR * least and least - read > MARGIN_TOKENS:
            return f"the server read {read} tokens of a prompt of at least {least}"
        if read > self._most:
            self._most, self._at_most = read, []
        if read == self._most:
            seen = sorted([*self._at_most, least])
            if len(seen) >= _ALIKE and seen[-1] > _GROWTH * seen[0] and seen[-1] - seen[0] > MARGIN_TOKENS:
                return f"the server read {read} tokens of this prompt as of one {seen[-1] - seen[0]} tokens shorter"
            self._at_most = seen if len(seen) < _ALIKE else [seen[0], seen[1], seen[-1]]
        return ""


def tokens_read(usage: Mapping[str, Any]) -> int:
    """How much of the prompt a server says that it read, what it had in its cache included; 0 if it does not say.

    Most servers count cached tokens within `prompt_tokens`, some beside it: the larger reading is taken.
    """
    details = usage.get("prompt_tokens_details")
    nested = details if isinstance(details, Mapping) else {}
    cached = [
        nested.get("cached_tokens"),
        usage.get("cache_read_input_tokens"),
        usage.get("cache_creation_input_tokens"),
    ]
    prompt = _count(usage.get("prompt_tokens"))
    return prompt + sum(map(_count, cached)) if prompt else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
