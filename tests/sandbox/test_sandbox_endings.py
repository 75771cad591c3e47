"""Endings that nothing may cut short: of steps, of jobs, of sandboxes; and whose failure it is when time runs out."""

import asyncio
import os
import socket
import time

import pytest

from evaluator.phases import Phase
from sandbox import selftest, uids
from sandbox.attach import ContainerWorker
from sandbox.conversation import Ending, converse
from sandbox.errors import GpuUnavailable, SandboxUnavailable
from sandbox.pooled import Holdings, PooledSandbox
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind
from sandbox.uids import Uid
from sandbox.waiting import ended, to_the_end
from tests.sandbox.scripted import HELLO, TRAIN, Scripted, done, message

GREETING = message(HELLO | {"accelerator": "pretended"})
GPU_JOB = Job("gpu", (TRAIN,), Limits(), accelerator=True)
SILENT = Job("silent", (Phase("train", TRAIN.send, None, 60.0),))


class Lingering(Scripted):
    """A worker whose end takes until `may_end`."""

    def __init__(self, *script):
        super().__init__(*script)
        self.ending, self.may_end, self.destroyed = asyncio.Event(), asyncio.Event(), False

    async def destroy(self):
        self.ending.set()
        await self.may_end.wait()
        self.destroyed = True


class Pretended(PooledSandbox):
    """A sandbox of scripted workers."""

    level = "pretended"
    isolated = False

    def __init__(self, holdings, answers):
        super().__init__(holdings)
        self._answers = answers
        self.workers = []
        self.released = 0

    def provenance(self):
        return {"level": self.level}

    def sibling(self):
        return Pretended(self._holdings, self._answers)

    async def _start(self, limits, lifetime_s, *, device=""):
        self.workers.append(worker := Lingering(GREETING, self._answers, Ending(0) if self._answers else None))
        return worker

    async def _release(self):
        self.released += 1


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_step_runs_to_its_end_however_often_its_caller_is_cancelled():
    may_end, reached = asyncio.Event(), []

    async def step():
        await may_end.wait()
        reached.append(True)

    task = asyncio.create_task(to_the_end(step()))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached == [True]


async def test_a_step_that_nobody_cancels_gives_its_result_or_raises():
    async def fails():
        raise ZeroDivisionError

    assert await to_the_end(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ZeroDivisionError):
        await to_the_end(fails())
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    await ended(cancelled)  # how it ended is the caller's to ask


async def test_a_device_is_free_only_when_its_worker_has_ended_although_the_job_was_cancelled():
    sandbox = Pretended(Holdings.of(("0",)), [done()])
    first = asyncio.create_task(sandbox.run(GPU_JOB))
    await until(lambda: sandbox.workers and sandbox.workers[0].ending.is_set())
    second = asyncio.create_task(sandbox.run(GPU_JOB))
    for _ in range(3):
        first.cancel()
        await asyncio.sleep(0.02)
    assert not first.done()
    assert len(sandbox.workers) == 1
    sandbox.workers[0].may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: len(sandbox.workers) == 2)
    assert sandbox.workers[0].destroyed
    sandbox.workers[1].may_end.set()
    assert (await second).completed


async def test_a_worker_that_greets_a_job_which_was_cancelled_is_ended_first():
    sandbox = Pretended(Holdings(), [])
    task = asyncio.create_task(sandbox.run(SILENT))
    await until(lambda: sandbox.workers)
    task.cancel()
    await until(sandbox.workers[0].ending.is_set)
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    sandbox.workers[0].may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sandbox.workers[0].destroyed


async def test_closing_ends_the_jobs_that_run_a_sibling_s_too_and_blames_nobody():
    sandbox = Pretended(Holdings(), [])
    sibling = sandbox.sibling()
    tasks = [asyncio.create_task(each.run(SILENT)) for each in (sandbox, sibling)]
    await until(lambda: sandbox.workers and sibling.workers)
    workers = (*sandbox.workers, *sibling.workers)
    closing = asyncio.create_task(sandbox.close())
    await until(lambda: all(worker.ending.is_set() for worker in workers))
    assert not closing.done()
    for worker in workers:
        worker.may_end.set()
    await closing
    for outcome in await asyncio.gather(*tasks):
        assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "lost")
        assert "closed" in outcome.message
    assert all(worker.destroyed for worker in workers)
    await sandbox.close()
    await sibling.close()
    assert (sandbox.released, sibling.released) == (1, 0)
    with pytest.raises(SandboxUnavailable, match="closed"):
        await sibling.run(SILENT)


async def test_a_sandbox_that_is_being_closed_is_closed_when_both_callers_return():
    sandbox = Pretended(Holdings(), [])
    job_task = asyncio.create_task(sandbox.run(SILENT))
    await until(lambda: sandbox.workers)
    first = asyncio.create_task(sandbox.close())
    await until(sandbox.workers[0].ending.is_set)
    second = asyncio.create_task(sandbox.close())
    await asyncio.sleep(0.02)
    assert not second.done()
    sandbox.workers[0].may_end.set()
    await asyncio.gather(first, second, job_task)
    assert sandbox.released == 1


async def test_a_deadline_that_passes_while_waiting_for_a_device_is_not_the_candidate_s():
    sandbox = Pretended(Holdings.of(("0",)), [done()])
    first = asyncio.create_task(sandbox.run(GPU_JOB))
    await until(lambda: sandbox.workers)
    outcome = await sandbox.run(GPU_JOB, deadline_s=0.1)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "start")
    assert "0.1 s" in outcome.message
    sandbox.workers[0].may_end.set()
    assert (await first).completed


async def test_no_device_found_is_asked_about_again(monkeypatch):
    found = [(), ("0",)]
    monkeypatch.setattr("sandbox.pooled.present", lambda: found.pop(0))
    sandbox = Pretended(Holdings.of(None), [done()])
    with pytest.raises(GpuUnavailable):
        await sandbox.run(GPU_JOB)
    task = asyncio.create_task(sandbox.run(GPU_JOB))
    await until(lambda: sandbox.workers)
    sandbox.workers[0].may_end.set()
    assert (await task).provenance["device"] == "0"


class Half:
    """A sandbox whose greeting fails at once and whose probes take their time."""

    level, isolated = "half", True

    def __init__(self, over, *, fails):
        self.over, self._fails = over, fails

    async def run(self, job):
        if self._fails:
            raise ZeroDivisionError
        await asyncio.sleep(0.05)
        self.over.append(job)
        return JobOutcome(OutcomeKind.COMPLETED, "ok", "", provenance={"hello": {"broken": []}})

    def with_command(self, command):
        return Half(self.over, fails=False)


async def test_a_self_test_that_fails_has_waited_for_all_its_jobs():
    over = []
    with pytest.raises(ZeroDivisionError):
        await selftest.self_test(Half(over, fails=True), python="python3")
    assert len(over) == 2


class Unread(Scripted):
    """A worker behind a connection that does not say that there is no reader any more; it ends as told, 0.05 s on."""

    async def send(self, data):
        await asyncio.sleep(0.05)
        self._pieces.put_nowait(None)
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("ending", "kind", "reason"),
    [
        (Ending(None, lost="killed by somebody"), OutcomeKind.INFRASTRUCTURE_FAILED, "lost"),
        (Ending(137, out_of_memory=True), OutcomeKind.CANDIDATE_FAILED, "out_of_memory"),
        (Ending(0), OutcomeKind.CANDIDATE_FAILED, "exception"),
    ],
)
async def test_a_worker_that_ends_while_it_is_written_to_is_explained_by_its_end(ending, kind, reason):
    began = time.monotonic()
    outcome = await converse(Unread(message(HELLO), [done()], ending), SILENT, provenance={})
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert time.monotonic() - began < 10  # and not the minute that writing may take


def test_no_two_jobs_have_the_same_user_id(monkeypatch):
    monkeypatch.setattr(uids, "UID_RANGE", range(5_000_000, 5_000_003))
    held = [Uid() for _ in range(3)]
    assert {uid.number for uid in held} == {5_000_000, 5_000_001, 5_000_002}
    held[1].release()
    held[1].release()
    assert Uid().number == held[1].number


def test_a_user_id_that_has_processes_is_not_given_away(monkeypatch):
    monkeypatch.setattr(uids, "_in_use", set())
    monkeypatch.setattr(uids, "UID_RANGE", [os.geteuid(), 5_000_000])
    assert [Uid().number, len(uids._in_use)] == [5_000_000, 1]


async def test_reading_a_flood_leaves_others_their_turn():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    worker = ContainerWorker.__new__(ContainerWorker)
    worker._socket, worker._stream_ended = ours, asyncio.Event()
    heard = bytearray()
    turns = 0
    frame = b"\x01\x00\x00\x00" + (1 << 10).to_bytes(4, "big") + bytes(1 << 10)

    async def counts():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def flood():
        with theirs:
            theirs.sendall(frame * 20_000)

    counting = asyncio.create_task(counts())
    with ours:
        await asyncio.gather(worker.pump(heard.extend, heard.extend), asyncio.to_thread(flood))
    counting.cancel()
    assert len(heard) == 20_000 << 10
    assert turns > 20
