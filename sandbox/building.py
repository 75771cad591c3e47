"""Builds the sandbox image: `move37 sandbox build`.

Two ways to the packages, chosen together with the base image:
- with a registry and an index: the base is pulled, pip installs inside the build over the network;
- `bootstrap`: for machines without a registry. The base is made from this host's interpreter (bootstrap_base.sh) and
  the wheels are downloaded by this host's pip, wherever it is configured to find them; the build itself has no
  network.

Notable: the build context is laid out in a temporary directory, so no wheel ever lies in the repository. The engine's
classic builder is used, since the SDK has no other; it caches by content, and a change in the evaluator alone
rebuilds in seconds. A bootstrap base has its own name, derived from what it is made of, and is made once.
NOT covered: proof that the default base pulls and works, where only `bootstrap` was ever run. The image's labels tell.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from docker.errors import APIError, BuildError, ImageNotFound

from sandbox import engine as engines
from sandbox.engine import ENGINE_ERRORS, IMAGE, Engine, ImageInfo
from sandbox.errors import BaseImageUnavailable, ImageBuildFailed
from sandbox.ownership import LABEL
from sandbox.source import (
    BOOTSTRAP_SCRIPT,
    DOCKERFILE,
    REQUIREMENTS,
    SOURCE_LABEL,
    TORCH,
    requirements_hash,
    source_hash,
    worker_source,
)

DEFAULT_BASE = "python:3.11-slim"
BUILD_TIMEOUT_S = 1800

OnLine = Callable[[str], None]


def build_image(
    base_image: str | None = None, bootstrap: bool = False, on_line: OnLine = print, *, tag: str = IMAGE
) -> ImageInfo:
    """Builds the image and returns what it is. Blocking, for minutes the first time. `on_line` gets the progress.

    Raises:
        EngineUnreachable: no engine to build on.
        BaseImageUnavailable: the base can be neither found nor pulled.
        ImageBuildFailed: a step failed, or the packages could not be downloaded.
    """
    engine = engines.connect()
    try:
        engine.client.api.timeout = BUILD_TIMEOUT_S
        base = _bootstrap_base(engine, on_line) if bootstrap else base_image or DEFAULT_BASE
        base_id = _require_base(engine, base, on_line)
        with tempfile.TemporaryDirectory(prefix="move37-image-") as directory:
            context = Path(directory)
            source = worker_source()  # read once: label and content agree even while somebody edits
            _lay_out(context, source)
            arguments = {"BASE_IMAGE": base}
            if bootstrap:
                _download_wheels(context / "wheelhouse", on_line)
                arguments["PIP_ARGS"] = arguments["TORCH_ARGS"] = "--no-index --find-links /build/wheelhouse"
            labels = {
                LABEL: "image",
                SOURCE_LABEL: source_hash(source),
                engines.REQUIREMENTS_LABEL: requirements_hash(),
                engines.BASE_LABEL: base_id,
                engines.BOOTSTRAP_LABEL: str(bootstrap).lower(),
            }
            _build(engine, context, tag, arguments, labels, network=None if not bootstrap else "none", on_line=on_line)
        return engines.inspect_image(engine, tag)
    finally:
        engine.close()


def _lay_out(context: Path, source: Mapping[str, bytes]) -> None:
    shutil.copyfile(DOCKERFILE, context / "Dockerfile")
    shutil.copyfile(REQUIREMENTS, context / "requirements.txt")
    shutil.copyfile(TORCH, context / "torch.txt")
    wheelhouse = context / "wheelhouse"
    wheelhouse.mkdir()
    wheelhouse.joinpath(".keep").touch()  # an empty directory would not reach the builder
    for name, content in source.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _download_wheels(wheelhouse: Path, on_line: OnLine) -> None:
    on_line("downloading wheels with this host's pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(wheelhouse)]
    for more in (["--require-hashes", "-r", str(REQUIREMENTS)], ["-r", str(TORCH)]):
        _run([*command, *more], "the wheels could not be downloaded", "Check pip's index and find-links.")


def _bootstrap_base(engine: Engine, on_line: OnLine) -> str:
    made_of = f"{sys.version} {platform.platform()}".encode() + BOOTSTRAP_SCRIPT.read_bytes()
    tag = f"move37-base:{platform.python_version()}-{hashlib.sha256(made_of).hexdigest()[:12]}"
    try:
        engine.client.images.get(tag)
        on_line(f"base image {tag} is there already")
    except ImageNotFound:
        on_line(f"making base image {tag} from {sys.executable}")
        command = ["bash", str(BOOTSTRAP_SCRIPT), tag, sys.executable]
        _run(command, "the base image could not be made from this host's interpreter", "See the message above.")
    return tag


def _run(command: list[str], why: str, remedy: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S)
    if done.returncode != 0:
        raise ImageBuildFailed("docker", f"{why}: {done.stderr.strip()[-1000:]}", remedy)


def _require_base(engine: Engine, base: str, on_line: OnLine) -> str:
    """The id of the base image, pulled if need be."""
    try:
        try:
            image = engine.client.images.get(base)
        except ImageNotFound:
            on_line(f"pulling {base}")
            repository, _, tag = base.partition(":") if "/" not in base.rpartition(":")[2] else (base, "", "")
            image = engine.client.images.pull(repository, tag=tag or "latest")
    except ENGINE_ERRORS as error:
        raise BaseImageUnavailable(
            "docker",
            f"its base image {base!r} is not on this engine and cannot be pulled ({_brief(error)})",
            "Name one that you have (--base-image, the Dockerfile's BASE_IMAGE), or make one from this interpreter: "
            "`move37 sandbox build --bootstrap`.",
        ) from error
    return str(image.id)


def _build(
    engine: Engine,
    context: Path,
    tag: str,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    network: str | None,
    on_line: OnLine,
) -> None:
    try:
        events: Iterable[dict[str, Any]] = engine.client.api.build(
            path=str(context),
            tag=tag,
            buildargs=dict(arguments),
            labels=dict(labels),
            network_mode=network,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in events:
            if text := str(event.get("stream", "")).strip():
                on_line(text)
            if "error" in event:
                raise ImageBuildFailed("docker", f"the build failed: {event['error']}", "The lines above say where.")
    except (APIError, BuildError, *ENGINE_ERRORS) as error:
        raise ImageBuildFailed("docker", f"the build failed: {_brief(error)}", "Is the engine running?") from error


def _brief(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
