"""What this machine offers for running programs, as a list to read: `move37 doctor`.

Covered: what makes a sandbox unusable or weaker and can be seen by asking (the engine's address, rights, API version,
limits, filter, image, runtime, disk; bubblewrap; Landlock; GPUs), each with its remedy. A finding says which sandbox it
rules out, so that `usable` can tell which are left.
NOT covered: proof. Nothing runs but one harmless process in a namespace, and one empty control group is made and
removed; that a sandbox holds is tried by the self-test whenever one is opened. What the engine says about itself is
believed here, and an engine elsewhere is judged by its word alone: its disk and its devices cannot be seen from here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandbox.cgroups import Cgroups, find_cgroups
from sandbox.errors import BUILD_COMMAND, ImageMissing, ImageStale, SandboxUnavailable

Status = Literal["ok", "warning", "missing"]

ISOLATING = ("docker", "bubblewrap", "landlock")  # by strength

_TRY_TIMEOUT_S = 5.0
_MIN_FREE_GIB = 2.0  # an image takes 1 GiB, and its build as much again
_GPU_DEVICE = Path("/dev/nvidiactl")
_TOOLKIT = (
    "Install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, restart Docker."
)


@dataclass(frozen=True)
class Check:
    """One finding. `rules_out` names the sandbox that cannot be used because of it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    rules_out: str = ""


def checks() -> list[Check]:
    """All checks, in the order of the sandboxes' strength. Takes about a second; raises nothing."""
    cgroups = find_cgroups()
    return [*_docker_checks(), _bubblewrap_check(cgroups), _landlock_check(), _memory_control_check(cgroups)]


def usable(found: Sequence[Check]) -> list[str]:
    """The isolating sandboxes that no finding rules out, strongest first."""
    ruled_out = {check.rules_out for check in found}
    return [level for level in ISOLATING if level not in ruled_out]


def _docker_checks() -> list[Check]:
    from sandbox import engine as engines

    try:
        engine = engines.connect()
    except SandboxUnavailable as unavailable:
        return [_no_docker(unavailable), _gpu_check(None)]
    try:
        engine.client.api.timeout = engines.ANSWER_TIMEOUT_S
        engine.require_plain_socket()
        info: dict[str, Any] = engine.client.info()
        version = engine.client.version()
        return [
            _engine_check(info, version, spoken=engine.client.api.api_version),
            _runtime_check(version),
            _limits_check(info),
            _filter_check(info),
            _disk_check(info, local=engine.is_local),
            _image_check(engine),
            _gpu_check(info),
        ]
    except SandboxUnavailable as unavailable:
        return [_no_docker(unavailable), _gpu_check(None)]
    except engines.ENGINE_ERRORS as error:
        detail = f"it answers, then fails ({engines.brief(error)})"
        remedy = "Look into the engine's log and restart it; `docker info` must work."
        return [Check("docker engine", "missing", detail, remedy, "docker"), _gpu_check(None)]
    finally:
        engine.close()


def _no_docker(unavailable: SandboxUnavailable) -> Check:
    return Check("docker engine", "missing", unavailable.why, unavailable.remedy, "docker")


def _engine_check(info: Mapping[str, Any], version: Mapping[str, Any], *, spoken: str) -> Check:
    theirs = f"API {version['ApiVersion']}" + (f" (we speak {spoken})" if spoken != version["ApiVersion"] else "")
    restart = (
        "its containers outlive its restart (live-restore), though not the streams to them"
        if info.get("LiveRestoreEnabled")
        else "its restart ends its containers"
    )
    detail = f"version {version['Version']}, {theirs}, cgroup v{info.get('CgroupVersion', '?')}; {restart}: jobs that "
    return Check("docker engine", "ok", detail + "run then are started again")


def _runtime_check(version: Mapping[str, Any]) -> Check:
    """Mount races lead out of a container of runc before 1.2.8 and 1.3.3 (CVE-2025-31133, -52565, -52881)."""
    found = {part["Name"]: part["Version"] for part in version.get("Components") or ()}.get("runc", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not numbers:
        return Check(
            "container runtime", "warning", "its version is not known", "Keep it up to date: runc 1.3.3 or later."
        )
    if (1, 2, 8) <= numbers < (1, 3) or numbers >= (1, 3, 3):
        return Check("container runtime", "ok", f"runc {found}")
    return Check(
        "container runtime",
        "warning",
        f"runc {found} has known ways out of a container for who controls its mounts (ours are fixed by us)",
        "Update runc to 1.2.8, 1.3.3 or later.",
    )


def _limits_check(info: Mapping[str, Any]) -> Check:
    """A rootless engine on cgroup v1 accepts limits and ignores them; so does any engine whose kernel has none."""
    said = "".join(f"; it warns: {warning}" for warning in info.get("Warnings") or ())
    if "rootless" in _security_options(info) and str(info.get("CgroupVersion")) != "2":
        detail = f"a rootless engine on cgroup v1 accepts limits and ignores them{said}"
        return Check(
            "docker limits", "missing", detail, "Use a root engine, or a rootless one with cgroup v2.", "docker"
        )
    wanted = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
    lacking = [what for key, what in wanted.items() if not info.get(key)]
    if "memory" in lacking:
        detail = f"the engine cannot limit {', '.join(lacking)}, so the self-test will refuse this sandbox{said}"
        remedy = (
            "Switch the kernel's memory controller on (cgroup_enable=memory on its command line, then reboot), or use "
            "a root engine, or a rootless one with cgroup v2."
        )
        return Check("docker limits", "missing", detail, remedy, "docker")
    if lacking:
        detail = f"the engine cannot limit {', '.join(lacking)}: it would accept the limit and ignore it{said}"
        remedy = "Use a kernel with these controllers (swap: swapaccount=1 on its command line), or cgroup v2."
        return Check("docker limits", "warning", detail, remedy)
    detail = f"{', '.join(wanted.values())} can be limited{said}"
    if said:
        return Check("docker limits", "warning", detail, "See what the engine warns of: `docker info`.")
    return Check("docker limits", "ok", detail)


def _filter_check(info: Mapping[str, Any]) -> Check:
    """Without it the engine refuses to start a container that asks for a filter, as every one of ours does."""
    if "seccomp" in _security_options(info):
        return Check("docker system calls", "ok", "the engine can filter them (seccomp)")
    detail = "the engine cannot filter system calls (no seccomp), and every container of ours asks it to"
    remedy = "Use an engine and a kernel built with seccomp (CONFIG_SECCOMP_FILTER): `docker info` lists it."
    return Check("docker system calls", "missing", detail, remedy, "docker")


def _security_options(info: Mapping[str, Any]) -> set[str]:
    """Names only: the engine writes `name=seccomp,profile=default`."""
    return {str(option).partition(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}


def _disk_check(info: Mapping[str, Any], *, local: bool) -> Check:
    root = Path(str(info.get("DockerRootDir") or ""))
    try:
        free_gib = shutil.disk_usage(root).free / 2**30 if local and root.is_absolute() else None
    except OSError:  # in another machine, or in a directory closed to us
        free_gib = None
    if free_gib is None:
        return Check("docker disk", "ok", f"{root} is the engine's, and cannot be seen from here")
    detail = f"{root}, {free_gib:.1f} GiB free"
    if free_gib < _MIN_FREE_GIB:
        remedy = (
            f"Free some space: building the image needs {_MIN_FREE_GIB:g} GiB (`docker image prune` drops old ones)."
        )
        return Check("docker disk", "warning", detail, remedy)
    return Check("docker disk", "ok", detail)


def _image_check(engine: Any) -> Check:
    from sandbox import engine as engines

    try:
        image = engines.inspect_image(engine)
        engines.require_current(image)
    except ImageMissing as missing:
        return Check("sandbox image", "missing", missing.why, missing.remedy, "docker")
    except ImageStale as stale:
        return Check("sandbox image", "warning", stale.why, stale.remedy, "docker")
    except SandboxUnavailable as unavailable:
        return Check("sandbox image", "missing", unavailable.why, f"Build it with `{BUILD_COMMAND}`.", "docker")
    base = "a base made from a host's interpreter" if image.bootstrap else "a published base"
    return Check("sandbox image", "ok", f"{image.tag}, {image.size_bytes >> 20} MiB, on {base}, current")


def _gpu_check(info: Mapping[str, Any] | None) -> Check:
    """For information: only tiers that need an accelerator ask for one, and they refuse to start without."""
    device, runtime = _GPU_DEVICE.exists(), info is not None and "nvidia" in (info.get("Runtimes") or {})
    engine = "" if info is None else f"the engine has {'an' if runtime else 'no'} nvidia runtime"
    if not device:
        detail = "; ".join(
            filter(None, (f"none ({_GPU_DEVICE} does not exist)", engine, "tiers that need one are refused"))
        )
        return Check("gpu", "ok", detail, f"For those: a GPU and its driver. {_TOOLKIT}")
    if info is not None and not runtime:
        return Check("gpu", "warning", f"there is one; {engine}, so that containers cannot be given it", _TOOLKIT)
    return Check("gpu", "ok", "; ".join(filter(None, ("there is one", engine))))


def _bubblewrap_check(cgroups: Cgroups) -> Check:
    from sandbox.bubblewrap import BubblewrapSandbox

    try:
        BubblewrapSandbox()
    except SandboxUnavailable as unavailable:
        return Check("bubblewrap", "missing", unavailable.why, unavailable.remedy, "bubblewrap")
    bwrap = str(shutil.which("bwrap"))
    command = [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--", "/bin/true"]
    try:
        done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=_TRY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = "Install it again: apt install --reinstall bubblewrap."
        return Check("bubblewrap", "missing", f"bwrap cannot be run: {error}", remedy, "bubblewrap")
    if done.returncode != 0:
        detail = f"bwrap cannot make namespaces here: {done.stderr.strip()[-200:]}"
        remedy = "Allow user namespaces (in a container: run it outside; Ubuntu: an AppArmor profile for bwrap)."
        return Check("bubblewrap", "missing", detail, remedy, "bubblewrap")
    gaps = ["the number of files in its scratch directory is not limited"]
    if "cpu" not in cgroups.parents:
        gaps.append("CPU time is limited per process only")
    if cgroups.version == "none":
        gaps.append("memory is limited per process, not in total")
    return Check("bubblewrap", "ok", f"{bwrap} makes namespaces here; weaker than docker: {'; '.join(gaps)}")


def _landlock_check() -> Check:
    from sandbox.landlock import LandlockSandbox, landlock_gaps

    try:
        LandlockSandbox()
    except SandboxUnavailable as unavailable:
        return Check("landlock", "missing", unavailable.why, unavailable.remedy, "landlock")
    return Check("landlock", "ok", f"the kernel has it; weaker than bubblewrap: {'; '.join(landlock_gaps())}")


def _memory_control_check(cgroups: Cgroups) -> Check:
    """For the sandboxes without an engine: Docker's limits are its own affair."""
    if cgroups.version != "none":
        who = "root" if os.geteuid() == 0 else "an ordinary user"
        detail = f"control groups {cgroups.version} limit what all processes of a trial use together (we are {who})"
        return Check("memory control", "ok", detail)
    detail = f"{cgroups.why}: bubblewrap and landlock limit single processes only"
    remedy = (
        "Run as root, or with cgroup v2 in a delegated group: `systemd-run --user --scope -p Delegate=yes COMMAND`."
    )
    return Check("memory control", "warning", detail, remedy)
