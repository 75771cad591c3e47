"""The campaign: opens experiments in index order, several at a time, under a budget, and says why it stopped.

Resume is the same code as run: what is terminal in the store is skipped, what is open goes on, what is missing is
opened. An experiment waits for its horizon (see `loop.Visibility`), not for whatever is finished.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.errors import AgentError
from evaluator import catalogue
from memory.records import Campaign, CampaignState, Experiment
from memory.store import Store
from move37.errors import BudgetExhausted, CampaignPaused, Interrupted, Move37Error
from move37.graph import ExperimentGraph, checkpoints, discard
from move37.loop import Loop
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
        discard(checkpoint_file)
    return ending


async def _run_experiments(loop: Loop, graph: ExperimentGraph) -> Ending:
    ended = {e.index: asyncio.Event() for e in loop.store.outline(loop.campaign.id) if e.status != "open"}
    for event in ended.values():
        event.set()
    for index in ended:
        await loop.turnstile.settle(index)
    slots = asyncio.Semaphore(loop.config.parallel)
    done = {index: ended.get(index, asyncio.Event()) for index in loop.indices}

    stopping: list[Exception] = []
    in_flight: set[int] = set()

    async def one(index: int) -> None:
        for earlier in range(loop.visibility.first, loop.visibility.horizon(index) + 1):
            await done[earlier].wait()
        async with slots:
            if stopping:
                return
            in_flight.add(index)
            try:
                await graph.run(_open(loop, index).id)
            except (BudgetExhausted, CampaignPaused, AgentError, SandboxError) as error:
                stopping.append(error)
                await loop.turnstile.close()
            else:
                done[index].set()
            finally:
                in_flight.discard(index)

    tasks = {i: asyncio.create_task(one(i), name=f"experiment-{i}") for i in loop.indices if i not in ended}
    try:
        with _interruptible():
            await _until_stopped(tasks, stopping, in_flight)
    except asyncio.CancelledError:
        return Ending("stopped", "interrupted", Interrupted("interrupted; nothing that was finished is lost"))
    finally:
        await _cancel(tasks.values())
    return _ending(stopping) if stopping else Ending("finished", "all experiments done")


async def _until_stopped(
    tasks: Mapping[int, "asyncio.Task[None]"], stopping: Collection[Exception], in_flight: Collection[int]
) -> None:
    """Waits for all; once something stopped the campaign, for what is in flight only: it is paid for and ends by itself
    at its next budget check. Errors of the store and bugs of ours are raised."""
    waiting = set(tasks.values())
    while waiting:
        finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks.values():  # in index order, so that of two errors the same one is told every time
            if task in finished and not task.cancelled():
                task.result()
        if stopping:
            for index, task in tasks.items():
                if index not in in_flight:
                    task.cancel()


async def _cancel(tasks: Collection["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _open(loop: Loop, index: int) -> Experiment:
    """Opens the experiment, or finds it where an interrupted run left it."""
    config, store = loop.config, loop.store
    starter = index < loop.visibility.proposals
    existing = store.experiment_at(loop.campaign.id, index)
    if existing is None:
        if not starter:
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
    if loop.visibility.node is not None:
        return  # a fork is not made where nothing completed is visible
    starters = loop.visibility.experiments(loop.visibility.proposals)
    if not any(e.status == "completed" for e in starters):
        reasons = "; ".join(f"{e.id}: {e.reason} ({e.message})" for e in starters)
        raise CampaignPaused(f"no starting program completed its trials, so there is nothing to improve on: {reasons}")


def _ending(stopping: Sequence[Exception]) -> Ending:
    """The one reason to tell: a spent budget before all, else what came first."""
    budget = next((error for error in stopping if isinstance(error, BudgetExhausted)), None)
    if budget is not None:
        return Ending("stopped", f"budget_{budget.kind}", budget)
    first = stopping[0]
    if isinstance(first, AgentError):
        return Ending("stopped", "model", CampaignPaused(f"the model cannot be used: {first}"))
    return Ending("stopped", "infrastructure", CampaignPaused(str(first)))


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
