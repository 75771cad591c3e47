"""What the lessons, predictions and requests of a campaign came to, as plain data for the reading commands.

Unlike the steps of an experiment, which ask what that experiment may see (`loop.Visibility`), this looks back on the
whole campaign. It imports neither models nor torch nor SciPy: `status` is typed often.

Not covered: what experiments of forks say of this campaign's lessons (it is shown with the fork).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from evaluator.errors import EvaluatorError
from memory.records import Campaign, Experiment, Lesson
from memory.store import Store
from move37 import ablations, calibration
from move37.evidence import basis_of, standing
from move37.measuring import Noise, Ruler


def lessons_of(store: Store, campaign: Campaign, experiments: Sequence[Experiment]) -> list[Lesson]:
    """The campaign's lessons, each as founded as its own experiments found it."""
    indices = {e.id: e.index for e in experiments}
    return standing(store.lessons(campaign.id), store.evidence(campaign.id), indices)


def summary(store: Store, campaign: Campaign, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """What `status CAMPAIGN` adds: lessons by level, calibration, requested ablations; `experiments` are all of the
    campaign."""
    lessons = lessons_of(store, campaign, experiments)
    levels = Counter("retired" if x.retired_by else x.level for x in lessons)
    return {
        "lessons": {level: levels[level] for level in ("observed", "ablated", "replicated", "retired")},
        "calibration": _calibration(store, campaign, experiments, lessons),
        "ablations": _requests(store, experiments, lessons),
    }


def _calibration(
    store: Store, campaign: Campaign, experiments: Sequence[Experiment], lessons: Sequence[Lesson]
) -> dict[str, Any] | None:
    """None where nothing was predicted, or where the tasks are not known to this version."""
    goal = campaign.config.get("objective") or {}
    if not {"track", "tier", "tasks"} <= goal.keys() or not any(
        (e.hypothesis or {}).get("predictions") for e in experiments
    ):
        return None
    ruler = Ruler(store, Noise(goal["track"], goal["tier"], tuple(goal["tasks"])), intervals=False)
    ruler.preload(store.campaign_scores(campaign.id))
    models = {campaign.id: calibration.model_of(campaign)}
    try:
        made = calibration.forecasts_of(experiments, ruler, models, calibration.repaired_away(lessons))
    except EvaluatorError:
        return None
    whole = calibration.score(made)
    if whole is None:
        return None
    groups = {"by_model": lambda f: f.model, "by_mode": lambda f: f.mode}
    return {
        **whole.as_dict(),
        **{
            name: {key: one.as_dict() for key, one in calibration.by(made, key_of).items()}
            for name, key_of in groups.items()
        },
    }


def _requests(store: Store, experiments: Sequence[Experiment], lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    """Every request of the campaign's analysts, and those of its origin that its experiments carried out."""
    done = ablations.answers(experiments)
    standing_by = {x.experiment_id: x for x in lessons}
    askers = [x.experiment_id for x in lessons if x.body.get("ablation_request")]
    askers += sorted(done.keys() - set(askers))
    bodies = {x.experiment_id: x.body for x in lessons}
    return [
        request(store, asker, _asked(store, asker, standing_by.get(asker)), done.get(asker), bodies) for asker in askers
    ]


def _asked(store: Store, asker: str, lesson: Lesson | None) -> dict[str, Any]:
    if lesson is not None:
        return dict(lesson.body.get("ablation_request") or {})
    analysis = store.analysis(asker)
    return dict((analysis.body.get("ablation_request") if analysis else None) or {})


def request(
    store: Store, asker: str, asked: dict[str, Any], answer: Experiment | None, bodies: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One requested ablation; `bodies` are the lessons' by experiment."""
    measured = bodies.get(answer.id, {}).get("measured", {}) if answer else {}
    return {
        "requested_by": asker,
        "remove": asked.get("remove", ""),
        "expect": asked.get("expect", ""),
        "carried_out_by": answer.id if answer else None,
        "status": answer.status if answer else None,
        "difference": measured.get("difference"),
        "beyond_noise": measured.get("beyond_noise"),
    }


def of_experiment(store: Store, campaign: Campaign, experiment: Experiment) -> dict[str, Any]:
    """What `show` adds: the lesson with its evidence, the request it made, the one it carried out."""
    experiments = store.experiments(campaign.id)
    lessons = lessons_of(store, campaign, experiments)
    lesson = next((x for x in lessons if x.experiment_id == experiment.id), None)
    bodies = {x.experiment_id: x.body for x in lessons}
    asked = _asked(store, experiment.id, lesson)
    answer = ablations.answers(experiments).get(experiment.id)
    return {
        "lesson": _lesson(store, campaign, lesson),
        "ablation": request(store, experiment.id, asked, answer, bodies) if asked else None,
        "answers": experiment.selection.get("requested_by"),
    }


def _lesson(store: Store, campaign: Campaign, lesson: Lesson | None) -> dict[str, Any] | None:
    if lesson is None:
        return None
    evidence = [e for e in store.evidence(campaign.id) if e.lesson_id == lesson.id]
    return {
        "claim": lesson.claim,
        "change": lesson.body.get("change", ""),
        "level": lesson.level,
        "retired_by": lesson.retired_by,
        "measured": lesson.body.get("measured"),
        "idea_kept": lesson.body.get("idea_kept", "yes"),
        "evidence": [
            {"experiment": e.experiment_id, "stance": e.stance, "basis": basis_of(e.note), "note": e.note}
            for e in evidence
        ],
    }
