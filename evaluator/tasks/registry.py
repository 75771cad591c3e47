"""The tasks of each track, by name. To add one: a class like those beside this file, a line here, one in the tiers."""

from types import MappingProxyType

from evaluator.errors import UnknownTask, UnknownTrack
from evaluator.tasks.memorisation import Memorisation
from evaluator.tasks.mqar import MultiQueryRecall
from evaluator.tasks.recall import InContextRecall, NoisyRecall
from evaluator.tasks.selective_copying import SelectiveCopying
from evaluator.tasks.task import Task

_SEQUENCE: tuple[Task, ...] = (
    InContextRecall(),
    MultiQueryRecall(),
    SelectiveCopying(),
    NoisyRecall(),
    Memorisation(),
)
_TRACKS = MappingProxyType({"sequence": MappingProxyType({task.name: task for task in _SEQUENCE})})


def tracks() -> tuple[str, ...]:
    return tuple(_TRACKS)


def names(track: str) -> tuple[str, ...]:
    """Task names of a track, in the order in which reports show them.

    Raises:
        UnknownTrack: there is no such track.
    """
    if track not in _TRACKS:
        raise UnknownTrack(track, _TRACKS)
    return tuple(_TRACKS[track])


def get(name: str) -> Task:
    """The task at its smoke size; a tier may resize it (`Tier.task`).

    Raises:
        UnknownTask: no track has such a task.
    """
    for tasks in _TRACKS.values():
        if name in tasks:
            return tasks[name]
    raise UnknownTask(name, (known for tasks in _TRACKS.values() for known in tasks))
