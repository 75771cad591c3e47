"""How many tokens a text has, and what fits into a budget of them: whole items only, never one that is cut.

`estimate` counts the pieces that byte-pair tokenizers start from, without a vocabulary, so that nothing has to be
downloaded. It leans high: estimated over counted tokens, for 494 texts (the reference programs, this repository's
Python, paragraphs of its documents, its benchmark tables), by sum, and the smallest for any one text:

    tokenizer         programs   Python   prose   tables   smallest
    cl100k_base           1.24     1.34    1.21     1.12       0.99
    o200k_base            1.24     1.34    1.21     1.12       0.99
    DeepSeek              1.18     1.24    1.20     1.13       1.00
    Anthropic (2023)      1.13     1.22    1.20     1.28       1.00

Text that is no language is underestimated: random letters had four times the tokens. Who knows the model's tokenizer
measures by it instead.

Not covered: what a server adds around messages; images.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_PIECE = re.compile(
    r"\x20?[A-Za-z]{1,6}"  # most words are one token with the space before them, long and rare ones are several
    r"|\d{1,2}"  # a space before a number is a token of its own
    r"|\x20?[^\s\dA-Za-z]"
    r"|\s+",
    re.ASCII,
)
_WIDE = re.compile("[\u0800-\U0010ffff]")  # three or four bytes in UTF-8: counted as two tokens
_MARKS = "```"
_LONG = 1_000  # characters from which on a part is remembered: programs, which prompt after prompt shows again
_REMEMBERED = 512


def estimate(text: str) -> int:
    """Estimated tokens of a text: at least 0, and never more for a whole than for its parts together."""
    first, *rest = text.split(f"\n{_MARKS}")  # no piece goes across the beginning of a line that begins with a mark
    total, part = 0, first
    for following in rest:
        total += _tokens(f"{part}\n")
        part = _MARKS + following
    return total + _tokens(part)


def _tokens(text: str) -> int:
    return _remembered(text) if len(text) >= _LONG else _counted(text)


def _counted(text: str) -> int:
    pieces = len(_PIECE.findall(text))
    return pieces if text.isascii() else pieces + len(_WIDE.findall(text))


_remembered = lru_cache(_REMEMBERED)(_counted)


@dataclass(frozen=True)
class Fitted:
    """How many of each section's items are kept, the first ones, and how many were left out."""

    kept: dict[str, int]
    dropped: dict[str, int]

    def told(self) -> str:
        """What was left out, for a reader: "left out for length: 3 of lessons, 1 of failures", or ""."""
        parts = [f"{count} of {name}" for name, count in reversed(self.dropped.items()) if count]
        return f"left out for length: {', '.join(parts)}" if parts else ""


def fit(sections: dict[str, int], budget_tokens: int, measure: Callable[[Fitted], int]) -> Fitted:
    """Leaves out whole items until the rest is within the budget.

    The last item of the last section goes first, then the next of that section, then the section before it. Nothing
    that would have to go later goes earlier, even where that would waste less of the budget: what is shown then depends
    on the budget in one direction only.

    Args:
        sections: how many items each has, the most important first; from the one that is kept longest to the one that
            is dropped first.
        budget_tokens: for everything together.
        measure: tokens of everything with what is kept. If it is over the budget without any item, so be it.
    """
    kept = dict(sections)
    fitted = Fitted(dict(kept), dict.fromkeys(sections, 0))
    for name in reversed(sections):
        while kept[name] and measure(fitted) > budget_tokens:
            kept[name] -= 1
            fitted = Fitted(dict(kept), {other: sections[other] - kept[other] for other in sections})
    return fitted
