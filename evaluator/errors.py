"""Errors of the evaluator. A program that fails is a value (`Verdict`, `TrialResult`); these are for everything else.

EvaluatorError
├── WireError            a frame, control message or array reply that breaks the wire format
├── CompilerUnavailable  no interpreter starts to compile a program's text in
└── UnknownNameError     a name that nothing goes by
    ├── UnknownTrack     a track that does not exist
    ├── UnknownTier      a tier that the track does not have
    └── UnknownTask      a task that the track (or the tier) does not have
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
