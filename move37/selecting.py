"""What an experiment sets out with: mode, parent, a second parent if it needs one, exemplars, which model answers.

A function of the campaign's seed, the experiment's index and what it may see. Everything that decided is stored in the
experiment's selection: the arms of both bandits with counts, means, bounds and regret.

Not covered: the rules themselves (`choosing` for parents, `modes` for modes and models).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memory.records import Experiment
from move37 import ablations, modes, observing
from move37.choosing import choose, choose_second
from move37.loop import Loop
from move37.modes import Mode


@dataclass(frozen=True)
class Selected:
    """Arguments of `Store.select`."""

    parent_id: str
    exemplar_ids: tuple[str, ...]
    selection: dict[str, Any]


async def selected(loop: Loop, experiment: Experiment) -> Selected:
    """Chooses for `experiment`. An ablation that an analyst asked for decides mode and parent.

    Raises:
        ValueError: nothing visible is completed.
    """
    visible = loop.visible(experiment)
    search = loop.config.search
    await loop.recollection.learn(loop.store, visible)
    asked = ablations.requested(loop, experiment) if "ablate" in search.modes else None
    fixed = loop.visibility.first_parent(experiment.index)
    if asked is not None:
        fixed = next(e for e in visible if e.id == asked.parent_id)
    choice = choose(
        visible,
        seed=loop.config.seed,
        index=experiment.index,
        exemplars=0 if "exemplars" in search.without else search.exemplars,
        fixed_parent=fixed,
        alike=loop.recollection.alike if search.diverse_exemplars else None,
        view=loop.recollection.view,
    )
    selection: dict[str, Any] = {**choice.rationale, **_model(loop, experiment, visible)}
    exemplars = choice.exemplars
    if asked is not None:
        selection |= ablations.selection(asked)
    elif search.modes != ("improve",):
        mode, drawn = _mode(loop, experiment, visible, choice.parent)
        selection |= drawn
        if mode == "combine":
            second = _second(loop, experiment, visible[-1].index, choice.parent)
            selection["second"] = second.id
            exemplars = tuple(e for e in exemplars if e.id != second.id)
    return Selected(choice.parent.id, tuple(e.id for e in exemplars), selection)


def _mode(
    loop: Loop, experiment: Experiment, visible: Sequence[Experiment], parent: Experiment
) -> tuple[Mode, dict[str, Any]]:
    wanted = loop.config.search.modes
    published = False
    if "transfer" in wanted:
        published = bool(observing.suggested(loop, replace(experiment, parent_id=parent.id), visible))
    ranked = loop.recollection.view.ranked(visible[-1].index)
    best = next((e for e in ranked if e.program_sha256 != parent.program_sha256), None)
    others = best is not None and modes.worth_combining(best)
    can = modes.possible(wanted, parent=parent, others=others, published=published)
    pending = [n for n in _pending(loop, experiment) if "ablate" not in wanted or not modes.due(n)]
    played = loop.recollection.plays("mode", "improve").of(visible)
    return modes.choose(played, can, ordinal=_ordinal(loop, experiment.index), pending=len(pending))


def _model(loop: Loop, experiment: Experiment, visible: Sequence[Experiment]) -> dict[str, Any]:
    """Which of several models answers; nothing where there is one."""
    names = loop.config.model.names
    if len(names) < 2:
        return {}
    played = loop.recollection.plays("model", names[0]).of(visible)
    drawn = modes.draw(played, names, len(_pending(loop, experiment)))
    return {"model": drawn.arm, "models": drawn.as_dict()}


def _second(loop: Loop, experiment: Experiment, up_to: int, parent: Experiment) -> Experiment:
    """Drawn by the rule for parents, among those with another program that have something to give."""

    def other(one: Experiment) -> bool:
        return one.program_sha256 != parent.program_sha256 and modes.worth_combining(one)

    return choose_second(loop.recollection.view, up_to, other, seed=loop.config.seed, index=experiment.index)


def _ordinal(loop: Loop, index: int) -> int:
    return index - loop.visibility.proposals


def _pending(loop: Loop, experiment: Experiment) -> list[int]:
    """Numbers of the proposals before this one that it may not see yet."""
    first = loop.visibility.horizon(experiment.index) + 1
    return [_ordinal(loop, index) for index in range(first, experiment.index)]
