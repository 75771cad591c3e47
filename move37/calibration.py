"""How well predictions held: the hypotheses' own numbers against the measured ones, by code and by nobody's opinion.

Per task a hypothesis predicts a direction and a size. A direction is *right* if the task moved that way by more than
seed noise; "same" is right if it moved by no more than noise or the stated size. The size's error is the distance of
the signed prediction from the measured difference ("same" predicts 0). The skill is that of a forecast against the one
that always says "no change":

    skill = 1 - sum (measured - predicted)^2 / sum measured^2

1 is perfect, 0 as good as saying nothing, below 0 worse. Source: the mean-squared-error skill score of Murphy 1988,
Monthly Weather Review 116(12), 2417-2424, with no change as the reference.

Left out: experiments that were not measured whole, and those whose repairs changed the declared idea.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from agents.embedded.notice import EMBEDDED_MODEL
from evaluator.statistics import wilson
from memory.records import Campaign, Experiment, Lesson
from move37.measuring import Ruler

Direction = Literal["up", "down", "same"]
UNSET_MODE = "unset"


@dataclass(frozen=True)
class Forecast:
    """One prediction and what came of it. `noise` is the difference that seed noise produces alone, 0 if not known."""

    experiment_id: str
    model: str
    mode: str
    task: str
    direction: Direction
    size: float
    measured: float
    noise: float = 0.0

    @property
    def predicted(self) -> float:
        """With its sign."""
        return {"up": self.size, "down": -self.size, "same": 0.0}[self.direction]

    @property
    def right(self) -> bool:
        """Whether the direction was."""
        if self.direction == "same":
            return abs(self.measured) <= max(self.size, self.noise)
        return (self.measured if self.direction == "up" else -self.measured) > self.noise


@dataclass(frozen=True)
class Calibration:
    """Of `n` predictions; `low` and `high` bound the share of right directions (95 %, Wilson).

    `skill` is None where nothing moved at all.
    """

    n: int
    right: int
    low: float
    high: float
    error: float
    skill: float | None

    @property
    def rate(self) -> float:
        """The share of right directions."""
        return self.right / self.n

    def as_dict(self) -> dict[str, Any]:
        """As in the JSON interface."""
        return {
            "predictions": self.n,
            "right": self.right,
            "rate": self.rate,
            "low": self.low,
            "high": self.high,
            "mean_absolute_error": self.error,
            "skill": self.skill,
        }


def score(forecasts: Sequence[Forecast]) -> Calibration | None:
    """The calibration of some predictions; None of none."""
    if not forecasts:
        return None
    right = sum(one.right for one in forecasts)
    share = wilson(right, len(forecasts))
    assert share.low is not None
    assert share.high is not None
    errors = [one.measured - one.predicted for one in forecasts]
    moved = math.fsum(one.measured**2 for one in forecasts)
    return Calibration(
        n=len(forecasts),
        right=right,
        low=share.low,
        high=share.high,
        error=math.fsum(map(abs, errors)) / len(errors),
        skill=1 - math.fsum(error**2 for error in errors) / moved if moved > 0 else None,
    )


def by(forecasts: Iterable[Forecast], what: Callable[[Forecast], str]) -> dict[str, Calibration]:
    """The calibration of each group, in order of its name."""
    groups: dict[str, list[Forecast]] = {}
    for one in forecasts:
        groups.setdefault(what(one), []).append(one)
    found = {name: score(groups[name]) for name in sorted(groups)}
    return {name: one for name, one in found.items() if one is not None}


def forecasts_of(
    experiments: Iterable[Experiment],
    ruler: Ruler,
    models: Mapping[str, str],
    left_out: Iterable[str] = (),
    known: dict[str, list[Forecast]] | None = None,
) -> list[Forecast]:
    """The predictions of completed proposals, in order.

    Args:
        experiments: any.
        ruler: of their campaign.
        models: the name of the model by campaign, where an experiment was given to no other (`model.others`).
        left_out: experiments whose program is not the one that was declared.
        known: what this ruler and these models made before, by experiment; what is new is added. A completed experiment
            never changes, and nor does what it predicted.
    """
    known = {} if known is None else known
    without = set(left_out)
    found: list[Forecast] = []
    for one in experiments:
        if one.status == "completed" and one.kind == "proposal" and one.id not in without:
            if one.id not in known:
                known[one.id] = _of(one, ruler, models.get(one.campaign_id, ""))
            found.extend(known[one.id])
    return found


def model_of(campaign: Campaign) -> str:
    """The model that answers in a campaign."""
    return str(campaign.config.get("model", {}).get("name") or EMBEDDED_MODEL)


def repaired_away(lessons: Iterable[Lesson]) -> set[str]:
    """The experiments whose program is, by their analyst, no longer the declared idea."""
    return {x.experiment_id for x in lessons if x.body.get("idea_kept") == "no"}


def _of(experiment: Experiment, ruler: Ruler, model: str) -> list[Forecast]:
    predictions = (experiment.hypothesis or {}).get("predictions") or []
    if experiment.parent_id is None or not predictions:
        return []
    measured = ruler.compare(experiment.id, experiment.parent_id).tasks
    mode = str(experiment.selection.get("mode") or UNSET_MODE)
    return [
        Forecast(
            experiment_id=experiment.id,
            model=str(experiment.selection.get("model") or model),
            mode=mode,
            task=said["task"],
            direction=cast(Direction, said["direction"]),
            size=float(said["size"]),
            measured=measured[said["task"]].value,
            noise=measured[said["task"]].detectable or 0.0,
        )
        for said in predictions
        if said["task"] in measured
    ]


def line(forecasts: Sequence[Forecast]) -> str:
    """One line for whoever made the predictions; "" before there is one."""
    found = score(forecasts)
    if found is None:
        return ""
    skill = "" if found.skill is None else f"; skill against predicting no change {found.skill:+.2f} (1 is perfect)"
    return (
        f"direction right in {found.right} of {found.n} (95 % interval {found.low:.2f} to {found.high:.2f}); "
        f"sizes off by {found.error:.3f} on average{skill}"
    )
