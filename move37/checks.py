"""`move37 doctor`: what is installed, reachable, missing, and the remedy for each. Nothing here raises.

A check that is `required` and `missing` means that a plain `move37 run` cannot work here (exit code 4): something that
every campaign needs is not there, or no sandbox isolates while the environment names a language model. Without one the
embedded grammar answers, whose programs may run in the process sandbox: then that is a warning.
"""

import importlib.metadata
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agents.embedded.notice import EMBEDDED_MODEL, NOTICES
from agents.opening import KEY_ENV_NAMES
from memory import identity
from memory.compiled import REMEDY
from memory.errors import MemoryStoreError
from move37.errors import Move37Error
from move37.keys import api_key, setting
from move37.workspace import Workspace
from sandbox import doctor as sandbox_doctor

Status = Literal["ok", "warning", "missing"]

_PACKAGES = ("torch", "langgraph", "langgraph-checkpoint-sqlite", "openai", "sqlalchemy", "alembic", "docker", "jinja2")
_MIN_FREE_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `required`: no campaign can run without it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    required: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `doctor --json`."""
        return asdict(self)


def all_checks(workspace: Workspace) -> list[Check]:
    """Every check, in the order in which a new user would meet the problem."""
    checks = [_python(), *map(_package, _PACKAGES), _text_scanner(), _machine(), _runs(workspace), _store(workspace)]
    found = sandbox_doctor.checks()
    checks.extend(Check(c.name, c.status, c.detail, c.remedy) for c in found)
    checks += [_isolation(sandbox_doctor.usable(found)), _model()]
    return checks


def _python() -> Check:
    return Check("python", "ok", platform.python_version(), required=True)


def _package(name: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed", "run `make install` in the clone", required=True)
    return Check(name, "ok", version, required=True)


def _text_scanner() -> Check:
    if identity.scanner() is None:
        return Check("text scanner", "warning", "not compiled: hashes of texts take NumPy five times as long", REMEDY)
    return Check("text scanner", "ok", "compiled")


def _machine() -> Check:
    cores = os.cpu_count() or 1
    detail = f"{cores} CPU cores, {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("machine", "warning", detail, "only Linux has been tried; sandboxes other than docker need it")
    return Check("machine", "ok", detail)


def _runs(workspace: Workspace) -> Check:
    place = workspace.runs
    existing = next(p for p in (place, *place.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        remedy = "choose another with --runs-dir or MOVE37_RUNS"
        return Check("runs directory", "missing", f"{place} is not writable", remedy, required=True)
    free_gib = shutil.disk_usage(existing).free / 2**30
    detail = f"{place}, {free_gib:.1f} GiB free"
    if free_gib < _MIN_FREE_GIB:
        return Check("runs directory", "warning", detail, "free some disk space: a full disk pauses campaigns")
    return Check("runs directory", "ok", detail)


def _store(workspace: Workspace) -> Check:
    try:
        store = workspace.open()
    except Move37Error:
        return Check("experiment memory", "ok", "none yet; `move37 run` creates it")
    except MemoryStoreError as error:
        return Check("experiment memory", "missing", str(error), "see the message", required=True)
    try:
        return Check("experiment memory", "ok", f"{len(store.campaigns())} campaigns at {store.url}")
    except MemoryStoreError as error:
        return Check("experiment memory", "missing", str(error), "see the message", required=True)
    finally:
        store.close()


def _isolation(usable: list[str]) -> Check:
    """Whether the programs of a plain `move37 run` have a place to run in."""
    if usable:
        said = f"{usable[0]}, the strongest that nothing here rules out"
        others = f"; also {', '.join(usable[1:])}" if usable[1:] else ""
        return Check("isolation", "ok", f"{said}{others}. A self-test at the start of a campaign decides")
    remedy = "follow one of the remedies above"
    try:
        model = setting("MOVE37_MODEL")
        remote = setting("MOVE37_BASE_URL") is not None or model not in {None, *NOTICES}
    except Move37Error as error:
        return Check(
            "isolation", "warning", f"no sandbox isolates, and which model is meant is unknown: {error}", remedy
        )
    if remote:
        detail = "no sandbox isolates, and the environment names a language model: its programs must not run here"
        return Check("isolation", "missing", detail, remedy, required=True)
    detail = "no sandbox isolates: only the embedded model's programs may run here, in the process sandbox"
    return Check("isolation", "warning", detail, f"for a language model {remedy}")


def _model() -> Check:
    try:
        key = api_key()
    except Move37Error as error:
        return Check("language model", "warning", str(error), "mend or remove the .env file")
    if key is None:
        detail = f"no API key; the embedded model ({EMBEDDED_MODEL}, a grammar) answers"
        return Check("language model", "ok", detail, f"for a language model set {' or '.join(KEY_ENV_NAMES)}")
    return Check("language model", "ok", "an API key is set; choose the model with --model or --base-url")
