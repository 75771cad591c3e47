"""What the analyst is shown of an experiment, and what is kept of its answer: the lesson, the evidence, the request.

The analyst of an experiment sees what its researcher was allowed to see, and the experiment itself; what finished since
reaches neither, so that a replay shows the same.

Not covered: the rules by which evidence counts (`evidence`), the wording (the templates).
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agents.contexts import AnalysisContext, DifferenceView, RepairView, SiblingView
from agents.replies import Analysis
from memory.errors import Conflict
from memory.records import Attempt, Experiment, Lesson, Stance
from memory.store import Store
from memory.structural_diff import structural_diff
from memory.structure import Component, Unreadable
from move37 import ablations, briefing, curves
from move37.calibration import Forecast
from move37.evidence import Change, Given, basis_of, change_of, normalised, stances
from move37.loop import Loop
from move37.measuring import Difference, Outcome
from move37.recalling import shown_id

_LESSONS_SHOWN = 8
_SIBLINGS_SHOWN = 8
_LEVELS = {"replicated": 0, "ablated": 1, "observed": 2}


@dataclass(frozen=True)
class Case:
    """One experiment to be analysed, with what it may know."""

    loop: Loop
    experiment: Experiment
    attempts: Sequence[Attempt]
    parent: Experiment
    outcome: Outcome
    lessons: Sequence[Lesson]

    @classmethod
    def of(cls, loop: Loop, experiment: Experiment) -> "Case":
        """Reads what is needed from the store."""
        if experiment.parent_id is None:
            raise AssertionError(f"{experiment.id} is analysed without a parent")
        outcome = loop.ruler.compare(experiment.id, experiment.parent_id, finished=False)
        failed = any(t.state == "failed" for t in loop.store.trials(experiment.id))
        return cls(
            loop,
            experiment,
            loop.store.attempts(experiment.id),
            loop.store.experiment(experiment.parent_id),
            Outcome(None, outcome.tasks) if failed else outcome,
            loop.visibility.lessons(experiment.index),
        )

    @property
    def source(self) -> str:
        """The program that was measured."""
        return self.loop.store.program(_program_of(self.attempts[-1])).source

    @property
    def shown_lessons(self) -> list[Lesson]:
        """Those that the analyst weighs: what stands, lessons of the same change and of the parent first."""
        standing = [x for x in self.lessons if x.retired_by is None]
        label = normalised(str(self.hypothesis.get("change", "")))
        order = {x.id: place for place, x in enumerate(standing)}

        def rank(x: Lesson) -> tuple[bool, bool, int, int]:
            related = normalised(str(x.body.get("change", ""))) == label
            return (not related, x.experiment_id != self.parent.id, _LEVELS[x.level], -order[x.id])

        return sorted(standing, key=rank)[:_LESSONS_SHOWN]

    @property
    def hypothesis(self) -> Mapping[str, Any]:
        """As stored."""
        return next((a.hypothesis for a in reversed(self.attempts) if a.hypothesis), {})


def context(case: Case) -> AnalysisContext:
    """What the analyst sees: predicted and measured, parent and siblings, per task and seed; lessons to weigh."""
    store, experiment, last = case.loop.store, case.experiment, case.attempts[-1]
    trials = store.trials(experiment.id)
    failed = next((t for t in trials if t.state == "failed"), None)
    chances = {task.name: task.chance for task in case.loop.brief.tasks}
    return AnalysisContext(
        brief=case.loop.brief,
        experiment=shown_id(experiment.id),
        hypothesis=briefing.hypothesis_of(case.attempts),
        source=case.source,
        status="failed" if failed else "completed",
        reason=f"{failed.reason}: {failed.message}" if failed else "",
        parent=briefing.program_view(store, case.parent),
        per_task=briefing.per_task(trials),
        per_seed=briefing.per_seed(trials),
        curves=curves.mean_curves(trials),
        shapes=curves.shapes(trials, chances),
        cost=briefing.cost_of(last.detail),
        parent_cost=briefing.cost_of(case.parent.environment),
        differences={task: _view(found) for task, found in case.outcome.tasks.items()},
        score=_view(case.outcome.score) if case.outcome.score else None,
        siblings=_siblings(case),
        lessons=tuple(briefing.lesson_view(x) for x in case.shown_lessons),
        retired=sum(x.retired_by is not None for x in case.lessons),
        repair=_repair(store, case.attempts),
        asked=str(experiment.selection.get("task", "")),
        held={one.task: one.right for one in _forecasts(case)},
    )


def _forecasts(case: Case) -> list[Forecast]:
    """What the hypothesis predicted of the tasks that were measured."""
    hypothesis = briefing.hypothesis_of(case.attempts)
    return [
        Forecast(case.experiment.id, "", "", said.task, said.direction, said.size, found.value, found.detectable or 0.0)
        for said in hypothesis.predictions
        if (found := case.outcome.tasks.get(said.task)) is not None
    ]


def _view(found: Difference) -> DifferenceView:
    return DifferenceView(found.value, found.low, found.high, found.n, found.detectable, found.beyond_noise)


def _siblings(case: Case) -> tuple[SiblingView, ...]:
    """The latest visible children of the same parent, in order."""
    visible = case.loop.visible(case.experiment)
    found = []
    for one in [e for e in visible if e.parent_id == case.parent.id and e.id != case.experiment.id][-_SIBLINGS_SHOWN:]:
        whole = case.loop.ruler.compare(one.id, case.parent.id).score if one.status == "completed" else None
        change = str((one.hypothesis or {}).get("change", ""))
        difference = None if whole is None else _view(whole)
        found.append(SiblingView(shown_id(one.id), one.name, one.status, one.reason, change, difference))
    return tuple(found)


def _repair(store: Store, attempts: Sequence[Attempt]) -> RepairView | None:
    """What was repaired of the last hypothesis's program; None if it passed as it was first written."""
    since = max(place for place, a in enumerate(attempts) if a.origin != "repair")
    tried = [a for a in attempts[since:] if a.program_sha256 is not None]
    if attempts[-1].origin != "repair" or len(tried) < 2:
        return None
    first, last = (store.program(_program_of(a)).source for a in (tried[0], tried[-1]))
    lines = difflib.unified_diff(first.splitlines(), last.splitlines(), "first", "measured", lineterm="")
    refusals = (f"{a.detail.get('gate', '')}: {a.detail.get('message', '')}" for a in attempts[since:-1])
    return RepairView(tuple(refusals), "\n".join(lines))


def _program_of(attempt: Attempt) -> str:
    if attempt.program_sha256 is None:
        raise AssertionError(f"{attempt.experiment_id} is analysed without a program")
    return attempt.program_sha256


def keep(case: Case, analysis: Analysis) -> None:
    """Stores lesson, evidence and analysis. Repeating it after a crash stores the same; the analysis comes last, and
    marks the step as done."""
    store, experiment = case.loop.store, case.experiment
    own = measured_change(case, analysis)
    body = {
        **analysis.lesson.model_dump(mode="json"),
        "measured": {**own.as_dict(), **(case.outcome.score.as_dict() if case.outcome.score else {})},
        "idea_kept": analysis.idea_kept,
    }
    if analysis.ablation_request is not None:
        body["ablation_request"] = analysis.ablation_request.model_dump(mode="json")
    lesson = store.put_lesson(experiment.id, analysis.lesson.claim, level="observed", body=body)
    _keep_evidence(case, own, lesson, analysis)
    store.put_analysis(experiment.id, analysis.model_dump(mode="json"))


def _keep_evidence(case: Case, own: Change, lesson: Lesson, analysis: Analysis) -> None:
    store = case.loop.store
    indices = {e.id: e.index for e in case.loop.visible(case.experiment)}
    drawn = ((x.id, change_of(x, indices[x.experiment_id])) for x in case.lessons)
    by_experiment = {shown_id(x.experiment_id): x for x in case.shown_lessons}
    stated: list[tuple[str, Stance, str]] = [
        (by_experiment[said.lesson].id, said.stance, said.note) for said in analysis.evidence
    ]
    given = stances(
        own,
        lesson.id,
        [(known, change) for known, change in drawn if change is not None],
        {x.experiment_id: _told(x) for x in [*case.lessons, lesson]},
        stated,
    )
    standing = {x.id: x for x in case.lessons if x.retired_by is None and x.campaign_id == own.campaign_id}
    for row in given:
        store.put_evidence(row.lesson_id, row.experiment_id, row.stance, row.note)
        if row.stance == "contradicts" and basis_of(row.note) != "stated" and row.lesson_id in standing:
            _mark_retired(store, row)


def _mark_retired(store: Store, row: Given) -> None:
    """For whoever reads the store without asking who sees what; what counts is the evidence."""
    with suppress(Conflict):  # one in flight beside this one refuted it as well, and was faster
        store.retire_lesson(row.lesson_id, row.experiment_id)


def _told(lesson: Lesson) -> str:
    """A lesson's measurement in words, for the note of a row."""
    measured = lesson.body.get("measured") or {}
    moved = measured.get("difference")
    size = "" if moved is None else f" by {moved:+.4f}"
    noise = measured.get("detectable")
    beside = "" if noise is None else f", where seed noise alone makes {noise:.4f}"
    where = f"on {shown_id(str(measured.get('parent', '')))} in {shown_id(lesson.experiment_id)}"
    return f"'{lesson.body.get('change', '')}' {where} moved the score{size}{beside}"


def measured_change(case: Case, analysis: Analysis) -> Change:
    """What the experiment changed and which way its score went, from its program and trials."""
    selection = case.experiment.selection
    return Change(
        experiment_id=case.experiment.id,
        campaign_id=case.experiment.campaign_id,
        index=case.experiment.index,
        parent_id=case.parent.id,
        label=normalised(str(case.hypothesis.get("change", ""))),
        structure=_structure(case),
        sign=case.outcome.sign,
        attributed=analysis.idea_kept != "no",
        ablates=selection.get("mode") == ablations.MODE,
        answers=selection.get("requested_by"),
    )


def _structure(case: Case) -> str:
    """A digest of the structural difference to the parent, where it was made being left aside."""
    if case.parent.program_sha256 is None:
        return ""
    try:
        found = structural_diff(case.loop.store.program(case.parent.program_sha256).source, case.source)
    except Unreadable:
        return ""
    changes = sorted(repr((c.what, c.component.kind, _part(c.before), _part(c.after))) for c in found.changes)
    return blake2b("\n".join(changes).encode(), digest_size=8).hexdigest() if changes else ""


def _part(component: Component | None) -> tuple[str, str] | None:
    return None if component is None else (component.name, component.value)
