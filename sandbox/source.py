"""What the image is made from, hashed: the worker's source and its requirements.

An image carries the hash of the evaluator it holds as a label; a checkout whose hash differs would send jobs to another
evaluator than the one that scores them, so such an image is stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import evaluator
from sandbox import launcher

EVALUATOR = Path(evaluator.__file__).parent
LAUNCHER = Path(launcher.__file__)
SANDBOX = LAUNCHER.parent
DOCKERFILE = SANDBOX / "Dockerfile"
REQUIREMENTS = SANDBOX / "image" / "requirements.txt"  # locked by hash
TORCH = SANDBOX / "image" / "torch.txt"
BOOTSTRAP_SCRIPT = SANDBOX / "bootstrap_base.sh"

SOURCE_LABEL = "move37.source-hash"


def worker_source() -> dict[str, bytes]:
    """Everything of ours that the image holds, by its path there. Compiled files are no source, and the stored
    measurements are for the host: measuring anew must not make an image stale."""
    files = {
        f"evaluator/{path.relative_to(EVALUATOR).as_posix()}": path.read_bytes()
        for path in EVALUATOR.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.parent.name != "measurements"
    }
    return dict(sorted(files.items())) | {"launcher.py": LAUNCHER.read_bytes()}


def source_hash(files: Mapping[str, bytes] | None = None) -> str:
    """sha256 over names and contents of `files`, or of the worker's source as it is now."""
    digest = hashlib.sha256()
    for name, content in (worker_source() if files is None else files).items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def requirements_hash() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes() + TORCH.read_bytes()).hexdigest()
