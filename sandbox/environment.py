"""The environment of a worker: written out in full, nothing inherited.

The orchestrator's environment may hold API keys; a variable reaches a worker only by being named here.
"""

from __future__ import annotations

import hashlib
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sandbox.protocol import Limits

_WORKER_IMPORTS = ("torch", "numpy", "einops", "safetensors")


def worker_environment(limits: Limits, *, scratch: str) -> dict[str, str]:
    """Variables of every worker, whatever the backend. `scratch` is the one directory it may write to."""
    # Unset, PyTorch starts a thread per CPU of the host and fights its own quota: 4.5 times slower, and very noisy.
    threads = str(max(1, math.ceil(limits.cpus)))
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "USER": "sandbox",  # PyTorch asks for a name; the user id has no entry in any passwd file
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def package_paths() -> list[Path]:
    """The directories that hold what the worker imports, for backends that use this host's packages.

    Looked up, not imported: a worker's home is elsewhere, so a user's own site-packages would not be found.
    """
    found = (find_spec(name) for name in _WORKER_IMPORTS)
    return sorted({Path(spec.origin).parent.parent for spec in found if spec is not None and spec.origin})


def flags_hash(flags: Any) -> str:
    """A short hash of a backend's settings (anything JSON can hold), recorded with every trial."""
    return hashlib.sha256(json.dumps(flags, sort_keys=True, default=str).encode()).hexdigest()[:16]
