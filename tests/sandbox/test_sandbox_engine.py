"""Reaching a Docker engine, and what is said when that fails: every way it can fail, on a real socket.

The engine is a fake one that speaks HTTP as told, except where the marker `docker` says that a real one is asked.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import engine as engines
from sandbox import ownership
from sandbox.containers import SECCOMP_PROFILE, container_settings
from sandbox.engine import NEWEST_API, OLDEST_API, connect, inspect_image, remove_abandoned, require_current
from sandbox.errors import (
    EngineForbidden,
    EngineIncompatible,
    EngineUnreachable,
    ImageMissing,
    ImageStale,
    SandboxUnavailable,
)
from sandbox.protocol import Limits
from sandbox.source import SOURCE_LABEL
from tests.sandbox.fake_engine import HANGS, VERSION, FakeEngine, image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(monkeypatch):
    with FakeEngine() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
            monkeypatch.delenv(name, raising=False)
        yield fake


@pytest.fixture
def connected(fake):
    engine = connect()
    yield engine
    engine.close()


def refusal(kind=EngineUnreachable):
    """The error of `connect`, of exactly this kind, on one line and with a remedy."""
    with pytest.raises(EngineUnreachable) as raised:
        connect()
    error = raised.value
    assert type(error) is kind
    assert error.why
    assert error.remedy
    assert "\n" not in str(error)
    return error


# Versions


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "1.41"), (NEWEST_API, "1.24", NEWEST_API), ("1.99", "1.44", NEWEST_API)],
)
def test_the_newest_version_that_both_know_is_spoken(fake, newest, oldest, spoken):
    fake.answers["GET /version"] = VERSION | {"ApiVersion": newest, "MinAPIVersion": oldest}
    engine = connect()
    try:
        assert engine.client.api.api_version == spoken
    finally:
        engine.close()


def test_an_engine_that_is_too_old_is_told_with_both_versions(fake):
    fake.answers["GET /version"] = VERSION | {"Version": "19.03.15", "ApiVersion": "1.40"}
    error = refusal(EngineIncompatible)
    assert all(said in error.why for said in ("19.03.15", "1.40", OLDEST_API))
    assert "Update Docker" in error.remedy


def test_an_engine_that_is_too_new_for_the_sdk_is_told_with_both_versions(fake):
    fake.answers["GET /version"] = VERSION | {"Version": "40.0", "ApiVersion": "1.99", "MinAPIVersion": "1.90"}
    error = refusal(EngineIncompatible)
    assert all(said in error.why for said in ("40.0", "1.90", NEWEST_API))
    assert "pip install --upgrade docker" in error.remedy


@pytest.mark.parametrize(
    "answer", [{}, {"hello": 1}, [], VERSION | {"ApiVersion": "newest"}, (404, {"error": "no such page"}), (500, [])]
)
def test_what_is_no_docker_engine_is_told(fake, answer):
    fake.answers["GET /version"] = answer
    assert "does not name its API version" in refusal(EngineIncompatible).why


# No answer


def test_an_answer_that_is_no_json_is_told(fake):
    fake.answers["GET /version"] = b"<html>a proxy's login page</html>"
    assert fake.host in refusal().why


def test_an_engine_that_fails_is_told_apart_from_none(fake):
    fake.answers["GET /version"] = (500, {"message": "out of order"})
    error = refusal()
    assert "answers with an error" in error.why
    assert "out of order" in error.why


def test_an_engine_that_hangs_is_given_up_in_time(fake, monkeypatch):
    monkeypatch.setattr(engines, "ANSWER_TIMEOUT_S", 0.3)
    fake.answers["GET /version"] = HANGS
    assert "did not answer within 0.3 s" in refusal().why


def test_no_socket_and_a_socket_that_nobody_listens_on(fake, monkeypatch):
    abandoned = fake.directory / "abandoned.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(abandoned))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{abandoned}")
    assert "nobody listens there" in refusal().why
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    error = refusal()
    assert "no Docker engine answers at unix:///nowhere/docker.sock: there is no such socket" in error.why
    assert "DOCKER_HOST" in error.remedy


def test_a_port_that_nobody_listens_on_and_an_address_that_is_none(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{unused.getsockname()[1]}")
        assert "nobody listens there" in refusal().why
    monkeypatch.setenv("DOCKER_HOST", "carrier-pigeon://loft")
    assert "carrier-pigeon://loft" in refusal().why


def test_a_rootless_engine_s_socket_is_pointed_to(fake, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(fake.directory))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert f"set DOCKER_HOST=unix://{fake.socket}" in refusal().remedy


def test_a_socket_without_the_right_to_open_it_names_the_group_and_the_rootless_way(fake):
    fake.socket.chmod(0)
    asks = "from sandbox.engine import connect\ntry: connect()\nexcept Exception as e: print(type(e).__name__, e)"
    done = subprocess.run(
        [*without_rights(), sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kind, _, said = done.stdout.strip().partition(" ")
    assert kind == EngineForbidden.__name__, done.stdout + done.stderr
    for part in (str(fake.socket), "sudo usermod -aG docker $USER", "rootless", "DOCKER_HOST"):
        assert part in said


def without_rights():
    """A command's prefix under which permission bits count, for root too. The owner of a socket of mode 0 has none."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permission bits, and setpriv is not there to take that right away")
    return ["setpriv", "--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"]


# The image


def test_the_image_tells_what_it_was_made_from(connected):
    found = inspect_image(connected)
    assert (found.image_id, found.base_image_id, found.bootstrap) == ("sha256:image", "sha256:base", True)
    require_current(found)


def test_a_missing_image_names_the_command_that_builds_it(fake, connected):
    del fake.answers[f"GET /images/{engines.IMAGE}/json"]
    with pytest.raises(ImageMissing, match="move37 sandbox build"):
        inspect_image(connected)


@pytest.mark.parametrize(("labels", "held"), [({SOURCE_LABEL: "0123456789abcdef"}, "0123456789ab"), (None, "unknown")])
def test_a_stale_image_names_both_evaluators_and_how_it_was_built_before(fake, connected, labels, held):
    stale = image(**(labels or {}))
    if labels is None:
        stale["Config"]["Labels"] = None
    fake.answers[f"GET /images/{engines.IMAGE}/json"] = stale
    found = inspect_image(connected)
    with pytest.raises(ImageStale) as raised:
        require_current(found)
    assert held in raised.value.why
    assert ("--bootstrap" in raised.value.remedy) is (labels is not None)


def test_an_engine_that_fails_at_the_image_is_not_an_image_that_is_missing(fake, connected):
    fake.answers[f"GET /images/{engines.IMAGE}/json"] = (500, {"message": "no space left on device"})
    with pytest.raises(EngineUnreachable, match="no space left on device"):
        inspect_image(connected)


def test_engines_behind_tls_are_refused_since_their_streams_cannot_be_read(fake, connected):
    connected.require_plain_socket()
    connected.client.api.base_url = "https://elsewhere:2376"
    with pytest.raises(SandboxUnavailable, match="TLS or SSH"):
        connected.require_plain_socket()


# The janitor


def listed(name, *, started=0):
    """A container as the engine lists it, of this process or, started later, of one that had its number."""
    owner = f"{os.getpid()}:{int(ownership.process_start_time(os.getpid())) + started}:{ownership.boot_id()}"
    labels = {ownership.OWNER_LABEL: owner, ownership.NAMESPACE_LABEL: ownership.pid_namespace()}
    return {"Id": name, "State": "running", "Labels": labels}


@pytest.fixture
def abandoned(fake):
    """Two containers of a process that is gone, one of ours."""
    fake.answers["GET /containers/json"] = [listed("gone1", started=1), listed("ours"), listed("gone2", started=1)]
    return fake


@pytest.mark.parametrize(("status", "removed"), [(204, 2), (404, 1), (409, 1)])
def test_the_janitor_removes_what_nobody_owns_and_forgives_what_is_gone(abandoned, connected, status, removed):
    abandoned.answers["DELETE /containers/gone1"] = (status, {"message": "removal is in progress"})
    abandoned.answers["DELETE /containers/gone2"] = (204, b"")
    assert remove_abandoned(connected) == removed
    deleted = [path for method, path, _ in abandoned.asked if method == "DELETE"]
    assert [path.partition("?")[0] for path in deleted] == ["/containers/gone1", "/containers/gone2"]
    assert all("force=True" in path for path in deleted)


def test_the_janitor_s_failure_is_the_engine_s(abandoned, connected):
    abandoned.answers["DELETE /containers/gone1"] = (500, {"message": "driver failed"})
    with pytest.raises(EngineUnreachable, match="driver failed"):
        remove_abandoned(connected)


# The contract: what the engine is told when a container is created


def create(fake, **limits):
    """The body of the create call, as the SDK sends it for a worker's settings."""
    fake.answers["POST /containers/create"] = (201, {"Id": "made", "Warnings": []})
    fake.answers["GET /containers/made/json"] = {"Id": "made"}
    engine = connect()
    try:
        settings = container_settings(Limits(**limits), {"move37": "worker"})
        engine.client.containers.create("sha256:image", ["python3", "-m", "evaluator"], name="move37-x", **settings)
    finally:
        engine.close()
    (body,) = [
        body for method, path, body in fake.asked if (method, path.partition("?")[0]) == ("POST", "/containers/create")
    ]
    return body


def test_a_worker_s_container_is_created_with_every_flag_that_confines_it(fake):
    body = create(fake, memory_bytes=1 << 30, cpus=0.5, pids=64, tmp_bytes=32 << 20)
    host = body["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host.get("CapAdd")
    assert not host.get("Privileged")
    assert host["IpcMode"] == "none"
    assert host.get("PidMode", "") == host.get("UTSMode", "") == host.get("UsernsMode", "") == ""
    assert body["User"] == "64037:64037"
    assert host["Memory"] == host["MemorySwap"] == 1 << 30
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 64
    assert host["OomScoreAdj"] == 500
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    assert limits == {"nofile": (1024, 1024), "core": (0, 0), "fsize": (32 << 20, 32 << 20)}
    (mounted,) = host["Tmpfs"].items()
    assert mounted[0] == "/tmp"
    assert {"noexec", "nosuid", "nodev", f"size={32 << 20}", "nr_inodes=16384"} <= set(mounted[1].split(","))
    assert host["LogConfig"] == {"Type": "none", "Config": {}}
    assert host["Init"] is True
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host.get("AutoRemove", False) is False


def test_a_worker_s_container_filters_system_calls_by_a_profile_that_is_sent_whole(fake):
    import json

    options = create(fake)["HostConfig"]["SecurityOpt"]
    assert len(options) == 2
    assert "no-new-privileges:true" in options
    (profile,) = [option.removeprefix("seccomp=") for option in options if option.startswith("seccomp=")]
    assert json.loads(profile) == json.loads(SECCOMP_PROFILE.read_text())


def test_a_worker_s_container_shares_nothing_with_the_host(fake):
    body = create(fake)
    host = body["HostConfig"]
    shared = ("Binds", "Mounts", "VolumesFrom", "Devices", "DeviceRequests", "PortBindings", "Links", "ExtraHosts")
    assert {key: host[key] for key in shared if host.get(key)} == {}
    assert not body.get("Volumes")
    assert not body.get("ExposedPorts")


def test_a_worker_s_container_is_spoken_to_over_its_streams_alone_and_once(fake):
    body = create(fake)
    assert body["OpenStdin"] is True
    assert body["StdinOnce"] is True  # or it would outlive the orchestrator
    assert body["Tty"] is False
    assert body["Cmd"] == ["python3", "-m", "evaluator"]
    assert body["Image"] == "sha256:image"


def test_a_worker_s_environment_is_written_out_in_full(fake, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    names = {variable.partition("=")[0] for variable in create(fake)["Env"]}
    expected = {"HOME", "TMPDIR", "USER", "LANG", "PYTHONHASHSEED"}
    assert names == expected | {f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS")}


PROXIED = '{"proxies": {"default": {"httpProxy": "http://user:canary@proxy.example:3128"}}}'


def test_the_proxy_of_the_user_s_docker_configuration_does_not_reach_a_worker(fake, monkeypatch, tmp_path):
    """The SDK would add those of ~/.docker/config.json, passwords included."""
    tmp_path.joinpath("config.json").write_text(PROXIED)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert "canary" not in str(create(fake))


# A real engine


@pytest.mark.docker
def test_a_real_engine_is_reached_and_asked():
    try:
        engine = connect()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    try:
        assert engine.client.ping()
        assert engine.is_local
        assert engines.compare_version(OLDEST_API, engine.client.api.api_version) >= 0
        with pytest.raises(ImageMissing, match="move37-no-such-image:never"):
            inspect_image(engine, "move37-no-such-image:never")
    finally:
        engine.close()


@pytest.mark.docker
def test_a_real_engine_takes_the_settings_as_they_are_meant():
    """What it made of them: a field that it does not know it would have dropped."""
    try:
        engine = connect()
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
    try:
        found = inspect_image(engine)
        limits = Limits(memory_bytes=256 << 20, pids=33, tmp_bytes=16 << 20)
        made = engine.client.containers.create(found.image_id, ["python3"], **container_settings(limits, {}))
        try:
            host = made.attrs["HostConfig"]
            assert (host["NetworkMode"], host["IpcMode"], host["ReadonlyRootfs"]) == ("none", "none", True)
            assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (256 << 20, 256 << 20, 33)
            assert (host["CapDrop"], host["Binds"], host["Privileged"]) == (["ALL"], None, False)
            assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
            assert host["LogConfig"]["Type"] == "none"
            assert host["Tmpfs"]["/tmp"].endswith("mode=1777")
            assert (made.attrs["Config"]["OpenStdin"], made.attrs["Config"]["StdinOnce"]) == (True, True)
        finally:
            made.remove(force=True)
    except ImageMissing as missing:
        pytest.skip(str(missing))
    finally:
        engine.close()
