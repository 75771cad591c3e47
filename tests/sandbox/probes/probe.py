"""What a probe is: a hostile program, the outcome it must have, and what it may have seen or done inside.

A program says what it managed in `found`, which comes back with its last message, or in notes in its log, for those
that do not live to send one. It has no reason to lie: it is ours. `attempt(name, action)` in a program files `name`
under "reached" or, when the action raised, under "refused".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox.protocol import JobOutcome, Limits, OutcomeKind

Conversation = Literal["control", "arrays", "two", "deaf", "trial", "evaluator"]
Ended = tuple[OutcomeKind, str]

NOTE = "NOTE "
COMPLETED: frozenset[Ended] = frozenset({(OutcomeKind.COMPLETED, "ok")})
SMALL = Limits(memory_bytes=192 << 20, pids=48, tmp_bytes=8 << 20, log_bytes=64 << 10, start_timeout_s=30.0)


def failed(*reasons: str) -> frozenset[Ended]:
    """A candidate's failure for one of `reasons`: several where two limits are reached at about the same time."""
    return frozenset((OutcomeKind.CANDIDATE_FAILED, reason) for reason in reasons)


@dataclass(frozen=True)
class Evidence:
    """What is known once a probe has run. `wall_s` is the host's, from before the start until the worker is gone."""

    backend: str
    outcome: JobOutcome
    wall_s: float
    breaches: int = 0  # how often the probe's `meanwhile` reached inside

    @property
    def found(self) -> dict[str, Any]:
        """What the program said it found: its notes, then its last message."""
        said: dict[str, Any] = {}
        for line in self.outcome.log.splitlines():
            if line.startswith(NOTE):
                said |= json.loads(line.removeprefix(NOTE))
        for reply in self.outcome.replies:
            inside = reply.get("found")
            if isinstance(inside, dict):
                said |= inside
        return said


def nothing_odd(_: Evidence) -> None:
    """For probes whose outcome says it all."""


Check = Callable[[Evidence], None]


def refused(*names: str) -> Check:
    """Every attempt was made, those called `names` among them, and none reached what it wanted."""

    def check(evidence: Evidence) -> None:
        assert evidence.found["reached"] == {}
        assert set(evidence.found["refused"]) >= set(names)
        assert evidence.found["refused"]

    return check


@dataclass(frozen=True)
class Probe:
    """One hostile program and what must become of it.

    Attributes:
        number: that of the study which the project began with ("1" to "36", "2b"), or "own".
        tries, stops: for readers: what it attempts, and what prevents it.
        conversation: which phases it is asked to answer; see `conversations.py`. All but "evaluator" run under the
            light worker.
        expected: the ways in which it may end; `elsewhere` replaces them for a backend.
        pure: it only says wrong things, so that it may run where nothing isolates it.
        fast: belongs to the quick tier, which runs by default.
        meanwhile: called on the host again and again while it runs, with its token; true is a breach.
    """

    name: str
    number: str
    tries: str
    stops: str
    program: str
    expected: frozenset[Ended] = COMPLETED
    check: Check = nothing_odd
    elsewhere: Mapping[str, frozenset[Ended]] = field(default_factory=dict)
    conversation: Conversation = "control"
    limits: Limits = SMALL
    timeout_s: float = 5.0
    pure: bool = False
    fast: bool = False
    meanwhile: Callable[[str], bool] | None = None

    def judge(self, evidence: Evidence) -> None:
        """Raises AssertionError when the probe was not contained."""
        outcome = evidence.outcome
        assert (outcome.kind, outcome.reason) in self.elsewhere.get(evidence.backend, self.expected), outcome
        assert evidence.breaches == 0
        self.check(evidence)


@dataclass(frozen=True)
class Gap:
    """A probe that a backend does not contain. `asserted`: the probe is run there and must show the gap, so that one
    that has been closed is noticed; otherwise it is skipped, since what it shows depends on the machine or does harm.
    """

    why: str
    asserted: bool = True
