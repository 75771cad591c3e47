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
passes its count instead, as `count`.

Not covered: what a server adds around messages; images.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Count = Callable[[str], int]

_PIECE = re.compile(
    r"\x20?[A-Za-z]{1,6}"  # most words are one token with the space before them, long and rare ones are several
    r"|\d{1,2}"  # a space before a number is a token of its own
    r"|\x20?[^\s\dA-Za-z]"
    r"|\s+",
    re.ASCII,
)
_SHORT = "\u0800"  # from here on a character has three or four bytes in UTF-8, and is counted as two tokens


def estimate(text: str) -> int:
    """Estimated tokens of a text: at least 0, and never more for a whole than for its parts together."""
    pieces = len(_PIECE.findall(text))
    return pieces if text.isascii() else pieces + sum(character >= _SHORT for character in text)


@dataclass(frozen=True)
class Section:
    """One part of a prompt: whole items as they are rendered, in the order they are shown.

    `order`, if given, has the positions of the items from the most to the least important; without it the first item
    is the most important one.
    """

    name: str
    items: tuple[str, ...]
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.order is not None and sorted(self.order) != list(range(len(self.items))):
            raise ValueError(
                f"the order of section {self.name!r} must name each of its {len(self.items)} items once, from 0; "
                f"it is {self.order}"
            )


@dataclass(frozen=True)
class Fitted:
    """What fits: the positions kept per section, ascending; how many were dropped; the tokens of what is kept.

    `fits` is False only where the budget is smaller than what cannot be dropped; then nothing droppable was kept.
    """

    kept: Mapping[str, tuple[int, ...]]
    dropped: Mapping[str, int]
    tokens: int
    fits: bool

    @property
    def n_dropped(self) -> int:
        """Items dropped in all."""
        return sum(self.dropped.values())

    def told(self) -> str:
        """What was left out, for a reader: "left out for length: 3 of lessons, 1 of failures", or ""."""
        parts = [f"{count} of {name}" for name, count in self.dropped.items() if count]
        return f"left out for length: {', '.join(parts)}" if parts else ""


def fit(
    sections: Sequence[Section],
    budget_tokens: int,
    priorities: Sequence[str],
    *,
    fixed_tokens: int = 0,
    count: Count = estimate,
) -> Fitted:
    """Drops whole items until the rest is within the budget.

    The least important item of the section of lowest priority goes first, then the next of that section, then the
    section above it. Nothing that would have to go later goes earlier, even where that would waste less of the budget:
    what is shown then depends on the budget in one direction only.

    Args:
        sections: in the order they are shown.
        budget_tokens: for everything together.
        priorities: the names of all sections, from the one that is kept longest to the one that is dropped first.
        fixed_tokens: what cannot be dropped: headings, the parent's program, the request.
        count: tokens of one item.

    Raises:
        ValueError: two sections have one name; priorities name other sections than there are.
    """
    by_name = {section.name: section for section in sections}
    if len(by_name) != len(sections) or sorted(priorities) != sorted(by_name):
        raise ValueError(
            f"priorities must name every section once; sections are {[section.name for section in sections]}, "
            f"priorities {list(priorities)}"
        )
    left = {section.name: _by_importance(section) for section in sections}
    sizes = {section.name: [count(item) for item in section.items] for section in sections}
    tokens = fixed_tokens + sum(map(sum, sizes.values()))
    for name in reversed(priorities):
        while tokens > budget_tokens and left[name]:
            tokens -= sizes[name][left[name].pop()]
    return Fitted(
        kept={name: tuple(sorted(positions)) for name, positions in left.items()},
        dropped={name: len(by_name[name].items) - len(positions) for name, positions in left.items()},
        tokens=tokens,
        fits=tokens <= budget_tokens,
    )


def _by_importance(section: Section) -> list[int]:
    return list(range(len(section.items)) if section.order is None else section.order)
