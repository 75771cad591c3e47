"""The embedded analyst: compares each prediction with its measurement, noise in view, and draws one lesson.

A difference counts as real where the table says that it is beyond noise. Where that is not known, it has to exceed the
larger spread (half the range of the seeds) of the two programs and `LEAST_NOISE`; with a single seed it is called
unresolved below `SINGLE_SEED_NOISE`. Evidence is stated on lessons of the same change. After a gain beyond noise it
asks for an ablation, if the change brought a component of which a part can be taken away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agents.embedded.ablating import idea_kept, part_to_remove
from agents.embedded.changes import change_kind
from agents.embedded.reading import Section, first_block, read_lessons, read_list, read_table, titled

# Below these a difference is never called real: seeds of recall-type tasks vary by far more near the step where the
# task is suddenly learnt, and two or three seeds that happen to agree do not show that there is no noise.
SINGLE_SEED_NOISE = 0.05
LEAST_NOISE = 0.02
_PREDICTION = re.compile(r"([\w.:=-]+) (up|down|same) (\d+\.\d+)")
_SCORE = re.compile(r"^([+-]\d+\.\d+) against the parent; .*beyond noise: (yes|no|not known)$")

Held = Literal["yes", "partly", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Row:
    """One task: measured and parent's values, and their seeds; `beyond` noise where the table knows."""

    task: str
    measured: float | None
    seeds: tuple[float, ...]
    parent: float | None
    parent_seeds: tuple[float, ...]
    beyond: bool | None = None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None or self.parent is None else self.measured - self.parent

    @property
    def spread(self) -> float | None:
        """The larger half-range of both programs' seeds, None with a single seed on either side."""
        if min(len(self.seeds), len(self.parent_seeds)) < 2:
            return None
        return max((max(values) - min(values)) / 2 for values in (self.seeds, self.parent_seeds))

    @property
    def noise(self) -> float:
        return SINGLE_SEED_NOISE if self.spread is None else max(LEAST_NOISE, self.spread)

    @property
    def real(self) -> bool:
        """Whether the task moved."""
        moved = self.difference is not None and abs(self.difference) > self.noise
        return moved if self.beyond is None else self.beyond


def analyse(parts: Sequence[Section], d_model: int = 0) -> dict[str, object]:
    """The reply's object. Without a width, the program is not read and no ablation asked for."""
    stated = read_list(titled(parts, "Hypothesis"))
    outcome = read_list(titled(parts, "Outcome"))
    change = stated.get("change", "the change")
    rows = [_row(task, cells) for task, cells in read_table(titled(parts, "Measured")).items() if task != "task"]
    differences = [row.difference for row in rows if row.difference is not None]
    if not differences or not outcome.get("status", "").startswith("completed"):
        return _failed(parts, outcome, change, d_model)
    predictions = {
        task: (direction, float(size)) for task, direction, size in _PREDICTION.findall(stated.get("predictions", ""))
    }
    verdicts = {row.task: _held(row, predictions.get(row.task)) for row in rows}
    whole = _SCORE.match(read_list(titled(parts, "Measured")).get("score", ""))
    effect = float(whole[1]) if whole else sum(differences) / len(differences)
    gained = whole is not None and whole[2] == "yes" and effect > 0
    held = _overall(verdicts)
    sentences = [
        _sentence(row, predictions.get(row.task), verdicts[row.task]) for row in rows if row.difference is not None
    ]
    cost = _cost(titled(parts, "Cost"))
    mean = f"The mean over tasks moved by {effect:+.3f}."
    programs = (
        f"{outcome.get('experiment', 'The experiment')} against {outcome.get('parent', 'its parent').split(',')[0]}"
    )
    return {
        "summary": f"{programs}: {' '.join(sentences)} {mean}{cost}{_late(titled(parts, 'Learning curves'))}",
        "prediction_held": held,
        "lesson": {"claim": _claim(change, rows, effect), "change": change[:160], "effect": round(effect, 4)},
        "next_test": _next_test(change, rows, effect),
        "idea_kept": _kept(parts, change, d_model),
        "evidence": _evidence(parts, change, effect, rows),
        "ablation_request": _request(parts, change, d_model) if gained else None,
    }


def _evidence(parts: Sequence[Section], change: str, effect: float, rows: Sequence[Row]) -> list[dict[str, str]]:
    """A stance on each lesson of the same change that this experiment moved beyond noise."""
    if not any(row.real for row in rows):
        return []
    found = []
    for lesson in read_lessons(titled(parts, "Lessons so far")):
        if lesson.effect and effect and change_kind(lesson.change) == change_kind(change):
            agrees = (lesson.effect > 0) == (effect > 0)
            note = f"The same change moved the score by {effect:+.3f} here, and by {lesson.effect:+.3f} there."
            stance = "supports" if agrees else "contradicts"
            found.append({"lesson": lesson.experiment, "stance": stance, "note": note})
    return found


def _kept(parts: Sequence[Section], change: str, d_model: int) -> str:
    if titled(parts, "Repairs") is None or not d_model:
        return "yes"
    stated, source = (first_block(titled(parts, title)) for title in ("Design", "Program"))
    return idea_kept(stated, source, change, d_model)


def _request(parts: Sequence[Section], change: str, d_model: int) -> dict[str, str] | None:
    part = part_to_remove(first_block(titled(parts, "Program")), change, d_model) if d_model else None
    if part is None:
        return None
    expect = f"The score falls beyond noise if this part of '{change}' is what raised it."
    return {"remove": part, "expect": expect[:300]}


def _row(task: str, cells: Sequence[str]) -> Row:
    """Predicted, measured, per seed, parent, per seed, difference, interval, noise, beyond noise."""
    _, measured, seeds, parent, parent_seeds, *_ = (*cells, *[""] * 5)
    beyond = {"yes": True, "no": False}.get(cells[-1])
    return Row(task, _one(measured), _many(seeds), _one(parent), _many(parent_seeds), beyond)


def _one(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _many(cell: str) -> tuple[float, ...]:
    values = (_one(part) for part in cell.split(", "))
    return tuple(value for value in values if value is not None)


def _held(row: Row, prediction: tuple[str, float] | None) -> Held:
    """A direction holds if the difference exceeds the noise that way; fully, if it reaches half the size."""
    difference = row.difference
    if difference is None or prediction is None:
        return "unknown"
    direction, size = prediction
    if direction == "same":
        return "yes" if not row.real or abs(difference) <= size else "no"
    towards = difference if direction == "up" else -difference
    if row.real and towards >= size / 2:
        return "yes"
    return "partly" if row.real and towards > 0 else "no"


def _overall(verdicts: Mapping[str, Held]) -> str:
    known = [verdict for verdict in verdicts.values() if verdict != "unknown"]
    if known and all(verdict == "yes" for verdict in known):
        return "yes"
    return "no" if all(verdict == "no" for verdict in known) else "partly"


def _sentence(row: Row, prediction: tuple[str, float] | None, held: Held) -> str:
    difference = row.difference
    assert difference is not None
    assert row.measured is not None
    assert row.parent is not None
    unresolved = "single seed" if row.beyond is not None else f"single seed, so below {row.noise:.2f} unresolved"
    spread = unresolved if row.spread is None else f"seed spread {row.spread:.3f}"
    said = "no prediction" if prediction is None else f"predicted {prediction[0]} {prediction[1]:.2f}, held: {held}"
    return f"{row.task} went from {row.parent:.3f} to {row.measured:.3f} ({difference:+.3f}; {spread}; {said})."


def _cost(part: Section | None) -> str:
    sentences: list[str] = []
    for name, cells in read_table(part).items():
        now, before = (_one(cell) for cell in (*cells, "", "")[:2])
        if now is not None and before and abs(now / before - 1) > 0.1:
            sentences.append(f"{name} changed by a factor of {now / before:.2f}")
    return f" Cost: {'; '.join(sentences)}." if sentences else ""


def _late(part: Section | None) -> str:
    """Tasks that gained most of their accuracy in the second half of the budget."""
    late: list[str] = []
    for task, points in read_list(part).items():
        values = [float(value) for value in re.findall(r"(\d+\.\d+) at", points)]
        if len(values) > 2 and values[-1] - values[-2] > 0.1 and values[-1] - values[-2] > (values[-2] - values[0]):
            late.append(task)
    return f" Still rising when the budget ended: {', '.join(late)}." if late else ""


def _claim(change: str, rows: Sequence[Row], effect: float) -> str:
    real = [row for row in rows if row.real]
    if not real:
        return f"Observed once: '{change}' moved no task beyond the noise between seeds ({effect:+.3f} in the mean)."
    parts = ", ".join(
        f"{row.task} {row.difference:+.3f}" for row in sorted(real, key=lambda row: -abs(row.difference or 0.0))
    )
    return f"Observed once: '{change}' moved {parts}, beyond the noise between seeds ({effect:+.3f} in the mean)."


def _next_test(change: str, rows: Sequence[Row], effect: float) -> str:
    single = any(row.spread is None for row in rows if row.difference is not None)
    if single:
        return f"Repeat the experiment and its parent with further seeds: one seed cannot carry '{change}'."
    if effect > 0:
        return f"Undo '{change}' in the best program that holds it: the score should fall by about {effect:.2f}."
    return f"Make the change '{change}' on another parent: if it costs nothing there, this parent was the reason."


def _failed(parts: Sequence[Section], outcome: Mapping[str, str], change: str, d_model: int) -> dict[str, object]:
    status = outcome.get("status", "not completed")
    return {
        "summary": f"{outcome.get('experiment', 'The experiment')} ended as {status}; without all its measurements "
        "the hypothesis is neither confirmed nor refuted.",
        "prediction_held": "no",
        "lesson": {
            "claim": f"Observed once: '{change}' did not lead to a measured program here ({status}); this says "
            "nothing about its mechanism.",
            "change": change[:160],
            "effect": 0.0,
        },
        "next_test": f"Make the change '{change}' in a smaller form that passes every gate.",
        "idea_kept": _kept(parts, change, d_model),
        "evidence": [],
        "ablation_request": None,
    }
