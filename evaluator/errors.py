"""Errors of the evaluator. A program that fails is a value (`Verdict`, `TrialResult`); these are for everything else.

EvaluatorError
├── WireError            a frame, control message or array reply that breaks the wire format
├── CompilerUnavailable  no interpreter starts to compile a program's text in
├── CorpusUnavailable    the text that a task trains on cannot be had on this machine
├── TaskPluginBroken     an installed package offers a task that cannot be used
├── TaskSpecMalformed    a task's text that is not NAME or NAME:AXIS=VALUE
├── ImpossibleSize       a task cannot be made at the size asked for
└── UnknownNameError     a name that nothing goes by
    ├── UnknownTrack     a track that does not exist
    ├── UnknownTier      a tier that the track does not have
    ├── UnknownTask      a task that the track (or the tier) does not have
    └── UnknownAxis      a size that the task does not have
"""

from collections.abc import Iterable


class EvaluatorError(Exception):
    """Root of the evaluator's own errors."""


class WireError(EvaluatorError):
    """What came over the wire does not follow the format; the peer is not to be believed any further."""


class CompilerUnavailable(EvaluatorError):
    """The child interpreter that compiles programs did not start; no program is to blame."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the interpreter that compiles programs did not start: {why}; check that it runs by hand and that the "
            f"machine has memory and processes left"
        )


class CorpusUnavailable(EvaluatorError):
    """The text that a task trains on is not to be had here; no program is to blame."""

    def __init__(self, why: str, remedy: str) -> None:
        self.why = why
        self.remedy = remedy
        super().__init__(f"the training text cannot be had: {why}; {remedy}")


class TaskPluginBroken(EvaluatorError):
    """An installed distribution offers a task (entry point group `move37.tasks`) that cannot be used."""

    def __init__(self, distribution: str, entry_point: str, why: str) -> None:
        self.distribution = distribution
        self.entry_point = entry_point
        super().__init__(
            f"the installed package {distribution!r} offers the task {entry_point!r}, which cannot be used: {why}; "
            f"mend the package or uninstall it"
        )


class TaskSpecMalformed(EvaluatorError):
    """A task's text from outside does not have the form that names and sizes are written in."""

    def __init__(self, spec: str, why: str) -> None:
        self.spec = spec
        super().__init__(f"{spec!r} names no task: {why}; write NAME or NAME:AXIS=VALUE, e.g. mqar:length=64:pairs=8")


class ImpossibleSize(EvaluatorError):
    """A task cannot be made at the size asked for; the message says which sizes it can be made at."""

    def __init__(self, task: str, axis: str, value: object, possible: str) -> None:
        self.task = task
        self.axis = axis
        self.value = value
        super().__init__(f"task {task!r} cannot be made with {axis}={value}; possible: {possible}")


class UnknownNameError(EvaluatorError):
    """A name from outside that nothing goes by; the message lists those that exist."""

    kind = "name"

    def __init__(self, name: str, known: Iterable[str], *, of: str = "") -> None:
        self.name = name
        self.known = tuple(known)
        where = f" of {of}" if of else ""
        super().__init__(f"there is no {self.kind} {name!r}{where}; choose one of: {', '.join(self.known)}")


class UnknownTrack(UnknownNameError):
    """The track does not exist."""

    kind = "track"


class UnknownTier(UnknownNameError):
    """The track has no such tier."""

    kind = "tier"


class UnknownTask(UnknownNameError):
    """The track or tier has no such task."""

    kind = "task"


class UnknownAxis(UnknownNameError):
    """The task has no such size."""

    kind = "axis"
