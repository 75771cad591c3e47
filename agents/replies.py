"""What a role must reply, and the strict reading of a reply.

Notable:
* a JSON reply is one object, bare or in one fenced block; duplicate keys, NaN, unknown fields and a second object
  are refused rather than guessed at;
* text that will be shown in a terminal or a page holds no control, surrogate or direction-override characters;
* code is never inside JSON (escaping damages it): it is exactly one fenced python block, fences read as in CommonMark,
  so that a program may hold shorter fences of its own.

Not covered: whether the program is any good. That is for the gates.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from agents.errors import ReplyMalformed

JSON_CAP_CHARS = 64 * 1024
PROGRAM_CAP_BYTES = 256 * 1024
DIRECTION_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
TRUNCATING = {"length": "cut off at the token limit", "content_filter": "cut off by the endpoint's content filter"}

_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}|~{3,})(?P<info>[^\n]*)$")


def _printable(text: str, *, keep: str) -> str:
    for character in text:
        unwanted = unicodedata.category(character) in {"Cc", "Cs"} and character not in keep
        if unwanted or character in DIRECTION_OVERRIDES:
            raise ValueError(f"holds the unprintable character U+{ord(character):04X}")
    if not text.strip():
        raise ValueError("is empty")
    return text.strip()


def _line(text: str) -> str:
    return _printable(text, keep="")


def _paragraph(text: str) -> str:
    return _printable(text, keep="\n\t")


Name = Annotated[str, Field(max_length=80), AfterValidator(_line)]
Label = Annotated[str, Field(max_length=160), AfterValidator(_line)]
Note = Annotated[str, Field(max_length=1000), AfterValidator(_paragraph)]
Paragraphs = Annotated[str, Field(max_length=4000), AfterValidator(_paragraph)]


class Reply(BaseModel):
    """Base of every structured reply: no coercion, no unknown field, finite numbers, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Prediction(Reply):
    """The expected change of one task's value against the parent: `size` is its absolute amount."""

    task: Name
    direction: Literal["up", "down", "same"]
    size: float = Field(ge=0.0, le=1.0)


class Hypothesis(Reply):
    """One atomic, falsifiable change. `change` is its short label, `design` says the whole resulting mixer.

    `ablation` says what to remove and what should then be measured if the mechanism is right; None in hypotheses from
    before it was asked for. `knowledge` has the ids of the published findings that were used.
    """

    title: Name
    mechanism: Paragraphs
    change: Label
    design: Paragraphs
    predictions: list[Prediction] = Field(min_length=1, max_length=32)
    refuted_by: Note
    ablation: Note | None = None
    knowledge: list[Name] = Field(default=[], max_length=8)

    @field_validator("predictions")
    @classmethod
    def _one_per_task(cls, predictions: list[Prediction]) -> list[Prediction]:
        tasks = [prediction.task for prediction in predictions]
        if len(set(tasks)) != len(tasks):
            raise ValueError("holds two predictions for one task")
        return predictions


class Proposal(Hypothesis):
    """A hypothesis as it is asked for now: nothing may be left out."""

    ablation: Note
    knowledge: list[Name] = Field(max_length=8)


class Lesson(Reply):
    """A claim that later proposals may use: `effect` is the measured score difference to the parent."""

    claim: Note
    change: Label
    effect: float


class LessonStance(Reply):
    """What the experiment says of an earlier lesson, which is named by the experiment that it was drawn from."""

    lesson: Name
    stance: Literal["supports", "contradicts"]
    note: Note


class AblationRequest(Reply):
    """A part of what the change brought, to be taken away in a later experiment, and what should happen then."""

    remove: Label
    expect: Annotated[str, Field(max_length=300), AfterValidator(_line)]


class Analysis(Reply):
    """What was learnt from one experiment. What has a default was not asked for in earlier versions."""

    summary: Paragraphs
    prediction_held: Literal["yes", "partly", "no"]
    lesson: Lesson
    next_test: Note
    idea_kept: Literal["yes", "partly", "no"] = "yes"
    evidence: list[LessonStance] = Field(default_factory=list, max_length=16)
    ablation_request: AblationRequest | None = None

    @field_validator("evidence")
    @classmethod
    def _one_per_lesson(cls, evidence: list[LessonStance]) -> list[LessonStance]:
        lessons = [one.lesson for one in evidence]
        if len(set(lessons)) != len(lessons):
            raise ValueError("holds two stances on one lesson")
        return evidence


ReplyT = TypeVar("ReplyT", bound=Reply)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: `info` is the word after the opening fence."""

    info: str
    body: str
    closed: bool


def fenced_blocks(text: str) -> list[Block]:
    """Top-level fenced blocks; a closing fence has the same mark, at least the opening length, and no info string."""
    blocks: list[Block] = []
    marks, info, body = "", "", list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):
        match = _FENCE.match(line)
        if not marks:
            if match and not (match["marks"][0] == "`" and "`" in match["info"]):
                marks, info, body = match["marks"], match["info"].strip().lower(), []
        elif match and match["marks"].startswith(marks) and not match["info"].strip():
            blocks.append(Block(info, "\n".join(body), closed=True))
            marks = ""
        else:
            body.append(line)
    if marks:
        blocks.append(Block(info, "\n".join(body), closed=False))
    return blocks


def whole_text(text: str, finish_reason: str | None) -> str:
    """The reply without a leading reasoning section.

    Raises:
        ReplyMalformed: it is empty, or the endpoint cut it off.
    """
    if finish_reason in TRUNCATING:
        raise ReplyMalformed(text, f"the reply was {TRUNCATING[finish_reason]}")
    answer = _THINKING.sub("", text, count=1).strip()
    if not answer:
        raise ReplyMalformed(text, "the reply is empty")
    return answer


def parse_json(text: str, model: type[ReplyT], *, finish_reason: str | None = None) -> ReplyT:
    """The one JSON object of a reply.

    Raises:
        ReplyMalformed: no object, several, not strict JSON, or not the model's fields.
    """
    answer = whole_text(text, finish_reason)
    if len(answer) > JSON_CAP_CHARS:
        raise ReplyMalformed(text, f"the reply has {len(answer)} characters; at most {JSON_CAP_CHARS} are read")
    value = _decode(text, _object_text(text, answer))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the object'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        raise ReplyMalformed(text, f"the JSON object does not fit the asked form: {problems}") from None


def _object_text(raw: str, answer: str) -> str:
    blocks = [block for block in fenced_blocks(answer) if block.info in {"json", ""}]
    if len(blocks) > 1:
        raise ReplyMalformed(raw, f"the reply holds {len(blocks)} JSON blocks; give exactly one")
    if blocks and not answer.startswith("{"):
        if not blocks[0].closed:
            raise ReplyMalformed(raw, "the fenced JSON block is not closed")
        return blocks[0].body.strip()
    start = answer.find("{")
    if start < 0:
        raise ReplyMalformed(raw, "the reply holds no JSON object")
    return answer[start:]


def _decode(raw: str, text: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(items)
        if len(mapping) != len(items):
            raise ReplyMalformed(raw, "the JSON object holds a key twice")
        return mapping

    def constant(name: str) -> NoReturn:
        raise ReplyMalformed(raw, f"the JSON object holds {name}, which is not a number")

    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant)
    try:
        value, end = decoder.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise ReplyMalformed(raw, f"the JSON object does not parse: {error}") from None
    if "{" in text[end:]:
        raise ReplyMalformed(raw, "more text in braces follows the JSON object; give exactly one object")
    if not isinstance(value, dict):
        raise ReplyMalformed(raw, "the JSON value is not an object")
    return value


def parse_program(text: str, *, finish_reason: str | None = None) -> str:
    """The source in the reply's only fenced python block, ending in one newline.

    Raises:
        ReplyMalformed: none, several, unclosed, empty, too large or not encodable.
    """
    answer = whole_text(text, finish_reason)
    blocks = fenced_blocks(answer)
    if not blocks:
        raise ReplyMalformed(text, "the reply holds no fenced python block")
    if len(blocks) > 1:
        raise ReplyMalformed(text, f"the reply holds {len(blocks)} fenced blocks; give exactly one complete program")
    block = blocks[0]
    if block.info not in {"python", "py", "python3", ""}:
        raise ReplyMalformed(text, f"the fenced block is marked {block.info[:40]!r}, not python")
    if not block.closed:
        raise ReplyMalformed(text, "the fenced python block is not closed, so the program may be cut off")
    if not block.body.strip():
        raise ReplyMalformed(text, "the fenced python block is empty")
    return program_text(text, block.body)


def program_text(text: str, body: str) -> str:
    """A program as it is stored, ending in one newline.

    Raises:
        ReplyMalformed: it cannot be encoded, or is too large. `text` is the reply it came from.
    """
    source = body.strip("\n") + "\n"
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise ReplyMalformed(text, f"the program holds a character that is not valid text: {error.reason}") from None
    if size > PROGRAM_CAP_BYTES:
        raise ReplyMalformed(text, f"the program has {size} bytes; at most {PROGRAM_CAP_BYTES} are accepted")
    return source


def check_tasks(raw: str, hypothesis: Hypothesis, tasks: Collection[str]) -> None:
    """Refuse predictions for tasks that are not measured.

    Raises:
        ReplyMalformed: naming them.
    """
    unknown = sorted({prediction.task for prediction in hypothesis.predictions} - set(tasks))
    if unknown:
        raise ReplyMalformed(raw, f"predictions name {', '.join(unknown)}; the tasks are {', '.join(sorted(tasks))}")


def check_lessons(raw: str, analysis: Analysis, lessons: Collection[str]) -> None:
    """Refuse evidence on lessons that were not shown.

    Raises:
        ReplyMalformed: naming them.
    """
    unknown = sorted({one.lesson for one in analysis.evidence} - set(lessons))
    if unknown:
        shown = f"those shown are {', '.join(sorted(lessons))}" if lessons else "none is shown, so it must be empty"
        raise ReplyMalformed(raw, f"evidence names the lessons {', '.join(unknown)}; {shown}")


def check_knowledge(raw: str, hypothesis: Hypothesis, entries: Collection[str]) -> None:
    """Refuse published findings that were not shown. To name none is always allowed: a forced reference says nothing.

    Raises:
        ReplyMalformed: naming them.
    """
    unknown = sorted(set(hypothesis.knowledge) - set(entries))
    if unknown:
        known = ", ".join(sorted(entries)) or "none"
        raise ReplyMalformed(raw, f"knowledge names {', '.join(unknown)}; the entries shown are: {known}")
