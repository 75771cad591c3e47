"""What this machine offers for running programs, as a list to read: `move37 doctor`.

Looks, and starts one harmless process in a namespace; the real proof is the self-test when a sandbox is opened.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandbox.errors import BUILD_COMMAND, ImageMissing, ImageStale, SandboxUnavailable

Status = Literal["ok", "warning", "missing"]

_TRY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    detail: str
    remedy: str = ""


def checks() -> list[Check]:
    """All checks, in the order of the sandboxes' strength. Takes about a second; raises nothing."""
    return [*_docker_checks(), _bubblewrap_check(), _memory_control_check()]


def _docker_checks() -> list[Check]:
    from sandbox import engine as engines

    try:
        engine = engines.connect()
    except SandboxUnavailable as unavailable:
        return [Check("docker engine", "missing", unavailable.why, unavailable.remedy)]
    try:
        info: dict[str, Any] = engine.client.info()
        version = engine.client.version()
        return [
            Check("docker engine", "ok", f"version {version['Version']}, cgroup v{info.get('CgroupVersion', '?')}"),
            _runtime_check(version),
            _limits_check(info),
            _image_check(engine),
        ]
    except engines.ENGINE_ERRORS as error:
        return [Check("docker engine", "missing", f"it answers, then fails: {error}", "Restart the Docker engine.")]
    finally:
        engine.close()


def _runtime_check(version: dict[str, Any]) -> Check:
    """Mount races lead out of a container of runc before 1.2.8 and 1.3.3 (CVE-2025-31133, -52565, -52881)."""
    found = {part["Name"]: part["Version"] for part in version.get("Components") or ()}.get("runc", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not numbers:
        return Check("container runtime", "warning", "its version is not known")
    if (1, 2, 8) <= numbers < (1, 3) or numbers >= (1, 3, 3):
        return Check("container runtime", "ok", f"runc {found}")
    return Check(
        "container runtime",
        "warning",
        f"runc {found} has known ways out of a container for who controls its mounts (ours are fixed by us)",
        "Update runc to 1.2.8, 1.3.3 or later.",
    )


def _limits_check(info: dict[str, Any]) -> Check:
    wanted = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
    lacking = [what for key, what in wanted.items() if not info.get(key)]
    if lacking:
        detail = f"the engine cannot limit {', '.join(lacking)}: it would accept the limit and ignore it"
        return Check("docker limits", "warning", detail, "Use a root engine, or a rootless one with cgroup v2.")
    return Check("docker limits", "ok", f"{', '.join(wanted.values())} can be limited")


def _image_check(engine: Any) -> Check:
    from sandbox import engine as engines

    try:
        image = engines.inspect_image(engine)
        engines.require_current(image)
    except ImageMissing as missing:
        return Check("sandbox image", "missing", missing.why, missing.remedy)
    except ImageStale as stale:
        return Check("sandbox image", "warning", stale.why, stale.remedy)
    except SandboxUnavailable as unavailable:
        return Check("sandbox image", "missing", unavailable.why, f"Build it with `{BUILD_COMMAND}`.")
    base = "a base made from a host's interpreter" if image.bootstrap else "a published base"
    return Check("sandbox image", "ok", f"{image.tag}, {image.size_bytes >> 20} MiB, on {base}, current")


def _bubblewrap_check() -> Check:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return Check("bubblewrap", "missing", "bwrap is not on PATH", "Install it: apt install bubblewrap.")
    command = [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--", "/bin/true"]
    try:
        done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=_TRY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("bubblewrap", "missing", f"bwrap cannot be run: {error}")
    if done.returncode == 0:
        return Check("bubblewrap", "ok", f"{bwrap} makes namespaces here")
    detail = f"bwrap cannot make namespaces here: {done.stderr.strip()[-200:]}"
    remedy = "Allow user namespaces (in a container: run it outside; Ubuntu: an AppArmor profile for bwrap)."
    return Check("bubblewrap", "missing", detail, remedy)


def _memory_control_check() -> Check:
    v2, v1 = Path("/sys/fs/cgroup/cgroup.controllers"), Path("/sys/fs/cgroup/memory")
    if (v2.is_file() and "memory" in v2.read_text().split()) or v1.is_dir():
        who = "root" if os.geteuid() == 0 else "an ordinary user"
        return Check("memory control", "ok", f"the kernel's memory controller is there (we are {who})")
    return Check("memory control", "warning", "no memory controller: only the size of single processes is limited")
