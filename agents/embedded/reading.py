"""Reads a rendered prompt back: the embedded model sees what a language model would see, and nothing else.

Notable: sections are found by their headings outside fences, so that nothing a program prints or a docstring holds can
pose as evidence. What is not found is empty, never guessed.

Not covered: prompts rendered from templates of another shape: then the role is not recognised (`None`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agents.replies import Block, fenced_blocks

_ROLE = re.compile(r"\A# Role: (researcher|coder|analyst)$", re.MULTILINE)
_WIDTH = re.compile(r"d_model = (\d{1,5}) and there are n_layers = (\d{1,3}) layers \(track (\w+), tier (\w+)\)")
_TASK = re.compile(r"^- ([\w.:=-]+) \(.*; chance ([\d.]+)\):", re.MULTILINE)
_HEADED = re.compile(r'^(?:[\w-]+: )?(\S+) "(.*)"$')
_SCORE = re.compile(r"^(?:.*[ .])?score (-?\d+\.\d+|not measured)\.?$", re.MULTILINE)
_ROW = re.compile(r"^\| ([\w.:=-]+) \| (.*) \|$", re.MULTILINE)
_TRIED = re.compile(
    r'^- (?P<experiment>\S+) "(?P<name>.*)": (?P<status>\w+)(?: \((?P<reason>.*)\))?, score (?P<score>\S+|not measured)'
    r"(?:, from (?P<parent>\S+) with score (?P<parent_score>\S+|not measured))?$"
)
_LESSON = re.compile(r"^- (?P<experiment>\S+) \[(?P<level>\w+)\]: (?P<claim>.*)$")
_FENCE_LINE = re.compile(r"^ {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, the prose under it (fenced text left out) and the fenced blocks."""

    title: str
    prose: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the system message says."""

    role: str
    d_model: int
    n_layers: int
    track: str
    chances: dict[str, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """A shown program."""

    experiment: str
    name: str
    score: float | None
    source: str
    per_task: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """A line of "already tried", or a collision."""

    experiment: str
    name: str
    status: str
    reason: str
    score: float | None
    parent_score: float | None
    change: str
    design: str


@dataclass(frozen=True, slots=True)
class Learnt:
    """A lesson."""

    experiment: str
    claim: str
    change: str
    effect: float | None


def sections(text: str) -> list[Section]:
    """The text cut at its headings of level two and three, fences respected."""
    found: list[tuple[str, list[str]]] = [("", [])]
    marks = ""
    for line in text.split("\n"):
        fence = _FENCE_LINE.match(line)
        if fence and not marks:
            marks = fence[1]
        elif fence and marks and fence[1].startswith(marks) and not line.strip().strip(marks[0]):
            marks = ""
        elif not marks and line.startswith(("## ", "### ")):
            found.append((line.lstrip("#").strip(), []))
            continue
        found[-1][1].append(line)
    return [Section(title, _outside_fences(lines), tuple(fenced_blocks("\n".join(lines)))) for title, lines in found]


def _outside_fences(lines: Sequence[str]) -> str:
    kept: list[str] = []
    marks = ""
    for line in lines:
        fence = _FENCE_LINE.match(line)
        if fence and not marks:
            marks = fence[1]
        elif fence and fence[1].startswith(marks) and not line.strip().strip(marks[0]):
            marks = ""
        elif not marks:
            kept.append(line)
    return "\n".join(kept)


def read_setting(system: str) -> Setting | None:
    """Role, sizes and tasks; None if this is not one of our system messages."""
    role, width = _ROLE.search(system), _WIDTH.search(system)
    if role is None or width is None:
        return None
    prose = next((section.prose for section in sections(system) if section.title == "The tasks"), "")
    chances = {name: _number(chance) or 0.0 for name, chance in _TASK.findall(prose)}
    return Setting(role[1], int(width[1]), max(1, int(width[2])), width[3], chances)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def titled(parts: Sequence[Section], title: str) -> Section | None:
    return next((part for part in parts if part.title == title), None)


def read_shown(part: Section) -> Shown:
    """The program of a section headed "Parent: id "name"" or "Exemplar: ..."."""
    heading = _HEADED.match(part.title)
    score = _SCORE.search(part.prose)
    per_task: dict[str, float] = {}
    for name, cells in _ROW.findall(part.prose):
        value = _number(cells.split(" | ")[0])
        if value is not None:
            per_task[name] = value
    source = next((block.body for block in part.blocks if block.info == "python"), "")
    return Shown(
        experiment=heading[1] if heading else "",
        name=heading[2] if heading else "",
        score=_number(score[1]) if score else None,
        source=source,
        per_task=per_task,
    )


def read_programs(parts: Sequence[Section], kind: str) -> list[Shown]:
    return [read_shown(part) for part in parts if part.title.startswith(f"{kind}: ")]


def _items(prose: str) -> list[tuple[str, dict[str, str]]]:
    """List items with their indented `key: value` lines."""
    items: list[tuple[str, dict[str, str]]] = []
    for line in prose.split("\n"):
        if line.startswith("- "):
            items.append((line, {}))
        elif line.startswith("  ") and items and ": " in line:
            key, _, value = line.strip().partition(": ")
            items[-1][1][key] = value
    return items


def read_tried(part: Section | None) -> list[Tried]:
    tried: list[Tried] = []
    for line, details in _items(part.prose if part else ""):
        match = _TRIED.match(line)
        if match:
            tried.append(
                Tried(
                    experiment=match["experiment"],
                    name=match["name"],
                    status=match["status"],
                    reason=match["reason"] or "",
                    score=_number(match["score"]),
                    parent_score=_number(match["parent_score"]),
                    change=details.get("change", ""),
                    design=details.get("design", ""),
                )
            )
    return tried


def read_lessons(part: Section | None) -> list[Learnt]:
    lessons: list[Learnt] = []
    for line, details in _items(part.prose if part else ""):
        match = _LESSON.match(line)
        if match:
            lessons.append(
                Learnt(
                    experiment=match["experiment"],
                    claim=match["claim"],
                    change=details.get("change", ""),
                    effect=_number(details.get("effect on the score")),
                )
            )
    return lessons


def read_list(part: Section | None) -> dict[str, str]:
    """A section of `- key: value` lines."""
    lines = (part.prose if part else "").split("\n")
    pairs = (line[2:].split(": ", 1) for line in lines if line.startswith("- ") and ": " in line)
    return {pair[0]: pair[1] for pair in pairs}


def first_block(part: Section | None) -> str:
    return part.blocks[0].body if part and part.blocks else ""


def read_table(part: Section | None) -> dict[str, list[str]]:
    """Rows of a table by their first cell; the header's dashes do not match."""
    return {name: cells.split(" | ") for name, cells in _ROW.findall(part.prose if part else "")}
