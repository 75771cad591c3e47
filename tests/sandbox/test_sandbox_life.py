"""Life and death of containers: killed by others, lost by their engine, refused by it, and what is left of it all.

On an engine of the tests' own, with an image that holds an interpreter and the launcher, under the light worker.
"""

import asyncio
import gc
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from evaluator.phases import Phase
from evaluator.wire import arrays, control
from sandbox import containers, launcher, ownership
from sandbox import engine as engines
from sandbox.errors import DiskFull, GpuUnavailable, ImageMissing, RuntimeMissing
from sandbox.pooled import Holdings
from sandbox.protocol import Job, Limits, OutcomeKind
from sandbox.reaper import Reaper
from sandbox.watch import EngineWatch
from tests.sandbox import private_engine
from tests.sandbox.light import gone, job, light, running
from tests.sandbox.scripted import HELLO, message

pytestmark = [
    pytest.mark.docker,
    # The SDK leaves the socket of a refused connection to the garbage collector, and engines go away here.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

TAG = "move37-light:test"


@pytest.fixture(scope="module")
def private():
    """An engine with the light image, or a skip that says why not."""
    if why := private_engine.unavailable():
        pytest.skip(why)
    try:
        shared = engines.connect()
    except engines.SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    try:
        base = engines.inspect_image(shared).base_image_id
    except engines.ImageMissing as missing:
        pytest.skip(str(missing))
    finally:
        shared.close()
    engine = private_engine.PrivateEngine(Path(tempfile.mkdtemp(prefix="move37-engine-")))
    try:
        engine.start()
        engine.load(base)
        with_launcher(engine, base)
        yield engine
    finally:
        engine.close()


def with_launcher(engine, base):
    """The base image and the launcher, as the image that the backend expects: built without a shell."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in {
            "Dockerfile": f"FROM {base}\nCOPY launcher.py /opt/move37/launcher.py\nWORKDIR /opt/move37\n".encode(),
            "launcher.py": Path(launcher.__file__).read_bytes(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    command = ["docker", "-H", engine.address, "build", "-q", "-t", TAG, "-"]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    subprocess.run(command, input=context.getvalue(), env=environment, check=True, capture_output=True, timeout=120)


@pytest.fixture
async def docker(private, monkeypatch):
    """A docker sandbox on the private engine."""
    monkeypatch.setenv("DOCKER_HOST", private.address)
    sandbox = await asyncio.to_thread(open_light)
    yield sandbox
    await sandbox.close()
    assert leftovers(private) == []
    gc.collect()  # what the SDK left is collected here, and not in another module's test


def open_light(*, devices=(), **settings):
    engine = engines.connect()
    image = engines.inspect_image(engine, TAG)
    version = containers.engine_version(engine)
    watch = EngineWatch(engine)
    return containers.DockerSandbox(engine, image, watch, Reaper(), Holdings.of(devices), version=version, **settings)


def leftovers(private):
    command = ["docker", "-H", private.address, "ps", "-aq", "--filter", f"label={ownership.LABEL}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def cli(private, *command):
    subprocess.run(["docker", "-H", private.address, *command], capture_output=True, check=True)


GREETING = f"os.write(1, {message(HELLO)!r})"
SPIN = "import time\nwhile True: time.sleep(0.1)"


async def spinning(docker, *, timeout_s=60.0):
    """A job under way: its task, and the token that its processes carry."""
    token = secrets.token_hex(8)
    task = asyncio.create_task(light(docker, token).run(job(SPIN, timeout_s=timeout_s)))
    while not running(token):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    return task, token


@pytest.mark.parametrize("how", ["kill", "stop", "rm"])
async def test_a_container_that_somebody_ends_is_not_the_program_s_failure(docker, private, how):
    task, token = await spinning(docker)
    [container] = leftovers(private)
    command = {"kill": ("kill",), "stop": ("stop", "-t", "0"), "rm": ("rm", "-f")}[how]
    await asyncio.to_thread(cli, private, *command, container)
    outcome = await task
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "lost"), outcome
    assert await gone(token, 2.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_program_that_ends_itself_is_to_blame(docker, number):
    outcome = await light(docker).run(job(f"import os\nos.kill(os.getpid(), {int(number)})\nos.pause()"))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "exception"), outcome


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_restart_of_the_engine_loses_a_job_and_blames_nobody(docker, private, number):
    task, token = await spinning(docker)
    await asyncio.to_thread(private.stop, number)
    outcome = await asyncio.wait_for(task, 60)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "lost"), outcome
    meanwhile = await light(docker).run(job("found['x'] = 1"))
    assert (meanwhile.kind, meanwhile.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "engine"), meanwhile
    await asyncio.to_thread(private.start)
    again = await light(docker).run(job("found['x'] = 1"))
    assert again.completed, again
    assert await gone(token, 5.0)
    await docker._engine.tidied()
    assert leftovers(private) == []


async def test_what_could_not_be_removed_while_the_engine_was_away_is_removed_when_it_is_back(private, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", private.address)
    sandbox = await asyncio.to_thread(open_light)
    task, _ = await spinning(sandbox)
    await asyncio.to_thread(private.stop, signal.SIGKILL)
    outcome = await asyncio.wait_for(task, 60)
    assert outcome.reason == "lost", outcome
    reaper = sandbox._reaper.pid
    await sandbox.close()
    assert len(sandbox._engine.leftovers) == 1
    await asyncio.to_thread(private.start)
    ends = time.monotonic() + 20
    while (left := leftovers(private)) and time.monotonic() < ends:
        await asyncio.sleep(0.1)
    assert left == []
    ends = time.monotonic() + 20
    while time.monotonic() < ends and (alive := alive_as("sandbox.reaper", reaper)):
        await asyncio.sleep(0.1)
    assert not alive


def alive_as(name, pid):
    try:
        return name in Path(f"/proc/{pid}/cmdline").read_text()  # a zombie has none
    except FileNotFoundError:
        return False


async def test_a_container_that_somebody_ends_while_it_is_written_to_is_not_the_program_s_failure(docker, private):
    """Behind the attach socket nobody says that there is no reader any more."""
    deaf = f"import os, time\n{GREETING}\ntime.sleep(300)"
    sent = (control({"type": "job"}), arrays({"tokens": np.zeros(4 << 20, np.uint8)}))
    sandbox = docker.with_command(("python3", "-c", deaf))
    task = asyncio.create_task(sandbox.run(Job("deaf", (Phase("only", sent, None, 60.0),))))
    while not (found := leftovers(private)):
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.5)
    await asyncio.to_thread(cli, private, "kill", *found)
    outcome = await asyncio.wait_for(task, 10)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "lost"), outcome


async def test_a_gpu_that_the_engine_cannot_hand_in_is_named_and_leaves_no_container(private, monkeypatch):
    """The engine without a driver for GPUs: the one that the environment names."""
    engine = engines.connect()
    image = engines.inspect_image(engine)
    watch, version = EngineWatch(engine), containers.engine_version(engine)
    sandbox = containers.DockerSandbox(engine, image, watch, Reaper(), Holdings.of(("0",)), version=version)
    try:
        if "nvidia" in engine.client.info()["Runtimes"]:
            pytest.skip("this engine can hand in GPUs")
        with pytest.raises(GpuUnavailable, match="NVIDIA Container Toolkit"):
            await sandbox.run(Job("gpu", job("").phases, accelerator=True))
        mine = {"label": f"{ownership.OWNER_LABEL}={ownership.owner()}"}
        assert engine.client.api.containers(all=True, filters=mine) == []
    finally:
        await sandbox.close()


async def test_a_job_that_needs_a_gpu_gets_one_device_through_the_driver_s_hook(private, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", private.address)
    sandbox = await asyncio.to_thread(lambda: open_light(devices=("GPU-5",)))
    greets = light(sandbox)._command[2].replace('"hello", ', '"hello", "accelerator": "pretended", ')
    try:
        program = "import os\nfound['environment'] = dict(os.environ)"
        pretending = sandbox.with_command(("python3", "-c", greets, "x"))
        outcome = await pretending.run(Job("gpu", job(program).phases, accelerator=True))
        assert outcome.completed, outcome
        environment = outcome.replies[0]["found"]["environment"]
        assert environment["NVIDIA_VISIBLE_DEVICES"] == "GPU-5"
        assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
        assert outcome.provenance["device"] == "GPU-5"
        called = private.hook_trace.read_text()
        assert called.startswith("prestart")
        assert json.loads(called[called.index("{") :])["status"] in ("created", "creating")
        plain = await pretending.run(job(program))
        assert "NVIDIA_VISIBLE_DEVICES" not in plain.replies[0]["found"]["environment"]
    finally:
        await sandbox.close()


async def test_a_runtime_is_used_when_asked_for_and_named_when_unknown(private, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", private.address)
    sandbox = await asyncio.to_thread(lambda: open_light(runtime=private_engine.RUNTIME))
    try:
        outcome = await light(sandbox).run(job("found['x'] = 1"))
        assert outcome.completed, outcome
        assert outcome.provenance["runtime"] == private_engine.RUNTIME
        assert "create" in private.runtime_trace.read_text()
        with pytest.raises(RuntimeMissing, match="no-such-runtime"):
            containers.require_runtime(sandbox._engine, "no-such-runtime")
    finally:
        await sandbox.close()
    unknown = await asyncio.to_thread(lambda: open_light(runtime="no-such-runtime"))
    try:
        with pytest.raises(RuntimeMissing, match="no-such-runtime"):
            await light(unknown).run(job(""))
    finally:
        await unknown.close()


async def test_an_image_that_has_gone_is_named(docker, private):
    docker._image = containers.ImageInfo(TAG, "sha256:" + "0" * 64, "", True, "", "", 0)
    with pytest.raises(ImageMissing, match="sandbox build"):
        await light(docker).run(job(""))


async def test_a_full_disk_is_named(private, monkeypatch):
    """The engine's own words, since filling its disk would fill this machine's."""
    from docker.errors import APIError

    error = APIError("500", explanation="mkdir /var/lib/docker/overlay2/x: no space left on device")
    assert isinstance(containers._lasting(error, TAG, ""), DiskFull)
    assert containers._lasting(APIError("500", explanation="something else"), TAG, "") is None


ORCHESTRATOR = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from tests.sandbox import test_sandbox_life as life
from tests.sandbox.light import job, light
from sandbox.protocol import Limits
async def main():
    sandbox = life.open_light()
    light(sandbox, sys.argv[1]).keep_warm(2, Limits())
    program = {program!r}
    await asyncio.gather(*(light(sandbox, sys.argv[1]).run(job(program, timeout_s=300)) for _ in range(3)))
asyncio.run(main())
"""

# The launcher watches the worker's stdin; a program may stop it. Then the reaper alone is left.
STOPS_ITS_LAUNCHER = """
import os, signal, time
os.kill(os.getppid(), signal.SIGSTOP)
while True: time.sleep(1)
"""


async def test_one_second_after_kill_9_no_container_is_left(private, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", private.address)
    token = secrets.token_hex(8)
    script = ORCHESTRATOR.format(repository=str(Path(__file__).parents[2]), program=STOPS_ITS_LAUNCHER)
    orchestrator = subprocess.Popen([sys.executable, "-c", script, token])
    try:
        ends = time.monotonic() + 60
        while len(leftovers(private)) < 5 and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        assert len(leftovers(private)) == 5
    finally:
        orchestrator.kill()
        orchestrator.wait()
        killed_at = time.monotonic()
    while (left := leftovers(private)) and time.monotonic() < killed_at + 1.0:
        await asyncio.sleep(0.02)
    assert left == []
    assert await gone(token, 1.0)


async def test_the_reaper_leaves_with_its_orchestrator(docker):
    reaper = Reaper()
    pid = reaper.pid
    ends = time.monotonic() + 10
    while "sandbox.reaper" not in Path(f"/proc/{pid}/cmdline").read_text() and time.monotonic() < ends:
        await asyncio.sleep(0.01)  # it is not that program yet
    assert "sandbox.reaper" in Path(f"/proc/{pid}/cmdline").read_text()
    reaper.close()
    reaper.close()
    assert not Path(f"/proc/{pid}").exists()


async def test_waiting_workers_are_replaced_after_a_restart_of_the_engine(docker, private, monkeypatch):
    monkeypatch.setattr("sandbox.pool._TEND_S", 0.2)
    warm = light(docker, secrets.token_hex(8))
    warm.keep_warm(1, Limits())
    while not any(task.done() for task in warm._pool._workers):
        await asyncio.sleep(0.05)
    await asyncio.to_thread(private.stop, signal.SIGKILL)
    await asyncio.to_thread(private.start)
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        outcome = await warm.run(job("found['x'] = 1"))
        if outcome.completed and outcome.provenance["warm"]:
            break
        await asyncio.sleep(0.3)
    assert outcome.completed
    assert outcome.provenance["warm"]
    await warm._pool.drain()
