"""The embedded researcher: lists steps from the parent and the exemplars, and takes one that may beat the best.

Steps are the atomic changes of the parent, those of the exemplars (a crossover: the exemplar's mixer, changed), some
second steps, and designs drawn at random once the last experiments brought nothing. A Gaussian process over designs,
fitted to what the prompt shows (`belief`), says by how much each is expected to exceed the best program shown, and the
draw goes by a high power of that: the more is known, the fewer steps it hesitates between. Designs that were tried,
shown or collided with are left out. The draw is seeded by the request, so that it is repeatable.

`draw` is the random control's researcher.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agents.embedded import drawing
from agents.embedded.ablating import answering
from agents.embedded.belief import Observation, believe
from agents.embedded.changes import Change, changes, core_of, fits
from agents.embedded.features import components_of
from agents.embedded.genome import (
    LEAVES,
    Mixer,
    Serial,
    design_text,
    leaf,
    leaves,
    per_layer,
    read_design,
    trees,
)
from agents.embedded.library import sources_by_title
from agents.embedded.modes import Asked, ablation, of_mode, read_asked, used
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

SHARPNESS = 4  # a step of half the expected improvement is drawn 16 times as rarely
SECOND_STEPS = 4  # first steps that are gone on from, drawn evenly
MORE = 200  # steps that are looked at beside the first ones, drawn evenly
DRAWN = 40  # designs drawn at random when stuck
STUCK_AFTER = 3  # experiments without a new best
SAME_BELOW = 0.02
TITLE_CAP = 80


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


def propose(setting: Setting, evidence: Evidenced, rng: random.Random, *, informed: bool = True) -> dict[str, object]:
    """The reply's object. Not `informed`: without the priors, for measuring what they are worth."""
    shown = [evidence.parent, *evidence.exemplars]
    designs = {program.experiment: read_program(program.source, setting.d_model) for program in shown}
    parent = designs[evidence.parent.experiment]
    observed = _observed(setting, evidence, designs)
    options = _options(setting, evidence, designs, observed, rng)
    if evidence.asked.ablation:
        first = _first_steps(parent, _exemplars(evidence, designs), setting)
        options = answering(evidence.asked.ablation, options, first) or options
    else:
        options = of_mode(options, evidence.asked) or options
    tasks = list(setting.chances)
    belief = believe(
        [*observed.values()], [option.mixer for option in options], tasks, setting.n_layers, informed=informed
    )
    best = max((one.score for one in observed.values()), default=0.0)
    gains = belief.improvement(best)
    # Rounded, so that the last bits of another machine's linear algebra decide nothing.
    weights = [round(float(gain), 6) ** SHARPNESS for gain in gains / max(float(gains.max()), 1e-12)]
    index = rng.choices(range(len(options)), weights if any(weights) else None)[0]
    before = _before(setting, evidence.parent, parent, observed, informed=informed)
    deltas = {}
    for task, expected in zip(tasks, belief.per_task[index], strict=True):
        delta = float(expected) - before[task]
        deltas[task] = max(-max(before[task], 0.0), min(1.0 - before[task], delta), -1.0)
    return _hypothesis(options[index], deltas, setting, evidence, observed, rng)


def draw(setting: Setting, evidence: Evidenced, rng: random.Random) -> dict[str, object]:
    """The reply's object of the random control: it uses nothing of the evidence but what not to repeat."""
    shown = [evidence.parent, *evidence.exemplars]
    designs = {program.experiment: read_program(program.source, setting.d_model) for program in shown}
    mixer = drawing.draw(rng, setting.d_model, setting.n_layers, _forbidden(setting, evidence, designs))
    names = dict.fromkeys(part.kind for tree in trees(mixer) for part in leaves(tree))
    return {
        "title": f"Random design: {', '.join(names)}"[:TITLE_CAP],
        "mechanism": "The design was drawn at random from the grammar, whatever has been measured so far. No mechanism "
        "is claimed; what random designs score is what a search has to beat.",
        "change": "draw a design at random",
        "design": design_text(mixer),
        "predictions": [{"task": task, "direction": "same", "size": SAME_BELOW} for task in setting.chances],
        "refuted_by": f"Any task that moves by more than {SAME_BELOW:.2f} and more than the spread of its seeds.",
        "ablation": "None: nothing was put in for a reason.",
        "knowledge": [],
    }


def _known(pairs: Iterable[tuple[str, Mixer | None]]) -> list[tuple[str, Mixer]]:
    return [(name, mixer) for name, mixer in pairs if mixer is not None]


def _design_of(item: Tried, setting: Setting) -> Mixer | None:
    """The design of a tried experiment: as stated, or of the reference program it is named after."""
    design = read_design(item.design)
    if design is None and not item.design.strip("- "):
        source = sources_by_title().get(item.name)
        return None if source is None else read_program(source, setting.d_model)
    return design


def _observed(setting: Setting, evidence: Evidenced, designs: Mapping[str, Mixer | None]) -> dict[str, Observation]:
    """What was measured, by experiment: shown programs with a value per task, the history with its scores."""
    observed: dict[str, Observation] = {}
    for item in (*evidence.tried, *evidence.collisions):
        mixer = _design_of(item, setting)
        if mixer is not None and item.score is not None:
            observed[item.experiment] = Observation(mixer, item.score)
    for program in (evidence.parent, *evidence.exemplars):
        mixer = designs[program.experiment]
        if mixer is not None and program.score is not None:
            observed[program.experiment] = Observation(mixer, program.score, program.per_task)
    return observed


def _forbidden(
    setting: Setting, evidence: Evidenced, designs: Mapping[str, Mixer | None]
) -> frozenset[tuple[str, ...]]:
    tried = [_design_of(item, setting) for item in (*evidence.tried, *evidence.collisions)]
    return frozenset(per_layer(mixer, setting.n_layers) for mixer in (*designs.values(), *tried) if mixer is not None)


def _options(
    setting: Setting,
    evidence: Evidenced,
    designs: Mapping[str, Mixer | None],
    observed: Mapping[str, Observation],
    rng: random.Random,
) -> list[Change]:
    """Steps to designs that were not tried, each design once; where there is none, what there is."""
    parent = designs[evidence.parent.experiment]
    exemplars = _exemplars(evidence, designs)
    forbidden = _forbidden(setting, evidence, designs)
    first = _first_steps(parent, exemplars, setting)
    fresh: dict[tuple[str, ...], Change] = {}

    def add(options: Iterable[Change]) -> None:
        for option in options:
            key = per_layer(option.mixer, setting.n_layers)
            if key not in forbidden:
                fresh.setdefault(key, option)

    more = [
        *_changed_exemplars(exemplars, setting),
        *_second_steps(rng.sample(first, min(SECOND_STEPS, len(first))), exemplars, setting),
    ]
    add(first)
    add(rng.sample(more, min(MORE, len(more))))
    if _stuck(evidence, observed):
        add(_drawn(setting, forbidden, rng))
    return list(fresh.values()) or first


def _exemplars(evidence: Evidenced, designs: Mapping[str, Mixer | None]) -> list[tuple[str, Mixer]]:
    return _known((program.experiment, designs[program.experiment]) for program in evidence.exemplars)


def _first_steps(parent: Mixer | None, exemplars: Sequence[tuple[str, Mixer]], setting: Setting) -> list[Change]:
    """Changes of the parent; of an opaque one, an exemplar's design or a fresh one."""
    if parent is not None:
        return changes(parent, exemplars, setting.d_model, setting.n_layers)
    options = [
        Change("crossover", f"take the mixer of {name} for the parent's", _kind(mixer), mixer)
        for name, mixer in exemplars
    ]
    for kind in LEAVES:
        behind = Serial(leaf("ShortConvolution"), leaf(kind))
        options.append(Change("core", f"replace the parent's mixer by {kind}", kind, Mixer(leaf(kind))))
        options.append(
            Change("core", f"replace the parent's mixer by {kind} behind a convolution", kind, Mixer(behind))
        )
    return [option for option in options if fits(option.mixer, setting.d_model, setting.n_layers)]


def _kind(mixer: Mixer) -> str:
    return core_of(mixer.tree).kind


def _changed_exemplars(exemplars: Sequence[tuple[str, Mixer]], setting: Setting) -> Iterator[Change]:
    for name, mixer in exemplars:
        for change in changes(mixer, [], setting.d_model, setting.n_layers):
            label = f"take the mixer of {name}, then {change.label}"
            yield Change(change.operator, label, change.component, change.mixer)


def _second_steps(
    options: Sequence[Change], exemplars: Sequence[tuple[str, Mixer]], setting: Setting
) -> Iterator[Change]:
    """Neighbours of the neighbours, labelled by both steps."""
    for option in options:
        for change in changes(option.mixer, exemplars, setting.d_model, setting.n_layers):
            yield Change(change.operator, f"{option.label}, then {change.label}", change.component, change.mixer)


def _stuck(evidence: Evidenced, observed: Mapping[str, Observation]) -> bool:
    """Whether the best program shown is older than the last experiments."""
    latest = [item.experiment for item in evidence.tried[:STUCK_AFTER]]
    best = max(observed, key=lambda name: observed[name].score, default="")
    return len(latest) == STUCK_AFTER and best not in latest


def _drawn(setting: Setting, forbidden: Collection[tuple[str, ...]], rng: random.Random) -> Iterator[Change]:
    for _ in range(DRAWN):
        mixer = drawing.draw(rng, setting.d_model, setting.n_layers, forbidden)
        kind = _kind(mixer)
        yield Change("core", f"start anew around {kind}", kind, mixer)


def _before(
    setting: Setting,
    shown: Shown,
    parent: Mixer | None,
    observed: Mapping[str, Observation],
    *,
    informed: bool,
) -> dict[str, float]:
    """The parent's value per task: as measured, else as believed, else that of guessing."""
    tasks = list(setting.chances)
    if parent is None or all(task in shown.per_task for task in tasks):
        return {task: shown.per_task.get(task, 0.0) for task in tasks}
    belief = believe([*observed.values()], [parent], tasks, setting.n_layers, informed=informed)
    return {task: shown.per_task.get(task, float(value)) for task, value in zip(tasks, belief.per_task[0], strict=True)}


def _hypothesis(
    change: Change,
    deltas: Mapping[str, float],
    setting: Setting,
    evidence: Evidenced,
    observed: Mapping[str, Observation],
    rng: random.Random,
) -> dict[str, object]:
    weakest = _weakest(setting, evidence.parent)
    predictions = [
        {
            "task": task,
            "direction": "same" if abs(delta) < SAME_BELOW else "up" if delta > 0 else "down",
            "size": SAME_BELOW if abs(delta) < SAME_BELOW else round(abs(delta), 2),
        }
        for task, delta in deltas.items()
    ]
    basis = _basis(change, observed, setting.n_layers)
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


def _weakest(setting: Setting, parent: Shown) -> str:
    measured = {task: parent.per_task[task] for task in setting.chances if task in parent.per_task}
    if not measured:
        return "The parent has no measurements to go by."
    task = min(measured, key=lambda name: measured[name])
    return f"The parent's weakest task is {task} at {measured[task]:.3f}."


def _basis(change: Change, observed: Mapping[str, Observation], n_layers: int) -> str:
    times = sum(change.component in components_of(one.mixer, n_layers) for one in observed.values())
    if times:
        return f"{change.component} occurs in {times} of the measured designs shown, which the choice weighs."
    return "No measured design shown here uses it, so the prediction rests on priors and on designs that are alike."


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
