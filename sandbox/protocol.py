"""What every sandbox promises: jobs in, outcomes out.

A *job* is a list of phases, known in full before the job starts: frames to send, the shape of the one reply expected,
and how long it may take. The backend starts one worker (`python -m evaluator`), holds the conversation of
`conversation.py` with it, and throws the worker away. Nothing but those frames passes between host and worker: no
shared directory, no mount that can be written to, no socket.

Covered, by a backend whose `isolated` is true: the program sees no file of the host beyond the interpreter and its
packages, none of the host's environment, no network and no other process; it cannot write outside a sized scratch
directory that is gone afterwards; it cannot outlive its deadline; and nothing it sends makes the host unpickle,
decompress, or allocate more than the job's own reply sizes and log cap.

NOT covered: bugs in the kernel (or in a GPU driver); covert use of the CPU within the quota; and truth. Whatever the
worker says about itself (losses, memory, a parameter count) is a claim, since the program runs in the same process and
can rewrite it. Metrics are computed on the host, from predictions for inputs whose labels never entered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from evaluator.phases import Phase

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Limits:
    """What one job may use. `memory_bytes` binds the whole job under docker, each of its processes elsewhere."""

    memory_bytes: int = 4 << 30
    cpus: float = 1.0
    pids: int = 256
    tmp_bytes: int = 256 << 20
    log_bytes: int = 128 << 10
    start_timeout_s: float = 90.0


@dataclass(frozen=True)
class Job:
    """`task` and `accelerator` are what the worker must have: it says in its greeting, before any of the program is
    sent, and a worker that lacks them is an infrastructure failure. `timed`: time is what the job measures, so nothing
    that can wait is started beside it."""

    job_id: str
    phases: tuple[Phase, ...]
    limits: Limits = Limits()
    task: str | None = None
    accelerator: bool = False
    timed: bool = False


class OutcomeKind(StrEnum):
    COMPLETED = "completed"
    CANDIDATE_FAILED = "candidate_failed"
    INFRASTRUCTURE_FAILED = "infrastructure_failed"


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job.

    `reason` is "ok" for a completed job; for a candidate's failure "exception", "timeout", "out_of_memory",
    "output_limit", "protocol" or the code the worker gave ("diverged", "build_failed", ...); for ours "start", "lost"
    or "engine". An infrastructure failure says nothing about the candidate and may be retried.

    `replies` and `phase_wall_s` hold the phases answered, in order: all of them if and only if the job completed. The
    clock is the host's, from the last byte sent to the last byte of the reply. `peak_memory_bytes` is the highest value
    seen between phases where the backend can measure it from outside.
    """

    kind: OutcomeKind
    reason: str
    message: str
    line: int | None = None
    replies: tuple[dict[str, Any] | dict[str, np.ndarray], ...] = ()
    phase_wall_s: tuple[float, ...] = ()
    log: str = ""
    exit_code: int | None = None
    peak_memory_bytes: int | None = None
    wall_s: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        return self.kind is OutcomeKind.COMPLETED


class Sandbox(Protocol):
    """A place to run jobs, several at a time, each in a worker of its own.

    Invariants: a worker runs one job and is destroyed, whatever the outcome, before `run` returns or raises; the
    deadline is enforced from outside the worker, with SIGKILL; a worker whose host dies (`kill -9` included) dies
    too.
    """

    @property
    def level(self) -> str:
        """One of "docker", "bubblewrap", "landlock", "process"."""

    @property
    def isolated(self) -> bool:
        """Whether programs that nobody vouches for may run here."""

    def provenance(self) -> dict[str, Any]:
        """What a trial must record to say where it ran: level, image, base, hash of the flags. Plain JSON."""

    async def run(
        self, job: Job, *, deadline_s: float | None = None, on_progress: Progress | None = None
    ) -> JobOutcome:
        """Runs one job in a worker that has run none before.

        `deadline_s` bounds the whole job, start-up included, beside the phases' own time-outs. `on_progress` is
        called on the event loop with each progress message, validated, at most a few dozen times per phase.
        Cancelling the task kills the worker and waits until it is gone.

        Raises:
            ProtocolMismatch: the worker is not of this host's version. Nothing of the program has run.
            SandboxUnavailable: no worker can be started until somebody mends something (the image is gone, the disk is
                full, there is no GPU). Nothing of the program has run.
        Never raises for what a candidate does, nor for an engine that fails under way: those are outcomes.
        """

    def keep_warm(self, count: int, limits: Limits) -> int:
        """Keeps workers with `limits` started and waiting, up to `count` and as memory allows. Returns how many.

        Call it once, on the event loop that runs the jobs.
        """

    async def require_gpu(self, limits: Limits) -> str:
        """Proves that a job can have a GPU, and returns its name.

        Raises:
            GpuUnavailable: it cannot; says why and what to do.
        """

    async def close(self) -> None:
        """Ends what still runs and gives back what the sandbox holds. Idempotent."""
