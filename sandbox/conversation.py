"""The host's side of a job: greets the worker, plays the phases, and names what became of it.

One driver for every backend, over `Worker`: something that can be read, written to, waited for and killed.

Notable:
- Output is drained to the very end, also after the verdict is known: a stream that nobody reads stops the writer, and
  behind Docker's attach socket it wedges `kill`, `inspect` and `remove` with it (moby#41827).
- The clock is the host's. Start-up, writing, every phase and the whole job have deadlines of their own.
- The end of the stream is never success. A job has completed when its last reply was read and found valid; whatever
  happens before that is explained from the exit, in this order: what the host itself decided, an engine that lost the
  worker, the memory limit, the exit code.
- Until the greeting, no byte of the program has been sent: failures there are the infrastructure's, after it the
  candidate's. A worker that has greeted can wait, drained all the while, until there is a job for it.

Not covered: ending the worker. The backend that started it destroys it, whatever happens in here.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evaluator.errors import WireError
from evaluator.phases import FAILURE_REASONS, MESSAGE_CAP, PROGRESS_PER_PHASE, PROTOCOL_VERSION, TRACEBACK_CAP
from evaluator.text import line_number
from evaluator.wire import Frame, FrameKind, FrameReader, arrays_cap, encode_frame, read_arrays, read_control
from sandbox.errors import ProtocolMismatch
from sandbox.logs import BoundedLog, shown
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind, Progress
from sandbox.waiting import ended

if TYPE_CHECKING:
    from evaluator.phases import Phase

SEND_TIMEOUT_S = 60.0  # a worker that does not read a few megabytes in a minute is not waiting for them
EXIT_GRACE_S = 2.0  # between the last reply, or the end of the stream, and the exit
DRAIN_GRACE_S = 1.0  # between the exit and the end of streams that a forked child may hold open
FRAMES_WAITING_CAP = 64  # an honest worker has at most `PROGRESS_PER_PHASE` and a reply under way
LOG_GRACE_S = 0.2  # between a verdict and the end of the streams, for the last words in the log
LOG_DRAIN_CAP = 4 << 30  # reading is work too: beyond this a program is only burning the host's CPU

_T = TypeVar("_T")
Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class Ending:
    """How a worker ended by itself. `lost`: why the backend cannot tell, empty when it can."""

    exit_code: int | None
    out_of_memory: bool = False
    lost: str = ""


class Worker(Protocol):
    """A started worker, as its backend offers it."""

    async def pump(self, on_output: Sink, on_log: Sink) -> None:
        """Hands over all that the worker writes, as it comes, until both streams have ended.

        Raises:
            OSError: the connection to the worker broke.
        """

    async def send(self, data: bytes) -> None:
        """Writes all of `data`.

        Raises:
            OSError: the worker no longer reads.
        """

    async def ended(self) -> Ending:
        """Waits until the worker has ended by itself."""

    async def peak_memory(self) -> int | None:
        """The most memory the worker is known to have used, in bytes; None where that cannot be measured from outside.

        Must return at once, whatever the state of the worker.
        """


class _Verdict(Exception):
    """How the job has ended, raised to where the outcome is made: control flow of this module, not an error."""

    def __init__(self, kind: OutcomeKind, reason: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.reason, self.message, self.line = kind, reason, message, line


def _candidate(reason: str, message: str, line: int | None = None) -> _Verdict:
    return _Verdict(OutcomeKind.CANDIDATE_FAILED, reason, message, line)


def _infrastructure(reason: str, message: str) -> _Verdict:
    return _Verdict(OutcomeKind.INFRASTRUCTURE_FAILED, reason, message)


async def converse(
    worker: Worker,
    job: Job,
    *,
    deadline_s: float | None = None,
    on_progress: Progress | None = None,
    provenance: Mapping[str, Any],
) -> JobOutcome:
    """Plays `job` with a worker that has just been started.

    Raises:
        ProtocolMismatch: see `Sandbox.run`.
    """
    conversation = Conversation(worker, job.limits, provenance)
    try:
        return await conversation.hold(job, deadline_s=deadline_s, on_progress=on_progress)
    finally:
        await conversation.close()


class NotStarted(Exception):
    """A worker did not come as far as its greeting. The outcome is an infrastructure failure that says why."""

    def __init__(self, outcome: JobOutcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class Conversation:
    """All that is said to one worker and by it. Made on an event loop, which it reads from the first moment on."""

    def __init__(self, worker: Worker, limits: Limits, provenance: Mapping[str, Any]) -> None:
        self._worker = worker
        self._limits = limits
        self._provenance = provenance
        self._on_progress: Progress | None = None
        self._reader = FrameReader(arrays_cap=0)
        self._inbox: asyncio.Queue[Frame | _Verdict | None] = asyncio.Queue()  # None: nothing more will come
        self._deaf = False  # still draining, no longer listening
        self._broken: OSError | None = None
        self._sent = False
        self._log = BoundedLog(limits.log_bytes)
        self._hello: dict[str, Any] | None = None
        self._replies: list[dict[str, Any]] = []
        self._walls: list[float] = []
        self._peak: int | None = None
        self._doing = "starting"
        self._watch = asyncio.create_task(self._watch_exit())
        self._pump = asyncio.create_task(self._pump_output())

    @property
    def waits(self) -> bool:
        """Whether the worker has greeted, and since then said nothing and not ended: it can be given a job."""
        return self._hello is not None and self._inbox.empty() and not (self._watch.done() or self._pump.done())

    async def greet(self) -> None:
        """Waits until the worker says that it is ready.

        Raises:
            NotStarted: it will not be.
            ProtocolMismatch: it is of another version.
        """
        began = time.monotonic()
        try:
            await self._greet()
        except _Verdict as verdict:
            raise NotStarted(self._outcome(verdict, await self._ending(0.0), time.monotonic() - began)) from None

    def annotate(self, **facts: Any) -> None:
        """Adds to what the outcome says of where the job ran."""
        self._provenance = {**self._provenance, **facts}

    async def hold(
        self,
        job: Job,
        *,
        deadline_s: float | None = None,
        on_progress: Progress | None = None,
        spent_s: float = 0.0,
    ) -> JobOutcome:
        """Plays `job`, once. See `Sandbox.run`. `spent_s` of the deadline were needed for the start."""
        self._on_progress = on_progress
        began = time.monotonic()
        try:
            async with asyncio.timeout(None if deadline_s is None else deadline_s - spent_s):
                if self._hello is None:
                    await self._greet()
                self._check_needs(job)
                for phase in job.phases:
                    await self._play(phase)
        except TimeoutError:
            verdict = self._timed_out(f"the job's deadline of {deadline_s:g} s passed while {self._doing}")
        except _Verdict as reached:
            verdict = reached
        else:
            verdict = _Verdict(OutcomeKind.COMPLETED, "ok", "")
        answered = verdict.kind is OutcomeKind.COMPLETED and job.phases  # then it exits by itself
        ending = await self._ending(EXIT_GRACE_S if answered else 0.0)
        if verdict.kind is OutcomeKind.CANDIDATE_FAILED:  # what it printed may come later than what it said
            await asyncio.wait((self._pump,), timeout=LOG_GRACE_S)
            ending = ending or await self._ending(0.0)
        await self._measure()
        return self._outcome(verdict, ending, time.monotonic() - began)

    async def close(self) -> None:
        """Stops listening. The worker is its backend's to end."""
        self._watch.cancel()
        self._pump.cancel()
        await asyncio.wait((self._watch, self._pump))
        for task in (self._watch, self._pump):
            if not task.cancelled():
                task.exception()  # whoever needed it has had it; unasked for, the event loop would print it

    def _outcome(self, verdict: _Verdict, ending: Ending | None, wall_s: float) -> JobOutcome:
        return JobOutcome(
            kind=verdict.kind,
            reason=verdict.reason,
            message=shown(verdict.message),
            line=verdict.line,
            replies=tuple(self._replies),
            phase_wall_s=tuple(self._walls),
            log=self._log.text(),
            exit_code=ending.exit_code if ending else None,
            peak_memory_bytes=self._peak,
            wall_s=wall_s,
            provenance={**self._provenance, "hello": self._hello},
        )

    # What the worker writes

    async def _pump_output(self) -> None:
        try:
            await self._worker.pump(self._on_output, self._on_log)
        except OSError as error:
            self._broken = error  # how the worker ended says more, if it can be known
        finally:
            self._inbox.put_nowait(None)

    def _on_output(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            for frame in self._reader.feed(data):
                self._inbox.put_nowait(frame)
        except WireError as error:
            self._give_up(_candidate("protocol", f"broke the wire format while {self._doing}: {error}"))
        if self._inbox.qsize() > FRAMES_WAITING_CAP:
            self._give_up(_candidate("output_limit", f"flooded the protocol with messages while {self._doing}"))

    def _on_log(self, data: bytes) -> None:
        self._log.add(data)
        if self._log.total_bytes > LOG_DRAIN_CAP and not self._deaf:
            self._give_up(_candidate("output_limit", f"printed more than {LOG_DRAIN_CAP >> 30} GiB"))

    def _give_up(self, verdict: _Verdict) -> None:
        self._deaf = True
        self._inbox.put_nowait(verdict)

    async def _watch_exit(self) -> Ending:
        ending = await self._worker.ended()
        asyncio.get_running_loop().call_later(DRAIN_GRACE_S, self._inbox.put_nowait, None)
        return ending

    async def _ending(self, grace_s: float) -> Ending | None:
        """How the worker ended, if it does within `grace_s`."""
        done, _ = await asyncio.wait((self._watch,), timeout=grace_s)
        return self._watch.result() if done else None

    # What the host says and expects

    async def _greet(self) -> None:
        timeout_s = self._limits.start_timeout_s
        frame = await self._within(timeout_s, self._receive(), f"the worker did not start within {timeout_s:g} s")
        message = self._control(frame)
        if message.get("type") != "hello":
            raise _infrastructure("start", f"the worker opened with {message.get('type')!r} instead of a greeting")
        if message.get("protocol") != PROTOCOL_VERSION:
            raise ProtocolMismatch(PROTOCOL_VERSION, message.get("protocol"))
        self._hello = message

    def _check_needs(self, job: Job) -> None:
        """What the job needs and this worker lacks, before a byte of the program is sent."""
        hello = self._hello or {}
        if job.accelerator and not hello.get("accelerator"):
            raise _infrastructure(
                "start", "the job needs a GPU and this sandbox shows its workers none: choose a smaller tier"
            )
        tasks = hello.get("tasks")
        if job.task is not None and not (isinstance(tasks, list) and job.task in tasks):
            raise _infrastructure(
                "start",
                f"the worker has no task {job.task!r}: the package that brings it is not installed where it runs "
                "(the docker image holds Move37's own tasks only; bubblewrap and process use this host's packages)",
            )

    async def _play(self, phase: Phase) -> None:
        self._doing = f"in phase {phase.name!r}"
        if not self._inbox.empty():
            item = self._inbox.get_nowait()
            if isinstance(item, Frame):
                raise _candidate("protocol", f"spoke before it was asked, {self._doing}")
            self._inbox.put_nowait(item)
        self._reader.arrays_cap = 0 if phase.reply is None else arrays_cap(phase.reply)
        await self._within(SEND_TIMEOUT_S, self._send(phase), f"did not read what it was sent {self._doing}")
        began = time.monotonic()
        exceeded = f"exceeded {phase.timeout_s:g} s {self._doing}"
        reply = await self._within(phase.timeout_s, self._reply(phase), exceeded)
        self._walls.append(time.monotonic() - began)
        self._replies.append(reply)
        self._reader.arrays_cap = 0
        await self._measure()

    async def _measure(self) -> None:
        peak = await self._worker.peak_memory()
        if peak is not None:
            self._peak = max(peak, self._peak or 0)

    async def _send(self, phase: Phase) -> None:
        self._sent = True
        for frame in phase.send:
            if not await self._written(encode_frame(frame)):
                # It is gone, and what it said last explains it better than a broken pipe does.
                await self._reply(replace(phase, reply=None))
                raise _candidate("protocol", f"answered without reading {self._doing}")

    async def _written(self, data: bytes) -> bool:
        """Whether the worker could be sent all of `data`. Its end counts too: behind Docker's attach socket nobody
        says that there is no reader any more, and writing would wait for one."""
        writing = asyncio.ensure_future(self._worker.send(data))
        try:
            await asyncio.wait((writing, self._watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            await ended(asyncio.gather(writing, return_exceptions=True))
        if writing.cancelled():
            return False
        error = writing.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        return error is None

    async def _reply(self, phase: Phase) -> dict[str, Any]:
        progressed = 0
        while True:
            frame = await self._receive()
            if frame.kind is FrameKind.ARRAYS and phase.reply is not None:
                try:
                    return read_arrays(frame.payload, phase.reply)
                except WireError as error:
                    raise _candidate("protocol", f"sent a wrong reply {self._doing}: {error}") from None
            message = self._control(frame)
            if message.get("type") == "failed":
                raise self._failed(message)
            if message.get("phase") != phase.name:
                raise _candidate("protocol", f"sent a message of another phase {self._doing}")
            match message.get("type"):
                case "done" if phase.reply is None:
                    return message
                case "progress" if progressed < PROGRESS_PER_PHASE:
                    progressed += 1
                    self._progress(message)
                case "progress":
                    raise _candidate("output_limit", f"more than {PROGRESS_PER_PHASE} progress messages {self._doing}")
                case other:
                    raise _candidate("protocol", f"sent {other!r} {self._doing}")

    async def _receive(self) -> Frame:
        item = await self._inbox.get()
        if isinstance(item, Frame):
            return item
        raise item if item is not None else await self._explain_end()

    def _control(self, frame: Frame) -> dict[str, Any]:
        if frame.kind is not FrameKind.CONTROL:
            raise _candidate("protocol", f"sent a {frame.kind.name} frame {self._doing}")
        try:
            return read_control(frame.payload)
        except WireError as error:
            raise _candidate("protocol", f"sent a malformed message {self._doing}: {error}") from None

    def _progress(self, message: dict[str, Any]) -> None:
        step, steps, loss = (message.get(key) for key in ("step", "steps", "loss"))
        if not (type(step) is int and type(steps) is int and (loss is None or type(loss) in (int, float))):
            raise _candidate("protocol", f"sent a malformed progress message {self._doing}")
        if self._on_progress is not None:
            self._on_progress({"phase": message["phase"], "step": step, "steps": steps, "loss": loss})

    def _failed(self, message: dict[str, Any]) -> _Verdict:
        reason, text, line = (message.get(key) for key in ("reason", "message", "line"))
        traceback = message.get("traceback") or ""
        if reason not in FAILURE_REASONS or not isinstance(text, str) or not isinstance(traceback, str):
            return _candidate("protocol", f"sent a malformed report of a failure {self._doing}")
        if traceback:
            self._log.add(b"\n" + traceback[:TRACEBACK_CAP].encode())
        return _candidate(reason, text[:MESSAGE_CAP], line_number(line))

    # How it can end

    async def _within(self, timeout_s: float, step: Coroutine[Any, Any, _T], exceeded: str) -> _T:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await step
        except TimeoutError:
            if limit.expired():
                raise self._timed_out(exceeded) from None
            raise

    def _timed_out(self, message: str) -> _Verdict:
        lost = self._lost(self._watch.result() if self._watch.done() else None)
        if lost is not None:
            return lost
        return _candidate("timeout", message) if self._sent else _infrastructure("start", message)

    def _lost(self, ending: Ending | None) -> _Verdict | None:
        """The verdict on a worker that nobody can tell of how it ended; None if there is more to say than that."""
        if ending is not None and ending.lost:
            return _infrastructure("lost", f"the worker was lost while {self._doing}: {ending.lost}")
        if ending is None and self._broken is not None:
            return _infrastructure("lost", f"the connection to the worker broke: {self._broken}")
        return None

    async def _explain_end(self) -> _Verdict:
        if self._pump.done():
            await self._pump  # a defect of the backend surfaces here instead of looking like a candidate's end
        ending = await self._ending(EXIT_GRACE_S)
        if (lost := self._lost(ending)) is not None:
            return lost
        if self._hello is None:
            how = describe_exit(ending.exit_code) if ending else "closed its channel"
            return _infrastructure("start", f"the worker {how} before its greeting: {self._log.text()[-500:].strip()}")
        if ending is None:
            return _candidate("protocol", f"closed the protocol's channel {self._doing}")
        if ending.out_of_memory:
            limit_mib = self._limits.memory_bytes >> 20
            return _candidate("out_of_memory", f"used more than {limit_mib} MiB {self._doing}")
        return _candidate("exception", f"the worker {describe_exit(ending.exit_code)} {self._doing}, without an answer")


def describe_exit(code: int | None) -> str:
    """An exit in words: a negative code is a signal, and so is 128 + n, the way shells and engines say it."""
    if code is None:
        return "ended"
    number = -code if code < 0 else code - 128
    if number > 0:
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exited with code {code}"
