"""What is peculiar to landlock: it runs without scratch, the rules hold, and the gaps are what it says they are."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluator import catalogue
from evaluator.gating import gate_phases, read_gate_reply
from evaluator.profile import profile_phases, read_profile_reply
from evaluator.trial import TrialRequest, score_trial, trial_phases
from sandbox import landlock
from sandbox.errors import SandboxUnavailable
from sandbox.landlock import LandlockSandbox, landlock_gaps
from sandbox.process import ProcessSandbox
from sandbox.protocol import Job, OutcomeKind
from tests.sandbox.light import job, light

pytestmark = pytest.mark.landlock

REQUEST = TrialRequest("sequence", "micro", "recall", 0)


@pytest.fixture
async def sandbox():
    try:
        sandbox = LandlockSandbox()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    yield sandbox
    await sandbox.close()


async def test_a_trial_gives_the_same_bits_as_without_isolation(sandbox):
    source = catalogue.source("gated_recurrence")
    confined = await sandbox.run(Job("confined", trial_phases(source, REQUEST)))
    assert confined.completed, (confined.message, confined.log)
    free = await ProcessSandbox().run(Job("free", trial_phases(source, REQUEST)))
    scores = [score_trial(REQUEST, outcome.replies, (1.0,) * 4).score for outcome in (confined, free)]
    assert scores[0] == scores[1]
    for one, other in zip(confined.replies, free.replies, strict=True):
        for name, array in other.items():
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(one[name], array)
    assert confined.provenance["landlock_abi"] >= 1
    assert confined.provenance["memory_cgroup"] in ("v1", "v2", "none")


async def test_gates_and_profile_need_no_scratch_either(sandbox):
    source = catalogue.source("short_convolution")
    gates = await sandbox.run(Job("gates", gate_phases(source, track="sequence", tier="micro")))
    assert gates.completed, (gates.message, gates.log)
    assert all(verdict.passed for verdict in read_gate_reply(gates.replies[0]).verdicts)
    profile = await sandbox.run(Job("profile", profile_phases(source, track="sequence", tier="micro")))
    assert profile.completed, (profile.message, profile.log)
    read_profile_reply(profile.replies[0])


async def test_it_writes_nowhere_and_reads_little(sandbox, tmp_path):
    tmp_path.chmod(0o777)
    tmp_path.joinpath("secret").write_text("x")
    program = f"""
        import os
        def attempt(name, action):
            try: action()
            except OSError: return
            found[name] = True
        for place in ("/tmp", "/var/tmp", "/dev/shm", {str(tmp_path)!r}, {str(Path.home())!r}, "."):
            attempt("write " + place, lambda: open(place + "/move37-x", "w"))
            attempt("list " + place, lambda: os.listdir(place))
        files = ("/etc/passwd", "/etc/hostname", {str(tmp_path / "secret")!r}, {__file__!r}, "/proc/1/environ")
        for file in (*files, "/proc/1/cmdline"):
            attempt("read " + file, lambda: open(file).read())
        attempt("remove", lambda: os.unlink({str(tmp_path / "secret")!r}))
        attempt("mode", lambda: os.chmod({str(tmp_path / "secret")!r}, 0))
        attempt("execute", lambda: os.execv("/bin/true", ["true"]))
        attempt("kill", lambda: os.kill({os.getpid()}, 0))
        attempt("connect", lambda: __import__("socket").socket(2, 1))
    """
    outcome = await light(sandbox).run(job(program))
    assert outcome.completed, outcome
    assert outcome.replies[0]["found"] == {}


async def test_many_processes_share_one_memory_limit_where_there_is_a_control_group(sandbox):
    if sandbox.provenance()["memory_cgroup"] == "none":
        pytest.skip(sandbox._cgroups.why)
    program = """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                x = bytearray(os.urandom(1)) * (100 << 20)
                time.sleep(5)
                os._exit(0)
        time.sleep(5)
    """
    outcome = await light(sandbox).run(job(program, memory_bytes=256 << 20))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "out_of_memory"), outcome


async def test_the_gaps_are_what_it_says(sandbox):
    """Each sentence about what a program can see, shown; so that a gap that has been closed is noticed."""
    gaps = " ".join(landlock_gaps())
    program = f"""
        import os
        found["size"] = os.stat("/etc/passwd").st_size
        found["processes"] = os.path.exists("/proc/{os.getpid()}")
        found["host"] = os.uname().nodename
        try: open("/tmp/x", "w"); found["scratch"] = True
        except OSError: found["scratch"] = False
    """
    outcome = await light(sandbox).run(job(program))
    assert outcome.completed, outcome
    found = outcome.replies[0]["found"]
    assert found["size"] == Path("/etc/passwd").stat().st_size
    assert "whether it exists" in gaps
    assert found["processes"]
    assert "which process ids exist" in gaps
    assert found["host"] == socket.gethostname()
    assert "host's name" in gaps
    assert not found["scratch"]
    assert "no scratch directory" in gaps


def test_a_kernel_without_landlock_or_too_old_for_the_user_is_named(monkeypatch):
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 0)
    with pytest.raises(SandboxUnavailable, match=r"Linux 5\.13"):
        landlock.require_abi()
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 5)
    monkeypatch.setattr(landlock.os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxUnavailable, match=r"Linux 6\.12"):
        landlock.require_abi()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user to try it as one")
def test_an_ordinary_user_can_use_it_too(tmp_path):
    """In a process of uid 65534, as far as that user may read this checkout and its interpreter."""
    if any(landlock._closed_to_others(path) for path in landlock.View.of_this_interpreter(as_root=False).trees):
        pytest.skip("the interpreter lies where an ordinary user cannot read it")
    root = str(Path(landlock.__file__).parent.parent)
    script = f"""
import asyncio, sys
sys.path.insert(0, {root!r})
from sandbox.landlock import LandlockSandbox
from tests.sandbox.light import job, light
program = '''
import os
found["uid"] = os.getuid()
try: os.kill({os.getpid()}, 0)
except OSError as error: found["kill"] = error.errno
'''
outcome = asyncio.run(light(LandlockSandbox()).run(job(program)))
assert outcome.completed, outcome
assert outcome.replies[0]["found"] == {{"uid": 65534, "kill": 1}}, outcome
"""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
