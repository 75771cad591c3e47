"""The filter on system calls, for workers that are processes of this host: `seccomp.json` as a BPF program.

The profile is in Docker's format and is the only one: the engine reads it as text, the other backends get what this
module makes of it. `launcher.py` installs the program in the worker, last of all, so that nothing it does itself needs
to be allowed.

Covered: an allow-list for the architecture of this machine, arguments and error codes included; what is not on it
fails with EPERM; a call of another architecture (32-bit calls on x86-64) ends the process. A name that libseccomp does
not know, because it is older than the call, cannot be allowed and so is denied. `WITHOUT_NAMESPACES` takes more away,
for a worker that shares the host's file system, sockets and memory objects.
NOT covered: what a filter cannot see, which is everything behind a pointer: paths, socket addresses, `clone3`'s flags
(that call is refused as a whole).
"""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sandbox.errors import SandboxUnavailable

PROFILE = Path(__file__).with_name("seccomp.json")

# What a mount, a network or an ipc namespace makes harmless elsewhere, and Landlock (up to ABI 7) does not restrict:
# the owner, mode and times of the user's own files, and sockets that have a path, a session bus or docker.sock among
# them. Datagram pairs go too: `sendmsg` on one takes the path of any other socket. Memory files count in no limit but
# a cgroup's.
WITHOUT_NAMESPACES = frozenset(
    [
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "fchownat",
        "lchown",
        "utime",
        "utimes",
        "utimensat",
        "futimesat",
        "truncate",
        "socket",
        "connect",
        "bind",
        "listen",
        "accept",
        "accept4",
        "memfd_create",
    ]
)
_STREAM_PAIRS_ONLY = {"index": 1, "value": 0xF, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}


@cache
def program(backend: str, *, namespaces: bool = True) -> bytes:
    """The profile as `struct sock_filter[]`; without `namespaces`, the stricter form of it.

    Raises:
        SandboxUnavailable: libseccomp is missing, or the profile does not cover this machine's architecture.
    """
    library = _library(backend)
    profile: dict[str, Any] = json.loads(PROFILE.read_text())
    native = library.system_arch()
    covered = [getattr(library.Arch, entry["architecture"].removeprefix("SCMP_ARCH_")) for entry in profile["archMap"]]
    if native not in covered:
        raise SandboxUnavailable(
            backend, f"the filter on system calls has no rules for this architecture ({native:#x})", "Use docker."
        )
    rules = library.SyscallFilter(_action(library, profile["defaultAction"], profile.get("defaultErrnoRet")))
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    for entry in profile["syscalls"]:
        action = _action(library, entry["action"], entry.get("errnoRet"))
        for name in entry["names"]:
            arguments = list(entry.get("args", ()))
            if not namespaces and name in WITHOUT_NAMESPACES:
                continue
            if not namespaces and name == "socketpair":
                arguments.append(_STREAM_PAIRS_ONLY)
            number = library.resolve_syscall(library.Arch.NATIVE, name)
            if number >= 0:  # negative: unknown to this libseccomp, or not of this architecture
                rules.add_rule_exactly(action, number, *(_argument(library, argument) for argument in arguments))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _library(backend: str) -> ModuleType:
    try:
        import pyseccomp
    except RuntimeError as error:  # how it says that the C library is not there
        raise SandboxUnavailable(
            backend, f"system calls cannot be filtered: {error}", "Install it: apt install libseccomp2."
        ) from None
    return pyseccomp  # type: ignore[no-any-return, unused-ignore]


def _action(library: ModuleType, name: str, errno_ret: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return int(library.ERRNO(errno.EPERM if errno_ret is None else errno_ret))
    return int(getattr(library, name.removeprefix("SCMP_ACT_")))


def _argument(library: ModuleType, condition: Mapping[str, Any]) -> Any:
    """For a masked comparison the mask comes first, then the value, in Docker's format as in libseccomp's."""
    operator = getattr(library, condition["op"].removeprefix("SCMP_CMP_"))
    return library.Arg(condition["index"], operator, condition["value"], condition.get("valueTwo", 0))
