"""The campaign: opens experiments in index order, several at a time, under a budget, and says why it stopped.

Resume is the same code as run: what is terminal in the store is skipped, what is open goes on, what is missing is
opened. An experiment waits for its horizon (see `loop.horizon`), not for whatever is finished.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError
from evaluator import catalogue
from memory.errors import MemoryStoreError
from memory.records import Campaign, CampaignState, Experiment
from memory.store import Store
from move37.errors import BudgetExhausted, CampaignPaused, Interrupted, Move37Error
from move37.graph import ExperimentGraph, checkpoints
from move37.loop import Loop, horizon
from sandbox.errors import SandboxError

_HEARTBEAT_S = 5.0


@dataclass(frozen=True)
class Ending:
    """How a stretch of running ended."""

    state: CampaignState
    because: str
    error: Move37Error | None = None


async def drive(loop: Loop, *, checkpoint_file: Path | None) -> Ending:
    """Runs the campaign until it is complete or something stops it. Nothing raised by a candidate arrives here."""
    async with _session(loop.store, loop.campaign), checkpoints(checkpoint_file) as saver:
        ending = await _run_experiments(loop, ExperimentGraph(loop, saver))
    loop.store.set_campaign_state(loop.campaign.id, ending.state, because=ending.because)
    if ending.state == "finished" and checkpoint_file is not None:
        _discard(checkpoint_file)
    return ending


async def _run_experiments(loop: Loop, graph: ExperimentGraph) -> Ending:
    config = loop.config
    ended = {e.index: asyncio.Event() for e in loop.store.experiments(loop.campaign.id) if e.status != "open"}
    for event in ended.values():
        event.set()
    for index in ended:
        await loop.turnstile.settle(index)
    slots = asyncio.Semaphore(config.parallel)
    done = {index: ended.get(index, asyncio.Event()) for index in range(config.experiments)}

    async def one(index: int) -> None:
        for earlier in range(horizon(index, config.parallel, len(config.search.starters)) + 1):
            await done[earlier].wait()
        async with slots:
            experiment = _open(loop, index)
            await graph.run(experiment.id)
        done[index].set()

    pending = [index for index in range(config.experiments) if index not in ended]
    try:
        with _interruptible():
            async with asyncio.TaskGroup() as group:
                for index in pending:
                    group.create_task(one(index), name=f"experiment-{index}")
    except asyncio.CancelledError:
        return Ending("stopped", "interrupted", Interrupted("interrupted; nothing that was finished is lost"))
    except BaseExceptionGroup as failures:
        return _ending(failures)
    return Ending("finished", "all experiments done")


def _open(loop: Loop, index: int) -> Experiment:
    """Opens the experiment, or finds it where an interrupted run left it."""
    config, store = loop.config, loop.store
    starter = index < len(config.search.starters)
    existing = next((e for e in store.experiments(loop.campaign.id) if e.index == index), None)
    if existing is None:
        if index >= len(config.search.starters):
            loop.budget.check()
            _require_parent(loop)
        existing = store.open_experiment(
            loop.campaign.id,
            index,
            arm="starters" if starter else loop.campaign.arms[-1],
            kind="starter" if starter else "proposal",
            track=config.objective.track,
            tier=config.objective.tier,
        )
    if starter and not store.attempts(existing.id):
        name = config.search.starters[index]
        store.put_attempt(existing.id, 1, origin="proposal", program_sha256=store.put_program(catalogue.source(name)))
    return existing


def _require_parent(loop: Loop) -> None:
    starters = loop.store.experiments(loop.campaign.id, up_to_index=len(loop.config.search.starters) - 1)
    if not any(e.status == "completed" for e in starters):
        reasons = "; ".join(f"{e.id}: {e.reason} ({e.message})" for e in starters)
        raise CampaignPaused(f"no starting program completed its trials, so there is nothing to improve on: {reasons}")


def _ending(failures: BaseExceptionGroup[BaseException]) -> Ending:
    """The one reason to tell, out of what ended together. A bug of ours is not an ending: it is raised."""
    flat = list(_flatten(failures))
    for error in flat:
        if isinstance(error, BudgetExhausted):
            return Ending("stopped", f"budget_{error.kind}", error)
    for error in flat:
        if isinstance(error, CampaignPaused):
            return Ending("stopped", "infrastructure", error)
        if isinstance(error, AgentError):
            return Ending("stopped", "model", CampaignPaused(f"the model cannot be used: {error}"))
        if isinstance(error, SandboxError):
            return Ending("stopped", "infrastructure", CampaignPaused(str(error)))
    for error in flat:
        if isinstance(error, (Move37Error, MemoryStoreError)):
            raise error from None
    raise failures


def _flatten(failures: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in failures.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error


@asynccontextmanager
async def _session(store: Store, campaign: Campaign) -> AsyncIterator[None]:
    """A stretch of running: its wall time counts towards the budget, also when the process is killed."""
    session = store.begin_session(campaign.id, _owner())
    beat = asyncio.create_task(_beat(store, session.id))
    try:
        yield
    finally:
        beat.cancel()
        store.end_session(session.id)


def _owner() -> dict[str, str | int]:
    """Who runs this session: a pid alone says nothing after a reboot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
    }


async def _beat(store: Store, session_id: str) -> None:
    while True:
        await asyncio.sleep(_HEARTBEAT_S)
        store.heartbeat(session_id)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM cancel the running task once; a second Ctrl-C kills as usual."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise AssertionError("a campaign runs inside a task")
    cancel: Callable[[], object] = task.cancel
    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, _once(loop, number, cancel))
        except (ValueError, RuntimeError):  # not in the main thread (tests, notebooks): nothing to install
            continue
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def _once(loop: asyncio.AbstractEventLoop, number: int, cancel: Callable[[], object]) -> Callable[[], None]:
    def handle() -> None:
        loop.remove_signal_handler(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel()

    return handle


def _discard(checkpoint_file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        checkpoint_file.with_name(checkpoint_file.name + suffix).unlink(missing_ok=True)
