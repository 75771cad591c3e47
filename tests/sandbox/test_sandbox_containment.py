"""The contract of `Sandbox`, tried on every backend of this machine with programs that behave badly.

Most programs run under a light worker (`light.py`). The evaluator's own worker is used where its behaviour matters.
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluator import catalogue
from evaluator.trial import TrialRequest, score_trial, trial_phases
from sandbox import selection
from sandbox.errors import IsolationRequired, SandboxUnavailable
from sandbox.landlock import landlock_gaps
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, Limits, OutcomeKind
from sandbox.selection import NO_ISOLATION, open_sandbox
from tests.sandbox.light import BACKENDS, ISOLATED, gone, job, light, opened, running

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=BACKENDS)
async def sandbox(request):
    sandbox = opened(request.param)
    yield sandbox
    await sandbox.close()


@pytest.fixture(params=ISOLATED)
async def isolated(request):
    sandbox = opened(request.param)
    yield sandbox
    await sandbox.close()


# The evaluator's own worker: four jobs at once per backend, then one question each.

BUILD = "\ndef build_mixer(d_model, layer_index, n_layers):\n"
EVALUATED = {
    "reference": catalogue.source("short_convolution"),
    "raises": "import torch" + BUILD + "    raise ValueError('no such layer')\n",
    "leaves": "import os" + BUILD + "    os._exit(0)\n",
    "garbage": "import os"
    + BUILD
    + "    for fd in range(1, 64):\n        try: os.write(fd, b'garbage ' * 100)\n        except OSError: pass\n"
    + "    while True: pass\n",
}
REQUEST = TrialRequest("sequence", "micro", "recall", 0)


@pytest.fixture(scope="module", params=BACKENDS)
def evaluated(request):
    """Outcomes by program, and the progress messages of the reference's trial."""
    sandbox = opened(request.param)
    progress = []

    async def run(name, source):
        on_progress = progress.append if name == "reference" else None
        return await sandbox.run(Job(name, trial_phases(source, REQUEST)), on_progress=on_progress)

    async def run_all():
        try:
            return await asyncio.gather(*(run(name, source) for name, source in EVALUATED.items()))
        finally:
            await sandbox.close()

    return dict(zip(EVALUATED, asyncio.run(run_all()), strict=True)), progress


def test_a_trial_of_a_reference_architecture_completes_and_can_be_scored(evaluated):
    outcomes, progress = evaluated
    outcome = outcomes["reference"]
    assert (outcome.kind, outcome.message) == (OutcomeKind.COMPLETED, "")
    result = score_trial(REQUEST, outcome.replies, outcome.phase_wall_s)
    assert result.status == "ok", result
    assert progress[-1]["phase"] == "train"
    assert outcome.provenance["hello"]["threads"] == 1
    assert outcome.exit_code == 0
    assert outcome.peak_memory_bytes > 50 << 20


def test_an_exception_in_a_program_is_reported_with_its_line(evaluated):
    outcome = evaluated[0]["raises"]
    assert outcome.kind is OutcomeKind.CANDIDATE_FAILED
    assert outcome.line == 3
    assert "no such layer" in outcome.message
    assert "Traceback" in outcome.log


def test_leaving_with_exit_code_0_is_not_success(evaluated):
    outcome = evaluated[0]["leaves"]
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "exception")
    assert "exited with code 0" in outcome.message


def test_garbage_on_every_file_descriptor_breaks_the_protocol_and_nothing_else(evaluated):
    outcome = evaluated[0]["garbage"]
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "protocol")


# The light worker


async def test_an_endless_loop_is_killed_at_its_deadline_and_leaves_nothing(sandbox):
    token = secrets.token_hex(8)
    outcome = await light(sandbox, token).run(
        job("import signal\nsignal.signal(15, 1)\nwhile True: pass", timeout_s=0.5)
    )
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "timeout")
    assert outcome.wall_s < 10
    assert await gone(token, 0.5)


async def test_cancelling_a_job_kills_it(sandbox):
    token = secrets.token_hex(8)
    task = asyncio.create_task(light(sandbox, token).run(job("while True: pass", timeout_s=60)))
    while not running(token):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(token, 0.5)


async def test_a_daemon_that_a_program_leaves_behind_is_gone_afterwards(sandbox):
    token = secrets.token_hex(8)
    program = f"""
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True: time.sleep(1)
            os._exit(0)
        found["token"] = "{token}"
    """
    outcome = await light(sandbox, token).run(job(program))
    assert outcome.completed, outcome
    assert await gone(token)


async def test_daemons_without_a_trace_of_where_they_came_from_are_found():
    """Each forked by a process that ends at once, with a fresh environment and a session of its own."""
    token = secrets.token_hex(8)
    daemon = (sys.executable, "-c", "import time; time.sleep(60)", token)
    program = f"""
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve({sys.executable!r}, {daemon!r}, {{}})
            os._exit(0)
    """
    sandbox = ProcessSandbox()
    for _ in range(10):
        outcomes = await asyncio.gather(*(light(sandbox, token).run(job(program)) for _ in range(4)))
        assert all(outcome.completed for outcome in outcomes), outcomes
    assert await gone(token, 0.5)


async def test_memory_is_limited(sandbox):
    outcome = await light(sandbox).run(
        job("import os\nx = bytearray(os.urandom(1)) * (600 << 20)", memory_bytes=256 << 20)
    )
    assert outcome.kind is OutcomeKind.CANDIDATE_FAILED
    if sandbox.level == "docker":
        assert outcome.reason == "out_of_memory"
    else:
        assert outcome.reason == "exception"
        assert "MemoryError" in outcome.log


async def test_the_kernel_ends_a_worker_before_the_orchestrator_when_memory_runs_out(sandbox):
    outcome = await light(sandbox).run(job("found['adjusted'] = int(open('/proc/self/oom_score_adj').read())"))
    assert outcome.completed, outcome
    assert outcome.replies[0]["found"]["adjusted"] == 1000


async def test_a_flood_of_prints_is_bounded_and_harms_nobody(sandbox):
    chunks = 1024 if sandbox.level != "docker" else 128
    program = (
        f"data = b'flood ' * (1 << 18)\nfor _ in range({chunks}): os.write(1, data[:1 << 20])\nos.write(2, b'THE END')"
    )
    outcome = await light(sandbox).run(job("import os\n" + program, timeout_s=60))
    assert outcome.completed, outcome
    assert outcome.log.startswith("flood ")
    assert outcome.log.endswith("THE END")
    assert len(outcome.log) < Limits().log_bytes + 100


async def test_the_environment_of_the_orchestrator_does_not_get_in(sandbox, monkeypatch):
    canary = secrets.token_hex(16)
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    program = """
        import os
        found["environment"] = dict(os.environ)
    """
    outcome = await light(sandbox).run(job(program))
    assert canary not in str(outcome.replies)
    assert outcome.replies[0]["found"]["environment"]["OMP_NUM_THREADS"] == "1"


async def test_an_isolated_program_finds_nothing_of_the_host(isolated, monkeypatch, tmp_path):
    canary = secrets.token_hex(16)
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    tmp_path.joinpath("secret").write_text(canary)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        program = f"""
            import glob, os, socket
            def attempt(name, action):
                try: found[name] = repr(action())[:200]
                except Exception as error: found[name] = None
            def environments():
                canary = {canary.encode()!r}
                return [n for n in glob.glob("/proc/[0-9]*/environ") if canary in open(n, "rb").read()] or 1 / 0
            port = {listener.getsockname()[1]}
            attempt("network", lambda: socket.create_connection(("127.0.0.1", port), 1))
            attempt("gateway", lambda: socket.create_connection(("172.17.0.1", port), 1))
            attempt("file", lambda: open({str(tmp_path / "secret")!r}).read())
            attempt("repository", lambda: os.listdir({str(REPOSITORY / "tests")!r}))
            attempt("docker", lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"))
            attempt("shadow", lambda: open("/etc/shadow").read())
            attempt("environment", environments)
            attempt("root", lambda: open("/x", "w"))
            attempt("device", lambda: open("/dev/x", "w"))
            attempt("evaluator", lambda: open("/opt/move37/evaluator/wire.py", "a"))
            attempt("core pattern", lambda: open("/proc/sys/kernel/core_pattern", "a"))
            attempt("become root", lambda: os.setuid(0))
            attempt("orchestrator", lambda: os.kill({os.getpid()}, 0))
            if {isolated.level != "landlock"}:
                open("/tmp/x", "w").write("mine")
        """
        outcome = await light(isolated).run(job(program))
    assert outcome.completed, outcome
    reached = {name for name, answer in outcome.replies[0]["found"].items() if answer is not None}
    assert reached == set()


async def test_an_isolated_program_cannot_fork_or_write_without_limit(isolated):
    program = """
        import os, time
        forks = 0
        try:
            for _ in range(200):
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                forks += 1
        except OSError: pass
        written = 0
        try:
            for number in range(8):
                with open(f"/tmp/{number}", "wb") as file:
                    while file.write(bytes(1 << 20)) and file.tell() < 8 << 20: pass
                    written += file.tell()
        except OSError: pass
        found.update(forks=forks, written=written)
    """
    outcome = await light(isolated).run(job(program, pids=32, tmp_bytes=16 << 20))
    assert outcome.completed, outcome
    assert 0 < outcome.replies[0]["found"]["forks"] < 32
    assert outcome.replies[0]["found"]["written"] <= 16 << 20


async def test_two_jobs_at_once_do_not_see_each_other(isolated):
    if isolated.level == "landlock":  # one process table and no scratch directory: see its gaps
        assert any("process ids" in gap for gap in landlock_gaps())
        return
    program = """
        import os, time
        open("/tmp/mine", "x").write("x")
        time.sleep(0.3)
        found["processes"] = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    """
    outcomes = await asyncio.gather(*(light(isolated).run(job(program)) for _ in range(2)))
    assert all(outcome.completed for outcome in outcomes)
    assert all(max(outcome.replies[0]["found"]["processes"]) < 50 for outcome in outcomes)


ORCHESTRATOR = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from tests.sandbox import light as contract
sandbox = contract.opened(sys.argv[1])
asyncio.run(contract.light(sandbox, sys.argv[2]).run(contract.job("while True: pass", timeout_s=300)))
"""


async def test_a_worker_does_not_outlive_an_orchestrator_that_was_killed(sandbox, tmp_path):
    token = secrets.token_hex(8)
    script = ORCHESTRATOR.format(repository=str(REPOSITORY))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    orchestrator = subprocess.Popen([sys.executable, "-c", script, sandbox.level, token], env=environment)
    try:
        ends = time.monotonic() + 30
        while len(running(token)) < 2 and orchestrator.poll() is None and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # into the program's loop
        assert len(running(token)) >= 2
    finally:
        orchestrator.send_signal(signal.SIGKILL)
        orchestrator.wait()
    killed_at = time.monotonic()
    if sandbox.level == "docker":
        while (left := await asyncio.to_thread(containers_of, orchestrator.pid)) and time.monotonic() < killed_at + 1.0:
            await asyncio.sleep(0.02)
        assert left == []
    assert await gone(token, 3.0)
    while list(tmp_path.iterdir()) and time.monotonic() < killed_at + 3.0:
        await asyncio.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def containers_of(pid):
    """Containers that name this process as their owner, running or not."""
    from sandbox.engine import connect
    from sandbox.ownership import OWNER_LABEL

    engine = connect()
    try:
        found = engine.client.api.containers(all=True, filters={"label": OWNER_LABEL})
        return [each["Id"] for each in found if each["Labels"][OWNER_LABEL].startswith(f"{pid}:")]
    finally:
        engine.close()


async def test_a_worker_that_cannot_start_is_our_fault(sandbox):
    outcome = await sandbox.with_command(("/no/such/worker",)).run(job(""))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "start")


# Choosing one


async def test_the_sandbox_asked_for_is_opened_after_its_self_test(sandbox):
    chosen = await open_sandbox(sandbox.level, programs_trusted=True, accept_unsafe=False)
    try:
        assert chosen.sandbox.level == sandbox.level
        assert (NO_ISOLATION in chosen.warnings) is not sandbox.isolated
    finally:
        await chosen.sandbox.close()


async def test_programs_of_a_language_model_need_isolation():
    with pytest.raises(IsolationRequired, match="--accept-unsafe"):
        await open_sandbox("process", programs_trusted=False, accept_unsafe=False)


async def unavailable(equipment):
    raise SandboxUnavailable("landlock", "the kernel has none", "Use a newer one.")


async def test_nothing_is_downgraded_in_silence(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(selection._OPENERS, "landlock", unavailable)
    with pytest.raises(IsolationRequired, match="no Docker engine answers") as raised:
        await open_sandbox("auto", programs_trusted=False, accept_unsafe=False)
    assert "bwrap is not on PATH" in str(raised.value)
    chosen = await open_sandbox("auto", programs_trusted=True, accept_unsafe=False)
    assert chosen.sandbox.level == "process"
    assert len(chosen.warnings) == 4


async def test_a_sandbox_that_does_not_hold_is_refused():
    from sandbox.selftest import self_test

    class Boastful(ProcessSandbox):
        isolated = True

    with pytest.raises(SandboxUnavailable, match="the network is reachable"):
        await self_test(Boastful(), python=sys.executable)
