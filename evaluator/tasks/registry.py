"""The tasks by name: those of this package, found by looking, and those that installed packages offer.

A task is asked for by NAME or NAME:AXIS=VALUE[:AXIS=VALUE...]. That text, made canonical, is the task's identity:
it names its random streams, is stored with every trial, and enters the objective's hash.

Entry points (group `move37.tasks`) are loaded at the first question, not at import; one that cannot be used is a typed
error with the package's name, never a task that is silently missing.
"""

import functools
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType

import evaluator.tasks
from evaluator.errors import (
    EvaluatorError,
    ImpossibleSize,
    TaskPluginBroken,
    TaskSpecMalformed,
    UnknownAxis,
    UnknownTask,
    UnknownTrack,
)
from evaluator.tasks.task import Plan, Size, Task

ENTRY_POINTS = "move37.tasks"
_TRACKS = ("sequence",)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def tracks() -> tuple[str, ...]:
    return _TRACKS


def names(track: str) -> tuple[str, ...]:
    """Task names of a track, in the order in which reports show them.

    Raises:
        UnknownTrack: there is no such track.
        TaskPluginBroken: an installed package offers a task that cannot be used.
    """
    if track not in _TRACKS:
        raise UnknownTrack(track, _TRACKS)
    return tuple(name for name, task in _classes().items() if task.track == track)


def get(name: str) -> Task:
    """The task at its own default sizes, those of tier smoke where that offers it; a tier may resize it (`Tier.task`).

    Raises:
        UnknownTask: no track has such a task.
    """
    return _made(_class(name))


def plans(track: str, tier: str) -> Mapping[str, Plan]:
    """What a tier offers: the plans of the track's tasks for it, in the order in which reports show them."""
    every = {name: _class(name).plans() for name in names(track)}
    return MappingProxyType({name: offered[tier] for name, offered in every.items() if tier in offered})


def parse(spec: str) -> tuple[str, dict[str, Size]]:
    """The bare name in NAME[:AXIS=VALUE...], and the values asked for in the order in which the task declares its axes.

    Raises:
        TaskSpecMalformed: not of that form, or an axis given twice.
        UnknownTask, UnknownAxis: a name that nothing goes by.
        ImpossibleSize: a value that is no number where one is needed.
    """
    name, *settings = spec.split(":")
    task = get(name)
    asked: dict[str, Size] = {}
    for setting in settings:
        axis, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not text:
            raise TaskSpecMalformed(spec, f"{setting!r} is not AXIS=VALUE")
        if axis not in task.axes:
            raise UnknownAxis(axis, task.axes, of=f"task {name!r}")
        if axis in asked:
            raise TaskSpecMalformed(spec, f"{axis!r} is given twice")
        asked[axis] = _value(task, axis, text)
    return name, {axis: asked[axis] for axis in task.axes if axis in asked}


def canonical(spec: str) -> str:
    """The one spelling of `spec`: axes in the task's order, numbers as Python writes them. Nothing is left out.

    Raises:
        As `parse`.
    """
    name, sizes = parse(spec)
    return ":".join([name, *(f"{axis}={value}" for axis, value in sizes.items())])


def _value(task: Task, axis: str, text: str) -> Size:
    kind = type(getattr(task, axis))
    if kind is str:
        return text
    try:
        value: Size = kind(text)
    except ValueError:
        raise ImpossibleSize(task.name, axis, text, task.axes[axis]) from None
    if not math.isfinite(float(value)):
        raise ImpossibleSize(task.name, axis, text, task.axes[axis])
    return value


def _made(task: Callable[[], Task]) -> Task:
    """A task at its default sizes. Every task has some: `_fault` refuses one that does not."""
    return task()


def _class(name: str) -> type[Task]:
    known = _classes()
    if name not in known:
        raise UnknownTask(name, known)
    return known[name]


@functools.cache
def _classes() -> Mapping[str, type[Task]]:
    """Every task's class by its name, in report order."""
    found: dict[str, type[Task]] = {}
    for module in pkgutil.iter_modules(evaluator.tasks.__path__, f"{evaluator.tasks.__name__}."):
        for task in _defined_in(importlib.import_module(module.name)):
            if fault := _fault(task, found):
                raise EvaluatorError(f"{module.name} defines a task that cannot be used: {fault}")
            found[task.name] = task
    for offered in sorted(entry_points(group=ENTRY_POINTS), key=lambda one: (_distribution(one), one.name)):
        task = _loaded(offered)
        if fault := _fault(task, found):
            raise TaskPluginBroken(_distribution(offered), offered.name, fault)
        found[task.name] = task
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: (item[1].order, item[0]))))


def _defined_in(module: ModuleType) -> list[type[Task]]:
    members = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return [one for one in members if issubclass(one, Task) and one.__module__ == module.__name__ and _concrete(one)]


def _concrete(task: type[Task]) -> bool:
    return not inspect.isabstract(task)


def _distribution(offered: EntryPoint) -> str:
    return offered.dist.name if offered.dist is not None else "(unknown)"


def _loaded(offered: EntryPoint) -> type[Task]:
    """Raises: TaskPluginBroken: whatever goes wrong while another package's code is imported."""
    try:
        value = offered.load()
    except Exception as error:  # the code of a stranger's package: anything may come out
        raise TaskPluginBroken(
            _distribution(offered), offered.name, f"loading {offered.value!r} raised {type(error).__name__}: {error}"
        ) from error
    if not (inspect.isclass(value) and issubclass(value, Task) and _concrete(value)):
        raise TaskPluginBroken(
            _distribution(offered), offered.name, f"{offered.value!r} is no concrete subclass of evaluator's Task"
        )
    return value


def _fault(task: type[Task], taken: Mapping[str, type[Task]]) -> str:
    """Why a class cannot be used as a task; empty if it can."""
    for attribute in ("name", "title", "description"):
        if not isinstance(getattr(task, attribute, None), str):
            return f"{task.__qualname__} has no {attribute!r}"
    if not _NAME.fullmatch(task.name):
        return f"{task.name!r} is no name for a task: lower-case letters, digits and underscores"
    if task.name in taken:
        return f"the name {task.name!r} is taken by {taken[task.name].__module__}"
    if task.track not in _TRACKS:
        return f"it is for track {task.track!r}, and there is only {', '.join(_TRACKS)}"
    if unknown := set(task.axes) - {field.name for field in fields(task)}:
        return f"its axes {', '.join(sorted(unknown))} are no fields of {task.__qualname__}"
    try:
        _made(task)
        offered = task.plans()
    except (TypeError, EvaluatorError) as error:
        return f"it cannot be made at its own sizes: {error}"
    if not offered or not all(isinstance(plan, Plan) for plan in offered.values()):
        return "its plans are no non-empty mapping from tier names to plans"
    return ""
