"""How well a lesson is founded: computed from what was measured, never taken from a model's word.

    observed     one experiment saw it
    ablated      a part of what its change brought was taken away again, and the score went the other way
    replicated   the same change on another parent, or in another campaign of the chain, moved the score the same way
    retired      later, one of the two moved the score against what the lesson says

Each needs both differences beyond noise (`move37.measuring`). What the analyst says of earlier lessons is kept as
`stated` evidence and decides nothing. An experiment whose repairs changed the declared idea tests no change: its lesson
is kept and attributed to none.

Pure functions over values. Evidence is written once, by the experiment that gives it (`stances`), about lessons that
it saw and about its own; the level follows at reading from what the reader sees (`standing`), so that a resumed, forked
or replayed campaign sees what the first run saw, whichever experiment was faster.

Not covered: two experiments in flight beside each other that make the same change do not know of each other, and no
evidence is written between them. A fork's lesson is not raised by an experiment of its origin, since that row would be
the origin's; the origin's lesson is raised by the fork's experiment. Whether an ablation took away what it was asked to
is for the gates and for a reader to see (`move37 diff`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from memory.records import Evidence, EvidenceLevel, Lesson, Stance

Basis = Literal["ablated", "replicated", "stated"]
_BASES: tuple[str, ...] = get_args(Basis)
_LEVELS: tuple[EvidenceLevel, ...] = get_args(EvidenceLevel)

_EXPERIMENT = re.compile(r"\b[\w-]*-\d{4,}\b")
_WORD = re.compile(r"[\w.+-]*\w")
_EVERYDAY = frozenset(
    {
        "a", "add", "after", "all", "an", "and", "at", "before", "behind", "beside", "between", "by", "core", "each",
        "every", "for", "from", "gate", "in", "into", "it", "layer", "layers", "mixer", "of", "off", "on", "one",
        "over", "part", "put", "remove", "removed", "replace", "set", "take", "the", "to", "turn", "use", "with",
        "without",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What one experiment changed, and which way its score went.

    Attributes:
        label: the change's name, `normalised`.
        structure: what the structural difference to the parent consists of; "" where it is not known.
        sign: of the score's difference to the parent, 0 within noise or where nothing was measured.
        attributed: whether the program measured is the one that the hypothesis declared.
        ablates: whether the experiment was to take something away (mode `ablate`).
        answers: the experiment whose analyst asked for it.
    """

    experiment_id: str
    campaign_id: str
    index: int
    parent_id: str
    label: str
    structure: str = ""
    sign: int = 0
    attributed: bool = True
    ablates: bool = False
    answers: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What a lesson's body keeps of it."""
        return {
            "parent": self.parent_id,
            "label": self.label,
            "structure": self.structure,
            "sign": self.sign,
            "attributed": self.attributed,
            "ablates": self.ablates,
            "answers": self.answers,
        }


@dataclass(frozen=True)
class Given:
    """Evidence to be stored: what `experiment_id` says of a lesson."""

    lesson_id: str
    experiment_id: str
    stance: Stance
    note: str


def normalised(label: str) -> str:
    """A change's label without what differs between two ways of writing it down; experiments in it are any."""
    return " ".join(_WORD.findall(_EXPERIMENT.sub("another", label).casefold()))


def change_of(lesson: Lesson, index: int) -> Change | None:
    """What a stored lesson was drawn from; None for one from before there was this record."""
    kept = lesson.body.get("measured")
    if not isinstance(kept, Mapping) or "sign" not in kept:
        return None
    return Change(
        experiment_id=lesson.experiment_id,
        campaign_id=lesson.campaign_id,
        index=index,
        parent_id=str(kept["parent"]),
        label=str(kept["label"]),
        structure=str(kept["structure"]),
        sign=int(kept["sign"]),
        attributed=bool(kept["attributed"]),
        ablates=bool(kept["ablates"]),
        answers=kept["answers"],
    )


def is_same(one: Change, other: Change) -> bool:
    """Whether two experiments made the same change, by its label or by the structural difference."""
    by_label = one.label != "" and one.label == other.label
    return by_label or (one.structure != "" and one.structure == other.structure)


def bears(lesson: Change, other: Change) -> Basis | None:
    """As what `other` bears on the lesson of `lesson`, whatever it measured."""
    if other.experiment_id == lesson.experiment_id or not (lesson.attributed and other.attributed):
        return None
    if other.ablates and other.parent_id == lesson.experiment_id:
        asked = other.answers == lesson.experiment_id
        return "ablated" if asked or _names(lesson.label) & _names(other.label) else None
    elsewhere = other.parent_id != lesson.parent_id or other.campaign_id != lesson.campaign_id
    return "replicated" if elsewhere and is_same(lesson, other) else None


def _names(label: str) -> frozenset[str]:
    """The words of a label that can name a component."""
    return frozenset(word for word in label.split() if word not in _EVERYDAY and not word.isdigit())


def verdict(lesson: Change, other: Change) -> tuple[Basis, Stance] | None:
    """What `other` says of the lesson of `lesson`; None where it says nothing beyond noise."""
    basis = bears(lesson, other)
    if basis is None or not lesson.sign or not other.sign:
        return None
    expected = -lesson.sign if basis == "ablated" else lesson.sign
    return basis, "supports" if other.sign == expected else "contradicts"


def stances(
    own: Change,
    own_lesson: str,
    seen: Sequence[tuple[str, Change]],
    wording: Mapping[str, str],
    stated: Iterable[tuple[str, Stance, str]] = (),
) -> list[Given]:
    """The evidence that an experiment gives when it is analysed: on lessons it saw, and on its own by what it saw.

    Args:
        own, own_lesson: the experiment and the id of its lesson.
        seen: ids of the lessons that it sees, each with what it was drawn from.
        wording: how each experiment's measurement is told.
        stated: what the analyst says of lessons; where there is a measurement, that counts and this is left out.
    """
    given: dict[tuple[str, str], Given] = {}

    def put(lesson_id: str, lesson: Change, other: Change) -> None:
        found = verdict(lesson, other)
        if found is not None:
            note = noted(found[0], wording[other.experiment_id])
            given[lesson_id, other.experiment_id] = Given(lesson_id, other.experiment_id, found[1], note)

    for lesson_id, earlier in seen:
        put(lesson_id, earlier, own)
        if earlier.campaign_id == own.campaign_id:
            put(own_lesson, own, earlier)
    for lesson_id, stance, said in stated:
        row = Given(lesson_id, own.experiment_id, stance, noted("stated", said))
        given.setdefault((lesson_id, own.experiment_id), row)
    return list(given.values())


def noted(basis: Basis, text: str) -> str:
    """The note of a row: what it is based on, then words."""
    return f"{basis}: {text}"


def basis_of(note: str) -> Basis:
    """What a stored row is based on; one that does not say so is what somebody stated."""
    head = note.partition(":")[0]
    return head if head in _BASES else "stated"  # type: ignore[return-value]


def standing(lessons: Iterable[Lesson], rows: Iterable[Evidence], indices: Mapping[str, int]) -> list[Lesson]:
    """Lessons with the level and the refuter that follow from what is visible; `indices` are those of what is.

    A lesson from before evidence was written keeps the level and, if that is visible, the refuter stored with it.
    """
    by_lesson: dict[str, list[Evidence]] = {}
    for row in rows:
        if row.experiment_id in indices and basis_of(row.note) != "stated":
            by_lesson.setdefault(row.lesson_id, []).append(row)
    weighed = [(lesson, by_lesson.get(lesson.id, ())) for lesson in lessons]
    # Most lessons have no evidence and stand as they are stored: ten thousand are not made anew for every prompt.
    return [_standing(x, rows, indices) if rows or x.retired_by is not None else x for x, rows in weighed]


def _standing(lesson: Lesson, rows: Sequence[Evidence], indices: Mapping[str, int]) -> Lesson:
    levels = [lesson.level, *(level_by(basis_of(row.note)) for row in rows if row.stance == "supports")]
    since = indices.get(lesson.experiment_id, -1)
    against = [row.experiment_id for row in rows if row.stance == "contradicts" and indices[row.experiment_id] > since]
    stored = lesson.retired_by if lesson.retired_by in indices else None
    refuter = min(against, key=lambda one: (indices[one], one), default=stored)
    return replace(lesson, level=max(levels, key=_LEVELS.index), retired_by=refuter)


def level_by(basis: Basis) -> EvidenceLevel:
    """The level that supporting evidence of this kind gives."""
    return "observed" if basis == "stated" else basis
