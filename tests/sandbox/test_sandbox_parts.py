"""The parts of the sandbox package that need no worker: logs, Docker's stream, ownership, image sources, the doctor."""

import os
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import building, doctor, ownership, source
from sandbox.attach import Demultiplexer
from sandbox.containers import SECCOMP_PROFILE, container_settings
from sandbox.environment import worker_environment
from sandbox.errors import IsolationRequired, SandboxUnavailable
from sandbox.logs import BoundedLog, shown
from sandbox.process import sweep
from sandbox.protocol import Limits


@given(st.lists(st.binary(max_size=90), max_size=30), st.sampled_from([0, 2, 64]))
def test_a_log_keeps_both_ends_and_counts_the_rest(pieces, cap):
    log = BoundedLog(cap)
    for piece in pieces:
        log.add(piece)
    whole = b"".join(pieces)
    assert log.total_bytes == len(whole)
    if len(whole) <= cap:
        assert log.text() == shown(whole.decode("utf-8", errors="backslashreplace"))
    else:
        assert f"[... {len(whole) - cap} bytes dropped ...]" in log.text()
    assert len(log._head) + len(log._tail) <= cap * 3 + 90


def test_control_characters_are_not_shown():
    assert shown("a\x1b[2J\x00\x9b1m\u202eb\n\tc") == "a[2J1mb\n\tc"


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 13))
def test_docker_s_stream_is_split_however_it_is_cut(pieces, step):
    stream = b"".join(struct.pack(">BxxxL", kind, len(data)) + data for kind, data in pieces)
    output, log = bytearray(), bytearray()
    demultiplexer = Demultiplexer(output.extend, log.extend)
    for start in range(0, len(stream), step):
        demultiplexer.feed(stream[start : start + step])
    assert bytes(output) == b"".join(data for kind, data in pieces if kind == 1)
    assert bytes(log) == b"".join(data for kind, data in pieces if kind == 2)


def test_our_own_containers_are_not_abandoned():
    labels = ownership.labels(lifetime_s=10)
    assert not ownership.is_abandoned(labels, running=True)


def test_containers_of_a_process_that_is_gone_are_abandoned():
    labels = ownership.labels(lifetime_s=10)
    pid, start, boot = labels[ownership.OWNER_LABEL].split(":")
    reused = {**labels, ownership.OWNER_LABEL: f"{pid}:{int(start) + 1}:{boot}"}
    assert ownership.is_abandoned(reused, running=True)
    elsewhere = {**reused, ownership.NAMESPACE_LABEL: "1"}  # its owner is not ours to see
    assert not ownership.is_abandoned(elsewhere, running=True)


def test_containers_of_another_machine_are_left_alone_until_long_overdue():
    labels = ownership.labels(lifetime_s=10)
    pid, start, _ = labels[ownership.OWNER_LABEL].split(":")
    foreign = {**labels, ownership.OWNER_LABEL: f"{pid}:{start}:another-boot"}
    assert not ownership.is_abandoned(foreign, running=True)
    assert ownership.is_abandoned(foreign, running=False)
    overdue = {**foreign, ownership.DEADLINE_LABEL: str(int(time.time() - 2 * ownership.OVERDUE_GRACE_S))}
    assert ownership.is_abandoned(overdue, running=True)


def test_a_container_without_an_owner_is_not_ours():
    assert not ownership.is_abandoned({ownership.OWNER_LABEL: "nonsense"}, running=True)


def test_the_environment_names_every_variable_and_inherits_none(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    environment = worker_environment(Limits(cpus=1.5), scratch="/scratch")
    assert "OPENAI_API_KEY" not in environment
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["PYTHONHASHSEED"] == "0"


def test_containers_are_confined_by_every_flag():
    settings = container_settings(Limits(), {"move37": "worker"})
    assert settings["network_mode"] == "none"
    assert settings["read_only"]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["memswap_limit"] == settings["mem_limit"]
    assert "no-new-privileges:true" in settings["security_opt"]
    assert not {"volumes", "binds", "mounts", "privileged", "devices"} & set(settings)


def test_the_seccomp_profile_is_an_allow_list_without_the_dangerous_calls():
    import json

    profile = json.loads(SECCOMP_PROFILE.read_text())
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    forbidden = "io_uring_setup ptrace mount unshare setns bpf keyctl userfaultfd perf_event_open clone3"
    assert not allowed & set(forbidden.split())


def test_the_source_hash_follows_the_evaluator_and_ignores_compiled_files(tmp_path, monkeypatch):
    tmp_path.joinpath("a.py").write_text("x = 1")
    monkeypatch.setattr(source, "EVALUATOR", tmp_path)
    before = source.source_hash()
    tmp_path.joinpath("__pycache__").mkdir()
    tmp_path.joinpath("__pycache__", "a.cpython-311.pyc").write_bytes(b"compiled")
    assert source.source_hash() == before
    tmp_path.joinpath("a.py").write_text("x = 2")
    assert source.source_hash() != before


def test_the_build_context_holds_the_worker_and_no_wheel(tmp_path):
    building._lay_out(tmp_path, source.worker_source())
    assert {path.name for path in tmp_path.iterdir()} == {
        "Dockerfile", "requirements.txt", "torch.txt", "launcher.py", "wheelhouse", "evaluator",
    }  # fmt: skip
    assert [path.name for path in tmp_path.joinpath("wheelhouse").iterdir()] == [".keep"]
    assert tmp_path.joinpath("evaluator", "__main__.py").is_file()
    assert not list(tmp_path.rglob("*.pyc"))


def test_the_sweep_finds_a_daemon_by_its_environment():
    mark = f"MOVE37_WORKER={os.urandom(8).hex()}"
    name, _, value = mark.partition("=")
    daemon = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={name: value}, start_new_session=True
    )
    assert sweep(mark.encode()) == 1
    assert daemon.wait(timeout=5) == -9
    assert sweep(mark.encode()) == 0


def test_the_doctor_always_has_an_answer(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("PATH", "/nowhere")
    found = {check.name: check for check in doctor.checks()}
    assert found["docker engine"].status == "missing"
    assert found["bubblewrap"].status == "missing"
    assert all(check.remedy for check in found.values() if check.status == "missing")


def test_errors_say_what_to_do_and_survive_copying():
    import pickle

    unavailable = SandboxUnavailable("docker", "no engine answers", "Start Docker.")
    assert "Start Docker." in str(unavailable)
    assert str(pickle.loads(pickle.dumps(unavailable))) == str(unavailable)
    assert "no engine answers" in str(IsolationRequired([unavailable]))


@pytest.mark.parametrize("image", ["move37-no-such-base:never", "localhost:1/none"])
@pytest.mark.docker
def test_a_base_image_that_cannot_be_pulled_names_the_way_out(image):
    from sandbox import engine
    from sandbox.errors import BaseImageUnavailable, EngineUnreachable

    try:
        engine.connect().close()
    except EngineUnreachable as unavailable:
        pytest.skip(str(unavailable))
    with pytest.raises(BaseImageUnavailable, match="--bootstrap"):
        building.build_image(image, on_line=lambda _: None)


def test_every_package_of_the_image_but_torch_is_locked_by_hash():
    lines = source.REQUIREMENTS.read_text().replace("\\\n", " ").splitlines()
    locked = [line for line in lines if line and not line.startswith("#")]
    assert len(locked) == 12
    assert all("==" in line and "--hash=sha256:" in line for line in locked)
    assert [line for line in source.TORCH.read_text().splitlines() if not line.startswith("#")] == ["torch==2.13.0"]


def test_a_user_who_is_root_outside_its_namespace_is_recognised(tmp_path):
    from sandbox.bubblewrap import uid_outside

    uid_map = tmp_path / "uid_map"
    uid_map.write_text("      1000          0          1\n  1001 100000 10\n")
    assert uid_outside(1000, uid_map) == 0
    assert uid_outside(1003, uid_map) == 100002
    assert uid_outside(5, uid_map) is None
    assert uid_outside(os.geteuid()) is not None
