"""The embedded researcher: lists the atomic changes of the parent, weighs them by the evidence shown, draws one.

The weight of a change is the product of how often its kind is worth trying and of the exponential of the gain that
priors, measurements and lessons expect (`TEMPERATURE`: a gain of 0.15 weighs e times as much). Designs that were
tried, shown or collided with have no weight. The draw is seeded by the request, so that it is repeatable.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agents.embedded.ablating import answering
from agents.embedded.changes import Change, Operator, changes, core_of, fits
from agents.embedded.evidence import Evidence, Observation, change_kind, weigh
from agents.embedded.genome import LEAVES, Mixer, Serial, design_text, leaf, per_layer, read_design
from agents.embedded.library import sources_by_title
from agents.embedded.modes import Asked, ablation, of_mode, read_asked, used
from agents.embedded.priors import abilities, expected, expected_score
from agents.embedded.program import read_program
from agents.embedded.reading import (
    Learnt,
    Section,
    Setting,
    Shown,
    Tried,
    read_lessons,
    read_programs,
    read_tried,
    titled,
)
from agents.embedded.wording import mechanism

TEMPERATURE = 0.15
# Gains are halved before they become predictions: priors are coarse, and most changes do less than hoped.
CAUTION = 0.5
SAME_BELOW = 0.02
TITLE_CAP = 80

OPERATOR_WEIGHT: Mapping[Operator, float] = {
    "convolution": 2.0,
    "core": 1.0,
    "crossover": 1.0,
    "hybrid": 0.4,
    "layers": 0.35,
    "gate": 0.6,
    "setting": 0.3,
    "norm": 0.3,
    "removal": 0.25,
}


@dataclass(frozen=True, slots=True)
class Evidenced:
    """The prompt, read."""

    parent: Shown
    exemplars: tuple[Shown, ...]
    tried: tuple[Tried, ...]
    collisions: tuple[Tried, ...]
    lessons: tuple[Learnt, ...]
    asked: Asked


def read_evidence(parts: Sequence[Section]) -> Evidenced | None:
    """The evidence of a researcher's prompt, or None without a parent."""
    parents = read_programs(parts, "Parent")
    if not parents:
        return None
    return Evidenced(
        parent=parents[0],
        exemplars=(*read_programs(parts, "Second parent"), *read_programs(parts, "Exemplar")),
        tried=tuple(read_tried(titled(parts, "Already tried"))),
        collisions=tuple(read_tried(titled(parts, "Your last proposals repeated earlier experiments"))),
        lessons=tuple(read_lessons(titled(parts, "Lessons"))),
        asked=read_asked(parts),
    )


def propose(setting: Setting, evidence: Evidenced, rng: random.Random) -> dict[str, object]:
    """The reply's object."""
    shown = [evidence.parent, *evidence.exemplars]
    designs = {program.experiment: read_program(program.source, setting.d_model) for program in shown}
    exemplars = _known((program.experiment, designs[program.experiment]) for program in evidence.exemplars)
    parent = designs[evidence.parent.experiment]
    weighed = _weighed(setting, evidence, designs)
    options = _options(parent, exemplars, setting)
    forbidden = _forbidden(setting, evidence, designs)
    fresh = [option for option in options if per_layer(option.mixer, setting.n_layers) not in forbidden]
    if not fresh:
        fresh = _second_steps(options, exemplars, setting, forbidden) or options
    if evidence.asked.ablation:
        fresh = answering(evidence.asked.ablation, fresh, options) or fresh
    else:
        fresh = of_mode(fresh, evidence.asked) or fresh
    tasks = list(setting.chances)
    believed = _belief(parent, weighed, setting.n_layers, tasks)
    weights = [_weight(option, believed, weighed, setting.n_layers, tasks) for option in fresh]
    chosen = rng.choices(fresh, weights)[0]
    return _hypothesis(chosen, parent, setting, evidence, weighed, rng)


def _known(pairs: Iterable[tuple[str, Mixer | None]]) -> list[tuple[str, Mixer]]:
    return [(name, mixer) for name, mixer in pairs if mixer is not None]


def _design_of(item: Tried, setting: Setting) -> Mixer | None:
    """The design of a tried experiment: as stated, or of the reference program it is named after."""
    design = read_design(item.design)
    if design is None and not item.design.strip("- "):
        source = sources_by_title().get(item.name)
        return None if source is None else read_program(source, setting.d_model)
    return design


def _weighed(setting: Setting, evidence: Evidenced, designs: Mapping[str, Mixer | None]) -> Evidence:
    observations: dict[str, Observation] = {}
    for program in (evidence.parent, *evidence.exemplars):
        mixer = designs[program.experiment]
        if mixer is not None and program.score is not None:
            observations[program.experiment] = Observation(mixer, program.score)
    effects: dict[str, tuple[str, float]] = {}
    for item in (*evidence.tried, *evidence.collisions):
        mixer = _design_of(item, setting)
        if mixer is not None and item.score is not None:
            observations[item.experiment] = Observation(mixer, item.score)
        if item.score is not None and item.parent_score is not None and item.change:
            effects[item.experiment] = (item.change, item.score - item.parent_score)
    for lesson in evidence.lessons:
        if lesson.effect is not None and lesson.experiment not in effects:
            effects[lesson.experiment] = (lesson.change, lesson.effect)
    tasks = list(setting.chances)
    return weigh(list(observations.values()), effects.values(), setting.n_layers, tasks)


def _forbidden(
    setting: Setting, evidence: Evidenced, designs: Mapping[str, Mixer | None]
) -> frozenset[tuple[str, ...]]:
    tried = [_design_of(item, setting) for item in (*evidence.tried, *evidence.collisions)]
    return frozenset(per_layer(mixer, setting.n_layers) for mixer in (*designs.values(), *tried) if mixer is not None)


def _options(parent: Mixer | None, exemplars: Sequence[tuple[str, Mixer]], setting: Setting) -> list[Change]:
    """Changes of the parent; of an opaque one, an exemplar's design or a fresh one."""
    if parent is not None:
        return changes(parent, exemplars, setting.d_model, setting.n_layers)
    options = [
        Change("crossover", f"take the mixer of {name} for the parent's", _kind(mixer), mixer)
        for name, mixer in exemplars
    ]
    for name, mixer in exemplars:
        for change in changes(mixer, [], setting.d_model, setting.n_layers):
            options.append(
                Change("crossover", f"{change.label}, on the mixer of {name}", change.component, change.mixer)
            )
    for kind in LEAVES:
        behind = Serial(leaf("ShortConvolution"), leaf(kind))
        options.append(Change("core", f"replace the parent's mixer by {kind}", kind, Mixer(leaf(kind))))
        options.append(
            Change("core", f"replace the parent's mixer by {kind} behind a convolution", kind, Mixer(behind))
        )
    return [option for option in options if fits(option.mixer, setting.d_model, setting.n_layers)]


def _kind(mixer: Mixer) -> str:
    return core_of(mixer.tree).kind


def _second_steps(
    options: Sequence[Change],
    exemplars: Sequence[tuple[str, Mixer]],
    setting: Setting,
    forbidden: frozenset[tuple[str, ...]],
) -> list[Change]:
    """When every neighbour has been tried: neighbours of the neighbours, labelled by both steps."""
    found: list[Change] = []
    for option in options[:20]:
        for change in changes(option.mixer, exemplars, setting.d_model, setting.n_layers):
            if per_layer(change.mixer, setting.n_layers) not in forbidden:
                label = f"{option.label}, then {change.label}"
                found.append(Change(change.operator, label, change.component, change.mixer))
    return found


def _belief(mixer: Mixer | None, evidence: Evidence, n_layers: int, tasks: Sequence[str]) -> float:
    if mixer is None:
        return 0.0
    return expected_score(mixer, n_layers, tasks) + evidence.correction(mixer, n_layers)


def _weight(option: Change, believed: float, evidence: Evidence, n_layers: int, tasks: Sequence[str]) -> float:
    gain = _belief(option.mixer, evidence, n_layers, tasks) - believed + evidence.change_effect(option.label)
    return OPERATOR_WEIGHT[option.operator] * math.exp(max(-4.0, min(4.0, gain / TEMPERATURE)))


def _hypothesis(
    change: Change,
    parent: Mixer | None,
    setting: Setting,
    evidence: Evidenced,
    weighed: Evidence,
    rng: random.Random,
) -> dict[str, object]:
    deltas = _predicted(change, parent, setting, evidence, weighed)
    weakest = _weakest(setting, evidence.parent)
    predictions = [
        {
            "task": task,
            "direction": "same" if abs(delta) < SAME_BELOW else "up" if delta > 0 else "down",
            "size": SAME_BELOW if abs(delta) < SAME_BELOW else round(abs(delta), 2),
        }
        for task, delta in deltas.items()
    ]
    basis = _basis(change, weighed)
    return {
        "title": _title(change),
        "mechanism": f"{mechanism(change, weakest, rng)} {basis}".strip(),
        "change": change.label[:160],
        "design": design_text(change.mixer),
        "predictions": predictions,
        "refuted_by": _refutation(deltas, evidence.parent),
        "ablation": ablation(change),
        "knowledge": used(change, evidence.asked),
    }


def _predicted(
    change: Change, parent: Mixer | None, setting: Setting, evidence: Evidenced, weighed: Evidence
) -> dict[str, float]:
    """Expected difference per task, kept within what the task's scale allows."""
    new = abilities(change.mixer, setting.n_layers)
    old = None if parent is None else abilities(parent, setting.n_layers)
    learnt = weighed.change_effect(change.label)
    deltas: dict[str, float] = {}
    for task in setting.chances:
        now = evidence.parent.per_task.get(task)
        before = now if old is None and now is not None else expected(old, task) if old is not None else 0.0
        delta = CAUTION * (expected(new, task) - before) + CAUTION * learnt
        if now is not None:
            delta = max(min(-now, 0.0), min(1.0 - now, delta))
        deltas[task] = max(-1.0, min(1.0, delta))
    return deltas


def _weakest(setting: Setting, parent: Shown) -> str:
    measured = {task: parent.per_task[task] for task in setting.chances if task in parent.per_task}
    if not measured:
        return "The parent has no measurements to go by."
    task = min(measured, key=lambda name: measured[name])
    return f"The parent's weakest task is {task} at {measured[task]:.3f}."


def _basis(change: Change, weighed: Evidence) -> str:
    effect = weighed.changes.get(change_kind(change.label))
    if effect is not None:
        return f"The same change moved the score by {effect:+.3f} elsewhere (mean, shrunk), which the prediction uses."
    times = weighed.seen.get(change.component, 0)
    if times:
        return f"{change.component} occurs in {times} of the measured designs shown, which the choice weighs."
    return "No measured design shown here uses it, so the prediction rests on priors."


def _title(change: Change) -> str:
    return (change.label[0].upper() + change.label[1:])[:TITLE_CAP]


def _refutation(deltas: Mapping[str, float], parent: Shown) -> str:
    task = max(deltas, key=lambda name: abs(deltas[name]))
    delta, now = deltas[task], parent.per_task.get(task)
    at = "" if now is None else f" (the parent is at {now:.3f})"
    if abs(delta) < SAME_BELOW:
        return f"Any task that moves by more than {SAME_BELOW:.2f} and more than the spread of its seeds."
    half = abs(delta) / 2
    if delta > 0:
        return f"{task} rising by less than {half:.2f} in the mean over seeds{at}."
    return f"{task} falling by less than {half:.2f} in the mean over seeds{at}: the component is then dispensable."
