"""What goes wrong with our own machinery.

    SandboxError
    ├── SandboxUnavailable(backend, why, remedy)    this backend cannot run a job here
    │   ├── EngineUnreachable                       no Docker engine answers
    │   │   ├── EngineForbidden                     it is there, and this user may not talk to it
    │   │   └── EngineIncompatible                  it speaks no version of the API that we do
    │   ├── ImageMissing                            the engine has no sandbox image
    │   ├── ImageStale                              the image holds another evaluator than this checkout
    │   ├── BaseImageUnavailable                    the image's base cannot be pulled
    │   ├── ImageBuildFailed                        a step of the Dockerfile failed
    │   ├── RuntimeMissing                          the engine does not know the container runtime asked for
    │   ├── GpuUnavailable                          a job needs a GPU, and there is none to give
    │   └── DiskFull                                no space is left where the engine makes containers
    ├── IsolationRequired(tried)                    nothing here isolates, and the programs are not trusted
    └── ProtocolMismatch(ours, theirs)              worker and host speak different versions

What a candidate does is never one of these: it is a `JobOutcome`. A backend that breaks down in the middle of a job
is an outcome too (`infrastructure_failed`), since the job can be tried again; what no second try mends (the image is
gone, the disk is full, there is no GPU) is raised instead.
"""

from __future__ import annotations

from collections.abc import Sequence

BUILD_COMMAND = "move37 sandbox build"


class SandboxError(Exception):
    """Root of everything this package raises."""


class SandboxUnavailable(SandboxError):
    """A backend cannot run jobs on this machine; the message says why and what to do about it."""

    def __init__(self, backend: str, why: str, remedy: str) -> None:
        super().__init__(f"the {backend} sandbox cannot be used: {why}. {remedy}")
        self.backend = backend
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[SandboxUnavailable], tuple[str, str, str]]:
        return type(self), (self.backend, self.why, self.remedy)


class EngineUnreachable(SandboxUnavailable):
    """No Docker engine answers at the configured address."""


class EngineForbidden(EngineUnreachable):
    """The engine's socket is there, and this user has no right to open it."""


class EngineIncompatible(EngineUnreachable):
    """The engine and the Docker SDK have no version of the engine's API in common."""


class ImageMissing(SandboxUnavailable):
    """The engine answers, but has no sandbox image."""


class ImageStale(SandboxUnavailable):
    """The sandbox image was built from another evaluator than the one in this checkout."""


class BaseImageUnavailable(SandboxUnavailable):
    """The base image can be neither found nor pulled."""


class ImageBuildFailed(SandboxUnavailable):
    """A step of the Dockerfile failed."""


class RuntimeMissing(SandboxUnavailable):
    """The engine does not know the container runtime that was asked for."""


class GpuUnavailable(SandboxUnavailable):
    """A job needs a GPU, and none is configured, or the engine cannot hand it in."""


class DiskFull(SandboxUnavailable):
    """The engine has no space left to make a container in."""


class IsolationRequired(SandboxError):
    """Programs that nobody vouches for would have run without isolation."""

    def __init__(self, tried: Sequence[SandboxUnavailable] = ()) -> None:
        reasons = "\n".join(f"  - {unavailable}" for unavailable in tried)
        super().__init__(
            "these programs are written by a language model and must not run without isolation, "
            f"but no isolating sandbox can be used here:\n{reasons}\n"
            "Remedy one of them, or accept the risk with --sandbox process --accept-unsafe."
            if tried
            else "the process sandbox isolates nothing, and these programs are written by a language model. "
            "Use --sandbox auto, or accept the risk with --accept-unsafe."
        )
        self.tried = tuple(tried)
        self.exit_code = 4 if tried else 2  # a machine that lacks something, or a setting that cannot be honoured


class ProtocolMismatch(SandboxError):
    """The worker speaks another version of the wire protocol than this host."""

    def __init__(self, ours: int, theirs: object) -> None:
        super().__init__(
            f"the worker speaks protocol {theirs!r}, this host speaks {ours}: "
            f"the sandbox holds another evaluator. Rebuild its image with `{BUILD_COMMAND}`."
        )
        self.ours = ours
        self.theirs = theirs
