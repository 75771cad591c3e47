"""What the doctor finds wrong, and what a user is told who runs a campaign all the same: problem, remedy, exit code.

Engines that lack something are fake ones (see `fake_engine`): what a real kernel without memory control, a real
rootless engine or a real GPU would say was never seen.
"""

import json
import subprocess
import sys
from collections import namedtuple

import pytest

from evaluator.phases import PROTOCOL_VERSION
from sandbox import bubblewrap, doctor, landlock, selftest
from sandbox import engine as engines
from sandbox.cgroups import Cgroups
from sandbox.errors import SandboxUnavailable
from sandbox.protocol import JobOutcome, OutcomeKind
from sandbox.source import SOURCE_LABEL
from tests.move37.conftest import ROOT, TINY, Cli
from tests.sandbox.fake_engine import HANGS, INFO, VERSION, FakeEngine, image
from tests.sandbox.test_sandbox_engine import without_rights

IMAGE_PATH = f"GET /images/{engines.IMAGE}/json"


@pytest.fixture
def fake(monkeypatch):
    with FakeEngine() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield fake


def found():
    """The findings by name; each that is not ok has a remedy."""
    checks = doctor.checks()
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.remedy for check in checks if check.status != "ok")
    return {check.name: check for check in checks}, doctor.usable(checks)


def test_a_machine_that_lacks_nothing_of_docker_s_is_found_whole(fake):
    checks, usable = found()
    assert {name: check.status for name, check in checks.items() if "docker" in name or name == "sandbox image"} == {
        "docker engine": "ok",
        "docker limits": "ok",
        "docker system calls": "ok",
        "docker disk": "ok",
        "sandbox image": "ok",
    }
    assert checks["container runtime"].status == "ok"
    assert usable[0] == "docker"


ROOTLESS = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}


@pytest.mark.parametrize(
    ("info", "name", "status", "said", "rules_out"),
    [
        ({"MemoryLimit": False}, "docker limits", "missing", "cannot limit memory", True),
        (
            {"MemoryLimit": False, "Warnings": ["WARNING: No memory limit support"]},
            "docker limits",
            "missing",
            "it warns: WARNING: No memory limit support",
            True,
        ),
        ({"PidsLimit": False}, "docker limits", "warning", "cannot limit processes", False),
        ({"Warnings": ["WARNING: API is open"]}, "docker limits", "warning", "API is open", False),
        (ROOTLESS | {"CgroupVersion": "1"}, "docker limits", "missing", "rootless engine on cgroup v1", True),
        (ROOTLESS, "docker limits", "ok", "can be limited", False),
        ({"SecurityOptions": ["name=apparmor"]}, "docker system calls", "missing", "no seccomp", True),
        ({"SecurityOptions": None}, "docker system calls", "missing", "no seccomp", True),
        ({"LiveRestoreEnabled": True}, "docker engine", "ok", "live-restore", False),
        ({"LiveRestoreEnabled": False}, "docker engine", "ok", "its restart ends its containers", False),
        ({"DockerRootDir": "/no/such/directory"}, "docker disk", "ok", "cannot be seen from here", False),
    ],
)
def test_what_the_engine_says_of_itself(fake, info, name, status, said, rules_out):
    fake.answers["GET /info"] = INFO | info
    checks, usable = found()
    assert checks[name].status == status
    assert said in checks[name].detail
    assert ("docker" not in usable) is rules_out


def test_a_nearly_full_disk_of_the_engine_is_a_warning(fake, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 30))
    checks, usable = found()
    assert checks["docker disk"].status == "warning"
    assert "1.0 GiB free" in checks["docker disk"].detail
    assert "docker image prune" in checks["docker disk"].remedy
    assert "docker" in usable


@pytest.mark.parametrize(
    ("version", "status"), [("1.1.5+ds1", "warning"), ("1.2.8", "ok"), ("1.3.2", "warning"), ("", "warning")]
)
def test_a_container_runtime_with_known_ways_out_is_a_warning(fake, version, status):
    fake.answers["GET /version"] = VERSION | {"Components": [{"Name": "runc", "Version": version}] if version else None}
    assert found()[0]["container runtime"].status == status


@pytest.mark.parametrize(
    ("device", "runtime", "status", "said"),
    [
        (False, False, "ok", "no nvidia runtime"),
        (False, True, "ok", "does not exist"),
        (True, False, "warning", "containers cannot be given it"),
        (True, True, "ok", "has an nvidia runtime"),
    ],
)
def test_gpus_are_told_and_rule_nothing_out(fake, monkeypatch, tmp_path, device, runtime, status, said):
    tmp_path.joinpath("device").touch()
    monkeypatch.setattr(doctor, "_GPU_DEVICE", tmp_path / ("device" if device else "none"))
    fake.answers["GET /info"] = INFO | {"Runtimes": {"runc": {}} | ({"nvidia": {}} if runtime else {})}
    checks, usable = found()
    assert checks["gpu"].status == status
    assert said in checks["gpu"].detail
    assert "docker" in usable


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((404, {"message": "none"}), "missing"),
        (image(**{SOURCE_LABEL: "0" * 64}), "warning"),
        ((500, {"message": "boom"}), "missing"),
    ],
)
def test_an_image_that_is_missing_or_stale_rules_docker_out(fake, answer, status):
    fake.answers[IMAGE_PATH] = answer
    checks, usable = found()
    assert checks["sandbox image"].status == status
    assert "move37 sandbox build" in checks["sandbox image"].remedy
    assert "docker" not in usable


@pytest.mark.parametrize("answer", [(500, {"message": "boom"}), b"no json", HANGS])
def test_an_engine_that_answers_and_then_fails_is_a_finding_and_no_crash(fake, monkeypatch, answer):
    monkeypatch.setattr(engines, "ANSWER_TIMEOUT_S", 0.3)
    fake.answers["GET /info"] = answer
    checks, usable = found()
    assert checks["docker engine"].status == "missing"
    assert "answers, then fails" in checks["docker engine"].detail
    assert "docker" not in usable


def test_without_any_engine_the_rest_is_looked_at(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    checks, usable = found()
    assert checks["docker engine"].rules_out == "docker"
    assert {"gpu", "bubblewrap", "landlock", "memory control"} <= set(checks)
    assert "docker" not in usable


def test_without_a_control_group_the_weaker_sandboxes_say_what_they_do_not_limit(fake, monkeypatch):
    bare = Cgroups("none", why="no controller is there")
    monkeypatch.setattr(doctor, "find_cgroups", lambda: bare)
    monkeypatch.setattr(landlock, "find_cgroups", lambda: bare)
    checks, usable = found()
    assert checks["memory control"].status == "warning"
    assert "no controller is there" in checks["memory control"].detail
    for name in {"bubblewrap", "landlock"} & set(usable):
        assert "memory is limited per process, not in total" in checks[name].detail


@pytest.mark.parametrize(
    ("module", "name", "level"),
    [(bubblewrap, "BubblewrapSandbox", "bubblewrap"), (landlock, "LandlockSandbox", "landlock")],
)
def test_what_a_sandbox_itself_says_against_its_use_is_a_finding(fake, monkeypatch, module, name, level):
    def refused():
        raise SandboxUnavailable(level, "libseccomp is missing", "Install it: apt install libseccomp2.")

    monkeypatch.setattr(module, name, refused)
    checks, usable = found()
    assert (checks[level].status, checks[level].detail) == ("missing", "libseccomp is missing")
    assert "libseccomp2" in checks[level].remedy
    assert level not in usable


@pytest.mark.parametrize(("script", "said"), [("exit 1", "cannot make namespaces here: "), (None, "cannot be run")])
def test_a_bwrap_that_does_not_work_is_told(monkeypatch, tmp_path, script, said):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\necho no permission >&2\n{script}\n" if script else "\0")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    checks, usable = found()
    assert checks["bubblewrap"].status == "missing"
    assert said in checks["bubblewrap"].detail
    assert "bubblewrap" not in usable


# A limit that is accepted and ignored


class Scripted:
    """A sandbox whose self-test finds what it is told: the greeting, then what each probe could do."""

    level = "docker"
    isolated = True

    def __init__(self, *broken):
        self.broken = list(broken)
        self.number = -1

    def with_command(self, command):
        self.number += 1
        return Scripted(self.broken[self.number])

    async def run(self, job, **_):
        hello = {"protocol": PROTOCOL_VERSION, "broken": self.broken[0]}
        return JobOutcome(OutcomeKind.COMPLETED, "ok", "", provenance={"hello": hello})


async def test_an_engine_that_takes_a_memory_limit_and_ignores_it_is_refused():
    await selftest.self_test(Scripted([], []), python="python3")
    with pytest.raises(SandboxUnavailable, match="memory beyond the limit can be had") as raised:
        await selftest.self_test(Scripted([], ["memory beyond the limit can be had"]), python="python3")
    assert "move37 doctor" in raised.value.remedy


# At the command line: `move37 run` and `move37 doctor`


def invoke(cli, *arguments, prefix=(), **environment):
    command = [*prefix, *cli.command(*arguments)]
    outside = cli.environment | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=cli.outside, env=outside, capture_output=True, text=True, check=False)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "runs")


REFUSED = {
    "no image": ({IMAGE_PATH: (404, {"message": "none"})}, "has no image", "move37 sandbox build"),
    "another evaluator's image": ({IMAGE_PATH: image(**{SOURCE_LABEL: "0" * 64})}, "holds evaluator", "--bootstrap"),
    "too old": ({"GET /version": VERSION | {"ApiVersion": "1.30"}}, "speaks API 1.30 at most", "Update Docker"),
    "too new": (
        {"GET /version": VERSION | {"MinAPIVersion": "1.98", "ApiVersion": "1.99"}},
        "speaks API 1.98 at least",
        "pip install",
    ),
    "fails": ({"GET /version": (500, {"message": "boom"})}, "answers with an error", "restart it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_cannot_start_says_why_and_what_to_do_in_its_first_line(fake, cli, case):
    answers, problem, remedy = REFUSED[case]
    fake.answers |= answers
    done = invoke(cli, "run", *TINY, "--sandbox", "docker", DOCKER_HOST=fake.host)
    first = done.stderr.splitlines()[0]
    assert done.returncode == 4, done.stderr
    assert problem in first
    assert remedy in first


def test_a_run_without_an_engine_or_without_the_right_to_it_says_so(fake, cli):
    absent = invoke(cli, "run", *TINY, "--sandbox", "docker", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert absent.returncode == 4
    assert "no Docker engine answers at unix:///nowhere/docker.sock" in absent.stderr.splitlines()[0]
    assert "Start Docker" in absent.stderr.splitlines()[0]
    fake.socket.chmod(0)
    closed = invoke(cli, "run", *TINY, "--sandbox", "docker", prefix=without_rights(), DOCKER_HOST=fake.host)
    assert closed.returncode == 4
    assert "may not open the Docker engine's socket" in closed.stderr.splitlines()[0]
    assert "sudo usermod -aG" in closed.stderr.splitlines()[0]


def test_a_run_that_asks_for_a_gpu_where_there_is_none_says_so(cli):
    if doctor._GPU_DEVICE.exists():
        pytest.skip("there is a GPU")
    done = invoke(cli, "run", "--tier", "full", "--experiments", "2")
    assert done.returncode == 4
    assert "needs a GPU" in done.stderr.splitlines()[0]
    assert "Choose a smaller tier" in done.stderr.splitlines()[0]


NOTHING = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "PATH": "/nowhere"}


# A kernel without Landlock, for whoever comes after: no environment could hide it.
WITHOUT_LANDLOCK = """
import errno, os, sys
import pyseccomp
denied = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
denied.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "landlock_create_ruleset")
denied.load()
os.execv(sys.argv[1], sys.argv[1:])
"""
BARE = (sys.executable, "-c", WITHOUT_LANDLOCK)


def test_the_doctor_s_exit_code_says_whether_a_plain_run_could_work(cli):
    grammar = invoke(cli, "doctor", "--json", prefix=BARE, **NOTHING)
    assert grammar.returncode == 0
    named = invoke(cli, "doctor", "--json", prefix=BARE, MOVE37_MODEL="some-model", **NOTHING)
    assert named.returncode == 4
    for done, status, required in ((grammar, "warning", False), (named, "missing", True)):
        isolation = {check["name"]: check for check in json.loads(done.stdout)}["isolation"]
        assert (isolation["status"], isolation["required"]) == (status, required)
        assert isolation["remedy"]


def test_a_language_model_s_campaign_where_nothing_isolates_is_a_matter_of_the_machine(cli):
    remote = ("run", *TINY, "--sandbox", "auto", "--base-url", "http://127.0.0.1:9/v1", "--model", "some-model")
    done = invoke(cli, *remote, prefix=BARE, **NOTHING)
    assert done.returncode == 4, done.stderr
    for said in ("no Docker engine answers", "Start Docker", "bwrap is not on PATH", "apt install bubblewrap"):
        assert said in done.stderr
    unsafe = invoke(cli, *remote[:-5], "process", *remote[-4:], **NOTHING)
    assert unsafe.returncode == 2, unsafe.stderr
