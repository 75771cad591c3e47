"""What happens around a campaign goes wrong: the store, the disk, the key, the engine."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from move37.keys import api_key
from tests.move37.conftest import TINY, Cli, outcomes

needs_docker = pytest.mark.docker


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.campaign
@pytest.mark.thorough
def test_a_full_disk_pauses_the_campaign_and_room_lets_it_finish(small_disk: Path) -> None:
    cli = Cli(small_disk / "runs")
    stopped = cli("run", *TINY, "--experiments", "4", "--name", "full", expect=4)
    assert "room" in stopped.stderr or "full" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    cli("resume", "full") if cli.json("status") else cli("run", *TINY, "--experiments", "4", "--name", "full")
    (row,) = cli.json("status")
    assert (row["state"], row["experiments"]["completed"] + row["experiments"]["duplicate"]) == ("finished", 4)


def test_a_store_of_a_newer_version_is_refused_with_the_remedy(cli: Cli) -> None:
    cli.runs.mkdir(parents=True)
    from memory.store import open_store

    open_store(f"sqlite:///{cli.runs / 'move37.db'}").close()
    with sqlite3.connect(cli.runs / "move37.db") as database:
        database.execute("update alembic_version set version_num = '9999'")
    for command in (["status"], ["run", *TINY]):
        refused = cli(*command, expect=4)
        assert "9999" in refused.stderr
        assert "newer" in refused.stderr


def test_a_foreign_file_is_not_overwritten(cli: Cli) -> None:
    cli.runs.mkdir(parents=True)
    (cli.runs / "move37.db").write_text("my thesis")
    assert "Traceback" not in cli("run", *TINY, expect=4).stderr
    assert (cli.runs / "move37.db").read_text() == "my thesis"


def test_the_key_comes_from_the_environment_or_dot_env_and_stays_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOVE37_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert api_key() is None
    (tmp_path / ".env").write_text("OPENAI_API_KEY=from-dot-env\n")
    assert api_key() == "from-dot-env"
    assert "OPENAI_API_KEY" not in os.environ
    monkeypatch.setenv("MOVE37_API_KEY", "from-environment")
    assert api_key() == "from-environment"


def test_doctor_names_what_is_there_and_a_remedy_for_what_is_not(cli: Cli) -> None:
    checks = {check["name"]: check for check in cli.json("doctor")}
    assert {"python", "torch", "docker engine", "bubblewrap", "language model", "runs directory"} <= set(checks)
    assert all(set(check) == {"name", "status", "detail", "remedy", "required"} for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")


def test_an_unusable_sandbox_is_infrastructure_and_says_what_to_do(cli: Cli) -> None:
    blind = cli.environment | {"DOCKER_HOST": "unix:///nowhere.sock"}
    command = cli.command("run", *TINY, "--sandbox", "docker")
    done = subprocess.run(command, env=blind, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "docker" in done.stderr.lower()
    assert "Traceback" not in done.stderr


@needs_docker
@pytest.mark.campaign
@pytest.mark.thorough
def test_the_same_campaign_in_containers_gives_the_same_results(finished: Cli, tmp_path: Path) -> None:
    from sandbox.doctor import checks

    image = next((c for c in checks() if c.name in {"docker image", "sandbox image"}), None)
    if image is None or image.status != "ok":
        pytest.skip(f"no current sandbox image: {image.detail if image else 'no Docker engine'}")
    contained = Cli(tmp_path / "contained")
    contained("run", *TINY, "--sandbox", "docker", "--experiments", "6", "--seed", "5", "--name", "tiny")
    ours, theirs = contained.store(), finished.store()
    assert outcomes(ours, "tiny") == outcomes(theirs, "tiny")
    levels = {t.environment["level"] for t in ours.trials(campaign_id=ours.campaign("tiny").id)}
    assert levels == {"docker"}
    ours.close()
    theirs.close()


def test_an_unreadable_dot_env_is_a_usage_error_and_a_finding_of_doctor(cli: Cli) -> None:
    (cli.outside / ".env").write_bytes(b"\xff\xfe\x00broken")
    assert ".env cannot be read" in cli("run", *TINY, expect=2).stderr
    checks = {check["name"]: check for check in cli.json("doctor")}
    assert checks["language model"]["status"] == "warning"


@pytest.mark.campaign
@pytest.mark.thorough
def test_damaged_checkpoints_are_thrown_away_for_the_store_is_the_truth(cli: Cli) -> None:
    assert "budget" in cli("run", *TINY, "--experiments", "4", "--name", "c", "--budget-tokens", "1", expect=3).stderr
    (checkpoints,) = (cli.runs / "checkpoints").glob("*.db")
    for suffix in ("-wal", "-shm"):
        checkpoints.with_name(checkpoints.name + suffix).unlink(missing_ok=True)
    checkpoints.write_text("damaged")
    cli("resume", "c", "--budget-tokens", "10000000")
    assert cli.json("status")[0]["state"] == "finished"


def test_the_environment_names_a_model_only_where_nobody_else_does(tmp_path: Path) -> None:
    from move37.config import load

    outside = {"model.name": "elsewhere", "model.base_url": "http://127.0.0.1:9/v1"}
    assert load(None, {}, defaults=outside).model.name == "elsewhere"
    assert load(None, {"model.name": "move37-grammar"}, defaults=outside).model.embedded
    file = tmp_path / "c.toml"
    file.write_text('[model]\nname = "mine"\n')
    assert load(file, {}, defaults=outside).model.base_url is None


def test_a_key_is_taken_out_of_the_environment_before_anything_is_started(monkeypatch, tmp_path):
    from move37.keys import api_key, withdraw

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOVE37_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    withdraw()
    withdraw()
    assert "OPENAI_API_KEY" not in os.environ
    assert b"sk-planted" not in subprocess.run(["env"], capture_output=True, check=True).stdout
    assert api_key() == "sk-planted"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-newer")
    assert api_key() == "sk-newer"
