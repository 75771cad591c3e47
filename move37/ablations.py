"""Ablations that analysts asked for: which request is carried out next, and by which experiment.

A request is open while its experiment is completed, its lesson stands and no visible experiment answered it, whatever
became of that one. Of the open ones those after an improvement beyond noise come first, then the oldest. Every
`1 / search.ablation_share`-th experiment, by its index, is a *slot*: it takes a request if one is open.

Slots by index, and not "if the last few did not": experiments in flight do not see each other, and which of them takes
what must not depend on which is faster. What an earlier slot in flight takes is worked out again by the same rule.

Not covered: how the researcher is asked (the template), whether the answer is what was asked for.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memory.records import Experiment, Lesson

if TYPE_CHECKING:  # the reading commands come here too, and load neither models nor indices
    from move37.loop import Loop, Visibility

MODE = "ablate"


@dataclass(frozen=True)
class Request:
    """What an analyst wants taken away from an experiment's program, and what it expects of that."""

    experiment_id: str
    index: int
    improved: bool
    remove: str
    expect: str


class Requested(NamedTuple):
    """The program to take something away from, and the task in words."""

    parent_id: str
    text: str


def requests(lessons: Sequence[Lesson], experiments: Sequence[Experiment]) -> list[Request]:
    """The requests of lessons, in the order in which they are to be carried out, answered ones included."""
    return sorted(_requests(lessons, experiments), key=_turn)


def _requests(
    lessons: Sequence[Lesson], experiments: Sequence[Experiment], done: Collection[str] = ()
) -> Iterator[Request]:
    """In the order of the lessons; `done` are askers whose requests are left out."""
    asking = [x for x in lessons if x.body.get("ablation_request") and x.retired_by is None]
    askers = {x.experiment_id for x in asking}.difference(done)
    completed = {e.id: e for e in experiments if e.id in askers and e.status == "completed"}
    for lesson in asking:
        asked, measured = lesson.body["ablation_request"], lesson.body.get("measured")
        one = completed.get(lesson.experiment_id)
        if one is not None and isinstance(measured, Mapping) and measured["attributed"]:
            yield Request(one.id, one.index, measured["sign"] > 0, str(asked["remove"]), str(asked["expect"]))


def _turn(request: Request) -> tuple[bool, int, str]:
    return not request.improved, request.index, request.experiment_id


def answers(experiments: Sequence[Experiment]) -> dict[str, Experiment]:
    """The first experiment that answered each request, by the experiment that asked."""
    found: dict[str, Experiment] = {}
    for one in experiments:
        asked_by = one.selection.get("requested_by")
        if asked_by:
            found.setdefault(str(asked_by), one)
    return found


def oldest_open(
    lessons: Sequence[Lesson], experiments: Sequence[Experiment], taken: Collection[str] = ()
) -> Request | None:
    """The request to carry out next; `taken` are the askers whose requests are on their way."""
    done = answers(experiments).keys() | set(taken)
    return min(_requests(lessons, experiments, done), key=_turn, default=None)


def is_slot(index: int, share: float) -> bool:
    """Whether the experiment of this index takes a request: one in `1 / share`, evenly spaced."""
    return math.floor((index + 1) * share + 1e-9) > math.floor(index * share + 1e-9)


def requested(loop: "Loop", experiment: Experiment) -> Requested | None:
    """What `experiment` is to take away, if it is its turn and a request is open. The first of a fork takes none: it
    goes on from the forked experiment."""
    found = _at(experiment.index, loop.visibility, loop.config.search.ablation_share, {})
    return None if found is None else Requested(found.experiment_id, task(found))


def selection(found: Requested) -> dict[str, str]:
    """Why the parent was chosen, to be stored with the experiment that carries the request out."""
    return {
        "mode": MODE,
        "rule": "the analyst of the parent asked for an ablation",
        "requested_by": found.parent_id,
        "task": found.text,
    }


def _at(index: int, visibility: "Visibility", share: float, known: dict[int, Request | None]) -> Request | None:
    """The request that the experiment of this index takes; `known` are those worked out already."""
    if not is_slot(index, share) or visibility.first_parent(index) is not None:
        return None
    if index not in known:
        flying = range(max(visibility.horizon(index) + 1, visibility.proposals), index)
        underway = [_at(earlier, visibility, share, known) for earlier in flying if is_slot(earlier, share)]
        taken = {one.experiment_id for one in underway if one is not None}
        known[index] = oldest_open(visibility.lessons(index), visibility.experiments(index), taken)
    return known[index]


def task(request: Request) -> str:
    """The request as the researcher is told it."""
    from move37.recalling import shown_id

    return (
        f"Carry out an ablation that the analyst of {shown_id(request.experiment_id)} asked for; its program is the "
        f'parent. Take away: "{request.remove}". Change nothing else. What was expected of it: "{request.expect}". If '
        "that gives a program that was tried already, take away another part of what that experiment's change brought."
    )
