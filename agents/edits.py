"""Search/replace edits of a program: how a coder states a small change without writing the whole program again.

A reply holds one fenced block marked `edit` with one or more of

    <<<<<<< SEARCH
    lines as they stand in the program
    =======
    lines that take their place
    >>>>>>> REPLACE

Notable:
* the lines searched for must occur exactly once, as whole lines with their indentation: an edit that could mean two
  places is refused, and nothing is matched by likeness;
* edits are found in the program as it was shown and may not overlap, so their order does not matter;
* blank lines around the searched lines are part of what is searched for; blanks at line ends are not.

Source of the form: the markers of a merge conflict, as common among coding assistants. Not covered: when to edit and
when to write anew (`move37.coding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.errors import ReplyMalformed

_SEARCH, _BETWEEN, _REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
MOST_EDITS = 40


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines to find, and lines to put there; no replacement deletes them."""

    search: tuple[str, ...]
    replacement: tuple[str, ...]


def read_edits(raw: str, body: str) -> list[Edit]:
    """The edits that a block states. `raw` is the reply, for the error.

    Raises:
        ReplyMalformed: a marker is missing or out of place, nothing is searched for, or there are too many edits.
    """
    edits: list[Edit] = []
    search: list[str] = []
    replacement: list[str] = []
    state = ""
    for line in body.split("\n"):
        marker = line.rstrip()
        if marker == _SEARCH and not state:
            state, search, replacement = "search", [], []
        elif marker == _BETWEEN and state == "search":
            state = "replace"
        elif marker == _REPLACE and state == "replace":
            if not any(one.strip() for one in search):
                raise ReplyMalformed(raw, f"edit {len(edits) + 1} searches for nothing")
            edits.append(Edit(tuple(search), tuple(replacement)))
            state = ""
        elif marker in {_SEARCH, _REPLACE} or (not state and marker):
            raise ReplyMalformed(raw, f"edit {len(edits) + 1} holds {marker[:40]!r} where no such line belongs")
        elif state == "search":
            search.append(line.rstrip())
        elif state == "replace":
            replacement.append(line)
    if state:
        raise ReplyMalformed(raw, f"edit {len(edits) + 1} is not closed by {_REPLACE!r}, so it may be cut off")
    if not edits:
        raise ReplyMalformed(raw, "the edit block holds no edit")
    if len(edits) > MOST_EDITS:
        raise ReplyMalformed(raw, f"there are {len(edits)} edits; more than {MOST_EDITS} are a new program: write it")
    return edits


def apply(raw: str, source: str, edits: Sequence[Edit]) -> str:
    """The program with all edits made, ending in one newline.

    Raises:
        ReplyMalformed: what an edit searches for is not there or there more than once, or two edits overlap.
    """
    lines = source.split("\n")
    stripped = [line.rstrip() for line in lines]
    places: list[tuple[int, Edit]] = []
    for number, edit in enumerate(edits, start=1):
        found = _places(stripped, edit.search)
        shown = next(line.strip() for line in edit.search if line.strip())[:80]
        if not found:
            raise ReplyMalformed(raw, f"what edit {number} searches for is not in the program (it begins {shown!r})")
        if len(found) > 1:
            raise ReplyMalformed(
                raw, f"what edit {number} searches for occurs {len(found)} times (it begins {shown!r}): add lines to it"
            )
        places.append((found[0], edit))
    places.sort(key=lambda place: place[0])
    made: list[str] = []
    at = 0
    for start, edit in places:
        if start < at:
            raise ReplyMalformed(raw, f"two edits overlap at line {start + 1} of the program")
        made.extend((*lines[at:start], *edit.replacement))
        at = start + len(edit.search)
    made.extend(lines[at:])
    return "\n".join(made).strip("\n") + "\n"


def _places(lines: list[str], search: Sequence[str]) -> list[int]:
    wanted = list(search)
    first = range(len(lines) - len(wanted) + 1)
    return [at for at in first if lines[at] == wanted[0] and lines[at : at + len(wanted)] == wanted]
