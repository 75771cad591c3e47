"""Control groups: made, joined, counted and removed; the v2 side against a directory tree of the same shape."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import cgroups
from sandbox.cgroups import Cgroups, find_cgroups, remove_abandoned
from sandbox.landlock import gaps


@pytest.fixture
def here():
    """What this machine's kernel gives, or a skip that says why nothing."""
    found = find_cgroups()
    if found.version == "none":
        pytest.skip(found.why)
    return found


def joined(scope, program):
    """A process that joins `scope` as the launcher does, then runs `program`."""
    join = "".join(f"open({file!r}, 'w').write(str(os.getpid()))\n" for file in scope.join_files())
    return subprocess.Popen([sys.executable, "-c", f"import os, sys, time\n{join}{program}"])


def test_many_processes_together_are_held_to_one_limit(here):
    scope = here.scope(memory_bytes=96 << 20, pids=16, cpus=1)
    program = (
        "for _ in range(4):\n    if os.fork() == 0:\n        x = os.urandom(1) * (40 << 20)\n        time.sleep(2)\n"
    )
    try:
        process = joined(scope, program + "        os._exit(0)\ntime.sleep(2)")
        process.wait(20)
        assert scope.oom_killed()
        assert 0 < (scope.peak_bytes() or 1) <= 96 << 20
    finally:
        scope.kill()
        scope.remove()


def test_forks_are_counted_and_all_are_killed(here):
    scope = here.scope(memory_bytes=256 << 20, pids=8, cpus=1)
    program = "made = 0\ntry:\n    for _ in range(50):\n        if os.fork() == 0: time.sleep(60)\n        made += 1\n"
    process = joined(scope, program + "except OSError: pass\nos._exit(made)")
    try:
        assert 0 < process.wait(20) < 8
        assert scope.kill()
        assert not any(Path(each, "cgroup.procs").read_text() for each in scope.directories)
    finally:
        scope.remove()
    assert not any(each.exists() for each in scope.directories)


def test_what_a_dead_owner_left_is_removed_and_what_a_live_one_has_is_not(here):
    mine = here.scope(memory_bytes=64 << 20, pids=8, cpus=1)
    script = "from sandbox.cgroups import find_cgroups\n"
    script += "scope = find_cgroups().scope(memory_bytes=64 << 20, pids=8, cpus=1)\nprint(*scope.directories)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd()
        )
        orphans = [Path(word) for word in done.stdout.split()]
        assert orphans
        assert all(orphan.exists() for orphan in orphans)
        assert remove_abandoned() >= 1
        assert not any(orphan.exists() for orphan in orphans)
        assert all(directory.exists() for directory in mine.directories)
    finally:
        mine.remove()


class Tree:
    """A pretended v2 hierarchy: `/user/app` is the process's group."""

    def __init__(self, root, handed_down):
        self.root = root
        self.proc = root / "proc"
        self.top = root / "cgroup"
        self.own = self.top / "user" / "app"
        self.own.mkdir(parents=True)
        self.proc.mkdir()
        self.proc.joinpath("cgroup").write_text("0::/user/app\n")
        self.proc.joinpath("mountinfo").write_text(f"30 1 0:26 / {self.top} rw - cgroup2 cgroup2 rw\n")
        for directory, controllers in handed_down.items():
            self.top.joinpath(directory, "cgroup.subtree_control").write_text(controllers)


def populated(monkeypatch):
    """Directories appear with the files that the kernel would put there."""
    make = Path.mkdir

    def mkdir(path, *arguments, **more):
        make(path, *arguments, **more)
        if path.name.startswith(cgroups.PREFIX):
            for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs", "memory.oom.group"):
                path.joinpath(name).write_text("")
            path.joinpath("memory.events").write_text("low 0\noom 1\noom_kill 0\n")
            path.joinpath("memory.peak").write_text("4096\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(cgroups, "_remove_directory", lambda directory: __import__("shutil").rmtree(directory))


def test_a_v2_group_gets_its_limits_and_tells_what_happened(tmp_path, monkeypatch):
    tree = Tree(tmp_path, {"user/app": "cpu memory pids"})
    populated(monkeypatch)
    found = find_cgroups(tree.proc)
    assert (found.version, found.parents["memory"]) == ("v2", tree.own)
    scope = found.scope(memory_bytes=1 << 20, pids=7, cpus=0.5)
    [directory] = scope.directories
    assert directory.parent == tree.own
    assert directory.joinpath("memory.max").read_text().strip() == str(1 << 20)
    assert directory.joinpath("memory.swap.max").read_text().strip() == "0"
    assert directory.joinpath("pids.max").read_text().strip() == "7"
    assert directory.joinpath("cpu.max").read_text().strip() == "50000 100000"
    assert scope.join_files() == [str(directory / "cgroup.procs")]
    assert scope.peak_bytes() == 4096
    assert not scope.oom_killed()
    directory.joinpath("memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert scope.oom_killed()


def test_a_v2_group_above_is_taken_when_the_own_one_hands_nothing_down(tmp_path, monkeypatch):
    tree = Tree(tmp_path, {"user/app": "", "user": "cpu memory pids"})
    populated(monkeypatch)
    assert find_cgroups(tree.proc).parents["pids"] == tree.own.parent


@pytest.mark.parametrize("handed_down", [{"user/app": "cpu"}, {"user/app": "memory"}, {}])
def test_without_both_controllers_it_is_said_why(tmp_path, handed_down):
    found = find_cgroups(Tree(tmp_path, handed_down).proc)
    assert (found.version, found.scope(memory_bytes=1, pids=1, cpus=1)) == ("none", None)
    assert "hands the memory and pids controllers down" in found.why
    assert any(found.why in sentence for sentence in gaps(found, as_root=True))


def test_a_machine_without_control_groups(tmp_path):
    assert "no cgroup file system" in find_cgroups(tmp_path).why


@given(st.text(alphabet="0123456789-abcdef", max_size=40))
def test_only_names_of_dead_owners_of_this_namespace_are_judged_abandoned(rest):
    namespace = cgroups.pid_namespace()
    foreign = f"{cgroups.PREFIX}{int(namespace) + 1}-{rest}"
    assert not cgroups._abandoned(foreign)
    mine = f"{cgroups.PREFIX}{namespace}-{os.getpid()}-{cgroups.process_start_time(os.getpid())}-{rest}"
    assert not cgroups._abandoned(mine)


def test_a_group_is_left_in_time(here):
    scope = here.scope(memory_bytes=64 << 20, pids=8, cpus=1)
    process = joined(scope, "time.sleep(60)")
    try:
        ends = time.monotonic() + 10
        while not any(Path(each, "cgroup.procs").read_text() for each in scope.directories) and time.monotonic() < ends:
            time.sleep(0.01)
        scope.remove()
        assert process.wait(5) == -9
    finally:
        process.kill()
        process.wait()
    assert Cgroups("none").scope(memory_bytes=1, pids=1, cpus=1) is None
