"""Which GPUs this machine has, asked of the driver's own tool: this process loads no CUDA."""

from __future__ import annotations

import shutil
import subprocess

_TIMEOUT_S = 30.0  # the first call after a boot may load the driver


def present() -> tuple[str, ...]:
    """UUIDs of the NVIDIA GPUs, in the driver's order; empty where there is no tool, no driver or no GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run(
            [tool, "--query-gpu=uuid", "--format=csv,noheader"],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()
