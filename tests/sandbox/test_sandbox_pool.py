"""The warm pool: over every backend with the light worker, and its bookkeeping with workers made of air."""

import asyncio
import os
import secrets
import signal
import time

import pytest

from sandbox.conversation import NotStarted
from sandbox.errors import GpuUnavailable
from sandbox.pool import AGE_S, LASTS_S, Ready, WarmPool, warm_size
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind
from tests.sandbox.light import BACKENDS, gone, job, light, opened, running


async def until(condition, within_s=20.0):
    ends = time.monotonic() + within_s
    while not condition() and time.monotonic() < ends:
        await asyncio.sleep(0.02)
    return condition()


@pytest.fixture(params=BACKENDS)
async def warm(request):
    """A sandbox whose light workers carry a token, with one of them waiting."""
    original = opened(request.param)
    token = secrets.token_hex(8)
    sandbox = light(original, token)
    sandbox.keep_warm(1, Limits())
    assert await until(lambda: any(task.done() for task in sandbox._pool._workers))
    yield sandbox, token
    await sandbox._pool.drain()
    await original.close()
    assert await gone(token, 2.0)


async def test_a_job_is_given_the_worker_that_waits_and_another_takes_its_place(warm):
    sandbox, _ = warm
    first = await sandbox.run(job("import os\nfound['pid'] = os.getpid()"))
    assert (first.completed, first.provenance["warm"]) == (True, True)
    assert await until(lambda: any(task.done() for task in sandbox._pool._workers))
    second = await sandbox.run(job("import os\nfound['pid'] = os.getpid()"))
    assert (second.completed, second.provenance["warm"]) == (True, True)


async def test_nothing_that_one_job_leaves_is_there_for_the_next(warm):
    sandbox, _ = warm
    program = """
        import os
        try: open(os.environ["TMPDIR"] + "/left", "w").write("x")
        except OSError: found["refused"] = True
    """
    outcome = await sandbox.run(job(program))
    assert outcome.replies[0]["found"] == ({"refused": True} if sandbox.level == "landlock" else {})
    outcome = await sandbox.run(job("import os\nfound['left'] = os.path.exists(os.environ['TMPDIR'] + '/left')"))
    assert outcome.replies[0]["found"] == {"left": False}


async def test_other_limits_get_a_worker_of_their_own(warm):
    sandbox, _ = warm
    outcome = await sandbox.run(job("found['x'] = 1", memory_bytes=512 << 20))
    assert (outcome.completed, outcome.provenance["warm"]) == (True, False)


async def test_a_waiting_worker_that_was_killed_is_not_given_away(warm):
    sandbox, token = warm
    for pid in running(token):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    await until(lambda: not sandbox._pool._workers[0].result().conversation.waits)
    outcome = await sandbox.run(job("found['x'] = 1"))
    assert (outcome.completed, outcome.provenance["warm"]) == (True, False)


async def test_the_pool_ends_its_workers(warm):
    sandbox, token = warm
    assert running(token)
    await sandbox._pool.drain()
    assert await gone(token, 2.0)


async def test_a_cancelled_job_that_waits_for_its_worker_leaves_none():
    token = secrets.token_hex(8)
    sandbox = light(ProcessSandbox(), token)
    sandbox.keep_warm(1, Limits())
    run = asyncio.create_task(sandbox.run(job("found['x'] = 1")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await sandbox.close()
    assert await gone(token, 2.0)


class Air:
    """A worker that waits, counted."""

    def __init__(self, ended):
        self.waits = True
        self._ended = ended

    async def close(self):
        self._ended.append(self)

    destroy = close


def air_pool(size=1, *, fail=lambda: False):
    started, ended = [], []

    async def start(limits, lifetime_s):
        await asyncio.sleep(0)
        if fail():
            raise NotStarted(JobOutcome(OutcomeKind.INFRASTRUCTURE_FAILED, "start", "no"))
        worker, now = Air(ended), time.monotonic()
        started.append(worker)
        return Ready(worker, worker, now + lifetime_s, now)

    return WarmPool(start, size, Limits()), started, ended


async def test_a_worker_that_would_end_before_the_job_might_is_not_used():
    pool, started, ended = air_pool()
    pool.fill()
    assert await until(lambda: len(started) == 1)
    ready, was_warm = await pool.take(Limits(), AGE_S + LASTS_S + 100)
    assert not was_warm
    assert ready.worker is not started[0]
    assert await until(lambda: started[0] in ended)
    await asyncio.sleep(0.01)
    _, was_warm = await pool.take(Limits(), AGE_S + LASTS_S + 100)  # the pool has learned how long jobs take
    assert was_warm
    await pool.drain()


async def test_a_worker_that_waited_too_long_is_replaced(monkeypatch):
    monkeypatch.setattr("sandbox.pool.AGE_S", 0.05)
    monkeypatch.setattr("sandbox.pool._TEND_S", 0.05)
    pool, started, ended = air_pool()
    pool.fill()
    assert await until(lambda: len(started) >= 3)
    await pool.drain()
    await until(lambda: len(ended) == 2 * len(started))
    assert {id(each) for each in ended} == {id(each) for each in started}


async def test_a_start_that_failed_in_the_background_is_not_the_next_job_s_business():
    failing = [True]
    pool, started, _ = air_pool(fail=lambda: failing[0])
    pool.fill()
    await until(pool._workers[0].done)
    failing[0] = False
    ready, was_warm = await pool.take(Limits(), 1.0)
    assert (ready.worker, was_warm) == (started[0], False)
    await pool.drain()


async def test_nothing_starts_while_a_job_measures_time():
    pool, started, _ = air_pool(size=2)
    pool.fill()
    await until(lambda: len(started) == 2)
    async with pool.stillness():
        await pool.take(Limits(), 1.0)
        await asyncio.sleep(0.05)
        assert len(started) == 2
    assert await until(lambda: len(started) == 3)
    await pool.drain()


async def test_draining_waits_for_workers_that_are_being_replaced():
    pool, started, _ = air_pool()
    pool.fill()
    await until(lambda: started and pool._workers[0].done())
    started[0].waits = False
    slow = asyncio.Event()
    started[0].close = started[0].destroy = slow.wait
    await pool.take(Limits(), 1.0)
    draining = asyncio.create_task(pool.drain())
    await asyncio.sleep(0.02)
    assert not draining.done()
    slow.set()
    await draining


async def test_two_jobs_never_get_the_same_worker():
    pool, _, _ = air_pool(size=3)
    pool.fill()
    taken = await asyncio.gather(*(pool.take(Limits(), 1.0) for _ in range(20)))
    assert len({id(ready.worker) for ready, _ in taken}) == 20
    await pool.drain()


def test_the_pool_is_sized_by_memory():
    assert warm_size(0) == 0
    assert warm_size(1) == 1
    assert 0 < warm_size(10**6) < 10**4


async def test_a_device_is_leased_by_one_job_at_a_time():
    sandbox = light(ProcessSandbox(devices=("7",)))
    greeting = "import os, time\ntime.sleep(0.3)\nfound['devices'] = os.environ['CUDA_VISIBLE_DEVICES']"
    plain = job(greeting)
    wanting = Job("gpu", plain.phases, plain.limits, accelerator=True)
    sandbox = sandbox.with_command(
        (*sandbox._command[:2], sandbox._command[2].replace('"hello", ', '"hello", "accelerator": "pretended", '), "x")
    )
    began = time.monotonic()
    outcomes = await asyncio.gather(sandbox.run(wanting), sandbox.run(wanting), sandbox.run(plain))
    assert [outcome.replies[0]["found"]["devices"] for outcome in outcomes] == ["7", "7", ""]
    assert time.monotonic() - began > 0.6
    assert outcomes[0].provenance["device"] == "7"
    await sandbox.close()


async def test_a_gpu_that_is_not_there_is_named_with_its_remedy():
    with pytest.raises(GpuUnavailable, match="smaller tier"):
        await ProcessSandbox(devices=()).require_gpu(Limits())
    with pytest.raises(GpuUnavailable, match="cannot use it"):
        await light(ProcessSandbox(devices=("0",))).require_gpu(Limits())
