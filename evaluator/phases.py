"""The conversation between host and sandbox: a fixed list of phases, each one request and one reply.

The whole list is known before a job starts, so every reply has an exact size and a deadline, and evaluation inputs can
only be in a phase that follows training. The sandbox package plays the list; `python -m evaluator` answers it.

Messages of the worker (CONTROL frames):
    hello       once, when its imports are done: protocol, scorer, torch, python, threads
    progress    at most `PROGRESS_PER_PHASE` per phase: phase, step, steps, loss
    done        the reply of a phase whose `reply` is None: phase, and what the phase reports
    failed      instead of a reply, and then nothing more: phase, reason, message, line, traceback
"""

from dataclasses import dataclass

from evaluator.wire import ArraySpec, Frame

PROTOCOL_VERSION = 2
PROGRESS_PER_PHASE = 20
# In characters. JSON may write one as twelve bytes, and both must fit into one control frame.
TRACEBACK_CAP = 4 * 1024
MESSAGE_CAP = 1024

# Why a worker may give up on a program. A gate has reasons of its own (`evaluator.gating.DYNAMIC_REASONS`).
FAILURE_REASONS = (
    "exception", "out_of_memory", "build_failed", "over_budget", "wrong_shape", "wrong_dtype", "forward_failed",
    "non_finite", "diverged", "stalled", "not_causal", "batch_dependent", "stateful", "unstable", "too_slow",
    "device_mismatch", "modifies_input",
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """One request and its reply.

    Attributes:
        send: frames the host writes, in order.
        reply: None for a CONTROL frame `{"type": "done", "phase": name, ...}`, else the arrays of one ARRAYS frame.
        timeout_s: from the last byte written to the last byte of the reply, on the host's clock.
    """

    name: str
    send: tuple[Frame, ...]
    reply: tuple[ArraySpec, ...] | None
    timeout_s: float
