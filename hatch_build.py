"""Builds the compiled scanner of texts (`memory/text_scan.c`) when Move37 is installed, where there is a C compiler.

Without one the installation goes on: the same keys are then made by NumPy, five times as slow, and `move37 doctor` says
so. `CC` names another compiler. The library is told which source it was built of; `memory/compiled.py` compares.
"""

import os
import shlex
import subprocess
import sysconfig
from hashlib import sha256
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("memory") / "text_scan.c"
LIBRARY = Path("memory") / "_text_scan.so"


def build(root: Path) -> str | None:
    """Build the library beside its source. What went wrong, or None."""
    source, library = root / SOURCE, root / LIBRARY
    fresh = library.with_suffix(f".{os.getpid()}")  # moved into place: a process may have the old one open
    compiler = shlex.split(os.environ.get("CC") or "cc")
    built_of = sha256(source.read_bytes()).hexdigest()
    command = [*compiler, "-O2", "-shared", "-fPIC", f'-DBUILT_OF="{built_of}"', "-o", str(fresh), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            return done.stderr.strip() or f"{compiler[0]} ended with {done.returncode}"
        fresh.replace(library)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        fresh.unlink(missing_ok=True)
    return None


class TextScannerHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = build(Path(self.root))
        if problem:
            self.app.display_warning(f"The scanner of texts is not compiled, NumPy's is used: {problem}")
            return
        build_data["artifacts"].append(f"/{LIBRARY}")
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
